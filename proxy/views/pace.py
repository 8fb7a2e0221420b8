"""How often an account may look into the ledger, so that looking costs nobody else anything.

What belongs here: a bucket of looks for each account, in this process. What does not: limits of calls (limiter/).
"""

from collections.abc import Callable
from typing import Final

BURST: Final = 20
PER_S: Final = 5
ACCOUNTS_KEPT_MAX: Final = 4096
_LOOK: Final = 1_000_000
"""In millionths: at ``PER_S`` looks a second a microsecond brings ``PER_S`` of them."""


class Pace:
    """Gives each account ``BURST`` looks, and ``PER_S`` more a second.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spent: dict[str, tuple[int, int]] = {}  # missing from a full bucket, as of (microseconds)

    def take(self, account_id: str) -> int:
        """Take a look; return 0, or if there is none left, in how many milliseconds there will be."""
        now_us = int(self._clock() * 1_000_000)
        spent, at_us = self._spent.get(account_id, (0, now_us))
        spent = max(0, spent - (now_us - at_us) * PER_S) + _LOOK
        if spent > BURST * _LOOK:
            return -(-(spent - BURST * _LOOK) // (PER_S * 1000))
        if len(self._spent) >= ACCOUNTS_KEPT_MAX:
            self._forget_full(now_us)
        self._spent[account_id] = (spent, now_us)
        return 0

    def _forget_full(self, now_us: int) -> None:
        self._spent = {
            account_id: (spent, at_us)
            for account_id, (spent, at_us) in self._spent.items()
            if spent > (now_us - at_us) * PER_S
        }
