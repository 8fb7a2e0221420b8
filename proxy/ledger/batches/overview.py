"""Batches as operators see them: of every account, how deep the queue is, and what one has cost so far.

What belongs here: reading. What does not: what their owners ask (batches.py), and who runs what (leasing.py).
"""

from typing import Final

import msgspec
from sqlalchemy import func, select

from proxy.core.batches.ids import call_id_of
from proxy.core.batches.objects import ENDED, Batch, BatchStatus
from proxy.core.usage import TariffClass
from proxy.ledger.batch_schema import batches
from proxy.ledger.batches.rows import batch_of
from proxy.ledger.database import Database
from proxy.ledger.schema import accounts, entries

UNFINISHED: Final = tuple(status for status in BatchStatus if status not in ENDED)
"""Statuses that batches leave again."""
_UNFINISHED: Final = [status.value for status in UNFINISHED]
_BEFORE_THEIR_END: Final = frozenset({BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS})


class NamedBatch(msgspec.Struct, frozen=True):
    """A batch, and the name of its account."""

    account: str
    batch: Batch


class Depth(msgspec.Struct, frozen=True):
    """What there is to do, for all processes together.

    Args:
        batches: how many have not ended, by status; every such status is there.
        lines: how many of those in progress have not ended, by model.
        oldest_ms: when the oldest was created that waits to be validated or is in progress; None: there is none.
    """

    batches: dict[str, int]
    lines: dict[str, int]
    oldest_ms: int | None


class Overview:
    """Reads batches.

    Every method raises ``LedgerUnavailableError`` when the database does not answer.

    Args:
        database: migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def latest(self, account_id: str | None, statuses: frozenset[BatchStatus], most: int) -> list[NamedBatch]:
        """Return the latest batches of all accounts or one, in any status or in those given, newest first."""
        query = select(batches, accounts.c.name.label("account")).join(accounts, accounts.c.id == batches.c.account_id)
        if account_id is not None:
            query = query.where(batches.c.account_id == account_id)
        if statuses:
            query = query.where(batches.c.status.in_(sorted(status.value for status in statuses)))
        query = query.order_by(batches.c.created_ms.desc(), batches.c.id.desc()).limit(most)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings()
            return [NamedBatch(row["account"], batch_of(dict(row))) for row in rows]

    async def one(self, batch_id: str) -> NamedBatch | None:
        """Return the batch of an id, whoever's it is; None: there is none."""
        query = select(batches, accounts.c.name.label("account")).join(accounts, accounts.c.id == batches.c.account_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query.where(batches.c.id == batch_id))).mappings().one_or_none()
        return None if row is None else NamedBatch(row["account"], batch_of(dict(row)))

    async def cost_pico(self, batch: Batch) -> int:
        """Return what the lines of a batch have cost so far, by the entries alone, in pico-euros.

        Its lines were admitted at its creation; where other batches were too, call ids tell whose an entry is.
        """
        table = entries.c
        query = select(table.call_id, table.cost_pico).where(
            table.account_id == batch.account_id,
            table.settled_ms >= batch.created_ms,
            table.admitted_ms == batch.created_ms,
            table.tariff_class == TariffClass.BATCH.value,
        )
        own = {call_id_of(batch.id, batch.created_ms, line) for line in range(batch.total)}
        async with self._database.read() as connection:
            return sum(cost_pico for call_id, cost_pico in await connection.execute(query) if call_id in own)

    async def unfinished_of(self, month: str) -> dict[str, int]:
        """Return how many batches of a billing month have not ended, by account id: their lines are still to come."""
        table = batches.c
        query = (
            select(table.account_id, func.count())
            .where(table.month == month, table.status.in_(_UNFINISHED))
            .group_by(table.account_id)
        )
        async with self._database.read() as connection:
            return {account_id: int(count) for account_id, count in await connection.execute(query)}

    async def depth(self) -> Depth:
        """Return what there is to do."""
        table = batches.c
        query = (
            select(
                table.status,
                table.model,
                func.count(),
                func.sum(table.total - table.completed - table.failed),
                func.min(table.created_ms),
            )
            .where(table.status.in_(_UNFINISHED))
            .group_by(table.status, table.model)
        )
        counts = {status.value: 0 for status in UNFINISHED}
        lines: dict[str, int] = {}
        oldest: list[int] = []
        async with self._database.read() as connection:
            for status, model, count, waiting, created_ms in await connection.execute(query):
                counts[status] += int(count)
                if status == BatchStatus.IN_PROGRESS:
                    lines[model] = int(waiting)
                if status in _BEFORE_THEIR_END:
                    oldest.append(created_ms)
        return Depth(counts, lines, min(oldest, default=None))
