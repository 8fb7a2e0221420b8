"""A FOCUS file says what the ledger and the documents say: nothing twice, nothing left out, to the last digit."""

import io
from decimal import Decimal

import msgspec
import pytest
from sqlalchemy import update

from proxy.billing.exports.focus import write_focus
from proxy.billing.exports.focus_columns import COLUMNS
from proxy.billing.exports.focus_rows import payable_cents
from proxy.billing.exports.request import ExportRefusedError
from proxy.core.invoicing.crediting import Part
from proxy.core.invoicing.terms import DrawnCredit
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger import issued
from proxy.ledger.errors import DamagedError
from proxy.ledger.invoice_schema import invoices
from proxy.ledger.schema import rollups_daily
from tests.billing.exports.company import GERMAN, Company
from tests.billing.exports.focus_reading import by, cents, pico, rows_of, total
from tests.support.tampering import unguard

INPUT, OUTPUT, MINUTES = UsageType.INPUT, UsageType.OUTPUT, UsageType.AUDIO_MINUTES
BOTH = pytest.mark.parametrize("drawn_credit", list(DrawnCredit))


@pytest.fixture
def company(database):
    made = Company(database)
    made.it_is("2026-11-05")
    return made


async def export(company, month, account=None):
    return rows_of(await company.export(write_focus, month, account))


def of_document(rows, document):
    return [row for row in rows if row["InvoiceId"] == document.number]


async def test_usage_is_told_by_day_item_and_price(company):
    acme = await company.account("acme")
    await company.uses(acme, "2026-10-03", (INPUT, 15), (OUTPUT, 42))
    await company.uses(acme, "2026-10-03", (INPUT, 5))
    await company.uses(acme, "2026-10-04", (INPUT, 1), tariff_class=TariffClass.BATCH)
    await company.uses(acme, "2026-10-04", (INPUT, 2), version="2026-02")
    await company.uses(acme, "2026-10-04", (MINUTES, 3), model="whisper-large-v3")
    content = await company.export(write_focus, "2026-10")
    assert content.startswith(",".join(COLUMNS).encode() + b"\r\n")
    rows = rows_of(content)
    told = [
        (row["ChargePeriodStart"][:10], row["SkuPriceId"], row["ConsumedQuantity"], row["ConsumedUnit"]) for row in rows
    ]
    # The first instant of a day in Paris is the evening before in UTC.
    assert told == [
        ("2026-10-02", "gpt-oss:120b/input/standard/2026-01", "20.0", "Tokens"),
        ("2026-10-02", "gpt-oss:120b/output/standard/2026-01", "42.0", "Tokens"),
        ("2026-10-03", "gpt-oss:120b/input/batch/2026-01", "1.0", "Tokens"),
        ("2026-10-03", "gpt-oss:120b/input/standard/2026-02", "2.0", "Tokens"),
        ("2026-10-03", "whisper-large-v3/audio_minutes/standard/2026-01", "3.0", "Minutes"),
    ]
    assert rows[0] == {
        "BilledCost": "0.000036000000",
        "BillingAccountId": acme.id,
        "BillingAccountName": "acme",
        "BillingCurrency": "EUR",
        "BillingPeriodEnd": "2026-10-31T23:00:00Z",
        "BillingPeriodStart": "2026-09-30T22:00:00Z",
        "ChargeCategory": "Usage",
        "ChargeClass": "",
        "ChargeDescription": "gpt-oss:120b, input tokens, standard",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": "2026-10-03T22:00:00Z",
        "ChargePeriodStart": "2026-10-02T22:00:00Z",
        "CommitmentDiscountStatus": "",
        "ConsumedQuantity": "20.0",
        "ConsumedUnit": "Tokens",
        "ContractedCost": "0.000036000000",
        "ContractedUnitPrice": "1.800000",
        "EffectiveCost": "0.000036000000",
        "InvoiceId": "",
        "InvoiceIssuerName": "Tollgate Démonstration",
        "ListCost": "0.000036000000",
        "ListUnitPrice": "1.800000",
        "PricingCategory": "Standard",
        "PricingCurrency": "EUR",
        "PricingCurrencyContractedUnitPrice": "1.800000",
        "PricingCurrencyEffectiveCost": "0.000036000000",
        "PricingCurrencyListUnitPrice": "1.800000",
        "PricingQuantity": "0.000020",
        "PricingUnit": "1000000 Tokens",
        "ProviderName": "Tollgate Démonstration",
        "PublisherName": "Tollgate Démonstration",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Model Inference",
        "ServiceSubcategory": "Generative AI",
        "SkuId": "gpt-oss:120b/input",
        "SkuMeter": "Input Tokens",
        "SkuPriceDetails": '{"x_Model":"gpt-oss:120b","x_UsageType":"input","x_TariffClass":"standard",'
        '"x_PriceVersion":"2026-01"}',
        "SkuPriceId": "gpt-oss:120b/input/standard/2026-01",
        "x_InvoiceLine": "",
    }


async def test_days_are_the_accounts_own_and_as_long_as_they_are(company):
    paris, york = await company.account("paris"), await company.account("york", timezone="America/New_York")
    await company.uses(paris, "2026-10-25", (INPUT, 1))
    await company.uses(york, "2026-10-25", (INPUT, 1))
    periods = {
        row["BillingAccountName"]: (row["ChargePeriodStart"], row["ChargePeriodEnd"])
        for row in await export(company, "2026-10")
    }
    assert periods == {
        "paris": ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),  # 25 hours
        "york": ("2026-10-25T04:00:00Z", "2026-10-26T04:00:00Z"),
    }


async def test_rows_of_an_invoice_add_up_to_it_and_those_of_a_line_to_its_amount(company):
    acme = await company.account("acme")
    for day in range(1, 29):
        await company.uses(acme, f"2026-10-{day:02}", (INPUT, 1_234_567 * day), (OUTPUT, 7_777 + day))
    invoice = await company.invoice(acme, "2026-10")
    rows = await export(company, "2026-10")
    assert of_document(rows, invoice) == rows
    assert total(rows) == cents(invoice.due_cents) == cents(invoice.gross_cents)
    assert total(rows) != pico(invoice.exact_pico)
    lines = by(rows, "x_InvoiceLine")
    for line in invoice.lines:
        assert total(lines[str(line.number),]) == cents(line.net_cents)
    assert {row["ChargeCategory"] for row in lines["1",]} == {"Usage", "Adjustment"}
    assert len(lines["1",]) == 29
    (tax,) = lines["",]
    assert (tax["ChargeCategory"], tax["BilledCost"]) == ("Tax", f"{cents(invoice.vat.vat_cents):.12f}")


async def test_a_price_times_its_quantity_is_the_cost_in_every_row(company):
    acme = await company.account("acme")
    await company.uses(acme, "2026-10-01", (INPUT, 987_654_321_987), (MINUTES, 7), (OUTPUT, 1))
    await company.buys(acme, 12_345, "PO 1")
    await company.deposit(acme, "PO 1")
    await company.invoice(acme, "2026-10")
    priced = [
        row for row in await export(company, "2026-10") + await export(company, "2026-11") if row["ListUnitPrice"]
    ]
    assert {row["PricingUnit"] for row in priced} == {"1000000 Tokens", "Minutes", "EUR"}
    for row in priced:
        cost = Decimal(row["ListUnitPrice"]) * Decimal(row["PricingQuantity"])
        assert cost == Decimal(row["ListCost"]) == Decimal(row["ContractedCost"]) == Decimal(row["BilledCost"])


async def test_reverse_charge_has_no_tax_row(company):
    buyer = await company.account("müller", GERMAN)
    await company.uses(buyer, "2026-10-01", (OUTPUT, 1_000_000))
    invoice = await company.invoice(buyer, "2026-10")
    rows = await export(company, "2026-10")
    assert {row["ChargeCategory"] for row in rows} == {"Usage"}
    assert total(rows) == cents(invoice.due_cents) == 8


async def test_what_comes_late_is_open_until_a_later_invoice_carries_it(company):
    acme = await company.account("acme")
    await company.uses(acme, "2026-10-10", (OUTPUT, 1_000_000))
    october = await company.invoice(acme, "2026-10")
    before = of_document(await export(company, "2026-10"), october)
    await company.uses(acme, "2026-10-10", (OUTPUT, 500_000))
    await company.uses(acme, "2026-10-31", (INPUT, 3))
    rows = await export(company, "2026-10")
    assert of_document(rows, october) == before
    late = [row for row in rows if not row["InvoiceId"]]
    assert [(row["ConsumedQuantity"], row["ChargeClass"]) for row in late] == [("500000.0", ""), ("3.0", "")]

    await company.uses(acme, "2026-11-02", (OUTPUT, 250_000))
    company.it_is("2026-12-05")
    november = await company.invoice(acme, "2026-11")
    assert await export(company, "2026-10") == before
    rows = await export(company, "2026-11")
    assert total(rows) == cents(november.due_cents)
    told = [(row["ChargePeriodStart"][:10], row["ConsumedQuantity"], row["ChargeClass"]) for row in rows]
    assert [each for each in told if each[1]] == [
        ("2026-11-01", "250000.0", ""),
        ("2026-10-09", "500000.0", "Correction"),
        ("2026-10-30", "3.0", "Correction"),
    ]
    assert {row["BillingPeriodStart"] for row in rows} == {"2026-10-31T23:00:00Z"}


async def test_a_cancelled_invoice_stays_and_is_taken_back_when_that_was_done(company):
    acme = await company.account("acme")
    await company.uses(acme, "2026-10-10", (OUTPUT, 1_000_001))
    first = await company.invoice(acme, "2026-10")
    company.it_is("2026-12-02")
    note = await company.credit_note(first.number)
    await company.uses(acme, "2026-10-11", (OUTPUT, 9))
    rows = await export(company, "2026-10")
    assert total(of_document(rows, first)) == cents(first.due_cents)
    assert sorted(row["ConsumedQuantity"] for row in rows if not row["InvoiceId"]) == ["1000001.0", "9.0"]

    taken_back = await export(company, "2026-12")
    assert {row["InvoiceId"] for row in taken_back} == {note.number}
    assert {row["ChargeClass"] for row in taken_back} == {"Correction"}
    assert total(taken_back) == -cents(first.due_cents) == cents(payable_cents(note))
    assert total(taken_back, "EffectiveCost") == -total(of_document(rows, first), "EffectiveCost")

    second = await company.invoice(acme, "2026-10")
    await company.uses(acme, "2026-10-11", (OUTPUT, 3))
    rows = await export(company, "2026-10")
    assert {row["InvoiceId"] for row in rows} == {first.number, second.number, ""}
    assert total(of_document(rows, first)) == cents(first.due_cents)
    assert total(of_document(rows, second)) == cents(second.due_cents)
    assert [row["ConsumedQuantity"] for row in rows if not row["InvoiceId"]] == ["3.0"]


async def test_a_credit_note_in_part_takes_a_part_of_a_line_back(company):
    acme = await company.account("acme")
    await company.uses(acme, "2026-10-10", (OUTPUT, 1_000_001), (INPUT, 77))
    invoice = await company.invoice(acme, "2026-10")
    note = await company.credit_note(invoice.number, Part(2, 333_333))
    rows = await export(company, "2026-11")
    assert total(rows) == -cents(note.due_cents)
    assert [row["ConsumedQuantity"] for row in rows] == ["-333333.0", "", ""]
    assert [row["ChargeCategory"] for row in rows] == ["Usage", "Adjustment", "Tax"]
    assert rows[0]["ListCost"] == "-2.666664000000"


@BOTH
async def test_credit_costs_when_it_is_used_and_is_billed_when_it_is_bought(database, drawn_credit):
    company = Company(database, drawn_credit)
    company.it_is("2026-10-02")
    acme = await company.account("acme")
    await company.buys(acme, 1_000, "PO 1")
    await company.buys(acme, 500, "PO 2")
    await company.uses(acme, "2026-10-10", (OUTPUT, 3_000_000))  # 24 euros, of which credit pays for 15
    deposits = [await company.deposit(acme, "PO 1"), await company.deposit(acme, "PO 2")]
    company.it_is("2026-11-05")
    invoice = await company.invoice(acme, "2026-10")
    assert (invoice.due_cents, invoice.paid_cents) == (1_080, 0 if drawn_credit is DrawnCredit.DEPOSIT_LINE else 1_800)
    rows = await export(company, "2026-10")
    assert total(of_document(rows, invoice)) == cents(invoice.due_cents)
    for deposit in deposits:
        bought = of_document(rows, deposit)
        assert [row["ChargeCategory"] for row in bought] == ["Purchase", "Tax"]
        assert total(bought) == cents(deposit.gross_cents)
        assert total(bought, "EffectiveCost") == 0
    drawn = [row for row in rows if row["ChargeCategory"] == "Credit"]
    assert sorted(row["BilledCost"] for row in drawn) == ["-10.000000000000", "-5.000000000000"]
    assert {row["EffectiveCost"] for row in drawn} == {"0.000000000000"}
    # All that was ever paid is what all that was used has cost, VAT included.
    assert total(rows) == total(rows, "EffectiveCost") == Decimal("28.80")
    taxes = total((row for row in rows if row["ChargeCategory"] == "Tax"), "EffectiveCost")
    assert taxes == Decimal("4.80")


@BOTH
async def test_an_invoice_that_credit_covers_asks_for_nothing_and_costs_all_the_same(database, drawn_credit):
    company = Company(database, drawn_credit)
    company.it_is("2026-10-02")
    acme = await company.account("acme")
    await company.buys(acme, 5_000, "PO 1")
    await company.uses(acme, "2026-10-10", (OUTPUT, 1_000_001))
    company.it_is("2026-11-05")
    invoice = await company.invoice(acme, "2026-10")
    rows = of_document(await export(company, "2026-10"), invoice)
    assert invoice.due_cents == 0 == total(rows)
    assert total(rows, "EffectiveCost") == Decimal("9.60")
    note = await company.credit_note(invoice.number)
    assert total(of_document(await export(company, "2026-11"), note), "EffectiveCost") == Decimal("-9.60")


async def test_one_account_can_be_asked_for(company):
    acme, other = await company.account("acme"), await company.account("other")
    for account in (acme, other):
        await company.uses(account, "2026-10-10", (OUTPUT, 1))
    assert {row["BillingAccountId"] for row in await export(company, "2026-10", acme)} == {acme.id}


async def test_more_accounts_than_are_read_at_once_come_in_order(company, monkeypatch):
    monkeypatch.setattr(issued, "BATCH", 2)
    accounts = [await company.account(f"a{number}") for number in range(5)]
    told, at_once, read_days = [], [], issued._read_days

    async def read(connection, month, ids):
        at_once.append(len(ids))
        return await read_days(connection, month, ids)

    monkeypatch.setattr(issued, "_read_days", read)
    for account in accounts:
        await company.uses(account, "2026-10-10", (OUTPUT, 1))
    request = msgspec.structs.replace(company.request("2026-10"), advanced=lambda done, all_: told.append((done, all_)))
    out = io.BytesIO()
    written = await write_focus(request, out)
    assert [row["BillingAccountId"] for row in rows_of(out.getvalue())] == sorted(each.id for each in accounts)
    assert told == [(done, 5) for done in range(1, 6)]
    assert at_once == [2, 2, 1]
    assert (written.rows, written.total_pico) == (5, 40_000_000)


async def test_a_month_without_anything_has_only_its_columns(company):
    assert await company.export(write_focus, "2026-10") == ",".join(COLUMNS).encode() + b"\r\n"


async def test_without_a_seller_there_is_no_file(company):
    out = io.BytesIO()
    with pytest.raises(ExportRefusedError, match=r"seller\.yaml"):
        await write_focus(msgspec.structs.replace(company.request("2026-10"), seller=None), out)
    assert out.getvalue() == b""


@pytest.mark.parametrize("quantity", [41, 43])
async def test_where_the_ledger_no_longer_says_what_an_invoice_says_there_is_no_file(company, database, quantity):
    acme = await company.account("acme")
    await company.uses(acme, "2026-10-10", (OUTPUT, 42))
    invoice = await company.invoice(acme, "2026-10")
    await unguard(database, "rollups_daily")
    async with database.write() as connection:
        changed = {"quantity": quantity, "cost_pico": quantity * 8_000_000}
        await connection.execute(update(rollups_daily).values(changed))
    out = io.BytesIO()
    with pytest.raises(DamagedError, match=invoice.number):
        await write_focus(company.request("2026-10"), out)
    assert out.getvalue() == b""


async def test_a_cost_that_is_no_quantity_times_a_price_makes_no_file(company, database):
    acme = await company.account("acme")
    await company.uses(acme, "2026-10-10", (OUTPUT, 42))
    await unguard(database, "rollups_daily")
    async with database.write() as connection:
        await connection.execute(update(rollups_daily).values(cost_pico=1))
    with pytest.raises(DamagedError, match="42 of output"):
        await export(company, "2026-10")


async def test_rollups_that_are_less_than_what_came_late_make_no_file(company, database):
    acme = await company.account("acme")
    await company.uses(acme, "2026-10-10", (OUTPUT, 42))
    await company.invoice(acme, "2026-10")
    await company.uses(acme, "2026-10-10", (OUTPUT, 42))
    await unguard(database, "rollups_daily")
    async with database.write() as connection:
        await connection.execute(update(rollups_daily).values(quantity=41, cost_pico=41 * 8_000_000))
    with pytest.raises(DamagedError, match="rollups"):
        await export(company, "2026-10")


async def test_a_document_that_was_changed_makes_no_file(company, database):
    acme = await company.account("acme")
    await company.uses(acme, "2026-10-10", (OUTPUT, 42))
    await company.invoice(acme, "2026-10")
    await unguard(database, "invoices")
    async with database.write() as connection:
        await connection.execute(update(invoices).values(document=invoices.c.document + " "))
    with pytest.raises(DamagedError):
        await export(company, "2026-10")
