"""Numbers and dates of documents.

What belongs here: how a number is written and read, when a document is due, and when a month may be invoiced. What does
not: which number is next (billing/invoices/), and a clock.
"""

import re
from datetime import date, timedelta
from typing import Final, NamedTuple

from proxy.core.calendar import day_bounds_ms, month_after
from proxy.core.invoicing.errors import InvoicingError
from proxy.core.invoicing.terms import InvoicingTerms
from proxy.core.parties import Buyer

_NUMBER: Final = re.compile(r"([A-Z0-9]{1,8})-([0-9]{4})-([0-9]{6}|[1-9][0-9]{6,})")


class Number(NamedTuple):
    """A document's number, taken apart: its series, the year of its issue, and its place in both, from 1."""

    series: str
    year: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.series}-{self.year:04d}-{self.sequence:06d}"


def parse_number(text: str) -> Number:
    """Read a number: ``F-2026-000001``.

    Raises:
        InvoicingError: it is none.
    """
    match = _NUMBER.fullmatch(text)
    if match is None or not int(match.group(3)):
        raise InvoicingError(f"not the number of a document: {text!r}")
    return Number(match.group(1), int(match.group(2)), int(match.group(3)))


def due_date(issue_date: str, buyer: Buyer, terms: InvoicingTerms) -> str:
    """Return when an invoice is to be paid: so many days after its issue, ``YYYY-MM-DD``."""
    days = terms.payment_days if buyer.payment_days is None else buyer.payment_days
    return (date.fromisoformat(issue_date) + timedelta(days=days)).isoformat()


def opens_on(month: str, terms: InvoicingTerms) -> str:
    """Return the first day, where the account is, on which a month may be invoiced.

    The days of grace are whole days after the end of the month: with two of them November opens on 3 December.

    Raises:
        ValueError: not a month.
    """
    first = date.fromisoformat(f"{month_after(month)}-01")
    return (first + timedelta(days=terms.grace_days)).isoformat()


def opens_ms(month: str, timezone: str, terms: InvoicingTerms) -> int:
    """Return the instant from which on a month of an account in a time zone may be invoiced, Unix milliseconds.

    Raises:
        ValueError: not a month, or no such zone.
    """
    return day_bounds_ms(opens_on(month, terms), timezone)[0]
