"""A document as EN 16931 XML: UN/CEFACT CII, profile EN 16931 of Factur-X.

What belongs here: the head and the totals; which business term (BT, BG) holds what. What does not: lines
(cii_lines.py), parties (cii_parties.py), texts (mentions.py). docs/factur-x.md has the table.

Every number is a string made of an integer's digits: nothing is computed here. The order of elements is the XSD's.
"""

from typing import Final

from lxml import etree

from proxy.billing.documents.amounts import rate_text
from proxy.billing.documents.cii_lines import line_element
from proxy.billing.documents.cii_parties import buyer_element, seller_element
from proxy.billing.documents.elements import (
    CURRENCY,
    NAMESPACES,
    Element,
    amount,
    date_element,
    element,
    optional,
    period,
    referenced,
)
from proxy.billing.documents.mentions import exemption_text, notes, payment_terms
from proxy.core.invoicing.document import DocumentKind, DocumentRef, Invoice, LineKind
from proxy.core.invoicing.terms import InvoicingTerms

DRAFT_NUMBER: Final = "DRAFT"
"""Stands for the number of a document that has none: BT-1 may not be empty."""

EXEMPTION_CODES: Final = {"AE": "VATEX-EU-AE", "G": "VATEX-EU-G"}
"""Why there is no VAT (BT-121), by category."""

_PROFILE: Final = "urn:cen.eu:en16931:2017"
_TYPE_CODES: Final = {DocumentKind.INVOICE: "380", DocumentKind.DEPOSIT: "386", DocumentKind.CREDIT_NOTE: "381"}
_CREDIT_TRANSFER: Final = "30"


def invoice_xml(invoice: Invoice, terms: InvoicingTerms) -> bytes:
    """Return the XML of a document, UTF-8: the same document gives the same bytes."""
    root = etree.Element(f"{{{NAMESPACES['rsm']}}}CrossIndustryInvoice", nsmap=NAMESPACES)
    root.append(
        element(
            "rsm:ExchangedDocumentContext",
            element("BusinessProcessSpecifiedDocumentContextParameter", element("ID", text=billing_mode(invoice))),
            element("GuidelineSpecifiedDocumentContextParameter", element("ID", text=_PROFILE)),
        )
    )
    root.append(
        element(
            "rsm:ExchangedDocument",
            element("ID", text=invoice.number or DRAFT_NUMBER),
            element("TypeCode", text=_TYPE_CODES[invoice.kind]),
            date_element("IssueDateTime", invoice.issue_date),
            *(
                element("IncludedNote", element("Content", text=text), element("SubjectCode", text=code))
                for code, text in notes(invoice, terms)
            ),
        )
    )
    root.append(
        element(
            "rsm:SupplyChainTradeTransaction",
            *(line_element(line, invoice) for line in invoice.lines),
            _agreement(invoice),
            # BT-72: the supply is complete with the last day that is billed.
            element(
                "ApplicableHeaderTradeDelivery",
                element("ActualDeliverySupplyChainEvent", date_element("OccurrenceDateTime", invoice.last_day)),
            ),
            _settlement(invoice),
        )
    )
    return etree.tostring(root, encoding="UTF-8", xml_declaration=True)


def billing_mode(invoice: Invoice) -> str:
    """Return the French billing mode (BT-23): services, paid before (S2), after a deposit (S4), or plain (S1)."""
    if invoice.kind is DocumentKind.DEPOSIT:
        return "S2"
    draws = any(line.kind is LineKind.DRAWN for line in invoice.lines) or any(invoice.drawn_cents.values())
    return "S4" if draws else "S1"


def preceding(invoice: Invoice) -> list[DocumentRef]:
    """Return what a document refers to (BG-3): what a credit note corrects, the deposits that an invoice draws on."""
    if invoice.corrects is not None:
        return [invoice.corrects]
    deposits = {line.deposit for line in invoice.lines if line.deposit is not None}
    return sorted(deposits, key=lambda deposit: (deposit.issue_date, deposit.number))


def _agreement(invoice: Invoice) -> Element:
    """Who, and by which order."""
    buyer = invoice.buyer
    return element(
        "ApplicableHeaderTradeAgreement",
        optional("BuyerReference", buyer.reference),
        seller_element(invoice.seller),
        buyer_element(buyer),
        referenced("BuyerOrderReferencedDocument", buyer.purchase_order) if buyer.purchase_order else None,
    )


def _settlement(invoice: Invoice) -> Element:
    """How much, until when and where to."""
    due = element(
        "SpecifiedTradePaymentTerms",
        element("Description", text=payment_terms(invoice)),
        date_element("DueDateDateTime", invoice.due_date),
    )
    return element(
        "ApplicableHeaderTradeSettlement",
        optional("PaymentReference", invoice.number if expects_payment(invoice) else ""),
        element("InvoiceCurrencyCode", text=CURRENCY),
        _payment_means(invoice) if expects_payment(invoice) else None,
        _tax(invoice),
        period(invoice.first_day, invoice.last_day),
        due,
        _totals(invoice),
        *(referenced("InvoiceReferencedDocument", ref.number, ref.issue_date) for ref in preceding(invoice)),
    )


def expects_payment(invoice: Invoice) -> bool:
    """Whether somebody is to transfer money: not for credit notes, and not where nothing is left to pay."""
    return invoice.kind is not DocumentKind.CREDIT_NOTE and invoice.due_cents > 0


def _payment_means(invoice: Invoice) -> Element:
    """Where to (BG-16, BG-17)."""
    bank = invoice.seller.bank
    return element(
        "SpecifiedTradeSettlementPaymentMeans",
        element("TypeCode", text=_CREDIT_TRANSFER),
        element(
            "PayeePartyCreditorFinancialAccount",
            element("IBANID", text=bank.iban),
            optional("AccountName", bank.holder),
        ),
        element("PayeeSpecifiedCreditorFinancialInstitution", element("BICID", text=bank.bic)) if bank.bic else None,
    )


def _tax(invoice: Invoice) -> Element:
    """The VAT (BG-23): one rate on the sum of the lines."""
    vat = invoice.vat
    return element(
        "ApplicableTradeTax",
        amount("CalculatedAmount", vat.vat_cents),
        element("TypeCode", text="VAT"),
        optional("ExemptionReason", exemption_text(invoice)),
        amount("BasisAmount", vat.base_cents),
        element("CategoryCode", text=vat.category),
        optional("ExemptionReasonCode", EXEMPTION_CODES.get(vat.category, "")),
        element("RateApplicablePercent", text=rate_text(vat.rate_bp)),
    )


def _totals(invoice: Invoice) -> Element:
    """The totals (BG-22)."""
    vat_total = amount("TaxTotalAmount", invoice.vat.vat_cents)
    vat_total.set("currencyID", CURRENCY)
    return element(
        "SpecifiedTradeSettlementHeaderMonetarySummation",
        amount("LineTotalAmount", invoice.net_cents),
        amount("TaxBasisTotalAmount", invoice.vat.base_cents),
        vat_total,
        amount("GrandTotalAmount", invoice.gross_cents),
        amount("TotalPrepaidAmount", invoice.paid_cents) if invoice.paid_cents else None,
        amount("DuePayableAmount", invoice.due_cents),
    )
