"""What the ledger's tests have in common: entries, a clock, and a migrated database."""

import itertools
from collections.abc import Sequence

import msgspec

from proxy.core.entries import Charge, ChargeLine, Entry, Outcome
from proxy.core.usage import Source, TariffClass, UsageType

NOON_MS = 1_795_518_000_000  # 2026-11-24 12:00 in Paris
PRICES = {
    UsageType.INPUT: 1_800_000,
    UsageType.CACHED_INPUT: 1_800_000,
    UsageType.OUTPUT: 8_000_000,
    UsageType.REASONING: 8_000_000,
    UsageType.RERANK: 4_000_000,
    UsageType.AUDIO_MINUTES: 10_000_000_000,
}
_numbers = itertools.count(1)


def charge(*used: tuple[UsageType, int], source: Source = Source.REPORTED, version: str = "2026-01") -> Charge:
    lines = tuple(
        ChargeLine(usage_type, amount, source, PRICES[usage_type], amount * PRICES[usage_type])
        for usage_type, amount in used
    )
    return Charge(lines, sum(line.cost_pico for line in lines), version)


def entry(
    call_id: str | None = None,
    *,
    account_id: str = "acc_a",
    used: Sequence[tuple[UsageType, int]] = ((UsageType.INPUT, 15), (UsageType.OUTPUT, 42)),
    version: str = "2026-01",
    **changes: object,
) -> Entry:
    made = Entry(
        call_id=call_id or f"019ab000-0000-7000-8000-{next(_numbers):012x}",
        account_id=account_id,
        month="2026-11",
        day="2026-11-24",
        key_id="key_1",
        tier="tier1",
        endpoint="/v1/chat/completions",
        model="gpt-oss:120b",
        tariff_class=TariffClass.STANDARD,
        outcome=Outcome.FINISHED,
        admitted_ms=NOON_MS,
        settled_ms=NOON_MS + 1000,
        charge=charge(*used, version=version),
        upstream="vllm-1",
        streamed=False,
    )
    return msgspec.structs.replace(made, **changes)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, now_ms: int = NOON_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


async def rows_of(database, table) -> list[dict[str, object]]:
    async with database.read() as connection:
        return [dict(row) for row in (await connection.execute(table.select())).mappings()]
