"""What accounts were charged since the start, for those few that become series.

What belongs here: choosing the accounts that are shown. What does not: what an account owes (the ledger
knows).
"""

from collections.abc import Collection, Iterable
from heapq import nlargest
from typing import Final

ACCOUNTS_KEPT_MAX: Final = 10_000
"""Accounts whose sum is kept to find the largest; beyond it the smaller half is forgotten and starts again from
zero, which Prometheus reads as a restart of that counter."""


def _sum_of(item: tuple[str, int]) -> int:
    return item[1]


class AccountSums:
    """Pico-euros by account.

    Args:
        listed: accounts that are shown, and no others; None: those with the largest sums.
        shown_max: how many are shown when none are listed.
    """

    __slots__ = ("_listed", "_pico", "_shown_max")

    def __init__(self, listed: Collection[str] | None, shown_max: int) -> None:
        self._listed = None if listed is None else frozenset(listed)
        self._shown_max = shown_max
        self._pico: dict[str, int] = {}

    def add(self, account: str, cost_pico: int) -> None:
        """Add a charge."""
        sums = self._pico
        if account not in sums:
            if self._listed is not None and account not in self._listed:
                return
            if len(sums) >= ACCOUNTS_KEPT_MAX:
                self._pico = sums = dict(nlargest(ACCOUNTS_KEPT_MAX // 2, sums.items(), key=_sum_of))
        sums[account] = sums.get(account, 0) + cost_pico

    def shown(self) -> Iterable[tuple[str, int]]:
        """Return (account, pico-euros) of those that are shown."""
        if self._listed is None:
            return nlargest(self._shown_max, self._pico.items(), key=_sum_of)
        return self._pico.items()
