"""A month's entries in the order of their admission, and who made them: for a replay.

What belongs here: reading, as a stream whose memory does not grow with the month. What does not: replaying (replay/),
and what customers and invoices ask of a month (reading.py, store.py). Nothing is written.

An account is read in one snapshot. The database sorts its month and hands it over through a cursor, a few thousand rows
at a time; before it come the calls of the month before that the windows still count when the month begins.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.clock import unix_ms
from proxy.core.accounts import Account, Key
from proxy.core.calendar import month_bounds_ms
from proxy.core.levels import Overridable, Override
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.accounts import ACCOUNTS, account_of, find_account
from proxy.ledger.database import Database
from proxy.ledger.keys import key_of
from proxy.ledger.schema import account_tiers, accounts, calls_monthly, entries, keys, limit_overrides, quantity_column
from proxy.ledger.tiers import standing_changes

WINDOW_MAX_MS: Final = 86_400_000
"""The longest window that there can be: what was settled longer before the month does not count in it."""
FLIGHT_MAX_MS: Final = 86_400_000
"""A call that was admitted before the month has ended so long after its beginning at the latest."""
ROWS: Final = 2000
"""How many rows are in memory at a time."""


class SettledCall(msgspec.Struct, frozen=True, weakref=True):
    """What a replay must know of an entry.

    Args:
        call_id, month, key_id, tier, endpoint, model, tariff_class, admitted_ms, settled_ms: as in ``Entry``.
        cost_pico: what it was charged.
        quantities: what it used, in the order of ``UsageType``.
    """

    call_id: str
    month: str
    key_id: str
    tier: str
    endpoint: str
    model: str
    tariff_class: str
    admitted_ms: int
    settled_ms: int
    cost_pico: int
    quantities: tuple[int, ...]


class SpannedOverride(msgspec.Struct, frozen=True):
    """An override and since when it was there; one that was given up early ends then."""

    since_ms: int
    override: Override


class Holder(msgspec.Struct, frozen=True):
    """An account in a month.

    Args:
        account: as it is now.
        month_starts_ms: first instant of the month in its time zone, Unix milliseconds.
        calls: how many it made in the month.
        tiers: ids of those that it held in the month, in order; the one that it holds now, if it made no calls.
        overrides: what it had otherwise in the month or in the windows before it, in the order in which they were set.
        keys: those that have limits of their own, as they are now, by id.
    """

    account: Account
    month_starts_ms: int
    calls: int
    tiers: tuple[str, ...]
    overrides: tuple[SpannedOverride, ...] = ()
    keys: dict[str, Key] = {}


class MonthsEntries:
    """Reads months.

    Every method raises ``LedgerUnavailableError`` when the database does not answer.

    Args:
        database: migrated. The sorting of a large month counts as one statement: give it time.
        clock_ms: Unix milliseconds.
    """

    def __init__(self, database: Database, clock_ms: Callable[[], int] = unix_ms) -> None:
        self._database = database
        self._clock_ms = clock_ms

    async def holders(self, month: str, name: str | None = None) -> list[Holder]:
        """Return every account, or the one of a name or id, as it was in a month; by name.

        Raises:
            UnknownAccountError: there is none of that name.
        """
        async with self._database.read() as connection:
            only = None if name is None else (await find_account(connection, name)).id
            counted = select(calls_monthly.c.account_id, func.sum(calls_monthly.c.calls)).where(
                calls_monthly.c.month == month
            )
            if only is not None:
                counted = counted.where(calls_monthly.c.account_id == only)
            rows = await connection.execute(counted.group_by(calls_monthly.c.account_id))
            calls = {account_id: int(count) for account_id, count in rows}
            query = ACCOUNTS if only is None else ACCOUNTS.where(accounts.c.id == only)
            now_ms = self._clock_ms()
            known = {row.id: account_of(row).at(now_ms) for row in await connection.execute(query)}
            for account_id in calls.keys() - known.keys():  # entries outlive everything
                known[account_id] = Account(account_id, account_id, "")
            tiers = await standing_changes(connection, None if only is None else account_tiers.c.account_id == only)
            overrides = await _overrides(connection, only)
            limited = await _limited_keys(connection, only)
        return sorted(
            (
                _holder(account, month, calls.get(id_, 0), tiers[id_], overrides[id_], limited[id_])
                for id_, account in known.items()
            ),
            key=lambda holder: (holder.account.name, holder.account.id),
        )

    async def calls(self, holder: Holder, month: str) -> AsyncGenerator[Sequence[SettledCall], None]:
        """Yield an account's calls in the order of their admission, those before the month that still count first.

        Lines of batches count in no window: none of those before it is among them.
        """
        table, starts_ms = entries.c, holder.month_starts_ms
        before = _CALLS.where(
            table.account_id == holder.account.id,
            table.month < month,
            table.settled_ms > starts_ms - WINDOW_MAX_MS,
            table.settled_ms < starts_ms + FLIGHT_MAX_MS,
            table.tariff_class != TariffClass.BATCH.value,
        )
        within = _CALLS.where(table.account_id == holder.account.id, table.month == month)
        async with self._database.read() as connection:
            for query in (before, within):
                async for rows in _streamed(connection, query.order_by(table.admitted_ms, table.call_id)):
                    yield [_call(*row) for row in rows]


def _call(
    call_id: str,
    month: str,
    key_id: str,
    tier: str,
    endpoint: str,
    model: str,
    tariff_class: str,
    admitted_ms: int,
    settled_ms: int,
    cost_pico: int,
    *quantities: int,
) -> SettledCall:
    return SettledCall(
        call_id,
        month,
        key_id,
        tier,
        endpoint,
        model,
        tariff_class,
        admitted_ms,
        settled_ms,
        cost_pico,
        quantities,
    )


async def _streamed(connection: AsyncConnection, query: Select[Any]) -> AsyncGenerator[Sequence[Any], None]:
    result = await connection.stream(query.execution_options(yield_per=ROWS))
    try:
        async for rows in result.partitions():
            yield rows
    finally:
        await result.close()


def _holder(
    account: Account,
    month: str,
    calls: int,
    changes: Sequence[tuple[int, str]],
    overrides: Sequence[SpannedOverride],
    limited: dict[str, Key],
) -> Holder:
    starts_ms, ends_ms = month_bounds_ms(month, account.timezone)
    held = [tier for since_ms, tier in changes if since_ms <= starts_ms][-1:]
    held += [tier for since_ms, tier in changes if starts_ms < since_ms < ends_ms]
    if not calls or not held:
        held = [account.tier] if account.tier else []
    spanned = tuple(
        span for span in overrides if span.since_ms < ends_ms and span.override.ends_ms > starts_ms - WINDOW_MAX_MS
    )
    return Holder(account, starts_ms, calls, tuple(dict.fromkeys(held)), spanned, limited)


async def _overrides(connection: AsyncConnection, only: str | None) -> defaultdict[str, list[SpannedOverride]]:
    table = limit_overrides.c
    query = select(
        table.account_id, table.limit_name, table.amount, table.set_ms, table.ends_ms, table.dropped_ms
    ).order_by(table.set_ms, table.id)
    found: defaultdict[str, list[SpannedOverride]] = defaultdict(list)
    for account_id, name, amount, set_ms, ends_ms, dropped_ms in await connection.execute(
        _of(query, table.account_id, only)
    ):
        until_ms = ends_ms if dropped_ms is None else min(ends_ms, dropped_ms)
        found[account_id].append(SpannedOverride(set_ms, Override(Overridable(name), amount, until_ms)))
    return found


async def _limited_keys(connection: AsyncConnection, only: str | None) -> defaultdict[str, dict[str, Key]]:
    found: defaultdict[str, dict[str, Key]] = defaultdict(dict)
    for row in await connection.execute(_of(select(keys), keys.c.account_id, only)):
        key = key_of(row)
        if key.limits is not None:
            found[key.account_id][key.id] = key
    return found


def _of(query: Select[Any], column: Any, only: str | None) -> Select[Any]:  # noqa: ANN401 - a column of any table
    return query if only is None else query.where(column == only)


_CALLS: Final = select(
    entries.c.call_id,
    entries.c.month,
    entries.c.key_id,
    entries.c.tier,
    entries.c.endpoint,
    entries.c.model,
    entries.c.tariff_class,
    entries.c.admitted_ms,
    entries.c.settled_ms,
    entries.c.cost_pico,
    *(entries.c[quantity_column(usage_type)] for usage_type in UsageType),
)
