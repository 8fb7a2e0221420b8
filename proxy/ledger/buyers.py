"""Who the documents of accounts are made out to.

What belongs here: setting buyers, each as a further row, and reading them. What does not: whether one makes sense
(buyer_checks.py), and documents, each of which keeps its buyer as it was on the day of issue.
"""

from collections.abc import Callable, Collection

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.clock import unix_ms
from proxy.core.parties import Buyer
from proxy.ledger.accounts import find_account
from proxy.ledger.buyer_checks import checked
from proxy.ledger.database import Database
from proxy.ledger.errors import RefusedChangeError
from proxy.ledger.invoice_schema import account_buyers


class BuyerChange(msgspec.Struct, frozen=True):
    """A buyer from an instant on (Unix milliseconds), and who set it."""

    set_ms: int
    buyer: Buyer
    set_by: str


class RefusedBuyerError(RefusedChangeError):
    """A buyer that no document can be made out to; the message has a line for each mistake."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(["this buyer cannot be invoiced:", *(f"  {mistake}" for mistake in mistakes)]))
        self.mistakes = mistakes


class Buyers:
    """The buyers of accounts, as operators set them.

    Every method raises ``LedgerUnavailableError`` when the database does not answer.
    """

    def __init__(self, database: Database, clock_ms: Callable[[], int] = unix_ms) -> None:
        self._database = database
        self._clock_ms = clock_ms

    async def set(self, account: str, buyer: Buyer, *, by: str = "") -> tuple[Buyer, bool]:
        """Make the documents of an account (by name or id) out to a buyer from now on.

        Returns:
            The buyer with its numbers as they are written officially, and whether that changed anything.

        Raises:
            UnknownAccountError: there is no such account.
            RefusedBuyerError: the buyer makes no sense.
        """
        tidy, mistakes = checked(buyer)
        if mistakes:
            raise RefusedBuyerError(mistakes)
        async with self._database.write() as connection:
            owner = await find_account(connection, account, lock=True)
            last = (await _history(connection, owner.id))[-1:]
            if last and last[0].buyer == tidy:
                return tidy, False
            # Two changes in one millisecond, or a clock that was set back: history keeps its order.
            set_ms = max(self._clock_ms(), last[0].set_ms + 1 if last else 0)
            row = {
                "account_id": owner.id,
                "set_ms": set_ms,
                "buyer": msgspec.json.encode(tidy).decode(),
                "set_by": by,
            }
            await connection.execute(account_buyers.insert().values(row))
        return tidy, True

    async def current(self, account_id: str) -> Buyer | None:
        """Return who an account's documents are made out to now; None: nobody was set."""
        async with self._database.read() as connection:
            return (await read_buyers(connection, [account_id])).get(account_id)

    async def currents(self, account_ids: Collection[str]) -> dict[str, Buyer]:
        """Return who the documents of some accounts are made out to now, by account id."""
        async with self._database.read() as connection:
            return await read_buyers(connection, account_ids)

    async def history(self, account: str) -> list[BuyerChange]:
        """Return every buyer that an account (by name or id) has had, oldest first. Raises ``UnknownAccountError``."""
        async with self._database.read() as connection:
            return await _history(connection, (await find_account(connection, account)).id)


async def read_buyers(connection: AsyncConnection, account_ids: Collection[str] | None = None) -> dict[str, Buyer]:
    """Return the present buyer of some accounts, or of all, by account id; who has none is left out."""
    table = account_buyers.c
    latest = select(table.account_id, func.max(table.set_ms).label("set_ms")).group_by(table.account_id)
    if account_ids is not None:
        latest = latest.where(table.account_id.in_(account_ids))
    last = latest.subquery()
    query = select(table.account_id, table.buyer).join(
        last, (last.c.account_id == table.account_id) & (last.c.set_ms == table.set_ms)
    )
    rows = await connection.execute(query)
    return {account_id: msgspec.json.decode(text, type=Buyer) for account_id, text in rows}


async def _history(connection: AsyncConnection, account_id: str) -> list[BuyerChange]:
    table = account_buyers.c
    query = select(table.set_ms, table.buyer, table.set_by).where(table.account_id == account_id)
    rows = await connection.execute(query.order_by(table.set_ms))
    return [BuyerChange(set_ms, msgspec.json.decode(text, type=Buyer), by) for set_ms, text, by in rows]
