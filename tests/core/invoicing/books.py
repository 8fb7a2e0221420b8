"""A small ledger in memory that invoices are made from: entries in links, lots, documents, what they cover and draw.

What belongs here: what the ledger does for invoices, in the plainest way, and the figures that documents are compared
with. What does not: expectations (test_histories.py).
"""

from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction

from proxy.core.credit import NO_END, Lot, draw_down
from proxy.core.entries import Entry, Outcome
from proxy.core.invoicing.checking import days_of
from proxy.core.invoicing.crediting import EVERYTHING, credit_note
from proxy.core.invoicing.document import ChainMark, DayOfUse, DocumentKind, DocumentRef, Invoice, LineKind, UsageItem
from proxy.core.invoicing.drafting import deposit_invoice, monthly_invoice, numbered
from proxy.core.invoicing.facts import DepositFacts, LotFact, MonthFacts, Used
from proxy.core.invoicing.numbers import Number
from proxy.core.invoicing.terms import InvoicingTerms
from proxy.core.parties import Address, Bank, Buyer, Seller, VatTreatment
from proxy.core.pricing import PriceVersion
from proxy.core.usage import Quantity, TariffClass, Usage, UsageType

MODELS = ("large", "small")
PARIS = Address(("1 rue de Rivoli",), "75001", "Paris", "FR")
SELLER = Seller(
    "Tollgate SAS",
    "SAS",
    "10 000 EUR",
    "732829320",
    "73282932000074",
    "Paris",
    "FR44732829320",
    PARIS,
    "billing@tollgate.example",
    Bank("FR7630006000011234567890189", "AGRIFRPP", "Tollgate SAS"),
)
BUYERS = {
    VatTreatment.FRENCH: Buyer("Acme", PARIS, payment_days=45),
    VatTreatment.REVERSE_CHARGE: Buyer("Acme GmbH", PARIS, VatTreatment.REVERSE_CHARGE, 0),
    VatTreatment.EXPORT: Buyer("Acme Inc", PARIS, VatTreatment.EXPORT, 0),
}


def prices(name: str, factor: int) -> PriceVersion:
    """Return a version whose prices are multiples of odd numbers of pico-euros; batch output is free."""
    unit = {
        (usage_type, tariff_class): factor * (300_007 + 700_001 * place) // (1 + (tariff_class is TariffClass.BATCH))
        for place, usage_type in enumerate(UsageType)
        for tariff_class in TariffClass
    }
    unit[UsageType.OUTPUT, TariffClass.BATCH] = 0
    return PriceVersion(name, 0, unit, {("small", UsageType.INPUT, TariffClass.STANDARD): factor * 90_001})


PRICES = (prices("2026-a", 1), prices("2026-b", 3))


def entry(month: str, day: int, model: str, tariff_class: TariffClass, usage: Usage, version: PriceVersion) -> Entry:
    """Return a call of the account ``acme``."""
    return Entry(
        call_id=f"{month}-{day}",
        account_id="acme",
        month=month,
        day=f"{month}-{day:02d}",
        key_id="key",
        tier="tier1",
        endpoint="/v1/chat/completions",
        model=model,
        tariff_class=tariff_class,
        outcome=Outcome.FINISHED,
        admitted_ms=0,
        settled_ms=0,
        charge=version.rate(model, usage, tariff_class),
    )


def usage(**amounts: int) -> Usage:
    """Return usage by the names of types."""
    return Usage(tuple(Quantity(UsageType(name), amount) for name, amount in amounts.items()))


@dataclass
class Bought:
    """A lot as it was bought, and its deposit invoice."""

    lot: Lot
    reference: str
    deposit: Invoice | None = None


@dataclass
class Books:
    """One account's entries, lots and documents."""

    terms: InvoicingTerms
    buyer: Buyer
    links: defaultdict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    lots: list[Bought] = field(default_factory=list)
    documents: list[Invoice] = field(default_factory=list)
    numbers: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def record(self, call: Entry) -> None:
        """Add an entry: a link of its month."""
        self.links[call.month].append(call)

    def buy(self, lot: Lot, *, day: str | None) -> None:
        """Add a lot, with a deposit invoice if a day is given."""
        bought = Bought(lot, f"PO {lot.id}")
        if day:
            facts = DepositFacts("acme", "Acme", "Tier 1", lot, bought.reference, day)
            bought.deposit = self.keep(deposit_invoice(facts, SELLER, self.buyer, day), self.terms.deposit_series)
        self.lots.append(bought)

    def invoice(self, month: str, issue_date: str) -> Invoice | None:
        """Issue a month's invoice; None: there is nothing to invoice."""
        draft = monthly_invoice(self.facts(month), SELLER, self.buyer, self.terms, issue_date)
        return self.keep(draft, self.terms.invoice_series) if draft else None

    def credit(self, corrected: Invoice, selection: object, issue_date: str) -> Invoice:
        """Issue a credit note."""
        note = credit_note(
            corrected,
            selection,
            "wrong price",
            issue_date,
            self.notes(corrected),
            self.lot_drawn_cents(corrected.lot_id),
        )
        return self.keep(note, self.terms.credit_note_series)

    def cancel(self, corrected: Invoice, issue_date: str) -> Invoice:
        """Issue a credit note of everything."""
        return self.credit(corrected, EVERYTHING, issue_date)

    def keep(self, draft: Invoice, series: str) -> Invoice:
        """Issue a draft."""
        self.numbers[series] += 1
        issued = numbered(draft, str(Number(series, int(draft.issue_date[:4]), self.numbers[series])))
        self.documents.append(issued)
        return issued

    def notes(self, corrected: Invoice) -> list[Invoice]:
        """Return the credit notes of a document."""
        return [each for each in self.documents if each.corrects and each.corrects.number == corrected.number]

    def standing(self) -> list[Invoice]:
        """Return monthly invoices that have not been cancelled."""
        months = [each for each in self.documents if each.kind is DocumentKind.INVOICE]
        return [each for each in months if not any(note.cancels for note in self.notes(each))]

    def covered(self, month: str) -> list[tuple[int, int]]:
        """Return the spans of links that standing invoices cover."""
        marks = [mark for each in self.standing() for mark in each.chain if mark.month == month]
        return sorted((mark.after_link, mark.link) for mark in marks if mark.link > mark.after_link)

    def open_span(self, month: str) -> tuple[int, int]:
        """Return the first span that no invoice covers."""
        reached = 0
        for after, last in self.covered(month):
            if after > reached:
                return reached, after
            reached = last
        return reached, len(self.links[month])

    def behind(self, invoice: Invoice) -> list[Entry]:
        """Return the entries that an invoice covers."""
        return [each for mark in invoice.chain for each in self.links[mark.month][mark.after_link : mark.link]]

    def is_invoiced(self, month: str) -> bool:
        """Whether an invoice of its own stands for a month."""
        return any(each.month == month for each in self.standing())

    def facts(self, month: str) -> MonthFacts:
        """Return what a month's invoice follows from."""
        months = [month, *sorted(each for each in self.links if each < month and self.is_invoiced(each))]
        spans = {each: self.open_span(each) for each in months}
        spans = {each: span for each, span in spans.items() if each == month or span[0] < span[1]}
        own = self.links[month][slice(*spans[month])]
        late = [each for before in list(spans)[1:] for each in self.links[before][slice(*spans[before])]]
        days = by_day(own)
        return MonthFacts(
            account_id="acme",
            account_name="Acme",
            tier="Tier 1",
            month=month,
            used=sums(own, dated=False),
            late=sums(late, dated=True),
            lots=tuple(self.lot_fact(each) for each in self.lots),
            used_by_day=by_day([*own, *late, *(call for each in self.standing() for call in self.behind(each))]),
            days=tuple(DayOfUse(day, days.get(day, 0)) for day in days_of(month)),
            chain=tuple(
                ChainMark(each, after, link, f"{link:064x}" if link else "") for each, (after, link) in spans.items()
            ),
        )

    def lot_fact(self, bought: Bought) -> LotFact:
        """Return a lot and what has been drawn of it."""
        deposit = bought.deposit
        reference = DocumentRef(deposit.number, deposit.issue_date) if deposit else None
        return LotFact(bought.lot, bought.reference, self.drawn_cents(bought.lot.id), reference)

    def drawn_cents(self, lot_id: str) -> int:
        """Return what documents have drawn of a lot, less what was given back."""
        return sum(sign(each) * each.drawn_cents.get(lot_id, 0) for each in self.documents)

    def lot_drawn_cents(self, lot_id: str) -> int:
        """Return what has been used of a lot, invoiced or not."""
        drawdown = draw_down([each.lot for each in self.lots], by_day(self.entries()))
        used = sum(pico for (_, lot), pico in drawdown.draws.items() if lot == lot_id)
        return max(-(-used // 10**10), self.drawn_cents(lot_id))

    def entries(self) -> list[Entry]:
        """Return every entry."""
        return [call for calls in self.links.values() for call in calls]

    def asked_cents(self) -> int:
        """Return what monthly invoices that stand ask for beyond credit, net."""
        return sum(asked_cents(each) for each in self.standing())

    def uncovered(self) -> Fraction:
        """Return what no lot pays for of what is invoiced, cents."""
        days = by_day([call for each in self.standing() for call in self.behind(each)])
        return Fraction(sum(draw_down([each.lot for each in self.lots], days).uncovered.values()), 10**10)


def sign(document: Invoice) -> int:
    """Return -1 for a credit note, 1 for all others."""
    return -1 if document.kind is DocumentKind.CREDIT_NOTE else 1


def sold_cents(document: Invoice) -> int:
    """Return the sum of the lines of usage."""
    return sum(line.net_cents for line in document.lines if line.kind in (LineKind.USAGE, LineKind.LATE))


def asked_cents(document: Invoice) -> int:
    """Return what a document asks for beyond credit, net."""
    return sold_cents(document) - sum(document.drawn_cents.values())


def by_day(calls: list[Entry]) -> dict[str, int]:
    """Return pico-euros by day."""
    found: defaultdict[str, int] = defaultdict(int)
    for call in calls:
        found[call.day] += call.charge.total_pico
    return dict(found)


def sums(calls: list[Entry], *, dated: bool) -> tuple[Used, ...]:
    """Return sums by item, and by day if they are dated."""
    found: defaultdict[tuple[str, UsageItem], list[int]] = defaultdict(lambda: [0, 0])
    for call in calls:
        for line in call.charge.lines:
            version, price = call.charge.price_version, line.unit_price_pico
            item = UsageItem(call.model, line.usage_type, call.tariff_class, version, price)
            found[call.day if dated else "", item][0] += line.amount
            found[call.day if dated else "", item][1] += line.cost_pico
    return tuple(Used(item, day, *amounts) for (day, item), amounts in found.items())


def lot(name: str, cents: int, month: str, last_day: str = NO_END) -> Lot:
    """Return a lot of whole cents, bought in a month."""
    return Lot(name, cents * 10**10, f"{month}-01", last_day)
