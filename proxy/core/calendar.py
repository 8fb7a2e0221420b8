"""Months and days as an account sees them: in its own time zone, daylight-saving time included.

What belongs here: the conversions between Unix milliseconds and the names of days and months, and the
instants at which they begin and end. What does not: a clock. Differences are taken in UTC, so a month is as
long as it really is: in Paris October 2026 has 745 hours, March 2027 743.
"""

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

_MONTH: Final = re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


@lru_cache(maxsize=512)
def zone(timezone: str) -> ZoneInfo:
    """Return the zone of an IANA name.

    Raises:
        ValueError: no such zone is known.
    """
    try:
        return ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as exc:  # a folder of zones ("Europe") is an OSError
        raise ValueError(f"not a time zone: {timezone!r}") from exc


def day_of(now_ms: int, timezone: str) -> str:
    """Return the day, ``YYYY-MM-DD``, that it is in the zone at this time (Unix milliseconds)."""
    return datetime.fromtimestamp(now_ms // 1000, zone(timezone)).date().isoformat()


def month_of(now_ms: int, timezone: str) -> str:
    """Return the month, ``YYYY-MM``, that it is in the zone at this time (Unix milliseconds)."""
    return day_of(now_ms, timezone)[:7]


def is_month(text: str) -> bool:
    """Whether a text is a month, ``YYYY-MM``."""
    return _MONTH.fullmatch(text) is not None


def month_after(month: str) -> str:
    """Return the month that follows, ``YYYY-MM``.

    Raises:
        ValueError: not a month.
    """
    year, number = _parts(month)
    return f"{year + number // 12:04d}-{number % 12 + 1:02d}"


def month_bounds_ms(month: str, timezone: str) -> tuple[int, int]:
    """Return the first instant of a month and of the month after it, in Unix milliseconds.

    Raises:
        ValueError: not a month, or no such zone.
    """
    year, number = _parts(month)
    next_year, next_number = _parts(month_after(month))
    return _midnight_ms(date(year, number, 1), timezone), _midnight_ms(date(next_year, next_number, 1), timezone)


def day_bounds_ms(day: str, timezone: str) -> tuple[int, int]:
    """Return the first instant of a day, ``YYYY-MM-DD``, and of the day after it, in Unix milliseconds.

    Raises:
        ValueError: not a day, or no such zone.
    """
    start = date.fromisoformat(day)
    return _midnight_ms(start, timezone), _midnight_ms(start + timedelta(days=1), timezone)


def _parts(month: str) -> tuple[int, int]:
    if not is_month(month):
        raise ValueError(f"not a month (YYYY-MM): {month!r}")
    return int(month[:4]), int(month[5:])


def _midnight_ms(day: date, timezone: str) -> int:
    # fold=0: where midnight comes twice the first one counts, and where it is skipped the offset before the
    # change lands exactly on the change, which is then the first instant of the day.
    local = datetime(day.year, day.month, day.day, tzinfo=zone(timezone))
    return (local.astimezone(UTC) - _EPOCH) // _MILLISECOND
