"""Credit as documents have used it: lots, with what was drawn of them and taken back.

What belongs here: reading, for any number of accounts with the same number of statements. What does not: lots as they
were bought (lots.py), and which lot pays for what (core/credit.py, core/invoicing/).
"""

from collections import defaultdict
from collections.abc import Collection
from typing import Any, Final

import msgspec
from sqlalchemy import exists, false, func, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.accounts import Account
from proxy.core.invoicing.document import DocumentKind, DocumentRef
from proxy.core.invoicing.facts import LotFact
from proxy.core.money import PICO_PER_CENT
from proxy.ledger.coverage import standing
from proxy.ledger.invoice_schema import invoice_draws, invoices
from proxy.ledger.lots import lot_of_row
from proxy.ledger.schema import credit_lots

_corrected: Final = invoices.alias("corrected")
_cancelling: Final = invoices.alias("cancelling")


async def read_lot_facts(connection: AsyncConnection, accounts: Collection[Account]) -> dict[str, tuple[LotFact, ...]]:
    """Return the lots of accounts, in the order in which they were bought, by account id.

    What a credit note has taken back of a deposit invoice in part is not there to be drawn any more.
    """
    zones = {account.id: account.timezone for account in accounts}
    drawn_table, lot, invoice = invoice_draws.c, credit_lots.c, invoices.c
    query: Any = select(drawn_table.lot_id, func.sum(drawn_table.drawn_cents))
    query = query.where(drawn_table.account_id.in_(zones)).group_by(drawn_table.lot_id)
    drawn = {lot_id: int(cents) for lot_id, cents in await connection.execute(query)}
    query = select(invoice.lot_id, invoice.number, invoice.issue_date)
    query = query.where(invoice.account_id.in_(zones), invoice.kind == DocumentKind.DEPOSIT.value, standing())
    deposits = {
        lot_id: DocumentRef(number, issue_date) for lot_id, number, issue_date in await connection.execute(query)
    }
    taken_back = await _read_taken_back(connection, zones)
    query = select(credit_lots).where(lot.account_id.in_(zones)).order_by(lot.bought_ms, lot.id)
    found: defaultdict[str, list[LotFact]] = defaultdict(list)
    for row in await connection.execute(query):
        bought = lot_of_row(row)
        left = msgspec.structs.replace(bought, amount_pico=bought.amount_pico - taken_back.get(bought.id, 0))
        drawable = left.drawable(zones[bought.account_id])
        fact = LotFact(drawable, bought.reference, drawn.get(bought.id, 0), deposits.get(bought.id))
        found[bought.account_id].append(fact)
    return {account_id: tuple(facts) for account_id, facts in found.items()}


async def _read_taken_back(connection: AsyncConnection, account_ids: Collection[str]) -> dict[str, int]:
    """Return what credit notes have taken back of deposit invoices that stand, pico-euros by lot id."""
    note, corrected = invoices.c, _corrected.c
    query: Any = (
        select(corrected.lot_id, func.sum(note.net_cents))
        .join(_corrected, note.corrects == corrected.number)
        .where(
            note.account_id.in_(account_ids),
            note.cancels == false(),
            corrected.kind == DocumentKind.DEPOSIT.value,
            ~exists().where(_cancelling.c.corrects == corrected.number, _cancelling.c.cancels == true()),
        )
        .group_by(corrected.lot_id)
    )
    return {lot_id: int(cents) * PICO_PER_CENT for lot_id, cents in await connection.execute(query)}
