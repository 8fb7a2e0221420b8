"""Accounts with their credit as documents see it.

What belongs here: reading it in one snapshot. What does not: months (month_facts.py), and what is made of it
(billing/invoices/).
"""

from collections.abc import Callable, Collection

import msgspec
from sqlalchemy import func, select

from proxy.clock import unix_ms
from proxy.core.accounts import Account
from proxy.core.invoicing.facts import LotFact
from proxy.core.parties import Buyer
from proxy.ledger.accounts import ACCOUNTS, account_of
from proxy.ledger.buyers import read_buyers
from proxy.ledger.database import Database
from proxy.ledger.invoice_schema import invoices
from proxy.ledger.invoiced_credit import read_lot_facts
from proxy.ledger.schema import accounts, credit_lots


class LotState(msgspec.Struct, frozen=True):
    """An account with what it has bought.

    Args:
        account: as it is now.
        buyer: who its documents are made out to; None: nobody yet.
        lots: in the order in which they were bought.
        bought_ms: when, Unix milliseconds, by lot id.
        documents: how many documents the account has: when there are more, this is no longer so.
    """

    account: Account
    buyer: Buyer | None
    lots: tuple[LotFact, ...]
    bought_ms: dict[str, int]
    documents: int


class LotStateReader:
    """Reads the credit of accounts. Raises ``LedgerUnavailableError`` when the database does not answer."""

    def __init__(self, database: Database, clock_ms: Callable[[], int] = unix_ms) -> None:
        self._database = database
        self._clock_ms = clock_ms

    async def read(self, account_ids: Collection[str]) -> list[LotState]:
        """Return some accounts with their credit, in the order of their ids."""
        table = invoices.c
        async with self._database.read() as connection:
            rows = await connection.execute(ACCOUNTS.where(accounts.c.id.in_(account_ids)).order_by(accounts.c.id))
            now_ms = self._clock_ms()
            wanted = [account_of(row).at(now_ms) for row in rows]
            buyers = await read_buyers(connection, account_ids)
            facts = await read_lot_facts(connection, wanted)
            query = select(credit_lots.c.id, credit_lots.c.bought_ms).where(credit_lots.c.account_id.in_(account_ids))
            bought_ms = {row.id: row.bought_ms for row in await connection.execute(query)}
            counted = select(table.account_id, func.count()).where(table.account_id.in_(account_ids))
            documents = {id_: int(count) for id_, count in await connection.execute(counted.group_by(table.account_id))}
        return [
            LotState(
                account,
                buyers.get(account.id),
                facts.get(account.id, ()),
                {fact.lot.id: bought_ms[fact.lot.id] for fact in facts.get(account.id, ())},
                documents.get(account.id, 0),
            )
            for account in wanted
        ]
