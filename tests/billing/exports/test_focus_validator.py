"""The FinOps Foundation's validator finds nothing wrong with a FOCUS file but what docs/focus.md explains."""

import csv
import io
import re
from pathlib import Path

import msgspec
import pytest

from proxy.billing.exports.focus import write_focus
from proxy.billing.exports.focus_columns import COLUMNS
from proxy.core.invoicing.crediting import Part
from proxy.core.invoicing.terms import DrawnCredit
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.database import Database
from tests.billing.exports.company import GERMAN, SELLER, Company
from tests.billing.exports.focus_reading import by, rows_of
from tests.support.focus_validator import CRITERIA, Verdict, validate

DOCUMENT = Path(__file__).parent.parent.parent.parent / "docs" / "focus.md"
LISTED = re.compile(r"^\| `([A-Za-z]+-[A-Z]-\d{3}-[A-Z])` \|", re.MULTILINE)
BATCH = TariffClass.BATCH
EVERYTHING = [(usage_type, 1_000_003 + place) for place, usage_type in enumerate(UsageType)]


ONE_ENGINE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def a_month(database: Database, drawn_credit: DrawnCredit, name: str = "Imaginaire de Demonstration") -> bytes:
    """November of three accounts, with a row of every kind."""
    company = Company(database, drawn_credit, msgspec.structs.replace(SELLER, name=name))
    company.it_is("2026-10-02")
    acme = await company.account('Acme, "the best"')
    german, york = await company.account("muller", GERMAN), await company.account("york", timezone="America/New_York")
    await company.buys(acme, 2_000, "PO 1")
    for account in (acme, german):
        await company.uses(account, "2026-10-10", *EVERYTHING)
    company.it_is("2026-11-05")
    for account in (acme, german):
        october = await company.invoice(account, "2026-10")
        await company.uses(account, "2026-10-31", (UsageType.OUTPUT, 1_001))
    await company.buys(acme, 100_000, "PO 2")
    deposit = await company.deposit(acme, "PO 2")
    await company.credit_note(october.number, Part(1, 77))
    await company.credit_note(deposit.number, Part(1, 99))
    for account in (acme, german, york):
        for day in ("2026-11-01", "2026-11-02"):
            await company.uses(account, day, *EVERYTHING)
            await company.uses(account, day, (UsageType.INPUT, 999_999), model="gemma3:27b", tariff_class=BATCH)
    company.it_is("2026-12-04")
    for account in (acme, german):
        await company.invoice(account, "2026-11")
    await company.uses(german, "2026-11-30", (UsageType.INPUT, 5))
    return await company.export(write_focus, "2026-11")


def verdict_on(folder: Path, content: bytes) -> Verdict:
    file = folder / "month.csv"
    file.write_bytes(content)
    return validate(file)


@pytest.mark.parametrize("drawn_credit", list(DrawnCredit))
async def test_every_rule_holds_but_those_that_the_document_explains(database, drawn_credit, tmp_path):
    content = await a_month(database, drawn_credit)
    rows = rows_of(content)
    assert by(rows, "ChargeCategory", "ChargeClass").keys() == {
        *((category, "") for category in ("Usage", "Purchase", "Tax", "Credit", "Adjustment")),
        *((category, "Correction") for category in ("Usage", "Adjustment")),
    }
    assert {bool(row["InvoiceId"]) for row in rows} == {True, False}
    verdict = verdict_on(tmp_path, content)
    assert verdict.failed == set(LISTED.findall(DOCUMENT.read_text()))
    assert len(verdict.passed) > 220


@ONE_ENGINE
async def test_names_in_letters_beyond_ascii_are_all_that_it_takes_for_wrong(database, tmp_path):
    verdict = verdict_on(tmp_path, await a_month(database, DrawnCredit.DEPOSIT_LINE, "Démonstration"))
    columns = ("InvoiceIssuerName", "ProviderName", "PublisherName")
    beyond = {f"{column}-C-{rule}-M" for column in columns for rule in ("000", "002")}
    assert verdict.failed == set(LISTED.findall(DOCUMENT.read_text())) | beyond


def test_the_document_names_every_column_and_what_the_validator_is_told():
    text = DOCUMENT.read_text()
    for criterion in CRITERIA:
        assert f"`{criterion}`" in text
    columns = {
        name for line in text.splitlines() if line.startswith("| ") for name in line.split(" | ")[0][2:].split(", ")
    }
    assert set(COLUMNS) <= columns


MISTAKES = [
    ("BilledCost", "", "BilledCost-C-003-M"),
    ("BillingCurrency", "EURO", "BillingCurrency-C-006-M"),
    ("ChargeClass", "Mistake", "ChargeClass-C-005-C"),
    ("ConsumedUnit", "", "ConsumedUnit-C-006-C"),
    ("InvoiceIssuerName", "", "InvoiceIssuerName-C-003-M"),
    ("PricingUnit", "", "PricingUnit-C-006-C"),
    ("ServiceSubcategory", "Magic", "ServiceName-C-008-C"),
    ("SkuId", "", "SkuMeter-C-004-C"),
    ("SkuPriceDetails", "{", "SkuPriceDetails-C-001-M"),
]


@ONE_ENGINE
async def test_the_validator_sees_mistakes(database, tmp_path):
    rows = rows_of(await a_month(database, DrawnCredit.DEPOSIT_LINE))
    usage = [row for row in rows if row["ChargeCategory"] == "Usage" and not row["ChargeClass"]]
    for row, (column, value, _) in zip(usage, MISTAKES, strict=False):
        row[column] = value
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    failed = verdict_on(tmp_path, text.getvalue().encode()).failed
    assert {rule for *_, rule in MISTAKES} <= failed


@ONE_ENGINE
async def test_a_column_that_is_not_there_is_missed(database, tmp_path):
    content = (await a_month(database, DrawnCredit.DEPOSIT_LINE)).replace(b"ServiceCategory", b"x_ServiceCategory", 1)
    assert "CostAndUsage-D-040-M" in verdict_on(tmp_path, content).failed
