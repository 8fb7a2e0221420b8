"""What a document must say in words: the same sentences in the XML and on the page.

What belongs here: mandatory mentions, and the texts of lines. What does not: the words themselves (labels.py).

Subject codes of notes (BT-21) are those that the French rules name: PMT, PMD and AAB must be there once each
(BR-FR-05, BR-FR-06), BAR says which exchange a document belongs to (BR-FR-20); REG and ABL carry what the law wants to
read of a company, AAI everything else.
"""

from proxy.billing.documents.amounts import day_typeset, month_typeset, pico_typeset, siren_typeset
from proxy.billing.documents.labels import corrected_kind, label, words
from proxy.core.invoicing.document import ChainMark, DocumentKind, Invoice, Line, LineKind
from proxy.core.invoicing.terms import InvoicingTerms
from proxy.core.parties import Language


def notes(invoice: Invoice, terms: InvoicingTerms) -> list[tuple[str, str]]:
    """Return the notes of a document: subject code and text."""
    language = invoice.buyer.language
    return [
        ("BAR", "B2B" if invoice.buyer.siren else "B2BINT"),
        ("REG", legal_text_of_seller(invoice)),
        ("ABL", registered_text(invoice)),
        ("PMT", label(language, "recovery")),
        ("PMD", late_interest(invoice, terms)),
        ("AAB", label(language, "discount")),
        *(("AAI", text) for text in (*references(invoice), *proofs(invoice))),
    ]


def legal_text_of_seller(invoice: Invoice) -> str:
    """Return name, legal form and capital."""
    seller = invoice.seller
    return label(invoice.buyer.language, "legal", name=seller.name, form=seller.legal_form, capital=seller.capital)


def registered_text(invoice: Invoice) -> str:
    """Return where the seller is registered, and by which number."""
    return label(
        invoice.buyer.language, "registered", rcs=invoice.seller.rcs, siren=siren_typeset(invoice.seller.siren)
    )


def late_interest(invoice: Invoice, terms: InvoicingTerms) -> str:
    """Return what paying late costs."""
    language = invoice.buyer.language
    rate = terms.late_interest_fr if language is Language.FRENCH else terms.late_interest_en
    return label(language, "late_interest", rate=rate)


def payment_terms(invoice: Invoice) -> str:
    """Return when a document is to be paid (BT-20)."""
    language = invoice.buyer.language
    if invoice.kind is DocumentKind.CREDIT_NOTE:
        return label(language, "terms_credit")
    if invoice.due_cents == 0:
        return label(language, "terms_paid" if invoice.paid_cents else "terms_nothing")
    return label(language, "terms", date=day_typeset(invoice.due_date, language))


def exemption_text(invoice: Invoice) -> str:
    """Return why there is no VAT (BT-120); empty: there is."""
    return words(invoice.buyer.language).exemptions.get(invoice.vat.category, "")


def references(invoice: Invoice) -> list[str]:
    """Return what a credit note corrects, and why."""
    language = invoice.buyer.language
    if invoice.corrects is None:
        return []
    key = "cancels" if invoice.cancels else "corrects"
    date = day_typeset(invoice.corrects.issue_date, language)
    said = [label(language, key, kind=corrected_kind(invoice), number=invoice.corrects.number, date=date)]
    return said + ([label(language, "reason", reason=invoice.reason)] if invoice.reason else [])


def proofs(invoice: Invoice) -> list[str]:
    """Return what ties a document to the ledger: the heads of the chains, and the rounding of its lines."""
    language = invoice.buyer.language
    said = [f"{chain_text(mark, language)}{f' {mark.head}' if mark.head else ''}" for mark in invoice.chain]
    if any(line.usage is not None for line in invoice.lines):
        said.append(exact_text(invoice))
    return said


def chain_text(mark: ChainMark, language: Language) -> str:
    """Return how far into a month's chain a document reaches, without the hash."""
    month = month_typeset(mark.month, language)
    return label(language, "chain" if mark.head else "chain_empty", month=month, link=str(mark.link))


def exact_text(invoice: Invoice) -> str:
    """Return what the lines are worth exactly, and what rounding has made of it."""
    language = invoice.buyer.language
    return label(
        language,
        "exact",
        exact=pico_typeset(invoice.exact_pico, language),
        rounding=pico_typeset(invoice.rounding_pico, language),
    )


def line_title(line: Line, language: Language) -> str:
    """Return what a line is about (BT-153): the model, or credit."""
    if line.usage is not None:
        return line.usage.model
    return label(language, "drawn" if line.kind is LineKind.DRAWN else "credit")


def line_note(line: Line, language: Language) -> str:
    """Return what else is to be said of a line (BT-127); may be empty."""
    if line.kind is LineKind.LATE:
        return label(language, "late", month=month_typeset(line.first_day[:7], language))
    said = [label(language, "purchase", reference=line.reference)] if line.reference else []
    if line.deposit is not None:
        date = day_typeset(line.deposit.issue_date, language)
        said.append(label(language, "deposit", number=line.deposit.number, date=date))
    return ", ".join(said)
