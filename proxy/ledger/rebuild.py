"""The rollups made again from the entries, an account's month at a time.

What belongs here: the one transaction that does it, and keeping shippers out of it. What does not: finding what has
drifted (recount.py), and entries, which are never changed.

Whoever brings entries of an account's month first locks the head of its chain (chain.py), and so does this: while the
month is counted nothing of it can be added, and what waits adds itself to the rows that are right. On SQLite the
transaction has the database for itself.
"""

import contextlib
from typing import Final

import msgspec
from sqlalchemy import Table, and_, bindparam, delete, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.ledger.chain import Chain
from proxy.ledger.database import Database
from proxy.ledger.recount import DERIVED, NAMES, AccountMonth, Key, Values, recounted

_PREFIX: Final = "key_"


class Rebuilt(msgspec.Struct, frozen=True):
    """What was changed of an account's month: how many rows were added, put right and removed."""

    added: int = 0
    changed: int = 0
    removed: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.added + self.changed + self.removed


class Rebuilding:
    """Makes rollups again.

    Args:
        database: migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._chain = Chain(postgresql=database.is_postgresql)

    async def account_month(self, account_id: str, month: str) -> Rebuilt:
        """Make the rollups and call counts of an account's month what its entries say; return what was changed.

        Raises:
            LedgerUnavailableError: nothing was changed; try again.
        """
        async with self._database.write() as connection:
            await self._chain.lock(connection, [(account_id, month)])
            again = recounted(self._database, connection, account_id, month)
            async with contextlib.aclosing(again):
                found = [each async for each in again]
            done = Rebuilt()
            for account_month in found:
                done = await _write(connection, account_month)
            return done


async def _write(connection: AsyncConnection, month: AccountMonth) -> Rebuilt:
    added = changed = removed = 0
    for table in DERIVED:
        counted, kept = month.counted[NAMES[table]], month.kept[NAMES[table]]
        gone = [key for key in kept if kept[key] != counted.get(key)]
        come = [key for key in counted if counted[key] != kept.get(key)]
        await _delete(connection, table, month.account_id, gone)
        await _insert(connection, table, month.account_id, {key: counted[key] for key in come})
        changed += len(set(gone) & set(come))
        removed += len(set(gone) - set(come))
        added += len(set(come) - set(gone))
    return Rebuilt(added, changed, removed)


async def _delete(connection: AsyncConnection, table: Table, account_id: str, keys: list[Key]) -> None:
    if keys:
        names = [column.name for column in table.primary_key]
        query = delete(table).where(and_(*(table.c[name] == bindparam(_PREFIX + name) for name in names)))
        prefixed = [_PREFIX + name for name in names]
        await connection.execute(query, [dict(zip(prefixed, (account_id, *key), strict=True)) for key in keys])


async def _insert(connection: AsyncConnection, table: Table, account_id: str, rows: dict[Key, Values]) -> None:
    if rows:
        names = [column.name for column in table.columns]
        values = [dict(zip(names, (account_id, *key, *row), strict=True)) for key, row in rows.items()]
        await connection.execute(insert(table), values)
