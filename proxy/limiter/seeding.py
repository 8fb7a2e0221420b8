"""Seeding: filling a store that knows nothing of an account from the ledger, once however many calls wait for it.

What belongs here: asking the ledger, and the single flight around it. What does not: what the stores do with the
answer (memory.py, redis.py), and how the ledger finds it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from proxy.core.account_state import coalesce
from proxy.core.limits import Limit, LimitKind
from proxy.core.windows import Bucket
from proxy.limiter import AccountUnavailableError, Seed, SeedLoader

LOADER_TIMEOUT_S = 5.0
"""How long the ledger may take to say what an account has used."""


class LedgerUnavailableError(AccountUnavailableError):
    """The ledger does not say what an account has used."""


class Seeding:
    """Asks the ledger what accounts have used.

    Args:
        loader: asks the ledger; None: there is none, and an account that is not known has used nothing.
    """

    def __init__(self, loader: SeedLoader | None) -> None:
        self._loader = loader
        self._flights: dict[str, asyncio.Task[None]] = {}

    @property
    def has_ledger(self) -> bool:
        """Whether what a store forgets can be learned again."""
        return self._loader is not None

    async def load(self, account_id: str, limits: Sequence[Limit]) -> Seed:
        """Ask the ledger.

        Raises:
            LedgerUnavailableError: it does not answer; then no decision can be made.
        """
        if self._loader is None:
            return Seed()
        try:
            async with asyncio.timeout(LOADER_TIMEOUT_S):
                return await self._loader(account_id, limits)
        except Exception as exc:
            raise LedgerUnavailableError(f"the ledger does not answer: {type(exc).__name__}") from exc

    async def once(self, account_id: str, fill: Callable[[], Awaitable[None]]) -> None:
        """Run ``fill`` for an account, or wait for the run under way; whoever gives up waiting does not end it.

        The run under way may have been for other limits: look again afterwards.
        """
        flight = self._flights.get(account_id)
        if flight is None:
            flight = asyncio.ensure_future(_run(fill))
            self._flights[account_id] = flight
            flight.add_done_callback(lambda done: self._landed(account_id, done))
        await asyncio.shield(flight)

    def _landed(self, account_id: str, flight: asyncio.Task[None]) -> None:
        self._flights.pop(account_id, None)
        if not flight.cancelled():
            flight.exception()  # looked at, in case that all who waited have left

    async def close(self) -> None:
        """End the runs under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)


async def _run(fill: Callable[[], Awaitable[None]]) -> None:
    await fill()


def seed_buckets(limits: Sequence[Limit], seed: Seed, now_ms: int) -> dict[str, tuple[Bucket, ...]]:
    """Return the buckets that a seed gives the windows among the limits, by stored name; an empty one has none."""
    return {
        limit.stored_name: coalesce(limit, seed.windows.get(limit.stored_name, ()), now_ms)
        for limit in limits
        if limit.kind is LimitKind.WINDOW
    }
