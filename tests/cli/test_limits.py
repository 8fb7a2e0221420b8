"""What operators type and read of limits: overrides of accounts, and limits of keys."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.cli.ledger_session import operator
from proxy.clock import unix_ms

CONFIG = Path(__file__).parents[2] / "config"
FAR = "2099-12-31"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    for name in ("TOLLGATE_DATABASE_URL", "TOLLGATE_REDIS_URL", "TOLLGATE_UPSTREAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOLLGATE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "250")
    shutil.copytree(CONFIG, tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    out("accounts", "create", "acme", "--tier", "tier1")


def run(*arguments: str):
    return CliRunner().invoke(main, arguments)


def out(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(*arguments: str):
    return json.loads(out(*arguments, "--json"))


def set_(*arguments: str, until: str = FAR, why: str = "launch"):
    return run("limits", "set", "acme", *arguments, "--until", until, "--why", why)


def test_an_override_is_set_listed_and_dropped():
    result = set_("--output-tokens-hour", "300_000", "--by", "ada")
    assert result.stdout.startswith("acme: output_tokens_hour 300,000 until 2100-01-01 00:00:00+01:00 (ovr_")
    (listed,) = as_json("limits", "list", "acme")
    assert (listed["limit"], listed["amount"], listed["state"]) == ("output_tokens_hour", 300_000, "in force")
    assert (listed["why"], listed["set_by"], listed["dropped_by"]) == ("launch", "ada", None)
    assert out("limits", "drop", listed["id"], "--by", "grace").startswith(
        "acme: output_tokens_hour is the tier's again"
    )
    (kept,) = as_json("limits", "list")
    assert (kept["state"], kept["dropped_by"]) == ("dropped", "grace")
    table = out("limits", "list")
    for text in (listed["id"], "acme", "output_tokens_hour", "300,000", "dropped", "ada", "launch"):
        assert text in table


def test_who_sets_it_is_the_operator_unless_somebody_else_is_named():
    set_("--requests", "5")
    assert [info["set_by"] for info in as_json("limits", "list")] == [operator()]


def test_every_number_of_a_tier_can_be_set_at_once():
    numbers = (
        ("output_tokens_hour", "unlimited"), ("output_tokens_day", "1"), ("requests", "2"), ("requests_window_s", "3"),
        ("monthly_limit", "4.50"), ("calls_in_flight", "6"),
    )  # fmt: skip
    options = [part for name, value in numbers for part in (f"--{name.replace('_', '-')}", value)]
    made = json.loads(set_(*options, "--json").stdout)
    assert {info["limit"]: info["amount"] for info in made} == {
        "output_tokens_hour": None,
        "output_tokens_day": 1,
        "requests": 2,
        "requests_window_s": 3,
        "monthly_limit": "4.50",
        "calls_in_flight": 6,
    }
    assert "4.50 €" in out("limits", "list")
    assert "unlimited" in out("limits", "list")


@pytest.mark.parametrize(
    ("until", "ends"),
    [
        ("2099-06-30", datetime(2099, 6, 30, 22, tzinfo=UTC)),  # the whole day, in Paris
        ("2099-12-31", datetime(2099, 12, 31, 23, tzinfo=UTC)),
        ("2099-12-31T12:00:00+00:00", datetime(2099, 12, 31, 12, tzinfo=UTC)),
    ],
)
def test_a_day_is_the_accounts_and_belongs_to_it(until, ends):
    set_("--requests", "5", until=until)
    assert as_json("limits", "list")[0]["ends_ms"] == int(ends.timestamp()) * 1000


def test_an_end_may_be_so_far_away():
    set_("--requests", "5", until="14d")
    assert abs(as_json("limits", "list")[0]["ends_ms"] - unix_ms() - 14 * 86_400_000) < 60_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--until", FAR, "--why", "x"), "give at least one limit"),
        (("--requests", "5", "--why", "x"), "Missing option '--until'"),
        (("--requests", "5", "--until", FAR), "Missing option '--why'"),
        (("--requests", "5", "--until", FAR, "--why", " "), "needs a reason"),
        (("--requests", "5", "--until", "2020-01-01", "--why", "x"), "in the past"),
        (("--requests", "5", "--until", "soon", "--why", "x"), "neither a duration (90d) nor a date"),
        (("--requests", "5", "--until", "2099-12-31T12:00", "--why", "x"), "needs its offset from UTC"),
        (("--requests", "unlimited", "--until", FAR, "--why", "x"), "not a whole number above 0: 'unlimited'"),
        (("--output-tokens-hour", "0", "--until", FAR, "--why", "x"), "not a whole number above 0, or 'unlimited'"),
        (("--output-tokens-hour", "-5", "--until", FAR, "--why", "x"), "not a whole number above 0"),
        (("--output-tokens-hour", "1e6", "--until", FAR, "--why", "x"), "not a whole number above 0"),
        (("--output-tokens-hour", "9" * 20, "--until", FAR, "--why", "x"), "output_tokens_hour is out of range"),
        (("--monthly-limit", "1.0000000000001", "--until", FAR, "--why", "x"), "--monthly-limit"),
        (("--monthly-limit", "9000001", "--until", FAR, "--why", "x"), "monthly_limit is out of range"),
        (("--requests-window-s", "86401", "--until", FAR, "--why", "x"), "requests_window_s is out of range"),
    ],
)
def test_what_makes_no_sense_is_said_and_changes_nothing(arguments, message):
    result = run("limits", "set", "acme", *arguments)
    assert result.exit_code != 0
    assert message in " ".join(result.output.replace("│", " ").split())
    assert as_json("limits", "list") == []


@pytest.mark.parametrize("arguments", [("list", "nobody"), ("drop", "ovr_none")])
def test_who_and_what_is_not_there_is_said(arguments):
    result = run("limits", *arguments)
    assert result.exit_code == 1
    assert result.output.startswith("Error: there is no ")


# Keys


def listed(key_id):
    return next(key for key in as_json("keys", "list") if key["id"] == key_id)


def test_a_key_is_made_with_limits_and_they_are_listed():
    made = as_json(
        "keys", "create", "acme", "--output-tokens-hour", "1_000", "--requests", "5", "--monthly-limit", "2.50"
    )
    assert set(made) == {"id", "key"}
    assert listed(made["id"])["limits"] == {
        "output_tokens_hour": 1000,
        "requests": 5,
        "requests_window_s": 60,
        "monthly_limit": "2.50",
    }
    shown = "output_tokens_hour 1,000, requests 5, monthly_limit 2.50 €, requests_window_s 60"
    assert shown in out("keys", "list")


def test_limits_of_a_key_are_changed_and_taken_away():
    made = as_json("keys", "create", "acme")
    assert listed(made["id"])["limits"] == {}
    said = out("keys", "limit", made["id"], "--calls-in-flight", "2", "--output-tokens-day", "9")
    assert said == f"Key {made['id']}: output_tokens_day 9, calls_in_flight 2.\n"
    out("keys", "limit", made["id"], "--output-tokens-day", "unlimited")
    assert listed(made["id"])["limits"] == {"calls_in_flight": 2}
    said = out("keys", "limit", made["id"], "--calls-in-flight", "unlimited")
    assert said == f"Key {made['id']}: no limits of its own.\n"
    assert listed(made["id"])["limits"] == {}


def test_a_key_that_takes_anothers_place_has_its_limits():
    made = as_json("keys", "create", "acme", "--requests", "5")
    new = as_json("keys", "rotate", made["id"])
    assert listed(new["id"])["limits"] == {"requests": 5, "requests_window_s": 60}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("limit", "key_none", "--requests", "5"), "there is no key 'key_none'"),
        (("limit", "key_none"), "give at least one limit"),
        (("create", "acme", "--requests", "unlimited"), "not a whole number above 0: 'unlimited'"),
        (("create", "acme", "--requests", "9" * 20), "requests is out of range"),
    ],
)
def test_wrong_limits_of_keys_are_said(arguments, message):
    result = run("keys", *arguments)
    assert result.exit_code != 0
    assert message in " ".join(result.output.replace("│", " ").split())
