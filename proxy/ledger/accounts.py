"""Accounts, as operators change them.

What belongs here: creating accounts, changing what they hold; each in one transaction that also moves the
directory's version. What does not: their credit (credit.py), keys (keys.py), and reading them on the hot path
(directory.py).
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import uuid_utils
from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.clock import unix_ms
from proxy.core.accounts import Account, PlannedTier
from proxy.core.calendar import month_bounds_ms, month_of, zone
from proxy.ledger import tiers
from proxy.ledger.database import Database
from proxy.ledger.errors import DuplicateAccountError, RefusedChangeError, UnknownAccountError
from proxy.ledger.lots import CreditLot, buy
from proxy.ledger.schema import accounts, directory_changes
from proxy.ledger.tiers import TierChange


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

    def __init__(self, database: Database, clock_ms: Callable[[], int] = unix_ms) -> None:
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
            await tiers.hold(connection, account, tier, by, at_ms)
            await note_change(connection)
            if credit_pico:
                lot = CreditLot(new_id("lot"), account.id, f"opening {account.id}", credit_pico, at_ms, added_by=by)
                await buy(self._database, connection, lot)
        return msgspec.structs.replace(account, credit_paid_pico=credit_pico)

    async def all(self) -> list[Account]:
        """Return every account as it is now, by name."""
        async with self._database.read() as connection:
            rows = await connection.execute(ACCOUNTS.order_by(accounts.c.name))
            return [account_of(row).at(self._clock_ms()) for row in rows]

    async def named(self, name: str) -> Account:
        """Return the account of a name, or of an id, as it is now.

        Raises:
            UnknownAccountError: there is none.
        """
        async with self._database.read() as connection:
            return (await find_account(connection, name)).at(self._clock_ms())

    async def set_tier(self, name: str, tier: str, *, by: str = "") -> Account:
        """Give an account another tier from now on; the same one again changes nothing. What is planned stands.

        Raises:
            UnknownAccountError: there is no such account.
        """
        async with self._database.write() as connection:
            account, now_ms = await self._locked(connection, name)
            if account.tier == tier:
                return account
            account = await tiers.hold(connection, account, tier, by, now_ms)
            await note_change(connection)
        return account

    async def plan_tier(self, name: str, tier: str, *, by: str = "") -> Account:
        """Give an account another tier from the first instant of its next month on, in its time zone.

        It takes the place of what was planned; to plan the tier that is held is to plan no change.

        Raises:
            UnknownAccountError: there is no such account.
        """
        async with self._database.write() as connection:
            account, now_ms = await self._locked(connection, name)
            _, from_ms = month_bounds_ms(month_of(now_ms, account.timezone), account.timezone)
            coming = None if tier == account.tier else PlannedTier(tier, from_ms)
            if account.planned == coming:
                return account
            if coming is None:
                account = await tiers.give_up_plan(connection, account, by, now_ms)
            else:
                account = await tiers.plan(connection, account, coming, by, now_ms)
            await note_change(connection)
        return account

    async def keep_tier(self, name: str, *, by: str = "") -> Account:
        """Give up the change of tier that is planned for an account; where none is, nothing changes.

        Raises:
            UnknownAccountError: there is no such account.
        """
        async with self._database.write() as connection:
            account, now_ms = await self._locked(connection, name)
            if account.planned is None:
                return account
            account = await tiers.give_up_plan(connection, account, by, now_ms)
            await note_change(connection)
        return account

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
        """Return the tiers that an account has held and is to hold, in order, and what was planned and given up."""
        async with self._database.read() as connection:
            return await tiers.history_of(connection, account_id)

    async def _locked(self, connection: AsyncConnection, name: str) -> tuple[Account, int]:
        """Return an account as it is now, its row locked, and the time."""
        account = await find_account(connection, name, lock=True)
        now_ms = self._clock_ms()  # read under the lock: two changes are decided in the order in which they are made
        return account.at(now_ms), now_ms


async def find_account(connection: AsyncConnection, name: str, *, lock: bool = False) -> Account:
    """Return the account of a name, or of an id, as it is stored (``Account.at``); a name wins.

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
    accounts.c.next_tier,
    accounts.c.next_tier_ms,
)
"""Everything of every account; each row is one for ``account_of``."""


def account_of(row: Row[*tuple[Any, ...]]) -> Account:
    """Return the account of a row of ``ACCOUNTS``, as it is stored: ``Account.at`` tells what it holds at a time."""
    planned = None if row.next_tier is None else PlannedTier(row.next_tier, row.next_tier_ms)
    return Account(row.id, row.name, row.tier, row.timezone, bool(row.prepaid_only), row.credit_paid_pico, planned)
