"""Reading the ledger for customers: sums of a day and a month, and single calls.

What belongs here: what a customer may ask of the ledger while calls go on. What does not: what invoices are made from
(store.py), and how an answer looks (views/).

Entries that have not been shipped yet are read from every outbox in the state folder, those of other workers too, so a
call shows as soon as it has been answered. What another machine has not shipped yet is not seen.
"""

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.calendar import month_of
from proxy.core.entries import Entry
from proxy.ledger.credit import Credit, CreditFacts
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerUnavailableError, OutboxError
from proxy.ledger.location import Location
from proxy.ledger.outbox_file import read_pending
from proxy.ledger.rows import entry_of
from proxy.ledger.schema import calls_daily, calls_monthly, entries, rollups_daily, rollups_monthly
from proxy.ledger.statements import Statements
from proxy.ledger.store import LineKey, MonthUsage, missing_entries, month_usage

PENDING_MAX: Final = 10_000
"""Entries of one account in one outbox, of which a sum can still be made: beyond it the ledger is minutes behind."""

_CALL_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_SLACK_MS: Final = 36 * 3_600_000
"""More than any time zone is from UTC, and than a call is older than its admission."""
_YEAR_2000_MS: Final = 946_684_800_000
_YEAR_9000_MS: Final = 221_845_392_000_000


def months_of_call(call_id: str) -> tuple[str, ...]:
    """Return the billing months in which a call with this id can be, in whatever time zone; none: it is no call id.

    A call id is a UUIDv7 (RFC 9562, section 5.7): its first 48 bits are Unix milliseconds.
    """
    if _CALL_ID.fullmatch(call_id) is None:
        return ()
    made_ms = int(call_id[:8] + call_id[9:13], 16)
    if not _YEAR_2000_MS < made_ms < _YEAR_9000_MS:
        return ()
    return tuple(sorted({month_of(made_ms - _SLACK_MS, "UTC"), month_of(made_ms + _SLACK_MS, "UTC")}))


class Reader:
    """Reads what has been settled.

    Args:
        database: migrated; one of its own, so that no reader makes anybody wait.
        location: where the outboxes are.
        worker: number of this process: its own outbox must be readable.
    """

    def __init__(self, database: Database, location: Location, worker: int) -> None:
        self._database = database
        self._location = location
        self._own = location.outbox(worker)
        self._credit = Credit(database)
        self._statements = Statements(postgresql=database.is_postgresql)

    async def sums(self, account_id: str, day: str, month: str) -> tuple[MonthUsage, MonthUsage]:
        """Return what an account used in a day and in a billing month, as of one instant.

        Raises:
            LedgerUnavailableError: the database does not answer, or is too far behind.
            OutboxError: this process's outbox cannot be read.
        """
        # Outboxes first: what is shipped in between is then found in the ledger, and counted once.
        pending = await asyncio.to_thread(self._pending, account_id)
        async with self._database.read() as connection:
            missing = await missing_entries(connection, self._statements, pending)
            of_day = await _usage(
                connection,
                (rollups_daily, calls_daily),
                (account_id, "day", day),
                [entry for entry in missing if entry.day == day],
            )
            of_month = await _usage(
                connection,
                (rollups_monthly, calls_monthly),
                (account_id, "month", month),
                [entry for entry in missing if entry.month == month],
            )
        return of_day, of_month

    async def entry(self, account_id: str, call_id: str) -> Entry | None:
        """Return an account's settled call; None: there is none with this id.

        Raises:
            LedgerUnavailableError: the database does not answer.
            OutboxError: this process's outbox cannot be read.
        """
        call_id = call_id.lower()
        months = months_of_call(call_id)
        if not months:
            return None
        pending = await asyncio.to_thread(self._pending, account_id, call_id)
        if pending:
            return pending[0]
        table = entries.c
        query = select(entries).where(table.account_id == account_id, table.month.in_(months), table.call_id == call_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().first()
        return None if row is None else entry_of(dict(row))

    async def credit(self, account_id: str) -> CreditFacts:
        """Return what an account's credit follows from, as of one instant. Raises as ``sums``."""
        pending = await asyncio.to_thread(self._pending, account_id)
        return await self._credit.facts(account_id, pending)

    def _pending(self, account_id: str, call_id: str | None = None) -> list[Entry]:
        """Return what waits in the outboxes; another worker's is left out while it cannot be read. Blocks."""
        found: list[Entry] = []
        for path in self._location.outboxes():
            with contextlib.nullcontext() if path == self._own else contextlib.suppress(OutboxError):
                found += self._pending_in(path, account_id, call_id)
        return found

    def _pending_in(self, path: Path, account_id: str, call_id: str | None) -> list[Entry]:
        pending = read_pending(path, account_id, call_id=call_id, entries_max=PENDING_MAX)
        if len(pending) > PENDING_MAX:
            raise LedgerUnavailableError("more entries wait for the ledger than can be summed up")
        return pending


async def _usage(
    connection: AsyncConnection, tables: tuple[Table, Table], period: tuple[str, str, str], missing: Iterable[Entry]
) -> MonthUsage:
    """Return the sums of a period (account id, column, value), and of entries beside the tables."""
    (rollups, calls), (account_id, column, value) = tables, period
    used = rollups.c
    rows = await connection.execute(
        select(used.model, used.tariff_class, used.usage_type, used.quantity, used.cost_pico).where(
            used.account_id == account_id, used[column] == value
        )
    )
    counts = await connection.execute(
        select(calls.c.calls).where(calls.c.account_id == account_id, calls.c[column] == value)
    )
    lines: defaultdict[LineKey, list[int]] = defaultdict(lambda: [0, 0])  # of all price versions together
    for model, tariff_class, usage_type, quantity, cost_pico in rows:
        _add(lines, (model, tariff_class, usage_type, ""), quantity, cost_pico)
    count = sum(number for (number,) in counts)
    for entry in missing:
        count += 1
        for line in entry.charge.lines:
            key = (entry.model, entry.tariff_class.value, line.usage_type.value, "")
            _add(lines, key, line.amount, line.cost_pico)
    return month_usage(count, lines)


def _add(lines: dict[LineKey, list[int]], key: LineKey, quantity: int, cost_pico: int) -> None:
    line = lines[key]
    line[0] += quantity
    line[1] += cost_pico
