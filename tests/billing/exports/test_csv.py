"""``csv`` and ``csv-fr``, read back by Python's csv module."""

import csv
import io
from decimal import Decimal

import pytest

from proxy.billing.exports.formulas import harmless
from proxy.core.money import euros_text, pico_from_euros
from proxy.ledger.store import Ledger
from tests.billing.exports.month import NAMES, TYPES, export, fill, total_pico, used
from tests.ledger.support import entry

HEADER = (
    "account,account_id,month,day,call_id,admitted_at,settled_at,key_id,tier,endpoint,model,tariff_class,outcome,"
    "streamed,upstream,price_version,link,input_quantity,input_source,input_cost_eur,cached_input_quantity,"
    "cached_input_source,cached_input_cost_eur,output_quantity,output_source,output_cost_eur,reasoning_quantity,"
    "reasoning_source,reasoning_cost_eur,rerank_quantity,rerank_source,rerank_cost_eur,audio_minutes_quantity,"
    "audio_minutes_source,audio_minutes_cost_eur,cost_eur"
)


def read(file: bytes, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.decode(), newline=""), delimiter=delimiter, strict=True))


def plain(text: str) -> str:
    """Return what a cell was before it was made harmless, as the documents say."""
    return text[1:] if text.startswith("'") and harmless(text[1:]) == text else text


async def test_every_call_is_a_line_and_the_amounts_are_exact(database):
    names, made = await fill(database)
    lines = read(await export(database, "csv"))
    assert [line["call_id"] for line in lines] == [one.call_id for one in made]
    assert sum(pico_from_euros(line["cost_eur"]) for line in lines) == total_pico(made)
    for line, one in zip(lines, made, strict=True):
        assert plain(line["account"]) == names[one.account_id]
        assert plain(line["model"]) == one.model
        assert line["cost_eur"] == euros_text(one.charge.total_pico)
        assert line["streamed"] == str(one.streamed).lower()
        facts = ("account_id", "month", "day", "key_id", "tier", "endpoint", "tariff_class", "outcome", "upstream")
        assert [line[fact] for fact in facts] == [str(getattr(one, fact)) for fact in facts]
        assert line["price_version"] == one.charge.price_version
        assert int(line["link"]) >= 1
        for kind in TYPES:
            quantity, source, cost_pico = used(one).get(kind, (0, "", 0))
            found = [line[f"{kind}_{what}"] for what in ("quantity", "source", "cost_eur")]
            assert found == [str(quantity), source, euros_text(cost_pico)]


async def test_it_is_what_rfc_4180_says_in_utf_8(database):
    await fill(database)
    file = await export(database, "csv")
    head, *lines = file.decode("utf-8").split("\r\n")
    assert head == HEADER
    assert lines[-1] == ""
    assert b"\n" not in file.replace(b"\r\n", b"")
    assert '"semi;colon, and ""quotes"""' in file.decode()


async def test_times_are_utc_to_the_millisecond(database):
    await Ledger(database).insert([entry(admitted_ms=1_795_518_000_007, settled_ms=1_795_518_059_999)])
    (line,) = read(await export(database, "csv"))
    assert line["admitted_at"] == "2026-11-24T11:00:00.007Z"
    assert line["settled_at"] == "2026-11-24T11:00:59.999Z"


@pytest.mark.parametrize("name", ["csv", "csv-fr"])
async def test_no_cell_can_be_run_by_a_spreadsheet(database, name):
    await fill(database)
    lines = read((await export(database, name)).removeprefix("\ufeff".encode()), "," if name == "csv" else ";")
    for line in lines:
        assert not any(
            cell.strip(" \t\r\n'")[:1] in "=+-@＝＋－＠" and cell[:1] != "'" for cell in line.values() if cell
        )
    assert {plain(line["account"]) for line in lines} == {*NAMES, "acc_of_nobody"}


def test_what_is_made_harmless_can_be_told_from_what_was_so():
    texts = ["=1", "'=1", "''=1", " =1", "' =1", "\t=1", "'\tx", "\tx", "acme", "'acme", "a=1", "-", "＋1"]
    assert len({harmless(text) for text in texts}) == len(texts)
    assert [plain(harmless(text)) for text in texts] == texts
    assert harmless("acme") == "acme"
    assert harmless("a=1") == "a=1"


async def test_a_french_excel_reads_amounts_flags_and_times(database):
    _, made = await fill(database)
    file = await export(database, "csv-fr")
    assert file.startswith(b"\xef\xbb\xbfaccount;account_id;")
    lines = read(file.removeprefix(b"\xef\xbb\xbf"), ";")
    assert sum(Decimal(line["cost_eur"].replace(",", ".")) for line in lines) * 10**12 == total_pico(made)
    assert all("." not in line["cost_eur"] and "," in line["cost_eur"] for line in lines)
    assert {line["streamed"] for line in lines} == {"VRAI", "FAUX"}
    assert all(len(line["admitted_at"]) == len("2026-11-24 11:00:00") for line in lines)


@pytest.mark.parametrize("name", ["csv", "csv-fr"])
async def test_the_same_month_is_the_same_file(database, name):
    await fill(database)
    assert await export(database, name) == await export(database, name)


async def test_of_a_month_without_calls_the_header_is_there(database):
    assert await export(database, "csv") == f"{HEADER}\r\n".encode()
    assert await export(database, "csv-fr") == ("\ufeff" + HEADER.replace(",", ";") + "\r\n").encode()


async def test_of_one_account_there_are_its_calls_alone(database):
    _, made = await fill(database)
    lines = read(await export(database, "csv", made[0].account_id))
    assert {line["account_id"] for line in lines} == {made[0].account_id}
    assert len(lines) == sum(one.account_id == made[0].account_id for one in made)
