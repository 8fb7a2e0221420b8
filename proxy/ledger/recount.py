"""The rollups counted again from the entries, beside the rows that are kept: nothing is written.

What belongs here: one grouped pass over the entries, and the derived tables in step with it. What does not: judging the
difference (reconciling/), and putting it right (rebuild.py).

The database sums; what comes back is merged account by account and month by month, so memory grows with one account's
month at most. Both sides are read in one snapshot: an entry and what it adds to the rollups are committed together, so
they agree exactly however many calls go on.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Select, Table, case, collate, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.usage import UsageType
from proxy.ledger.database import Database
from proxy.ledger.schema import (
    calls_daily,
    calls_monthly,
    cost_column,
    entries,
    quantity_column,
    rollups_daily,
    rollups_monthly,
)

ROLLUPS: Final = (rollups_daily, rollups_monthly)
CALLS: Final = (calls_daily, calls_monthly)
DERIVED: Final = (*ROLLUPS, *CALLS)
"""Every table that follows from the entries row by row."""
NAMES: Final = {table: str(table.name) for table in DERIVED}
"""What they are called."""

MEGA: Final = 1_000_000
"""Costs are summed in two parts, each far from the end of 64 bits, where SQLite fails."""
ROWS: Final = 2000
"""How many rows of a table are in memory at a time."""

_TYPES: Final = tuple(UsageType)
_MONTH_CHARS: Final = 7

Key = tuple[str, ...]
"""The values of a table's primary key."""
Values = tuple[int, ...]
"""The values of its other columns."""
Kept = dict[str, dict[Key, Values]]
"""Rows by the name of their table and by their key."""


class AccountMonth(msgspec.Struct, frozen=True):
    """One account's month, twice.

    Args:
        account_id: whose.
        month: ``YYYY-MM``.
        calls: how many entries there are.
        counted: the rows of ``DERIVED`` as they follow from the entries.
        kept: the rows as they are.
    """

    account_id: str
    month: str
    calls: int
    counted: Kept
    kept: Kept

    @property
    def rows(self) -> int:
        """How many rows there are or should be."""
        return sum(len(self.counted[name].keys() | self.kept[name].keys()) for name in NAMES.values())


class Recount:
    """Counts again.

    Args:
        database: migrated. The grouping of all entries counts as one statement: give it time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def account_months(
        self, account_id: str | None = None, month: str | None = None
    ) -> AsyncGenerator[AccountMonth, None]:
        """Yield every account's months, or only those asked for, as of one instant.

        Raises:
            LedgerUnavailableError: the database does not answer.
        """
        async with (
            self._database.read() as connection,
            contextlib.aclosing(recounted(self._database, connection, account_id, month)) as found,
        ):
            async for account_month in found:
                yield account_month

    async def entries_expected(self, account_id: str | None = None, month: str | None = None) -> int:
        """Return how many entries there are by the counts of calls: for a sense of progress."""
        table = calls_monthly.c
        query = select(func.coalesce(func.sum(table.calls), 0))
        if account_id is not None:
            query = query.where(table.account_id == account_id)
        if month is not None:
            query = query.where(table.month == month)
        async with self._database.read() as connection:
            return int((await connection.execute(query)).scalar_one())


async def recounted(
    database: Database, connection: AsyncConnection, account_id: str | None, month: str | None
) -> AsyncGenerator[AccountMonth, None]:
    """Yield as ``Recount.account_months``, in the transaction of the caller."""
    async with contextlib.AsyncExitStack() as stack:
        groups = _Groups(connection, _counting(database, account_id, month))
        await groups.open(stack)
        tables = []
        for table in DERIVED:
            kept = _Groups(connection, _keeping(database, table, account_id, month))
            await kept.open(stack)
            tables.append(kept)
        while present := [each.next_key for each in (groups, *tables) if each.next_key is not None]:
            key = min(present)
            counted, calls = _derived(key[1], await groups.take(key))
            kept_rows = {}
            for table, rows in zip(DERIVED, tables, strict=True):
                kept_rows[NAMES[table]] = _by_key(table, await rows.take(key))
            yield AccountMonth(*key, calls, counted, kept_rows)


class _Groups:
    """The rows of one query, an account's month at a time; the query is ordered by both."""

    def __init__(self, connection: AsyncConnection, query: Select[Any]) -> None:
        self._connection = connection
        self._query = query
        self._rows: AsyncIterator[Any] | None = None
        self._next: Any = None

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Begin to read."""
        result = await self._connection.stream(self._query.execution_options(yield_per=ROWS))
        stack.push_async_callback(result.close)
        self._rows = aiter(result)
        self._next = await anext(self._rows, None)

    @property
    def next_key(self) -> tuple[str, str] | None:
        """Account and month of the next row; None: there is none."""
        return None if self._next is None else (self._next[0], self._next[1])

    async def take(self, key: tuple[str, str]) -> list[Sequence[Any]]:
        """Return the rows of an account's month, without these two columns."""
        assert self._rows is not None
        taken = []
        while self.next_key == key:
            taken.append(self._next[2:])
            self._next = await anext(self._rows, None)
        return taken


def _ordered(database: Database, column: ColumnElement[str]) -> ColumnElement[str]:
    """Return what to order by so that rows come as Python sorts their values, whatever the database's language is."""
    return collate(column, "C") if database.is_postgresql else column


def _counting(database: Database, account_id: str | None, month: str | None) -> Select[Any]:
    table = entries.c
    sums: list[ColumnElement[Any]] = []
    for place, usage_type in enumerate(_TYPES):
        cost = table[cost_column(usage_type)]
        is_used = func.substr(table.sources, place + 1, 1) != "-"
        sums += [
            func.sum(case((is_used, 1), else_=0)),
            func.sum(table[quantity_column(usage_type)]),
            func.sum(cost // MEGA),
            func.sum(cost % MEGA),
        ]
    by = (table.account_id, table.month, table.day, table.model, table.tariff_class, table.price_version)
    query = select(*by, func.count(), *sums).group_by(*by)
    query = query.order_by(_ordered(database, table.account_id), _ordered(database, table.month))
    if account_id is not None:
        query = query.where(table.account_id == account_id)
    return query if month is None else query.where(table.month == month)


def _keeping(database: Database, table: Table, account_id: str | None, month: str | None) -> Select[Any]:
    """Select account, month, and every column of a derived table after the account."""
    is_daily = "day" in table.c
    period = table.c.day if is_daily else table.c.month
    its_month = func.substr(period, 1, _MONTH_CHARS) if is_daily else period
    query = select(table.c.account_id, its_month, *list(table.c)[1:])
    query = query.order_by(_ordered(database, table.c.account_id), _ordered(database, period))
    if account_id is not None:
        query = query.where(table.c.account_id == account_id)
    if month is not None:
        query = query.where(period.between(f"{month}-01", f"{month}-31") if is_daily else period == month)
    return query


def _by_key(table: Table, rows: Iterable[Sequence[Any]]) -> dict[Key, Values]:
    """Return rows of ``_keeping`` by their key, which here begins after the account."""
    width = len(table.primary_key) - 1
    return {tuple(row[:width]): tuple(row[width:]) for row in rows}


def _derived(month: str, groups: Iterable[Sequence[Any]]) -> tuple[Kept, int]:
    """Return the rows that groups of entries make of a month, and how many entries they are."""
    counted: dict[str, dict[Key, list[int]]] = {name: {} for name in NAMES.values()}
    total = 0
    for day, model, tariff_class, version, calls, *sums in groups:
        total += calls
        for table, period in zip(CALLS, (day, month), strict=True):
            _add(counted[NAMES[table]], (period, model, tariff_class), (calls,))
        for place, usage_type in enumerate(_TYPES):
            used, quantity, millions, rest = (int(number) for number in sums[4 * place : 4 * place + 4])
            if not used:
                continue
            values = (quantity, millions * MEGA + rest, used)
            for table, period in zip(ROLLUPS, (day, month), strict=True):
                _add(counted[NAMES[table]], (period, model, usage_type.value, tariff_class, version), values)
    return {name: {key: tuple(values) for key, values in rows.items()} for name, rows in counted.items()}, total


def _add(rows: dict[Key, list[int]], key: Key, values: Values) -> None:
    row = rows.setdefault(key, [0] * len(values))
    for place, value in enumerate(values):
        row[place] += value
