"""A document: everything that an invoice, a deposit invoice or a credit note says.

What belongs here: frozen values, complete: PDF, XML, JSON, FOCUS rows and the sales journal are made from one
``Invoice`` alone. What does not: making one (drafting.py).

Money on a document is whole cents (``*_cents``); what it is exact to is kept beside it in pico-euros. On a credit note
every amount has the sign that it has on the document which it corrects; that it is given back follows from the kind.
"""

from enum import StrEnum

import msgspec

from proxy.core.parties import Buyer, Seller
from proxy.core.usage import TariffClass, UsageType


class DocumentKind(StrEnum):
    """What a document is (UNTDID 1001: 380, 386, 381)."""

    INVOICE = "invoice"
    DEPOSIT = "deposit"
    CREDIT_NOTE = "credit_note"


class LineKind(StrEnum):
    """What a line is for.

    Attributes:
        USAGE: what was used in the month of the invoice.
        LATE: what was used in an earlier month, and came to the ledger after that month's invoice; one day of it.
        DRAWN: prepaid credit that pays for some of it: negative.
        CREDIT: credit that was bought: the line of a deposit invoice.
    """

    USAGE = "usage"
    LATE = "late"
    DRAWN = "drawn"
    CREDIT = "credit"


class DocumentRef(msgspec.Struct, frozen=True):
    """Another document: its number and date of issue, ``YYYY-MM-DD``."""

    number: str
    issue_date: str


class UsageItem(msgspec.Struct, frozen=True):
    """What a line of usage counts.

    Args:
        model: canonical id.
        usage_type: tokens of a type, or started minutes.
        tariff_class: standard or batch.
        price_version: whose prices.
        unit_price_pico: pico-euros per unit (= micro-euros per million units).
    """

    model: str
    usage_type: UsageType
    tariff_class: TariffClass
    price_version: str
    unit_price_pico: int


class Line(msgspec.Struct, frozen=True):
    """One line.

    Args:
        number: from 1, without a gap.
        kind: what it is for.
        first_day: first day that it is about, ``YYYY-MM-DD``.
        last_day: last day of it.
        quantity: units of usage; -1 where credit is drawn, 1 where it was bought.
        exact_pico: what it is worth exactly: quantity times unit price. Of credit: the same as ``net_cents``.
        net_cents: that, rounded half up. Negative where credit is drawn.
        usage: what it counts; None: it is about credit.
        reference: the operator's name for the purchase of credit; empty on lines of usage.
        deposit: the deposit invoice of the credit that is drawn; None: there is none.
    """

    number: int
    kind: LineKind
    first_day: str
    last_day: str
    quantity: int
    exact_pico: int
    net_cents: int
    usage: UsageItem | None = None
    reference: str = ""
    deposit: DocumentRef | None = None


class Vat(msgspec.Struct, frozen=True):
    """The VAT of a document: one rate, since an account has one.

    Args:
        category: UNTDID 5305: S (a rate), AE (reverse charge), G (export).
        rate_bp: hundredths of a percent.
        base_cents: the sum of the lines.
        vat_cents: the rate of that sum, rounded half up once.
    """

    category: str
    rate_bp: int
    base_cents: int
    vat_cents: int


class DayOfUse(msgspec.Struct, frozen=True):
    """What was used on a day, pico-euros: a bar of the chart."""

    day: str
    cost_pico: int


class ChainMark(msgspec.Struct, frozen=True):
    """How far into an account's month a document reaches, and the head of the chain there (core/chain.py).

    Args:
        month: ``YYYY-MM``.
        after_link: the last link that earlier documents cover; 0: none does.
        link: the last link that this one covers.
        head: SHA-256 in hex; empty: the month has no entries.
    """

    month: str
    after_link: int
    link: int
    head: str


class Invoice(msgspec.Struct, frozen=True):
    """A document, complete.

    Args:
        kind: what it is.
        number: gapless in its series and year; empty on a draft.
        issue_date: ``YYYY-MM-DD`` where the seller is.
        due_date: when it is to be paid.
        account_id: whose.
        account_name: as operators know it.
        tier: its title.
        month: billing month, ``YYYY-MM``; empty on a deposit invoice.
        first_day: first day of the period.
        last_day: last day of it.
        seller: as on the day of issue.
        buyer: as on the day of issue.
        lines: in order.
        net_cents: sum of the lines.
        vat: on that sum.
        gross_cents: net and VAT.
        paid_cents: what has been paid of it before (credit, where it counts as paid; a deposit, whole).
        due_cents: gross less paid.
        exact_pico: what its lines are worth exactly; ``net_cents`` differs by the rounding that it states.
        days: usage by day, of the month of the invoice, each day of it.
        chain: what it covers: its own month first, then earlier ones of which entries came late.
        drawn_cents: credit that it uses, by lot id, whether as lines or as paid.
        lot_id: the lot that a deposit invoice is for; empty otherwise.
        corrects: what a credit note corrects; None otherwise.
        cancels: whether a credit note takes all of it back, so that its entries can be invoiced anew.
        reason: why there is a credit note; empty otherwise.
    """

    kind: DocumentKind
    number: str
    issue_date: str
    due_date: str
    account_id: str
    account_name: str
    tier: str
    month: str
    first_day: str
    last_day: str
    seller: Seller
    buyer: Buyer
    lines: tuple[Line, ...]
    net_cents: int
    vat: Vat
    gross_cents: int
    paid_cents: int
    due_cents: int
    exact_pico: int
    days: tuple[DayOfUse, ...] = ()
    chain: tuple[ChainMark, ...] = ()
    drawn_cents: dict[str, int] = {}
    lot_id: str = ""
    corrects: DocumentRef | None = None
    cancels: bool = False
    reason: str = ""

    @property
    def rounding_pico(self) -> int:
        """What rounding its lines has added, or taken: at most half a cent a line."""
        return self.net_cents * 10**10 - self.exact_pico
