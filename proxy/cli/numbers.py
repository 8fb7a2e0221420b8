"""The options that name limits: those of a key, and what an override changes of a tier.

What belongs here: reading and writing the numbers. What does not: the commands (keys.py, limits.py).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVar

import click

from proxy.cli.ledger_session import EUROS
from proxy.core.levels import BOUNDED, Overridable
from proxy.core.limits import UNLIMITED
from proxy.core.money import euros_text
from proxy.core.quotas import UNLIMITED_PICO

Function = TypeVar("Function", bound=Callable[..., Any])
UNLIMITED_WORD: Final = "unlimited"
Typed = int | Literal["unlimited"]

_UNITS: Final = {
    Overridable.OUTPUT_TOKENS_HOUR: "output tokens in any hour",
    Overridable.OUTPUT_TOKENS_DAY: "output tokens in any day",
    Overridable.REQUESTS: "requests in any window",
    Overridable.REQUESTS_WINDOW_S: "seconds of that window",
    Overridable.MONTHLY_LIMIT: "euros in a month",
    Overridable.CALLS_IN_FLIGHT: "calls at once",
}


class Amount(click.ParamType[Typed]):
    """A whole number above 0, with ``_`` where that helps, or an amount of euros; or the word for none."""

    name = "amount"

    def __init__(self, *, in_euros: bool, can_be_unlimited: bool) -> None:
        self._in_euros = in_euros
        self._can_be_unlimited = can_be_unlimited

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Typed:  # noqa: ANN401
        """Parse it; a bad one ends the command with exit code 2."""
        if value == UNLIMITED_WORD and self._can_be_unlimited:
            return "unlimited"
        if self._in_euros:
            return EUROS.convert(value, param, ctx)
        text = str(value)
        digits = text.replace("_", "")
        if not (text[:1].isdigit() and digits.isascii() and digits.isdigit() and int(digits) > 0):
            word = f", or {UNLIMITED_WORD!r}" if self._can_be_unlimited else ""
            self.fail(f"not a whole number above 0{word}: {value!r}", param, ctx)
        return int(digits)


def limit_options(*, can_take_away: bool, bounded: frozenset[Overridable] = BOUNDED) -> Callable[[Function], Function]:
    """Add an option for each number.

    Args:
        can_take_away: whether ``unlimited`` may be said.
        bounded: of which numbers it may not be said even so.
    """

    def add(function: Function) -> Function:
        for limit in reversed(Overridable):
            unlimited = can_take_away and limit not in bounded
            kind = Amount(in_euros=limit is Overridable.MONTHLY_LIMIT, can_be_unlimited=unlimited)
            word = f", or {UNLIMITED_WORD}" if unlimited else ""
            text = f"{_UNITS[limit].capitalize()}{word}."
            function = click.option(f"--{limit.value.replace('_', '-')}", limit.value, type=kind, help=text)(function)
        return function

    return add


def numbers_of(options: Mapping[str, Typed | None]) -> dict[Overridable, int | None]:
    """Return what was typed; None: unlimited."""
    typed = {limit: options[limit.value] for limit in Overridable}
    return {limit: None if amount == "unlimited" else amount for limit, amount in typed.items() if amount is not None}


def number_text(limit: Overridable, amount: int | None) -> str:
    """Return a number for people."""
    unlimited = UNLIMITED_PICO if limit is Overridable.MONTHLY_LIMIT else UNLIMITED
    if amount is None or amount == unlimited:
        return UNLIMITED_WORD
    return f"{euros_text(amount)} €" if limit is Overridable.MONTHLY_LIMIT else f"{amount:,}"


def number_document(limit: Overridable, amount: int | None) -> int | str | None:
    """Return a number for programs: exact euros as text, None for unlimited."""
    unlimited = UNLIMITED_PICO if limit is Overridable.MONTHLY_LIMIT else UNLIMITED
    if amount is None or amount == unlimited:
        return None
    return euros_text(amount) if limit is Overridable.MONTHLY_LIMIT else amount
