"""The files of a document: EN 16931 XML, and the PDF/A-3 that carries it (Factur-X).

What belongs here: how ``core.invoicing.document.Invoice`` is written, and whether what was written passes the
official rules (validating.py). What does not: what it says (core/invoicing/), numbers and storing (billing/invoices/).
"""

from proxy.billing.documents.files import Files, files_of

__all__ = ["Files", "files_of"]
