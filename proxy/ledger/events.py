"""Events as they are kept: each once, until it has been acknowledged or given up; and who works on them.

What belongs here: recording, claiming an attempt, and the lease. What does not: which events there are
(events/watcher.py), and sending them (events/delivery.py).
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from sqlalchemy import select, update

from proxy.core.events import Event
from proxy.ledger.accounts import new_id
from proxy.ledger.database import Database
from proxy.ledger.leases import Lease
from proxy.ledger.schema import accounts, events


class KeptEvent(msgspec.Struct, frozen=True):
    """An event as it is kept; times in Unix milliseconds.

    Args:
        id: ``evt_`` and a UUIDv7 in hex: the message's id at every attempt.
        account_id: whose.
        kind: what.
        subject: the month, the lot or the tier that it is about.
        threshold: per cent, or 0.
        recorded_ms: when it was found.
        body: what is sent, byte for byte.
        attempts: how often it was sent, or may have been.
        next_attempt_ms: when it is sent again; None: nothing more is tried.
        acknowledged_ms: when the receiver acknowledged it; None: it has not.
    """

    id: str
    account_id: str
    kind: str
    subject: str
    threshold: int
    recorded_ms: int
    body: str
    attempts: int
    next_attempt_ms: int | None
    acknowledged_ms: int | None


class Events:
    """The events of all accounts.

    Every method raises ``LedgerUnavailableError`` when the database does not answer.

    Attributes:
        lease: the right to work on them for all replicas.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.lease: Final = Lease(database, "events")

    async def record(self, found: Sequence[Event], now_ms: int) -> list[Event]:
        """Keep events, each once, whoever finds it and however often; return those that are new."""
        at = datetime.fromtimestamp(now_ms // 1000, UTC).isoformat().replace("+00:00", "Z")
        new = []
        async with self._database.write() as connection:
            # Sorted: two who find the same lock rows in one order, and never deadlock.
            for event in sorted(found, key=lambda event: event.identity):
                row = KeptEvent(
                    new_id("evt"),
                    *event.identity,
                    now_ms,
                    event.body(at),
                    0,
                    next_attempt_ms=now_ms,
                    acknowledged_ms=None,
                )
                made = await connection.execute(self._database.insert(events).values(msgspec.structs.asdict(row)))
                if made.rowcount:
                    new.append(event)
        return new

    async def identities(self, since_ms: int) -> set[tuple[str, str, str, int]]:
        """Return what the events are known by that were recorded since a time."""
        table = events.c
        query = select(table.account_id, table.kind, table.subject, table.threshold)
        async with self._database.read() as connection:
            rows = await connection.execute(query.where(table.recorded_ms >= since_ms))
            return {(row.account_id, row.kind, row.subject, row.threshold) for row in rows}

    async def due(self, now_ms: int, events_max: int) -> list[KeptEvent]:
        """Return events that are to be sent, the longest due first."""
        table = events.c
        query = select(events).where(table.next_attempt_ms <= now_ms).order_by(table.next_attempt_ms, table.id)
        async with self._database.read() as connection:
            return [KeptEvent(*row) for row in await connection.execute(query.limit(events_max))]

    async def claim(self, event: KeptEvent, next_attempt_ms: int) -> bool:
        """Count an attempt that is about to be made; False: somebody else makes it.

        Claimed before it is sent: who dies in between leaves the event to be tried again.
        """
        table = events.c
        async with self._database.write() as connection:
            claimed = await connection.execute(
                update(events)
                .where(
                    table.id == event.id,
                    table.attempts == event.attempts,
                    table.next_attempt_ms == event.next_attempt_ms,
                )
                .values(attempts=event.attempts + 1, next_attempt_ms=next_attempt_ms)
            )
        return claimed.rowcount == 1

    async def acknowledge(self, event_id: str, now_ms: int) -> None:
        """Note that the receiver has it."""
        await self._end(event_id, now_ms)

    async def give_up(self, event_id: str) -> None:
        """Note that nothing more is tried."""
        await self._end(event_id, None)

    async def _end(self, event_id: str, acknowledged_ms: int | None) -> None:
        async with self._database.write() as connection:
            await connection.execute(
                update(events)
                .where(events.c.id == event_id)
                .values(next_attempt_ms=None, acknowledged_ms=acknowledged_ms)
            )

    async def all(self, account_id: str | None = None, events_max: int = 1000) -> list[tuple[str, KeptEvent]]:
        """Return the latest events of an account, or of all, beside the account's name; the latest first."""
        query = select(accounts.c.name, events).join(accounts, accounts.c.id == events.c.account_id)
        if account_id is not None:
            query = query.where(events.c.account_id == account_id)
        query = query.order_by(events.c.recorded_ms.desc(), events.c.id.desc()).limit(events_max)
        async with self._database.read() as connection:
            return [(row[0], KeptEvent(*row[1:])) for row in await connection.execute(query)]
