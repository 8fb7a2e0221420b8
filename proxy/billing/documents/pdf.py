"""The PDF/A-3b that carries the XML: Factur-X.

What belongs here: typesetting page.typ. What does not: what the pages say (printed.py), and the metadata of Factur-X
(xmp.py).

The same document gives the same bytes: dates are the date of issue, fonts are the shipped ones alone, and nothing reads
a clock.
"""

from functools import cache
from pathlib import Path
from typing import Final

import msgspec
import typst

from proxy.billing.documents.glyphs import FONTS
from proxy.billing.documents.printed import Printed
from proxy.billing.documents.xmp import XML_NAME, as_factur_x

_PAGE: Final = Path(__file__).with_name("page.typ")
_STANDARD: Final = "a-3b"


def invoice_pdf(pages: Printed, xml: bytes) -> bytes:
    """Return the PDF/A-3b of some pages, with an XML in it; tagged, so that it can be read aloud."""
    inputs = {"document": msgspec.json.encode(pages).decode(), "xml": xml.decode(), "xml_name": XML_NAME}
    made = _compiler().compile(format="pdf", sys_inputs=inputs, pdf_standards=[_STANDARD])
    assert isinstance(made, bytes)
    return as_factur_x(made)


@cache
def _compiler() -> typst.Compiler:
    """Return the compiler of the pages: one a process, so that fonts are read once."""
    fonts = typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=[str(FONTS)])
    return typst.Compiler(input=str(_PAGE), root=str(_PAGE.parent), font_paths=fonts)
