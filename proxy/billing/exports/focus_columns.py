"""A row of a FOCUS file: its columns, and how their values are written.

What belongs here: names, order and formats, by the FinOps Open Cost and Usage Specification 1.2 (focus.finops.org),
"Cost and Usage" dataset. What does not: which rows there are (focus_rows.py). docs/focus.md says what a column holds.

Columns are in the order of the alphabet, our own (``x_``) at the end (ColumnHandling). Amounts are decimals with a
point and no exponent (NumericFormat), exact to a pico-euro; times are UTC (DateTimeFormat); null is an empty field.
"""

from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final

import msgspec

from proxy.core.invoicing.document import UsageItem
from proxy.core.money import PICO_PER_EURO
from proxy.core.usage import UsageType

MILLION: Final = 1_000_000

COLUMNS: Final = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "CommitmentDiscountStatus",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceId",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingCurrency",
    "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
    "x_InvoiceLine",
)

_CURRENCY: Final = "EUR"
_SERVICE: Final = ("AI and Machine Learning", "Model Inference", "Generative AI")
_STANDARD: Final = "Standard"
_METERS: Final = {
    UsageType.INPUT: "Input Tokens",
    UsageType.CACHED_INPUT: "Cached Input Tokens",
    UsageType.OUTPUT: "Output Tokens",
    UsageType.REASONING: "Reasoning Tokens",
    UsageType.RERANK: "Rerank Tokens",
    UsageType.AUDIO_MINUTES: "Audio Minutes",
}
_CREDIT_SKU: Final = "prepaid-credit"

Period = tuple[int, int]
"""From, included, and until, excluded: Unix milliseconds, whole seconds."""


class ChargeCategory(StrEnum):
    """What a row is for; the values are FOCUS's."""

    USAGE = "Usage"
    PURCHASE = "Purchase"
    TAX = "Tax"
    CREDIT = "Credit"
    ADJUSTMENT = "Adjustment"


class FocusRow(msgspec.Struct, frozen=True):
    """A row. What is not said here is the same on every row, or follows.

    Args:
        category: what it is for.
        account_id: who pays.
        account_name: as operators know it.
        billing: the billing period.
        charge: the period of what is charged.
        description: in words.
        billed_pico: pico-euros that its document asks for.
        effective_pico: what it costs once prepaid credit has been spread over what it paid for.
        seller: name of who sells.
        correction: whether it corrects a billing period that was invoiced before.
        invoice_id: number of its document; empty: there is none.
        line: line of it; 0: it is of no line.
        item: what was used; of usage only.
        quantity: units of usage.
    """

    category: ChargeCategory
    account_id: str
    account_name: str
    billing: Period
    charge: Period
    description: str
    billed_pico: int
    effective_pico: int
    seller: str
    correction: bool = False
    invoice_id: str = ""
    line: int = 0
    item: UsageItem | None = None
    quantity: int = 0


def meter(usage_type: UsageType) -> str:
    """Return what a usage type is called."""
    return _METERS[usage_type]


def cells(row: FocusRow) -> tuple[str, ...]:
    """Return a row's fields, in the order of ``COLUMNS``."""
    billed, effective = decimal(row.billed_pico), decimal(row.effective_pico)
    consumed, unit = _consumed(row)
    price, priced, pricing_unit = _priced(row)
    sku_id, sku_meter, details, sku_price_id = _sku(row)
    start, end = map(instant, row.charge)
    return (
        billed,
        row.account_id,
        row.account_name,
        _CURRENCY,
        instant(row.billing[1]),
        instant(row.billing[0]),
        row.category.value,
        "Correction" if row.correction else "",
        row.description,
        "Usage-Based" if row.category is ChargeCategory.USAGE else "One-Time",
        end,
        start,
        "",
        consumed,
        unit,
        billed,
        price,
        effective,
        row.invoice_id,
        row.seller,
        billed,
        price,
        _STANDARD if price else "",
        _CURRENCY,
        price,
        effective,
        price,
        priced,
        pricing_unit,
        row.seller,
        row.seller,
        *_SERVICE,
        sku_id,
        sku_meter,
        details,
        sku_price_id,
        str(row.line or ""),
    )


def decimal(amount: int, scale: int = PICO_PER_EURO) -> str:
    """Return ``amount / scale``, exactly, with as many decimals as the scale has.

    >>> decimal(-363_000_000)
    '-0.000363000000'
    """
    whole, fraction = divmod(abs(amount), scale)
    return f"{'-' if amount < 0 else ''}{whole}.{fraction:0{len(str(scale)) - 1}d}"


@lru_cache(maxsize=1024)
def instant(at_ms: int) -> str:
    """Return a time as ``YYYY-MM-DDTHH:MM:SSZ``."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _consumed(row: FocusRow) -> tuple[str, str]:
    """Return ConsumedQuantity and ConsumedUnit. A quantity is written as the decimal that its column is declared as."""
    if row.item is None:
        return "", ""
    return f"{row.quantity}.0", "Minutes" if row.item.usage_type is UsageType.AUDIO_MINUTES else "Tokens"


def _priced(row: FocusRow) -> tuple[str, str, str]:
    """Return the unit price, PricingQuantity and PricingUnit: their product is the cost, to the last digit."""
    if row.category is ChargeCategory.PURCHASE:
        return "1.000000", decimal(row.billed_pico), _CURRENCY
    if row.item is None:
        return "", "", ""
    if row.item.usage_type is UsageType.AUDIO_MINUTES:
        return decimal(row.item.unit_price_pico), f"{row.quantity}.0", "Minutes"
    # Pico-euros per token are micro-euros per million of them.
    return decimal(row.item.unit_price_pico, MILLION), decimal(row.quantity, MILLION), f"{MILLION} Tokens"


def _sku(row: FocusRow) -> tuple[str, str, str, str]:
    """Return SkuId, SkuMeter, SkuPriceDetails and SkuPriceId."""
    if row.category is ChargeCategory.PURCHASE:
        return _CREDIT_SKU, "Prepaid Credit", "", _CREDIT_SKU
    if row.item is None:
        return "", "", "", ""
    return _sku_of(row.item)


@lru_cache(maxsize=1024)
def _sku_of(item: UsageItem) -> tuple[str, str, str, str]:
    sku_id = f"{item.model}/{item.usage_type.value}"
    details = {
        "x_Model": item.model,
        "x_UsageType": item.usage_type.value,
        "x_TariffClass": item.tariff_class.value,
        "x_PriceVersion": item.price_version,
    }
    price_id = f"{sku_id}/{item.tariff_class.value}/{item.price_version}"
    return sku_id, meter(item.usage_type), msgspec.json.encode(details).decode(), price_id
