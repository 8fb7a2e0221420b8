"""Sums of the entries of spans of links: what rollups cannot tell, because they know no links.

What belongs here: the one statement. What does not: which spans (coverage.py).
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

import msgspec
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.usage import UsageType
from proxy.ledger import schema

AccountSpan = tuple[str, str, int, int]
"""Account id, month, after one link, up to another."""

_TYPES: Final = tuple(UsageType)
_KEY: Final = ("account_id", "month", "day", "model", "tariff_class", "price_version")


class LinkedSum(msgspec.Struct, frozen=True):
    """What the entries of a span used of one type, with one model, on one day."""

    account_id: str
    month: str
    day: str
    model: str
    tariff_class: str
    price_version: str
    usage_type: UsageType
    quantity: int
    cost_pico: int


async def linked_sums(
    connection: AsyncConnection, spans: Sequence[AccountSpan], *, postgresql: bool
) -> Iterable[LinkedSum]:
    """Return the sums of the entries of some spans, in one statement; what was used of nothing is left out."""
    if not spans:
        return []
    rows = msgspec.json.encode(spans).decode()
    return _sums((await connection.execute(_statement(postgresql=postgresql), {"rows": rows})).all())


def _sums(rows: Iterable[Any]) -> Iterable[LinkedSum]:
    for row in rows:
        account_id, month, day, model, tariff_class, version, *amounts = row
        for place, usage_type in enumerate(_TYPES):
            quantity, cost_pico = int(amounts[place]), int(amounts[len(_TYPES) + place])
            if quantity:
                yield LinkedSum(account_id, month, day, model, tariff_class, version, usage_type, quantity, cost_pico)


@cache
def _statement(*, postgresql: bool) -> TextClause:
    # A day's sum of one account and model stays far below 64 bits, as that of a rollup does.
    columns = [name(each) for name in (schema.quantity_column, schema.cost_column) for each in _TYPES]
    sums = ", ".join(f"SUM(entries.{column})" for column in columns)
    key = ", ".join(f"entries.{column}" for column in _KEY)
    if postgresql:
        fields = [f"sent.item ->> {place}" for place in range(2)]
        fields += [f"CAST(sent.item ->> {place} AS bigint)" for place in range(2, 4)]
        source = "jsonb_array_elements(CAST(:rows AS jsonb)) AS sent (item)"
    else:
        fields, source = [f"sent.value ->> {place}" for place in range(4)], "json_each(:rows) AS sent"
    account, month, after, link = fields
    return text(
        f"SELECT {key}, {sums} FROM {source} JOIN entries "  # noqa: S608 - names of our own schema
        f"ON entries.account_id = {account} AND entries.month = {month} "
        f"AND entries.link > {after} AND entries.link <= {link} GROUP BY {key}"
    )
