"""How many entries a second the ledger takes: sealed, with their rollups, and beside a plain insert of the same rows.

Run: ``python -m bench.ingest --entries 50000``. Batches are as large as the shipping process makes them of a backlog,
and each is one transaction with its fsync: a group commit. Each round fills an empty SQLite file and an empty database
of a PostgreSQL of its own, first with bare rows (one INSERT a batch; no chain, no rollups), then through
``Ledger.insert``; so a busy machine disturbs both alike. Nothing is tuned in either engine.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
import uuid
from bisect import bisect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import uvloop

from proxy.core.entries import Charge, ChargeLine, Entry, Outcome
from proxy.core.usage import Source, TariffClass, UsageType
from proxy.ledger import schema
from proxy.ledger.database import Database
from proxy.ledger.migrations import migrate
from proxy.ledger.rows import values_of
from proxy.ledger.shipping_child import BATCH_MAX
from proxy.ledger.statements import BulkInsert
from proxy.ledger.store import Ledger
from tests.support.services import create_database, postgres_server

ENTRIES = 50_000
BATCHES = (BATCH_MAX, 500)
"""What the shipping process takes of a backlog at once, and what a shipper within takes."""
SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
ACCOUNTS = 1000
FLOOR = 10_000
"""Entries a second that either engine must take in the largest batches, median of the rounds."""
START_MS = 1_795_518_000_000  # 2026-11-24 12:00 in Paris
SPREAD_MS = 10
"""From one call to the next."""
MODELS = ("gpt-oss:120b", "mistral-small:24b", "qwen3-coder:30b", "nvidia/llama-3.3-70b", "bge-m3")
PRICES = {
    UsageType.INPUT: 1_800_000,
    UsageType.CACHED_INPUT: 900_000,
    UsageType.OUTPUT: 8_000_000,
    UsageType.REASONING: 8_000_000,
}

Taker = Callable[[Sequence[Entry]], Awaitable[object]]


@dataclass
class Speed:
    """One engine, filled in one way.

    Args:
        engine: as the report calls it.
        batch: entries in a transaction.
        is_judged: whether it must not be under ``FLOOR``.
        raw_per_s: entries a second of each round, bare rows.
        sealed_per_s: the same through ``Ledger.insert``.
        cpu_us: processor time for an entry through ``Ledger.insert``, in this process and in the server, of each round.
    """

    engine: str
    batch: int
    is_judged: bool = True
    raw_per_s: list[float] = field(default_factory=list)
    sealed_per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def ratio(self) -> float:
        """Return how much of the speed of bare rows is left: the median of the rounds' ratios."""
        return statistics.median(sealed / raw for sealed, raw in zip(self.sealed_per_s, self.raw_per_s, strict=True))

    def problem(self) -> str | None:
        """Say what is not good enough."""
        median = statistics.median(self.sealed_per_s)
        if median >= FLOOR or not self.is_judged:
            return None
        return f"ingest: {self.engine}, {self.batch} a transaction: {median:,.0f} entries/s are under {FLOOR:,}"

    def row(self) -> str:
        """Return a row of the table."""
        cells = [self.engine, f"{self.batch:,}"]
        for figures in (self.raw_per_s, self.sealed_per_s):
            cells += [f"{statistics.median(figures):,.0f}", f"{max(figures):,.0f}"]
        cells += [
            f"{self.ratio():.2f}x",
            f"{statistics.median(self.cpu_us):.1f}",
            f">= {FLOOR:,}" if self.is_judged else "",
        ]
        return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class IngestResult:
    """What was measured."""

    speeds: list[Speed]

    def problems(self) -> list[str]:
        """Say what is not good enough."""
        return [problem for speed in self.speeds if (problem := speed.problem())]

    def markdown(self) -> str:
        """Return the table."""
        head = "| ledger | entries a transaction | bare rows/s | best | entries/s | best | ratio | CPU us | floor |"
        return "\n".join([head, "|---" * 9 + "|", *(speed.row() for speed in self.speeds)])

    def as_dict(self) -> dict[str, object]:
        """Return everything."""
        return {
            f"{speed.engine}, {speed.batch}": {
                "raw_per_s": speed.raw_per_s,
                "sealed_per_s": speed.sealed_per_s,
                "cpu_us": speed.cpu_us,
            }
            for speed in self.speeds
        }


class Engines:
    """A SQLite folder and a PostgreSQL server, both for a measurement alone.

    Args:
        folder: with the server's data in ``data``.
        server_url: of the server's first database.
    """

    def __init__(self, folder: Path, server_url: str) -> None:
        self._folder, self._server_url = folder, server_url
        self._server_pid = int((folder / "data" / "postmaster.pid").read_text().split("\n", 1)[0])

    def empty(self, engine: str) -> str:
        """Return the URL of an empty database."""
        name = f"ingest_{uuid.uuid4().hex}"
        if engine == SQLITE:
            return f"sqlite:///{self._folder / name}.db"
        create_database(self._server_url, name)
        return f"{self._server_url.rsplit('/', 1)[0]}/{name}"

    def used_s(self, engine: str) -> float:
        """Return the processor time of this process, and of the server's connections that are closed."""
        own_s = time.process_time()
        if engine == SQLITE:
            return own_s
        fields = Path(f"/proc/{self._server_pid}/stat").read_text().rpartition(")")[2].split()
        return own_s + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")  # cutime, cstime


def measure_ingest(rounds: int, entries: int = ENTRIES, batches: Sequence[int] = BATCHES) -> IngestResult:
    """Measure both engines, round by round.

    Args:
        rounds: how many, after a short one that warms up and does not count.
        entries: in each.
        batches: sizes of a transaction.
    """
    calls = list(some_entries(entries))
    speeds = [Speed(engine, batch, batch == max(batches)) for batch in batches for engine in (SQLITE, POSTGRESQL)]
    with tempfile.TemporaryDirectory(prefix="tollgate-ingest-") as folder, postgres_server(Path(folder)) as url:
        engines = Engines(Path(folder), url)
        for speed in speeds:
            warm = Speed(speed.engine, speed.batch)
            uvloop.run(_round(warm, engines, calls[: max(1, entries // 10)]))
        for _ in range(rounds):
            for speed in speeds:
                uvloop.run(_round(speed, engines, calls))
    return IngestResult(speeds)


async def _round(speed: Speed, engines: Engines, calls: Sequence[Entry]) -> None:
    raw_s = await _filled(engines.empty(speed.engine), calls, speed.batch, _bare)
    url, used_s = engines.empty(speed.engine), engines.used_s(speed.engine)
    sealed_s = await _filled(url, calls, speed.batch, lambda database: Ledger(database).insert)
    speed.raw_per_s.append(len(calls) / raw_s)
    speed.sealed_per_s.append(len(calls) / sealed_s)
    speed.cpu_us.append((engines.used_s(speed.engine) - used_s) / len(calls) * 1e6)


async def _filled(url: str, calls: Sequence[Entry], batch: int, taker: Callable[[Database], Taker]) -> float:
    """Fill an empty ledger, and return the seconds that it took."""
    await migrate(url)
    database = Database.open(url, pool_size=1, command_timeout_s=60)
    try:
        take = taker(database)
        began_s = time.perf_counter()
        for start in range(0, len(calls), batch):
            await take(calls[start : start + batch])
        return time.perf_counter() - began_s
    finally:
        await database.close()


def _bare(database: Database) -> Taker:
    bare = BulkInsert(schema.entries, "ON CONFLICT DO NOTHING", postgresql=database.is_postgresql)

    async def take(calls: Sequence[Entry]) -> None:
        async with database.write() as connection:
            await bare.run(connection, [(*values_of(call), 1) for call in calls])

    return take


def some_entries(count: int) -> Iterator[Entry]:
    """Yield calls in the order of their settlement: of few large accounts and many small ones, the same every time.

    The account of rank n calls in proportion to 1/n. A call in five hundred is late: of the month before.
    """
    chance = random.Random(20261128)
    weights = list(accumulate(1 / rank for rank in range(1, ACCOUNTS + 1)))
    for number in range(count):
        settled_ms = START_MS + number * SPREAD_MS
        account = bisect(weights, chance.random() * weights[-1])
        is_late = chance.random() < 1 / 500
        yield Entry(
            call_id=str(uuid.UUID(int=settled_ms << 80 | 7 << 76 | 2 << 62 | chance.getrandbits(62))),
            account_id=f"acc_{account:032x}",
            month="2026-10" if is_late else "2026-11",
            day="2026-10-31" if is_late else "2026-11-24",
            key_id=f"key_{account:032x}",
            tier=f"tier{account % 4 + 1}",
            endpoint="/v1/chat/completions",
            model=chance.choices(MODELS, (50, 20, 15, 10, 5))[0],
            tariff_class=TariffClass.BATCH if chance.random() < 0.05 else TariffClass.STANDARD,
            outcome=Outcome.FINISHED if chance.random() < 0.98 else Outcome.DISCONNECTED,
            admitted_ms=settled_ms - chance.randint(200, 40_000),
            settled_ms=settled_ms,
            charge=_charge(chance),
            upstream=f"vllm-{chance.randint(1, 8)}",
            streamed=chance.random() < 0.7,
        )


def _charge(chance: random.Random) -> Charge:
    amounts = {UsageType.INPUT: chance.randint(10, 5000), UsageType.OUTPUT: int(chance.lognormvariate(5.8, 1))}
    if chance.random() < 0.4:
        amounts[UsageType.CACHED_INPUT] = chance.randint(1, 4000)
    if chance.random() < 0.3:
        amounts[UsageType.REASONING] = chance.randint(1, 2000)
    lines = tuple(
        ChargeLine(kind, amount, Source.REPORTED, PRICES[kind], amount * PRICES[kind])
        for kind, amount in amounts.items()
    )
    return Charge(lines, sum(line.cost_pico for line in lines), "2026-01")


def main() -> int:
    """Measure, report, judge."""
    parser = argparse.ArgumentParser(prog="python -m bench.ingest", description=__doc__)
    parser.add_argument("--entries", type=int, default=ENTRIES, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, action="append", help="entries in a transaction")
    arguments = parser.parse_args()
    result = measure_ingest(arguments.rounds, arguments.entries, arguments.batch or BATCHES)
    print(result.markdown())
    for problem in result.problems():
        print(f"not good enough: {problem}")
    return 1 if result.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
