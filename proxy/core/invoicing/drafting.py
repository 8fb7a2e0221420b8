"""Drafts: a month's invoice and a deposit invoice, from what they follow from.

What belongs here: putting lines, credit, VAT and totals together. What does not: credit notes (crediting.py), the
number that a draft gets when it is issued (billing/invoices/), and the check of it (checking.py), which shares no
arithmetic with this.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from proxy.core.invoicing.document import DocumentKind, Invoice, Line, LineKind
from proxy.core.invoicing.drawing import drawn_by_lot
from proxy.core.invoicing.errors import InvoicingError
from proxy.core.invoicing.facts import DepositFacts, LotFact, MonthFacts
from proxy.core.invoicing.lines import month_days, numbered_lines, usage_lines
from proxy.core.invoicing.numbers import due_date
from proxy.core.invoicing.terms import DrawnCredit, InvoicingTerms
from proxy.core.invoicing.vat import tax_cents, vat_on
from proxy.core.money import PICO_PER_CENT, euros_text
from proxy.core.parties import Buyer, Seller


def monthly_invoice(
    facts: MonthFacts, seller: Seller, buyer: Buyer, terms: InvoicingTerms, issue_date: str
) -> Invoice | None:
    """Return the draft of a month's invoice; None: nothing was used, so there is nothing to invoice.

    What was used at no price, or is worth less than half a cent, is invoiced all the same: as 0.00.

    Args:
        facts: what it follows from.
        seller: on the day of issue.
        buyer: on the day of issue.
        terms: the seller's.
        issue_date: ``YYYY-MM-DD`` where the seller is.

    Raises:
        FactsError: the facts contradict themselves.
    """
    lines = usage_lines(facts.month, facts.used, facts.late)
    if not lines:
        return None
    drawn = drawn_by_lot(facts, sum(line.net_cents for line in lines))
    drawn_net_cents = sum(drawn.values())
    shown_as_lines = terms.drawn_credit is DrawnCredit.DEPOSIT_LINE
    if shown_as_lines:
        lines = numbered_lines([*lines, *_drawn_lines(facts, drawn)])
    first_day, last_day = month_days(facts.month)
    vat = vat_on(sum(line.net_cents for line in lines), buyer)
    paid_cents = 0 if shown_as_lines else drawn_net_cents + tax_cents(drawn_net_cents, vat.rate_bp)
    return Invoice(
        kind=DocumentKind.INVOICE,
        number="",
        issue_date=issue_date,
        due_date=due_date(issue_date, buyer, terms),
        account_id=facts.account_id,
        account_name=facts.account_name,
        tier=facts.tier,
        month=facts.month,
        first_day=first_day,
        last_day=last_day,
        seller=seller,
        buyer=buyer,
        lines=lines,
        net_cents=vat.base_cents,
        vat=vat,
        gross_cents=vat.base_cents + vat.vat_cents,
        paid_cents=paid_cents,
        due_cents=vat.base_cents + vat.vat_cents - paid_cents,
        exact_pico=sum(line.exact_pico for line in lines),
        days=facts.days,
        chain=facts.chain,
        drawn_cents=drawn,
    )


def deposit_invoice(facts: DepositFacts, seller: Seller, buyer: Buyer, issue_date: str) -> Invoice:
    """Return the draft of the invoice for a lot of credit that has been paid for.

    Raises:
        InvoicingError: the lot is not whole cents.
    """
    net_cents, rest = divmod(facts.lot.amount_pico, PICO_PER_CENT)
    if rest:
        amount = euros_text(facts.lot.amount_pico)
        raise InvoicingError(
            f"{facts.reference}: {amount} euros are not whole cents, so there can be no invoice for them"
        )
    vat = vat_on(net_cents, buyer)
    day = facts.bought_day
    line = Line(1, LineKind.CREDIT, day, day, 1, facts.lot.amount_pico, net_cents, reference=facts.reference)
    return Invoice(
        kind=DocumentKind.DEPOSIT,
        number="",
        issue_date=issue_date,
        due_date=issue_date,
        account_id=facts.account_id,
        account_name=facts.account_name,
        tier=facts.tier,
        month="",
        first_day=day,
        last_day=day,
        seller=seller,
        buyer=buyer,
        lines=(line,),
        net_cents=net_cents,
        vat=vat,
        gross_cents=net_cents + vat.vat_cents,
        paid_cents=net_cents + vat.vat_cents,
        due_cents=0,
        exact_pico=facts.lot.amount_pico,
        lot_id=facts.lot.id,
    )


def numbered(invoice: Invoice, number: str) -> Invoice:
    """Return a draft with its number."""
    return replace(invoice, number=number)


def _drawn_lines(facts: MonthFacts, drawn: Mapping[str, int]) -> list[Line]:
    """Return a negative line for each lot that is drawn, in the order in which they are."""
    by_id = {fact.lot.id: fact for fact in facts.lots}
    return [_drawn_line(facts.month, by_id[lot_id], cents) for lot_id, cents in drawn.items()]


def _drawn_line(month: str, fact: LotFact, cents: int) -> Line:
    first_day, last_day = month_days(month)
    return Line(
        0,
        LineKind.DRAWN,
        first_day,
        last_day,
        -1,
        -cents * PICO_PER_CENT,
        -cents,
        reference=fact.reference,
        deposit=fact.deposit,
    )
