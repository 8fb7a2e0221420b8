"""The ledger: entries and their rollups, and what can be asked of them.

What belongs here: taking entries exactly once, a month's usage, and what a limiter that knows nothing must be
told. What does not: accounts, keys and credit (accounts.py, directory.py), and moving entries here
(shipper.py).
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.clock import unix_ms
from proxy.core.entries import Entry
from proxy.core.limits import Limit, LimitKind
from proxy.core.pricing import PriceBook
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger import prices
from proxy.ledger.chain import Batch, Chain, Head, Month
from proxy.ledger.database import Database
from proxy.ledger.outbox import Outbox
from proxy.ledger.rows import EntryId, entry_id, entry_of, sums_of
from proxy.ledger.schema import calls_monthly, entries, rollups_monthly
from proxy.ledger.seeds import latest_calls, share_of, spent_nano, window_amounts
from proxy.ledger.statements import Statements, json_rows
from proxy.limiter import Seed

_IDS_MAX: Final = 1000
_SEED_CALLS_MS: Final = 600_000
"""A settlement that is still on its way to a limiter which has lost its data is not older."""
LineKey = tuple[str, str, str, str]


class UsageLine(msgspec.Struct, frozen=True):
    """What an account used of one type, in one class, with one model, at one version's price; empty: at any's."""

    usage_type: UsageType
    tariff_class: TariffClass
    model: str
    quantity: int
    cost_pico: int
    price_version: str = ""


class MonthUsage(msgspec.Struct, frozen=True):
    """An account's billing month.

    Args:
        calls: how many, each counted once.
        cost_pico: sum over the lines.
        lines: in the order of model, class, type, price version.
    """

    calls: int
    cost_pico: int
    lines: tuple[UsageLine, ...]


class Ledger:
    """The one place where settled calls are kept for good.

    Args:
        database: migrated.
        outbox: this process's, whose entries count as used before they arrive; None: there is none.
        book: the prices, so that each version is kept with the entries that name it; None: they are not kept.
        clock_ms: Unix milliseconds.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox | None = None,
        book: PriceBook | None = None,
        clock_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._book = book
        self._clock_ms = clock_ms
        self._statements = Statements(postgresql=database.is_postgresql)
        self._chain = Chain(postgresql=database.is_postgresql)
        self._versions_kept: set[str] = set()

    def use_prices(self, book: PriceBook) -> None:
        """Keep the price versions of another book from now on (reloaded settings)."""
        self._book = book

    async def insert(self, new: Sequence[Entry]) -> int:
        """Take entries, all or none, each once, and seal them: one that is there already changes nothing.

        Returns:
            How many were new.

        Raises:
            LedgerUnavailableError: nothing is known; the same entries may be sent again.
            LedgerRefusedError: at least one of them can never be taken, and none was.
        """
        async with self._database.write() as connection:
            inserted = await self.insert_in(connection, new)
        self.committed(new)
        return inserted

    async def insert_in(self, connection: AsyncConnection, new: Sequence[Entry]) -> int:
        """Take entries as ``insert`` does, in a transaction of the caller's: say ``committed`` when it has ended well.

        Args:
            connection: in a transaction that writes. Heads of chains are locked in it until its end.
            new: entries.
        """
        batch = Batch(new)
        versions = self._versions_of(new)
        if versions and self._book is not None:
            await prices.keep(self._database, connection, self._book, versions, self._clock_ms())
        heads = await self._chain.lock(connection, batch.months)
        inserted = await self._insert_entries(connection, batch, heads)
        if inserted:
            await self._chain.add(connection, batch.links(heads, inserted, self._clock_ms()))
            await self._add_rollups(connection, (batch.entries[key] for key in inserted))
        return len(inserted)

    def committed(self, new: Sequence[Entry]) -> None:
        """The transaction that took these entries has been committed: their prices need not be kept again."""
        if self._book is not None:  # what it does not know yet is asked for again: a new book is on its way
            self._versions_kept |= self._versions_of(new) & {version.id for version in self._book.versions}

    def _versions_of(self, new: Sequence[Entry]) -> set[str]:
        return {entry.charge.price_version for entry in new} - self._versions_kept

    async def _insert_entries(
        self, connection: AsyncConnection, batch: Batch, heads: Mapping[Month, Head]
    ) -> Sequence[EntryId]:
        """Insert what is new of a batch, whose heads are locked, and return its ids."""
        if self._database.is_postgresql:
            rows = await self._statements.insert_entries.returned(connection, batch.json_rows(heads))
            return [(account_id, month, call_id) for account_id, month, call_id in rows]
        # SQLite's writer is alone: what is not there now is new.
        found = await connection.execute(self._statements.find_entries, {"rows": json_rows(list(batch.entries))})
        new = batch.entries.keys() - {(account_id, month, call_id) for account_id, month, call_id in found}
        await self._statements.insert_entries.run(connection, batch.rows(heads, sorted(new)))
        return list(new)

    async def _add_rollups(self, connection: AsyncConnection, inserted: Iterable[Entry]) -> None:
        for sums, (rollups, calls) in zip(sums_of(inserted), self._statements.add_rollups, strict=True):
            await rollups.run(connection, sums.rollup_rows())
            await calls.run(connection, sums.calls_rows())

    async def check_prices(self, book: PriceBook) -> None:
        """Refuse a price book that changes a version which entries were rated with.

        Raises:
            PriceVersionConflictError: it does.
            LedgerUnavailableError: the database does not answer.
        """
        async with self._database.read() as connection:
            await prices.check(connection, book)

    async def usage(self, account_id: str, month: str, pending: Collection[Entry] = ()) -> MonthUsage:
        """Return what an account used in a billing month, ``YYYY-MM``.

        Args:
            account_id: whose.
            month: of admission, in the account's time zone.
            pending: entries that were read from outboxes *before*: those that have arrived since are counted
                once.

        Raises:
            LedgerUnavailableError: the database does not answer.
        """
        table, calls_table = rollups_monthly.c, calls_monthly.c
        waiting = [entry for entry in pending if entry.account_id == account_id and entry.month == month]
        async with self._database.read() as connection:
            rollups = await connection.execute(
                select(
                    table.model,
                    table.tariff_class,
                    table.usage_type,
                    table.price_version,
                    table.quantity,
                    table.cost_pico,
                ).where(table.account_id == account_id, table.month == month)
            )
            counts = await connection.execute(
                select(calls_table.calls).where(calls_table.account_id == account_id, calls_table.month == month)
            )
            missing = await missing_entries(connection, self._statements, waiting)
        lines: dict[LineKey, list[int]] = defaultdict(lambda: [0, 0])
        for model, tariff_class, usage_type, version, quantity, cost_pico in rollups:
            line = lines[model, tariff_class, usage_type, version]
            line[0] += quantity
            line[1] += cost_pico
        for entry in missing:
            for charged in entry.charge.lines:
                key = (entry.model, entry.tariff_class.value, charged.usage_type.value, entry.charge.price_version)
                line = lines[key]
                line[0] += charged.amount
                line[1] += charged.cost_pico
        return month_usage(sum(count for (count,) in counts) + len(missing), lines)

    async def seed(self, account_id: str, limits: Sequence[Limit]) -> Seed:
        """Return what a limiter must know that knows nothing of an account: a ``proxy.limiter.SeedLoader``.

        Budgets get the month's cost, rounded up to a nano-euro once, in total: each call's own rounding up
        could only add a nano-euro a call. Windows get one amount for each of their buckets, stamped at the
        newest in it, so what is seeded never ages out early. A limit of a key or a model counts its own
        entries. Counted are the ledger and this process's outbox; what other replicas have not shipped yet is
        not. Named are the lines of batches whose segment is unsettled, and the calls of the last ten minutes, the
        latest 4,096 at most, in rising order of settlement.

        Raises:
            LedgerUnavailableError: the database does not answer.
            OutboxError: the outbox cannot be read.
        """
        pending = await self._outbox.pending_of(account_id) if self._outbox is not None else []
        now_ms = self._clock_ms()
        spent: dict[tuple[str, str], int] = {}
        windows: dict[str, tuple[tuple[int, int], ...]] = {}
        async with self._database.read() as connection:
            missing = await missing_entries(connection, self._statements, pending)
            for limit in limits:
                share = await share_of(connection, account_id, limit)
                if limit.kind is LimitKind.BUDGET:
                    nano = await spent_nano(connection, account_id, limit, share, missing)
                    spent[limit.stored_name, limit.period] = nano
                else:
                    amounts = await window_amounts(connection, account_id, limit, share, missing, now_ms)
                    windows[limit.stored_name] = amounts
            calls = await latest_calls(connection, account_id, missing, now_ms - _SEED_CALLS_MS)
        return Seed(spent, windows, calls)

    async def entries_of(self, account_id: str, month: str) -> list[Entry]:
        """Return an account's entries of a billing month, in the order of their call ids.

        Raises:
            LedgerUnavailableError: the database does not answer.
        """
        query = select(entries).where(entries.c.account_id == account_id, entries.c.month == month)
        async with self._database.read() as connection:
            rows = await connection.execute(query.order_by(entries.c.call_id))
            return [entry_of(dict(row)) for row in rows.mappings()]


async def missing_entries(
    connection: AsyncConnection, statements: Statements, pending: Collection[Entry]
) -> list[Entry]:
    """Return those of the entries that are not in the ledger's snapshot, each once."""
    by_id: dict[EntryId, Entry] = {}
    for entry in pending:
        by_id.setdefault(entry_id(entry), entry)
    ids = list(by_id)
    for start in range(0, len(ids), _IDS_MAX):
        found = await connection.execute(statements.find_entries, {"rows": json_rows(ids[start : start + _IDS_MAX])})
        for account_id, month, call_id in found:
            del by_id[account_id, month, call_id]
    return list(by_id.values())


def month_usage(calls: int, lines: Mapping[LineKey, Sequence[int]]) -> MonthUsage:
    """Return a period's sums, in order.

    Args:
        calls: how many.
        lines: quantity and pico-euros by model, class, type and price version (empty: all of them together).
    """
    order = {usage_type.value: place for place, usage_type in enumerate(UsageType)}
    classes = list(TariffClass)
    ordered = sorted(lines, key=lambda key: (key[0], classes.index(TariffClass(key[1])), order[key[2]], key[3]))
    used = []
    for key in ordered:
        (model, tariff_class, usage_type, version), (quantity, cost_pico) = key, lines[key]
        used.append(UsageLine(UsageType(usage_type), TariffClass(tariff_class), model, quantity, cost_pico, version))
    return MonthUsage(calls, sum(line.cost_pico for line in used), tuple(used))
