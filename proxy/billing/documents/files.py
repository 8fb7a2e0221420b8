"""Both files of a document.

What belongs here: the one call that makes them, so that the PDF carries exactly the XML that is kept beside it.
"""

import msgspec

from proxy.billing.documents.cii import invoice_xml
from proxy.billing.documents.pdf import invoice_pdf
from proxy.billing.documents.printed import printed
from proxy.core.invoicing.document import Invoice
from proxy.core.invoicing.terms import InvoicingTerms


class Files(msgspec.Struct, frozen=True):
    """The files of a document: EN 16931 XML, and the PDF/A-3b that carries the same bytes of it."""

    xml: bytes
    pdf: bytes


def files_of(invoice: Invoice, terms: InvoicingTerms) -> Files:
    """Make the files of a document; the same document gives the same bytes.

    A document without a number is a draft: its page says so, and its XML has ``DRAFT`` for a number. Everything that
    goes in and comes out can be pickled, so worker processes can be asked.
    """
    xml = invoice_xml(invoice, terms)
    return Files(xml=xml, pdf=invoice_pdf(printed(invoice, terms), xml))
