"""Chains as they are kept, read back link by link beside their entries: for ``tollgate verify``.

What belongs here: which months there are, and reading one in order, in one snapshot. What does not: judging
(core/chain_audit.py). Nothing is written.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Select, collate, func, select, union
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.chain import FIELDS, FLAGS, entry_bytes
from proxy.core.chain_audit import MonthAudit, MonthReport, PrintedHead, StoredLink
from proxy.core.invoicing.document import ChainMark
from proxy.ledger.accounts import find_account
from proxy.ledger.chain import Month
from proxy.ledger.database import Database
from proxy.ledger.invoice_schema import chain_heads, chain_links, invoices
from proxy.ledger.schema import accounts, calls_monthly, entries

ROWS: Final = 2000
"""How many entries are in memory at a time."""
LINKS: Final = 100
"""How many links, each with the leaves of a commit."""

_CALL_ID: Final = FIELDS.index("call_id")
_FLAGS: Final = tuple(FIELDS.index(name) for name in FLAGS)


class _Said(msgspec.Struct):
    """What a document says of chains (core.invoicing.document.Invoice)."""

    chain: tuple[ChainMark, ...] = ()


class Chained(msgspec.Struct, frozen=True):
    """Whose chains there are to go through.

    Args:
        months: account id and month of each, in order.
        names: of accounts, by id; entries outlive accounts.
        printed: the heads that documents have printed, by account id and month.
        calls: how many entries there are, as the rollups say: for progress only.
    """

    months: tuple[Month, ...]
    names: dict[str, str]
    printed: dict[Month, tuple[PrintedHead, ...]]
    calls: int


class ChainReading:
    """Reads chains. Every method raises ``LedgerUnavailableError`` when the database does not answer.

    Args:
        database: migrated. Sorting an account's month counts as one statement: give it time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def chained(self, month: str | None = None, name: str | None = None) -> Chained:
        """Return the months that have entries, links, a head or a document that prints one.

        Args:
            month: this one only, ``YYYY-MM``.
            name: of this account only, by name or id.

        Raises:
            UnknownAccountError: there is no such account.
        """
        async with self._database.read() as connection:
            account_id = None if name is None else (await find_account(connection, name)).id
            kept = union(*(_months(table, month, account_id) for table in (entries, chain_links, chain_heads)))
            months = {(row.account_id, row.month) for row in await connection.execute(kept)}
            printed = await _printed(connection, month, account_id)
            names = {row.id: row.name for row in await connection.execute(select(accounts.c.id, accounts.c.name))}
            counted = _where(select(func.sum(calls_monthly.c.calls)), calls_monthly, month, account_id)
            calls = int((await connection.execute(counted)).scalar() or 0)
        return Chained(tuple(sorted(months | printed.keys())), names, printed, calls)

    async def audit(
        self, key: Month, printed: Iterable[PrintedHead] = (), told: Callable[[int], None] = lambda _entries: None
    ) -> MonthReport:
        """Go through a month, in one snapshot.

        Args:
            key: account id and month.
            printed: the heads of it that documents have printed.
            told: called now and then with the number of entries that were read since.
        """
        audit = MonthAudit(*key, printed)
        async with self._database.read() as connection:
            links = _links(connection, *key)
            following = await anext(links, None)
            async for rows in self._entries(connection, *key):
                for *values, link in rows:
                    while following is not None and following.link <= link:
                        audit.link(following)
                        following = await anext(links, None)
                    for place in _FLAGS:  # SQLite has them as numbers
                        values[place] = bool(values[place])
                    audit.entry(link, values[_CALL_ID], entry_bytes(values))
                told(len(rows))
            while following is not None:
                audit.link(following)
                following = await anext(links, None)
            table = chain_heads.c
            query = select(table.link, table.head).where(table.account_id == key[0], table.month == key[1])
            last = (await connection.execute(query)).one_or_none()
        return audit.close(None if last is None else (last.link, last.head))

    async def _entries(self, connection: AsyncConnection, account_id: str, month: str) -> AsyncGenerator[Sequence[Any]]:
        """Yield entries in the order of their links, and of the bytes of their call ids."""
        table = entries.c
        bytewise = collate(table.call_id, "C") if self._database.is_postgresql else table.call_id
        query = select(*(table[name] for name in FIELDS), table.link).where(
            table.account_id == account_id, table.month == month
        )
        ordered = query.order_by(table.link, bytewise).execution_options(yield_per=ROWS)
        result = await connection.stream(ordered)
        try:
            async for rows in result.partitions():
                yield rows
        finally:
            await result.close()


async def _links(connection: AsyncConnection, account_id: str, month: str) -> AsyncGenerator[StoredLink]:
    table, after = chain_links.c, None
    query = (
        select(table.link, table.entries, table.leaves, table.head, table.sealed_ms)
        .where(table.account_id == account_id, table.month == month)
        .order_by(table.link)
        .limit(LINKS)
    )
    while True:
        page = query if after is None else query.where(table.link > after)
        rows = (await connection.execute(page)).all()
        for row in rows:
            yield StoredLink(*row)
        if len(rows) < LINKS:
            return
        after = rows[-1].link


async def _printed(
    connection: AsyncConnection, month: str | None, account_id: str | None
) -> dict[Month, tuple[PrintedHead, ...]]:
    table = invoices.c
    query = select(table.account_id, table.month, table.number, table.document).order_by(table.number)
    if account_id is not None:
        query = query.where(table.account_id == account_id)
    found: defaultdict[Month, list[PrintedHead]] = defaultdict(list)
    result = await connection.stream(query.execution_options(yield_per=LINKS))
    try:
        async for of, own_month, number, document in result:
            for mark in _marks(own_month, document):
                if month in (None, mark.month):
                    found[of, mark.month].append(PrintedHead(number, mark.link, mark.head))
    finally:
        await result.close()
    return {key: tuple(marks) for key, marks in found.items()}


def _marks(month: str, document: str) -> tuple[ChainMark, ...]:
    """Return the heads that a document has printed; one of link 0, if it cannot be read any more."""
    try:
        said = msgspec.json.decode(document, type=_Said).chain
    except msgspec.DecodeError:
        return (ChainMark(month, 0, 0, ""),)
    return tuple(mark for mark in said if mark.link)


def _months(table: Any, month: str | None, account_id: str | None) -> Select[Any]:  # noqa: ANN401 - any table
    return _where(select(table.c.account_id, table.c.month).distinct(), table, month, account_id)


def _where(query: Select[Any], table: Any, month: str | None, account_id: str | None) -> Select[Any]:  # noqa: ANN401
    if month is not None:
        query = query.where(table.c.month == month)
    return query if account_id is None else query.where(table.c.account_id == account_id)
