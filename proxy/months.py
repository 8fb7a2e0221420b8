"""Which month it is for an account, and the limits that follow, remembered between calls.

What belongs here: a small cache in front of ``core.calendar`` and ``core.quotas``, so that the hot path computes
neither.
"""

import msgspec

from proxy.core.calendar import day_bounds_ms, day_of, month_bounds_ms
from proxy.core.catalogue import Tier
from proxy.core.quotas import Allowance, limits_of

_REMEMBERED_MAX = 512


class Month(msgspec.Struct, frozen=True):
    """A billing month and day in a time zone: names, and Unix milliseconds of their ends."""

    name: str
    day: str
    ends_ms: int
    day_starts_ms: int
    day_ends_ms: int


class Months:
    """Remembers the present month of every time zone in use, and the limits of every tier in it."""

    def __init__(self) -> None:
        self._by_zone: dict[str, Month] = {}
        self._limits: dict[tuple[str, str, int], tuple[Tier, Allowance]] = {}

    def at(self, now_ms: int, timezone: str) -> Month:
        """Return the month and day that it is in a zone."""
        month = self._by_zone.get(timezone)
        if month is None or not month.day_starts_ms <= now_ms < month.day_ends_ms:
            day = day_of(now_ms, timezone)
            day_starts_ms, day_ends_ms = day_bounds_ms(day, timezone)
            _, ends_ms = month_bounds_ms(day[:7], timezone)
            month = self._by_zone[timezone] = Month(day[:7], day, ends_ms, day_starts_ms, day_ends_ms)
        return month

    def allowance(self, tier: Tier, month: Month) -> Allowance:
        """Return the limits of a tier in a month, and the headers that show them."""
        key = (tier.id, month.name, month.ends_ms)
        remembered = self._limits.get(key)
        if remembered is None or remembered[0] is not tier:  # a reload brings new tiers under the old ids
            if len(self._limits) >= _REMEMBERED_MAX:
                self._limits.clear()
            remembered = self._limits[key] = (tier, Allowance.of(limits_of(tier, month.name, month.ends_ms)))
        return remembered[1]
