"""What the watcher of events asks of the ledger, of all accounts at once.

What belongs here: sums and lists over all accounts, each bounded by an index. What does not: what follows from them
(events/watcher.py).
"""

from collections.abc import Collection

import msgspec
from sqlalchemy import func, select

from proxy.core.levels import Override
from proxy.ledger.credit import used_by_day
from proxy.ledger.database import Database
from proxy.ledger.lots import CreditLot, lot_of_row
from proxy.ledger.overrides import overrides_by_account
from proxy.ledger.schema import account_tiers, credit_lots, rollups_monthly

_ROWS_AT_ONCE = 500


class Spending(msgspec.Struct, frozen=True):
    """What all accounts spent in some months, as of one instant.

    Args:
        pico: by (account id, month).
        overrides: that run now, by account id.
    """

    pico: dict[tuple[str, str], int]
    overrides: dict[str, tuple[Override, ...]]


class Watching:
    """Asks. Every method raises ``LedgerUnavailableError`` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def spending(self, months: Collection[str], now_ms: int) -> Spending:
        """Return what accounts spent in some months, a few hundred rows at a time: calls go on meanwhile."""
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
            async for rows in (await connection.stream(query)).partitions(_ROWS_AT_ONCE):
                pico.update(((account_id, month), int(cost)) for account_id, month, cost in rows)
        return Spending(pico, overrides)

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
        lots, held = credit_lots.c, account_tiers.c
        async with self._database.read() as connection:
            bought = await connection.execute(select(lots.account_id).where(lots.bought_ms >= since_ms))
            changed = await connection.execute(
                select(held.account_id).where(held.effective_ms.between(since_ms, until_ms), held.dropped_ms.is_(None))
            )
            return {*bought.scalars(), *changed.scalars()}
