"""Lines of usage: what was used, one line an item, in the order in which people read them.

What belongs here: lines from sums of entries. What does not: lines of credit (drawing.py), and what a line is called
(billing/documents/).

A line is rounded by itself, half up, and once: quantity times price is exact until then. What rounding added or took is
stated on the document (``Invoice.rounding_pico``).
"""

from calendar import monthrange
from collections.abc import Iterable
from typing import Any, Final

from msgspec.structs import replace

from proxy.core.invoicing.document import Line, LineKind, UsageItem
from proxy.core.invoicing.errors import FactsError
from proxy.core.invoicing.facts import Used
from proxy.core.money import cents_half_up
from proxy.core.usage import TariffClass, UsageType

_TYPES: Final = {usage_type: place for place, usage_type in enumerate(UsageType)}
_CLASSES: Final = {tariff_class: place for place, tariff_class in enumerate(TariffClass)}


def month_days(month: str) -> tuple[str, str]:
    """Return the first and the last day of a month, ``YYYY-MM-DD``."""
    return f"{month}-01", f"{month}-{monthrange(int(month[:4]), int(month[5:]))[1]}"


def usage_lines(month: str, used: Iterable[Used], late: Iterable[Used]) -> tuple[Line, ...]:
    """Return the lines of a month, numbered from 1: its own by item, then what came late by day and item.

    Raises:
        FactsError: a sum is not its quantity times its price, or is dated where it should not be.
    """
    first_day, last_day = month_days(month)
    own, dated = _sums(used), _sums(late)
    if any(day for day, _ in own) or not all(day and day < first_day for day, _ in dated):
        raise FactsError(f"sums of {month} are dated, or late ones are not of a day before it")
    lines = [
        _line(LineKind.USAGE, first_day, last_day, item, own["", item])
        for _, item in sorted(own, key=lambda key: _rank(key[1]))
    ]
    lines += [
        _line(LineKind.LATE, day, day, item, dated[day, item])
        for day, item in sorted(dated, key=lambda key: (key[0], _rank(key[1])))
    ]
    return numbered_lines(lines)


def numbered_lines(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Return lines with their numbers, from 1."""
    return tuple(replace(line, number=number) for number, line in enumerate(lines, 1))


def _sums(used: Iterable[Used]) -> dict[tuple[str, UsageItem], int]:
    """Return quantities by day and item, what was used of nothing left out."""
    found: dict[tuple[str, UsageItem], int] = {}
    for each in used:
        if each.quantity < 0 or each.cost_pico != each.quantity * each.item.unit_price_pico:
            raise FactsError(f"{each.quantity} of {each.item} are not worth {each.cost_pico} pico-euros")
        if each.quantity:
            key = (each.day, each.item)
            found[key] = found.get(key, 0) + each.quantity
    return found


def _rank(item: UsageItem) -> tuple[Any, ...]:
    """Return what lines are sorted by."""
    return (
        item.model,
        _CLASSES[item.tariff_class],
        _TYPES[item.usage_type],
        item.price_version,
        item.unit_price_pico,
    )


def _line(kind: LineKind, first_day: str, last_day: str, item: UsageItem, quantity: int) -> Line:
    exact_pico = quantity * item.unit_price_pico
    return Line(0, kind, first_day, last_day, quantity, exact_pico, cents_half_up(exact_pico), item)
