"""The exact check of a credit note beside what it corrects and what was taken back before.

What belongs here: that comparison. What does not: what can be told of the note alone (checking.py).
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction

from proxy.core.invoicing.checking import PICO_A_CENT, half_up
from proxy.core.invoicing.document import DocumentRef, Invoice, Line, LineKind

_SAME = ("account_id", "account_name", "tier", "month", "first_day", "last_day", "seller", "buyer", "lot_id")


def mistakes_of_note(note: Invoice, corrected: Invoice, earlier: Sequence[Invoice] = ()) -> list[str]:
    """Return how a credit note contradicts what it corrects, as sentences; empty: it does not.

    Args:
        note: the credit note.
        corrected: the document that it corrects, as issued.
        earlier: the credit notes of the same document that were issued before it.
    """
    found = [f"its {name} is another" for name in _SAME if getattr(note, name) != getattr(corrected, name)]
    if note.corrects != DocumentRef(corrected.number, corrected.issue_date):
        found.append(f"it does not correct {corrected.number}")
    if note.issue_date < max([corrected.issue_date, *(each.issue_date for each in earlier)]):
        found.append("it was issued before what it corrects, or before an earlier one")
    if any(each.cancels for each in earlier):
        found.append(f"{corrected.number} was cancelled before")
    taken = [line for each in (*earlier, note) for line in each.lines]
    for line in corrected.lines:
        same = [each for each in taken if _about(each) == _about(line)]
        found += [f"line {line.number}: {mistake}" for mistake in _line(note, line, same)]
    known = {_about(line) for line in corrected.lines}
    found += [f"line {line.number} is not on {corrected.number}" for line in note.lines if _about(line) not in known]
    return [*found, *_vat(note, corrected, earlier), *_credit(note, corrected)]


def _about(line: Line) -> tuple[object, ...]:
    return (line.kind, line.first_day, line.last_day, line.usage, line.reference)


def _line(note: Invoice, line: Line, taken: Sequence[Line]) -> Iterator[str]:
    quantity = sum(each.quantity for each in taken)
    exact = sum((Fraction(each.exact_pico) for each in taken), Fraction(0))
    net = sum(each.net_cents for each in taken)
    is_usage = line.usage is not None
    if abs(exact) > abs(line.exact_pico) or (is_usage and quantity > line.quantity):
        yield f"{quantity} units, {exact} pico-euros are taken back of {line.quantity}, {line.exact_pico}"
    if net != half_up(exact / PICO_A_CENT):
        yield f"{exact} pico-euros have been taken back as {net} cents"
    if note.cancels and (exact != line.exact_pico or (is_usage and quantity != line.quantity)):
        yield f"{line.exact_pico - exact} pico-euros of it are left"


def _vat(note: Invoice, corrected: Invoice, earlier: Sequence[Invoice]) -> Iterator[str]:
    if (note.vat.category, note.vat.rate_bp) != (corrected.vat.category, corrected.vat.rate_bp):
        yield "its VAT is of another rate"
    base = sum((Fraction(each.vat.base_cents) for each in (*earlier, note)), Fraction(0))
    tax = sum(each.vat.vat_cents for each in (*earlier, note))
    if tax != half_up(base * Fraction(corrected.vat.rate_bp, 100 * 100)):
        yield f"{tax} cents of VAT have been taken back on {base} cents"


def _credit(note: Invoice, corrected: Invoice) -> Iterator[str]:
    given_back = corrected.drawn_cents if note.cancels else {}
    if note.drawn_cents != given_back:
        yield f"it gives {note.drawn_cents} back, and should {given_back}"
    shown = any(line.kind is LineKind.DRAWN for line in corrected.lines)
    if not shown and note.paid_cents != (min(corrected.paid_cents, note.gross_cents) if given_back else 0):
        yield f"{note.paid_cents} cents count as paid"
