"""The wall clock, in the one unit that the project uses. Rooms take it as an argument, so that tests can turn it."""

import time
from typing import Final

_NS_PER_MS: Final = 1_000_000


def unix_ms() -> int:
    """Return Unix time in whole milliseconds."""
    return time.time_ns() // _NS_PER_MS
