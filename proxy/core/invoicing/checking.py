"""The exact check of a document: every figure worked out again, with fractions.

What belongs here: what can be told of a document alone, and of an invoice beside the entries behind it. What does not:
credit notes beside what they correct (checking_notes.py), whether files say what a document says (billing/documents/),
and chains of hashes (core/chain.py): which links a document covers is taken as it says.

Validators of electronic invoices do not check that quantity times price is the amount, and let a euro of VAT pass. This
one lets nothing pass. It shares no arithmetic with what makes documents: it would make the same mistake.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from fractions import Fraction
from typing import Final

from proxy.core.entries import Entry
from proxy.core.invoicing.document import DocumentKind, Invoice, Line, LineKind, UsageItem
from proxy.core.invoicing.terms import DrawnCredit, InvoicingTerms
from proxy.core.parties import VatTreatment
from proxy.core.pricing import PriceVersion, UnpricedError
from proxy.core.usage import UsageType

PICO_A_CENT: Final = Fraction(10**12, 100)
_CATEGORIES: Final = {VatTreatment.FRENCH: "S", VatTreatment.REVERSE_CHARGE: "AE", VatTreatment.EXPORT: "G"}
_ORDER: Final = (LineKind.CREDIT, LineKind.USAGE, LineKind.LATE, LineKind.DRAWN)
_USAGE: Final = (LineKind.USAGE, LineKind.LATE)
_NUMBER: Final = re.compile(r"[A-Z0-9]+-([0-9]{4})-[0-9]{6,}")
_HEAD: Final = re.compile(r"[0-9a-f]{64}")

_Sum = dict[tuple[str, UsageItem], int]
"""Units by day (empty: the month of the invoice) and item."""


def mistakes_of(invoice: Invoice, terms: InvoicingTerms | None = None) -> list[str]:
    """Return what is wrong with a document or a draft, as sentences; empty: nothing is.

    The amounts of a credit note are rounded in total with those of earlier ones: here they may be a cent off, and
    ``mistakes_of_note`` says exactly.

    Args:
        invoice: any document.
        terms: those it was made on; None: they are not known any more, so what only they say is taken as it is.
    """
    found = [*_dates(invoice), *_order(invoice), *(_terms(invoice, terms) if terms else ())]
    for line in invoice.lines:
        found += [f"line {line.number}: {mistake}" for mistake in _line(invoice, line)]
    return [*found, *_totals(invoice), *_credit(invoice), *_days(invoice), *_chain(invoice), *_kind(invoice)]


def mistakes_against(invoice: Invoice, entries: Iterable[Entry], prices: Iterable[PriceVersion] = ()) -> list[str]:
    """Return how an invoice differs from the entries behind it, as sentences; empty: it is their sum, exactly.

    Args:
        invoice: of a month.
        entries: those of the links that it covers, each once.
        prices: the versions that they were priced with; empty: their prices are taken as they are.
    """
    if invoice.kind is not DocumentKind.INVOICE:
        return [f"a {invoice.kind} does not follow from entries"]
    versions = {version.id: version for version in prices}
    sums: _Sum = {}
    days: dict[str, Fraction] = {}
    found: list[str] = []
    for entry in entries:
        found += [f"entry {entry.call_id}: {mistake}" for mistake in _entry(invoice, entry, versions)]
        own = entry.month == invoice.month
        for line in entry.charge.lines:
            price = line.unit_price_pico
            item = UsageItem(entry.model, line.usage_type, entry.tariff_class, entry.charge.price_version, price)
            key = ("" if own else entry.day, item)
            sums[key] = sums.get(key, 0) + line.amount
            if own:
                days[entry.day] = days.get(entry.day, Fraction(0)) + Fraction(line.amount) * price
    return [*found, *_against_lines(invoice, sums), *_against_days(invoice, days)]


def half_up(amount: Fraction) -> int:
    """Round to a whole number, halves away from zero."""
    whole = int(abs(amount) + Fraction(1, 2))
    return whole if amount >= 0 else -whole


def days_of(month: str) -> list[str]:
    """Return the days of a month in order; none if it is no month."""
    if not _is_day(f"{month}-01"):
        return []
    day, found = date.fromisoformat(f"{month}-01"), []
    while day.isoformat()[:7] == month:
        found.append(day.isoformat())
        day += timedelta(days=1)
    return found


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _dates(invoice: Invoice) -> Iterator[str]:
    for name in ("issue_date", "due_date", "first_day", "last_day"):
        if not _is_day(getattr(invoice, name)):
            yield f"{name} is no day: {getattr(invoice, name)!r}"
            return
    if invoice.number:
        match = _NUMBER.fullmatch(invoice.number)
        if match is None or match.group(1) != invoice.issue_date[:4]:
            yield f"{invoice.number} is no number of a document of {invoice.issue_date[:4]}"
    if invoice.due_date < invoice.issue_date:
        yield f"it is due on {invoice.due_date}, before it is issued"
    days = invoice.buyer.payment_days if invoice.kind is DocumentKind.INVOICE else 0
    if days is not None:
        yield from _due_after(invoice, days)
    if invoice.month:
        days_of_month = days_of(invoice.month)
        if not days_of_month or (invoice.first_day, invoice.last_day) != (days_of_month[0], days_of_month[-1]):
            yield f"{invoice.first_day} to {invoice.last_day} is not {invoice.month}"


def _due_after(invoice: Invoice, days: int) -> Iterator[str]:
    if (date.fromisoformat(invoice.issue_date) + timedelta(days=days)).isoformat() != invoice.due_date:
        yield f"it is due on {invoice.due_date}, and not {days} days after {invoice.issue_date}"


def _terms(invoice: Invoice, terms: InvoicingTerms) -> Iterator[str]:
    if invoice.kind is DocumentKind.INVOICE and invoice.buyer.payment_days is None and _is_day(invoice.issue_date):
        yield from _due_after(invoice, terms.payment_days)
    series = {
        DocumentKind.INVOICE: terms.invoice_series,
        DocumentKind.DEPOSIT: terms.deposit_series,
        DocumentKind.CREDIT_NOTE: terms.credit_note_series,
    }[invoice.kind]
    if invoice.number and invoice.number.split("-")[0] != series:
        yield f"{invoice.number} is not of the series {series}"
    shown = any(line.kind is LineKind.DRAWN for line in invoice.lines)
    if (
        invoice.kind is DocumentKind.INVOICE
        and invoice.drawn_cents
        and shown != (terms.drawn_credit is DrawnCredit.DEPOSIT_LINE)
    ):
        yield f"the credit that it draws is not shown as a {terms.drawn_credit}"


def _order(invoice: Invoice) -> Iterator[str]:
    if [line.number for line in invoice.lines] != list(range(1, len(invoice.lines) + 1)):
        yield "lines are not numbered from 1 without a gap"
    places = [_ORDER.index(line.kind) for line in invoice.lines]
    if places != sorted(places):
        yield "kinds of lines are mixed"
    late = [line.first_day for line in invoice.lines if line.kind is LineKind.LATE]
    if late != sorted(late):
        yield "late lines are not in the order of their days"
    keys = [(line.kind, line.first_day, line.usage, line.reference) for line in invoice.lines]
    if len(set(keys)) < len(keys):
        yield "two lines are about the same"


def _line(invoice: Invoice, line: Line) -> Iterator[str]:
    if not (_is_day(line.first_day) and _is_day(line.last_day)):
        yield f"{line.first_day!r} to {line.last_day!r} is no period"
    elif line.kind is LineKind.LATE:
        if line.first_day != line.last_day or line.first_day >= invoice.first_day:
            yield f"{line.first_day} to {line.last_day} is not one day before {invoice.month}"
    elif (line.first_day, line.last_day) != (invoice.first_day, invoice.last_day):
        yield f"{line.first_day} to {line.last_day} is not the period of the document"
    yield from _usage_line(invoice, line) if line.kind in _USAGE else _credit_line(line)


def _usage_line(invoice: Invoice, line: Line) -> Iterator[str]:
    if line.usage is None or line.reference or line.deposit is not None:
        yield "it should say what was used, and nothing of credit"
        return
    if line.quantity <= 0 or line.usage.unit_price_pico < 0:
        yield f"{line.quantity} units at {line.usage.unit_price_pico} pico-euros are no usage"
    worth = Fraction(line.quantity) * Fraction(line.usage.unit_price_pico)
    if line.exact_pico != worth:
        yield f"{line.quantity} units are worth {worth} pico-euros, not {line.exact_pico}"
    off = abs(line.net_cents - half_up(worth / PICO_A_CENT))
    if off > _cents_off(invoice) or line.net_cents < 0:
        yield f"{worth} pico-euros are not {line.net_cents} cents"


def _credit_line(line: Line) -> Iterator[str]:
    if line.usage is not None or not line.reference:
        yield "it should name the credit, and no usage"
    if line.exact_pico != line.net_cents * PICO_A_CENT:
        yield f"{line.exact_pico} pico-euros are not {line.net_cents} cents"
    quantity = -1 if line.kind is LineKind.DRAWN else 1
    if line.quantity != quantity or line.net_cents * quantity <= 0:
        yield f"{line.kind} of {line.net_cents} cents, {line.quantity} times"
    if line.kind is LineKind.CREDIT and line.deposit is not None:
        yield "it is the deposit invoice, and names another"


def _totals(invoice: Invoice) -> Iterator[str]:
    vat, buyer = invoice.vat, invoice.buyer
    net = sum((Fraction(line.net_cents) for line in invoice.lines), Fraction(0))
    exact = sum((Fraction(line.exact_pico) for line in invoice.lines), Fraction(0))
    if invoice.net_cents != net or net < 0:
        yield f"its lines sum up to {net} cents, not to {invoice.net_cents}"
    if invoice.exact_pico != exact:
        yield f"its lines sum up to {exact} pico-euros, not to {invoice.exact_pico}"
    lines_of_usage = sum(line.kind in _USAGE for line in invoice.lines)
    bound = (Fraction(1, 2) + _cents_off(invoice)) * lines_of_usage
    if abs(net - exact / PICO_A_CENT) > bound:
        yield f"rounding {lines_of_usage} lines changed it by {net - exact / PICO_A_CENT} cents"
    rate_bp = buyer.vat_rate_bp if buyer.vat is VatTreatment.FRENCH else 0
    if (vat.category, vat.rate_bp) != (_CATEGORIES[buyer.vat], rate_bp):
        yield f"VAT {vat.category} of {vat.rate_bp} hundredths of a percent is not the buyer's"
    if vat.base_cents != net:
        yield f"VAT is on {vat.base_cents} cents, not on {net}"
    tax = half_up(net * Fraction(vat.rate_bp, 100 * 100))
    if abs(vat.vat_cents - tax) > (_cents_off(invoice) if vat.rate_bp else 0) or vat.vat_cents < 0:
        yield f"the VAT of {net} cents is {tax} cents, not {vat.vat_cents}"
    if invoice.gross_cents != net + vat.vat_cents:
        yield f"{net} cents and {vat.vat_cents} of VAT are not {invoice.gross_cents}"
    if invoice.due_cents != invoice.gross_cents - invoice.paid_cents or invoice.due_cents < 0:
        yield f"{invoice.gross_cents} cents less {invoice.paid_cents} paid are not {invoice.due_cents} due"


def _credit(invoice: Invoice) -> Iterator[str]:
    """What is drawn is what lines say, or what counts as paid."""
    shown = [-line.net_cents for line in invoice.lines if line.kind is LineKind.DRAWN]
    drawn = list(invoice.drawn_cents.values())
    if any(cents <= 0 for cents in drawn):
        yield "something is drawn that is nothing"
    if shown and shown != drawn:
        yield f"lines draw {shown} cents, and lots are drawn by {drawn}"
    paid = Fraction(0)
    if drawn and not shown:
        rate = Fraction(invoice.vat.rate_bp, 100 * 100)
        paid = Fraction(sum(drawn) + half_up(sum(drawn) * rate))
        if invoice.kind is DocumentKind.CREDIT_NOTE:
            paid = min(paid, Fraction(invoice.gross_cents))
    if invoice.kind is DocumentKind.DEPOSIT:
        paid = Fraction(invoice.gross_cents)
    if invoice.paid_cents != paid:
        yield f"{invoice.paid_cents} cents count as paid, and should be {paid}"
    sold = sum(line.net_cents for line in invoice.lines if line.kind in _USAGE)
    if sum(drawn) > sold:
        yield f"{sum(drawn)} cents of credit are drawn for {sold} cents"


def _days(invoice: Invoice) -> Iterator[str]:
    if invoice.kind is not DocumentKind.INVOICE:
        if invoice.days:
            yield "it has days, and is not the invoice of a month"
        return
    if [each.day for each in invoice.days] != days_of(invoice.month):
        yield f"its days are not those of {invoice.month}"
    used = sum(Fraction(each.cost_pico) for each in invoice.days)
    lines = sum(Fraction(line.exact_pico) for line in invoice.lines if line.kind is LineKind.USAGE)
    if used != lines or any(each.cost_pico < 0 for each in invoice.days):
        yield f"its days sum up to {used} pico-euros, its lines to {lines}"


def _chain(invoice: Invoice) -> Iterator[str]:
    months = [mark.month for mark in invoice.chain]
    if invoice.kind is not DocumentKind.INVOICE:
        if months:
            yield "it covers entries, and is not the invoice of a month"
        return
    if months[:1] != [invoice.month] or months[1:] != sorted(set(months[1:])) or max(months) > invoice.month:
        yield f"it covers {months}: not its own month and then earlier ones"
    late = {line.first_day[:7] for line in invoice.lines if line.kind is LineKind.LATE}
    if not late <= set(months[1:]):
        yield f"it has lines of {sorted(late)} and covers {months[1:]}"
    for mark in invoice.chain:
        if not 0 <= mark.after_link <= mark.link or bool(mark.link) != bool(_HEAD.fullmatch(mark.head)):
            yield f"it covers {mark.month} after {mark.after_link} up to {mark.link}, sealed {mark.head!r}"


def _kind(invoice: Invoice) -> Iterator[str]:
    kinds = {line.kind for line in invoice.lines}
    of_credit = LineKind.CREDIT in kinds
    if not kinds or (of_credit and len(invoice.lines) > 1):
        yield "it has no lines, or lines that do not go together"
    if invoice.kind is not DocumentKind.CREDIT_NOTE and of_credit != (invoice.kind is DocumentKind.DEPOSIT):
        yield f"its lines are not those of a {invoice.kind}"
    if bool(invoice.lot_id) != of_credit or bool(invoice.month) == of_credit:
        yield "a deposit names a lot, and any other document a month"
    corrects = invoice.kind is DocumentKind.CREDIT_NOTE
    if (invoice.corrects is not None) != corrects or bool(invoice.reason.strip()) != corrects:
        yield "a credit note says what it corrects and why, and nothing else does"
    if invoice.cancels and not corrects:
        yield "only a credit note cancels"
    if corrects and not invoice.cancels and (invoice.drawn_cents or LineKind.DRAWN in kinds):
        yield "it gives credit back, and does not cancel"


def _cents_off(invoice: Invoice) -> int:
    """Return how far one rounded amount may be off for what earlier credit notes have taken."""
    return 1 if invoice.kind is DocumentKind.CREDIT_NOTE else 0


def _entry(invoice: Invoice, entry: Entry, versions: dict[str, PriceVersion]) -> Iterator[str]:
    if entry.account_id != invoice.account_id or entry.month not in {mark.month for mark in invoice.chain}:
        yield f"it is of {entry.account_id} in {entry.month}"
    if not entry.day.startswith(entry.month):
        yield f"its day {entry.day} is not in {entry.month}"
    total = Fraction(0)
    for line in entry.charge.lines:
        worth = Fraction(line.amount) * Fraction(line.unit_price_pico)
        total += worth
        if line.amount < 0 or line.cost_pico != worth:
            yield f"{line.amount} {line.usage_type} are not worth {line.cost_pico} pico-euros"
        if versions and line.unit_price_pico != _price(versions, entry, line.usage_type):
            yield f"{line.unit_price_pico} is not the price of {line.usage_type} in {entry.charge.price_version}"
    if entry.charge.total_pico != total:
        yield f"it is worth {total} pico-euros, not {entry.charge.total_pico}"


def _price(versions: dict[str, PriceVersion], entry: Entry, usage_type: UsageType) -> int | None:
    version = versions.get(entry.charge.price_version)
    try:
        return version.unit_price_pico(entry.model, usage_type, entry.tariff_class) if version else None
    except UnpricedError:
        return None


def _against_lines(invoice: Invoice, sums: _Sum) -> Iterator[str]:
    lines: _Sum = {}
    for line in invoice.lines:
        if line.usage is not None:
            key = ("" if line.kind is LineKind.USAGE else line.first_day, line.usage)
            lines[key] = lines.get(key, 0) + line.quantity
    for key in sorted({*lines, *sums}, key=str):
        used, invoiced = sums.get(key, 0), lines.get(key, 0)
        if used != invoiced:
            yield f"{key[0] or invoice.month}, {_name(key[1])}: {used} were used, {invoiced} are invoiced"


def _name(item: UsageItem) -> str:
    words = f"{item.model} {item.usage_type} {item.tariff_class}"
    return f"{words} ({item.price_version}, {item.unit_price_pico})"


def _against_days(invoice: Invoice, days: dict[str, Fraction]) -> Iterator[str]:
    shown = {each.day: each.cost_pico for each in invoice.days}
    for day in sorted({*shown, *days}):
        if shown.get(day, 0) != days.get(day, 0):
            yield f"{day}: {days.get(day, 0)} pico-euros were used, {shown.get(day, 0)} are shown"
