"""Which month it is for an account, remembered between calls.

What belongs here: a small memory in front of ``core.calendar``, so that the hot path does not compute it. What does
not: the limits of the month (allowances.py).
"""

import msgspec

from proxy.core.calendar import day_bounds_ms, day_of, month_bounds_ms


class Month(msgspec.Struct, frozen=True):
    """A billing month and day in a time zone: names, and Unix milliseconds of their ends."""

    name: str
    day: str
    ends_ms: int
    day_starts_ms: int
    day_ends_ms: int


class Months:
    """Remembers the present month of every time zone in use."""

    def __init__(self) -> None:
        self._by_zone: dict[str, Month] = {}

    def at(self, now_ms: int, timezone: str) -> Month:
        """Return the month and day that it is in a zone."""
        month = self._by_zone.get(timezone)
        if month is None or not month.day_starts_ms <= now_ms < month.day_ends_ms:
            day = day_of(now_ms, timezone)
            day_starts_ms, day_ends_ms = day_bounds_ms(day, timezone)
            _, ends_ms = month_bounds_ms(day[:7], timezone)
            month = self._by_zone[timezone] = Month(day[:7], day, ends_ms, day_starts_ms, day_ends_ms)
        return month
