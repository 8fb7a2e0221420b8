"""The shape of seller.yaml as it is written, and the seller and terms that it becomes.

What belongs here: the meaning of every key (docs/configuration.md is generated from the descriptions). What does not:
checks between its settings (checks.py).
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from proxy.core.invoicing.terms import Bookkeeping, DrawnCredit, InvoicingTerms
from proxy.core.parties import Seller

_TERMS: Final = InvoicingTerms()
_BOOKKEEPING: Final = Bookkeeping()

Line = Annotated[str, Meta(extra={"form": "line"})]
AccountNumber = Annotated[str, Meta(extra={"form": "account_number"})]
Series = Annotated[str, Meta(extra={"form": "series"})]


class AddressEntry(msgspec.Struct, frozen=True):
    """A postal address."""

    lines: Annotated[
        tuple[Line, ...], Meta(min_length=1, max_length=3, description="Street and what comes before it, one to three.")
    ]
    postcode: Annotated[Line, Meta(description="As the post writes it.")]
    city: Annotated[Line, Meta(description="Its name.")]
    country: Annotated[str, Meta(description="ISO 3166-1 code, in capitals.", extra={"form": "country"})]


class BankEntry(msgspec.Struct, frozen=True):
    """Where customers pay to."""

    iban: Annotated[str, Meta(description="The account.", extra={"form": "iban"})]
    bic: Annotated[str, Meta(description="The bank.", extra={"form": "bic"})]
    holder: Annotated[Line, Meta(description="Whose account it is.")]


class SellerEntry(msgspec.Struct, frozen=True):
    """The company that issues invoices, as they name it."""

    name: Annotated[Line, Meta(description="As registered.")]
    legal_form: Annotated[Line, Meta(description="For example `SAS`.")]
    capital: Annotated[Line, Meta(description="Share capital with its currency, as printed: `10 000 EUR`.")]
    siren: Annotated[str, Meta(description="Of the company.", extra={"form": "siren"})]
    siret: Annotated[str, Meta(description="Of the establishment that sells.", extra={"form": "siret"})]
    rcs: Annotated[Line, Meta(description="Where it is registered, as printed: `Paris`.")]
    vat_number: Annotated[str, Meta(description="Its VAT identifier.", extra={"form": "french_vat_number"})]
    address: Annotated[AddressEntry, Meta(description="Its registered office.")]
    email: Annotated[str, Meta(description="For questions about an invoice.", extra={"form": "email"})]
    bank: Annotated[BankEntry, Meta(description="Where it is paid to.")]
    phone: Annotated[str, Meta(description="For questions; left out: none is named.", extra={"form": "phone"})] = ""
    website: Annotated[str, Meta(description="Left out: none is named.", extra={"form": "website"})] = ""
    demonstration: Annotated[
        bool, Meta(description="Whether this is no real company: every document is marked as a specimen.")
    ] = False


class BookkeepingEntry(msgspec.Struct, frozen=True):
    """The sales journal and its accounts (French chart of accounts)."""

    journal: Annotated[str, Meta(description="The journal's code.", extra={"form": "journal"})] = _BOOKKEEPING.journal
    journal_title: Annotated[Line, Meta(description="The journal's name.")] = _BOOKKEEPING.journal_title
    customers: Annotated[AccountNumber, Meta(description="What customers owe.")] = _BOOKKEEPING.customers
    advances: Annotated[AccountNumber, Meta(description="Advances received: credit that was bought.")] = (
        _BOOKKEEPING.advances
    )
    sales: Annotated[AccountNumber, Meta(description="Services sold.")] = _BOOKKEEPING.sales
    vat: Annotated[AccountNumber, Meta(description="VAT collected.")] = _BOOKKEEPING.vat


class TermsEntry(msgspec.Struct, frozen=True):
    """How invoices are made."""

    timezone: Annotated[
        str, Meta(description="Where the seller is: dates of issue are dates there.", extra={"form": "timezone"})
    ] = _TERMS.timezone
    grace_days: Annotated[
        int,
        Meta(
            ge=0,
            le=28,
            description="Days after the end of a month before its invoices may be issued: entries are on their way.",
        ),
    ] = _TERMS.grace_days
    payment_days: Annotated[
        int,
        Meta(
            ge=0,
            le=60,
            description="When invoices are due, in days from the date of issue (at most 60: code de commerce, "
            "article L441-10).",
        ),
    ] = _TERMS.payment_days
    late_interest_fr: Annotated[Line, Meta(description="Yearly rate of late payment, as printed in French.")] = (
        _TERMS.late_interest_fr
    )
    late_interest_en: Annotated[Line, Meta(description="The same in English.")] = _TERMS.late_interest_en
    invoice_series: Annotated[Series, Meta(description="What the numbers of invoices begin with.")] = (
        _TERMS.invoice_series
    )
    credit_note_series: Annotated[Series, Meta(description="The same of credit notes.")] = _TERMS.credit_note_series
    deposit_series: Annotated[Series, Meta(description="The same of deposit invoices.")] = _TERMS.deposit_series
    drawn_credit: Annotated[
        DrawnCredit,
        Meta(
            description="How an invoice shows the prepaid credit that it uses. `deposit_line`: as negative lines, so "
            "that VAT is due on the rest; `paid_amount`: as an amount that has been paid, VAT included."
        ),
    ] = _TERMS.drawn_credit
    bookkeeping: Annotated[BookkeepingEntry, Meta(description="The sales journal.")] = BookkeepingEntry()


class SellerFile(msgspec.Struct, frozen=True):
    """Who sells, and on what terms. Without this file no invoices can be issued; everything else works."""

    seller: Annotated[SellerEntry, Meta(description="The company that issues invoices.")]
    terms: Annotated[TermsEntry, Meta(description="How invoices are made.")] = TermsEntry()


def seller_of(file: SellerFile) -> Seller:
    """Return who sells."""
    return msgspec.convert(file.seller, Seller, from_attributes=True)


def invoicing_terms(file: SellerFile) -> InvoicingTerms:
    """Return the terms that it sells on."""
    return msgspec.convert(file.terms, InvoicingTerms, from_attributes=True)
