"""Credit as it was bought, and what it has to pay for.

What belongs here: adding lots, each once; reading lots and usage in one snapshot. What does not: which lot pays for
what (core/credit.py): that is never stored.
"""

from collections.abc import Callable, Collection

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.clock import unix_ms
from proxy.core.calendar import day_bounds_ms, day_of
from proxy.core.entries import Entry
from proxy.ledger.accounts import find_account, new_id, note_change
from proxy.ledger.database import Database
from proxy.ledger.errors import RefusedChangeError
from proxy.ledger.lots import CreditLot, buy, read_lots
from proxy.ledger.schema import accounts, rollups_daily
from proxy.ledger.statements import Statements
from proxy.ledger.store import missing_entries


class CreditFacts(msgspec.Struct, frozen=True):
    """What an account's credit follows from, as of one instant.

    Args:
        paid_pico: the sum of its lots, as the account has it.
        lots: in the order in which they were bought.
        used_by_day: pico-euros by day of the account.
    """

    paid_pico: int
    lots: tuple[CreditLot, ...]
    used_by_day: dict[str, int]


class Credit:
    """The lots of accounts, as operators add them and as they are read.

    Every method raises ``LedgerUnavailableError`` when the database does not answer.
    """

    def __init__(self, database: Database, clock_ms: Callable[[], int] = unix_ms) -> None:
        self._database = database
        self._clock_ms = clock_ms
        self._statements = Statements(postgresql=database.is_postgresql)

    async def add(
        self,
        name: str,
        amount_pico: int,
        reference: str,
        last_day: str | None = None,
        *,
        note: str = "",
        by: str = "",
    ) -> tuple[CreditLot, bool]:
        """Add a lot, once for each reference of an account.

        Args:
            name: the account's name or id.
            amount_pico: how much.
            reference: of the payment.
            last_day: the last day on which it pays, ``YYYY-MM-DD`` in the account's time zone; None: it does not end.
            note: anything.
            by: who adds it.

        Returns:
            The lot, and whether it is new.

        Raises:
            UnknownAccountError: there is no such account.
            CreditConflictError, RefusedChangeError: as ``buy``; or the last day is over.
        """
        async with self._database.write() as connection:
            account = await find_account(connection, name, lock=True)
            now_ms = self._clock_ms()
            expires_ms = None if last_day is None else day_bounds_ms(last_day, account.timezone)[1]
            lot = CreditLot(new_id("lot"), account.id, reference, amount_pico, now_ms, expires_ms, note, by)
            bought, is_new = await buy(self._database, connection, lot)
            if is_new and last_day is not None and last_day < day_of(now_ms, account.timezone):
                raise RefusedChangeError(f"its last day is over: {last_day}")
            if is_new:
                await note_change(connection)
        return bought, is_new

    async def lots(self, account_id: str | None = None) -> list[CreditLot]:
        """Return what credit was bought, by an account or by all, oldest first."""
        async with self._database.read() as connection:
            return await read_lots(connection, account_id)

    async def facts(self, account_id: str, pending: Collection[Entry] = ()) -> CreditFacts:
        """Return an account's lots and usage.

        Args:
            account_id: whose.
            pending: entries that were read from outboxes *before*: those that have arrived since count once.
        """
        waiting = [entry for entry in pending if entry.account_id == account_id]
        async with self._database.read() as connection:
            query = select(accounts.c.credit_paid_pico).where(accounts.c.id == account_id)
            paid_pico: int = (await connection.execute(query)).scalar() or 0
            lots = await read_lots(connection, account_id)
            used = await used_by_day(connection, account_id)
            for entry in await missing_entries(connection, self._statements, waiting):
                used[entry.day] = used.get(entry.day, 0) + entry.charge.total_pico
        return CreditFacts(paid_pico, tuple(lots), used)


async def used_by_day(
    connection: AsyncConnection, account_id: str, since: str = "", before: str = "9999"
) -> dict[str, int]:
    """Return what an account used in pico-euros, by day, from one day on and before another."""
    table = rollups_daily.c
    rows = await connection.execute(
        # A day's sum of one account stays far below 64 bits: the monthly limit does.
        select(table.day, func.sum(table.cost_pico))
        .where(table.account_id == account_id, table.day >= since, table.day < before)
        .group_by(table.day)
    )
    return {day: int(cost_pico) for day, cost_pico in rows}
