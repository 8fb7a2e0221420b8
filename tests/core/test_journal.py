"""The sales journal: postings of every kind of document."""

import pytest

from proxy.core.invoicing.crediting import Part
from proxy.core.invoicing.terms import Bookkeeping, DrawnCredit, InvoicingTerms
from proxy.core.journal import postings
from proxy.core.parties import VatTreatment
from proxy.core.usage import TariffClass
from tests.core.invoicing import books
from tests.core.invoicing.books import BUYERS, PRICES, Books, entry, usage

AS_LINES, AS_PAID = (InvoicingTerms(drawn_credit=mode) for mode in DrawnCredit)
LATER = "2026-12-10"


def november(terms, credit_cents, treatment=VatTreatment.FRENCH):
    """Return books with an invoice of 20.00 euros, and the invoice."""
    found = Books(terms, BUYERS[treatment])
    found.buy(books.lot("a", credit_cents, "2026-11"), day="2026-11-04")
    found.record(
        entry("2026-11", 3, "large", TariffClass.STANDARD, usage(input=40_000_000, output=4_705_857), PRICES[0])
    )
    return found, found.invoice("2026-11", "2026-12-03")


def moved(document, terms=AS_LINES):
    return [(each.account, each.debit_cents, each.credit_cents) for each in postings(document, terms.bookkeeping)]


def exchanged(found):
    return [(account, credit, debit) for account, debit, credit in found]


def test_a_deposit_invoice_is_owed_and_is_an_advance():
    found, _ = november(AS_LINES, 700)
    assert moved(found.documents[0]) == [("411000", 840, 0), ("419100", 0, 700), ("445710", 0, 140)]


def test_an_invoice_is_sales_and_uses_up_the_advance():
    _, invoice = november(AS_LINES, 700)
    assert moved(invoice) == [("411000", 1560, 0), ("419100", 700, 0), ("706000", 0, 2000), ("445710", 0, 260)]


def test_credit_that_counts_as_paid_takes_the_vat_of_the_advance_back_so_that_the_end_is_the_same():
    _, invoice = november(AS_PAID, 700)
    found = moved(invoice, AS_PAID)
    assert found == [
        ("411000", 1560, 0),
        ("419100", 700, 0),
        ("445710", 140, 0),
        ("706000", 0, 2000),
        ("445710", 0, 400),
    ]
    ends = [
        {account: sum(debit - credit for name, debit, credit in rows if name == account) for account, _, _ in rows}
        for rows in (found, moved(november(AS_LINES, 700)[1]))
    ]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("terms", [AS_LINES, AS_PAID])
def test_a_credit_note_exchanges_the_sides_of_what_it_corrects(terms):
    found, invoice = november(terms, 700)
    assert moved(found.cancel(invoice, LATER), terms) == exchanged(moved(invoice, terms))
    deposit = found.documents[0]
    found.links.clear()  # as if nothing of it had been used
    assert moved(found.cancel(deposit, LATER), terms) == exchanged(moved(deposit, terms))


@pytest.mark.parametrize("terms", [AS_LINES, AS_PAID])
def test_a_credit_note_in_part_takes_back_sales_and_their_vat(terms):
    found, invoice = november(terms, 2500)
    note = found.credit(invoice, [Part(1, 10_000_000)], LATER)
    assert moved(note, terms) == [("411000", 0, 360), ("706000", 300, 0), ("445710", 60, 0)]


def test_an_invoice_of_zero_moves_sales_against_the_advance():
    _, invoice = november(AS_LINES, 2500)
    assert moved(invoice) == [("419100", 2000, 0), ("706000", 0, 2000)]


def test_without_vat_there_is_no_posting_of_it():
    _, invoice = november(AS_PAID, 700, VatTreatment.EXPORT)
    assert moved(invoice, AS_PAID) == [("411000", 1300, 0), ("419100", 700, 0), ("706000", 0, 2000)]


def test_accounts_are_those_of_the_terms_and_customers_have_an_auxiliary():
    _, invoice = november(AS_LINES, 700)
    found = postings(invoice, Bookkeeping(customers="1", advances="2", sales="3", vat="4"))
    assert [(each.account, each.auxiliary, each.label) for each in found] == [
        ("1", "acme", "F-2026-000001 Acme"),
        ("2", "acme", "F-2026-000001 Acme"),
        ("3", "", "F-2026-000001 Acme"),
        ("4", "", "F-2026-000001 Acme"),
    ]
