"""The properties that say "this PDF is Factur-X", put into its XMP metadata.

What belongs here: those properties, and the one change to a file that Typst has made. What does not: the rest of the
file (pdf.py).

Typst writes PDF/A-3b with the XML attached, but takes no XMP of others. So its metadata stream is made longer in place:
what comes after it moves, and the table of offsets and the address of that table say so (ISO 32000-1, 7.5.4). Nothing
else of the file is touched or read; whatever is not as expected raises ``UnexpectedPdfError``.
"""

import re
from typing import Final

XML_NAME: Final = "factur-x.xml"

_NAMESPACE: Final = "urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#"
_PROPERTIES: Final = {
    "DocumentFileName": (XML_NAME, "The name of the embedded XML document"),
    "DocumentType": ("INVOICE", "The type of the hybrid document"),
    "Version": ("1.0", "The version of the standard that the XML follows"),
    "ConformanceLevel": ("EN 16931", "The profile of the XML"),
}
"""Property: its value, and its description (Factur-X 1.0, 6.2.2)."""

_STREAM: Final = re.compile(rb"\n\d+ 0 obj\n<</Length (\d+)/Type/Metadata/Subtype/XML>>\nstream\n")
_TABLE: Final = re.compile(rb"xref\n0 (\d+)\n")
_ENTRY_BYTES: Final = 20
_OFFSET_DIGITS: Final = 10
_END: Final = re.compile(rb"startxref\n(\d+)\n%%EOF\n?\Z")
_SCHEMAS_END: Final = b"</rdf:Bag></pdfaExtension:schemas>"
_RDF_END: Final = b"</rdf:RDF>"


class UnexpectedPdfError(Exception):
    """A PDF is not laid out as Typst lays it out."""


def as_factur_x(pdf: bytes) -> bytes:
    """Return a PDF of Typst's whose metadata says that it is Factur-X.

    Raises: UnexpectedPdfError: the file is laid out otherwise.
    """
    stream = _only(_STREAM, pdf)
    starts, ends = stream.end(), stream.end() + int(stream.group(1))
    xmp = _with_properties(pdf[starts:ends])
    header = stream.group().replace(b"/Length " + stream.group(1), b"/Length %d" % len(xmp))
    end = _only(_END, pdf)
    table = int(end.group(1))
    if table < ends:
        raise UnexpectedPdfError("the table of offsets comes before the metadata")
    changed = header + xmp
    grown = len(changed) - (ends - stream.start())
    return b"".join(
        (
            pdf[: stream.start()],
            changed,
            pdf[ends:table],
            _moved(pdf[table : end.start()], stream.start() + 1, grown),
            b"startxref\n%d\n%%%%EOF\n" % (table + grown),
        )
    )


def _only(pattern: re.Pattern[bytes], pdf: bytes) -> re.Match[bytes]:
    """Return the one place where a pattern matches."""
    found = list(pattern.finditer(pdf))
    if len(found) != 1:
        raise UnexpectedPdfError(f"{pattern.pattern!r} is there {len(found)} times")
    return found[0]


def _moved(table: bytes, after: int, by: int) -> bytes:
    """Return a table of offsets, and the trailer behind it, in which what lies behind a place has moved."""
    head = _TABLE.match(table)
    if head is None:
        raise UnexpectedPdfError("there is no plain table of offsets")
    entries = int(head.group(1))
    parts = [head.group()]
    for at in range(head.end(), head.end() + entries * _ENTRY_BYTES, _ENTRY_BYTES):
        entry = table[at : at + _ENTRY_BYTES]
        offset = int(entry[:_OFFSET_DIGITS])
        parts.append(b"%010d" % (offset + by if offset > after else offset) + entry[_OFFSET_DIGITS:])
    trailer = table[head.end() + entries * _ENTRY_BYTES :]
    if not trailer.startswith(b"trailer\n"):
        raise UnexpectedPdfError("the table of offsets is not as long as it says")
    return b"".join((*parts, trailer))


def _with_properties(xmp: bytes) -> bytes:
    """Return metadata with the properties, and with their schema, which PDF/A wants described where it is used."""
    if xmp.count(_SCHEMAS_END) != 1 or xmp.count(_RDF_END) != 1:
        raise UnexpectedPdfError("the metadata has no place for more properties")
    return xmp.replace(_SCHEMAS_END, _schema() + _SCHEMAS_END).replace(_RDF_END, _properties() + _RDF_END)


def _properties() -> bytes:
    """The properties, as XMP."""
    inner = "".join(f"<fx:{name}>{value}</fx:{name}>" for name, (value, _) in _PROPERTIES.items())
    return f'<rdf:Description rdf:about="" xmlns:fx="{_NAMESPACE}">{inner}</rdf:Description>'.encode()


def _schema() -> bytes:
    """The schema of the properties (ISO 19005-3, 6.6.2.3)."""
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
        f"<pdfaSchema:namespaceURI>{_NAMESPACE}</pdfaSchema:namespaceURI>"
        "<pdfaSchema:prefix>fx</pdfaSchema:prefix>"
        f"<pdfaSchema:property><rdf:Seq>{described}</rdf:Seq></pdfaSchema:property>"
        "</rdf:li>"
    ).encode()
