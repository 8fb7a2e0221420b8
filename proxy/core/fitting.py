"""Fitting: how much a call may still produce, and the same call with less of it. Pure.

What belongs here: the largest ``max_tokens`` that has room in every limit at once, and a prepared call lowered to it.
What does not: asking the limiter (proxy/admitting.py), and what is said of it (headers.py).
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from proxy.core.calls import PreparedCall
from proxy.core.limits import UNLIMITED, Limit, LimitState, Measure
from proxy.core.money import PICO_PER_NANO
from proxy.core.patching import patch_object
from proxy.core.pricing import PriceVersion
from proxy.core.quotas import cost_bound_pico
from proxy.core.usage import TariffClass


class _Bounds(msgspec.Struct):
    """The members of an upstream's body that bound its output."""

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: Any = None


_bounds_of: Final = msgspec.json.Decoder(_Bounds).decode


class CostLine(msgspec.Struct, frozen=True):
    """The most that a call can cost, by what it may produce: ``input_pico + tokens * token_pico``, pico-euros."""

    input_pico: int
    token_pico: int


def cost_line(call: PreparedCall, prices: PriceVersion, tariff_class: TariffClass) -> CostLine:
    """Return what a call costs at most, whatever it is lowered to."""
    tokens = call.output_tokens_max
    cost = cost_bound_pico(call, prices, tariff_class)
    one_more = msgspec.structs.replace(call, output_tokens_max=tokens + 1)
    token_pico = cost_bound_pico(one_more, prices, tariff_class) - cost
    return CostLine(cost - tokens * token_pico, token_pico)


def generations_of(call: PreparedCall) -> int:
    """Return how many texts a call may generate, each of them as long as its ``max_tokens``."""
    return call.generations or call.choices


def asked_of(call: PreparedCall) -> int:
    """Return the ``max_tokens`` that a call asks for, no more than its model can produce."""
    return call.output_tokens_max // generations_of(call)


def largest_fit(limits: Sequence[Limit], states: Sequence[LimitState], call: PreparedCall, cost: CostLine) -> int:
    """Return the largest ``max_tokens`` with which a call that holds all it may produce has room in every limit.

    Args:
        limits: what it must fit into.
        states: of each of them, as they stand.
        call: any call that generates text.
        cost: its cost.

    Returns:
        Tokens of each text that it asks for; 0: not even one has room, or the call itself has none.
    """
    fits = UNLIMITED
    for limit, state in zip(limits, states, strict=True):
        room = state.capacity - state.used - state.held
        if room < 0:  # more has been used than there is now: even what needs nothing is refused
            return 0
        if limit.counts is Measure.OUTPUT_TOKENS:
            fits = min(fits, room)
        elif limit.counts is Measure.EUROS:
            left_pico = room * PICO_PER_NANO - cost.input_pico
            if left_pico < 0:
                return 0
            if cost.token_pico:
                fits = min(fits, left_pico // cost.token_pico)
        elif not room:  # every other limit counts calls
            return 0
    return fits // generations_of(call)


def whole(limits: Sequence[Limit]) -> list[LimitState]:
    """Return the states of limits of which nothing has been used."""
    return [LimitState(limit.name, limit.capacity, 0, 0, 0) for limit in limits]


def least_of(call: PreparedCall, tokens_min: int) -> int:
    """Return the ``max_tokens`` below which a call is not to be lowered: an engine refuses less than ``min_tokens``."""
    asked = _bounds_of(call.body).min_tokens
    return max(tokens_min, asked) if type(asked) is int else tokens_min


def lowered(call: PreparedCall, max_tokens: int) -> PreparedCall:
    """Return a call that asks for less, with the upstream's copy of the body patched in place.

    Args:
        call: it bounds its output by ``max_tokens``, ``max_completion_tokens`` or both.
        max_tokens: at least 1, at most what it asks for.

    Raises:
        ApiError: 400 when the body has too many members.
    """
    bounds = _bounds_of(call.body)
    changes = {
        name: b"%d" % max_tokens
        for name, bound in (
            ("max_tokens", bounds.max_tokens),
            ("max_completion_tokens", bounds.max_completion_tokens),
        )
        if bound is not None and bound > max_tokens
    }
    return msgspec.structs.replace(
        call, body=patch_object(call.body, changes), output_tokens_max=max_tokens * generations_of(call)
    )
