"""The statements that move many rows at once, in the dialect of either engine.

What belongs here: text of SQL made from the schema. What does not: running it (store.py).

Rows travel as one parameter, a JSON array of arrays: however many there are, the statement is one, prepared
once, and little of it is Python. Integers stay exact that way on both engines (``numeric`` in PostgreSQL, 64
bits in SQLite).
"""

from typing import Final

from sqlalchemy import Boolean, Table, TextClause, text
from sqlalchemy.types import TypeEngine

from proxy.ledger import schema


class Bulk:
    """How rows that come as the parameter ``rows`` are read by one engine.

    Args:
        postgresql: whether it is PostgreSQL.
    """

    def __init__(self, *, postgresql: bool) -> None:
        self._postgresql = postgresql
        self.source: Final = (
            "jsonb_array_elements(CAST(:rows AS jsonb)) AS sent (item)" if postgresql else "json_each(:rows) AS sent"
        )
        """What to select from."""

    def fields(self, table: Table, count: int) -> str:
        """Return the first fields of a row that was sent, as the types of a table's first columns."""
        columns = list(table.columns)[:count]
        return ", ".join(self._field(place, column.type) for place, column in enumerate(columns))

    def insert(self, table: Table, conflict: str) -> TextClause:
        """Return an INSERT of whole rows, and what happens to those that are there already."""
        names = ", ".join(column.name for column in table.columns)
        # WHERE true: without it SQLite reads ON CONFLICT as a join's condition (its documentation of UPSERT,
        # 2.2).
        return text(
            f"INSERT INTO {table.name} ({names}) "  # noqa: S608 - names of our own schema
            f"SELECT {self.fields(table, len(table.columns))} FROM {self.source} WHERE true {conflict}"
        )

    def _field(self, place: int, kind: TypeEngine[object]) -> str:
        if not self._postgresql:
            return f"sent.value ->> {place}"
        field = f"sent.item ->> {place}"
        if isinstance(kind, Boolean):
            return f"CAST({field} AS boolean)"
        return f"CAST({field} AS bigint)" if kind is schema.BIG else field


class Statements:
    """Every bulk statement for one engine; each takes ``rows``."""

    def __init__(self, *, postgresql: bool) -> None:
        bulk = Bulk(postgresql=postgresql)
        self.insert_entries: Final = bulk.insert(
            schema.entries, "ON CONFLICT DO NOTHING RETURNING account_id, month, call_id"
        )
        self.add_rollups: Final = [
            (_adding(bulk, schema.rollups_daily), _adding(bulk, schema.calls_daily)),
            (_adding(bulk, schema.rollups_monthly), _adding(bulk, schema.calls_monthly)),
        ]
        table = schema.entries.name
        self.find_entries: Final = text(
            f"SELECT account_id, month, call_id FROM {table} "  # noqa: S608 - names of our own schema
            "WHERE (account_id, month, call_id) IN "
            f"(SELECT {bulk.fields(schema.entries, 3)} FROM {bulk.source})"
        )
        """Which of the entry ids in ``rows`` are there."""


def _adding(bulk: Bulk, table: Table) -> TextClause:
    """An upsert that adds every column outside the key to what is there."""
    keys = ", ".join(column.name for column in table.primary_key)
    sums = ", ".join(
        f"{column.name} = {table.name}.{column.name} + excluded.{column.name}"
        for column in table.columns
        if not column.primary_key
    )
    return bulk.insert(table, f"ON CONFLICT ({keys}) DO UPDATE SET {sums}")
