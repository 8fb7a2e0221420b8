"""How the files of documents are really made, and held to the official rules.

What belongs here: the one place that puts billing/documents/ to work for issuing. What does not: either of them. The
libraries behind are heavy, so they are loaded when the first document is made.

Every document is held to every rule when it is issued: they cost about as much as making it.
"""

from collections.abc import Sequence
from typing import Final

from proxy.billing.invoices.outcomes import IssueError
from proxy.billing.invoices.workshop import Craft, Files
from proxy.core.invoicing.document import Invoice
from proxy.core.invoicing.terms import InvoicingTerms


def make_files(invoice: Invoice, terms: InvoicingTerms) -> Files:
    """Return the files of a document."""
    from proxy.billing.documents import files_of  # noqa: PLC0415 - see above

    return files_of(invoice, terms)


def broken_rules(xml: bytes) -> Sequence[str]:
    """Return what the official rules have against an XML. Raises ``IssueError`` when they cannot be run."""
    from proxy.billing.documents.validating import RulesError, rule_mistakes  # noqa: PLC0415 - see above

    try:
        return rule_mistakes(xml)
    except RulesError as exc:
        raise IssueError(f"the rules of electronic invoices cannot be run: {exc}") from exc


OFFICIAL: Final = Craft(make_files, broken_rules)
"""Factur-X in PDF/A-3, held to EN 16931 and the French rules."""
