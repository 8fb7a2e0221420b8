"""``jsonl``: a JSON object for each call, a line each (JSON Lines, UTF-8).

What belongs here: the object. Amounts of money are exact decimal strings, as everywhere in the API; only the usage
types that a call used are in it.
"""

from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

import msgspec

from proxy.billing.exports import entry_files
from proxy.billing.exports.request import ExportRequest, Written
from proxy.ledger.streaming import Block


class _Usage(msgspec.Struct, frozen=True, gc=False):
    type: str
    quantity: int
    source: str
    cost_eur: str


class _Call(msgspec.Struct, frozen=True, gc=False):
    account: str
    account_id: str
    month: str
    day: str
    call_id: str
    admitted_at: str
    settled_at: str
    key_id: str
    tier: str
    endpoint: str
    model: str
    tariff_class: str
    outcome: str
    streamed: bool
    upstream: str
    price_version: str
    link: int
    usage: Sequence[_Usage]
    cost_eur: str


_encode_lines: Final = msgspec.json.Encoder().encode_lines


async def write_jsonl(request: ExportRequest, out: BinaryIO) -> Written:
    """Write a line for each call."""

    def take(block: Block) -> None:
        out.write(_encode_lines(list(map(_Call, *_facts(block), _usage(block), _texts(block["cost_pico"])))))

    return await entry_files.write_entries(request, take)


def _facts(block: Block) -> Iterator[Sequence[object]]:
    for name in entry_files.FACTS:
        if name in {"admitted_at", "settled_at"}:
            yield list(map(entry_files.time_text, block[name.removesuffix("_at") + "_ms"]))
        elif name == "streamed":
            yield list(map(bool, block[name]))
        else:
            yield block[name]


def _usage(block: Block) -> list[list[_Usage]]:
    calls: list[list[_Usage]] = [[] for _ in block["call_id"]]
    for kind, sources in zip(entry_files.TYPES, entry_files.sources(block), strict=True):
        rows = zip(
            calls, entry_files.quantities(block, kind), sources, entry_files.costs_pico(block, kind), strict=True
        )
        for used, quantity, source, cost_pico in rows:
            if source:
                used.append(_Usage(kind.value, quantity, source, entry_files.cost_text(cost_pico)))
    return calls


def _texts(costs_pico: Sequence[int]) -> list[str]:
    return list(map(entry_files.cost_text, costs_pico))
