"""Elements of CII, written short.

What belongs here: how a value becomes an element: names, dates, amounts, quantities, text that XML may hold. What does
not: which elements an invoice has (cii.py).
"""

import re
from typing import Final

from lxml import etree

from proxy.billing.documents.amounts import cents_text, compact_date

NAMESPACES: Final = {
    "rsm": "urn:un:unece:uncefact:data:standard:CrossIndustryInvoice:100",
    "ram": "urn:un:unece:uncefact:data:standard:ReusableAggregateBusinessInformationEntity:100",
    "qdt": "urn:un:unece:uncefact:data:standard:QualifiedDataType:100",
    "udt": "urn:un:unece:uncefact:data:standard:UnqualifiedDataType:100",
}
CURRENCY: Final = "EUR"

Element = etree._Element  # noqa: SLF001  # lxml has no public name for the type of its elements

_ILLEGAL: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def legal_text(text: str) -> str:
    """Return a text with what XML 1.0 cannot hold (control characters, lone surrogates) replaced by U+FFFD."""
    return _ILLEGAL.sub("\ufffd", text)


def element(name: str, *children: "Element | None", text: str = "", **attributes: str) -> Element:
    """Make an element: ``ram:`` where the name has no prefix; children that are None are left out."""
    prefix, _, local = name.rpartition(":")
    made = etree.Element(f"{{{NAMESPACES[prefix or 'ram']}}}{local}", attributes)
    if text:
        made.text = legal_text(text)
    made.extend(child for child in children if child is not None)
    return made


def optional(name: str, text: str, **attributes: str) -> Element | None:
    """Make an element of a text, None of an empty one: EN 16931 wants no empty elements."""
    return element(name, text=text, **attributes) if text else None


def date_element(name: str, day: str, *, qualified: bool = False) -> Element:
    """Make an element of a day, ``YYYY-MM-DD``."""
    prefix = "qdt" if qualified else "udt"
    return element(name, element(f"{prefix}:DateTimeString", text=compact_date(day), format="102"))


def period(first_day: str, last_day: str) -> Element:
    """Make the period of a document (BG-14) or of a line (BG-26)."""
    return element(
        "BillingSpecifiedPeriod", date_element("StartDateTime", first_day), date_element("EndDateTime", last_day)
    )


def amount(name: str, cents: int) -> Element:
    """Make an element of an amount, without its currency: CII says that once for the document."""
    return element(name, text=cents_text(cents))


def referenced(name: str, number: str, issue_date: str = "") -> Element:
    """Make a reference to a document: its number, and when it was issued."""
    dated = date_element("FormattedIssueDateTime", issue_date, qualified=True) if issue_date else None
    return element(name, element("IssuerAssignedID", text=number), dated)
