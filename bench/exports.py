"""How fast ``tollgate export`` writes a month, and with how much memory.

Run: ``python -m bench.exports``, or with ``--entries 10000000``. It makes a ledger in SQLite and one in a PostgreSQL of
its own, exports each with the command that operators use, and prints what that cost beside a bare cursor that reads the
same rows and only counts them. The exit code is 1 when an export has used more than 500 MB of memory. ``--small`` makes
a second, smaller ledger, to show whether memory grows with the month.
"""

import argparse
import asyncio
import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import msgspec

from bench.filling import MONTH, fill
from proxy.billing.exports.formats import FORMATS
from proxy.ledger.streaming import ENTRY_COLUMNS
from tests.support.services import create_database, postgres_server

ROOT = Path(__file__).parent.parent
ENGINES = ("sqlite", "postgresql")
MEASURED = ("csv", "csv-fr", "jsonl", "parquet", "xlsx")
FETCHED = 4000
MEBIBYTE = 1 << 20
CEILING_BYTES = 500_000_000
"""Of the process that exports, however many entries the month has."""
QUERY = f"SELECT {', '.join(ENTRY_COLUMNS)} FROM entries WHERE month = '{MONTH}'"


class Cost(msgspec.Struct, frozen=True):
    """What a process took: seconds, those of CPU, and the most memory that it had."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.exports", description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=0, help="also of a month with so many entries, first")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--formats", default=",".join(MEASURED))
    parser.add_argument("--folder", type=Path, help="where ledgers and files are made")
    parser.add_argument("--count", metavar="URL", help="be the baseline: read every row, count them")
    options = parser.parse_args()
    if options.count:
        print(asyncio.run(count(options.count)))
        return 0
    problems: list[str] = []
    print(f"{'':26}{'rows/s':>10}{'of cursor':>10}{'CPU s':>8}{'peak MB':>9}{'file MB':>9}")
    for engine in options.engines.split(","):
        for entries in filter(None, (options.small, options.entries)):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder, ledger(engine, Path(folder)) as url:
                asyncio.run(fill(url, entries))
                problems += measure(engine, url, Path(folder), entries, options.formats.split(","))
    for problem in problems:
        print(f"not good enough: {problem}")
    return 1 if problems else 0


@contextlib.contextmanager
def ledger(engine: str, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty database."""
    if engine == "sqlite":
        yield f"sqlite:///{folder / 'ledger.db'}"
        return
    folder.chmod(0o755)  # PostgreSQL runs as another user
    data = folder / "postgresql"
    data.mkdir()
    with postgres_server(data) as url:
        create_database(url, "exports")
        yield url.rsplit("/", 1)[0] + "/exports"


def measure(engine: str, url: str, folder: Path, entries: int, formats: list[str]) -> list[str]:
    """Measure each format, and return what is not good enough."""
    problems: list[str] = []
    environ = {**os.environ, "TOLLGATE_STATE_DIR": str(folder), "TOLLGATE_DATABASE_URL": url}
    cursor = cost_of([sys.executable, "-m", "bench.exports", "--count", url], environ)
    show(f"{engine} {entries:,} cursor", entries, cursor, cursor, 0)
    for name in formats:
        file = folder / f"export{FORMATS[name].suffix}"
        words = [sys.executable, "-m", "proxy", "export", "--month", MONTH, "--format", name, "--output", str(file)]
        cost = cost_of([*words, "--config", str(ROOT / "config")], environ)
        show(f"{engine} {entries:,} {name}", entries, cost, cursor, file.stat().st_size)
        file.unlink()
        if cost.peak_bytes > CEILING_BYTES:
            problems.append(f"{engine}, {entries:,} as {name}: {cost.peak_bytes / MEBIBYTE:,.0f} MB of memory")
    return problems


def show(what: str, entries: int, cost: Cost, cursor: Cost, file_bytes: int) -> None:
    print(
        f"{what:<26}{entries / cost.wall_s:>10,.0f}{cursor.wall_s / cost.wall_s:>10.2f}{cost.cpu_s:>8.1f}"
        f"{cost.peak_bytes / MEBIBYTE:>9.0f}{file_bytes / MEBIBYTE:>9.0f}",
        flush=True,
    )


def cost_of(words: list[str], environ: dict[str, str]) -> Cost:
    """Run a command to its end."""
    began_s = time.perf_counter()
    process = subprocess.Popen(words, env=environ, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak_bytes = 0
    # Not what wait4 tells of memory: that includes the process that started it.
    while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        peak_bytes = max(peak_bytes, peak_of(process.pid))
        time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return Cost(time.perf_counter() - began_s, ended[2].ru_utime + ended[2].ru_stime, peak_bytes)


def peak_of(pid: int) -> int:
    """Return the most memory that a process has had so far (proc(5), VmHWM)."""
    found = re.search(r"^VmHWM:\s*([0-9]+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


async def count(url: str) -> int:
    """Read every row with the driver alone."""
    rows = 0
    if url.startswith("sqlite:///"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            cursor = connection.execute(QUERY)
            while some := cursor.fetchmany(FETCHED):
                rows += len(some)
        return rows
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            cursor = await connection.cursor(QUERY)
            while some := await cursor.fetch(FETCHED):
                rows += len(some)
    finally:
        await connection.close()
    return rows


if __name__ == "__main__":
    sys.exit(main())
