"""Documents of every kind, language, VAT treatment and way of drawing credit, drafted like those that are issued."""

import itertools

from msgspec.structs import replace

from proxy.core.credit import Lot
from proxy.core.invoicing.crediting import EVERYTHING, Part
from proxy.core.invoicing.crediting import credit_note as draft_credit_note
from proxy.core.invoicing.document import ChainMark, DayOfUse, DocumentRef, Invoice, UsageItem
from proxy.core.invoicing.drafting import deposit_invoice, monthly_invoice, numbered
from proxy.core.invoicing.facts import DepositFacts, LotFact, MonthFacts, Used
from proxy.core.invoicing.terms import DrawnCredit, InvoicingTerms
from proxy.core.money import PICO_PER_CENT
from proxy.core.parties import Address, Bank, Buyer, Language, Seller, VatTreatment
from proxy.core.usage import TariffClass, UsageType

TERMS = InvoicingTerms()
MONTH = "2026-08"
DEPOSIT = DocumentRef("D-2026-000007", "2026-07-10")
HEADS = (
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
)

SELLER = Seller(
    name="Compagnie Imaginaire de Démonstration",
    legal_form="SAS",
    capital="10 000 EUR",
    siren="123456782",
    siret="12345678200010",
    rcs="Paris",
    vat_number="FR11123456782",
    address=Address(("1 rue de l’Exemple",), "75000", "Paris", "FR"),
    email="facturation@imaginaire.example",
    bank=Bank("FR7699999000011234567890152", "TESTFRPPXXX", "Compagnie Imaginaire de Démonstration"),
    phone="+33 1 99 00 00 00",
    website="https://imaginaire.example",
)

_BUYERS = {
    VatTreatment.FRENCH: Buyer(
        name="Ateliers de l’Œuvre & Fils",
        address=Address(("12 quai des Brumes", "Bâtiment B"), "69002", "Lyon", "FR"),
        siren="987654324",
        siret="98765432400013",
        vat_number="FR38987654324",
        email="compta@ateliers.example",
        purchase_order="PO-2026-77",
        reference="SERVICE-42",
    ),
    VatTreatment.REVERSE_CHARGE: Buyer(
        name="Müller & Söhne Datenverarbeitung GmbH",
        address=Address(("Königstraße 5",), "10115", "Berlin", "DE"),
        vat_rate_bp=0,
        vat_number="DE136695976",
        email="rechnungen@mueller.example",
    ),
    VatTreatment.EXPORT: Buyer(
        name="Acme Language, Inc.",
        address=Address(("500 Example Street", "Suite 210"), "94105", "San Francisco", "US"),
        vat_rate_bp=0,
        email="ap@acme.example",
    ),
}


def buyer(vat: VatTreatment = VatTreatment.FRENCH, language: Language = Language.FRENCH, **changes) -> Buyer:
    """Make a buyer whose identifiers are what its VAT treatment needs."""
    return replace(_BUYERS[vat], vat=vat, language=language, **changes)


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
"""A month: of every type of usage, from 3 tokens to a milliard."""

LATE = ((item(), 55_555, "2026-07-30"), (item(usage=UsageType.REASONING, price=8_000_000), 1_000, "2026-07-31"))


def facts(used=USED, late=LATE, credit_cents: int = 0) -> MonthFacts:
    """Say what a month's invoice follows from: everything was used on working days; a lot was bought in July."""
    sums = tuple(Used(what, "", quantity, quantity * what.unit_price_pico) for what, quantity in used)
    dated = tuple(Used(what, day, quantity, quantity * what.unit_price_pico) for what, quantity, day in late)
    days = _days(sum(each.cost_pico for each in sums))
    by_day = {each.day: each.cost_pico for each in days if each.cost_pico}
    for each in dated:
        by_day[each.day] = by_day.get(each.day, 0) + each.cost_pico
    lot = Lot("lot1", credit_cents * PICO_PER_CENT, "2026-07-01")
    lots = (LotFact(lot, "Recharge <juillet> #1", 0, DEPOSIT),) if credit_cents else ()
    chain = (ChainMark(MONTH, 0, 412, HEADS[0]), *([ChainMark("2026-07", 380, 383, HEADS[1])] if late else []))
    return MonthFacts(
        account_id="acc_1",
        account_name="ateliers",
        tier="Tier 3",
        month=MONTH,
        used=sums,
        late=dated,
        lots=lots,
        used_by_day=by_day,
        days=days,
        chain=chain,
    )


def _days(cost_pico: int) -> tuple[DayOfUse, ...]:
    """Spread a cost over August, nothing on week-ends."""
    weights = [0 if day % 7 in (1, 2) else day * 7919 % 31 + 1 for day in range(1, 32)]
    costs = [cost_pico * weight // sum(weights) for weight in weights]
    costs[-1] += cost_pico - sum(costs)
    return tuple(DayOfUse(f"{MONTH}-{day:02d}", cost) for day, cost in enumerate(costs, 1))


def invoice(
    who: Buyer | None = None,
    drawn: DrawnCredit | None = None,
    *,
    used=USED,
    late=LATE,
    credit_cents: int = 50_000,
    seller: Seller = SELLER,
    number: str = "F-2026-000042",
) -> Invoice:
    """Draft a month's invoice and number it; ``drawn``: how it shows credit; None: there is none."""
    what = facts(used, late, credit_cents if drawn else 0)
    terms = InvoicingTerms(drawn_credit=drawn or DrawnCredit.DEPOSIT_LINE)
    drafted = monthly_invoice(what, seller, who or buyer(), terms, "2026-09-03")
    assert drafted is not None
    return numbered(drafted, number)


def deposit(who: Buyer | None = None, cents: int = 50_000) -> Invoice:
    """Draft the invoice of credit that was bought, and number it."""
    lot = Lot("lot1", cents * PICO_PER_CENT, "2026-07-01")
    what = DepositFacts(
        account_id="acc_1",
        account_name="ateliers",
        tier="Tier 3",
        lot=lot,
        reference="Recharge <juillet> #1",
        bought_day=DEPOSIT.issue_date,
    )
    return numbered(deposit_invoice(what, SELLER, who or buyer(), DEPOSIT.issue_date), DEPOSIT.number)


def credit_note(of: Invoice, parts: tuple[Part, ...] | None = EVERYTHING) -> Invoice:
    """Draft a credit note and number it."""
    reason = "Prix erroné : 8,00 € au lieu de <6,00 €>"
    return numbered(draft_credit_note(of, parts, reason, "2026-09-20"), "A-2026-000003")


def many_lines(count: int) -> Invoice:
    """Draft an invoice of so many lines of usage, of models with names as long as they come."""
    return invoice(used=tuple((item(f"organisation/a-model-with-a-long-name-{at:04d}"), at + 1) for at in range(count)))


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
            made[f"part-credit-note-{key}"] = credit_note(month, (Part(2, 1), Part(1)))
        made[f"deposit-{vat}-{language}"] = deposit(who)
        made[f"deposit-credit-note-{vat}-{language}"] = credit_note(deposit(who))
        made[f"deposit-part-credit-note-{vat}-{language}"] = credit_note(deposit(who), (Part(1, 12_345),))
    for drawn in DrawnCredit:
        made[f"covered-{drawn}"] = invoice(drawn=drawn, credit_cents=1_000_000)
        made[f"covered-credit-note-{drawn}"] = credit_note(invoice(drawn=drawn, credit_cents=1_000_000))
    made["price-of-six-decimals"] = invoice(used=((item(price=1_234_567), 1_000_003),))
    made["worth-nothing"] = invoice(used=((item(price=0), 5),), late=())
    made["minutes-finer-than-six-decimals"] = invoice(
        used=((item(usage=UsageType.AUDIO_MINUTES, price=123_456_789), 7),)
    )
    return made
