"""How long ``tollgate simulate`` takes for a month, and how much memory.

Run: ``python -m bench.replay --calls 1000000``. It makes a ledger of its own with a small month and a large one,
replays both with the command that operators use, and prints what that cost. With ``--database-url`` the ledger is made
in an empty PostgreSQL database.
"""

import argparse
import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from proxy.core.calendar import month_bounds_ms
from proxy.core.entries import Charge, ChargeLine, Entry, Outcome
from proxy.core.usage import Source, TariffClass, UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.migrations import migrate
from proxy.ledger.store import Ledger

ROOT = Path(__file__).parent.parent
SMALL_MONTH, LARGE_MONTH = "2026-09", "2026-10"
SMALL_CALLS = 1_000
BATCH = 5_000
ACCOUNTS = 4
PRICES = {UsageType.INPUT: 1_800_000, UsageType.OUTPUT: 8_000_000}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=__doc__)
    parser.add_argument("--calls", type=int, default=200_000, help="of the large month")
    parser.add_argument("--database-url", help="an empty database; by default a SQLite file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        url = options.database_url or f"sqlite:///{state / 'ledger.db'}"
        asyncio.run(fill(url, options.calls))
        environ = {**os.environ, "TOLLGATE_STATE_DIR": str(state)}
        if options.database_url:
            environ["TOLLGATE_DATABASE_URL"] = url
        small, large = replay(environ, SMALL_MONTH), replay(environ, LARGE_MONTH)
    for calls, (wall_s, cpu_s, most_mb) in ((SMALL_CALLS, small), (options.calls, large)):
        print(f"{calls:>12,} calls {wall_s:8.1f} s, {cpu_s:8.1f} s of CPU, {most_mb:8.1f} MB at most")
    each_us = (large[1] - small[1]) / max(1, options.calls - SMALL_CALLS) * 1e6
    print(f"each call more: {each_us:.1f} us of CPU")


async def fill(url: str, calls: int) -> None:
    """Make the ledger: calls of four accounts, spread evenly over each month."""
    await migrate(url)
    database = Database.open(url, command_timeout_s=60)
    try:
        accounts = [(await Accounts(database).create(f"account-{n}", "tier2")).id for n in range(ACCOUNTS)]
        ledger = Ledger(database)
        for month, count in ((SMALL_MONTH, SMALL_CALLS), (LARGE_MONTH, calls)):
            batch: list[Entry] = []
            for entry in entries(month, count, accounts):
                batch.append(entry)
                if len(batch) == BATCH:
                    await ledger.insert(batch)
                    batch.clear()
            await ledger.insert(batch)
    finally:
        await database.close()


def entries(month: str, count: int, accounts: list[str]) -> Iterator[Entry]:
    """Yield calls with ids as the proxy makes them, in rising order."""
    rng = random.Random(month)
    starts_ms, ends_ms = month_bounds_ms(month, "Europe/Paris")
    for number in range(count):
        at_ms = starts_ms + (ends_ms - starts_ms) * number // count
        made = f"{at_ms:012x}"
        amounts = {UsageType.INPUT: rng.randint(10, 5_000), UsageType.OUTPUT: int(rng.lognormvariate(5.8, 1))}
        lines = tuple(
            ChargeLine(kind, amount, Source.REPORTED, PRICES[kind], amount * PRICES[kind])
            for kind, amount in amounts.items()
        )
        yield Entry(
            f"{made[:8]}-{made[8:]}-7000-8000-{number:012x}",
            accounts[number % len(accounts)],
            month,
            f"{month}-01",
            "key_1",
            "tier2",
            "/v1/chat/completions",
            "gpt-oss:120b",
            TariffClass.STANDARD,
            Outcome.FINISHED,
            at_ms,
            at_ms + rng.randint(200, 40_000),
            Charge(lines, sum(line.cost_pico for line in lines), "2025-01"),
        )


def replay(environ: dict[str, str], month: str) -> tuple[float, float, float]:
    """Run the command; return its seconds, those of CPU, and the most memory that it had in MB."""
    tollgate = shutil.which("tollgate", path=str(Path(sys.executable).parent)) or "tollgate"
    words = [tollgate, "simulate", "--month", month, "--config", str(ROOT / "config"), "--json"]
    started_s = time.perf_counter()
    process = subprocess.Popen(words, env=environ, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"tollgate simulate ended with {process.returncode}")
    return time.perf_counter() - started_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
