"""Any history: usage in time and late, prices that change, lots with ends, credit notes, months invoiced anew.

After every step: documents are right to the exact cent beside their entries, no lot is drawn beyond what was bought,
and what is asked for beyond credit follows what no lot pays for.
"""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from proxy.core.credit import NO_END, Lot
from proxy.core.invoicing.checking import mistakes_against, mistakes_of
from proxy.core.invoicing.checking_notes import mistakes_of_note
from proxy.core.invoicing.crediting import CreditNoteError, Part, lines_left
from proxy.core.invoicing.document import DocumentKind, Invoice, LineKind
from proxy.core.invoicing.terms import DrawnCredit, InvoicingTerms
from proxy.core.journal import postings
from proxy.core.money import PICO_PER_CENT
from proxy.core.usage import TariffClass, UsageType
from tests.core.invoicing import books
from tests.core.invoicing.books import BUYERS, MODELS, PRICES, Books

MONTHS = ("2026-09", "2026-10", "2026-11", "2026-12", "2027-01", "2027-02", "2027-03")
LIVED = 5


class Use(Struct, frozen=True):
    """A call, so many months ago."""

    back: int
    day: int
    model: str
    tariff_class: TariffClass
    amounts: dict[str, int]
    version: int


class Buy(Struct, frozen=True):
    """A lot, which pays for so many further months; None: for ever. Odd: pico-euros beyond whole cents."""

    cents: int
    odd: int
    months: int | None
    day: int


class Close(Struct, frozen=True):
    """The month is invoiced, and another begins."""


class Take(Struct, frozen=True):
    """A part of an invoice is taken back: this share of the quantity of one line in two or all of them."""

    which: int
    share: int


class Cancel(Struct, frozen=True):
    """An invoice is cancelled; its month is invoiced anew at once, or at the end."""

    which: int
    at_once: bool


USES = st.builds(
    Use,
    st.integers(0, 2),
    st.integers(1, 28),
    st.sampled_from(MODELS),
    st.sampled_from(TariffClass),
    st.dictionaries(st.sampled_from(UsageType), st.integers(0, 3_000_000), max_size=3),
    st.integers(0, 1),
)
BUYS = st.builds(
    Buy,
    st.integers(1, 900),
    st.just(0) | st.integers(0, PICO_PER_CENT - 1),
    st.none() | st.integers(0, 2),
    st.integers(1, 28),
)
CLOSES = st.builds(Close)
TAKES = st.builds(Take, st.integers(0, 9), st.integers(1, 3))
CANCELS = st.builds(Cancel, st.integers(0, 9), st.booleans())
TERMS = st.sampled_from(DrawnCredit)
PARTIES = st.sampled_from(list(BUYERS.values()))


def histories(*more: st.SearchStrategy[object]) -> st.SearchStrategy[list[object]]:
    """Return lists of steps; usage is the most frequent."""
    return st.lists(st.one_of(USES, USES, USES, BUYS, CLOSES, *more), max_size=40)


class Story:
    """Lives a history and looks at every document as it is made."""

    def __init__(self, terms: InvoicingTerms, buyer: object) -> None:
        self.books = Books(terms, buyer)
        self.place = 0
        self.is_over = False

    @property
    def month(self) -> str:
        return MONTHS[self.place]

    @property
    def today(self) -> str:
        return f"{MONTHS[self.place + 1]}-05"

    def live(self, steps: list[object]) -> None:
        for step in steps:
            getattr(self, type(step).__name__.lower())(step)
            self.look_at_lots()
        for month in MONTHS[: self.place + 1]:
            if not self.books.is_invoiced(month):
                self.issue(month)
        self.look_at_lots()

    def use(self, step: Use) -> None:
        if step.back <= self.place:
            version = PRICES[step.version]
            month, amounts = MONTHS[self.place - step.back], books.usage(**step.amounts)
            self.books.record(books.entry(month, step.day, step.model, step.tariff_class, amounts, version))

    def buy(self, step: Buy) -> None:
        if self.is_over:
            return
        last_day = NO_END if step.months is None else f"{MONTHS[self.place + step.months]}-{step.day:02d}"
        amount_pico = step.cents * PICO_PER_CENT + step.odd
        name = f"lot {len(self.books.lots)}"
        day = None if step.odd else f"{self.month}-{step.day:02d}"
        self.books.buy(Lot(name, amount_pico, f"{self.month}-01", last_day), day=day)
        if day:
            self.look_at(self.books.documents[-1])

    def close(self, _: Close) -> None:
        if not self.books.is_invoiced(self.month):
            self.issue(self.month)
        if self.place + 1 < LIVED:
            self.place += 1
        else:
            self.is_over = True

    def take(self, step: Take) -> None:
        if standing := self.books.standing():
            corrected = standing[step.which % len(standing)]
            left = lines_left(corrected, self.books.notes(corrected))
            usable = [line for line in left if line.kind is not LineKind.DRAWN and line.quantity]
            parts = [Part(line.number, -(-line.quantity // step.share)) for line in usable[:: step.share]]
            if parts:
                self.look_at_note(self.books.credit(corrected, parts, self.today), corrected)

    def cancel(self, step: Cancel) -> None:
        if standing := self.books.standing():
            corrected = standing[step.which % len(standing)]
            taken = sum(note.net_cents for note in self.books.notes(corrected))
            may = taken <= books.asked_cents(corrected) and any(
                line.quantity for line in lines_left(corrected, self.books.notes(corrected))
            )
            try:
                self.look_at_note(self.books.cancel(corrected, self.today), corrected)
            except CreditNoteError:
                assert not may
                return
            assert may
            if step.at_once:
                self.issue(corrected.month)

    def issue(self, month: str) -> None:
        uncovered, facts = self.books.uncovered(), self.books.facts(month)
        invoice = self.books.invoice(month, self.today)
        if invoice is None:
            assert not any(each.quantity for each in (*facts.used, *facts.late))
            return
        self.look_at(invoice)
        assert mistakes_of(invoice, self.books.terms) == []
        assert mistakes_against(invoice, self.books.behind(invoice), PRICES) == []
        exact = sum(call.charge.total_pico for call in self.books.behind(invoice))
        lines = sum(line.kind is not LineKind.DRAWN for line in invoice.lines)
        assert abs(Fraction(exact, PICO_PER_CENT) - books.sold_cents(invoice)) <= Fraction(lines, 2)
        days = {call.day for call in self.books.behind(invoice) if call.charge.total_pico}
        paying = [each for each in facts.lots if any(each.lot.first_day <= day <= each.lot.last_day for day in days)]
        room = sum(each.lot.amount_pico // PICO_PER_CENT - each.drawn_cents for each in paying)
        if self.books.uncovered() == uncovered and room >= books.sold_cents(invoice):
            assert (invoice.due_cents, books.asked_cents(invoice)) == (0, 0)

    def look_at(self, document: Invoice) -> None:
        assert mistakes_of(document) == []
        assert document.due_cents >= 0
        moved = postings(document, self.books.terms.bookkeeping)
        assert sum(each.debit_cents for each in moved) == sum(each.credit_cents for each in moved)
        assert all(
            min(each.debit_cents, each.credit_cents) == 0 < max(each.debit_cents, each.credit_cents) for each in moved
        )

    def look_at_note(self, note: Invoice, corrected: Invoice) -> None:
        self.look_at(note)
        earlier = self.books.notes(corrected)[:-1]
        assert mistakes_of_note(note, corrected, earlier) == []
        assert sum(books.sold_cents(each) for each in (*earlier, note)) <= books.sold_cents(corrected)
        assert note.cancels or not note.drawn_cents

    def look_at_lots(self) -> None:
        for bought in self.books.lots:
            assert 0 <= self.books.drawn_cents(bought.lot.id) * PICO_PER_CENT <= bought.lot.amount_pico

    def rounding_max(self) -> Fraction:
        """Half a cent a line, half a cent for the total that is drawn, and of odd lots what is no whole cent."""
        invoices = [each for each in self.books.documents if each.kind is DocumentKind.INVOICE]
        lines = sum(line.kind is not LineKind.DRAWN for each in invoices for line in each.lines)
        odd = sum(Fraction(each.lot.amount_pico % PICO_PER_CENT, PICO_PER_CENT) for each in self.books.lots)
        return Fraction(lines + 1, 2) + odd


@settings(max_examples=300, deadline=None)
@given(TERMS, PARTIES, histories())
def test_what_is_asked_beyond_credit_is_what_no_lot_pays_for(drawn_credit, buyer, steps):
    story = Story(InvoicingTerms(drawn_credit=drawn_credit), buyer)
    story.live(steps)
    assert abs(story.books.asked_cents() - story.books.uncovered()) <= story.rounding_max()


@settings(max_examples=300, deadline=None)
@given(TERMS, PARTIES, histories(CANCELS))
def test_it_is_so_again_when_what_was_cancelled_is_invoiced_anew(drawn_credit, buyer, steps):
    story = Story(InvoicingTerms(drawn_credit=drawn_credit), buyer)
    story.live(steps)
    assert abs(story.books.asked_cents() - story.books.uncovered()) <= story.rounding_max()


@settings(max_examples=300, deadline=None)
@given(TERMS, PARTIES, histories(CANCELS, TAKES))
def test_credit_notes_in_part_change_nothing_of_what_is_drawn(drawn_credit, buyer, steps):
    with_notes = Story(InvoicingTerms(drawn_credit=drawn_credit), buyer)
    with_notes.live([step for step in steps if not isinstance(step, Cancel)])
    without = Story(InvoicingTerms(drawn_credit=drawn_credit), buyer)
    without.live([step for step in steps if not isinstance(step, Cancel | Take)])
    drawn = [[each.drawn_cents for each in story.books.standing()] for story in (with_notes, without)]
    assert drawn[0] == drawn[1]
    Story(InvoicingTerms(drawn_credit=drawn_credit), buyer).live(steps)
