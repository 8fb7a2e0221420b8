"""``tollgate verify`` says whether the ledger is as it was sealed, names what is not, and ends with 1."""

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from proxy.cli import main
from proxy.cli.verify import told
from proxy.core.chain_audit import Finding, Wrong
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.migrations import migrate
from proxy.ledger.store import Ledger
from tests.ledger.support import entry
from tests.support.tampering import unguard

CONFIG = Path(__file__).parents[2] / "config"


@pytest.fixture
def url(database_url, tmp_path, monkeypatch):
    """The URL of a ledger of two accounts, whose guards are gone, and which the command finds."""
    monkeypatch.setenv("TOLLGATE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(CONFIG, tmp_path / "config")
    monkeypatch.chdir(tmp_path)

    async def fill():
        await migrate(database_url)
        database = Database.open(database_url)
        account = await Accounts(database).create("acme", "tier1")
        ledger = Ledger(database)
        await ledger.insert([entry("a1", account_id=account.id), entry("a2", account_id=account.id)])
        await ledger.insert([entry("a3", account_id=account.id), entry("z1", account_id="acc_gone")])
        await unguard(database, "entries", "chain_links", "chain_heads")
        await database.close()

    asyncio.run(fill())
    return database_url


def change(url, statement):
    async def run():
        database = Database.open(url)
        async with database.write() as connection:
            await connection.exec_driver_sql(statement)
        await database.close()

    asyncio.run(run())


def verify(line=""):
    return CliRunner().invoke(main, ["verify", *line.split()])


def test_a_sound_ledger_is_told_month_by_month(url):
    result = verify()
    assert result.exit_code == 0, result.output
    assert re.search(r"acme +│ 2026-11 │ +2 │ +3 │ +0 │ [0-9a-f]{64} ", result.stdout)
    assert re.search(r"acc_gone +│ 2026-11 │ +1 │ +1 │ +0 │", result.stdout)
    assert result.stdout.endswith("4 entries in 2 months. Nothing is wrong.\n")
    document = json.loads(verify("--json").stdout)
    assert document["sound"] is True
    assert document["findings"] == []
    of_acme = next(month for month in document["months"] if month["account"] == "acme")
    assert (of_acme["links"], of_acme["entries"], of_acme["wrong"]) == (2, 3, 0)
    assert of_acme["head"] in result.stdout


def test_what_is_wrong_is_named_and_is_an_exit_code(url):
    change(url, "UPDATE entries SET cost_pico = 1 WHERE call_id = 'a2'")
    change(url, "DELETE FROM entries WHERE call_id = 'z1'")
    result = verify()
    assert result.exit_code == 1
    assert "acme 2026-11: entry a2 is not as link 1 sealed it\n" in result.stdout
    assert "acc_gone 2026-11: entry z1 is not there any more; link 1 sealed it\n" in result.stdout
    assert "3 entries in 2 months. 2 things are wrong." in result.stdout
    of_acme = verify("--account acme --month 2026-11 --json")
    assert of_acme.exit_code == 1
    document = json.loads(of_acme.stdout)
    (finding,) = document["findings"]
    account_id = finding.pop("account_id")
    assert account_id.startswith("acc_")
    assert finding == {
        "account": "acme",
        "month": "2026-11",
        "wrong": "changed_entry",
        "link": 1,
        "last_link": 1,
        "call_id": "a2",
        "entries": 1,
        "document": "",
    }
    assert document["sound"] is False
    assert verify("--month 2026-12").exit_code == 0


def test_long_lists_are_cut_unless_all_is_asked_for(url):
    change(url, "UPDATE entries SET cost_pico = 1")
    short = verify("--rows 1").stdout
    assert short.count(" sealed it\n") == 1
    assert "and 1 more months (--rows 0 shows all)" in short
    assert "and 3 more findings (--rows 0 shows all)" in short
    assert "4 things are wrong" in short
    assert verify("--rows 0").stdout.count(" sealed it\n") == 4


def test_it_writes_nothing_and_makes_no_ledger(url, tmp_path, monkeypatch):
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", f"sqlite:///{tmp_path / 'none.db'}")
    result = verify()
    assert result.exit_code == 1
    assert "there is no ledger" in result.stderr
    assert not (tmp_path / "none.db").exists()


def test_on_postgresql_a_role_that_can_only_read_is_enough(url, monkeypatch):
    if url.startswith("sqlite"):
        return  # has no roles
    role = f"reader_{url.rsplit('/', 1)[1]}"
    sql = f"CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    subprocess.run(["psql", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, url], check=True)
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", url.replace("tollgate@", f"{role}@"))
    assert "4 entries in 2 months. Nothing is wrong." in verify().stdout


@pytest.mark.parametrize(("line", "says"), [("--month 2026-13", "not a month"), ("--account nobody", "nobody")])
def test_what_makes_no_sense_is_refused(url, line, says):
    result = verify(line)
    assert result.exit_code in (1, 2)
    assert says in result.stderr


def test_progress_goes_to_a_terminal_alone(url, monkeypatch):
    assert verify().stderr == ""
    monkeypatch.setattr("proxy.cli.progress.PATIENCE_S", 0.0)
    monkeypatch.setattr(Console, "is_terminal", True)
    assert "entries" in verify().stderr
    assert verify("--no-progress").stderr == ""


@pytest.mark.parametrize(
    ("finding", "says"),
    [
        (Finding(Wrong.LINK_MISSING, 3, 3), "link 3 is not there any more"),
        (Finding(Wrong.LINK_MISSING, 3, 5, "a", 7), "links 3 to 5 are not there any more; of their entries 7 are left"),
        (Finding(Wrong.INSERTED, 3, 3, "a", 1), "entry a says that link 3 seals it, and it does not"),
        (
            Finding(Wrong.INSERTED, 3, 3, "a", 3),
            "entry a says that link 3 seals it, and it does not, and 2 more say so",
        ),
        (Finding(Wrong.PRINTED_HEAD, 3, 3, document="F-1"), "document F-1 has printed another head of link 3"),
    ],
)
def test_a_finding_is_told_in_words(finding, says):
    assert told(finding) == says


def test_every_kind_of_finding_has_words():
    assert all(told(Finding(wrong, 1, 1)) for wrong in Wrong)
