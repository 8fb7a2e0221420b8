"""Lots: prepaid euros as they were bought.

What belongs here: adding a lot within a transaction, and reading lots. What does not: the operators' verbs (credit.py,
accounts.py), and which lot pays for what (core/credit.py).
"""

from typing import Any, Final

import msgspec
from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.credit import Lot, lot_of
from proxy.ledger.database import Database
from proxy.ledger.errors import CreditConflictError, RefusedChangeError
from proxy.ledger.schema import accounts, credit_lots

PICO_MAX: Final = 2**63 - 1
NOTE_CHARS_MAX: Final = 1000


class CreditLot(msgspec.Struct, frozen=True):
    """Prepaid euros as they were bought.

    Args:
        id: ``lot_`` and a UUIDv7 in hex.
        account_id: whose.
        reference: the operator's name for the purchase, unique within the account.
        amount_pico: how much.
        bought_ms: when it was added, Unix milliseconds.
        expires_ms: the instant at which its last day is over; None: it does not expire.
        note: anything.
        added_by: who added it.
    """

    id: str
    account_id: str
    reference: str
    amount_pico: int
    bought_ms: int
    expires_ms: int | None = None
    note: str = ""
    added_by: str = ""

    def drawable(self, timezone: str) -> Lot:
        """Return it as it is drawn down."""
        return lot_of(self.id, self.amount_pico, self.bought_ms, self.expires_ms, timezone)


async def buy(database: Database, connection: AsyncConnection, lot: CreditLot) -> tuple[CreditLot, bool]:
    """Add a lot, once for each reference of its account, in the caller's transaction.

    If it is new, the caller also moves the directory's version.

    Returns:
        The lot, and whether it is new.

    Raises:
        CreditConflictError: the reference was used for another amount, or with another end.
        RefusedChangeError: the amount is not positive, or the account's sum would be too large; or no reference.
    """
    if not lot.reference.strip() or not lot.reference.isprintable():
        raise RefusedChangeError("a purchase of credit needs a reference")
    if not 0 < lot.amount_pico <= PICO_MAX:
        raise RefusedChangeError("an amount of credit is more than 0 and at most 9,223,372 euros")
    if len(lot.note) > NOTE_CHARS_MAX:
        raise RefusedChangeError(f"a note has at most {NOTE_CHARS_MAX} characters")
    made = await connection.execute(database.insert(credit_lots).values(msgspec.structs.asdict(lot)))
    table, account = credit_lots.c, accounts.c
    if not made.rowcount:
        found = await connection.execute(
            select(credit_lots).where(table.account_id == lot.account_id, table.reference == lot.reference)
        )
        before = lot_of_row(found.one())
        if (before.amount_pico, before.expires_ms) != (lot.amount_pico, lot.expires_ms):
            raise CreditConflictError(f"the reference {lot.reference!r} was used for another purchase")
        return before, False
    paid: int = (
        await connection.execute(select(account.credit_paid_pico).where(account.id == lot.account_id))
    ).scalar_one()
    if paid + lot.amount_pico > PICO_MAX:
        raise RefusedChangeError("an account's credit is at most 9,223,372 euros in all")
    await connection.execute(
        update(accounts)
        .where(account.id == lot.account_id)
        .values(credit_paid_pico=account.credit_paid_pico + lot.amount_pico)
    )
    return lot, True


async def read_lots(connection: AsyncConnection, account_id: str | None) -> list[CreditLot]:
    """Return the lots of an account, or all, in the order in which they were bought."""
    table = credit_lots.c
    query = select(credit_lots).order_by(table.bought_ms, table.id)
    if account_id is not None:
        query = query.where(table.account_id == account_id)
    return [lot_of_row(row) for row in await connection.execute(query)]


def lot_of_row(row: Row[*tuple[Any, ...]]) -> CreditLot:
    """Return the lot of a row of the table."""
    return CreditLot(
        row.id,
        row.account_id,
        row.reference,
        row.amount_pico,
        row.bought_ms,
        row.expires_ms,
        row.note,
        row.added_by,
    )
