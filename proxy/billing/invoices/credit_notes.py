"""Credit notes: the one way in which an issued document is corrected.

What belongs here: issuing them. What does not: what may be taken back (core/invoicing/crediting.py).
"""

from collections.abc import Sequence

from proxy.billing.invoices.office import Office
from proxy.billing.invoices.outcomes import IssueError
from proxy.billing.invoices.press import Drafts, Press
from proxy.core.credit import draw_down
from proxy.core.invoicing.checking_notes import mistakes_of_note
from proxy.core.invoicing.crediting import Part, credit_note
from proxy.core.invoicing.document import DocumentKind, Invoice
from proxy.core.invoicing.errors import CreditNoteError
from proxy.core.money import PICO_PER_CENT
from proxy.ledger.accounts import Accounts
from proxy.ledger.credit import Credit
from proxy.ledger.invoices import Invoices


class CreditNotes:
    """Issues credit notes."""

    def __init__(self, office: Office, press: Press) -> None:
        self._office = office
        self._press = press
        self._invoices = Invoices(office.database)

    async def issue(self, number: str, parts: Sequence[Part] | None, reason: str) -> Invoice:
        """Issue a credit note for a document.

        Args:
            number: of the document that it corrects.
            parts: what is taken back; None: everything that is left, which cancels the document.
            reason: why, as printed.

        Raises:
            UnknownDocumentError: there is no such document.
            IssueError: there is not so much to be taken back; or as ``Press.issue``.
        """

        async def draw(today: str) -> Drafts:
            document, earlier, count = await self._invoices.with_corrections(number)
            drawn_cents = await self._drawn_cents(document) if document.kind is DocumentKind.DEPOSIT else 0
            try:
                note = credit_note(document, parts, reason, today, earlier, drawn_cents)
            except CreditNoteError as exc:
                raise IssueError(str(exc)) from exc
            return Drafts((note,), {document.account_id: count}, lambda made: mistakes_of_note(made, document, earlier))

        (issued,) = await self._press.issue(self._office.terms.credit_note_series, draw)
        return issued

    async def _drawn_cents(self, deposit: Invoice) -> int:
        """Return what has been used of a deposit's lot, invoiced or not, in cents rounded up."""
        database = self._office.database
        account = await Accounts(database).named(deposit.account_id)
        facts = await Credit(database).facts(account.id)
        drawdown = draw_down([lot.drawable(account.timezone) for lot in facts.lots], facts.used_by_day)
        for lot, left in zip(drawdown.lots, drawdown.left, strict=True):
            if lot.id == deposit.lot_id:
                return -(-(lot.amount_pico - left) // PICO_PER_CENT)
        raise IssueError(f"the credit of {deposit.number} is not in the ledger")
