"""Entries against documents: every standing invoice line by line, and every document against itself.

What belongs here: the comparison. What does not: reading (ledger/kept_documents.py), and the arithmetic of documents
(core/invoicing/). Documents are never put right: what is wrong with one needs a credit note.

1. An invoice that stands says what the entries of its links say: by model, type, class and price version, units and
   pico-euros; late ones by day, too.
2. Each document agrees with itself, and with what is kept beside it: its text with its SHA-256, its amounts, links and
   drawn credit with their columns. A credit note agrees with what it corrects.
3. No two standing invoices cover one entry, and no lot is drawn beyond what was bought.

What no invoice covers is told, and is no drift.
"""

import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Final

from proxy.core.accounts import Account
from proxy.core.calendar import month_of
from proxy.core.invoicing.checking import mistakes_of
from proxy.core.invoicing.checking_notes import mistakes_of_note
from proxy.core.invoicing.document import DocumentKind, Invoice, LineKind
from proxy.core.money import PICO_PER_CENT, euros_text
from proxy.ledger.kept_documents import KeptDocument, KeptOfAccount
from proxy.ledger.linked_sums import LinkedSum
from proxy.reconciling.findings import Difference, Finding, Gathering, Source, Span, Subject, Threshold, Unit

TOLD_MAX: Final = 20
"""How many accounts and months are told one by one whose late usage waits for an invoice."""

_NOTE: Final = "needs a credit note"
_Item = tuple[str, str, str, str, str]
"""Day (empty: the month of the invoice), model, usage type, class, price version."""
_Sums = dict[_Item, tuple[int, int]]
"""Units and pico-euros."""


async def compare_invoices(
    kept: AsyncGenerator[KeptOfAccount, None],
    accounts: Mapping[str, Account],
    threshold: Threshold,
    now_ms: int,
    month: str | None = None,
) -> Finding:
    """Compare documents with entries.

    Args:
        kept: everything that is kept, account by account.
        accounts: by id.
        threshold: up to which difference nothing is said.
        now_ms: Unix milliseconds: the present month cannot have been invoiced.
        month: documents of this month only; None: all.
    """
    gathering = Gathering(Source.INVOICES, threshold)
    open_by_month: defaultdict[str, list[int]] = defaultdict(list)
    late: list[str] = []
    documents = 0
    async with contextlib.aclosing(kept):
        async for each in kept:
            account = accounts.get(each.account_id) or Account(each.account_id, each.account_id, "")
            documents += sum(month in (None, kept_document.month) for kept_document in each.documents)
            for compared in _account(each, account, month):
                gathering.compare(compared)
            for span in each.open:
                if span.is_late:
                    late.append(f"{account.name}, {span.month}: {euros_text(span.cost_pico)} € came after the invoice")
                elif span.month < month_of(now_ms, account.timezone):
                    open_by_month[span.month].append(span.cost_pico)
    gathering.notes.append(f"{documents:,} documents, by line, against the entries of the links that they cover")
    gathering.notes += [
        f"{each}: {euros_text(sum(costs))} € of usage are not invoiced (accounts: {len(costs):,})"
        for each, costs in sorted(open_by_month.items())
    ]
    gathering.notes += late[:TOLD_MAX]
    if len(late) > TOLD_MAX:
        gathering.notes.append(f"and {len(late) - TOLD_MAX:,} more months with late usage")
    return gathering.finding()


def _account(kept: KeptOfAccount, account: Account, month: str | None) -> Iterator[Difference]:
    by_number = {each.number: each for each in kept.documents}
    for each in kept.documents:
        if month in (None, each.month):
            subject = Subject(account=account.name, account_id=account.id, period=each.month, place=each.number)
            yield from _document(each, by_number, subject)
            if each.invoice is not None and each.kind is DocumentKind.DEPOSIT:
                bought = Span.exactly(kept.lots_pico.get(each.invoice.lot_id, 0))
                yield Difference(subject, Unit.PICO, bought, Span.exactly(each.invoice.exact_pico), _NOTE)
            if each.number in kept.sums and each.invoice is not None:
                yield from _lines(each.invoice, kept.sums[each.number], subject)
    yield from _covers(kept, account, month)
    if month is None:
        yield from _draws(kept, account)


# A document by itself, and beside its columns


def _document(kept: KeptDocument, by_number: Mapping[str, KeptDocument], subject: Subject) -> Iterator[Difference]:
    invoice = kept.invoice
    if invoice is None:
        yield _mistakes(subject, ["its text is not what was issued"])
        return
    yield _mistakes(subject, [*mistakes_of(invoice), *_beside(kept, invoice), *_of_note(kept, invoice, by_number)])


def _mistakes(subject: Subject, mistakes: list[str]) -> Difference:
    why = "; ".join(mistakes[:3]) + (f"; and {len(mistakes) - 3} more" if len(mistakes) > 3 else "")  # noqa: PLR2004
    return Difference(subject, Unit.MISTAKES, Span.exactly(0), Span.exactly(len(mistakes)), why)


def _beside(kept: KeptDocument, invoice: Invoice) -> Iterator[str]:
    if invoice.number != kept.number or invoice.kind is not kept.kind or invoice.month != kept.month:
        yield f"it is kept as another: it says {invoice.number}, {invoice.kind.value}, {invoice.month}"
    amounts = (invoice.net_cents, invoice.vat.vat_cents, invoice.gross_cents, invoice.due_cents)
    if amounts != kept.amounts:
        yield f"its amounts are {amounts} cents, and are kept as {kept.amounts}"
    if invoice.kind is DocumentKind.INVOICE:
        covers = sorted((mark.month, mark.after_link, mark.link) for mark in invoice.chain)
        if covers != sorted(kept.covers):
            yield f"it covers {covers}, and is kept as covering {sorted(kept.covers)}"
    sign = -1 if invoice.kind is DocumentKind.CREDIT_NOTE else 1
    draws = {lot_id: sign * cents for lot_id, cents in invoice.drawn_cents.items()}
    if draws != kept.draws:
        yield f"it draws {draws} cents, and is kept as drawing {kept.draws}"


def _of_note(kept: KeptDocument, invoice: Invoice, by_number: Mapping[str, KeptDocument]) -> Iterator[str]:
    if invoice.corrects is None:
        return
    corrected = by_number.get(invoice.corrects.number)
    if corrected is None or corrected.invoice is None:
        yield f"{invoice.corrects.number}, which it corrects, is not there"
        return
    earlier = []
    for each in by_number.values():
        if each.number == kept.number:
            break
        if each.invoice is not None and each.invoice.corrects == invoice.corrects:
            earlier.append(each.invoice)
    yield from mistakes_of_note(invoice, corrected.invoice, earlier)


# An invoice beside its entries


def _lines(invoice: Invoice, sums: Iterable[LinkedSum], subject: Subject) -> Iterator[Difference]:
    expected, found = _used(invoice.month, sums), _invoiced(invoice)
    for item in sorted(expected.keys() | found.keys()):
        day, model, usage_type, tariff_class, version = item
        of_line = Subject(
            account=subject.account,
            account_id=subject.account_id,
            period=day or invoice.month,
            place=invoice.number,
            model=model,
            usage_type=usage_type,
            tariff_class=tariff_class,
            price_version=version,
        )
        numbers = zip((Unit.UNITS, Unit.PICO), expected.get(item, (0, 0)), found.get(item, (0, 0)), strict=True)
        for unit, used, invoiced in numbers:
            yield Difference(of_line, unit, Span.exactly(used), Span.exactly(invoiced), _NOTE)
    yield from _days(invoice, sums, subject)


def _used(month: str, sums: Iterable[LinkedSum]) -> _Sums:
    found: _Sums = {}
    for each in sums:
        day = "" if each.month == month else each.day
        item = (day, each.model, each.usage_type.value, each.tariff_class, each.price_version)
        _add(found, item, each.quantity, each.cost_pico)
    return found


def _invoiced(invoice: Invoice) -> _Sums:
    found: _Sums = {}
    for line in invoice.lines:
        if line.usage is not None:
            usage, day = line.usage, line.first_day if line.kind is LineKind.LATE else ""
            item = (day, usage.model, usage.usage_type.value, usage.tariff_class.value, usage.price_version)
            _add(found, item, line.quantity, line.exact_pico)
    return found


def _add(sums: _Sums, item: _Item, quantity: int, cost_pico: int) -> None:
    before = sums.get(item, (0, 0))
    sums[item] = (before[0] + quantity, before[1] + cost_pico)


def _days(invoice: Invoice, sums: Iterable[LinkedSum], subject: Subject) -> Iterator[Difference]:
    used: defaultdict[str, int] = defaultdict(int)
    for each in sums:
        if each.month == invoice.month:
            used[each.day] += each.cost_pico
    shown = {each.day: each.cost_pico for each in invoice.days}
    for day in sorted(used.keys() | shown.keys()):
        of_day = Subject(
            account=subject.account, account_id=subject.account_id, period=day, place=f"{invoice.number}, day"
        )
        expected, found = Span.exactly(used.get(day, 0)), Span.exactly(shown.get(day, 0))
        yield Difference(of_day, Unit.PICO, expected, found, _NOTE)


# Documents beside each other


def _covers(kept: KeptOfAccount, account: Account, month: str | None) -> Iterator[Difference]:
    """Yield, for each month, how many links are on two standing invoices."""
    spans: defaultdict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for each in kept.documents:
        if each.stands and each.kind is DocumentKind.INVOICE:
            for of, after, link in each.covers:
                if link > after:
                    spans[of].append((after, link, each.number))
    for of, covered in sorted(spans.items()):
        if month not in (None, of):
            continue
        twice, why = 0, ""
        for (_, before, one), (after, link, other) in pairwise(sorted(covered)):
            if before > after:
                twice += min(before, link) - after
                why = f"{one} and {other} both cover them: {_NOTE}"
        subject = Subject(account=account.name, account_id=account.id, period=of, place="links")
        yield Difference(subject, Unit.LINKS, Span.exactly(0), Span.exactly(twice), why)


def _draws(kept: KeptOfAccount, account: Account) -> Iterator[Difference]:
    """Yield, for each lot, what is drawn of it beside what was bought."""
    drawn: defaultdict[str, int] = defaultdict(int)
    for each in kept.documents:
        for lot_id, cents in each.draws.items():
            drawn[lot_id] += cents
    for lot_id, cents in sorted(drawn.items()):
        subject = Subject(account=account.name, account_id=account.id, place=f"credit {lot_id}")
        bought = Span(0, kept.lots_pico.get(lot_id, 0))
        found = Span.exactly(cents * PICO_PER_CENT)
        yield Difference(subject, Unit.PICO, bought, found, f"more is drawn than was bought: {_NOTE}")
