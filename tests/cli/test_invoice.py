"""What finance types and reads to close a month, with the real documents."""

import asyncio
import hashlib
import json

import click
import pytest
from click.testing import CliRunner

from proxy.cli.accounts import accounts
from proxy.cli.credit import credit
from proxy.cli.invoice import invoice
from proxy.clock import unix_ms
from proxy.core.calendar import month_of
from proxy.core.usage import UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.outbox import Outbox
from proxy.ledger.store import Ledger
from tests.cli.test_buyers import FRENCH
from tests.ledger.support import entry

COMMANDS = {"accounts": accounts, "credit": credit, "invoice": invoice}
NOW = month_of(unix_ms(), "Europe/Paris")


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("TOLLGATE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("TOLLGATE_DATABASE_URL", raising=False)
    out("accounts", "create", "acme", "--tier", "tier1")
    out("accounts", "buyer", "set", "acme", *FRENCH)
    return tmp_path / "state"


def run(group, *words):
    command = COMMANDS[group]
    assert isinstance(command, click.Command)
    return CliRunner().invoke(command, words)


def out(group, *words):
    result = run(group, *words)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(*words):
    return json.loads(out(*words, "--json"))


def use(state, day, *used, name="acme"):
    async def insert():
        database = Database.open(f"sqlite:///{state / 'ledger.db'}")
        account = await Accounts(database).named(name)
        made = entry(account_id=account.id, day=day, month=day[:7], used=used or [(UsageType.OUTPUT, 250_000)])
        await Ledger(database).insert([made])
        await database.close()
        return made

    return asyncio.run(insert())


def test_a_month_is_drafted_issued_shown_and_listed(state, tmp_path, monkeypatch):
    use(state, "2026-08-05")
    drafted = out("invoice", "draft", "--month", "2026-08", "--account", "acme", "--pdf", str(tmp_path / "draft.pdf"))
    assert "Invoice (draft)" in drafted
    assert (tmp_path / "draft.pdf").read_bytes().startswith(b"%PDF")
    assert as_json("invoice", "list") == []
    issued = as_json("invoice", "issue", "--month", "2026-08")
    (account,) = issued["accounts"]
    number = account["number"]
    assert (account["account"], account["result"], account["document"]["gross_cents"]) == ("acme", "issued", 240)
    assert "0 issued" in (again := out("invoice", "issue", "--month", "2026-08"))
    assert "1 stood already, 0 refused" in again
    shown = out("invoice", "show", number)
    for said in ("Acme SAS", "gpt-oss:120b", "output, standard", "250,000", "8.00", "2.40 €", "links 1 to 1"):
        assert said in shown
    files = ["--pdf", str(tmp_path / "i.pdf"), "--xml", str(tmp_path / "i.xml")]
    document = as_json("invoice", "show", number, *files)
    assert hashlib.sha256((tmp_path / "i.pdf").read_bytes()).hexdigest() == document["pdf_sha256"]
    assert hashlib.sha256((tmp_path / "i.xml").read_bytes()).hexdigest() == document["xml_sha256"]
    assert number.encode() in (tmp_path / "i.xml").read_bytes()
    (info,) = as_json("invoice", "list", "--month", "2026-08", "--account", "acme", "--kind", "invoice")
    assert (info["number"], info["stands"], info["net_cents"]) == (number, True, 200)
    assert as_json("invoice", "list", "--month", "2026-07") == []
    assert number in out("invoice", "list")
    monkeypatch.setenv("COLUMNS", "80")  # nothing that is looked up, or paid, is ever cut short
    assert {number, info["issue_date"], "2026-08"} <= set(out("invoice", "list").split())


def test_output_is_nothing_but_the_file_that_was_asked_for(state):
    use(state, "2026-08-05")
    number = as_json("invoice", "issue", "--month", "2026-08")["accounts"][0]["number"]
    result = run("invoice", "show", number, "--pdf", "-")
    assert result.stdout_bytes.startswith(b"%PDF")
    assert result.stdout_bytes.rstrip().endswith(b"%%EOF")


def test_what_is_taken_back_is_told(state):
    use(state, "2026-08-05")
    number = as_json("invoice", "issue", "--month", "2026-08")["accounts"][0]["number"]
    part = as_json("invoice", "credit-note", number, "--line", "1:125000", "--reason", "slow")
    assert (part["net_cents"], part["cancels"], part["corrects"]["number"]) == (100, False, number)
    said = out("invoice", "credit-note", number, "--reason", "wrong buyer")
    assert "over 1.20 €: it cancels" in said
    assert "cancelled by A-" in out("invoice", "show", number)
    refused = run("invoice", "credit-note", number, "--reason", "again")
    assert (refused.exit_code, "has been cancelled" in refused.stderr) == (1, True)
    assert run("invoice", "credit-note", number, "--line", "x", "--reason", "y").exit_code == 2
    assert run("invoice", "credit-note", "F-2026-000099", "--reason", "y").exit_code == 1


def test_credit_that_was_bought_gets_its_invoice_once(state):
    out("credit", "add", "acme", "100", "--reference", "R1")
    assert "over 120.00 € for R1" in out("invoice", "deposit", "acme", "R1")
    assert "nothing changed" in out("invoice", "deposit", "acme", "R1")
    assert not as_json("invoice", "deposit", "acme", "R1")["new"]
    refused = run("invoice", "deposit", "acme", "R2")
    assert (refused.exit_code, "no credit with the reference" in refused.stderr) == (1, True)


def test_who_is_refused_is_told_and_the_exit_code_says_so(state):
    out("accounts", "create", "nobody", "--tier", "tier1")
    use(state, "2026-08-05", name="nobody")
    use(state, "2026-08-05")
    result = run("invoice", "issue", "--month", "2026-08")
    assert (result.exit_code, "nobody: nobody has no buyer" in result.stdout) == (1, True)
    assert "1 issued" in result.stdout
    use(state, f"{NOW}-01")
    early = run("invoice", "issue", "--month", NOW, "--account", "acme")
    assert (early.exit_code, "can be invoiced from" in early.stdout) == (1, True)
    assert run("invoice", "issue", "--month", "August").exit_code == 2
    assert run("invoice", "draft", "--month", "2026-01", "--account", "acme").exit_code == 1


def test_entries_that_wait_in_an_outbox_hold_an_invoice_up_until_it_is_allowed(state):
    made = use(state, "2026-08-05")

    async def wait():
        outbox = Outbox(state / "outbox-0.db")
        await outbox.commit(entry(account_id=made.account_id, day="2026-08-31", month="2026-08"))
        await outbox.close()

    asyncio.run(wait())
    refused = run("invoice", "issue", "--month", "2026-08")
    assert (refused.exit_code, "1 entry waits for the ledger" in refused.stdout) == (1, True)
    assert "1 issued" in out("invoice", "issue", "--month", "2026-08", "--late-ok")


def test_nothing_is_issued_without_a_seller(state, tmp_path):
    import shutil

    folder = tmp_path / "config"
    shutil.copytree("config", folder)
    (folder / "seller.yaml").unlink()
    refused = run("invoice", "issue", "--month", "2026-08", "--config", str(folder))
    assert (refused.exit_code, "there is no seller" in refused.stderr) == (1, True)
