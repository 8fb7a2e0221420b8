"""Lines in CII (BG-25).

What belongs here: quantity, unit, price and base quantity of each kind of line, so that
``quantity x price / base quantity`` is exactly what the line says before it is rounded.

- tokens: whole tokens (C62), priced by the million: pico-euros per token are micro-euros per million, so a price
  never has more than the six decimals that BR-FR-DEC-03 allows.
- audio: whole minutes (MIN), priced by the minute where six decimals hold that price, else by the million of them.
- credit: one piece. Where it is drawn, minus one: a price may not be negative (BR-27), a quantity may.
"""

from typing import Final

from proxy.billing.documents.amounts import cents_text, decimal_text, rate_text
from proxy.billing.documents.elements import Element, amount, element, optional, period
from proxy.billing.documents.labels import usage_text
from proxy.billing.documents.mentions import line_note, line_title
from proxy.core.invoicing.document import Invoice, Line, UsageItem
from proxy.core.usage import UsageType

MILLION: Final = 1_000_000
PIECE: Final = "C62"
MINUTE: Final = "MIN"


def line_element(line: Line, invoice: Invoice) -> Element:
    """Make a line."""
    price, base, unit = price_of(line)
    return element(
        "IncludedSupplyChainTradeLineItem",
        _heading(line, invoice),
        _product(line, invoice),
        element(
            "SpecifiedLineTradeAgreement",
            element(
                "NetPriceProductTradePrice",
                element("ChargeAmount", text=price),
                element("BasisQuantity", text=str(base), unitCode=unit),
            ),
        ),
        element("SpecifiedLineTradeDelivery", element("BilledQuantity", text=str(line.quantity), unitCode=unit)),
        element(
            "SpecifiedLineTradeSettlement",
            element(
                "ApplicableTradeTax",
                element("TypeCode", text="VAT"),
                element("CategoryCode", text=invoice.vat.category),
                element("RateApplicablePercent", text=rate_text(invoice.vat.rate_bp)),
            ),
            period(line.first_day, line.last_day),
            element("SpecifiedTradeSettlementLineMonetarySummation", amount("LineTotalAmount", line.net_cents)),
        ),
    )


def price_of(line: Line) -> tuple[str, int, str]:
    """Return price in euros (BT-146), the quantity that it is for (BT-149), and the unit (BT-130) of a line."""
    if line.usage is None:
        assert abs(line.quantity) == 1, "credit is one piece"
        return cents_text(abs(line.net_cents)), 1, PIECE
    price_pico = line.usage.unit_price_pico
    if line.usage.usage_type is not UsageType.AUDIO_MINUTES:
        return decimal_text(price_pico, 6), MILLION, PIECE
    micro, finer = divmod(price_pico, MILLION)
    return (decimal_text(price_pico, 6), MILLION, MINUTE) if finer else (decimal_text(micro, 6), 1, MINUTE)


def _heading(line: Line, invoice: Invoice) -> Element:
    """Make its number and its note (BT-126, BT-127)."""
    note = optional("Content", line_note(line, invoice.buyer.language))
    return element(
        "AssociatedDocumentLineDocument",
        element("LineID", text=str(line.number)),
        element("IncludedNote", note) if note is not None else None,
    )


def _product(line: Line, invoice: Invoice) -> Element:
    """Make what was supplied: a name and a description for people, attributes for machines (BG-31, BG-32)."""
    language = invoice.buyer.language
    return element(
        "SpecifiedTradeProduct",
        element("Name", text=line_title(line, language)),
        element("Description", text=usage_text(line, language)) if line.usage is not None else None,
        *(_attributes(line.usage) if line.usage is not None else ()),
    )


def _attributes(item: UsageItem) -> list[Element]:
    """Make the attributes of usage, in the ledger's own words."""
    values = {
        "model": item.model,
        "usage_type": item.usage_type.value,
        "tariff_class": item.tariff_class.value,
        "price_version": item.price_version,
    }
    return [
        element("ApplicableProductCharacteristic", element("Description", text=name), element("Value", text=value))
        for name, value in values.items()
    ]
