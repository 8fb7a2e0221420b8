"""Sums of entries, as others count them: by account and key for budgets, by upstream and model for counters.

What belongs here: what is held against something outside the ledger that counts the same calls. What does not: the
rollups (recount.py), what others have counted, and judging the difference (reconciling/).

Entries that wait in outboxes are given by the caller, who read them *before*: those that have arrived since count once.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, and_, case, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.entries import Entry, Outcome
from proxy.core.money import PICO_PER_NANO, nano_from_pico_up
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.batches.untold import UNTOLD
from proxy.ledger.database import Database
from proxy.ledger.recount import MEGA
from proxy.ledger.rows import values_of
from proxy.ledger.schema import accounts, cost_column, entries, quantity_column
from proxy.ledger.statements import Statements
from proxy.ledger.store import missing_entries

_TYPES: Final = tuple(UsageType)
_COLUMN: Final = {column.name: place for place, column in enumerate(entries.columns)}

Holder = tuple[str, str, str]
"""Account id, key id, month."""


class Spent:
    """What some entries cost, and what it is in nano-euros if each is rounded up by itself."""

    __slots__ = ("nano_each_up", "pico")

    def __init__(self, pico: int = 0, nano_each_up: int = 0) -> None:
        self.pico = pico
        self.nano_each_up = nano_each_up

    def add(self, other: "Spent") -> None:
        """Add what other entries cost."""
        self.pico += other.pico
        self.nano_each_up += other.nano_each_up


class SpentSums(msgspec.Struct, frozen=True):
    """What was spent.

    Args:
        settled: by holder and month.
        noted: the same of calls in flight, as far as they have noted it.
        ever: by account, of those that were asked for: everything that they ever spent.
        ever_noted: the same of calls in flight.
        untold: of what is settled, the lines of batches that the limiter may not have been told of.
        ever_untold: the same of everything ever.
    """

    settled: dict[Holder, Spent]
    noted: dict[Holder, Spent]
    ever: dict[str, Spent]
    ever_noted: dict[str, Spent]
    untold: dict[Holder, Spent]
    ever_untold: dict[str, Spent]


class Source(msgspec.Struct, frozen=True):
    """What served some calls, and in which price class."""

    upstream: str
    model: str
    tariff_class: TariffClass


class Served(msgspec.Struct):
    """What calls of one source used.

    Args:
        calls: how many.
        unfinished: those of them that did not come to their own end.
        unbilled: those of them that an upstream failed and that cost nothing.
        quantities: by usage type, in its order.
        costs_pico: the same in pico-euros.
        estimated: of the quantities, those of calls that have an estimate in them.
    """

    calls: int = 0
    unfinished: int = 0
    unbilled: int = 0
    quantities: list[int] = msgspec.field(default_factory=lambda: [0] * len(_TYPES))
    costs_pico: list[int] = msgspec.field(default_factory=lambda: [0] * len(_TYPES))
    estimated: list[int] = msgspec.field(default_factory=lambda: [0] * len(_TYPES))

    def add(self, other: "Served") -> None:
        """Add what other calls used."""
        self.calls += other.calls
        self.unfinished += other.unfinished
        self.unbilled += other.unbilled
        for mine, theirs in (
            (self.quantities, other.quantities),
            (self.costs_pico, other.costs_pico),
            (self.estimated, other.estimated),
        ):
            for place, amount in enumerate(theirs):
                mine[place] += amount


class Totals:
    """Sums the ledger, and what waits for it.

    Every method raises ``LedgerUnavailableError`` when the database does not answer.

    Args:
        database: migrated. A sum over all entries counts as one statement: give it time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements = Statements(postgresql=database.is_postgresql)

    async def spent(
        self,
        months: Collection[str],
        ever: Collection[str],
        waiting: Collection[Entry] = (),
        noted: Collection[Entry] = (),
    ) -> SpentSums:
        """Return what was spent in some months by every key, and ever by some accounts, as of one instant."""
        table = entries.c
        by_holder = (table.account_id, table.key_id, table.month)
        async with self._database.read() as connection:
            missing = await missing_entries(connection, self._statements, waiting)
            in_flight = await missing_entries(connection, self._statements, noted)
            settled = await _spent(connection, by_holder, table.month.in_(sorted(months)))
            for_ever = await _spent(connection, (table.account_id,), table.account_id.in_(sorted(ever)))
            untold = await _spent(connection, by_holder, _UNTOLD)
        sums = SpentSums({}, {}, {}, {}, {}, {})
        for row in settled:
            sums.settled[row[0], row[1], row[2]] = _spent_of(*row[3:])
        for row in for_ever:
            sums.ever[row[0]] = _spent_of(*row[1:])
        for row in untold:
            sums.untold[row[0], row[1], row[2]] = spent = _spent_of(*row[3:])
            sums.ever_untold.setdefault(row[0], Spent()).add(spent)
        known = {entry.call_id for entry in missing}
        in_flight = [entry for entry in in_flight if entry.call_id not in known]
        for some, by_key, by_account in ((missing, sums.settled, sums.ever), (in_flight, sums.noted, sums.ever_noted)):
            for entry in some:
                cost = Spent(entry.charge.total_pico, nano_from_pico_up(entry.charge.total_pico))
                by_key.setdefault((entry.account_id, entry.key_id, entry.month), Spent()).add(cost)
                by_account.setdefault(entry.account_id, Spent()).add(cost)
        return sums

    async def served_since(
        self, since_ms: Collection[int], waiting: Collection[Entry] = ()
    ) -> dict[int, dict[Source, Served]]:
        """Return, for each of some instants, what has been settled from it on, all as of one instant.

        Args:
            since_ms: Unix milliseconds.
            waiting: entries that were read from outboxes before.
        """
        async with self._database.read() as connection:
            missing = await missing_entries(connection, self._statements, waiting)
            return {instant_ms: await _served(connection, instant_ms, missing) for instant_ms in sorted({*since_ms})}


_UNTOLD: Final = tuple_(entries.c.account_id, entries.c.month, entries.c.call_id).in_(UNTOLD)


async def _spent(
    connection: AsyncConnection, by: Collection[ColumnElement[Any]], which: ColumnElement[bool]
) -> list[Any]:
    cost = entries.c.cost_pico
    each_up = (cost + (PICO_PER_NANO - 1)) // PICO_PER_NANO
    query = select(*by, func.sum(cost // MEGA), func.sum(cost % MEGA), func.sum(each_up)).where(which).group_by(*by)
    return list(await connection.execute(query))


def _spent_of(millions: int, rest: int, nano_each_up: int) -> Spent:
    return Spent(int(millions) * MEGA + int(rest), int(nano_each_up))


async def _served(connection: AsyncConnection, since_ms: int, missing: Iterable[Entry]) -> dict[Source, Served]:
    table = entries.c
    by = (table.upstream, table.model, table.tariff_class)
    sums: list[ColumnElement[Any]] = [func.count(), _count(table.outcome != Outcome.FINISHED.value), _count(_UNBILLED)]
    for usage_type in _TYPES:
        quantity, cost = table[quantity_column(usage_type)], table[cost_column(usage_type)]
        sums += [
            func.sum(quantity),
            func.sum(cost // MEGA),
            func.sum(cost % MEGA),
            func.sum(case((table.estimated, quantity), else_=0)),
        ]
    query = select(*by, *sums).where(table.settled_ms >= since_ms).group_by(*by)
    # Named by its account, an entry is found by the index on (account, settled).
    query = query.where(table.account_id.in_(select(accounts.c.id)))
    found: defaultdict[Source, Served] = defaultdict(Served)
    for upstream, model, tariff_class, calls, unfinished, unbilled, *numbers in await connection.execute(query):
        quantities, millions, rests, estimated = ([int(number) for number in numbers[i::4]] for i in range(4))
        costs = [million * MEGA + rest for million, rest in zip(millions, rests, strict=True)]
        source = Source(upstream, model, TariffClass(tariff_class))
        found[source].add(Served(int(calls), int(unfinished), int(unbilled), quantities, costs, estimated))
    for entry in missing:
        if entry.settled_ms >= since_ms:
            found[Source(entry.upstream, entry.model, entry.tariff_class)].add(_served_by(entry))
    return found


def _count(which: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.sum(case((which, 1), else_=0))


_UNBILLED: Final = and_(
    entries.c.outcome == Outcome.UPSTREAM_FAILED.value,
    ~or_(*(entries.c[quantity_column(usage_type)] > 0 for usage_type in _TYPES)),
)


def _served_by(entry: Entry) -> Served:
    row = values_of(entry)
    quantities = [int(row[_COLUMN[quantity_column(usage_type)]]) for usage_type in _TYPES]
    costs = [int(row[_COLUMN[cost_column(usage_type)]]) for usage_type in _TYPES]
    failed = entry.outcome is Outcome.UPSTREAM_FAILED and not any(quantities)
    estimated = quantities if row[_COLUMN["estimated"]] else [0] * len(_TYPES)
    return Served(1, int(entry.outcome is not Outcome.FINISHED), int(failed), quantities, costs, list(estimated))
