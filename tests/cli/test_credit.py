"""What operators type and read of prepaid euros."""

import asyncio
import json

import click
import pytest
from click.testing import CliRunner

from proxy.cli.accounts import accounts
from proxy.cli.credit import credit
from proxy.cli.events import events
from proxy.clock import unix_ms
from proxy.core.calendar import day_bounds_ms, day_of, month_of
from proxy.core.events import Event, EventKind
from proxy.core.money import euros_text
from proxy.core.usage import UsageType
from proxy.ledger.database import Database
from proxy.ledger.events import Events
from proxy.ledger.outbox import Outbox
from proxy.ledger.store import Ledger
from tests.ledger.support import PRICES, entry

COMMANDS = {"accounts": accounts, "credit": credit, "events": events}
TODAY = day_of(unix_ms(), "Europe/Paris")


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("TOLLGATE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("TOLLGATE_DATABASE_URL", raising=False)
    return tmp_path / "state"


def run(line):
    group, *words = line.split()
    command = COMMANDS[group]
    assert isinstance(command, click.Command)
    return CliRunner().invoke(command, words)


def out(line):
    result = run(line)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(line):
    return json.loads(out(f"{line} --json"), parse_float=no_float)


def no_float(text):
    raise AssertionError(f"a float: {text}")


def use(state, account_id, *tokens, day=TODAY):
    """Let an account use output tokens of a call each, as the ledger tells."""

    async def insert():
        database = Database.open(f"sqlite:///{state / 'ledger.db'}")
        await Ledger(database).insert(
            [entry(account_id=account_id, day=day, month=day[:7], used=[(UsageType.OUTPUT, count)]) for count in tokens]
        )
        await database.close()

    asyncio.run(insert())


@pytest.mark.parametrize(("command", "column"), [("credit list acme", 2), ("credit history acme", 1)])
def test_a_reference_is_whole_on_a_narrow_terminal(state, monkeypatch, command, column):
    reference = "transfer-" + "0123456789" * 6
    out("accounts create acme --tier tier1")
    out(f"credit add acme 50 --reference {reference}")
    monkeypatch.setenv("COLUMNS", "80")
    table = out(command).partition("└")[0]
    rows = [line.split("│") for line in table.splitlines() if line.startswith("│")]
    assert "".join(row[column].strip() for row in rows) == reference


def test_a_purchase_may_be_typed_twice(state):
    out("accounts create acme --tier tier1")
    assert out("credit add acme 50.25 --reference R7 --expires 2099-12-31") == (
        "Added 50.25 € to acme (R7, until 2099-12-31).\n"
    )
    assert "nothing changed" in out("credit add acme 50.25 --reference R7 --expires 2099-12-31")
    again = as_json("credit add acme 50.25 --reference R7 --expires 2099-12-31")
    assert (again["new"], again["amount_eur"], again["last_day"]) == (False, "50.25", "2099-12-31")
    assert again["expires_ms"] == day_bounds_ms("2099-12-31", "Europe/Paris")[1]
    refused = run("credit add acme 50.26 --reference R7 --expires 2099-12-31")
    assert (refused.exit_code, "another purchase" in refused.stderr) == (1, True)
    assert [lot["reference"] for lot in as_json("credit list acme")] == ["R7"]
    assert "2099-12-31" in out("credit list")


def test_an_end_may_be_so_far_away(state):
    out("accounts create acme --tier tier1 --timezone Pacific/Auckland")
    made = as_json("credit add acme 1 --reference r --expires 10d")
    assert made["last_day"] == day_of(made["bought_ms"] + 10 * 86_400_000, "Pacific/Auckland")
    for wrong in ("2026-13-01", "soon", "-3d"):
        refused = run(f"credit add acme 1 --reference x --expires={wrong}")
        assert (refused.exit_code, "neither a date" in refused.stderr) == (2, True)
    assert "is over" in run("credit add acme 1 --reference x --expires 2020-01-01").stderr


def test_a_balance_counts_the_ledger_and_what_waits_in_the_outbox(state):
    account_id = as_json("accounts create acme --tier tier1 --credit 200")["id"]
    use(state, account_id, 1000, 7)

    async def wait_in_outbox():
        outbox = Outbox(state / "outbox-0.db")
        used = [(UsageType.OUTPUT, 1)]
        await outbox.commit(entry(account_id=account_id, day=TODAY, month=TODAY[:7], used=used))
        await outbox.close()

    asyncio.run(wait_in_outbox())
    drawn = 1008 * PRICES[UsageType.OUTPUT]
    balance = as_json("credit balance acme")
    assert balance == {
        "account": "acme",
        "day": day_of(unix_ms(), "Europe/Paris"),
        "balance_eur": euros_text(200 * 10**12 - drawn),
        "paid_eur": "200.00",
        "drawn_eur": euros_text(drawn),
        "lapsed_eur": "0.00",
        "tier": "tier1",
        "tier_active": True,
        "prepaid_only": False,
    }
    assert f"{euros_text(200 * 10**12 - drawn)} € left" in out("credit balance acme")


def test_a_tier_that_is_not_paid_is_told(state):
    out("accounts create acme --tier tier1 --credit 199.99")
    assert "has not been paid" in out("credit balance acme")
    out("credit add acme 0.01 --reference rest")
    assert "has not been paid" not in out("credit balance acme")


def test_a_history_tells_lots_and_months(state):
    account_id = as_json("accounts create acme --tier tier1")["id"]
    out("credit add acme 0.01 --reference small --expires 2099-01-01")
    out("credit add acme 1 --reference large --note thanks")
    use(state, account_id, 2000)
    use(state, account_id, 5, day="2020-01-01")
    shown = as_json("credit history acme")
    assert [(lot["reference"], lot["amount_eur"], lot["left_eur"], lot["note"]) for lot in shown["lots"]] == [
        ("small", "0.01", "0.00", ""),
        ("large", "1.00", "0.994", "thanks"),
    ]
    before, now = shown["months"]
    assert (before["month"], before["drawn_eur"], before["invoiced_eur"]) == ("2020-01", "0.00", "0.00004")
    assert now == {
        "month": month_of(unix_ms(), "Europe/Paris"),
        "before_eur": "0.00",
        "bought_eur": "1.01",
        "drawn_eur": "0.016",
        "lapsed_eur": "0.00",
        "after_eur": "0.994",
        "invoiced_eur": "0.00",
        "draws": [{"reference": "small", "amount_eur": "0.01"}, {"reference": "large", "amount_eur": "0.006"}],
    }
    text = out("credit history acme")
    assert "thanks" in text
    assert "0.994" in text


def test_an_account_is_held_to_its_credit_and_let_go(state):
    out("accounts create acme --tier tier1")
    assert "prepaid only" not in out("accounts show acme")
    assert out("accounts set acme --prepaid-only") == "Account acme can spend its credit only.\n"
    assert "prepaid only" in out("accounts show acme")
    assert as_json("credit balance acme")["prepaid_only"]
    assert "invoiced" in out("accounts set acme --invoiced")
    assert as_json("accounts create other --tier tier1 --prepaid-only")["prepaid_only"]
    refused = run("accounts set acme")
    assert (refused.exit_code, "nothing to set" in refused.stderr) == (2, True)
    assert run("accounts set nobody --prepaid-only").exit_code == 1


def test_events_are_listed_with_their_state(state):
    account_id = as_json("accounts create acme --tier tier1")["id"]

    async def happen():
        database = Database.open(f"sqlite:///{state / 'ledger.db'}")
        store = Events(database)
        found = [Event(account_id, EventKind.BUDGET_REACHED, "2026-11", each, {"n": "1.00"}) for each in (50, 80, 100)]
        await store.record(found, 1000)
        first, second, _ = await store.due(1000, 3)
        await store.acknowledge(first.id, 2000)
        await store.give_up(second.id)
        await database.close()

    asyncio.run(happen())
    listed = as_json("events --account acme")
    assert sorted(event["state"] for event in listed) == ["acknowledged", "given up", "waiting"]
    assert listed[0]["message"]["data"] == {"n": "1.00"}
    assert len(as_json("events --last 2")) == 2
    shown = out("events")
    assert "budget.reached 100 %" in shown
    assert run("events --account nobody").exit_code == 1
