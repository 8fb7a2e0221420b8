"""The words of a document in French and in English.

What belongs here: text, and which of it a kind, a line or a VAT treatment calls for. What does not: amounts and dates
(amounts.py), and where the words stand (page.typ, cii.py).
"""

from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from proxy.core.invoicing.document import DocumentKind, Invoice, Line
from proxy.core.parties import Language
from proxy.core.usage import TariffClass, UsageType


class Words(msgspec.Struct, frozen=True):
    """The words of a language; ``page.typ`` reads those of ``labels`` by their keys."""

    kinds: dict[DocumentKind, str]
    usage: dict[UsageType, str]
    classes: dict[TariffClass, str]
    exemptions: dict[str, str]
    labels: dict[str, str]


_FRENCH: Final = Words(
    kinds={
        DocumentKind.INVOICE: "Facture",
        DocumentKind.DEPOSIT: "Facture d’acompte",
        DocumentKind.CREDIT_NOTE: "Avoir",
    },
    usage={
        UsageType.INPUT: "Tokens en entrée",
        UsageType.CACHED_INPUT: "Tokens en entrée, en cache",
        UsageType.OUTPUT: "Tokens en sortie",
        UsageType.REASONING: "Tokens de raisonnement",
        UsageType.RERANK: "Tokens de reclassement",
        UsageType.AUDIO_MINUTES: "Minutes d’audio",
    },
    classes={TariffClass.STANDARD: "standard", TariffClass.BATCH: "différé (batch)"},
    exemptions={
        "AE": "Autoliquidation : TVA due par le preneur (articles 283-2 du CGI et 196 de la directive 2006/112/CE)",
        "G": "TVA non applicable : preneur établi hors de l’Union européenne (article 259, 1° du CGI)",
    },
    labels={
        "to": "Facturé à",
        "issued": "Date d’émission",
        "supplied": "Période",
        "supply_day": "Date de l’opération",
        "due": "Échéance",
        "account": "Compte",
        "tier": "Offre",
        "order": "Votre commande",
        "reference": "Votre référence",
        "vat_number": "N° TVA",
        "line": "Désignation",
        "period": "Période",
        "quantity": "Quantité",
        "price": "Prix unitaire HT",
        "net": "Montant HT",
        "per_million": "par million",
        "per_minute": "par minute",
        "tariff": "tarif",
        "late": "Enregistré après la facture de {month}",
        "drawn": "Crédit prépayé utilisé",
        "deposit": "facture d’acompte {number} du {date}",
        "credit": "Crédit prépayé",
        "purchase": "achat {reference}",
        "vat_rate": "TVA",
        "vat_base": "Base HT",
        "vat_amount": "Montant de TVA",
        "total_net": "Total HT",
        "total_vat": "TVA {rate}",
        "total_gross": "Total TTC",
        "paid": "Déjà réglé",
        "due_amount": "Net à payer",
        "credited_amount": "Net à votre crédit",
        "pay_before": "à régler au plus tard le {date}",
        "nothing_due": "aucun règlement attendu",
        "paid_in_full": "acquittée",
        "given_back": "déduit de ce que vous devez, ou remboursé",
        "payment": "Règlement par virement",
        "holder": "Titulaire",
        "remittance": "Motif à indiquer",
        "chart": "Consommation par jour (HT)",
        "highest": "maximum {amount}",
        "continued": "suite",
        "page": "Page",
        "corrects": "Cet avoir corrige la {kind} {number} du {date}",
        "cancels": "Cet avoir annule en totalité la {kind} {number} du {date}",
        "reason": "Motif : {reason}",
        "draft": "BROUILLON",
        "specimen": "SPÉCIMEN",
        "chain": "Registre des appels, {month}, maillon {link}, SHA-256 :",
        "chain_empty": "Registre des appels, {month} : aucune écriture.",
        "exact": "Valeur exacte des lignes : {exact} ; arrondi de chaque ligne au centime : {rounding} au total.",
        "legal": "{name}, {form} au capital de {capital}",
        "registered": "RCS {rcs} {siren}",
        "terms": "Paiement au plus tard le {date}.",
        "terms_paid": "Facture acquittée.",
        "terms_nothing": "Aucun règlement n’est attendu.",
        "terms_credit": "Avoir : aucun règlement n’est attendu.",
        "late_interest": "Pénalités exigibles en cas de retard de paiement : {rate}.",
        "operations": "Catégorie d’opérations : prestations de services.",
        "recovery": "Indemnité forfaitaire pour frais de recouvrement en cas de retard de paiement : 40 €.",
        "discount": "Pas d’escompte pour paiement anticipé.",
        "xml": "Facture électronique Factur-X (EN 16931) : le fichier XML joint à ce PDF fait foi pour le traitement.",
    },
)

_ENGLISH: Final = Words(
    kinds={
        DocumentKind.INVOICE: "Invoice",
        DocumentKind.DEPOSIT: "Deposit invoice",
        DocumentKind.CREDIT_NOTE: "Credit note",
    },
    usage={
        UsageType.INPUT: "Input tokens",
        UsageType.CACHED_INPUT: "Cached input tokens",
        UsageType.OUTPUT: "Output tokens",
        UsageType.REASONING: "Reasoning tokens",
        UsageType.RERANK: "Rerank tokens",
        UsageType.AUDIO_MINUTES: "Audio minutes",
    },
    classes={TariffClass.STANDARD: "standard", TariffClass.BATCH: "batch"},
    exemptions={
        "AE": "Reverse charge: VAT to be accounted for by the recipient (Article 196 of Directive 2006/112/EC)",
        "G": "No French VAT: recipient established outside the European Union (Article 259, 1° of the French CGI)",
    },
    labels={
        "to": "Billed to",
        "issued": "Date of issue",
        "supplied": "Period",
        "supply_day": "Date of supply",
        "due": "Due date",
        "account": "Account",
        "tier": "Plan",
        "order": "Your order",
        "reference": "Your reference",
        "vat_number": "VAT no.",
        "line": "Description",
        "period": "Period",
        "quantity": "Quantity",
        "price": "Unit price, net",
        "net": "Net amount",
        "per_million": "per million",
        "per_minute": "per minute",
        "tariff": "prices",
        "late": "Recorded after the invoice of {month}",
        "drawn": "Prepaid credit used",
        "deposit": "deposit invoice {number} of {date}",
        "credit": "Prepaid credit",
        "purchase": "purchase {reference}",
        "vat_rate": "VAT",
        "vat_base": "Net base",
        "vat_amount": "VAT amount",
        "total_net": "Net total",
        "total_vat": "VAT {rate}",
        "total_gross": "Total including VAT",
        "paid": "Already paid",
        "due_amount": "Amount due",
        "credited_amount": "Amount credited",
        "pay_before": "payable by {date}",
        "nothing_due": "no payment expected",
        "paid_in_full": "paid in full",
        "given_back": "set off against what you owe, or refunded",
        "payment": "Payment by bank transfer",
        "holder": "Account holder",
        "remittance": "Quote as reference",
        "chart": "Usage by day (net)",
        "highest": "highest {amount}",
        "continued": "continued",
        "page": "Page",
        "corrects": "This credit note corrects {kind} {number} of {date}",
        "cancels": "This credit note cancels {kind} {number} of {date} in full",
        "reason": "Reason: {reason}",
        "draft": "DRAFT",
        "specimen": "SPECIMEN",
        "chain": "Ledger of {month}, link {link}, SHA-256:",
        "chain_empty": "Ledger of {month}: no entries.",
        "exact": "Exact value of the lines: {exact}; rounding of each line to the cent: {rounding} in all.",
        "legal": "{name}, {form} with a share capital of {capital}",
        "registered": "RCS {rcs} {siren}",
        "terms": "Payment due by {date}.",
        "terms_paid": "Paid in full.",
        "terms_nothing": "No payment is expected.",
        "terms_credit": "Credit note: no payment is expected.",
        "late_interest": "Interest for late payment: {rate}.",
        "operations": "Category of operations: supply of services.",
        "recovery": "Fixed compensation for recovery costs in case of late payment: €40.",
        "discount": "No discount for early payment.",
        "xml": "Electronic invoice, Factur-X (EN 16931): the XML file within this PDF is what is to be processed.",
    },
)

_WORDS: Final = {Language.FRENCH: _FRENCH, Language.ENGLISH: _ENGLISH}


def words(language: Language) -> Words:
    """Return the words of a language."""
    return _WORDS[language]


def title(invoice: Invoice) -> str:
    """Return what a document is called."""
    return words(invoice.buyer.language).kinds[invoice.kind]


def label(language: Language, key: str, **values: str) -> str:
    """Return a label with its values filled in; a value is never read as a pattern."""
    return words(language).labels[key].format(**values)


def corrected_kind(invoice: Invoice) -> str:
    """Return what the document that a credit note corrects is called, within a sentence."""
    kind = DocumentKind.DEPOSIT if invoice.lot_id else DocumentKind.INVOICE
    called = words(invoice.buyer.language).kinds[kind]
    return called[0].lower() + called[1:]


def country(code: str, language: Language) -> str:
    """Return the name of a country (ISO 3166-1 alpha-2), its code where it has none here.

    countries.json holds French and English names as the Unicode CLDR has them (Unicode License v3).
    """
    french, english = _countries().get(code, (code, code))
    return french if language is Language.FRENCH else english


@cache
def _countries() -> dict[str, tuple[str, str]]:
    """Return the names of countries, French and English, by code."""
    return msgspec.json.decode(Path(__file__).with_name("countries.json").read_bytes(), type=dict[str, tuple[str, str]])


def usage_text(line: Line, language: Language) -> str:
    """Return what a line of usage counts, without its model: ``Input tokens, standard``."""
    assert line.usage is not None
    spoken = words(language)
    return f"{spoken.usage[line.usage.usage_type]}, {spoken.classes[line.usage.tariff_class]}"
