"""A settlement that has been written to Redis, and what its answer means.

What belongs here: which answers say "done". What does not: what is owed, and when it is paid (debts.py).
"""

from collections.abc import Sequence
from typing import Protocol

from proxy.core.limits import Limit
from proxy.limiter.debts import Debt
from proxy.limiter.wire import Answer


class Teller(Protocol):
    """Whoever wrote it."""

    def told(self, told: "Told", *, done: bool) -> None:
        """It has been answered, or never will be."""

    def owe(self, debt: Debt) -> None:
        """Keep what Redis has to be told. Raises LimiterUnavailableError when more is owed than can be kept."""


def is_done(answer: Answer) -> bool:
    """Return whether a settlement has been done; else the account is not known, or its Redis cannot take it now."""
    return isinstance(answer, int) and answer >= 0


class Told:
    """Waits for Redis to confirm a settlement, at a fraction of what a future and its callback cost."""

    __slots__ = ("_account_id", "_amounts", "_call_id", "_epoch", "_limiter", "_limits")

    def __init__(
        self,
        limiter: Teller,
        account_id: str,
        call_id: str,
        limits: tuple[Limit, ...],
        amounts: Sequence[int],
        epoch: int,
    ) -> None:
        self._limiter = limiter
        self._account_id = account_id
        self._call_id = call_id
        self._limits = limits
        self._amounts = amounts
        self._epoch = epoch

    def answered(self, answer: Answer) -> None:
        """See ``proxy.limiter.wire.Listener``: whatever else is answered than "done" is owed."""
        self._limiter.told(self, done=is_done(answer))

    def unanswered(self) -> None:
        """See ``proxy.limiter.wire.Listener``."""
        self._limiter.told(self, done=False)

    def owe(self) -> None:
        """Let the limiter owe it."""
        self._limiter.owe(
            Debt(self._account_id, self._call_id, self._limits, tuple(self._amounts), self._epoch),
        )
