"""Files of accounts, as rows.

What belongs here: the statements of a file's owner, and of who removes what is over. What does not: their bytes
(proxy/files), and files that are made at a batch's end (ends.py).

A file is over when its owner has deleted it or its time has come. Then nobody sees it any more, but its bytes and its
row stay until they are removed, which is not before every batch that reads it has ended. Who deletes a
file and who makes a batch of it take the same lock first, that of the account's row: never both at once.
"""

from collections.abc import Collection
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.batches.objects import ENDED, BatchFile, Purpose
from proxy.core.batches.pages import Order, Page
from proxy.ledger.batch_schema import batch_files, batches
from proxy.ledger.batches.rows import file_of, file_values
from proxy.ledger.database import Database
from proxy.ledger.leases import Lease
from proxy.ledger.schema import accounts

_ENDED: Final = sorted(status.value for status in ENDED)
_table: Final = batch_files.c
_is_read: Final = exists().where(batches.c.input_file_id == _table.id, batches.c.status.not_in(_ENDED))
"""Whether an unfinished batch needs a file."""


class Deleted(StrEnum):
    """What became of a wish to delete a file."""

    DELETED = "deleted"
    NO_FILE = "no_file"
    """Its account has no such file."""
    IN_USE = "in_use"
    """An unfinished batch reads it."""


class BatchFiles:
    """The files of every account.

    Every method raises ``LedgerUnavailableError`` when the database does not answer.

    Args:
        database: migrated.

    Attributes:
        lease: the right to remove for all replicas.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.lease: Final = Lease(database, "files")

    # Their owner

    async def has_room(self, account_id: str, size_bytes: int, files_max: int, bytes_max: int) -> bool:
        """Whether an account may keep one more file that it uploads."""
        async with self._database.read() as connection:
            return await _has_room(connection, account_id, size_bytes, files_max, bytes_max)

    async def add(self, file: BatchFile, files_max: int, bytes_max: int) -> bool:
        """Keep a file whose bytes are in the store; False: its account keeps too many, or too large ones.

        Args:
            file: new.
            files_max: most files that an account keeps of those that it uploads.
            bytes_max: how large they may be together.
        """
        async with self._database.write() as connection:
            await _lock_account(connection, file.account_id)
            if not await _has_room(connection, file.account_id, file.size_bytes, files_max, bytes_max):
                return False
            await connection.execute(insert(batch_files).values(file_values(file)))
        return True

    async def get(self, account_id: str, file_id: str, now_ms: int) -> BatchFile | None:
        """Return a file of an account; None: it has none of this id, whoever has."""
        async with self._database.read() as connection:
            return await _one(connection, and_(_is_own(account_id, now_ms), _table.id == file_id))

    async def page(
        self, account_id: str, page: Page, purpose: str | None, now_ms: int
    ) -> tuple[list[BatchFile], bool] | None:
        """Return a page of an account's files by time of creation, and whether there are more.

        Args:
            account_id: whose.
            page: which part of the list.
            purpose: of the files; None: any.
            now_ms: Unix milliseconds.

        Returns:
            None: the file that the page comes after is none of the account's.
        """
        wanted = _is_own(account_id, now_ms)
        if purpose is not None:
            wanted = and_(wanted, _table.purpose == purpose)
        by = [_table.created_ms, _table.id]
        if page.order is Order.DESCENDING:
            by = [each.desc() for each in by]  # type: ignore[misc]
        async with self._database.read() as connection:
            if page.after is not None:
                cursor = await _one(connection, and_(_is_own(account_id, now_ms), _table.id == page.after))
                if cursor is None:
                    return None
                wanted = and_(wanted, _is_beyond(cursor, page.order))
            query = select(batch_files).where(wanted).order_by(*by).limit(page.limit + 1)
            files = [file_of(dict(row)) for row in (await connection.execute(query)).mappings()]
        return files[: page.limit], len(files) > page.limit

    async def delete(self, account_id: str, file_id: str, now_ms: int) -> Deleted:
        """Delete a file of an account: from now on nobody sees it."""
        async with self._database.write() as connection:
            await _lock_account(connection, account_id)
            own = and_(_is_own(account_id, now_ms), _table.id == file_id)
            if await _one(connection, own) is None:
                return Deleted.NO_FILE
            gone = await connection.execute(update(batch_files).where(own, ~_is_read).values(deleted_ms=now_ms))
        return Deleted.DELETED if gone.rowcount else Deleted.IN_USE

    # Who removes what is over

    async def end(self, now_ms: int) -> int:
        """Delete what has had its time, unless an unfinished batch reads it; return how many."""
        overdue = and_(_table.deleted_ms.is_(None), _table.expires_ms <= now_ms, ~_is_read)
        async with self._database.write() as connection:
            ended = await connection.execute(update(batch_files).where(overdue).values(deleted_ms=now_ms))
            return ended.rowcount

    async def over(self, files_max: int) -> list[BatchFile]:
        """Return files that are deleted, whose bytes may still be there."""
        query = select(batch_files).where(_table.deleted_ms.is_not(None)).order_by(_table.id).limit(files_max)
        async with self._database.read() as connection:
            return [file_of(dict(row)) for row in (await connection.execute(query)).mappings()]

    async def forget(self, file_ids: Collection[str]) -> None:
        """Remove the rows of deleted files, whose bytes are gone."""
        async with self._database.write() as connection:
            await connection.execute(
                delete(batch_files).where(_table.id.in_(sorted(file_ids)), _table.deleted_ms.is_not(None))
            )

    async def kept(self, stored_as: Collection[str]) -> frozenset[str]:
        """Return which names in the store are those of files."""
        query = select(_table.stored_as).where(_table.stored_as.in_(sorted(stored_as)))
        async with self._database.read() as connection:
            return frozenset((await connection.execute(query)).scalars())

    async def unfinished(self, batch_ids: Collection[str]) -> frozenset[str]:
        """Return which batches still need what they keep in the store: they have not ended, or are being cleared."""
        needed = or_(batches.c.status.not_in(_ENDED), batches.c.holder.is_not(None))
        query = select(batches.c.id).where(batches.c.id.in_(sorted(batch_ids)), needed)
        async with self._database.read() as connection:
            return frozenset((await connection.execute(query)).scalars())

    async def totals(self) -> dict[str, tuple[int, int]]:
        """Return how many files there are of each purpose, and their bytes."""
        query = select(_table.purpose, func.count(), func.coalesce(func.sum(_table.size_bytes), 0))
        async with self._database.read() as connection:
            found = await connection.execute(query.group_by(_table.purpose))
            return {purpose: (int(files), int(size_bytes)) for purpose, files, size_bytes in found}


def _is_own(account_id: str, now_ms: int) -> ColumnElement[bool]:
    """Whether a file is the account's and not over."""
    in_time = or_(_table.expires_ms.is_(None), _table.expires_ms > now_ms)
    return and_(_table.account_id == account_id, _table.deleted_ms.is_(None), in_time)


def _is_beyond(cursor: BatchFile, order: Order) -> ColumnElement[bool]:
    """Whether a file comes after another in the list."""
    if order is Order.DESCENDING:
        earlier = _table.created_ms < cursor.created_ms
        return or_(earlier, and_(_table.created_ms == cursor.created_ms, _table.id < cursor.id))
    later = _table.created_ms > cursor.created_ms
    return or_(later, and_(_table.created_ms == cursor.created_ms, _table.id > cursor.id))


async def _one(connection: AsyncConnection, wanted: ColumnElement[bool]) -> BatchFile | None:
    row: Any = (await connection.execute(select(batch_files).where(wanted))).mappings().one_or_none()
    return None if row is None else file_of(dict(row))


async def _has_room(
    connection: AsyncConnection, account_id: str, size_bytes: int, files_max: int, bytes_max: int
) -> bool:
    # Those that are deleted count as long as their bytes may be there.
    query = select(func.count(), func.coalesce(func.sum(_table.size_bytes), 0)).where(
        _table.account_id == account_id, _table.purpose == Purpose.BATCH.value
    )
    files, kept_bytes = (await connection.execute(query)).one()
    return int(files) < files_max and int(kept_bytes) + size_bytes <= bytes_max


async def _lock_account(connection: AsyncConnection, account_id: str) -> None:
    # Rows that refer to the account may be made meanwhile: only its key is not locked.
    await connection.execute(select(accounts.c.id).where(accounts.c.id == account_id).with_for_update(key_share=True))
