"""What operators type and read: accounts, keys, credit, usage."""

import asyncio
import json
import re
import shutil
import string
import time
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli.accounts import accounts
from proxy.cli.credit import credit
from proxy.cli.keys import keys
from proxy.cli.usage import usage
from proxy.core.accounts import digest_of
from proxy.core.calendar import month_bounds_ms, month_of
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.database import Database
from proxy.ledger.outbox import Outbox
from proxy.ledger.store import Ledger
from tests.ledger.support import entry
from tests.support.ports import free_port

CONFIG = Path(__file__).parents[2] / "config"
COMMANDS = {"accounts": accounts, "keys": keys, "credit": credit, "usage": usage}


@pytest.fixture
def state(tmp_path, monkeypatch):
    for name in ("TOLLGATE_DATABASE_URL", "TOLLGATE_REDIS_URL", "TOLLGATE_UPSTREAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOLLGATE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(CONFIG, tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state"


def run(line: str):
    group, *arguments = line.split()
    return CliRunner().invoke(COMMANDS[group], arguments)


def out(line: str) -> str:
    result = run(line)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(line: str):
    return json.loads(out(f"{line} --json"))


def is_key(token: str) -> bool:
    """Whether a text is our prefix, 40 characters of a secret, and its CRC-32 in six of base 62."""
    found = re.fullmatch(r"tg-([0-9A-Za-z]{40})([0-9A-Za-z]{6})", token)
    digits = string.digits + string.ascii_uppercase + string.ascii_lowercase
    checksum = 0
    for char in found[2] if found else "":
        checksum = checksum * 62 + digits.index(char)
    return found is not None and checksum == zlib.crc32(found[1].encode())


def test_an_account_is_created_listed_and_shown(state):
    assert "Created account acme (acc_" in out("accounts create acme --tier tier1 --credit 200")
    assert out("accounts list").count("acme") == 1
    assert as_json("accounts list")[0]["timezone"] == "Europe/Paris"
    shown = out("accounts show acme")
    assert "tier tier1" in shown
    assert "credit 200.00 €" in shown


def test_a_tier_is_changed_and_its_history_kept(state):
    out("accounts create acme --tier tier1")
    assert out("accounts set-tier acme tier2") == "Account acme holds tier2.\n"
    assert [change["tier"] for change in as_json("accounts show acme")["tiers"]] == ["tier1", "tier2"]


def test_a_key_is_shown_once_and_never_again(state):
    out("accounts create acme --tier tier1")
    made = as_json("keys create acme")
    assert set(made) == {"id", "key"}
    assert is_key(made["key"])
    listing = out("keys list acme") + out("keys list --json")
    assert made["id"] in listing
    assert made["key"] not in listing
    assert digest_of(made["key"]) not in listing


def test_the_id_of_a_key_can_be_copied_from_a_narrow_terminal(state, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out("accounts create a-rather-long-name-for-an-account --tier tier1")
    made = as_json("keys create a-rather-long-name-for-an-account")
    assert made["id"] in out("keys list")


def test_without_json_the_key_alone_is_on_standard_output(state):
    out("accounts create acme --tier tier1")
    assert is_key(out("keys create acme").strip())


def test_a_key_is_rotated_with_an_overlap_and_revoked(state):
    out("accounts create acme --tier tier1")
    old = as_json("keys create acme --expires 90d")
    new = as_json(f"keys rotate {old['id']} --overlap 1h")
    states = {key["id"]: key for key in as_json("keys list acme")}
    assert (states[old["id"]]["state"], states[new["id"]]["state"]) == ("ending", "valid")
    assert states[new["id"]]["rotated_from"] == old["id"]
    assert "Revoked key" in out(f"keys revoke {old['id']}")
    assert {key["id"]: key["state"] for key in as_json("keys list acme")}[old["id"]] == "revoked"


def test_a_tier_can_change_next_month_and_the_plan_be_given_up(state):
    out("accounts create acme --tier tier1 --timezone UTC")
    said = out("accounts set-tier acme tier3 --when next-month")
    decided_ms = as_json("accounts show acme")["tiers"][-1]["decided_ms"]
    _, begins_ms = month_bounds_ms(month_of(decided_ms, "UTC"), "UTC")
    begins = str(datetime.fromtimestamp(begins_ms // 1000, UTC))
    assert said == f"Account acme holds tier1, tier3 from {begins}.\n"
    assert f"tier1, tier3 from {begins}" in out("accounts list")
    shown = out("accounts show acme")
    assert f"tier tier1, tier3 from {begins}, time zone UTC" in shown
    assert f"to come: tier3 since {begins}, decided {datetime.fromtimestamp(decided_ms // 1000, UTC)}, by " in shown
    assert as_json("accounts show acme")["planned"] == {"tier": "tier3", "from_ms": begins_ms}
    assert out("accounts set-tier acme tier2") == f"Account acme holds tier2, tier3 from {begins}.\n"
    assert out("accounts keep-tier acme") == "Account acme keeps tier2.\n"
    assert f"given up: tier3 since {begins}, decided " in out("accounts show acme")
    assert as_json("accounts list")[0]["planned"] is None
    assert run("accounts set-tier acme tier9 --when next-month").exit_code == 2
    assert run("accounts set-tier acme tier3 --when yesterday").exit_code == 2
    assert run("accounts keep-tier nobody").exit_code == 1


def test_the_time_zone_of_an_account_stays(state):
    out("accounts create acme --tier tier1 --timezone UTC")
    assert "No such option" in run("accounts set acme --timezone Europe/Paris").output


def test_credit_is_added_once_for_each_reference(state):
    out("accounts create acme --tier tier1")
    assert out("credit add acme 50.25 --reference R7") == "Added 50.25 € to acme (R7).\n"
    assert "nothing changed" in out("credit add acme 50.25 --reference R7")
    assert [(lot["reference"], lot["amount_eur"]) for lot in as_json("credit list acme")] == [("R7", "50.25")]
    assert "50.25" in out("credit list")


def test_usage_is_the_documented_document(state):
    account_id = as_json("accounts create acme --tier tier1")["id"]
    month = asyncio.run(one_call_shipped(state, account_id))
    of = {"class": "standard", "model": "gpt-oss:120b", "price_version": "2026-01"}
    assert as_json("usage --account acme") == {
        "account": "acme",
        "month": month,
        "calls": 1,
        "cost_eur": "0.000363",
        "usage": [
            {**of, "type": "input", "quantity": 15, "cost_eur": "0.000027"},
            {**of, "type": "output", "quantity": 42, "cost_eur": "0.000336"},
        ],
    }
    assert as_json("usage --account acme --month 2020-01") == {
        "account": "acme", "month": "2020-01", "calls": 0, "cost_eur": "0.00", "usage": []
    }  # fmt: skip


async def one_call_shipped(state, account_id):
    month = month_of(time.time_ns() // 1_000_000, "Europe/Paris")
    database = Database.open(f"sqlite:///{state / 'ledger.db'}")
    await Ledger(database).insert([entry(account_id=account_id, month=month)])
    await database.close()
    return month


def test_usage_for_people_is_a_table_in_euros(state):
    account_id = as_json("accounts create acme --tier tier1")["id"]
    asyncio.run(one_call_shipped(state, account_id))
    table = out("usage --account acme")
    assert re.search(r"gpt-oss:120b .* standard .* output .* 42 .* 0\.000336", table)
    assert re.search(r"calls: 1 .* 0\.000363", table)


def test_usage_counts_what_waits_in_every_outbox_while_the_server_runs(state):
    account_id = as_json("accounts create acme --tier tier1")["id"]

    async def serving():
        database = Database.open(f"sqlite:///{state / 'ledger.db'}")
        waiting = [entry(account_id=account_id) for _ in range(3)]
        running, ended = Outbox(state / "outbox-0.db"), Outbox(state / "outbox-1.db")
        await running.commit(waiting[0])
        await running.commit(waiting[1])
        running.checkpoint(entry(account_id=account_id))  # a call in flight is not settled yet
        await ended.commit(waiting[2])
        await ended.close()
        await Ledger(database).insert(waiting[:1])  # shipped, and not yet removed from the outbox
        used = await asyncio.to_thread(as_json, "usage --account acme --month 2026-11")
        await running.close()
        await database.close()
        return used

    used = asyncio.run(serving())
    assert (used["calls"], used["cost_eur"]) == (3, "0.001089")


def test_on_postgresql_the_commands_are_the_same(state, postgres_database, monkeypatch):
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", postgres_database)
    out("accounts create acme --tier tier1 --credit 200 --timezone America/Havana")
    assert is_key(as_json("keys create acme")["key"])
    assert as_json("usage --account acme")["calls"] == 0
    assert as_json("credit list acme")[0]["amount_eur"] == "200.00"
    assert not (state / "ledger.db").exists()


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("accounts create acme --tier tier1", 1, "there is an account named 'acme' already"),
        ("accounts create new --tier tier9", 2, "there is no tier 'tier9'; there are: monthly, tier1"),
        ("accounts create new --tier tier1 --credit 1e", 2, "not an amount of euros"),
        ("accounts create new --tier tier1 --credit -5", 2, "not a positive amount"),
        ("accounts create new --tier tier1 --credit 0.0000000000001", 2, "finer than"),
        ("accounts create new --tier tier1 --credit 99999999999", 1, "at most 9,223,372 euros"),
        ("accounts create new --tier tier1 --timezone Paris", 1, "not a time zone"),
        ("accounts show nobody", 1, "there is no account named 'nobody'"),
        ("accounts set-tier acme gold", 2, "there is no tier 'gold'"),
        ("accounts set-tier nobody tier1", 1, "there is no account named 'nobody'"),
        ("keys create nobody", 1, "there is no account named 'nobody'"),
        ("keys create acme --expires yesterday", 2, "neither a duration"),
        ("keys create acme --expires 2020-01-01", 1, "cannot expire in the past"),
        ("keys rotate key_x", 1, "there is no key 'key_x'"),
        ("keys rotate key_x --overlap soon", 2, "not a duration"),
        ("keys revoke key_x", 1, "there is no key 'key_x'"),
        ("credit add acme 5", 2, "--reference"),
        ("credit add acme NaN --reference r", 2, "not an amount of euros"),
        ("credit add nobody 5 --reference r", 1, "there is no account named 'nobody'"),
        ("usage --account nobody", 1, "there is no account named 'nobody'"),
        ("usage --account acme --month 2026-13", 2, "not a month"),
        ("accounts list --config nowhere", 1, "nowhere"),
    ],
)
def test_a_mistake_is_told_in_a_line_without_a_traceback(state, line, code, says):
    out("accounts create acme --tier tier1")
    result = run(line)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)


def test_a_database_that_is_away_is_told_without_its_password(state, monkeypatch):
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", f"postgresql://tollgate:hunter2@127.0.0.1:{free_port()}/ledger")
    result = run("accounts list")
    assert result.exit_code == 1
    assert "the ledger does not answer" in result.stderr
    assert "hunter2" not in result.output


def test_an_outbox_that_cannot_be_read_is_told(state):
    out("accounts create acme --tier tier1")
    (state / "outbox-0.db").write_bytes(b"this is no database" * 100)
    result = run("usage --account acme")
    assert result.exit_code == 1
    assert "outbox-0.db cannot be read" in result.stderr


def test_a_batch_line_is_told_apart(state):
    account_id = as_json("accounts create acme --tier tier1")["id"]

    async def insert():
        database = Database.open(f"sqlite:///{state / 'ledger.db'}")
        calls = [entry(account_id=account_id, used=[(UsageType.INPUT, 5)], tariff_class=cls) for cls in TariffClass]
        await Ledger(database).insert(calls)
        await database.close()

    asyncio.run(insert())
    assert [line["class"] for line in as_json("usage --account acme --month 2026-11")["usage"]] == ["standard", "batch"]
