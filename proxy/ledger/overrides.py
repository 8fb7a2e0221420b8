"""Overrides: numbers that an account has otherwise than its tier, until an instant.

What belongs here: setting, listing and dropping them; each change in one transaction that also moves the directory's
version. What does not: what they do to a tier (core/levels.py). Nothing is ever deleted: an override that was given up
says when and by whom.
"""

from collections.abc import Callable, Mapping

import msgspec
from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.clock import unix_ms
from proxy.core.levels import BOUNDED, Overridable, Override, largest
from proxy.ledger.accounts import find_account, new_id, note_change
from proxy.ledger.database import Database
from proxy.ledger.errors import RefusedChangeError, UnknownOverrideError
from proxy.ledger.schema import accounts, limit_overrides


class OverrideInfo(msgspec.Struct, frozen=True):
    """An override for operators to look at; times in Unix milliseconds, an amount of None is unlimited."""

    id: str
    account_id: str
    account: str
    limit: Overridable
    amount: int | None
    set_ms: int
    ends_ms: int
    why: str
    set_by: str
    dropped_ms: int | None = None
    dropped_by: str | None = None


class Overrides:
    """The overrides of accounts, as operators change them.

    Every method raises ``LedgerUnavailableError`` when the database does not answer.
    """

    def __init__(self, database: Database, clock_ms: Callable[[], int] = unix_ms) -> None:
        self._database = database
        self._clock_ms = clock_ms

    async def set(
        self, account: str, numbers: Mapping[Overridable, int | None], ends_ms: int, why: str, by: str
    ) -> list[OverrideInfo]:
        """Give an account (by name or id) other numbers until an instant; None: unlimited.

        One for the same number that runs longer comes back when this one ends.

        Raises:
            UnknownAccountError: there is no such account.
            RefusedChangeError: there is no number or no reason, one is out of range, or it would have ended already.
        """
        at_ms = self._clock_ms()
        if not numbers:
            raise RefusedChangeError("nothing to be set: give at least one limit")
        if not why.strip():
            raise RefusedChangeError("an override needs a reason")
        if ends_ms <= at_ms:
            raise RefusedChangeError("an override cannot end in the past")
        for limit, amount in numbers.items():
            check_number(limit, amount)
            if amount is None and limit in BOUNDED:
                raise RefusedChangeError(f"{limit.value} is never unlimited")
        async with self._database.write() as connection:
            owner = await find_account(connection, account)
            made = [
                OverrideInfo(new_id("ovr"), owner.id, owner.name, limit, amount, at_ms, ends_ms, why.strip(), by)
                for limit, amount in numbers.items()
            ]
            await connection.execute(limit_overrides.insert(), [_row(info) for info in made])
            await note_change(connection)
        return made

    async def all(self, account: str | None = None) -> list[OverrideInfo]:
        """Return every override that an account (by name or id), or any, has or had, oldest first.

        Raises:
            UnknownAccountError: there is no such account.
        """
        query = _QUERY
        async with self._database.read() as connection:
            if account is not None:
                owner = await find_account(connection, account)
                query = query.where(limit_overrides.c.account_id == owner.id)
            rows = await connection.execute(query.order_by(limit_overrides.c.set_ms, limit_overrides.c.id))
            return [_info(row) for row in rows]

    async def drop(self, override_id: str, by: str) -> OverrideInfo:
        """End an override now. One that is over, or was dropped already, stays as it is.

        Raises:
            UnknownOverrideError: there is no such override.
        """
        at_ms = self._clock_ms()
        table = limit_overrides.c
        async with self._database.write() as connection:
            row = (await connection.execute(_QUERY.where(table.id == override_id).with_for_update())).one_or_none()
            if row is None:
                raise UnknownOverrideError(f"there is no override {override_id!r}")
            info = _info(row)
            if info.dropped_ms is not None or info.ends_ms <= at_ms:
                return info
            await connection.execute(
                update(limit_overrides).where(table.id == override_id).values(dropped_ms=at_ms, dropped_by=by)
            )
            await note_change(connection)
        return msgspec.structs.replace(info, dropped_ms=at_ms, dropped_by=by)


def check_number(limit: Overridable, amount: int | None) -> None:
    """Raise RefusedChangeError for an amount that is none; None is one."""
    if amount is not None and not 1 <= amount <= largest(limit):
        raise RefusedChangeError(f"{limit.value} is out of range")


async def overrides_by_account(connection: AsyncConnection, at_ms: int) -> dict[str, tuple[Override, ...]]:
    """Return the overrides that have not ended, by account id, in the order in which they were set."""
    table = limit_overrides.c
    query = (
        select(table.account_id, table.limit_name, table.amount, table.ends_ms)
        .where(table.dropped_ms.is_(None), table.ends_ms > at_ms)
        .order_by(table.set_ms, table.id)
    )
    found: dict[str, tuple[Override, ...]] = {}
    for account_id, name, amount, ends_ms in await connection.execute(query):
        found[account_id] = (*found.get(account_id, ()), Override(Overridable(name), amount, ends_ms))
    return found


def _row(info: OverrideInfo) -> dict[str, object]:
    row = msgspec.structs.asdict(info)
    del row["account"]
    return {**row, "limit_name": row.pop("limit").value}


def _info(row: Row[tuple[object, ...]]) -> OverrideInfo:
    return OverrideInfo(
        row.id,
        row.account_id,
        row.name,
        Overridable(row.limit_name),
        row.amount,
        row.set_ms,
        row.ends_ms,
        row.why,
        row.set_by,
        row.dropped_ms,
        row.dropped_by,
    )


_QUERY = select(limit_overrides, accounts.c.name).join(accounts, accounts.c.id == limit_overrides.c.account_id)
