"""Leases: who runs which block, and who has a whole batch in hand.

What belongs here: claiming, renewing and giving back. What does not: whose turn it is (core/batches/turns.py), and
what ends with a lease (ends.py).

A lease is a holder and an instant. It is anybody's from that instant on; until somebody takes it, its holder may still
renew it. Times are told by the caller: workers whose clocks differ may both believe that they hold a block, and the one
that the row names does. What a line's end does asks the row (ends.py), so it happens once.

Locks are taken in one order: rows of blocks, heads of chains, the row of the batch.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.batches.objects import ENDED, Batch, BatchStatus, Block
from proxy.core.batches.turns import Bounds, InTurn, Under, nearest, share_out
from proxy.ledger.batch_schema import batch_blocks, batches
from proxy.ledger.batches.rows import batch_of, block_of
from proxy.ledger.database import Database

BlockId = tuple[str, int]
"""Batch id, number."""

CLAIMED_AT_ONCE: Final = 32
"""So many files in turn are tried, while other workers take some of them at the same moment."""

_ENDED: Final = sorted(status.value for status in ENDED)
_UNFINISHED: Final = sorted(status.value for status in set(BatchStatus) - ENDED)
_WITHOUT_WORK: Final = (BatchStatus.FINALIZING.value, BatchStatus.CANCELLING.value)
_GIVEN_UP: Final = (BatchStatus.VALIDATING.value, BatchStatus.IN_PROGRESS.value)


class Claimed(msgspec.Struct, frozen=True):
    """A block that has been leased.

    Args:
        batch: of which batch, as it was then.
        block: which lines.
        attempts: how often it has been leased, this time included.
        unsettled: the segment whose lines the limiter may not know of; None: there is none.
    """

    batch: Batch
    block: Block
    attempts: int
    unsettled: str | None

    @property
    def id(self) -> BlockId:
        """What it is known by."""
        return self.block.batch_id, self.block.number


class Leases:
    """The leases of all workers.

    Every method raises ``LedgerUnavailableError`` when the database does not answer.

    Args:
        database: migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def is_idle(self) -> bool:
        """Whether there is no batch that has not ended: a look that locks nothing."""
        query = select(batches.c.id).where(batches.c.status.in_(_UNFINISHED)).limit(1)
        async with self._database.read() as connection:
            return (await connection.execute(query)).first() is None

    # Blocks

    async def claim_blocks(
        self, holder: str, running: Sequence[Under], bounds: Bounds, most: int, now_ms: int, until_ms: int
    ) -> list[Claimed]:
        """Lease blocks of batches in progress: accounts take turns, and of one account the oldest batch is first.

        Args:
            holder: the worker's name: unique.
            running: what it runs already.
            bounds: what it may run at once.
            most: blocks that it takes now.
            now_ms: Unix milliseconds.
            until_ms: when the leases end.
        """
        claimed: list[Claimed] = []
        async with self._database.write() as connection:
            turns = await self._in_turn(connection, most, now_ms)
            shares = share_out(turns, running, bounds, most)
            if not shares:
                return []
            found = await connection.execute(select(batches).where(batches.c.id.in_(list(shares))))
            now = {row["id"]: batch_of(dict(row)) for row in found.mappings()}
            for batch_id, blocks in shares.items():
                taken = await self._take(connection, batch_id, blocks, now_ms)
                claimed += [
                    Claimed(now[batch_id], block_of(row), row["attempts"] + 1, row["unsettled"]) for row in taken
                ]
            if claimed:
                await connection.execute(
                    update(batch_blocks)
                    .where(_among([each.id for each in claimed]))
                    .values(holder=holder, until_ms=until_ms, attempts=batch_blocks.c.attempts + 1)
                )
        return claimed

    async def _in_turn(self, connection: AsyncConnection, most: int, now_ms: int) -> list[InTurn]:
        """Return batches in progress, oldest first; free blocks are counted of those that are near their turn only."""
        found = await connection.execute(_WAITING, {"now_ms": now_ms})
        waiting = [(row.id, row.account_id, row.model) for row in found]
        found = await connection.execute(_LEASED, {"now_ms": now_ms})
        leased = Counter(found.scalars())
        turns = [InTurn(*each, leased[each[0]]) for each in waiting]
        found = await connection.execute(_FREE, {"now_ms": now_ms, "near": nearest(turns, most)})
        free = {row.batch_id: (int(row.free), int(row.block_lines)) for row in found}
        return [InTurn(*each, leased[each[0]], *free.get(each[0], (0, 0))) for each in waiting]

    async def _take(
        self, connection: AsyncConnection, batch_id: str, most: int, now_ms: int
    ) -> Sequence[Mapping[str, Any]]:
        """Lock free blocks of a batch; those that another worker takes at this moment are passed over."""
        query = (
            select(batch_blocks)
            .where(batch_blocks.c.batch_id == batch_id, _is_open_here, ~_is_live(now_ms))
            .order_by(batch_blocks.c.number)
            .limit(most)
        )
        if self._database.is_postgresql:  # SQLite's writer is alone
            query = query.with_for_update(skip_locked=True)
        return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def renew_blocks(self, holder: str, blocks: Collection[BlockId], until_ms: int) -> dict[BlockId, Batch]:
        """Renew leases; return the blocks that the worker holds still, with their batches as they are now."""
        if not blocks:
            return {}
        mine = and_(_among(blocks), batch_blocks.c.holder == holder, _is_open_here)
        async with self._database.write() as connection:
            renewed = await connection.execute(
                update(batch_blocks)
                .where(mine)
                .values(until_ms=until_ms)
                .returning(batch_blocks.c.batch_id, batch_blocks.c.number)
            )
            held = [(batch_id, number) for batch_id, number in renewed]
            found = await connection.execute(select(batches).where(batches.c.id.in_({each for each, _ in held})))
            now = {row["id"]: batch_of(dict(row)) for row in found.mappings()}
        return {block: now[block[0]] for block in held}

    async def give_back(self, holder: str, blocks: Collection[BlockId]) -> None:
        """End leases before their time: the blocks are anybody's at once. Those of others are left alone."""
        if not blocks:
            return
        async with self._database.write() as connection:
            await connection.execute(
                update(batch_blocks)
                .where(_among(blocks), batch_blocks.c.holder == holder, _is_open_here)
                .values(holder=None, until_ms=None)
            )

    # Whole batches

    async def claim_to_validate(self, holder: str, now_ms: int, until_ms: int, after: str = "") -> Batch | None:
        """Lease a batch whose file has not been checked: accounts take turns, and of one the oldest batch is first.

        The account with the fewest files being checked, at whatever worker, is next; of several the one whose id
        follows, as in a ring: so each has its turn, however many files the others have.

        Args:
            holder: the worker's name: unique.
            now_ms: Unix milliseconds.
            until_ms: when the lease ends.
            after: id of the account that this worker's last file was of.
        """
        query = _first_in_turn(after, now_ms)
        async with self._database.write() as connection:
            for batch_id in (await connection.execute(query)).scalars().all():
                wanted = and_(batches.c.id == batch_id, _is_unchecked(now_ms))
                batch = await self._claim(connection, wanted, holder, now_ms, until_ms)
                if batch is not None:  # else another worker takes it at this moment
                    return batch
        return None

    async def claim_to_finish(self, holder: str, now_ms: int, until_ms: int) -> Batch | None:
        """Lease the oldest batch that is to end: run to its end, cancelled, or past its time.

        Nobody runs a line of it any more: its blocks are closed here. One with a block that somebody runs is not ready.
        """
        running = exists().where(batch_blocks.c.batch_id == batches.c.id, _is_open, _is_live(now_ms))
        wanted = and_(
            or_(
                batches.c.status.in_(_WITHOUT_WORK),
                and_(batches.c.status.in_(_GIVEN_UP), batches.c.expires_ms <= now_ms),
            ),
            ~running,
        )
        async with self._database.write() as connection:
            batch = await self._find(connection, wanted, now_ms)
            if batch is None:
                return None
            own = batch_blocks.c.batch_id == batch.id
            await connection.execute(
                update(batch_blocks)
                .where(own, _is_open, ~_is_live(now_ms))
                .values(done_ms=now_ms, holder=None, until_ms=None)
            )
            if (await connection.execute(select(batch_blocks.c.number).where(own, _is_open).limit(1))).first():
                return None  # its holder has renewed it meanwhile
            # Its status may have changed while blocks were locked, from in progress to finalizing or cancelling.
            return await self._claim(connection, batches.c.id == batch.id, holder, now_ms, until_ms)

    async def claim_to_clear(self, holder: str, now_ms: int, until_ms: int) -> Batch | None:
        """Lease a batch that has ended, and whose segments are still there."""
        wanted = and_(batches.c.status.in_(_ENDED), batches.c.holder.is_not(None))
        async with self._database.write() as connection:
            return await self._claim(connection, wanted, holder, now_ms, until_ms)

    async def _find(self, connection: AsyncConnection, wanted: ColumnElement[bool], now_ms: int) -> Batch | None:
        row = (await connection.execute(_oldest(wanted, now_ms))).mappings().one_or_none()
        return None if row is None else batch_of(dict(row))

    async def _claim(
        self, connection: AsyncConnection, wanted: ColumnElement[bool], holder: str, now_ms: int, until_ms: int
    ) -> Batch | None:
        query = _oldest(wanted, now_ms)
        if self._database.is_postgresql:  # SQLite's writer is alone
            query = query.with_for_update(skip_locked=True)
        row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            return None
        await connection.execute(
            update(batches).where(batches.c.id == row["id"]).values(holder=holder, until_ms=until_ms)
        )
        return batch_of(dict(row))

    async def renew_batch(self, holder: str, batch_id: str, until_ms: int) -> bool:
        """Renew the lease of a whole batch; False: it is another's."""
        async with self._database.write() as connection:
            renewed = await connection.execute(
                update(batches).where(batches.c.id == batch_id, batches.c.holder == holder).values(until_ms=until_ms)
            )
            return renewed.rowcount == 1

    async def give_back_batch(self, holder: str, batch_id: str) -> None:
        """End the lease of a whole batch before its time."""
        async with self._database.write() as connection:
            await connection.execute(
                update(batches)
                .where(batches.c.id == batch_id, batches.c.holder == holder)
                .values(holder=None, until_ms=None)
            )


_is_open: Final = batch_blocks.c.done_ms.is_(None)
_is_open_here: Final = func.coalesce(batch_blocks.c.done_ms, -1) == -1
"""The same, of blocks whose batches are known: SQLite would rather read all open blocks by their index."""


def _is_live(now_ms: int | BindParameter[int]) -> ColumnElement[bool]:
    """Whether somebody runs a block, never NULL."""
    return func.coalesce(batch_blocks.c.until_ms, 0) > now_ms


def _is_free(now_ms: int) -> ColumnElement[bool]:
    """Whether nobody has a whole batch in hand, never NULL."""
    return func.coalesce(batches.c.until_ms, 0) <= now_ms


def _is_unchecked(now_ms: int) -> ColumnElement[bool]:
    return and_(batches.c.status == BatchStatus.VALIDATING.value, batches.c.expires_ms > now_ms)


def _oldest(wanted: ColumnElement[bool], now_ms: int) -> Select[Any]:
    return select(batches).where(wanted, _is_free(now_ms)).order_by(batches.c.created_ms, batches.c.id).limit(1)


def _first_in_turn(after: str, now_ms: int) -> Select[Any]:
    """Return ids of unchecked batches that are free, in turn: each batch has a turn of its account's, from 1.

    Those being checked have the first ones. Workers that claim at once see the same turns, so whoever finds the first
    batch of an account taken goes on to the first of another.
    """
    table = batches.c
    order = (case((_is_free(now_ms), 1), else_=0), table.created_ms, table.id)
    turn = func.row_number().over(partition_by=table.account_id, order_by=order)
    turns = select(table.id, table.account_id, _is_free(now_ms).label("is_free"), turn.label("turn"))
    of = turns.where(_is_unchecked(now_ms)).subquery().c
    in_ring = case((of.account_id > after, 0), else_=1)
    return select(of.id).where(of.is_free).order_by(of.turn, in_ring, of.account_id).limit(CLAIMED_AT_ONCE)


def _among(blocks: Collection[BlockId]) -> ColumnElement[bool]:
    """Whether a block is one of some: for pairs alone SQLite would read every block."""
    wanted = sorted(blocks)
    of_batches = batch_blocks.c.batch_id.in_(sorted({batch_id for batch_id, _ in wanted}))
    return and_(of_batches, tuple_(batch_blocks.c.batch_id, batch_blocks.c.number).in_(wanted))


_now_ms: Final = bindparam("now_ms", type_=BigInteger())

_WAITING: Final = (
    select(batches.c.id, batches.c.account_id, batches.c.model)
    .where(batches.c.status == BatchStatus.IN_PROGRESS.value, batches.c.expires_ms > _now_ms)
    .order_by(batches.c.created_ms, batches.c.id)
)
"""Batches in progress, oldest first. There may be thousands, with a hundred blocks each."""

_LEASED: Final = select(batch_blocks.c.batch_id).where(_is_open, batch_blocks.c.until_ms > _now_ms)
"""The batch of each block that somebody runs: few, and found by the index. Grouped, SQLite would read every block."""

_FREE: Final = (
    select(
        batch_blocks.c.batch_id,
        func.sum(case((_is_live(_now_ms), 0), else_=1)).label("free"),
        func.max(batch_blocks.c.lines).label("block_lines"),
    )
    .where(batch_blocks.c.batch_id.in_(bindparam("near", expanding=True)), _is_open_here)
    .group_by(batch_blocks.c.batch_id)
)
"""How many blocks nobody runs, of some batches, and how long they are."""
