"""The limiter: one contract, several stores.

What belongs here: the contract. The rules that it keeps are written in ``proxy.core.limits``.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Protocol

import msgspec

from proxy.core.limits import Admission, Growth, Limit


class Seed(msgspec.Struct, frozen=True):
    """What the ledger knows of an account, for a store that knows nothing of it (rule 1 of the design: derived state).

    Args:
        spent: settled amount by (stored name of a budget, period), nano-euros.
        windows: per stored name of a window, (stamp in Unix ms, amount) in rising order of time; older ones than the
            window are ignored.
        calls: ids of calls that are counted in the above, as many of the latest as the ledger cares to name: when a
            store has lost its data, their settlements may still be on the way, and are not counted again.
    """

    spent: dict[tuple[str, str], int] = {}
    windows: dict[str, tuple[tuple[int, int], ...]] = {}
    calls: tuple[str, ...] = ()


SeedLoader = Callable[[str, Sequence[Limit]], Awaitable[Seed]]
"""Given an account id and its limits, what the ledger says has been used."""


class LimiterUnavailableError(Exception):
    """The store does not answer in time; nothing is known about what it did."""


class AccountUnavailableError(LimiterUnavailableError):
    """The store is there, but nothing can be decided about this account: others are not concerned."""


class Limiter(Protocol):
    """Holds every account to its limits. See ``proxy.core.limits`` for the rules.

    ``limits`` and the amounts beside it run in parallel: ``needs[i]`` is what the call may use of ``limits[i]``.
    Every verb raises ``LimiterUnavailableError`` when the store is away.
    """

    async def admit(self, account_id: str, call_id: str, limits: Sequence[Limit], needs: Sequence[int]) -> Admission:
        """Take every limit's need, or none. The hold lives ``hold_ttl_ms`` (a property of the limiter)."""
        ...

    async def settle(self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]) -> None:
        """Replace the hold by what was really used. Amounts of admission-stamped limits are ignored (rule 2)."""
        ...

    def settle_soon(
        self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]
    ) -> Coroutine[None, None, None] | None:
        """Settle, as ``settle``, without making the caller wait.

        Returns:
            What is left to be awaited, if it could not be done or sent at once; None: nothing. A task for each call
            costs as much as settling it.
        """
        ...

    async def record(self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]) -> None:
        """Count a call, once however often it is said: all its amounts, those of admission-stamped limits too.

        A call that the store does hold is settled instead; one that has expired there is corrected.
        """
        ...

    async def record_all(self, account_id: str, limits: Sequence[Limit], amounts: Mapping[str, Sequence[int]]) -> None:
        """Count several calls of an account, as ``record``: amounts by call id. A failure leaves some of them counted.

        A task for each call costs as much as recording it.
        """
        ...

    async def extend(self, account_id: str, call_id: str, limits: Sequence[Limit], known: Sequence[int]) -> bool:
        """Heartbeat: renew the hold's expiry and note the amounts known so far. False when the hold is gone."""
        ...

    async def grow(self, account_id: str, call_id: str, limits: Sequence[Limit], wants: Sequence[int]) -> Growth:
        """Raise the holds of a call in flight to ``wants``, all of them or none (rule 9)."""
        ...

    async def release(self, account_id: str, call_id: str, limits: Sequence[Limit]) -> None:
        """Give the whole hold back: the call used nothing."""
        ...

    async def peek(self, account_id: str, limits: Sequence[Limit]) -> Admission:
        """Return the states without taking anything."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of connections and tasks."""
        ...


class RecordingLimiter(Limiter, Protocol):
    """A limiter that others hand calls over to: those admitted elsewhere while it was away."""

    def part_of(self, account_id: str) -> str:
        """Name the part of the store that has the account: parts go away and return each on its own.

        Of a store in one piece, and of one of which nothing is known yet, the name is empty.
        """
        ...

    def parts(self) -> frozenset[str]:
        """Name all of them."""
        ...

    async def ping(self, part: str = "") -> None:
        """Return when the store answers, or this part of it: a part that has nothing any more does."""
        ...
