"""Credit notes: what is taken back of a document, wholly or in part.

What belongs here: how much may be taken back, and what it is worth. What does not: which credit notes there are already
(ledger/), and the numbers of new ones (billing/invoices/).

1. What credit notes take of a line, of a document's base and of its VAT is rounded in total: all of them have taken the
   rounded worth of what they have taken exactly. So they never take more than was invoiced, and the last one takes the
   rest to the cent.
2. A credit note of everything *cancels*: it takes what earlier ones have left, and gives back the credit that the
   document has drawn. What was used can then be invoiced anew.
3. A credit note in part is money: it takes back lines of usage or a part of their quantity, with their VAT, and leaves
   drawn credit alone. What an account may still spend follows from what it bought and used, and knows no credit notes:
   credit given back by one could never be spent. An operator who would rather give credit adds a lot.
4. A document of which more has been taken back in part than was due beyond credit cannot be cancelled any more: credit
   that it drew has been paid back in money. Its lines can still be taken back one by one.
5. Of a deposit invoice no more is taken back than its lot still holds.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from proxy.core.invoicing.document import DocumentKind, DocumentRef, Invoice, Line, LineKind, Vat
from proxy.core.invoicing.errors import CreditNoteError, DepositDrawnError
from proxy.core.invoicing.lines import numbered_lines
from proxy.core.invoicing.vat import tax_cents
from proxy.core.money import PICO_PER_CENT, cents_half_up, euros_text

EVERYTHING: Final = None
"""Selects all that is left of a document."""


class Part(msgspec.Struct, frozen=True):
    """A part of a document that is taken back.

    Args:
        line: number of the line on the document that is corrected.
        quantity: units of usage; None: all that is left of the line. Of the line of a deposit invoice: cents.
    """

    line: int
    quantity: int | None = None


def credit_note(
    invoice: Invoice,
    selection: Sequence[Part] | None,
    reason: str,
    issue_date: str,
    earlier: Sequence[Invoice] = (),
    lot_drawn_cents: int = 0,
) -> Invoice:
    """Return the draft of a credit note.

    Args:
        invoice: what it corrects, as issued.
        selection: what it takes back; ``EVERYTHING``: it cancels the document.
        reason: why, as printed.
        issue_date: ``YYYY-MM-DD`` where the seller is.
        earlier: all credit notes that correct the same document.
        lot_drawn_cents: of a deposit invoice: what has been used of its lot, invoiced or not yet, rounded up.

    Raises:
        CreditNoteError: there is nothing, or not so much, to be taken back.
        DepositDrawnError: the credit has been used.
    """
    _check(invoice, reason, issue_date, earlier)
    left = lines_left(invoice, earlier)
    if selection is EVERYTHING:
        lines = [line for line in left if line.quantity]
        cancels = True
    else:
        lines = _selected(invoice, left, selection)
        cancels = invoice.kind is DocumentKind.DEPOSIT and lines[0].net_cents == left[0].net_cents
    if not lines:
        raise CreditNoteError(f"nothing is left of {invoice.number}")
    if invoice.kind is DocumentKind.DEPOSIT:
        _check_lot(invoice, lines[0], left[0], lot_drawn_cents)
    return _draft(invoice, lines, earlier, reason=reason, issue_date=issue_date, cancels=cancels)


def lines_left(invoice: Invoice, earlier: Iterable[Invoice]) -> tuple[Line, ...]:
    """Return the lines of a document, each with what credit notes have left of it: 0 where they took all of it."""
    taken: dict[object, tuple[int, int, int]] = {}
    for note in earlier:
        for line in note.lines:
            quantity, exact, net = taken.get(_identity(line), (0, 0, 0))
            taken[_identity(line)] = (quantity + line.quantity, exact + line.exact_pico, net + line.net_cents)
    found = []
    for line in invoice.lines:
        quantity, exact, net = taken.get(_identity(line), (0, 0, 0))
        exact, net = line.exact_pico - exact, line.net_cents - net
        left = line.quantity - quantity if line.kind is not LineKind.CREDIT else int(net > 0)
        found.append(msgspec.structs.replace(line, quantity=left, exact_pico=exact, net_cents=net))
    return tuple(found)


def _check(invoice: Invoice, reason: str, issue_date: str, earlier: Sequence[Invoice]) -> None:
    if invoice.kind is DocumentKind.CREDIT_NOTE:
        raise CreditNoteError(f"{invoice.number} is a credit note")
    if not invoice.number:
        raise CreditNoteError("a draft is not corrected, it is made anew")
    if not reason.strip():
        raise CreditNoteError("a credit note says why there is one")
    if issue_date < invoice.issue_date:
        raise CreditNoteError(f"{invoice.number} was issued on {invoice.issue_date}, after {issue_date}")
    for note in earlier:
        if note.corrects is None or note.corrects.number != invoice.number:
            raise CreditNoteError(f"{note.number} does not correct {invoice.number}")
        if note.cancels:
            raise CreditNoteError(f"{invoice.number} has been cancelled by {note.number}")


def _check_lot(invoice: Invoice, line: Line, left: Line, drawn_cents: int) -> None:
    if line.net_cents > left.net_cents - drawn_cents:
        raise DepositDrawnError(
            f"{_euros(drawn_cents)} of the credit of {invoice.number} have been used: "
            f"{_euros(max(left.net_cents - drawn_cents, 0))} can be taken back, not {_euros(line.net_cents)}"
        )


def _euros(cents: int) -> str:
    return f"{euros_text(cents * PICO_PER_CENT)} €"


def _selected(invoice: Invoice, left: Sequence[Line], parts: Sequence[Part]) -> list[Line]:
    if not parts or len({part.line for part in parts}) < len(parts):
        raise CreditNoteError("name each line that is taken back, once")
    by_number = {line.number: (line, rest) for line, rest in zip(invoice.lines, left, strict=True)}
    if unknown := [part.line for part in parts if part.line not in by_number]:
        raise CreditNoteError(f"{invoice.number} has no line {unknown[0]}")
    return [_part_of(*by_number[part.line], part) for part in sorted(parts, key=lambda part: part.line)]


def _part_of(line: Line, left: Line, part: Part) -> Line:
    if line.kind is LineKind.DRAWN:
        raise CreditNoteError(f"line {line.number} is credit that was drawn: only cancelling gives it back")
    of_credit = line.kind is LineKind.CREDIT
    there = left.net_cents if of_credit else left.quantity
    wanted = there if part.quantity is None else part.quantity
    if not 0 < wanted <= there:
        said = _euros if of_credit else str
        raise CreditNoteError(f"{said(there)} are left of line {line.number}: {said(wanted)} cannot be taken back")
    if of_credit:
        return msgspec.structs.replace(line, exact_pico=wanted * PICO_PER_CENT, net_cents=wanted)
    exact_pico = line.exact_pico // line.quantity * wanted
    taken_before = line.net_cents - left.net_cents
    net_cents = cents_half_up(line.exact_pico - left.exact_pico + exact_pico) - taken_before
    return msgspec.structs.replace(line, quantity=wanted, exact_pico=exact_pico, net_cents=net_cents)


def _draft(
    invoice: Invoice, lines: Iterable[Line], earlier: Sequence[Invoice], *, reason: str, issue_date: str, cancels: bool
) -> Invoice:
    lines = numbered_lines(lines)
    net_cents = sum(line.net_cents for line in lines)
    gives_back = cancels and invoice.kind is DocumentKind.INVOICE
    left_cents = invoice.net_cents - sum(note.net_cents for note in earlier)
    shown_as_lines = any(line.kind is LineKind.DRAWN for line in invoice.lines)
    if gives_back and left_cents < (0 if shown_as_lines else sum(invoice.drawn_cents.values())):
        raise CreditNoteError(
            f"more of {invoice.number} has been taken back in part than was due beyond credit: "
            "take back its lines one by one"
        )
    vat = _vat_of(invoice, net_cents, earlier)
    gross_cents = net_cents + vat.vat_cents
    paid_cents = min(invoice.paid_cents, gross_cents) if gives_back else 0
    return msgspec.structs.replace(
        invoice,
        kind=DocumentKind.CREDIT_NOTE,
        number="",
        issue_date=issue_date,
        due_date=issue_date,
        lines=lines,
        net_cents=net_cents,
        vat=vat,
        gross_cents=gross_cents,
        paid_cents=paid_cents,
        due_cents=gross_cents - paid_cents,
        exact_pico=sum(line.exact_pico for line in lines),
        days=(),
        chain=(),
        drawn_cents=invoice.drawn_cents if gives_back else {},
        corrects=DocumentRef(invoice.number, invoice.issue_date),
        cancels=cancels,
        reason=reason,
    )


def _vat_of(invoice: Invoice, net_cents: int, earlier: Sequence[Invoice]) -> Vat:
    """Return the VAT of what is taken back: that of everything that credit notes have taken, less what they have."""
    rate_bp = invoice.vat.rate_bp
    base_before = sum(note.vat.base_cents for note in earlier)
    taken_before = sum(note.vat.vat_cents for note in earlier)
    vat_cents = tax_cents(base_before + net_cents, rate_bp) - taken_before
    return Vat(invoice.vat.category, rate_bp, net_cents, vat_cents)


def _identity(line: Line) -> object:
    """Return what tells a line from the others of its document, and is the same on a credit note."""
    return (line.kind, line.first_day, line.last_day, line.usage, line.reference)
