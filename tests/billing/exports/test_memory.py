"""A month of ten times as many calls, or of four times as many accounts, is exported with the same memory."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import invoices
from bench.filling import MONTH, fill
from proxy.ledger.database import Database
from proxy.ledger.migrations import migrate

ROOT = Path(__file__).parents[3]
SMALL, LARGE = 10_000, 100_000
FEW, MANY = 100, 400
"""Accounts, each with 186 rows of FOCUS: as many as are read at once, and more."""
MORE_BYTES_MAX = 24 << 20
"""Held at once, 90,000 rows are 200 MB, and as lines of CSV still 32 MB."""
# Row groups as small as the small month: what is gathered for one is the same in both. The process says itself how much
# it had: what ``wait4`` tells includes the process that started it.
CODE = """
import atexit, pathlib, sys
from proxy.billing.exports import parquet
from proxy.cli import main

parquet.GROUP_ROWS = 5000
atexit.register(lambda: sys.stderr.write(pathlib.Path("/proc/self/status").read_text()))
main()
"""


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory) -> dict[int, Path]:
    folders = {entries: tmp_path_factory.mktemp(f"entries-{entries}") for entries in (SMALL, LARGE)}
    for entries, folder in folders.items():
        asyncio.run(fill(f"sqlite:///{folder / 'ledger.db'}", entries))
    return folders


async def fill_rollups(url: str, accounts: int) -> None:
    await migrate(url)
    database = Database.open(url)
    try:
        await invoices.fill(database, accounts, accounts * 10_000, lines=6)
    finally:
        await database.close()


def peak_bytes(folder: Path, name: str, month: str = MONTH) -> int:
    """Export the month in a process of its own, and return the most memory that it had."""
    words = ["export", "--month", month, "--format", name, "--output", str(folder / name), "--force"]
    words += ["--config", str(ROOT / "config")]
    environ = {**os.environ, "TOLLGATE_STATE_DIR": str(folder)}
    environ.pop("TOLLGATE_DATABASE_URL", None)
    command = [sys.executable, "-c", CODE, *words]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=True)
    (peak_kb,) = re.findall(r"^VmHWM:\s*([0-9]+) kB$", done.stderr, re.MULTILINE)
    return int(peak_kb) * 1024


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["csv", "csv-fr", "jsonl", "parquet", "xlsx"])
def test_memory_does_not_grow_with_the_month(ledgers, name):
    small, large = (peak_bytes(ledgers[entries], name) for entries in (SMALL, LARGE))
    assert large < small + MORE_BYTES_MAX


@pytest.mark.timeout(600)
def test_memory_of_a_focus_file_does_not_grow_with_the_accounts(tmp_path):
    peaks = {}
    for accounts in (FEW, MANY):
        folder = tmp_path / str(accounts)
        folder.mkdir()
        asyncio.run(fill_rollups(f"sqlite:///{folder / 'ledger.db'}", accounts))
        peaks[accounts] = peak_bytes(folder, "focus", invoices.MONTH)
        assert (folder / "focus").read_bytes().count(b"\r\n") == 1 + accounts * 6 * invoices.DAYS
    assert peaks[MANY] < peaks[FEW] + MORE_BYTES_MAX
