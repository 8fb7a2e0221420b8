"""The PDF/A-3b that carries the XML: Factur-X.

What belongs here: typesetting page.typ, and the XMP metadata of Factur-X. What does not: what the pages say
(printed.py).

The same document gives the same bytes: dates are the date of issue, fonts are the shipped ones alone, and nothing reads
a clock. Typst makes the PDF/A-3b with the attachment in it; what it cannot write, the properties that say "this is
Factur-X", is put into its metadata with pypdf, which writes the file anew.
"""

import io
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
import typst
from pypdf import PdfWriter
from pypdf.generic import StreamObject

from proxy.billing.documents.glyphs import FONTS
from proxy.billing.documents.printed import Printed

XML_NAME: Final = "factur-x.xml"

_PAGE: Final = Path(__file__).with_name("page.typ")
_STANDARD: Final = "a-3b"
_SCHEMAS_END: Final = b"</rdf:Bag></pdfaExtension:schemas>"
_RDF_END: Final = b"</rdf:RDF>"
_FX: Final = "urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#"

_PROPERTIES: Final = {
    "DocumentFileName": (XML_NAME, "The name of the embedded XML document"),
    "DocumentType": ("INVOICE", "The type of the hybrid document"),
    "Version": ("1.0", "The version of the standard that the XML follows"),
    "ConformanceLevel": ("EN 16931", "The profile of the XML"),
}
"""Factur-X 1.0, 6.2.2: property: its value, and its description."""


def invoice_pdf(pages: Printed, xml: bytes) -> bytes:
    """Return the PDF/A-3b of some pages, with an XML in it."""
    made = _compiler().compile(
        format="pdf",
        sys_inputs={"document": msgspec.json.encode(pages).decode(), "xml": xml.decode()},
        pdf_standards=[_STANDARD],
    )
    assert isinstance(made, bytes)
    return _as_factur_x(made)


@cache
def _compiler() -> typst.Compiler:
    """Return the compiler of the pages: one a process, so that fonts are read once."""
    fonts = typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=[str(FONTS)])
    return typst.Compiler(input=str(_PAGE), root=str(_PAGE.parent), font_paths=fonts)


def _as_factur_x(pdf: bytes) -> bytes:
    """Say in a PDF's metadata that it is Factur-X."""
    writer = PdfWriter(clone_from=io.BytesIO(pdf))
    metadata = writer.root_object["/Metadata"]
    assert isinstance(metadata, StreamObject)
    xmp = metadata.get_data()
    assert xmp.count(_SCHEMAS_END) == 1
    assert xmp.count(_RDF_END) == 1
    xmp = xmp.replace(_SCHEMAS_END, _schema() + _SCHEMAS_END).replace(_RDF_END, _properties() + _RDF_END)
    metadata.set_data(xmp)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def _properties() -> bytes:
    """The properties, as XMP."""
    inner = "".join(f"<fx:{name}>{value}</fx:{name}>" for name, (value, _) in _PROPERTIES.items())
    return f'<rdf:Description rdf:about="" xmlns:fx="{_FX}">{inner}</rdf:Description>'.encode()


def _schema() -> bytes:
    """Their schema, which PDF/A wants described where it is used (ISO 19005-3, 6.6.2.3)."""
    described = "".join(
        '<rdf:li rdf:parseType="Resource">'
        f"<pdfaProperty:name>{name}</pdfaProperty:name>"
        "<pdfaProperty:valueType>Text</pdfaProperty:valueType>"
        "<pdfaProperty:category>external</pdfaProperty:category>"
        f"<pdfaProperty:description>{description}</pdfaProperty:description>"
        "</rdf:li>"
        for name, (_, description) in _PROPERTIES.items()
    )
    return (
        '<rdf:li rdf:parseType="Resource">'
        "<pdfaSchema:schema>Factur-X PDFA Extension Schema</pdfaSchema:schema>"
        f"<pdfaSchema:namespaceURI>{_FX}</pdfaSchema:namespaceURI>"
        "<pdfaSchema:prefix>fx</pdfaSchema:prefix>"
        f"<pdfaSchema:property><rdf:Seq>{described}</rdf:Seq></pdfaSchema:property>"
        "</rdf:li>"
    ).encode()
