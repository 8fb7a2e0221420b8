"""The sales journal: what a document is in double entry.

What belongs here: which accounts a document moves, and by how much. What does not: the file that accountants read
(billing/exports/fec.py), and payments: they are the bank's journal.

===================================  ======================================  ====================================
document                             debit                                   credit
===================================  ======================================  ====================================
deposit invoice                      customers: gross                        advances: net; VAT
invoice                              customers: due; advances: credit drawn  sales: lines of usage, whole; VAT
the same, credit as an amount paid   beside it VAT: that of credit drawn     the same; VAT is that of all lines
credit note                          as what it corrects, the sides exchanged
===================================  ======================================  ====================================

Where credit is shown as an amount that has been paid, the VAT that its deposit bore is taken back from that of the
invoice: each way the same VAT is owed in the end. Debits equal credits, nothing is negative, and what is zero is left
out.
"""

from collections.abc import Iterator

import msgspec

from proxy.core.invoicing.document import DocumentKind, Invoice, LineKind
from proxy.core.invoicing.terms import Bookkeeping


class Posting(msgspec.Struct, frozen=True):
    """One line of an entry in the journal.

    Args:
        account: number in the chart of accounts.
        auxiliary: id of the customer's account, on accounts of customers and their advances; empty on others.
        label: what it is, for a reader.
        debit_cents: not negative; 0 where it is a credit.
        credit_cents: not negative; 0 where it is a debit.
    """

    account: str
    auxiliary: str
    label: str
    debit_cents: int
    credit_cents: int


def postings(invoice: Invoice, bookkeeping: Bookkeeping) -> tuple[Posting, ...]:
    """Return the postings of an issued document: debits and credits are equal.

    A document of 0.00 with lines of usage has some; one whose every amount is 0.00 has none.
    """
    of_customers = {bookkeeping.customers, bookkeeping.advances}
    sign = -1 if invoice.kind is DocumentKind.CREDIT_NOTE else 1
    label = f"{invoice.number} {invoice.buyer.name}"
    return tuple(
        Posting(
            account,
            invoice.account_id if account in of_customers else "",
            label,
            max(sign * debit_cents, 0),
            max(-sign * debit_cents, 0),
        )
        for account, debit_cents in _debits(invoice, bookkeeping)
        if debit_cents
    )


def _debits(invoice: Invoice, bookkeeping: Bookkeeping) -> Iterator[tuple[str, int]]:
    """Yield accounts and what they are debited, less than 0: credited, before a credit note exchanges the sides."""
    if any(line.kind is LineKind.CREDIT for line in invoice.lines):
        yield bookkeeping.customers, invoice.gross_cents
        yield bookkeeping.advances, -invoice.net_cents
        yield bookkeeping.vat, -invoice.vat.vat_cents
        return
    drawn_cents = sum(invoice.drawn_cents.values())
    sold_cents = sum(line.net_cents for line in invoice.lines if line.kind is not LineKind.DRAWN)
    as_paid = sold_cents == invoice.net_cents
    yield bookkeeping.customers, invoice.due_cents
    yield bookkeeping.advances, drawn_cents
    yield bookkeeping.vat, invoice.paid_cents - drawn_cents if as_paid else 0
    yield bookkeeping.sales, -sold_cents
    yield bookkeeping.vat, -invoice.vat.vat_cents
