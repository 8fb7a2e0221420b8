"""Why a document cannot be made.

What belongs here: error types; their messages are for operators.
"""


class InvoicingError(ValueError):
    """There can be no such document."""


class FactsError(InvoicingError):
    """What it would follow from contradicts itself."""


class CreditNoteError(InvoicingError):
    """A credit note would take what is not there to be taken."""


class DepositDrawnError(CreditNoteError):
    """A credit note would take back credit that has been used."""
