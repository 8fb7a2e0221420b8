"""``parquet``, read back by Arrow."""

import io
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from proxy.billing.exports import entry_files, parquet
from proxy.core.money import PICO_PER_EURO
from proxy.core.usage import UsageType
from proxy.ledger.store import Ledger
from proxy.ledger.streaming import month_stream
from tests.billing.exports.month import TYPES, export, fill, total_pico, used
from tests.ledger.support import entry


def read(file: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(file))


def pico(euros: Decimal) -> int:
    return int(euros * PICO_PER_EURO)


async def test_every_call_is_a_row_and_the_amounts_are_exact(database):
    names, made = await fill(database)
    rows = read(await export(database, "parquet")).to_pylist()
    assert [row["call_id"] for row in rows] == [one.call_id for one in made]
    assert sum(pico(row["cost_eur"]) for row in rows) == total_pico(made)
    for row, one in zip(rows, made, strict=True):
        assert row["account"] == names[one.account_id]
        assert row["day"] == date.fromisoformat(one.day)
        assert row["admitted_at"] == datetime.fromtimestamp(one.admitted_ms / 1000, UTC)
        assert row["settled_at"] == datetime.fromtimestamp(one.settled_ms / 1000, UTC)
        assert row["streamed"] is one.streamed
        assert row["link"] >= 1
        facts = ("account_id", "month", "key_id", "tier", "endpoint", "model", "tariff_class", "outcome", "upstream")
        assert [row[fact] for fact in facts] == [getattr(one, fact) for fact in facts]
        for kind in TYPES:
            quantity, source, cost_pico = used(one).get(kind, (0, None, 0))
            assert (row[f"{kind}_quantity"], row[f"{kind}_source"]) == (quantity, source)
            assert pico(row[f"{kind}_cost_eur"]) == cost_pico


async def test_columns_have_the_types_that_they_are_of(database):
    await fill(database)
    columns = read(await export(database, "parquet")).schema
    euros = [field for field in columns if field.name.endswith("_eur")]
    assert [field.type for field in euros] == [pa.decimal128(38, 12)] * 7
    assert columns.field("admitted_at").type == pa.timestamp("ms", tz="UTC")
    assert columns.field("day").type == pa.date32()
    assert columns.field("input_quantity").type == pa.int64()
    assert [field.name for field in columns if field.nullable] == [f"{kind}_source" for kind in TYPES]


async def test_texts_that_repeat_are_kept_once(database):
    await fill(database)
    group = pq.ParquetFile(io.BytesIO(await export(database, "parquet"))).metadata.row_group(0)
    chunks = {group.column(place).path_in_schema: group.column(place) for place in range(group.num_columns)}
    for name in ("account", "model", "key_id", "tariff_class", "input_source"):
        assert "RLE_DICTIONARY" in chunks[name].encodings
    assert "RLE_DICTIONARY" not in chunks["call_id"].encodings


async def test_a_large_month_is_several_row_groups(database, monkeypatch):
    _, made = await fill(database)
    whole = read(await export(database, "parquet"))
    monkeypatch.setattr(parquet, "GROUP_ROWS", 10)
    monkeypatch.setattr(entry_files, "month_stream", partial(month_stream, rows=4))
    file = await export(database, "parquet")
    groups = pq.ParquetFile(io.BytesIO(file)).metadata
    assert groups.num_row_groups > 3
    assert max(groups.row_group(place).num_rows for place in range(groups.num_row_groups)) < 10 + 4
    assert read(file) == whole
    assert whole.num_rows == len(made)


async def test_amounts_larger_than_a_float_can_bear_keep_every_digit(database):
    one = entry(used=((UsageType.AUDIO_MINUTES, 900_000_001), (UsageType.INPUT, 1)))
    await Ledger(database).insert([one])
    (row,) = read(await export(database, "parquet")).to_pylist()
    assert row["cost_eur"] == Decimal("9000000.010001800000")
    assert pico(row["cost_eur"]) == one.charge.total_pico


async def test_the_same_month_is_the_same_file(database):
    await fill(database)
    assert await export(database, "parquet") == await export(database, "parquet")


async def test_of_a_month_without_calls_the_columns_are_there(database):
    table = read(await export(database, "parquet"))
    assert table.num_rows == 0
    assert table.schema == parquet.schema()
