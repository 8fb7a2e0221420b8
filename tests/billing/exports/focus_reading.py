"""Reads FOCUS files as a FinOps tool would: by the names of columns, with exact decimals, and strictly.

What is checked of a row is written from the specification, not from the writer: what may be null and when, which values
are allowed, how numbers and times are written, and that prices times quantities are costs. The FinOps Foundation's
validator looks at less: it multiplies in floats only where ChargeClass is not null, and skips most allowed values.
"""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal

Row = dict[str, str]


NEVER_NULL = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingCurrency",
    "PricingCurrencyEffectiveCost",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
]
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"", "Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"", "Standard", "Dynamic", "Committed", "Other"},
    "ServiceCategory": {"AI and Machine Learning"},
    "ServiceSubcategory": {"Generative AI"},
    "BillingCurrency": {"EUR"},
    "PricingCurrency": {"EUR"},
    "ConsumedUnit": {"", "Tokens", "Minutes"},
}
PRICED = [
    "ContractedUnitPrice",
    "ListUnitPrice",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "SkuId",
    "SkuMeter",
    "SkuPriceId",
    "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyListUnitPrice",
]
COSTS = ["BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "PricingCurrencyEffectiveCost"]
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+")
INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def rows_of(content: bytes) -> list[Row]:
    """Return the rows of a file, each of which has been checked."""
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))
    for row in rows:
        check(row)
    return rows


def check(row: Row) -> None:
    assert None not in row
    assert all(row[column] for column in NEVER_NULL), row
    for column, values in ALLOWED.items():
        assert row[column] in values, (column, row)
    for column in ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"):
        assert INSTANT.fullmatch(row[column]), row
    assert row["BillingPeriodStart"] < row["BillingPeriodEnd"]
    assert row["ChargePeriodStart"] < row["ChargePeriodEnd"]
    for column in (*COSTS, "ConsumedQuantity", "ContractedUnitPrice", "ListUnitPrice", "PricingQuantity"):
        assert not row[column] or NUMBER.fullmatch(row[column]), (column, row)
    is_usage = row["ChargeCategory"] == "Usage"
    assert bool(row["ConsumedQuantity"]) == bool(row["ConsumedUnit"]) == is_usage, row
    assert (row["ChargeFrequency"] == "Usage-Based") == is_usage, row
    for column in PRICED:
        assert bool(row[column]) == (is_usage or row["ChargeCategory"] == "Purchase"), (column, row)
    if is_usage:
        assert set(json.loads(row["SkuPriceDetails"])) == {"x_Model", "x_UsageType", "x_TariffClass", "x_PriceVersion"}
        assert row["SkuPriceId"].startswith(row["SkuId"] + "/")
    else:
        assert not row["SkuPriceDetails"]
    if row["ListUnitPrice"]:
        for price, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
            assert Decimal(row[price]) >= 0
            assert Decimal(row[price]) * Decimal(row["PricingQuantity"]) == Decimal(row[cost]), row
    if row["ChargeCategory"] == "Purchase":
        assert Decimal(row["EffectiveCost"]) == 0
    if row["ChargeCategory"] in ("Credit", "Adjustment"):
        assert row["ListCost"] == row["ContractedCost"] == row["BilledCost"]


def total(rows: Iterable[Row], column: str = "BilledCost") -> Decimal:
    return sum((Decimal(row[column]) for row in rows), Decimal())


def by(rows: Iterable[Row], *columns: str) -> dict[tuple[str, ...], list[Row]]:
    found: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[column] for column in columns)].append(row)
    return dict(found)


def cents(amount: int) -> Decimal:
    return Decimal(amount) / 100


def pico(amount: int) -> Decimal:
    return Decimal(amount).scaleb(-12)
