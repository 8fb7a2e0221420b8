"""``tollgate export``: a file that is whole or not there."""

import asyncio
import csv
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from bench.filling import fill as fill_large
from proxy.billing.exports.formats import FORMATS, file_name
from proxy.cli import progress
from proxy.cli.export import export
from proxy.core.money import PICO_PER_EURO
from proxy.ledger.database import Database
from proxy.ledger.migrations import migrate
from proxy.ledger.outbox import Outbox
from tests.billing.exports.month import NAMES, fill, total_pico
from tests.ledger.support import entry

CONFIG = Path(__file__).parents[2] / "config"
MONTH = "--month 2026-11"


@pytest.fixture
def folder(tmp_path, database_url, monkeypatch):
    for name in ("TOLLGATE_REDIS_URL", "TOLLGATE_UPSTREAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", database_url)
    monkeypatch.setenv("TOLLGATE_STATE_DIR", str(tmp_path / "state"))
    shutil.copytree(CONFIG, tmp_path / "config")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def made(folder, database_url):
    async def make():
        await migrate(database_url)
        database = Database.open(database_url)
        try:
            return (await fill(database))[1]
        finally:
            await database.close()

    return asyncio.run(make())


def run(line: str) -> Result:
    return CliRunner().invoke(export, [*line.split(), "--config", "../config"])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_named_after_the_month_and_says_what_is_in_it(folder, made):
    result = run(MONTH)
    assert result.exit_code == 0, result.output
    assert files(folder) == ["tollgate-2026-11.csv"]
    file = (folder / "tollgate-2026-11.csv").read_bytes()
    rows, rest = result.stdout.split(" rows, ")
    euros, name, sha256 = rest.split(", ")
    assert int(rows) == len(made)
    assert Decimal(euros.removesuffix(" €")) * PICO_PER_EURO == total_pico(made)
    assert name == "tollgate-2026-11.csv"
    assert sha256 == f"SHA-256 {hashlib.sha256(file).hexdigest()}\n"
    lines = list(csv.DictReader(io.StringIO(file.decode(), newline="")))
    assert sum(Decimal(line["cost_eur"]) for line in lines) * PICO_PER_EURO == total_pico(made)
    assert result.stderr == ""


@pytest.mark.parametrize("name", ["csv", "csv-fr", "jsonl", "parquet", "xlsx"])
def test_every_format_is_written_for_one_account_too(folder, made, name):
    result = run(f"{MONTH} --account acme --format {name}")
    assert result.exit_code == 0, result.output
    assert files(folder) == [f"tollgate-2026-11-acme{FORMATS[name].suffix}"]


def test_an_account_is_named_by_its_id_as_well(folder, made):
    assert run(f"{MONTH} --account acme --output by-name").exit_code == 0
    account_id = next(csv.DictReader(io.StringIO((folder / "by-name").read_text())))["account_id"]
    assert run(f"{MONTH} --account {account_id} --output by-id").exit_code == 0
    assert (folder / "by-id").read_bytes() == (folder / "by-name").read_bytes()


def test_the_name_of_a_file_has_of_an_account_what_a_file_can_bear():
    assert file_name(FORMATS["csv"], "2026-11", "../a b/c") == "tollgate-2026-11-a-b-c.csv"
    assert file_name(FORMATS["csv"], "2026-11", "Société") == "tollgate-2026-11-Société.csv"
    for account in NAMES:
        assert "/" not in file_name(FORMATS["xlsx"], "2026-11", account)


def test_a_file_that_is_there_is_replaced_only_when_told(folder, made):
    target = folder / "tollgate-2026-11.csv"
    target.write_text("mine")
    result = run(MONTH)
    assert (result.exit_code, target.read_text()) == (1, "mine")
    assert "is there already; --force replaces it" in result.output
    assert run(f"{MONTH} --force").exit_code == 0
    assert target.read_text().startswith("account,")
    assert files(folder) == [target.name]


def test_standard_output_has_the_file_and_nothing_else(folder, made):
    assert run(MONTH).exit_code == 0
    result = run(f"{MONTH} --output -")
    assert result.stdout_bytes == (folder / "tollgate-2026-11.csv").read_bytes()
    assert result.stderr.startswith(f"{len(made)} rows, ")


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("--month 2026-13", 2, "not a month (YYYY-MM): '2026-13'"),
        (f"{MONTH} --format odt", 2, "'odt' is not one of 'csv'"),
        (f"{MONTH} --account nobody", 1, "there is no account named 'nobody'"),
        (f"{MONTH} --format fec", 1, "no document was issued in 2026-11"),
        (f"{MONTH} --output no/such/folder.csv", 1, "no/such/folder.csv cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_no_file(folder, made, line, code, says):
    result = run(line)
    assert result.exit_code == code
    assert says in result.output
    assert files(folder) == []


def test_a_disk_that_is_full_is_not_taken_for_a_fault_of_the_ledger(folder, made, monkeypatch):
    real = Path.open

    def full(path: Path, mode: str = "r", *args, **more):
        return Path("/dev/full").open("wb", buffering=0) if mode == "xb" else real(path, mode, *args, **more)

    for name in ("csv", "parquet", "xlsx"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", full)
            result = run(f"{MONTH} --format {name} --output file")
        assert (result.exit_code, result.stderr) == (1, "Error: file cannot be written: No space left on device\n")
        assert files(folder) == []


def test_there_must_be_a_ledger_of_this_version(folder, database_url, monkeypatch):
    monkeypatch.delenv("TOLLGATE_DATABASE_URL")
    assert "there is no ledger in" in run(MONTH).output
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", database_url)
    if database_url.startswith("sqlite"):
        Path(database_url.removeprefix("sqlite:///")).touch()
    assert "not of this version of tollgate" in run(MONTH).output
    assert files(folder) == []


def test_what_waits_in_outboxes_is_told(folder, made, tmp_path):
    async def wait():
        outbox = Outbox(tmp_path / "state" / "outbox-0.db")
        for one in (entry(), entry(), entry(month="2026-10", day="2026-10-02")):
            await outbox.commit(one)
        await outbox.close()

    asyncio.run(wait())
    result = run(MONTH)
    assert result.stderr == "Not in it: 2 entries of the month that wait in outboxes for the ledger.\n"
    assert result.stdout.startswith(f"{len(made)} rows")
    (tmp_path / "state" / "outbox-1.db").write_bytes(b"no outbox, " * 100)
    assert "It cannot be told whether entries wait" in run(f"{MONTH} --force").stderr


def test_what_takes_long_shows_its_progress_on_a_terminal(folder, made, monkeypatch):
    errors = io.StringIO()

    def console(*, stderr: bool) -> Console:
        return Console(file=errors, force_terminal=True)

    assert run(MONTH).stderr == ""
    monkeypatch.setattr(progress, "Console", console)
    assert run(f"{MONTH} --force").exit_code == 0
    assert errors.getvalue() == ""
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    assert run(f"{MONTH} --force").exit_code == 0
    assert f"{len(made)}/{len(made)}" in errors.getvalue()


def test_an_export_that_is_ended_leaves_nothing(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    asyncio.run(fill_large(url, 60_000))
    here = tmp_path / "here"
    here.mkdir()
    words = [sys.executable, "-m", "proxy", "export", *MONTH.split(), "--config", str(CONFIG)]
    environ = {**os.environ, "TOLLGATE_STATE_DIR": str(tmp_path), "TOLLGATE_DATABASE_URL": url}
    process = subprocess.Popen(words, cwd=here, env=environ, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 100_000 for path in here.iterdir()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert files(here) == []


def test_the_other_commands_load_no_library_for_files():
    code = "import sys, proxy.cli, proxy.app; print([n for n in ('pyarrow', 'xlsxwriter') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
