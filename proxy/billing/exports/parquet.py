"""``parquet``: a row for each call, typed columns, for data platforms.

What belongs here: the schema, and turning blocks into row groups. Euros are DECIMAL(38, 12), exact; times are
timestamps in UTC, days are dates; texts that repeat are dictionary-encoded. Nothing goes through a float.

The file is written from front to back: only the row group that is being filled is in memory.
"""

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from proxy.billing.exports import entry_files
from proxy.billing.exports.request import ExportRequest, Written
from proxy.ledger.streaming import Block

GROUP_ROWS: Final = 100_000
EUROS: Final = pa.decimal128(38, 12)
_PICO: Final = pa.decimal128(19, 0)
_TIME: Final = pa.timestamp("ms", tz="UTC")
_FACTS: Final = {
    "day": pa.date32(),
    "admitted_at": _TIME,
    "settled_at": _TIME,
    "streamed": pa.bool_(),
    "link": pa.int64(),
}
"""What is no text."""
_UNIQUE: Final = "call_id"


def schema() -> pa.Schema:
    """Return the columns: as in the other formats of single calls; a source is null where nothing was used."""
    fields = [pa.field(name, _FACTS.get(name, pa.string()), nullable=False) for name in entry_files.FACTS]
    for kind in entry_files.TYPES:
        fields.append(pa.field(f"{kind.value}_quantity", pa.int64(), nullable=False))
        fields.append(pa.field(f"{kind.value}_source", pa.string()))
        fields.append(pa.field(f"{kind.value}_cost_eur", EUROS, nullable=False))
    return pa.schema([*fields, pa.field("cost_eur", EUROS, nullable=False)])


async def write_parquet(request: ExportRequest, out: BinaryIO) -> Written:
    """Write the file."""
    columns = schema()
    texts = [field.name for field in columns if pa.types.is_string(field.type) and field.name != _UNIQUE]
    with pq.ParquetWriter(_Forward(out), columns, compression="zstd", use_dictionary=texts) as writer:
        group = _RowGroup(writer)
        written = await entry_files.write_entries(request, lambda block: group.add(_batch(block, columns)))
        group.end()
    return written


class _RowGroup:
    """Gathers batches until they are worth a row group."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        self._rows += batch.num_rows
        if self._rows >= GROUP_ROWS:
            self.end()

    def end(self) -> None:
        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches), row_group_size=self._rows)
        self._batches, self._rows = [], 0


class _Forward:
    """A stream that only goes forward, as Arrow wants one: it asks where it is.

    Args:
        out: written to.
    """

    closed = False

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._at = 0

    def write(self, data: bytes) -> int:
        self._out.write(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        """There is nothing to do: whoever opened the stream flushes it."""


def _batch(block: Block, columns: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(list(_arrays(block)), schema=columns)


def _arrays(block: Block) -> Iterator[pa.Array]:
    for name in entry_files.FACTS:
        if name in {"admitted_at", "settled_at"}:
            yield pa.array(block[name.removesuffix("_at") + "_ms"], _TIME)
        elif name == "streamed":
            yield pa.array(list(map(bool, block[name])), pa.bool_())
        elif name == "day":
            yield pa.array(block[name], pa.string()).cast(pa.date32())
        else:
            yield pa.array(block[name], _FACTS.get(name, pa.string()))
    for kind, sources in zip(entry_files.TYPES, entry_files.sources(block), strict=True):
        yield pa.array(entry_files.quantities(block, kind), pa.int64())
        yield pa.array([source or None for source in sources], pa.string())
        yield _euros(entry_files.costs_pico(block, kind))
    yield _euros(block["cost_pico"])


def _euros(costs_pico: Sequence[int]) -> Any:  # noqa: ANN401 - Arrow's arrays have no type of their own
    """Return whole pico-euros as euros with twelve decimals: the same digits, the point moved."""
    digits = pa.array(costs_pico, pa.int64()).cast(_PICO)
    return pa.Array.from_buffers(EUROS, len(digits), digits.buffers())
