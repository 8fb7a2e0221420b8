"""What the formats of single calls share: the order of the columns, and how values look as text.

What belongs here: reading a month block by block, counting what passes, and the texts of times, amounts and sources.
What does not: how a format separates or types them (delimited.py, jsonl.py, parquet.py).
"""

import contextlib
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from functools import lru_cache
from typing import Final

from proxy.billing.exports.request import ExportRequest, Written
from proxy.core.money import euros_text
from proxy.core.usage import Source, UsageType
from proxy.ledger.rows import SOURCES
from proxy.ledger.schema import cost_column, quantity_column
from proxy.ledger.streaming import Block, month_stream

TYPES: Final = tuple(UsageType)
FACTS: Final = (
    "account",
    "account_id",
    "month",
    "day",
    "call_id",
    "admitted_at",
    "settled_at",
    "key_id",
    "tier",
    "endpoint",
    "model",
    "tariff_class",
    "outcome",
    "streamed",
    "upstream",
    "price_version",
    "link",
)
"""The columns of a call before those of its usage types."""

_DAY_MS: Final = 86_400_000
_EPOCH: Final = date(1970, 1, 1)


def column_names() -> tuple[str, ...]:
    """Return the names of all columns, in order."""
    of_types = [f"{kind.value}_{what}" for kind in TYPES for what in ("quantity", "source", "cost_eur")]
    return (*FACTS, *of_types, "cost_eur")


async def write_entries(request: ExportRequest, take: Callable[[Block], None]) -> Written:
    """Hand over the entries that are asked for, block by block, and return how many there were and their sum.

    Raises:
        LedgerUnavailableError: the database does not answer, or no more.
    """
    rows, total_pico = 0, 0
    async with month_stream(request.database, request.month, request.account_id) as month:
        expected = sum(month.calls.values())
        async with contextlib.aclosing(month.entries()) as blocks:
            async for block in blocks:
                take(block)
                rows += len(block["call_id"])
                total_pico += sum(block["cost_pico"])
                request.advanced(rows, max(rows, expected))
    return Written(rows, total_pico)


def quantities(block: Block, kind: UsageType) -> Sequence[int]:
    """Return how much each call used of a type."""
    return block[quantity_column(kind)]


def costs_pico(block: Block, kind: UsageType) -> Sequence[int]:
    """Return what that cost, pico-euros."""
    return block[cost_column(kind)]


def sources(block: Block) -> list[tuple[str, ...]]:
    """Return, for each usage type in order, where each call's quantity comes from; empty: it used none of it."""
    return list(zip(*map(_sources_of, block["sources"]), strict=True))


@lru_cache(maxsize=4096)
def _sources_of(letters: str) -> tuple[str, ...]:
    found: list[Source | None] = [SOURCES.get(letter) for letter in letters]
    return tuple("" if source is None else source.value for source in found)


cost_text: Final = lru_cache(maxsize=16_384)(euros_text)
"""The exact amount in euros of pico-euros; many calls cost the same."""


def time_text(at_ms: int) -> str:
    """Return a time as ISO 8601 in UTC, to the millisecond.

    >>> time_text(1_795_518_000_007)
    '2026-11-24T11:00:00.007Z'
    """
    day, rest_ms = divmod(at_ms, _DAY_MS)
    minutes, rest_ms = divmod(rest_ms, 60_000)
    return f"{_day_text(day)}T{minutes // 60:02d}:{minutes % 60:02d}:{rest_ms // 1000:02d}.{rest_ms % 1000:03d}Z"


@lru_cache(maxsize=1024)
def _day_text(day: int) -> str:
    return (_EPOCH + timedelta(days=day)).isoformat()
