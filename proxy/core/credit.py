"""Credit: which lot pays for what, worked out from lots and usage alone. Pure.

What belongs here: the order in which prepaid euros are drawn down. What does not: where lots and usage are kept
(ledger/credit.py), and what an account may still spend (billing/room.py).

Nothing that is drawn is ever stored: the same lots and the same usage give the same answer, so it can be made again at
any time, and a call that comes late to the ledger finds its place.

1. A lot pays for what is used from the first day of the month in which it was bought (nothing of that month has been
   invoiced yet) to its last day, both in the account's time zone. A call belongs to the day of its admission.
2. Days are worked off in order. Of the lots that may pay, the one that ends first pays first; of those that end
   together, the one bought first. A lot without an end comes last.
3. What no lot pays for stays uncovered: it is invoiced at the end of its month.
4. What a lot still holds after its last day lapses.
"""

import heapq
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from proxy.core.calendar import day_of

NO_END: Final = "9999-99-99"
"""Stands for the last day of a lot that has none: later than every day."""


class Lot(msgspec.Struct, frozen=True):
    """Prepaid euros that were bought at once.

    Args:
        id: unique.
        amount_pico: bought, more than 0.
        first_day: from which day on it pays, ``YYYY-MM-DD``.
        last_day: until which day it pays; ``NO_END``: it does not end.
    """

    id: str
    amount_pico: int
    first_day: str
    last_day: str = NO_END


class Drawdown(msgspec.Struct, frozen=True):
    """What has been drawn from some lots.

    Args:
        lots: in the order in which they were bought.
        left: beside each of them, what it still holds, lapsed or not, pico-euros.
        draws: pico-euros by (month, lot id).
        used: pico-euros by month.
        uncovered: of those, what no lot pays for; months without any are left out.
    """

    lots: tuple[Lot, ...]
    left: tuple[int, ...]
    draws: dict[tuple[str, str], int]
    used: dict[str, int]
    uncovered: dict[str, int]

    @property
    def paid_pico(self) -> int:
        """Everything that was bought."""
        return sum(lot.amount_pico for lot in self.lots)

    @property
    def drawn_pico(self) -> int:
        """Everything that was drawn."""
        return sum(self.draws.values())

    @property
    def used_pico(self) -> int:
        """Everything that was used, covered or not."""
        return sum(self.used.values())

    def lapsed_pico(self, today: str) -> int:
        """Return what has lapsed before a day."""
        return sum(left for lot, left in zip(self.lots, self.left, strict=True) if lot.last_day < today)

    def balance_pico(self, today: str) -> int:
        """Return what can still be drawn on a day: paid, less drawn, less lapsed."""
        return sum(left for lot, left in zip(self.lots, self.left, strict=True) if lot.last_day >= today)

    def months(self, today: str) -> tuple["MonthOfCredit", ...]:
        """Return every month in which something happened, in order."""
        bought: dict[str, int] = {}
        lapsed: dict[str, int] = {}
        drawn: dict[str, int] = {}
        for lot, left in zip(self.lots, self.left, strict=True):
            bought[lot.first_day[:7]] = bought.get(lot.first_day[:7], 0) + lot.amount_pico
            if left and lot.last_day < today:
                lapsed[lot.last_day[:7]] = lapsed.get(lot.last_day[:7], 0) + left
        for (month, _), amount in self.draws.items():
            drawn[month] = drawn.get(month, 0) + amount
        found, balance = [], 0
        for month in sorted({*bought, *lapsed, *self.used}):
            change = bought.get(month, 0) - drawn.get(month, 0) - lapsed.get(month, 0)
            found.append(
                MonthOfCredit(
                    month,
                    balance,
                    bought.get(month, 0),
                    drawn.get(month, 0),
                    lapsed.get(month, 0),
                    balance + change,
                    self.uncovered.get(month, 0),
                )
            )
            balance += change
        return tuple(found)


class MonthOfCredit(msgspec.Struct, frozen=True):
    """A month of an account's credit, pico-euros: what it had before, what came and went, and what was left.

    ``invoiced_pico`` is what was used beyond the credit.
    """

    month: str
    before_pico: int
    bought_pico: int
    drawn_pico: int
    lapsed_pico: int
    after_pico: int
    invoiced_pico: int


def draw_down(lots: Sequence[Lot], used_by_day: Mapping[str, int]) -> Drawdown:
    """Draw usage from lots, by the rules of this module.

    Args:
        lots: in the order in which they were bought.
        used_by_day: pico-euros by day, ``YYYY-MM-DD``.
    """
    left = [lot.amount_pico for lot in lots]
    draws: dict[tuple[str, str], int] = {}
    used: dict[str, int] = {}
    uncovered: dict[str, int] = {}
    to_begin = sorted(range(len(lots)), key=lambda place: lots[place].first_day, reverse=True)
    paying: list[tuple[str, int]] = []  # a heap of (last day, place)
    for day in sorted(used_by_day):
        month, rest = day[:7], used_by_day[day]
        used[month] = used.get(month, 0) + rest
        while to_begin and lots[to_begin[-1]].first_day <= day:
            place = to_begin.pop()
            heapq.heappush(paying, (lots[place].last_day, place))
        while rest and paying:
            last_day, place = paying[0]
            if last_day < day or not left[place]:
                heapq.heappop(paying)
                continue
            taken = min(rest, left[place])
            left[place] -= taken
            rest -= taken
            key = (month, lots[place].id)
            draws[key] = draws.get(key, 0) + taken
        if rest:
            uncovered[month] = uncovered.get(month, 0) + rest
    return Drawdown(tuple(lots), tuple(left), draws, used, uncovered)


def lot_of(lot_id: str, amount_pico: int, bought_ms: int, expires_ms: int | None, timezone: str) -> Lot:
    """Return a lot as an account in a time zone may draw it.

    Args:
        lot_id: its id.
        amount_pico: bought.
        bought_ms: when, Unix milliseconds.
        expires_ms: the instant at which its last day is over; one in the middle of a day counts for all of it. None: it
            does not end.
        timezone: IANA name.
    """
    last_day = NO_END if expires_ms is None else day_of(expires_ms - 1, timezone)
    return Lot(lot_id, amount_pico, f"{day_of(bought_ms, timezone)[:7]}-01", last_day)
