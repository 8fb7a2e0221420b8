"""VAT: one rate an account, and one rounding a document.

What belongs here: which category and rate a buyer bears, and the tax of a sum. What does not: what a document says
about it in words (billing/documents/).
"""

from typing import Final

from proxy.core.invoicing.document import Vat
from proxy.core.parties import Buyer, VatTreatment

CATEGORIES: Final = {VatTreatment.FRENCH: "S", VatTreatment.REVERSE_CHARGE: "AE", VatTreatment.EXPORT: "G"}
"""UNTDID 5305, by treatment."""
_BP: Final = 10_000


def vat_on(base_cents: int, buyer: Buyer) -> Vat:
    """Return the VAT that a buyer bears on a sum of lines."""
    rate_bp = buyer.vat_rate_bp if buyer.vat is VatTreatment.FRENCH else 0
    return Vat(CATEGORIES[buyer.vat], rate_bp, base_cents, tax_cents(base_cents, rate_bp))


def tax_cents(base_cents: int, rate_bp: int) -> int:
    """Return a rate (hundredths of a percent) of a sum, rounded half up, halves away from zero."""
    sign = -1 if base_cents < 0 else 1
    return sign * ((abs(base_cents) * rate_bp * 2 + _BP) // (2 * _BP))
