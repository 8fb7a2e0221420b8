"""How long a file is kept: as long as its owner wants, and no longer than any. Pure.

What belongs here: the documented bounds, of uploads (``expires_after``) and of a batch's results
(``output_expires_after``), and the instant that follows. What does not: how either is written (uploading.py,
creating.py).
"""

from typing import Final

EXPIRES_S_MIN: Final = 3600
EXPIRES_S_MAX: Final = 2_592_000
"""The documented bounds: an hour and 30 days (OpenAI's API reference, Upload file and Create batch)."""
ANCHOR: Final = "created_at"
"""Seconds count from the creation of the file."""
SECONDS_PROBLEM: Final = f"must be an integer between {EXPIRES_S_MIN} and {EXPIRES_S_MAX}"

_DAY_MS: Final = 86_400_000


def is_span(seconds: object) -> bool:
    """Whether it is a whole number of seconds within the bounds."""
    return type(seconds) is int and EXPIRES_S_MIN <= seconds <= EXPIRES_S_MAX


def expiry_ms(created_ms: int, days: int, wanted_s: int | None) -> int | None:
    """Return when a file is deleted, Unix milliseconds; None: when its owner does it.

    Args:
        created_ms: when it was made.
        days: how long files are kept; 0: until their owner deletes them.
        wanted_s: what its owner wants; None: as long as can be.
    """
    spans_ms = [days * _DAY_MS] if days else []
    if wanted_s is not None:
        spans_ms.append(wanted_s * 1000)
    return created_ms + min(spans_ms) if spans_ms else None
