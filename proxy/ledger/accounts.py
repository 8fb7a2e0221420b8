"""Accounts and their credit, as operators change them.

What belongs here: creating accounts, changing tiers, buying credit; each in one transaction that also moves
the directory's version. What does not: keys (keys.py), and reading them on the hot path (directory.py).
"""

import time
from collections.abc import Callable

import msgspec
import uuid_utils
from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.accounts import Account
from proxy.core.calendar import zone
from proxy.ledger.database import Database
from proxy.ledger.errors import (
    CreditConflictError,
    DuplicateAccountError,
    RefusedChangeError,
    UnknownAccountError,
)
from proxy.ledger.schema import account_tiers, accounts, credit_lots, directory_changes

PICO_MAX = 2**63 - 1


class TierChange(msgspec.Struct, frozen=True):
    """A tier that an account held from an instant on, and who set it."""

    effective_ms: int
    tier: str
    changed_by: str


class CreditLot(msgspec.Struct, frozen=True):
    """Prepaid credit as it was bought; ``reference`` is the operator's and unique."""

    id: str
    account_id: str
    reference: str
    amount_pico: int
    bought_ms: int
    expires_ms: int | None = None


def now_ms() -> int:
    """Return the time, Unix milliseconds: the default clock of this folder."""
    return time.time_ns() // 1_000_000


def new_id(prefix: str) -> str:
    """Return an id: ``acc_``, ``key_`` or ``lot_`` and a UUIDv7 in hex."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


async def note_change(connection: AsyncConnection) -> None:
    """Count up the directory's version; part of the transaction that changes accounts or keys."""
    await connection.execute(update(directory_changes).values(version=directory_changes.c.version + 1))


class Accounts:
    """Who pays, as operators change it.

    Every method raises ``LedgerUnavailableError`` when the database does not answer.
    """

    def __init__(self, database: Database, clock_ms: Callable[[], int] = now_ms) -> None:
        self._database = database
        self._clock_ms = clock_ms

    async def create(
        self, name: str, tier: str, timezone: str = "Europe/Paris", *, credit_pico: int = 0, by: str = ""
    ) -> Account:
        """Create an account, with its first credit when there is one.

        Raises:
            DuplicateAccountError: the name is taken.
            RefusedChangeError: the name is empty, the zone unknown, or the credit no amount.
        """
        if not name.strip() or name != name.strip() or not name.isprintable():
            raise RefusedChangeError(f"not a name for an account: {name!r}")
        try:
            zone(timezone)
        except ValueError as exc:
            raise RefusedChangeError(str(exc)) from exc
        account, at_ms = Account(new_id("acc"), name, tier, timezone), self._clock_ms()
        async with self._database.write() as connection:
            row = {"id": account.id, "name": name, "tier": tier, "timezone": timezone, "created_ms": at_ms}
            made = await connection.execute(self._database.insert(accounts).values(row))
            if not made.rowcount:
                raise DuplicateAccountError(f"there is an account named {name!r} already")
            await self._note_tier(connection, account.id, tier, by, at_ms)
            if credit_pico:
                lot = CreditLot(new_id("lot"), account.id, f"opening {account.id}", credit_pico, at_ms)
                await self._buy(connection, lot)
        return account

    async def all(self) -> list[Account]:
        """Return every account, by name."""
        query = select(accounts.c.id, accounts.c.name, accounts.c.tier, accounts.c.timezone).order_by(accounts.c.name)
        async with self._database.read() as connection:
            return [Account(*row) for row in await connection.execute(query)]

    async def named(self, name: str) -> Account:
        """Return the account of a name, or of an id.

        Raises:
            UnknownAccountError: there is none.
        """
        async with self._database.read() as connection:
            return await find_account(connection, name)

    async def set_tier(self, name: str, tier: str, *, by: str = "") -> Account:
        """Give an account another tier from now on; the same one again changes nothing.

        Raises:
            UnknownAccountError: there is no such account.
        """
        async with self._database.write() as connection:
            account = await find_account(connection, name, lock=True)
            if account.tier == tier:
                return account
            await connection.execute(update(accounts).where(accounts.c.id == account.id).values(tier=tier))
            await self._note_tier(connection, account.id, tier, by, self._clock_ms())
        return msgspec.structs.replace(account, tier=tier)

    async def tier_history(self, account_id: str) -> list[TierChange]:
        """Return the tiers that an account has held, oldest first."""
        table = account_tiers.c
        query = select(table.effective_ms, table.tier, table.changed_by).where(table.account_id == account_id)
        async with self._database.read() as connection:
            return [TierChange(*row) for row in await connection.execute(query.order_by(table.effective_ms))]

    async def _note_tier(self, connection: AsyncConnection, account_id: str, tier: str, by: str, at_ms: int) -> None:
        table = account_tiers.c
        last = await connection.execute(
            select(table.effective_ms)
            .where(table.account_id == account_id)
            .order_by(table.effective_ms.desc())
            .limit(1)
        )
        # Two changes in one millisecond, or a clock that was set back: history keeps its order.
        effective_ms = max(at_ms, (last.scalar() or 0) + 1)
        row = {"account_id": account_id, "effective_ms": effective_ms, "tier": tier, "changed_by": by}
        await connection.execute(account_tiers.insert().values(row))
        await note_change(connection)

    async def add_credit(
        self, name: str, amount_pico: int, reference: str, expires_ms: int | None = None
    ) -> tuple[CreditLot, bool]:
        """Buy credit once for each reference; return the lot and whether it is new.

        Raises:
            UnknownAccountError: there is no such account.
            CreditConflictError: the reference was used for another account or another amount.
            RefusedChangeError: the amount is not positive, or too large, or the reference empty.
        """
        if not reference.strip():
            raise RefusedChangeError("a purchase of credit needs a reference")
        async with self._database.write() as connection:
            account = await find_account(connection, name)
            lot = CreditLot(new_id("lot"), account.id, reference, amount_pico, self._clock_ms(), expires_ms)
            return await self._buy(connection, lot)

    async def _buy(self, connection: AsyncConnection, lot: CreditLot) -> tuple[CreditLot, bool]:
        if not 0 < lot.amount_pico <= PICO_MAX:
            raise RefusedChangeError("an amount of credit is more than 0 and at most 9,223,372 euros")
        made = await connection.execute(self._database.insert(credit_lots).values(msgspec.structs.asdict(lot)))
        if made.rowcount:
            return lot, True
        found = await connection.execute(select(credit_lots).where(credit_lots.c.reference == lot.reference))
        before = _lot(found.one())
        if (before.account_id, before.amount_pico) != (lot.account_id, lot.amount_pico):
            raise CreditConflictError(f"the reference {lot.reference!r} was used for another purchase")
        return before, False

    async def credit_lots(self, account_id: str | None = None) -> list[CreditLot]:
        """Return what credit was bought, by an account or by all, oldest first."""
        query = select(credit_lots).order_by(credit_lots.c.bought_ms, credit_lots.c.id)
        if account_id is not None:
            query = query.where(credit_lots.c.account_id == account_id)
        async with self._database.read() as connection:
            return [_lot(row) for row in await connection.execute(query)]


async def find_account(connection: AsyncConnection, name: str, *, lock: bool = False) -> Account:
    """Return the account of a name, or of an id; a name wins.

    Raises:
        UnknownAccountError: there is none.
    """
    table = accounts.c
    query = select(table.id, table.name, table.tier, table.timezone).where((table.name == name) | (table.id == name))
    rows = (await connection.execute(query.with_for_update() if lock else query)).all()
    if not rows:
        raise UnknownAccountError(f"there is no account named {name!r}")
    return min((Account(*row) for row in rows), key=lambda account: account.name != name)


def _lot(row: Row[tuple[object, ...]]) -> CreditLot:
    return CreditLot(row.id, row.account_id, row.reference, row.amount_pico, row.bought_ms, row.expires_ms)
