"""Documents of every kind, language, VAT treatment and way of drawing credit, complete and with right totals."""

import itertools

from proxy.core.invoicing.document import (
    ChainMark,
    DayOfUse,
    DocumentKind,
    DocumentRef,
    Invoice,
    Line,
    LineKind,
    UsageItem,
    Vat,
)
from proxy.core.invoicing.terms import DrawnCredit, InvoicingTerms
from proxy.core.money import PICO_PER_CENT, cents_half_up
from proxy.core.parties import Address, Bank, Buyer, Language, Seller, VatTreatment
from proxy.core.usage import TariffClass, UsageType

TERMS = InvoicingTerms()

SELLER = Seller(
    name="Tollgate Démonstration",
    legal_form="SAS",
    capital="10 000 EUR",
    siren="123456782",
    siret="12345678200010",
    rcs="Paris",
    vat_number="FR11123456782",
    address=Address(lines=("1 rue de l’Exemple",), postcode="75000", city="Paris", country="FR"),
    email="facturation@imaginaire.example",
    bank=Bank(iban="FR7699999000011234567890152", bic="TESTFRPPXXX", holder="Tollgate Démonstration"),
    phone="+33 1 99 00 00 00",
    website="https://imaginaire.example",
)


def buyer(vat: VatTreatment = VatTreatment.FRENCH, language: Language = Language.FRENCH, **changes) -> Buyer:
    """Make a buyer whose identifiers are what its VAT treatment needs."""
    values = {
        VatTreatment.FRENCH: {
            "name": "Ateliers de l’Œuvre & Fils",
            "address": Address(("12 quai des Brumes", "Bâtiment B"), "69002", "Lyon", "FR"),
            "siren": "987654324",
            "siret": "98765432400013",
            "vat_number": "FR38987654324",
            "vat_rate_bp": 2000,
            "email": "compta@ateliers.example",
            "purchase_order": "PO-2026-77",
            "reference": "SERVICE-42",
        },
        VatTreatment.REVERSE_CHARGE: {
            "name": "Müller & Söhne Datenverarbeitung GmbH",
            "address": Address(("Königstraße 5",), "10115", "Berlin", "DE"),
            "vat_number": "DE136695976",
            "vat_rate_bp": 0,
            "email": "rechnungen@mueller.example",
        },
        VatTreatment.EXPORT: {
            "name": "Acme Language, Inc.",
            "address": Address(("500 Example Street", "Suite 210"), "94105", "San Francisco", "US"),
            "vat_rate_bp": 0,
            "email": "ap@acme.example",
        },
    }[vat]
    return Buyer(vat=vat, language=language, **(values | changes))


def item(model="gpt-oss:120b", usage=UsageType.INPUT, tariff=TariffClass.STANDARD, price=1_800_000) -> UsageItem:
    return UsageItem(model, usage, tariff, "2025-01", price)


USED = (
    (item(), 1_234_567_891),
    (item(usage=UsageType.CACHED_INPUT), 20_000),
    (item(usage=UsageType.OUTPUT, price=8_000_000), 87_654_321),
    (item("qwen3-embedding:8b", tariff=TariffClass.BATCH, price=900_000), 3),
    (item("bge-reranker-v2-m3", UsageType.RERANK, price=4_000_000), 999_999),
    (item("whisper-large-v3", UsageType.AUDIO_MINUTES, price=10_000_000_000), 4_321),
)


def usage_line(number: int, used: UsageItem, quantity: int, day: str = "") -> Line:
    exact = quantity * used.unit_price_pico
    kind, first, last = (LineKind.LATE, day, day) if day else (LineKind.USAGE, "2026-08-01", "2026-08-31")
    return Line(number, kind, first, last, quantity, exact, cents_half_up(exact), usage=used)


def credit_line(number: int, cents: int, kind: LineKind, reference: str, deposit: DocumentRef | None = None) -> Line:
    quantity = -1 if kind is LineKind.DRAWN else 1
    return Line(
        number,
        kind,
        "2026-08-01",
        "2026-08-31",
        quantity,
        quantity * cents * PICO_PER_CENT,
        quantity * cents,
        reference=reference,
        deposit=deposit,
    )


def days() -> tuple[DayOfUse, ...]:
    """August, with days without any use."""
    return tuple(
        DayOfUse(f"2026-08-{day:02d}", 0 if day % 7 in (1, 2) else (day * 7919 % 31) * 3_000_000_000_000)
        for day in range(1, 32)
    )


def document(lines, who: Buyer, kind: DocumentKind = DocumentKind.INVOICE, paid_cents: int = 0, **changes) -> Invoice:
    """Make a document of lines, its totals right."""
    category = {"french": "S", "reverse_charge": "AE", "export": "G"}[who.vat]
    net = sum(line.net_cents for line in lines)
    vat_cents = cents_half_up(net * who.vat_rate_bp * PICO_PER_CENT // 10_000)
    gross = net + vat_cents
    paid = gross if kind is DocumentKind.DEPOSIT else paid_cents
    values = {
        "kind": kind,
        "number": "F-2026-000042",
        "issue_date": "2026-09-03",
        "due_date": "2026-10-03",
        "account_id": "acc_1",
        "account_name": "ateliers",
        "tier": "Tier 3",
        "month": "2026-08",
        "first_day": "2026-08-01",
        "last_day": "2026-08-31",
        "seller": SELLER,
        "buyer": who,
        "lines": tuple(lines),
        "net_cents": net,
        "vat": Vat(category, who.vat_rate_bp, net, vat_cents),
        "gross_cents": gross,
        "paid_cents": paid,
        "due_cents": gross - paid,
        "exact_pico": sum(line.exact_pico for line in lines),
        "days": days(),
        "chain": (
            ChainMark("2026-08", 0, 412, "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
            ChainMark("2026-07", 380, 383, "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"),
        ),
    }
    return Invoice(**(values | changes))


DEPOSIT_REF = DocumentRef("D-2026-000007", "2026-07-10")


def invoice(who: Buyer, drawn: DrawnCredit | None = None, late: bool = True, **changes) -> Invoice:
    """Make a month's invoice: usage, late usage, and credit drawn in either way or not at all."""
    lines = [usage_line(number, used, quantity) for number, (used, quantity) in enumerate(USED, 1)]
    if late:
        lines.append(usage_line(len(lines) + 1, item(), 55_555, day="2026-07-30"))
    if drawn is DrawnCredit.DEPOSIT_LINE:
        lines.append(credit_line(len(lines) + 1, 50_000, LineKind.DRAWN, "July top-up", DEPOSIT_REF))
        changes = {"drawn_cents": {"lot1": 50_000}} | changes
    if drawn is DrawnCredit.PAID_AMOUNT:
        changes = {"drawn_cents": {"lot1": 50_000}, "paid_cents": 60_000} | changes
    return document(lines, who, **changes)


def deposit(who: Buyer, **changes) -> Invoice:
    """Make the invoice of credit that was bought, and paid."""
    line = msgspec_replace_days(credit_line(1, 50_000, LineKind.CREDIT, "July top-up"), "2026-07-10")
    values = {
        "number": DEPOSIT_REF.number,
        "issue_date": "2026-07-10",
        "due_date": "2026-07-10",
        "month": "",
        "first_day": "2026-07-10",
        "last_day": "2026-07-10",
        "days": (),
        "chain": (),
        "lot_id": "lot1",
    }
    return document([line], who, DocumentKind.DEPOSIT, **(values | changes))


def msgspec_replace_days(line: Line, day: str) -> Line:
    import msgspec

    return msgspec.structs.replace(line, first_day=day, last_day=day)


def credit_note(of: Invoice, number: str = "A-2026-000003", whole: bool = True, **changes) -> Invoice:
    """Make the credit note of a document: of all of it, or of half the quantity of its first line."""
    lines = list(of.lines)
    if not whole:
        first = lines[0]
        assert first.usage is not None
        lines = [usage_line(1, first.usage, first.quantity // 2)]
    values = {
        "number": number,
        "issue_date": "2026-09-20",
        "due_date": "2026-09-20",
        "month": of.month,
        "first_day": of.first_day,
        "last_day": of.last_day,
        "days": of.days,
        "chain": of.chain,
        "corrects": DocumentRef(of.number, of.issue_date),
        "cancels": whole,
        "reason": "Erreur de tarif <i>signalée</i> par le client",
        "drawn_cents": of.drawn_cents if whole else {},
        "paid_cents": of.paid_cents if whole else 0,
    }
    return document(lines, of.buyer, DocumentKind.CREDIT_NOTE, **(values | changes))


def every() -> dict[str, Invoice]:
    """Make documents of every kind x language x VAT treatment x way of drawing credit, by a name that says which."""
    made = {}
    for vat, language in itertools.product(VatTreatment, Language):
        who = buyer(vat, language)
        for drawn in (None, *DrawnCredit):
            month = invoice(who, drawn)
            key = f"{vat}-{language}-{drawn or 'undrawn'}"
            made[f"invoice-{key}"] = month
            made[f"credit-note-{key}"] = credit_note(month)
        made[f"partial-credit-note-{vat}-{language}"] = credit_note(invoice(who), whole=False)
        made[f"deposit-{vat}-{language}"] = deposit(who)
        made[f"deposit-credit-note-{vat}-{language}"] = credit_note(deposit(who))
    return made
