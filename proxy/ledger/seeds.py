"""Seeds: what of an account's entries a limiter must know that knows nothing of it.

What belongs here: which entries a limit counts, and their sums as budgets and windows need them. What does not: the
ledger itself (store.py), and what a limiter does with a seed (limiter/seeding.py).

A limit counts all entries of its account, or those of a key (and of the keys before it whose place it has taken), or
those with a model: its name says which, its scope says whose.
"""

from collections.abc import Callable, Iterable
from typing import Final

from sqlalchemy import ColumnElement, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.entries import Entry
from proxy.core.limit_names import KEY_NAMES, MODEL_NAMES, model_of_scope
from proxy.core.limits import Limit, Measure, Stamp
from proxy.core.money import nano_from_pico_up
from proxy.core.usage import TariffClass
from proxy.ledger.batches.untold import UNTOLD
from proxy.ledger.rows import output_tokens
from proxy.ledger.schema import entries, keys, rollups_monthly

_MEGA: Final = 1_000_000
_CALLS_MAX: Final = 4096


class Share:
    """The entries of an account that a limit counts, in the database and elsewhere."""

    def __init__(self, clause: ColumnElement[bool], takes: Callable[[Entry], bool], *, is_whole: bool = False) -> None:
        self.clause = clause
        self.takes = takes
        self.is_whole = is_whole


async def share_of(connection: AsyncConnection, account_id: str, limit: Limit) -> Share:
    """Return which entries a limit counts."""
    if limit.name in KEY_NAMES:
        own = or_(keys.c.id == limit.scope, keys.c.limits_scope == limit.scope)
        found = await connection.execute(select(keys.c.id).where(keys.c.account_id == account_id, own))
        ids = frozenset({limit.scope, *found.scalars()})
        return Share(entries.c.key_id.in_(sorted(ids)), lambda entry: entry.key_id in ids)
    if limit.name in MODEL_NAMES:
        model = model_of_scope(limit.scope)
        return Share(entries.c.model == model, lambda entry: entry.model == model)
    return Share(true(), lambda _: True, is_whole=True)


async def spent_nano(
    connection: AsyncConnection, account_id: str, limit: Limit, share: Share, missing: Iterable[Entry]
) -> int:
    """Return what has been spent of a budget, rounded up to a nano-euro once, in total; without a period, ever."""
    month = limit.period
    spent_pico = sum(entry.charge.total_pico for entry in missing if month in ("", entry.month) and share.takes(entry))
    if share.is_whole:
        table = rollups_monthly.c
        query = select(table.cost_pico).where(table.account_id == account_id)
        costs = await connection.execute(query.where(table.month == month) if month else query)
        return nano_from_pico_up(spent_pico + sum(costs.scalars()))
    cost = entries.c.cost_pico
    # In two parts, each far from the end of 64 bits, where SQLite fails.
    millions, rest = (
        await connection.execute(
            select(func.sum(cost // _MEGA), func.sum(cost % _MEGA)).where(
                entries.c.account_id == account_id, entries.c.month == month, share.clause
            )
        )
    ).one()
    return nano_from_pico_up(spent_pico + int(millions or 0) * _MEGA + int(rest or 0))


async def window_amounts(
    connection: AsyncConnection,
    account_id: str,
    limit: Limit,
    share: Share,
    missing: Iterable[Entry],
    now_ms: int,
) -> tuple[tuple[int, int], ...]:
    """Return (newest stamp, amount) of each bucket of a window, in rising order.

    Calls in flight leave no entry, and lines of batches are not counted in windows.
    """
    if limit.counts is Measure.CALLS_IN_FLIGHT:
        return ()
    since_ms = now_ms - limit.window_s * 1000
    buckets = await _buckets(connection, account_id, limit, share, since_ms)
    settles = limit.stamp is Stamp.SETTLEMENT
    for entry in missing:
        stamp_ms = entry.settled_ms if settles else entry.admitted_ms
        if stamp_ms > since_ms and entry.tariff_class is not TariffClass.BATCH and share.takes(entry):
            number = stamp_ms // _bucket_ms(limit)
            newest_ms, amount = buckets.get(number, (0, 0))
            buckets[number] = (max(newest_ms, stamp_ms), amount + (output_tokens(entry) if settles else 1))
    return tuple(sorted(bucket for bucket in buckets.values() if bucket[1]))


async def _buckets(
    connection: AsyncConnection, account_id: str, limit: Limit, share: Share, since_ms: int
) -> dict[int, tuple[int, int]]:
    """Return (newest stamp, amount) by bucket number, of what was stamped after ``since_ms``."""
    table = entries.c
    settles = limit.stamp is Stamp.SETTLEMENT
    stamp = table.settled_ms if settles else table.admitted_ms
    amount = func.sum(table.output_quantity + table.reasoning_quantity) if settles else func.count()
    bucket = (stamp // _bucket_ms(limit)).label("bucket")
    rows = await connection.execute(
        select(bucket, func.max(stamp), amount)
        # What was admitted in the window was settled in it, too: the index on settled_ms serves both.
        .where(table.account_id == account_id, table.settled_ms > since_ms, stamp > since_ms, share.clause)
        .where(table.tariff_class != TariffClass.BATCH.value)
        .group_by(bucket)
    )
    return {number: (newest_ms, int(amount)) for number, newest_ms, amount in rows}


def _bucket_ms(limit: Limit) -> int:
    return max(1, limit.bucket_s * 1000)


async def latest_calls(
    connection: AsyncConnection, account_id: str, missing: Iterable[Entry], since_ms: int
) -> tuple[str, ...]:
    """Return the ids of what a limiter may yet be told of: it is in the sums.

    Calls that were settled after ``since_ms``, of many the latest, in rising order. Before them the lines of batches
    whose segment is unsettled, however long ago that was; of other lines no limiter is told again.
    """
    table = entries.c
    rows = await connection.execute(
        select(table.settled_ms, table.call_id)
        .where(table.account_id == account_id, table.settled_ms > since_ms)
        .where(table.tariff_class != TariffClass.BATCH.value)
        .order_by(table.settled_ms.desc(), table.call_id.desc())
        .limit(_CALLS_MAX)
    )
    settled = [(settled_ms, call_id) for settled_ms, call_id in rows]
    settled += [(entry.settled_ms, entry.call_id) for entry in missing if entry.settled_ms > since_ms]
    untold = UNTOLD.subquery().c
    lines = await connection.execute(
        select(untold.call_id).where(untold.account_id == account_id).order_by(untold.call_id)
    )
    return (*lines.scalars(), *(call_id for _, call_id in sorted(settled)[-_CALLS_MAX:]))
