"""Credit as documents have used it: lots with what was drawn of them, and what was asked for beyond.

What belongs here: reading, for any number of accounts with the same number of statements. What does not: lots as they
were bought (lots.py), and which lot pays for what (core/credit.py, core/invoicing/).
"""

from collections import defaultdict
from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.accounts import Account
from proxy.core.invoicing.document import DocumentKind, DocumentRef
from proxy.core.invoicing.facts import LotFact
from proxy.ledger.coverage import standing
from proxy.ledger.invoice_schema import invoice_draws, invoices
from proxy.ledger.lots import lot_of_row
from proxy.ledger.schema import credit_lots

_corrected: Final = invoices.alias("corrected")


async def read_lot_facts(connection: AsyncConnection, accounts: Collection[Account]) -> dict[str, tuple[LotFact, ...]]:
    """Return the lots of accounts, in the order in which they were bought, by account id."""
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
    query = select(credit_lots).where(lot.account_id.in_(zones)).order_by(lot.bought_ms, lot.id)
    found: defaultdict[str, list[LotFact]] = defaultdict(list)
    for row in await connection.execute(query):
        bought = lot_of_row(row)
        drawable = bought.drawable(zones[bought.account_id])
        fact = LotFact(drawable, bought.reference, drawn.get(bought.id, 0), deposits.get(bought.id))
        found[bought.account_id].append(fact)
    return {account_id: tuple(facts) for account_id, facts in found.items()}


async def read_due(connection: AsyncConnection, account_ids: Collection[str]) -> dict[str, int]:
    """Return what invoices that stand have asked for beyond credit, net of what was credited, cents by account id."""
    invoice, draw, corrected = invoices.c, invoice_draws.c, _corrected.c
    of_invoices = select(corrected.number).where(
        corrected.account_id.in_(account_ids), corrected.kind == DocumentKind.INVOICE.value
    )
    query: Any = select(
        invoice.id,
        invoice.account_id,
        invoice.number,
        invoice.kind,
        invoice.corrects,
        invoice.cancels,
        invoice.net_cents,
        (invoice.due_cents != invoice.gross_cents).label("paid"),
    ).where(
        invoice.account_id.in_(account_ids),
        (invoice.kind == DocumentKind.INVOICE.value) | invoice.corrects.in_(of_invoices),
    )
    rows = (await connection.execute(query)).all()
    query = select(draw.invoice_id, func.sum(draw.drawn_cents)).where(draw.account_id.in_(account_ids))
    drawn = {id_: int(cents) for id_, cents in await connection.execute(query.group_by(draw.invoice_id))}
    cancelled = {row.corrects for row in rows if row.cancels}
    due: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        if row.number in cancelled or row.corrects in cancelled:
            continue
        sign = 1 if row.kind == DocumentKind.INVOICE else -1
        # Credit that counts as paid is no line of the document: it has been asked for with the rest.
        due[row.account_id] += sign * row.net_cents - (drawn.get(row.id, 0) if row.paid else 0)
    return due
