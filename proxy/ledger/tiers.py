"""The tiers of accounts: held now, planned, and their history.

What belongs here: the changes themselves, inside a transaction that holds the account's row, and reading them. What
does not: finding the account and telling replicas (accounts.py).

A change at once is a row of ``account_tiers`` from now on. A planned one is a row from the first instant of the
account's next month on; until then it can be given up. At that instant nobody has to write: every reader compares it
with his clock (``Account.at``).
"""

from collections import defaultdict
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.accounts import Account, PlannedTier
from proxy.ledger.schema import account_tiers, accounts


class TierChange(msgspec.Struct, frozen=True):
    """A tier that an account holds from an instant on. Times are Unix milliseconds.

    Args:
        effective_ms: from when on.
        tier: its id.
        changed_by: who decided it.
        decided_ms: when; before ``effective_ms`` for one that was planned.
        dropped_ms: when it was given up, before it came; None: it stands.
        dropped_by: by whom.
    """

    effective_ms: int
    tier: str
    changed_by: str
    decided_ms: int
    dropped_ms: int | None = None
    dropped_by: str | None = None


async def hold(connection: AsyncConnection, account: Account, tier: str, by: str, now_ms: int) -> Account:
    """Let an account (as it is now) hold a tier from now on; what is planned stands."""
    table = account_tiers.c
    last = await connection.execute(
        select(table.effective_ms)
        .where(table.account_id == account.id, table.effective_ms < _end_of_past(account), table.dropped_ms.is_(None))
        .order_by(table.effective_ms.desc())
        .limit(1)
    )
    # Two changes in one millisecond, or a clock that was set back: history keeps its order.
    effective_ms = max(now_ms, (last.scalar() or 0) + 1)
    await _append(connection, account.id, TierChange(effective_ms, tier, by, effective_ms))
    return await _keep(connection, msgspec.structs.replace(account, tier=tier))


async def plan(connection: AsyncConnection, account: Account, coming: PlannedTier, by: str, now_ms: int) -> Account:
    """Let an account (as it is now) hold a tier from a later instant on, in the place of what was planned."""
    await _drop(connection, account, by, now_ms)
    # A plan may be made, dropped and made again within a millisecond.
    table = account_tiers.c
    before = select(table.decided_ms).where(
        table.account_id == account.id, table.effective_ms == coming.from_ms, table.decided_ms >= now_ms
    )
    made = (await connection.execute(before.order_by(table.decided_ms.desc()).limit(1))).scalar()
    decided_ms = now_ms if made is None else made + 1
    await _append(connection, account.id, TierChange(coming.from_ms, coming.tier, by, decided_ms))
    return await _keep(connection, msgspec.structs.replace(account, planned=coming))


async def give_up_plan(connection: AsyncConnection, account: Account, by: str, now_ms: int) -> Account:
    """Let an account (as it is now) go on with what it holds."""
    await _drop(connection, account, by, now_ms)
    return await _keep(connection, msgspec.structs.replace(account, planned=None))


async def history_of(connection: AsyncConnection, account_id: str) -> list[TierChange]:
    """Return every change of an account, given up or not, in the order in which they take effect."""
    table = account_tiers.c
    query = _CHANGES.where(table.account_id == account_id).order_by(table.effective_ms, table.decided_ms)
    return [
        TierChange(row.effective_ms, row.tier, row.changed_by, row.decided_ms, row.dropped_ms, row.dropped_by)
        for row in await connection.execute(query)
    ]


async def standing_changes(
    connection: AsyncConnection, of: ColumnElement[bool] | None = None
) -> defaultdict[str, list[tuple[int, str]]]:
    """Return (from when on in Unix ms, tier) of every change that stands, in order, by account; or of some accounts."""
    table = account_tiers.c
    query = _CHANGES.where(table.dropped_ms.is_(None)).order_by(table.effective_ms)
    if of is not None:
        query = query.where(of)
    found: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for row in await connection.execute(query):
        found[row.account_id].append((row.effective_ms, row.tier))
    return found


def _end_of_past(account: Account) -> int:
    """Return a time that is after every change of an account but the planned one."""
    return account.planned.from_ms if account.planned is not None else 2**62


async def _append(connection: AsyncConnection, account_id: str, change: TierChange) -> None:
    row = {"account_id": account_id, **msgspec.structs.asdict(change)}
    await connection.execute(account_tiers.insert().values(row))


async def _drop(connection: AsyncConnection, account: Account, by: str, now_ms: int) -> None:
    if account.planned is None:
        return
    table = account_tiers.c
    planned = update(account_tiers).where(
        table.account_id == account.id, table.effective_ms == account.planned.from_ms, table.dropped_ms.is_(None)
    )
    await connection.execute(planned.values(dropped_ms=now_ms, dropped_by=by))


async def _keep(connection: AsyncConnection, account: Account) -> Account:
    """Write what an account holds and what is planned into its row."""
    planned = account.planned
    change = {
        "tier": account.tier,
        "next_tier": None if planned is None else planned.tier,
        "next_tier_ms": None if planned is None else planned.from_ms,
    }
    await connection.execute(update(accounts).where(accounts.c.id == account.id).values(change))
    return account


_CHANGES: Final = select(account_tiers)
