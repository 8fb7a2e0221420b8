"""Comparing with what goes on counting: how the ledger is read beside it, and when to look again.

What belongs here: reading outboxes and ledger in the right order, and patience. What does not: the comparisons.

A counter is read before the ledger and after it, so the entries lie between the two readings whatever goes on. What is
on its way for longer (from another machine's outbox, say) is waited for: only what differs every time has drifted.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import msgspec

from proxy.ledger.location import Location
from proxy.ledger.totals import Served, Source, SpentSums, Totals
from proxy.ledger.waiting import WAITING_MAX, Waiting, read_outboxes
from proxy.reconciling.findings import Finding, Status

LOOKS: Final = 4
PAUSE_S: Final = 1.0
"""How often, and how long apart, a comparison that differs is made: entries reach the ledger within a second."""


class BehindError(Exception):
    """So many entries wait for the ledger that nothing can be compared with it."""


class Patience(msgspec.Struct, frozen=True):
    """How often a comparison is made until it agrees, and how long apart."""

    looks: int = LOOKS
    pause_s: float = PAUSE_S


async def until_agreed(attempt: Callable[[], Awaitable[Finding]], patience: Patience) -> Finding:
    """Make a comparison until it finds no drift, or often enough."""
    finding = await attempt()
    for _ in range(patience.looks - 1):
        if finding.status is not Status.DRIFTS:
            break
        await asyncio.sleep(patience.pause_s)
        finding = await attempt()
    return finding


class Entries:
    """The truth beside which others are held: the ledger, and what waits for it in this machine's outboxes.

    Every method raises ``BehindError``, and ``LedgerUnavailableError`` and ``OutboxError`` when it cannot be read.

    Args:
        totals: sums the ledger.
        location: where the outboxes are.
    """

    def __init__(self, totals: Totals, location: Location) -> None:
        self._totals = totals
        self._location = location
        self.set_aside = 0
        """Entries that the ledger can never take, as of the last reading."""

    async def spent(self, months: Collection[str], ever: Collection[str]) -> SpentSums:
        """See ``Totals.spent``."""
        waiting = await self._waiting()
        return await self._totals.spent(months, ever, waiting.settled, waiting.noted)

    async def served_since(self, since_ms: Collection[int]) -> dict[int, dict[Source, Served]]:
        """See ``Totals.served_since``."""
        waiting = await self._waiting()
        return await self._totals.served_since(since_ms, waiting.settled)

    async def _waiting(self) -> Waiting:
        # Outboxes first: what is shipped in between is then found in the ledger, and counted once.
        waiting = await read_outboxes(self._location.outboxes())
        if not waiting.is_whole:
            raise BehindError(f"more than {WAITING_MAX:,} entries wait in the outboxes: the ledger is behind")
        self.set_aside = len(waiting.set_aside)
        return waiting
