"""Credit notes: what may be taken back, and what becomes of drawn credit."""

import pytest
from msgspec.structs import replace

from proxy.core.invoicing.checking import mistakes_of
from proxy.core.invoicing.checking_notes import mistakes_of_note
from proxy.core.invoicing.crediting import EVERYTHING, Part, credit_note, lines_left
from proxy.core.invoicing.document import DocumentRef, LineKind
from proxy.core.invoicing.errors import CreditNoteError, DepositDrawnError
from proxy.core.invoicing.terms import DrawnCredit, InvoicingTerms
from proxy.core.parties import VatTreatment
from proxy.core.usage import TariffClass
from tests.core.invoicing import books
from tests.core.invoicing.books import BUYERS, PRICES, Books, entry, usage

AS_LINES, AS_PAID = (InvoicingTerms(drawn_credit=mode) for mode in DrawnCredit)
NOVEMBER, ISSUED, LATER = "2026-11", "2026-12-03", "2026-12-10"


def november(terms=AS_LINES, credit_cents=0):
    """Return books with an invoice of 12.00 and 8.00 euros, and the invoice."""
    found = Books(terms, BUYERS[VatTreatment.FRENCH])
    if credit_cents:
        found.buy(books.lot("a", credit_cents, NOVEMBER), day="2026-11-04")
    found.record(
        entry(NOVEMBER, 3, "large", TariffClass.STANDARD, usage(input=40_000_000, output=4_705_857), PRICES[0])
    )
    return found, found.invoice(NOVEMBER, ISSUED)


@pytest.mark.parametrize("terms", [AS_LINES, AS_PAID])
def test_a_credit_note_of_everything_mirrors_its_document_and_cancels_it(terms):
    found, invoice = november(terms, 700)
    note = found.cancel(invoice, LATER)
    for same in ("lines", "net_cents", "vat", "gross_cents", "paid_cents", "due_cents", "drawn_cents", "exact_pico"):
        assert getattr(note, same) == getattr(invoice, same), same
    assert (note.cancels, note.corrects) == (True, DocumentRef("F-2026-000001", ISSUED))
    assert (note.days, note.chain, note.due_date) == ((), (), LATER)
    assert mistakes_of(note, terms) == mistakes_of_note(note, invoice) == []


@pytest.mark.parametrize("terms", [AS_LINES, AS_PAID])
def test_what_was_cancelled_is_invoiced_anew_with_the_same_credit(terms):
    found, invoice = november(terms, 700)
    found.cancel(invoice, LATER)
    assert found.drawn_cents("a") == 0
    again = found.invoice(NOVEMBER, LATER)
    assert replace(again, number="", issue_date="", due_date="") == replace(
        invoice, number="", issue_date="", due_date=""
    )


@pytest.mark.parametrize("terms", [AS_LINES, AS_PAID])
def test_a_credit_note_in_part_is_money_and_leaves_credit_alone(terms):
    found, invoice = november(terms, 2500)
    assert invoice.due_cents == 0
    note = found.credit(invoice, [Part(1, 10_000_000)], LATER)
    assert (note.net_cents, note.vat.vat_cents, note.due_cents, note.paid_cents) == (300, 60, 360, 0)
    assert (note.drawn_cents, note.cancels, found.drawn_cents("a")) == ({}, False, 2000)


def test_lines_are_taken_back_whole_or_by_quantity_and_numbered_anew():
    found, invoice = november()
    note = found.credit(invoice, [Part(2), Part(1, 1)], LATER)
    assert [(line.number, line.usage.usage_type, line.quantity) for line in note.lines] == [
        (1, "input", 1),
        (2, "output", 4_705_857),
    ]
    left = lines_left(invoice, [note])
    assert [(line.quantity, line.net_cents) for line in left] == [(39_999_999, 1200), (0, 0)]


def test_in_total_credit_notes_take_the_rounded_worth_of_what_they_take_and_never_more_than_was_invoiced():
    found, invoice = november()
    taken = [found.credit(invoice, [Part(1, 55_555)], LATER) for _ in range(9)]  # 1.6667 cents each
    assert [note.net_cents for note in taken] == [2, 1, 2, 2, 1, 2, 2, 1, 2]
    assert sum(note.vat.vat_cents for note in taken) == 3
    rest = found.credit(invoice, [Part(1)], LATER)
    assert sum(note.net_cents for note in (*taken, rest)) == 1200
    whole = found.cancel(invoice, LATER)
    assert (whole.net_cents, [line.usage.usage_type for line in whole.lines]) == (800, ["output"])
    assert sum(note.vat.vat_cents for note in (*taken, rest, whole)) == invoice.vat.vat_cents
    assert sum(note.exact_pico for note in (*taken, rest, whole)) == invoice.exact_pico


def test_more_than_is_left_is_not_taken_back():
    found, invoice = november()
    found.credit(invoice, [Part(1, 39_999_999)], LATER)
    found.credit(invoice, [Part(1, 1)], LATER)
    for part in (Part(1), Part(1, 1), Part(2, 4_705_858), Part(2, 0), Part(2, -1)):
        with pytest.raises(CreditNoteError, match="are left of line"):
            found.credit(invoice, [part], LATER)
    found.credit(invoice, [Part(2)], LATER)
    with pytest.raises(CreditNoteError, match="nothing is left of F-2026-000001"):
        found.cancel(invoice, LATER)


def test_a_document_is_cancelled_once():
    found, invoice = november()
    found.cancel(invoice, LATER)
    for selection in (EVERYTHING, [Part(1)]):
        with pytest.raises(CreditNoteError, match="has been cancelled by A-2026-000001"):
            found.credit(invoice, selection, LATER)


@pytest.mark.parametrize("terms", [AS_LINES, AS_PAID])
def test_credit_that_was_paid_back_in_money_is_not_given_back_too(terms):
    found, invoice = november(terms, 700)  # 13.00 are due beyond credit
    found.credit(invoice, [Part(1, 40_000_000)], LATER)  # 12.00
    found.credit(invoice, [Part(2, 588_232)], LATER)  # 1.00
    note = credit_note(invoice, EVERYTHING, "all", LATER, found.notes(invoice))
    assert (note.due_cents, note.drawn_cents) == (0, {"a": 700})
    found.credit(invoice, [Part(2, 5883)], LATER)  # 0.01
    with pytest.raises(CreditNoteError, match="than was due beyond credit"):
        found.cancel(invoice, LATER)
    assert found.credit(invoice, [Part(2)], LATER).net_cents == 699


def test_only_lines_of_usage_are_taken_back_in_part():
    found, invoice = november(credit_cents=700)
    assert invoice.lines[2].kind is LineKind.DRAWN
    with pytest.raises(CreditNoteError, match="only cancelling gives it back"):
        found.credit(invoice, [Part(3)], LATER)


@pytest.mark.parametrize("parts", [[], [Part(1), Part(1, 5)], [Part(4)], [Part(0)]])
def test_parts_name_lines_that_there_are_once(parts):
    found, invoice = november()
    with pytest.raises(CreditNoteError):
        found.credit(invoice, parts, LATER)


def test_what_is_no_reason_to_issue_one_is_refused():
    found, invoice = november()
    other = replace(found.credit(invoice, [Part(1, 1)], LATER), corrects=DocumentRef("F-2026-000009", ISSUED))
    note = found.documents[-1]
    for document, reason, day, earlier, problem in (
        (note, "why", LATER, [], "is a credit note"),
        (replace(invoice, number=""), "why", LATER, [], "a draft"),
        (invoice, " ", LATER, [], "says why"),
        (invoice, "why", "2026-12-02", [], "after 2026-12-02"),
        (invoice, "why", LATER, [other], "does not correct"),
    ):
        with pytest.raises(CreditNoteError, match=problem):
            credit_note(document, EVERYTHING, reason, day, earlier)


def test_of_a_deposit_invoice_what_its_lot_still_holds_can_be_taken_back():
    found, _ = november(credit_cents=5000)  # of which 20.00007 have been used
    deposit = found.documents[0]
    for selection in (EVERYTHING, [Part(1)], [Part(1, 3000)]):
        with pytest.raises(
            DepositDrawnError, match=r"20\.01 € of the credit of D-2026-000001 have been used: 29\.99 € can"
        ):
            found.credit(deposit, selection, LATER)
    note = found.credit(deposit, [Part(1, 1000)], LATER)
    assert (note.net_cents, note.vat.vat_cents, note.due_cents, note.cancels) == (1000, 200, 1200, False)
    assert mistakes_of(note, AS_LINES) == mistakes_of_note(note, deposit) == []
    with pytest.raises(DepositDrawnError, match=r"19\.99 € can be taken back, not 20\.00 €"):
        found.credit(deposit, [Part(1, 2000)], LATER)
    assert not found.credit(deposit, [Part(1, 1999)], LATER).cancels


def test_credit_used_in_a_month_that_is_not_invoiced_yet_is_used_too():
    found, _ = november(credit_cents=5000)
    found.record(entry("2026-12", 1, "large", TariffClass.STANDARD, usage(input=100_000), PRICES[0]))
    with pytest.raises(DepositDrawnError, match=r"20\.04 € of the credit"):
        found.credit(found.documents[0], [Part(1, 2999)], LATER)


def test_a_deposit_invoice_of_which_nothing_was_used_is_cancelled():
    found = Books(AS_LINES, BUYERS[VatTreatment.FRENCH])
    found.buy(books.lot("a", 5000, NOVEMBER), day="2026-11-04")
    note = found.cancel(found.documents[0], LATER)
    assert (note.cancels, note.gross_cents, note.due_cents, note.lot_id) == (True, 6000, 6000, "a")
    assert mistakes_of(note) == mistakes_of_note(note, found.documents[0]) == []


def test_a_cent_of_vat_that_rounding_would_give_back_twice_is_given_back_once():
    found = Books(AS_PAID, BUYERS[VatTreatment.FRENCH])
    found.buy(books.lot("a", 3, NOVEMBER), day=None)
    found.record(entry(NOVEMBER, 3, "large", TariffClass.STANDARD, usage(input=200_000), PRICES[0]))
    invoice = found.invoice(NOVEMBER, ISSUED)  # 0.06 and 0.01 of VAT, of which 0.03 and 0.01 count as paid
    assert (invoice.gross_cents, invoice.paid_cents) == (7, 4)
    part = found.credit(invoice, [Part(1, 100_000)], LATER)  # 0.03 and 0.01
    rest = found.cancel(invoice, LATER)
    assert (rest.gross_cents, rest.paid_cents, rest.due_cents) == (3, 3, 0)
    assert mistakes_of_note(rest, invoice, [part]) == mistakes_of(rest) == []
