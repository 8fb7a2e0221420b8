"""What comes of issuing, and why it is refused.

What belongs here: values and errors; the errors' messages are for operators.
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from proxy.core.invoicing.document import Invoice


class IssueError(Exception):
    """A document cannot be issued."""


class WrongDocumentError(IssueError):
    """A check has found something: a fault of this program, or of what is stored. Nothing was stored.

    Args:
        document: what was found wrong, with the number that it would have had.
        mistakes: what is wrong.
    """

    def __init__(self, document: Invoice, mistakes: Sequence[str]) -> None:
        found = "\n".join(f"  {mistake}" for mistake in mistakes)
        super().__init__(f"the document for {document.account_name} is wrong, and was not issued:\n{found}")
        self.document = document
        self.mistakes = tuple(mistakes)


class Result(StrEnum):
    """What became of an account's month.

    Attributes:
        ISSUED: its invoice was issued.
        ALREADY: an invoice stood for it; nothing was done.
        NOTHING: nothing was used.
        REFUSED: it cannot be invoiced, or not yet.
    """

    ISSUED = "issued"
    ALREADY = "already"
    NOTHING = "nothing"
    REFUSED = "refused"


class Outcome(msgspec.Struct, frozen=True):
    """What became of an account's month.

    Args:
        account: its name.
        result: in a word.
        number: of the invoice that stands for it; empty: none does.
        why: where it was refused, for an operator.
        document: the invoice, where it was issued now.
        deposits: deposit invoices that were issued before it, because it draws their credit.
    """

    account: str
    result: Result
    number: str = ""
    why: str = ""
    document: Invoice | None = None
    deposits: tuple[Invoice, ...] = ()
