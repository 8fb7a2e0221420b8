"""Who sells and who buys, as a document names them.

What belongs here: frozen values. What does not: where they come from (settings/ for the seller, ledger/buyers.py for
buyers), and what is written of them (billing/documents/).
"""

from enum import StrEnum

import msgspec


class Address(msgspec.Struct, frozen=True):
    """A postal address.

    Args:
        lines: street and what comes before it, one to three.
        postcode: as the post writes it.
        city: its name.
        country: ISO 3166-1 alpha-2, upper case.
    """

    lines: tuple[str, ...]
    postcode: str
    city: str
    country: str


class Bank(msgspec.Struct, frozen=True):
    """Where customers pay to: IBAN and BIC without spaces, and whose account it is."""

    iban: str
    bic: str
    holder: str


class Seller(msgspec.Struct, frozen=True):
    """The company that issues invoices.

    Args:
        name: as registered.
        legal_form: for example ``SAS``.
        capital: share capital with its currency, as printed: ``10 000 EUR``.
        siren: nine digits.
        siret: fourteen digits, of the establishment that sells.
        rcs: place of registration, as printed: ``Paris``.
        vat_number: its VAT identifier.
        address: registered office.
        email: for questions about an invoice.
        bank: where it is paid to.
        phone: for questions; may be empty.
        website: may be empty.
        demonstration: whether this is no real company: what it issues is marked as a specimen.
    """

    name: str
    legal_form: str
    capital: str
    siren: str
    siret: str
    rcs: str
    vat_number: str
    address: Address
    email: str
    bank: Bank
    phone: str = ""
    website: str = ""
    demonstration: bool = False


class Language(StrEnum):
    """What a document is written in."""

    FRENCH = "fr"
    ENGLISH = "en"


class VatTreatment(StrEnum):
    """Which VAT an account's invoices bear.

    Attributes:
        FRENCH: French VAT at a rate.
        REVERSE_CHARGE: none: the buyer, a company in another member state, accounts for it.
        EXPORT: none: the buyer is outside the EU.
    """

    FRENCH = "french"
    REVERSE_CHARGE = "reverse_charge"
    EXPORT = "export"


class Buyer(msgspec.Struct, frozen=True):
    """Who an account's invoices are made out to.

    Args:
        name: of the company.
        address: its seat.
        vat: which VAT it bears.
        vat_rate_bp: hundredths of a percent, where it is French; 0 otherwise.
        language: of its documents.
        siren: nine digits; empty outside France.
        siret: fourteen digits, where it wants one named; may be empty.
        vat_number: its VAT identifier; may be empty where it has none (outside the EU).
        email: where invoices go.
        purchase_order: its order, as it wants it named (BT-13); may be empty.
        reference: its own reference, for example a service of a public body (BT-10); may be empty.
        payment_days: when it pays, in days from the date of issue; None: as everybody.
    """

    name: str
    address: Address
    vat: VatTreatment = VatTreatment.FRENCH
    vat_rate_bp: int = 2000
    language: Language = Language.FRENCH
    siren: str = ""
    siret: str = ""
    vat_number: str = ""
    email: str = ""
    purchase_order: str = ""
    reference: str = ""
    payment_days: int | None = None
