"""Accounts, as operators change them.

What belongs here: creating accounts, changing what they hold; each in one transaction that also moves the
directory's version. What does not: their credit (credit.py), keys (keys.py), and reading them on the hot path
(directory.py).
"""

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import uuid_utils
from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.accounts import Account
from proxy.core.calendar import zone
from proxy.ledger.database import Database
from proxy.ledger.errors import DuplicateAccountError, RefusedChangeError, UnknownAccountError
from proxy.ledger.lots import CreditLot, buy
from proxy.ledger.schema import account_tiers, accounts, directory_changes


class TierChange(msgspec.Struct, frozen=True):
    """A tier that an account held from an instant on, and who set it."""

    effective_ms: int
    tier: str
    changed_by: str


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
        self,
        name: str,
        tier: str,
        timezone: str = "Europe/Paris",
        *,
        credit_pico: int = 0,
        prepaid_only: bool = False,
        by: str = "",
    ) -> Account:
        """Create an account, with its first credit when there is one, or nothing.

        Args:
            name: unique.
            tier: id of its tier.
            timezone: IANA name of the zone whose months it is billed in.
            credit_pico: credit that it begins with, without an end.
            prepaid_only: see ``Account``.
            by: who creates it.

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
        account, at_ms = Account(new_id("acc"), name, tier, timezone, prepaid_only), self._clock_ms()
        async with self._database.write() as connection:
            row = {
                "id": account.id,
                "name": name,
                "tier": tier,
                "timezone": timezone,
                "created_ms": at_ms,
                "prepaid_only": prepaid_only,
            }
            made = await connection.execute(self._database.insert(accounts).values(row))
            if not made.rowcount:
                raise DuplicateAccountError(f"there is an account named {name!r} already")
            await self._note_tier(connection, account.id, tier, by, at_ms)
            if credit_pico:
                lot = CreditLot(new_id("lot"), account.id, f"opening {account.id}", credit_pico, at_ms, added_by=by)
                await buy(self._database, connection, lot)
        return msgspec.structs.replace(account, credit_paid_pico=credit_pico)

    async def all(self) -> list[Account]:
        """Return every account, by name."""
        async with self._database.read() as connection:
            return [account_of(row) for row in await connection.execute(ACCOUNTS.order_by(accounts.c.name))]

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

    async def set_prepaid_only(self, name: str, *, prepaid_only: bool) -> Account:
        """Let an account spend its credit only, or more than that, from now on; the same again changes nothing.

        Raises:
            UnknownAccountError: there is no such account.
        """
        async with self._database.write() as connection:
            account = await find_account(connection, name, lock=True)
            if account.prepaid_only == prepaid_only:
                return account
            change = update(accounts).where(accounts.c.id == account.id).values(prepaid_only=prepaid_only)
            await connection.execute(change)
            await note_change(connection)
        return msgspec.structs.replace(account, prepaid_only=prepaid_only)

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


async def find_account(connection: AsyncConnection, name: str, *, lock: bool = False) -> Account:
    """Return the account of a name, or of an id; a name wins.

    Raises:
        UnknownAccountError: there is none.
    """
    query = ACCOUNTS.where((accounts.c.name == name) | (accounts.c.id == name))
    rows = (await connection.execute(query.with_for_update() if lock else query)).all()
    if not rows:
        raise UnknownAccountError(f"there is no account named {name!r}")
    return min((account_of(row) for row in rows), key=lambda account: account.name != name)


ACCOUNTS: Final = select(
    accounts.c.id,
    accounts.c.name,
    accounts.c.tier,
    accounts.c.timezone,
    accounts.c.prepaid_only,
    accounts.c.credit_paid_pico,
)
"""Everything of every account; each row is one for ``account_of``."""


def account_of(row: Row[*tuple[Any, ...]]) -> Account:
    """Return the account of a row of ``ACCOUNTS``."""
    return Account(row.id, row.name, row.tier, row.timezone, bool(row.prepaid_only), row.credit_paid_pico)
