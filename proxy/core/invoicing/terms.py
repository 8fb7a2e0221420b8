"""The terms of a seller: dates, numbers, what happens to credit, and its bookkeeping's accounts.

What belongs here: frozen values. They are made from ``config/seller.yaml`` by ``proxy.settings``.
"""

from enum import StrEnum

import msgspec


class DrawnCredit(StrEnum):
    """How an invoice shows the prepaid credit that it uses.

    Attributes:
        DEPOSIT_LINE: as negative lines, so that VAT is due on the rest (the deposit invoice has borne it).
        PAID_AMOUNT: as an amount that has been paid, VAT included; the lines are left whole.
    """

    DEPOSIT_LINE = "deposit_line"
    PAID_AMOUNT = "paid_amount"


class Bookkeeping(msgspec.Struct, frozen=True):
    """The numbers of accounts in the sales journal (French chart of accounts)."""

    journal: str = "VE"
    journal_title: str = "Ventes"
    customers: str = "411000"
    advances: str = "419100"
    sales: str = "706000"
    vat: str = "445710"


class InvoicingTerms(msgspec.Struct, frozen=True):
    """How invoices are made.

    Args:
        timezone: where the seller is: dates of issue are dates there.
        grace_days: how many days after the end of a month its invoices may be issued: entries are on their way.
        payment_days: when they are due, from the date of issue.
        late_interest: yearly rate of late payment, as printed: ``3 x the legal interest rate``; one text a language.
        invoice_series: what their numbers begin with.
        credit_note_series: the same of credit notes.
        deposit_series: the same of deposit invoices.
        drawn_credit: how credit is shown.
        bookkeeping: numbers of accounts.
    """

    timezone: str = "Europe/Paris"
    grace_days: int = 2
    payment_days: int = 30
    late_interest_fr: str = "trois fois le taux d'intérêt légal"
    late_interest_en: str = "three times the French legal interest rate"
    invoice_series: str = "F"
    credit_note_series: str = "A"
    deposit_series: str = "D"
    drawn_credit: DrawnCredit = DrawnCredit.DEPOSIT_LINE
    bookkeeping: Bookkeeping = Bookkeeping()
