"""The checker finds what is altered: every number by one, every date by a day, and what is consistent but untrue."""

import re
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from proxy.core.entries import Entry
from proxy.core.invoicing.checking import mistakes_against, mistakes_of
from proxy.core.invoicing.checking_notes import mistakes_of_note
from proxy.core.invoicing.crediting import Part
from proxy.core.invoicing.document import DocumentKind, DocumentRef, Invoice, LineKind
from proxy.core.invoicing.terms import DrawnCredit, InvoicingTerms
from proxy.core.money import cents_half_up
from proxy.core.parties import VatTreatment
from proxy.core.usage import TariffClass
from tests.core.invoicing import books
from tests.core.invoicing.books import BUYERS, PRICES, Books, entry, usage

DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
ELSEWHERE = re.compile(r"chain/\d+/(after_link|link)|lines/\d+/deposit/issue_date|buyer/.*")
"""What no document tells of itself: how far it reaches into a chain, another document's date, who its buyer is."""
MODES = list(DrawnCredit)


class Evidence(msgspec.Struct):
    """A document, and what it can be compared with."""

    document: Invoice
    terms: InvoicingTerms
    entries: list[Entry] = []
    corrected: Invoice | None = None
    earlier: tuple[Invoice, ...] = ()

    def mistakes(self, document: Invoice) -> list[str]:
        """Return what is wrong with a document that should be this one."""
        found = mistakes_of(document, self.terms)
        if self.corrected is not None:
            return [*found, *mistakes_of_note(document, self.corrected, self.earlier)]
        return [*found, *(mistakes_against(document, self.entries, PRICES) if document.month else ())]


def documents(drawn_credit: DrawnCredit, treatment: VatTreatment = VatTreatment.FRENCH) -> list[Evidence]:
    """Return a deposit invoice, an invoice with credit and late lines, and credit notes of both, in part and whole."""
    terms = InvoicingTerms(drawn_credit=drawn_credit)
    found = Books(terms, BUYERS[treatment])
    found.buy(books.lot("a", 137, "2026-10"), day="2026-10-04")
    found.buy(books.lot("b", 150, "2026-11"), day="2026-11-04")
    found.record(entry("2026-10", 3, "large", TariffClass.STANDARD, usage(input=1_000_003), PRICES[0]))
    found.invoice("2026-10", "2026-11-03")
    found.record(entry("2026-10", 31, "large", TariffClass.STANDARD, usage(input=70_001), PRICES[0]))
    for day, model, version in ((3, "large", 0), (3, "small", 1), (20, "large", 1)):
        everything = usage(input=1_000_001, output=300_003, cached_input=77)
        found.record(entry("2026-11", day, model, TariffClass.STANDARD, everything, PRICES[version]))
    invoice = found.invoice("2026-11", "2026-12-03")
    entries = found.behind(invoice)
    parts = [found.credit(invoice, [Part(1, 111_111 * share), Part(2)][:share], "2026-12-04") for share in (1, 1)]
    whole = found.cancel(invoice, "2026-12-05")
    deposit = found.documents[0]
    found.links.clear()
    return [
        Evidence(deposit, terms),
        Evidence(invoice, terms, entries),
        Evidence(parts[0], terms, [], invoice),
        Evidence(parts[1], terms, [], invoice, (parts[0],)),
        Evidence(whole, terms, [], invoice, tuple(parts)),
        Evidence(found.credit(deposit, [Part(1, 100)], "2026-12-06"), terms, [], deposit),
    ]


EVERY = [
    pytest.param(each, id=f"{drawn_credit}-{treatment}-{place}")
    for drawn_credit in MODES
    for treatment in VatTreatment
    for place, each in enumerate(documents(drawn_credit, treatment))
]


def builtins_of(document: Invoice) -> Any:
    """Return a document as its JSON says it."""
    return msgspec.json.decode(msgspec.json.encode(document))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield each number and text of a document in builtins, with the way to it."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(each, (*path, key))
    elif value is not None:
        yield path, value


def altered(document: Invoice, path: tuple[Any, ...], value: Any) -> Invoice:
    """Return a document with one other value."""
    whole = at = builtins_of(document)
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return msgspec.convert(whole, Invoice)


def alterations(document: Invoice) -> Iterator[tuple[str, Invoice]]:
    """Yield documents of which one number is one more or less, or one date a day later or earlier."""
    for path, value in leaves(builtins_of(document)):
        name = "/".join(map(str, path))
        if ELSEWHERE.fullmatch(name) or isinstance(value, bool):
            continue
        for step in (-1, 1):
            if isinstance(value, int):
                yield f"{name} {step:+}", altered(document, path, value + step)
            elif DATE.fullmatch(value):
                day = date.fromisoformat(value) + timedelta(days=step)
                yield f"{name} {step:+}", altered(document, path, day.isoformat())


@pytest.mark.parametrize("evidence", EVERY)
def test_nothing_is_wrong_with_what_is_made(evidence):
    assert evidence.mistakes(evidence.document) == []


@pytest.mark.parametrize("evidence", EVERY)
def test_every_number_that_is_one_off_and_every_date_that_is_a_day_off_is_found(evidence):
    names, unseen = [], []
    for name, document in alterations(evidence.document):
        names.append(name)
        if not evidence.mistakes(document):
            unseen.append(name)
    assert unseen == []
    assert len(names) > 30


def invoice_of(drawn_credit: DrawnCredit = DrawnCredit.DEPOSIT_LINE) -> Evidence:
    """Return the invoice with credit and late lines."""
    return documents(drawn_credit)[1]


@pytest.mark.parametrize("drawn_credit", MODES)
def test_every_number_and_date_of_an_invoice_is_found_without_its_entries(drawn_credit):
    document = invoice_of(drawn_credit).document
    unseen = [
        name for name, each in alterations(document) if not mistakes_of(each, InvoicingTerms(drawn_credit=drawn_credit))
    ]
    assert unseen == []


def test_what_is_consistent_but_untrue_is_found_beside_the_entries():
    evidence = invoice_of()
    document = evidence.document
    line = document.lines[0]
    more = line.exact_pico + line.usage.unit_price_pico
    forged = replace(line, quantity=line.quantity + 1, exact_pico=more, net_cents=cents_half_up(more))
    days = [
        each if each.day != "2026-11-03" else replace(each, cost_pico=each.cost_pico + more - line.exact_pico)
        for each in document.days
    ]
    assert forged.net_cents == line.net_cents
    document = replace(
        document,
        lines=(forged, *document.lines[1:]),
        exact_pico=document.exact_pico + more - line.exact_pico,
        days=tuple(days),
    )
    assert mistakes_of(document, evidence.terms) == []
    assert [mistake.partition(":")[0] for mistake in mistakes_against(document, evidence.entries, PRICES)] == [
        "2026-11, large input standard (2026-a, 300007)",
        "2026-11-03",
    ]


def test_an_entry_that_is_missing_doubled_or_anothers_is_found():
    evidence = invoice_of()
    document, entries = evidence.document, evidence.entries
    assert mistakes_against(document, entries[1:], PRICES)
    assert mistakes_against(document, [*entries, entries[0]], PRICES)
    for name, value in (
        ("account_id", "other"),
        ("month", "2026-09"),
        ("day", "2026-11-04"),
        ("model", "small"),
        ("tariff_class", TariffClass.BATCH),
    ):
        assert mistakes_against(document, [replace(entries[0], **{name: value}), *entries[1:]], PRICES), name


def test_an_entry_that_was_priced_with_another_price_than_its_versions_is_found():
    evidence = invoice_of()
    wrong = replace(PRICES[0], unit_prices_pico={key: price + 1 for key, price in PRICES[0].unit_prices_pico.items()})
    assert mistakes_against(evidence.document, evidence.entries) == []
    found = mistakes_against(evidence.document, evidence.entries, [wrong, PRICES[1]])
    assert len([mistake for mistake in found if "is not the price of" in mistake]) == 4
    assert len(mistakes_against(evidence.document, evidence.entries, [PRICES[1]])) == 4


def test_an_entry_whose_sum_is_not_its_lines_is_found():
    evidence = invoice_of()
    first = evidence.entries[0]
    charge = replace(first.charge, total_pico=first.charge.total_pico + 1)
    assert len(mistakes_against(evidence.document, [replace(first, charge=charge), *evidence.entries[1:]])) == 1


def test_only_invoices_follow_from_entries():
    assert mistakes_against(documents(DrawnCredit.DEPOSIT_LINE)[0].document, []) == [
        "a deposit does not follow from entries"
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"number": "F-2027-000001"}, "is no number of a document of 2026"),
        ({"number": "A-2026-000001"}, "is not of the series F"),
        ({"number": "F20261"}, "is no number"),
        ({"issue_date": "3 December"}, "issue_date is no day"),
        ({"lot_id": "a"}, "a deposit names a lot"),
        ({"month": "2026-10"}, "is not 2026-10"),
        ({"corrects": DocumentRef("F-2026-000001", "2026-12-01")}, "says what it corrects"),
        ({"reason": "because"}, "says what it corrects"),
        ({"cancels": True}, "only a credit note cancels"),
        ({"kind": DocumentKind.DEPOSIT}, "lines are not those of a deposit"),
        ({"chain": ()}, "it covers"),
        ({"days": ()}, "its days"),
        ({"lines": ()}, "it has no lines"),
        ({"drawn_cents": {}}, "lots are drawn by"),
    ],
)
def test_what_does_not_go_together_is_found(changes, expected):
    evidence = invoice_of()
    assert any(expected in mistake for mistake in mistakes_of(replace(evidence.document, **changes), evidence.terms))


def test_lines_that_are_mixed_doubled_or_of_no_usage_are_found():
    evidence = invoice_of()
    document = evidence.document
    first, drawn = document.lines[0], document.lines[-1]
    late = next(line for line in document.lines if line.kind is LineKind.LATE)
    for lines, expected in (
        ((drawn, *document.lines[:-1]), "kinds of lines are mixed"),
        ((*document.lines[1:], first), "not numbered"),
        ((first, *document.lines), "two lines are about the same"),
        ((replace(first, usage=None), *document.lines[1:]), "should say what was used"),
        ((replace(first, reference="PO a"), *document.lines[1:]), "should say what was used"),
        ((*document.lines[:-1], replace(drawn, reference="")), "should name the credit"),
        ((late, replace(late, first_day="2026-10-30", last_day="2026-10-30")), "order of their days"),
    ):
        assert any(expected in mistake for mistake in mistakes_of(replace(document, lines=lines))), expected


def test_a_credit_note_beside_another_document_or_after_another_is_found():
    whole = documents(DrawnCredit.DEPOSIT_LINE)[4]
    corrected, earlier = whole.corrected, whole.earlier
    for document, beside, before, expected in (
        (replace(whole.document, account_id="other"), corrected, earlier, "its account_id is another"),
        (whole.document, replace(corrected, number="F-2026-000009"), earlier, "it does not correct F-2026-000009"),
        (whole.document, corrected, (*earlier, whole.document), "was cancelled before"),
        (whole.document, corrected, (), "of it are left"),
        (replace(whole.document, drawn_cents={}), corrected, earlier, "it gives {} back"),
        (
            replace(whole.document, lines=(replace(whole.document.lines[0], first_day="2026-11-02"),)),
            corrected,
            earlier,
            "is not on",
        ),
    ):
        assert any(expected in mistake for mistake in mistakes_of_note(document, beside, before)), expected
