"""Drafts, line by line: a month's invoice and a deposit invoice."""

import random
from fractions import Fraction

import pytest

from proxy.core.invoicing.checking import mistakes_against, mistakes_of
from proxy.core.invoicing.document import DocumentKind, LineKind, UsageItem
from proxy.core.invoicing.drafting import deposit_invoice, numbered
from proxy.core.invoicing.errors import FactsError, InvoicingError
from proxy.core.invoicing.facts import DepositFacts, Used
from proxy.core.invoicing.lines import usage_lines
from proxy.core.invoicing.terms import DrawnCredit, InvoicingTerms
from proxy.core.invoicing.vat import tax_cents
from proxy.core.parties import Buyer, VatTreatment
from proxy.core.usage import TariffClass, UsageType
from tests.core.invoicing import books
from tests.core.invoicing.books import BUYERS, MODELS, PARIS, PRICES, SELLER, Books, entry, usage

AS_LINES, AS_PAID = (InvoicingTerms(drawn_credit=mode) for mode in DrawnCredit)
FRENCH = BUYERS[VatTreatment.FRENCH]
STANDARD, BATCH = TariffClass
ITEM = UsageItem("large", UsageType.INPUT, STANDARD, "2026-a", 3)


def calls(terms=AS_LINES, buyer=FRENCH):
    """Return books with usage of 12.00074 euros in November."""
    found = Books(terms, buyer)
    found.record(entry("2026-11", 3, "large", STANDARD, usage(input=40_000_000), PRICES[0]))  # 12.00028
    found.record(entry("2026-11", 20, "small", STANDARD, usage(input=5), PRICES[0]))  # 0.000000450005
    return found


def test_lines_are_sorted_for_a_reader_and_late_ones_come_last_by_day():
    found = Books(AS_LINES, FRENCH)
    everything = usage(output=7, input=7, audio_minutes=7)
    for version in reversed(PRICES):
        for tariff_class in (BATCH, STANDARD):
            for model in reversed(MODELS):
                found.record(entry("2026-11", 3, model, tariff_class, everything, version))
    found.record(entry("2026-10", 5, "large", STANDARD, everything, PRICES[0]))
    assert found.invoice("2026-10", "2026-11-03")
    for day in (9, 8):
        found.record(entry("2026-10", day, "small", STANDARD, usage(input=1), PRICES[0]))
    invoice = found.invoice("2026-11", "2026-12-03")
    own = [line for line in invoice.lines if line.kind is LineKind.USAGE]
    assert [
        (line.usage.model, line.usage.tariff_class, line.usage.usage_type, line.usage.price_version) for line in own
    ] == [
        (model, tariff_class, usage_type, version)
        for model in ("large", "small")
        for tariff_class in (STANDARD, BATCH)
        for usage_type in (UsageType.INPUT, UsageType.OUTPUT, UsageType.AUDIO_MINUTES)
        for version in ("2026-a", "2026-b")
    ]
    assert [(line.number, line.kind, line.first_day, line.last_day) for line in invoice.lines[24:]] == [
        (25, LineKind.LATE, "2026-10-08", "2026-10-08"),
        (26, LineKind.LATE, "2026-10-09", "2026-10-09"),
    ]


def test_a_price_change_within_the_month_makes_two_lines_of_one_item():
    found = Books(AS_LINES, FRENCH)
    for day, version in ((14, PRICES[0]), (15, PRICES[1])):
        found.record(entry("2026-11", day, "large", STANDARD, usage(input=1_000_000), version))
    lines = found.invoice("2026-11", "2026-12-03").lines
    assert [(line.usage.unit_price_pico, line.net_cents) for line in lines] == [(300_007, 30), (900_021, 90)]


def test_what_credit_pays_for_is_taken_off_before_vat_or_counts_as_paid():
    totals = {}
    for terms in (AS_LINES, AS_PAID):
        found = calls(terms)
        found.buy(books.lot("a", 500, "2026-11"), day="2026-11-04")
        invoice = found.invoice("2026-11", "2026-12-03")
        totals[terms.drawn_credit] = (
            [line.net_cents for line in invoice.lines],
            (invoice.net_cents, invoice.vat.vat_cents, invoice.gross_cents, invoice.paid_cents, invoice.due_cents),
        )
        assert invoice.drawn_cents == {"a": 500}
    assert totals == {
        DrawnCredit.DEPOSIT_LINE: ([1200, 0, -500], (700, 140, 840, 0, 840)),
        DrawnCredit.PAID_AMOUNT: ([1200, 0], (1200, 240, 1440, 600, 840)),
    }
    line = found.documents[0].lines[0]
    assert (line.kind, line.net_cents, line.reference) == (LineKind.CREDIT, 500, "PO a")


def test_the_line_of_drawn_credit_names_the_deposit_invoice_if_there_is_one():
    found = calls()
    found.buy(books.lot("a", 500, "2026-11"), day="2026-11-04")
    found.buy(books.lot("b", 300, "2026-11"), day=None)
    lines = [line for line in found.invoice("2026-11", "2026-12-03").lines if line.kind is LineKind.DRAWN]
    assert [
        (line.reference, line.deposit and line.deposit.number, line.quantity, line.net_cents) for line in lines
    ] == [
        ("PO a", "D-2026-000001", -1, -500),
        ("PO b", None, -1, -300),
    ]


@pytest.mark.parametrize("terms", [AS_LINES, AS_PAID])
def test_an_invoice_that_credit_covers_is_zero(terms):
    found = calls(terms)
    found.buy(books.lot("a", 1333, "2026-11"), day="2026-11-04")
    invoice = found.invoice("2026-11", "2026-12-03")
    assert (invoice.due_cents, books.asked_cents(invoice)) == (0, 0)
    assert invoice.net_cents == (0 if terms is AS_LINES else 1200)


@pytest.mark.parametrize(
    ("treatment", "expected"),
    [
        (VatTreatment.FRENCH, ("S", 2000, 240)),
        (VatTreatment.REVERSE_CHARGE, ("AE", 0, 0)),
        (VatTreatment.EXPORT, ("G", 0, 0)),
    ],
)
def test_vat_is_what_the_buyer_bears(treatment, expected):
    vat = calls(buyer=BUYERS[treatment]).invoice("2026-11", "2026-12-03").vat
    assert (vat.category, vat.rate_bp, vat.vat_cents) == expected


def test_vat_is_rounded_half_up_once():
    assert [tax_cents(base, 2000) for base in (2, 3, 7, 8)] == [0, 1, 1, 2]
    assert [tax_cents(base, 550) for base in (9, 10, 1000)] == [0, 1, 55]
    assert tax_cents(-3, 2000) == -1


def test_an_invoice_is_due_when_its_buyer_pays_or_as_everybody():
    assert calls().invoice("2026-11", "2026-12-03").due_date == "2027-01-17"
    assert calls(buyer=Buyer("Acme", PARIS)).invoice("2026-11", "2026-12-03").due_date == "2027-01-02"


def test_nothing_used_is_nothing_to_invoice_and_next_to_nothing_is():
    found = Books(AS_LINES, FRENCH)
    assert found.invoice("2026-11", "2026-12-03") is None
    found.record(entry("2026-11", 3, "large", STANDARD, usage(), PRICES[0]))
    assert found.invoice("2026-11", "2026-12-03") is None
    found.record(entry("2026-11", 3, "large", BATCH, usage(output=12), PRICES[0]))  # at no price
    invoice = found.invoice("2026-11", "2026-12-03")
    assert (invoice.gross_cents, [line.quantity for line in invoice.lines]) == (0, [12])
    assert mistakes_of(invoice) == []


def test_what_came_late_is_invoiced_with_the_next_month_even_if_that_has_nothing_of_its_own():
    found = calls()
    found.invoice("2026-11", "2026-12-03")
    found.record(entry("2026-11", 30, "large", STANDARD, usage(input=1_000_000), PRICES[0]))
    invoice = found.invoice("2026-12", "2027-01-03")
    assert [(line.kind, line.first_day, line.net_cents) for line in invoice.lines] == [
        (LineKind.LATE, "2026-11-30", 30)
    ]
    assert [(mark.month, mark.after_link, mark.link) for mark in invoice.chain] == [
        ("2026-12", 0, 0),
        ("2026-11", 2, 3),
    ]
    assert mistakes_of(invoice) == mistakes_against(invoice, found.behind(invoice), PRICES) == []


@pytest.mark.parametrize(
    ("used", "late", "problem"),
    [
        (("", 5, 14), None, "are not worth 14"),
        (("", -5, -15), None, "are not worth -15"),
        (("2026-11-03", 5, 15), None, "are dated"),
        (None, ("", 5, 15), "late ones"),
        (None, ("2026-11-03", 5, 15), "late ones"),
    ],
)
def test_sums_that_contradict_themselves_are_refused(used, late, problem):
    given = [[Used(ITEM, *each)] if each else [] for each in (used, late)]
    with pytest.raises(FactsError, match=problem):
        usage_lines("2026-11", *given)


def test_sums_of_one_item_make_one_line():
    lines = usage_lines("2026-11", [Used(ITEM, "", 5, 15), Used(ITEM, "", 2, 6)], [])
    assert [(line.quantity, line.exact_pico) for line in lines] == [(7, 21)]


def test_a_deposit_invoice_has_been_paid_and_bears_vat():
    facts = DepositFacts("acme", "Acme", "Tier 1", books.lot("a", 12_345, "2026-11"), "PO 7", "2026-11-20")
    invoice = numbered(deposit_invoice(facts, SELLER, FRENCH, "2026-11-21"), "D-2026-000001")
    assert (invoice.kind, invoice.lot_id, invoice.month) == (DocumentKind.DEPOSIT, "a", "")
    assert (invoice.net_cents, invoice.vat.vat_cents, invoice.paid_cents, invoice.due_cents) == (
        12_345,
        2469,
        14_814,
        0,
    )
    assert mistakes_of(invoice, AS_LINES) == []


def test_a_lot_that_is_not_whole_cents_has_no_deposit_invoice():
    lot = books.Lot("a", 12_345 * 10**10 + 1, "2026-11-01")
    with pytest.raises(InvoicingError, match=r"PO 7: 123\.450000000001 euros are not whole cents"):
        deposit_invoice(DepositFacts("acme", "Acme", "T", lot, "PO 7", "2026-11-20"), SELLER, FRENCH, "2026-11-21")


def test_a_large_month_is_its_entries_to_the_pico_euro():
    chance = random.Random(20261128)
    found = Books(AS_LINES, FRENCH)
    for _ in range(20_000):
        amounts = {chance.choice(list(UsageType)): chance.randrange(10**6) for _ in range(3)}
        day, version = chance.randint(1, 30), chance.choice(PRICES)
        model, tariff_class = chance.choice(MODELS), chance.choice(list(TariffClass))
        found.record(entry("2026-11", day, model, tariff_class, usage(**amounts), version))
    invoice = found.invoice("2026-11", "2026-12-03")
    exact = Fraction(0)
    for call in found.entries():
        exact += sum(Fraction(line.amount) * Fraction(line.unit_price_pico, 10**12) for line in call.charge.lines)
    assert Fraction(invoice.exact_pico, 10**12) == exact
    assert Fraction(invoice.net_cents, 100) == exact + Fraction(invoice.rounding_pico, 10**12)
    lines = len(invoice.lines)
    assert lines == len(MODELS) * len(TariffClass) * len(UsageType) * len(PRICES)
    assert abs(Fraction(invoice.rounding_pico, 10**12)) <= Fraction(lines, 200)
    assert mistakes_of(invoice) == mistakes_against(invoice, found.entries(), PRICES) == []
