"""What the watcher of events asks of the ledger, of all accounts at once.

What belongs here: sums and lists over all accounts, each bounded by an index. What does not: what follows from them
(events/watcher.py).
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec
from sqlalchemy import Select, func, select

from proxy.core.levels import Override
from proxy.ledger.credit import used_by_day
from proxy.ledger.database import Database
from proxy.ledger.lots import CreditLot, lot_of_row
from proxy.ledger.overrides import overrides_by_account
from proxy.ledger.schema import account_tiers, credit_lots, rollups_monthly
from proxy.ledger.tiers import standing_changes

_ROWS_AT_ONCE = 500


class Spending(msgspec.Struct, frozen=True):
    """What all accounts spent in some months, as of one instant.

    Args:
        pico: by (account id, month).
        overrides: that run now, by account id.
        changes: every tier, (from when on in Unix ms, id), of the accounts one of whose tiers has changed lately.
    """

    pico: dict[tuple[str, str], int]
    overrides: dict[str, tuple[Override, ...]]
    changes: Mapping[str, Sequence[tuple[int, str]]]


class Watching:
    """Asks. Every method raises ``LedgerUnavailableError`` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def spending(self, months: Collection[str], now_ms: int, changed_ms: int) -> Spending:
        """Return what accounts spent in some months, a few hundred rows at a time: calls go on meanwhile.

        Args:
            months: which.
            now_ms: the time.
            changed_ms: since when a change of a tier is a late one.
        """
        table = rollups_monthly.c
        query = (
            # A month of one account stays far below 64 bits: its limit does.
            select(table.account_id, table.month, func.sum(table.cost_pico))
            .where(table.month.in_(sorted(months)))
            .group_by(table.account_id, table.month)
        )
        pico: dict[tuple[str, str], int] = {}
        async with self._database.read() as connection:
            overrides = await overrides_by_account(connection, now_ms)
            changes = await standing_changes(connection, account_tiers.c.account_id.in_(_changed(changed_ms, now_ms)))
            async for rows in (await connection.stream(query)).partitions(_ROWS_AT_ONCE):
                pico.update(((account_id, month), int(cost)) for account_id, month, cost in rows)
        return Spending(pico, overrides, changes)

    async def used_in(self, account_id: str, month: str) -> dict[str, int]:
        """Return what an account used in a month, pico-euros by day."""
        async with self._database.read() as connection:
            return await used_by_day(connection, account_id, f"{month}-01", f"{month}-32")

    async def ending(self, after_ms: int, until_ms: int) -> list[CreditLot]:
        """Return the lots that end after one time and not after another."""
        table = credit_lots.c
        query = select(credit_lots).where(table.expires_ms > after_ms, table.expires_ms <= until_ms)
        async with self._database.read() as connection:
            return [lot_of_row(row) for row in await connection.execute(query.order_by(table.expires_ms, table.id))]

    async def changed_between(self, since_ms: int, until_ms: int) -> set[str]:
        """Return the accounts that bought credit, or began to hold another tier, from a time on until another."""
        lots = credit_lots.c
        async with self._database.read() as connection:
            bought = await connection.execute(select(lots.account_id).where(lots.bought_ms >= since_ms))
            changed = await connection.execute(_changed(since_ms, until_ms))
            return {*bought.scalars(), *changed.scalars()}


def _changed(since_ms: int, until_ms: int) -> Select[tuple[str]]:
    """Return the query for the accounts that began to hold another tier in a span of time."""
    table = account_tiers.c
    return select(table.account_id).where(table.effective_ms.between(since_ms, until_ms), table.dropped_ms.is_(None))
