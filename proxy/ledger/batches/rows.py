"""Batches, blocks and files as rows.

What belongs here: pure conversions between core/batches/objects.py and the columns of batch_schema.py. What does not:
statements.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from proxy.core.batches.objects import Batch, BatchFile, BatchStatus, Block, LineMistake, Purpose
from proxy.core.batches.usage import BatchUsage


def batch_values(batch: Batch) -> dict[str, Any]:
    """Return the values of a batch's row, all but its lease."""
    values = {name: json_text(getattr(batch, name)) if name in _JSON else getattr(batch, name) for name in _COLUMNS}
    tokens = dict.fromkeys(_TOKENS) if batch.usage is None else msgspec.structs.asdict(batch.usage)
    return values | tokens | {"status": batch.status.value}


def batch_of(row: Mapping[str, Any]) -> Batch:
    """Return the batch that a row of ``batches`` holds."""
    values = {name: row[name] for name in _COLUMNS}
    tokens = [row[name] for name in _TOKENS]
    values["usage"] = None if None in tokens else BatchUsage(*tokens)
    for name, kind in _JSON.items():
        values[name] = msgspec.json.decode(row[name], type=kind)
    return Batch(**values | {"status": BatchStatus(row["status"])})


def block_of(row: Mapping[str, Any]) -> Block:
    """Return the block that a row of ``batch_blocks`` holds."""
    return Block(**{name: row[name] for name in Block.__struct_fields__})


def file_values(file: BatchFile) -> dict[str, Any]:
    """Return the values of a file's row."""
    return msgspec.structs.asdict(file) | {"purpose": file.purpose.value}


def file_of(row: Mapping[str, Any]) -> BatchFile:
    """Return the file that a row of ``batch_files`` holds."""
    values = {name: row[name] for name in BatchFile.__struct_fields__}
    return BatchFile(**values | {"purpose": Purpose(row["purpose"])})


def json_text(value: object) -> str:
    """Return a value as a column keeps it."""
    return msgspec.json.encode(value).decode()


_TOKENS = BatchUsage.__struct_fields__
_COLUMNS = tuple(name for name in Batch.__struct_fields__ if name != "usage")
_JSON: dict[str, Any] = {
    "metadata": dict[str, str] | None,
    "errors": tuple[LineMistake, ...],
    "stamps": dict[BatchStatus, int],
}
