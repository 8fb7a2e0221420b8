"""``csv`` and ``csv-fr``: a line for each call.

What belongs here: the two dialects. The canonical one is for programs: RFC 4180, UTF-8, decimal points, every amount
exact. The French one is what a French Excel opens with a double click: a byte order mark, semicolons, decimal commas,
and times to the second, as Excel reads them.

A text that a spreadsheet would run as a formula gets an apostrophe in front, in either (OWASP, "CSV injection").
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Final

import msgspec

from proxy.billing.exports import entry_files
from proxy.billing.exports.formulas import harmless
from proxy.billing.exports.request import ExportRequest, Written
from proxy.ledger.streaming import Block


class Dialect(msgspec.Struct, frozen=True):
    """How lines look.

    Args:
        head: bytes before the first line.
        delimiter: between fields.
        amount: the text of an exact amount of euros, of its canonical one.
        time: the text of a time, of its canonical one.
        flags: the words for no and yes.
    """

    head: bytes
    delimiter: str
    amount: Callable[[str], str]
    time: Callable[[str], str]
    flags: tuple[str, str]


CANONICAL: Final = Dialect(b"", ",", str, str, ("false", "true"))
FRENCH: Final = Dialect(
    "\ufeff".encode(),
    ";",
    lambda amount: amount.replace(".", ","),
    lambda time: f"{time[:10]} {time[11:19]}",
    ("FAUX", "VRAI"),
)

_OWN: Final = frozenset({"month", "day", "call_id", "link"})
"""What the proxy alone has made, and is never a formula."""


async def write_csv(request: ExportRequest, out: BinaryIO) -> Written:
    """Write the canonical dialect."""
    return await _write(request, out, CANONICAL)


async def write_csv_fr(request: ExportRequest, out: BinaryIO) -> Written:
    """Write the French dialect."""
    return await _write(request, out, FRENCH)


async def _write(request: ExportRequest, out: BinaryIO, dialect: Dialect) -> Written:
    def take(block: Block) -> None:
        out.write(_lines(dialect, zip(*_fields(block, dialect), strict=True)))

    out.write(dialect.head + _lines(dialect, iter([entry_files.column_names()])))
    return await entry_files.write_entries(request, take)


def _lines(dialect: Dialect, rows: Iterator[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=dialect.delimiter, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def _fields(block: Block, dialect: Dialect) -> Iterator[Sequence[object]]:
    """Yield the columns, in the order of their names."""
    for name in entry_files.FACTS:
        if name in {"admitted_at", "settled_at"}:
            yield [dialect.time(entry_files.time_text(at_ms)) for at_ms in block[name.removesuffix("_at") + "_ms"]]
        elif name == "streamed":
            yield [dialect.flags[bool(flag)] for flag in block[name]]
        elif name in _OWN:
            yield block[name]
        else:
            yield list(map(harmless, block[name]))
    for kind, source in zip(entry_files.TYPES, entry_files.sources(block), strict=True):
        yield entry_files.quantities(block, kind)
        yield source
        yield _amounts(entry_files.costs_pico(block, kind), dialect)
    yield _amounts(block["cost_pico"], dialect)


def _amounts(costs_pico: Sequence[int], dialect: Dialect) -> Sequence[str]:
    return [dialect.amount(entry_files.cost_text(cost_pico)) for cost_pico in costs_pico]
