"""The statements that move many rows at once, in the dialect of either engine, and how rows get there.

What belongs here: SQL made from the schema. What does not: when it runs (store.py, chain.py).

To PostgreSQL rows travel as one parameter, a JSON array of arrays: however many there are, the statement is one,
prepared once, and little of it is Python. SQLite takes them one by one from the driver's loop, three times as fast as
out of JSON. Integers stay exact either way (``numeric`` in PostgreSQL, 64 bits in SQLite).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Boolean, Table, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from proxy.ledger import schema

Row = Sequence[str | int | bool]
_to_json: Final = msgspec.json.Encoder().encode


def json_rows(rows: Iterable[Row]) -> str:
    """Return rows as the parameter ``rows``."""
    return _to_json(list(rows)).decode()


class BulkInsert:
    """An INSERT of whole rows, and what happens to those that are there already.

    Args:
        table: whose columns the rows have, in their order.
        conflict: the clause ON CONFLICT.
        postgresql: whether it is PostgreSQL.
        returning: what ``returned`` returns.
    """

    def __init__(self, table: Table, conflict: str, *, postgresql: bool, returning: str = "NULL") -> None:
        into = f"INSERT INTO {table.name} ({', '.join(column.name for column in table.columns)})"
        marks = ", ".join("?" * len(table.columns))
        self._each = f"{into} VALUES ({marks}) {conflict}"
        selected = f"SELECT {_fields(table, len(table.columns), postgresql=True)} FROM {_source(postgresql=True)}"  # noqa: S608 - names of our own schema
        self._all = text(f"{into} {selected} {conflict}") if postgresql else None
        self._returned = text(f"{into} {selected} {conflict} RETURNING {returning}") if postgresql else None

    async def run(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        """Insert rows, in their order."""
        if self._all is not None:
            await connection.execute(self._all, {"rows": json_rows(rows)})
        elif rows:
            await connection.exec_driver_sql(self._each, [tuple(row) for row in rows])

    async def returned(self, connection: AsyncConnection, rows: str) -> Sequence[Any]:
        """Insert rows into PostgreSQL, and return what was asked for of those that were inserted.

        Args:
            connection: to PostgreSQL.
            rows: as JSON.
        """
        assert self._returned is not None
        return (await connection.execute(self._returned, {"rows": rows})).all()


class Statements:
    """Every bulk statement for one engine."""

    def __init__(self, *, postgresql: bool) -> None:
        self.insert_entries: Final = BulkInsert(
            schema.entries, "ON CONFLICT DO NOTHING", postgresql=postgresql, returning="account_id, month, call_id"
        )
        self.add_rollups: Final = [
            (_adding(rollups, postgresql=postgresql), _adding(calls, postgresql=postgresql))
            for rollups, calls in (
                (schema.rollups_daily, schema.calls_daily),
                (schema.rollups_monthly, schema.calls_monthly),
            )
        ]
        self.find_entries: Final = found("account_id, month, call_id", schema.entries, 3, postgresql=postgresql)
        """Which of the entry ids in ``rows`` are there."""


def found(columns: str, table: Table, key_columns: int, *, postgresql: bool) -> TextClause:
    """Return a SELECT of those rows whose keys are in ``rows``.

    Args:
        columns: what to select.
        table: of what.
        key_columns: how many of its columns, the first, are its key.
        postgresql: whether it is PostgreSQL.
    """
    keys = ", ".join(column.name for column in list(table.columns)[:key_columns])
    return text(
        f"SELECT {columns} FROM {table.name} WHERE ({keys}) IN "  # noqa: S608 - names of our own schema
        f"(SELECT {_fields(table, key_columns, postgresql=postgresql)} FROM {_source(postgresql=postgresql)})"
    )


def _adding(table: Table, *, postgresql: bool) -> BulkInsert:
    """An upsert that adds every column outside the key to what is there."""
    keys = ", ".join(column.name for column in table.primary_key)
    sums = ", ".join(
        f"{column.name} = {table.name}.{column.name} + excluded.{column.name}"
        for column in table.columns
        if not column.primary_key
    )
    return BulkInsert(table, f"ON CONFLICT ({keys}) DO UPDATE SET {sums}", postgresql=postgresql)


def _source(*, postgresql: bool) -> str:
    return "jsonb_array_elements(CAST(:rows AS jsonb)) AS sent (item)" if postgresql else "json_each(:rows) AS sent"


def _fields(table: Table, count: int, *, postgresql: bool) -> str:
    columns = list(table.columns)[:count]
    return ", ".join(_field(place, column.type, postgresql=postgresql) for place, column in enumerate(columns))


def _field(place: int, kind: TypeEngine[object], *, postgresql: bool) -> str:
    if not postgresql:
        return f"sent.value ->> {place}"
    field = f"sent.item ->> {place}"
    if isinstance(kind, Boolean):
        return f"CAST({field} AS boolean)"
    return f"CAST({field} AS bigint)" if kind is schema.BIG else field
