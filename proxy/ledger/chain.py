"""The chain that seals entries, written: the heads that a commit locks, and the links that it adds.

What belongs here: its statements, and which entries a link is made of. What does not: the format (core/chain.py), the
transaction (store.py), and reading it all again (chain_reading.py).

Whoever brings entries first locks the heads of their (account, month) pairs, in the order of their keys: shippers wait
for one another where they have an account's month in common, and never in a circle. What a link says is true of the
commit as a whole, so ``link <= N`` is a month as it was at some moment, with its rollups.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from sqlalchemy import Insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.chain import NO_HEAD, batch_digest, entry_bytes, entry_digest, next_head, pack_leaves
from proxy.core.entries import Entry
from proxy.ledger.invoice_schema import chain_heads, chain_links
from proxy.ledger.rows import EntryId, entry_id, values_of
from proxy.ledger.statements import BulkInsert, Row, found, json_rows

Month = tuple[str, str]
"""Account id, month."""


class Head(NamedTuple):
    """How far a chain has come.

    Attributes:
        link: how many links it has.
        head: the last one's head; ``NO_HEAD``: there is none.
    """

    link: int
    head: str


NOTHING: Final = Head(0, NO_HEAD)


class Batch:
    """What one commit brings: entries in the order of their ids, each once, and the bytes that are sealed.

    Args:
        new: entries; of two with the same id the first counts.
    """

    def __init__(self, new: Iterable[Entry]) -> None:
        by_id: dict[EntryId, Entry] = {}
        for entry in new:
            by_id.setdefault(entry_id(entry), entry)
        # Sorted: the order in which rows are locked is the same for every shipper, so they never deadlock.
        self.entries: Final = {key: by_id[key] for key in sorted(by_id)}
        self.months: Final[Sequence[Month]] = [month for month, _ in groupby(self.entries, key=_month_of)]
        self._values = {key: values_of(entry) for key, entry in self.entries.items()}
        self._canonical = {key: entry_bytes(values) for key, values in self._values.items()}

    def rows(self, heads: Mapping[Month, Head], ids: Iterable[EntryId]) -> Sequence[Row]:
        """Return rows of ``entries``, each with the link that comes after its month's head."""
        return [(*self._values[key], heads[key[0], key[1]].link + 1) for key in ids]

    def json_rows(self, heads: Mapping[Month, Head]) -> str:
        """Return all of them as JSON."""
        # The canonical bytes are the row but for its link: a JSON array, to which one more value is added.
        rows = (b"%b,%d]" % (row[:-1], heads[key[0], key[1]].link + 1) for key, row in self._canonical.items())
        return (b"[%b]" % b",".join(rows)).decode()

    def links(self, heads: Mapping[Month, Head], inserted: Iterable[EntryId], sealed_ms: int) -> Iterator["Link"]:
        """Yield a link for each month that was really brought something, in the order of their keys."""
        for month, ids in groupby(sorted(inserted), key=_month_of):
            leaves = [(key[2], entry_digest(self._canonical[key])) for key in ids]
            previous, count = heads[month], len(leaves)
            link = previous.link + 1
            head = next_head(previous.head, *month, link, count, sealed_ms, batch_digest(leaves))
            yield Link(*month, link, count, pack_leaves(leaves), head, sealed_ms)


class Link(NamedTuple):
    """A row of ``chain_links``."""

    account_id: str
    month: str
    link: int
    entries: int
    leaves: bytes
    head: str
    sealed_ms: int


class Chain:
    """The statements that write it, for one engine.

    Args:
        postgresql: whether it is PostgreSQL.
    """

    def __init__(self, *, postgresql: bool) -> None:
        key = "ON CONFLICT (account_id, month) DO UPDATE SET link = excluded.link"
        # WHERE false: PostgreSQL locks the row all the same, and writes none (its documentation of INSERT). SQLite's
        # writer has the database for itself.
        self._lock = BulkInsert(chain_heads, f"{key} WHERE false", postgresql=True) if postgresql else None
        self._find = found("account_id, month, link, head", chain_heads, 2, postgresql=postgresql)
        self._set = BulkInsert(chain_heads, f"{key}, head = excluded.head", postgresql=postgresql)
        self._add: Insert = chain_links.insert()

    async def lock(self, connection: AsyncConnection, months: Sequence[Month]) -> Mapping[Month, Head]:
        """Lock the heads of months until the transaction ends, and return them.

        Args:
            connection: in a transaction that writes.
            months: in the order of their keys.
        """
        if self._lock is not None:
            await self._lock.run(connection, [(*month, *NOTHING) for month in months])
        # A statement of its own: it sees what was committed while the one before waited.
        rows = await connection.execute(self._find, {"rows": json_rows(months)})
        found = {(account_id, month): Head(link, head) for account_id, month, link, head in rows}
        return {month: found.get(month, NOTHING) for month in months}

    async def add(self, connection: AsyncConnection, links: Iterable[Link]) -> None:
        """Add links, and move the heads of their months, which are locked."""
        added = list(links)
        await connection.execute(self._add, [link._asdict() for link in added])
        await self._set.run(connection, [(link.account_id, link.month, link.link, link.head) for link in added])


async def head_of(connection: AsyncConnection, account_id: str, month: str) -> Head:
    """Return how far a month's chain has come, in the snapshot of a connection."""
    table = chain_heads.c
    query = select(table.link, table.head).where(table.account_id == account_id, table.month == month)
    row = (await connection.execute(query)).one_or_none()
    return NOTHING if row is None else Head(row.link, row.head)


def _month_of(key: EntryId) -> Month:
    return key[0], key[1]
