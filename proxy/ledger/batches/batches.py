"""Batches: made, looked at, admitted or refused, cancelled.

What belongs here: the statements of a batch's owner, and of who validates its file. What does not: leases (leasing.py),
and how lines and batches end (ends.py).

What an account may have enqueued is decided under a lock of its row, which is taken before any other (``leasing.py``
has the order of those): two batches never take the same room.
"""

from enum import StrEnum
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, Select, and_, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.batches.checking import Checked
from proxy.core.batches.objects import ENDED, Batch, BatchFile, BatchStatus, LineMistake, Purpose
from proxy.core.batches.pages import Order, Page
from proxy.core.batches.usage import BatchUsage
from proxy.ledger.batch_schema import batch_blocks, batch_files, batches
from proxy.ledger.batches.rows import batch_of, batch_values, file_of
from proxy.ledger.database import Database
from proxy.ledger.schema import accounts

_ENDED: Final = sorted(status.value for status in ENDED)
_CANCELLABLE: Final = frozenset({BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS})
_BLOCKS_AT_ONCE: Final = 1000


class Created(StrEnum):
    """What became of a wish for a batch."""

    CREATED = "created"
    NO_FILE = "no_file"
    """Its account has no such file."""
    OTHER_PURPOSE = "other_purpose"
    """Its file was not uploaded for a batch."""
    NO_ROOM = "no_room"
    """Nothing is left of the account's allowance."""
    TOO_MANY = "too_many"
    """So many batches are unfinished."""


class Admitted(StrEnum):
    """What became of a batch whose file is sound."""

    ADMITTED = "admitted"
    NO_ROOM = "no_room"
    """It needs more of the account's allowance than is left."""
    GONE = "gone"
    """It is no longer being validated, or by another."""


class Batches:
    """The batches of every account.

    Every method raises ``LedgerUnavailableError`` when the database does not answer.

    Args:
        database: migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # Their owner

    async def create(self, batch: Batch, enqueued_max: int | None, unfinished_max: int) -> Created:
        """Make a batch, whose file is still to be validated.

        Args:
            batch: as it begins.
            enqueued_max: the account's allowance; None: it has none.
            unfinished_max: most unfinished batches of an account.
        """
        async with self._database.write() as connection:
            await _lock_account(connection, batch.account_id)
            file = await _file(connection, batch)
            # Its time may have come before anybody has marked it: batches read it still, and no other begins to.
            if file is None or (file.expires_ms is not None and file.expires_ms <= batch.created_ms):
                return Created.NO_FILE
            if file.purpose is not Purpose.BATCH:
                return Created.OTHER_PURPOSE
            unfinished, enqueued = await _unfinished(connection, batch.account_id)
            if unfinished >= unfinished_max:
                return Created.TOO_MANY
            if enqueued_max is not None and enqueued >= enqueued_max:
                return Created.NO_ROOM
            await connection.execute(insert(batches).values(batch_values(batch)))
        return Created.CREATED

    async def get(self, account_id: str, batch_id: str) -> Batch | None:
        """Return a batch of an account; None: it has none of this id."""
        async with self._database.read() as connection:
            return await _one(connection, _is_own(account_id, batch_id))

    async def page(self, account_id: str, page: Page) -> tuple[list[Batch], bool] | None:
        """Return a page of an account's batches by time of creation, and whether there are more.

        None: the batch that it comes after is none of the account's.
        """
        async with self._database.read() as connection:
            wanted = batches.c.account_id == account_id
            if page.after is not None:
                cursor = await _one(connection, _is_own(account_id, page.after))
                if cursor is None:
                    return None
                wanted = and_(wanted, _is_beyond(cursor, page.order))
            found = await connection.execute(_in_order(wanted, page.order).limit(page.limit + 1))
            items = [batch_of(dict(row)) for row in found.mappings()]
        return items[: page.limit], len(items) > page.limit

    async def cancel(self, account_id: str, batch_id: str, now_ms: int) -> Batch | None:
        """Cancel a batch of an account and return it as it is now: too late, it is as it was; None: it has none."""
        async with self._database.write() as connection:
            batch = await _one(connection, _is_own(account_id, batch_id), lock=True)
            if batch is None or batch.status not in _CANCELLABLE:
                return batch
            return await _change(connection, batch, BatchStatus.CANCELLING, now_ms)

    # Who validates

    async def input_file(self, batch: Batch) -> BatchFile | None:
        """Return the requests of a batch; None: its owner has deleted them."""
        async with self._database.read() as connection:
            return await _file(connection, batch)

    async def admit(
        self, holder: str, batch_id: str, checked: Checked, enqueued_max: int | None, now_ms: int
    ) -> Admitted:
        """Put a batch in progress: its blocks may be leased, and it counts against the allowance of its account.

        Args:
            holder: who validates it.
            batch_id: which.
            checked: what its file holds.
            enqueued_max: the account's allowance; None: it has none.
            now_ms: Unix milliseconds.
        """
        async with self._database.write() as connection:
            account_id = await connection.scalar(select(batches.c.account_id).where(batches.c.id == batch_id))
            if account_id is None:
                return Admitted.GONE
            await _lock_account(connection, account_id)
            batch = await _validated(connection, holder, batch_id)
            if batch is None:
                return Admitted.GONE
            _, enqueued = await _unfinished(connection, account_id)
            if enqueued_max is not None and enqueued + checked.tokens_max > enqueued_max:
                return Admitted.NO_ROOM
            await _change(
                connection,
                batch,
                BatchStatus.IN_PROGRESS,
                now_ms,
                model=checked.model,
                total=checked.lines,
                enqueued_tokens=checked.tokens_max,
                usage=BatchUsage(),
            )
            rows = [msgspec.structs.asdict(block) | {"attempts": 0} for block in checked.blocks]
            for at in range(0, len(rows), _BLOCKS_AT_ONCE):
                await connection.execute(insert(batch_blocks), rows[at : at + _BLOCKS_AT_ONCE])
            await connection.execute(update(batches).where(batches.c.id == batch_id).values(holder=None, until_ms=None))
        return Admitted.ADMITTED

    async def refuse(self, holder: str, batch_id: str, mistakes: tuple[LineMistake, ...], now_ms: int) -> bool:
        """Let a batch fail before any of its lines has been run; False: it is no longer being validated by this one."""
        async with self._database.write() as connection:
            batch = await _validated(connection, holder, batch_id)
            if batch is None:
                return False
            await _change(connection, batch, BatchStatus.FAILED, now_ms, errors=mistakes)
            await connection.execute(update(batches).where(batches.c.id == batch_id).values(holder=None, until_ms=None))
        return True


async def _lock_account(connection: AsyncConnection, account_id: str) -> None:
    # Rows that refer to the account may be made meanwhile: only its key is not locked.
    query = select(accounts.c.id).where(accounts.c.id == account_id).with_for_update(key_share=True)
    await connection.execute(query)


async def _unfinished(connection: AsyncConnection, account_id: str) -> tuple[int, int]:
    """Return how many batches of an account have not ended, and what they count against its allowance."""
    query = select(func.count(), func.coalesce(func.sum(batches.c.enqueued_tokens), 0)).where(
        batches.c.account_id == account_id, batches.c.status.not_in(_ENDED)
    )
    count, tokens = (await connection.execute(query)).one()
    return int(count), int(tokens)


async def _file(connection: AsyncConnection, batch: Batch) -> BatchFile | None:
    query = select(batch_files).where(
        batch_files.c.id == batch.input_file_id,
        batch_files.c.account_id == batch.account_id,
        batch_files.c.deleted_ms.is_(None),
    )
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else file_of(dict(row))


async def _one(connection: AsyncConnection, wanted: ColumnElement[bool], *, lock: bool = False) -> Batch | None:
    query = select(batches).where(wanted)
    row = (await connection.execute(query.with_for_update() if lock else query)).mappings().one_or_none()
    return None if row is None else batch_of(dict(row))


async def _validated(connection: AsyncConnection, holder: str, batch_id: str) -> Batch | None:
    """Lock and return a batch that this holder validates still."""
    is_held = and_(batches.c.id == batch_id, batches.c.holder == holder)
    return await _one(connection, and_(is_held, batches.c.status == BatchStatus.VALIDATING.value), lock=True)


async def _change(connection: AsyncConnection, batch: Batch, to: BatchStatus, now_ms: int, **values: object) -> Batch:
    """Move a batch, which is locked, to a status."""
    changed = msgspec.structs.replace(batch, status=to, stamps={**batch.stamps, to: now_ms}, **values)
    await connection.execute(update(batches).where(batches.c.id == batch.id).values(batch_values(changed)))
    return changed


def _is_own(account_id: str, batch_id: str) -> ColumnElement[bool]:
    return and_(batches.c.id == batch_id, batches.c.account_id == account_id)


def _is_beyond(cursor: Batch, order: Order) -> ColumnElement[bool]:
    created, own = batches.c.created_ms, batches.c.id
    if order is Order.DESCENDING:
        return or_(created < cursor.created_ms, and_(created == cursor.created_ms, own < cursor.id))
    return or_(created > cursor.created_ms, and_(created == cursor.created_ms, own > cursor.id))


def _in_order(wanted: ColumnElement[bool], order: Order) -> Select[tuple[object, ...]]:
    columns = (batches.c.created_ms, batches.c.id)
    keys = columns if order is Order.ASCENDING else [column.desc() for column in columns]
    return select(batches).where(wanted).order_by(*keys)
