"""A month of the ledger as a stream, for exports: entries and rollups, in blocks of columns.

What belongs here: reading a month of one account or of all in one snapshot, in an order that is always the same, with
memory that does not grow with it. What does not: formats (billing/exports/), and a month for a replay
(months_entries.py).

Entries come account by account, each through the primary key, so that nothing is sorted and the first row comes at
once; accounts with few calls share a statement. Which accounts there are is asked of the entries themselves, never of a
sum of them. What waits in outboxes has not been shipped and is not in the stream: ``not_shipped`` counts it.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Table, collate, exists, func, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.ledger.database import Database
from proxy.ledger.outbox_file import read_pending_of_month
from proxy.ledger.schema import accounts, calls_monthly, entries, rollups_daily, rollups_monthly
from proxy.ledger.statements import Statements
from proxy.ledger.store import missing_entries

ROWS: Final = 4000
"""How many rows are in memory at a time."""
IDLE_S: Final = 600
"""How long whoever reads may take for a block before PostgreSQL ends the transaction."""
PENDING_MAX: Final = 10_000
"""Of so many entries that wait in outboxes it is told how many are missing; of more only that there are more."""

Block = Mapping[str, Sequence[Any]]
"""Rows as columns, by name."""

ENTRY_COLUMNS: Final = tuple(column.name for column in entries.columns if column.name != "estimated")
"""Of a block of entries; ``estimated`` is told by ``sources``. Beside them comes ``account``, the account's name."""
DAILY_COLUMNS: Final = tuple(column.name for column in rollups_daily.columns)
MONTHLY_COLUMNS: Final = tuple(column.name for column in rollups_monthly.columns)


class MonthStream:
    """A billing month in one snapshot.

    Attributes:
        month: ``YYYY-MM``, in each account's time zone.
        accounts: names by id, of those that have entries, in the order of ids; an id that is no account's any more
            is its own name.
        calls: how many entries each has, as the rollups say: for progress, not for sums.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        month: str,
        names: Mapping[str, str],
        calls: Mapping[str, int],
        rows: int,
        *,
        is_postgresql: bool,
    ) -> None:
        self._connection = connection
        self._is_postgresql = is_postgresql
        self.month: Final = month
        self.accounts: Final = names
        self.calls: Final = calls
        self._rows = rows

    async def entries(self) -> AsyncGenerator[Block, None]:
        """Yield entries in the order of (account id, call id), some thousand at a time."""
        table = entries.c
        query = select(*(table[name] for name in ENTRY_COLUMNS)).where(table.month == self.month)
        for ids in self._together():
            if len(ids) == 1:
                of_some = query.where(table.account_id == ids[0]).order_by(table.call_id)
            else:
                of_some = query.where(table.account_id.in_(ids)).order_by(
                    self._bytewise(table.account_id), table.call_id
                )
            async for block in self._streamed(of_some, ENTRY_COLUMNS):
                yield block

    def daily(self) -> AsyncGenerator[Block, None]:
        """Yield the rollups of the month's days: by account, then day, model, usage type, class and price version."""
        day = rollups_daily.c.day
        return self._rollups(rollups_daily, DAILY_COLUMNS, day.between(f"{self.month}-01", f"{self.month}-31"))

    def monthly(self) -> AsyncGenerator[Block, None]:
        """Yield the rollups of the month, in the order of ``daily``."""
        return self._rollups(rollups_monthly, MONTHLY_COLUMNS, rollups_monthly.c.month == self.month)

    async def _rollups(
        self, table: Table, names: Sequence[str], within: ColumnElement[bool]
    ) -> AsyncGenerator[Block, None]:
        order = [self._bytewise(column) for column in table.primary_key.columns]
        for ids in self._together():
            query = select(*(table.c[name] for name in names)).where(table.c.account_id.in_(ids), within)
            async for block in self._streamed(query.order_by(*order), names):
                yield block

    def _together(self) -> Iterator[list[str]]:
        """Yield ids of accounts, in order: one, or several that together have fewer rows than a block."""
        some: list[str] = []
        rows = 0
        for account_id in self.accounts:
            calls = self.calls.get(account_id, self._rows)
            if some and rows + calls > self._rows:
                yield some
                some, rows = [], 0
            some.append(account_id)
            rows += calls
        if some:
            yield some

    def _bytewise(self, column: ColumnElement[str]) -> ColumnElement[str]:
        """Order a text as Python and SQLite do, whatever language PostgreSQL was made for."""
        return collate(column, "C") if self._is_postgresql else column

    async def _streamed(self, query: Select[Any], names: Sequence[str]) -> AsyncGenerator[Block, None]:
        result = await self._connection.stream(query.execution_options(yield_per=self._rows))
        try:
            async for rows in result.partitions():
                block = dict(zip(names, zip(*rows, strict=True), strict=True))
                block["account"] = tuple(map(self.accounts.__getitem__, block["account_id"]))
                yield block
        finally:
            await result.close()


@contextlib.asynccontextmanager
async def month_stream(
    database: Database, month: str, account_id: str | None = None, *, rows: int = ROWS
) -> AsyncIterator[MonthStream]:
    """Open a month of one account, or of all, as of one instant; what is read of it is read within the block.

    Raises:
        LedgerUnavailableError: the database does not answer.
    """
    async with database.read() as connection:
        if database.is_postgresql:
            await connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_S}s'"))
        ids = sorted(await _accounts_of(connection, month, account_id))
        names = await _names(connection, account_id)
        known = {id_: names.get(id_, id_) for id_ in ids}
        calls = await _calls(connection, month, account_id)
        yield MonthStream(connection, month, known, calls, rows, is_postgresql=database.is_postgresql)


async def not_shipped(database: Database, outboxes: Iterable[Path], month: str, account_id: str | None = None) -> int:
    """Return how many entries of a month wait in outboxes and are not in the ledger; to be asked before a stream.

    Of more than ``PENDING_MAX`` that wait in one outbox, it is not looked which are in the ledger.

    Raises:
        LedgerUnavailableError: the database does not answer.
        OutboxError: an outbox cannot be read.
    """
    statements = Statements(postgresql=database.is_postgresql)
    count = 0
    for path in outboxes:
        pending = await asyncio.to_thread(read_pending_of_month, path, month, account_id, entries_max=PENDING_MAX)
        if len(pending) <= PENDING_MAX:
            async with database.read() as connection:
                pending = await missing_entries(connection, statements, pending)
        count += len(pending)
    return count


async def _accounts_of(connection: AsyncConnection, month: str, account_id: str | None) -> Sequence[str]:
    """Return the ids that entries of the month have, by one look at the primary key for each account that ever was."""
    table = entries.c
    if account_id is None:
        known = select(func.min(table.account_id).label("id")).cte("known", recursive=True)
        after = select(func.min(table.account_id)).where(table.account_id > known.c.id).scalar_subquery()
        known = known.union_all(select(after).where(known.c.id.is_not(None)))
        ids = select(known.c.id).where(known.c.id.is_not(None)).subquery()
    else:
        ids = select(literal(account_id).label("id")).subquery()
    has_entries = exists().where(table.account_id == ids.c.id, table.month == month)
    return (await connection.execute(select(ids.c.id).where(has_entries))).scalars().all()


async def _names(connection: AsyncConnection, account_id: str | None) -> dict[str, str]:
    query = select(accounts.c.id, accounts.c.name)
    if account_id is not None:
        query = query.where(accounts.c.id == account_id)
    return {row.id: row.name for row in await connection.execute(query)}


async def _calls(connection: AsyncConnection, month: str, account_id: str | None) -> dict[str, int]:
    table = calls_monthly.c
    query = select(table.account_id, func.sum(table.calls)).where(table.month == month).group_by(table.account_id)
    if account_id is not None:
        query = query.where(table.account_id == account_id)
    return {id_: int(count) for id_, count in await connection.execute(query)}
