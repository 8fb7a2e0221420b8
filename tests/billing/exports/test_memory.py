"""A month of ten times as many calls is exported with the memory of the small one."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.filling import MONTH, fill

ROOT = Path(__file__).parents[3]
SMALL, LARGE = 10_000, 100_000
MORE_BYTES_MAX = 24 << 20
"""Held at once, 90,000 rows are 200 MB, and as lines of CSV still 32 MB."""
# Row groups as small as the small month: what is gathered for one is the same in both.
CODE = "from proxy.billing.exports import parquet; parquet.GROUP_ROWS = 5000; from proxy.cli import main; main()"


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory) -> dict[int, Path]:
    folders = {entries: tmp_path_factory.mktemp(f"entries-{entries}") for entries in (SMALL, LARGE)}
    for entries, folder in folders.items():
        asyncio.run(fill(f"sqlite:///{folder / 'ledger.db'}", entries))
    return folders


def peak_bytes(folder: Path, name: str) -> int:
    """Export the month in a process of its own, and return the most memory that it had."""
    words = ["export", "--month", MONTH, "--format", name, "--output", str(folder / name), "--force"]
    words += ["--config", str(ROOT / "config")]
    environ = {**os.environ, "TOLLGATE_STATE_DIR": str(folder)}
    environ.pop("TOLLGATE_DATABASE_URL", None)
    process = subprocess.Popen([sys.executable, "-c", CODE, *words], env=environ, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["csv", "csv-fr", "jsonl", "parquet", "xlsx"])
def test_memory_does_not_grow_with_the_month(ledgers, name):
    small, large = (peak_bytes(ledgers[entries], name) for entries in (SMALL, LARGE))
    print(name, small >> 20, large >> 20)
    assert large < small + MORE_BYTES_MAX
