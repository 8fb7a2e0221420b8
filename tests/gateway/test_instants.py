"""The instant of its admission decides a call's month, day, tier and price, whatever happens until it is settled.

Each test lets a whole proxy see another time and follows calls to the ledger and to ``tollgate usage``.
"""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli.usage import usage
from proxy.clock import unix_ms
from proxy.core.calendar import month_after, month_bounds_ms, month_of
from proxy.core.entries import Entry
from proxy.core.usage import UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.keys import Keys
from proxy.settings.types import Settings
from proxy.simulator import Options
from tests.support.stack import Stack, chat, running, write_config

DEAR = """
  - id: "dear"
    effective_from: {since}
    standard: {{input: 3.60, cached_input: 3.60, output: 16.00, reasoning: 16.00, rerank: 8.00, audio_minutes: 0.02}}
    batch: {{input: 1.80, cached_input: 1.80, output: 8.00, reasoning: 8.00}}
"""
PICO = {"2025-01": (1_800_000, 8_000_000), "dear": (3_600_000, 16_000_000)}
"""Of an input and of an output token, by price version."""


class Clock:
    """What the gateway and settlements take for the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = unix_ms()
        for user in ("proxy.gateway", "proxy.settlement", "proxy.views.desk"):
            monkeypatch.setattr(f"{user}.unix_ms", lambda: self.now_ms)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def key_of(stack: Stack, name: str, tier: str, timezone: str) -> tuple[str, str]:
    """Create an account in a zone; return its id and a token."""
    account = await Accounts(stack.app.database).create(name, tier, timezone)
    made = await Keys(stack.app.database).create(name)
    await stack.app.directory.refresh()
    return account.id, made.token


async def call_at(stack: Stack, clock: Clock, instant_ms: int, key: str | None = None) -> None:
    clock.now_ms = instant_ms
    status, answer, _ = await stack.ask(chat(max_tokens=5), key=key)
    assert status == 200, answer


async def in_ledger(stack: Stack, account: str, *months: str) -> list[Entry]:
    await stack.settled()
    entries = [entry for month in months for entry in await stack.app.ledger.entries_of(account, month)]
    return sorted(entries, key=lambda entry: entry.admitted_ms)


def printed_usage(environ: dict[str, str], config: Path, account: str, month: str) -> dict[str, object]:
    """Return what ``tollgate usage`` prints beside the running proxy."""
    arguments = ["--account", account, "--month", month, "--json", "--config", str(config)]
    result = CliRunner().invoke(usage, arguments, env=environ)
    assert result.exit_code == 0, result.output
    document: dict[str, object] = json.loads(result.stdout)
    return document


def ms(instant: str) -> int:
    return int(datetime.fromisoformat(instant).timestamp() * 1000)


# --- months and days -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timezone", "month", "hours", "first", "last"),
    [
        ("Europe/Paris", "2026-10", 745, "2026-09-30T22:00:00Z", "2026-10-31T22:59:59.999Z"),
        ("Europe/Paris", "2027-03", 743, "2027-02-28T23:00:00Z", "2027-03-31T21:59:59.999Z"),
        ("America/New_York", "2026-11", 721, "2026-11-01T04:00:00Z", "2026-12-01T04:59:59.999Z"),
        ("Pacific/Auckland", "2026-09", 719, "2026-08-31T12:00:00Z", "2026-09-30T10:59:59.999Z"),
        ("UTC", "2026-12", 744, "2026-12-01T00:00:00Z", "2026-12-31T23:59:59.999Z"),
    ],
)
async def test_a_call_falls_into_the_month_and_day_of_its_accounts_zone(
    tmp_path, clock, timezone, month, hours, first, last
):
    first_ms, last_ms = ms(first), ms(last)
    assert last_ms + 1 - first_ms == hours * 3_600_000
    before, after = month_of(first_ms - 1, timezone), month_after(month)
    async with running(tmp_path) as stack:
        account, key = await key_of(stack, "there", "monthly", timezone)
        for instant_ms in (first_ms - 1, first_ms, last_ms, last_ms + 1):
            await call_at(stack, clock, instant_ms, key)
        entries = await in_ledger(stack, account, before, month, after)
        assert [(entry.admitted_ms, entry.month) for entry in entries] == [
            (first_ms - 1, before), (first_ms, month), (last_ms, month), (last_ms + 1, after),
        ]  # fmt: skip
        assert [entry.day for entry in entries[1:]] == [f"{month}-01", f"{month}-{last_day(month)}", f"{after}-01"]
        environ = {"TOLLGATE_STATE_DIR": str(tmp_path / "state")}
        calls = {
            each: (await asyncio.to_thread(printed_usage, environ, Path("config"), "there", each))["calls"]
            for each in (before, month, after)
        }
        assert calls == {before: 1, month: 2, after: 1}


async def test_both_hours_of_the_night_that_is_longer_lie_in_its_day_and_are_counted_once(tmp_path, clock):
    async with running(tmp_path, tier="monthly") as stack:
        for hour in (
            "2026-10-24T22:00Z",
            "2026-10-25T00:30Z",
            "2026-10-25T01:30Z",
            "2026-10-25T22:59Z",
            "2026-10-25T23:00Z",
        ):
            await call_at(stack, clock, ms(hour))
        entries = await in_ledger(stack, stack.account, "2026-10")
        assert [entry.day for entry in entries] == [*["2026-10-25"] * 4, "2026-10-26"]
        of_day, of_month = await stack.app.views._reader.sums(stack.account, "2026-10-25", "2026-10")
        assert (of_day.calls, of_month.calls) == (4, 5)


async def test_a_call_that_is_settled_after_midnight_is_of_the_month_in_which_it_was_admitted(tmp_path, clock):
    async with running(tmp_path, options=Options(tokens_per_second=50), tier="monthly") as stack:
        clock.now_ms = ms("2026-10-31T22:59:59.999Z")
        async with stack.post(chat(max_tokens=20, stream=True)) as answer:
            await answer.content.readany()
            clock.now_ms = ms("2026-10-31T23:00:07Z")
            await answer.read()
        (entry,) = await in_ledger(stack, stack.account, "2026-10", "2026-11")
        assert (entry.month, entry.day) == ("2026-10", "2026-10-31")
        assert entry.settled_ms == ms("2026-10-31T23:00:07Z")


def last_day(month: str) -> int:
    start = datetime.fromisoformat(f"{month_after(month)}-01").replace(tzinfo=UTC)
    return (start - timedelta(days=1)).day


# --- tiers -----------------------------------------------------------------------------------------------------------


async def test_a_planned_tier_holds_from_the_first_call_of_the_month(tmp_path, clock, stores):
    async with running(tmp_path, environ=stores) as stack:
        month = month_of(unix_ms(), "Europe/Paris")
        _, turns_ms = month_bounds_ms(month, "Europe/Paris")
        await Accounts(stack.app.database).plan_tier("acme", "tier3")
        await stack.app.directory.refresh()
        clock.now_ms = turns_ms - 1
        _, _, before = await stack.ask(chat(max_tokens=5))
        clock.now_ms = turns_ms
        _, _, after = await stack.ask(chat(max_tokens=5))
        limits = [headers["X-RateLimit-Limit-Output-Tokens-Hour"] for headers in (before, after)]
        assert limits == ["150000", "450000"]
        entries = await in_ledger(stack, stack.account, month, month_after(month))
        assert [(entry.admitted_ms, entry.tier) for entry in entries] == [(turns_ms - 1, "tier1"), (turns_ms, "tier3")]
        async with stack.session.get(f"{stack.url}/v1/usage", headers=stack.auth()) as answer:
            assert (await answer.json())["tier"]["id"] == "tier3"


async def test_a_stream_that_spans_the_turn_keeps_the_tier_with_which_it_was_admitted(tmp_path, clock):
    async with running(tmp_path, options=Options(tokens_per_second=50)) as stack:
        month = month_of(unix_ms(), "Europe/Paris")
        _, turns_ms = month_bounds_ms(month, "Europe/Paris")
        await Accounts(stack.app.database).plan_tier("acme", "tier2")
        await stack.app.directory.refresh()
        clock.now_ms = turns_ms - 1
        async with stack.post(chat(max_tokens=20, stream=True)) as answer:
            await answer.content.readany()
            clock.now_ms = turns_ms + 1000
            await call_at(stack, clock, turns_ms + 1000)
            await answer.read()
        entries = await in_ledger(stack, stack.account, month, month_after(month))
        assert [entry.tier for entry in entries] == ["tier1", "tier2"]


# --- prices ----------------------------------------------------------------------------------------------------------


async def test_a_new_price_holds_from_its_instant_and_splits_the_lines_of_the_month(tmp_path, clock, stores):
    config = write_config(tmp_path)
    begins_ms = ms("2026-11-15T10:00:00Z")
    async with running(tmp_path, config=config, environ=stores, tier="monthly") as stack:
        stack.app._holder._clock_ms = lambda: clock.now_ms
        clock.now_ms = begins_ms - 60_000
        with (config / "prices.yaml").open("a") as file:
            file.write(DEAR.format(since="2026-11-15T11:00:00+01:00"))
        stack.app.reload()
        assert versions(stack.app._holder.current) == ["2025-01", "dear"]
        for instant_ms in (begins_ms - 1, begins_ms, begins_ms + 1):
            await call_at(stack, clock, instant_ms)
        entries = await in_ledger(stack, stack.account, "2026-11")
        assert [entry.charge.price_version for entry in entries] == ["2025-01", "dear", "dear"]
        for entry in entries:
            assert costs_what_its_version_says(entry)
        environ = {"TOLLGATE_STATE_DIR": str(tmp_path / "state"), **stores}
        document = await asyncio.to_thread(printed_usage, environ, config, "acme", "2026-11")
        lines = {(line["type"], line["price_version"]): line for line in document["usage"]}
        amounts = [entry.charge.lines for entry in entries]
        assert set(lines) == {(kind, version) for kind in ("input", "output") for version in ("2025-01", "dear")}
        assert lines["output", "2025-01"]["quantity"] == amount_of(amounts[:1], UsageType.OUTPUT)
        assert lines["output", "dear"]["quantity"] == amount_of(amounts[1:], UsageType.OUTPUT)
        used = await stack.app.ledger.usage(stack.account, "2026-11")
        assert used.cost_pico == sum(entry.charge.total_pico for entry in entries)
        assert sum(line.cost_pico for line in used.lines if line.price_version == "dear") == sum(
            entry.charge.total_pico for entry in entries[1:]
        )


async def test_a_stream_that_spans_a_price_change_is_priced_by_the_version_of_its_admission_alone(tmp_path, clock):
    config = write_config(tmp_path)
    begins_ms = ms("2026-11-15T10:00:00Z")
    options = Options(tokens_per_second=50)
    async with running(tmp_path, config=config, options=options, tier="monthly") as stack:
        stack.app._holder._clock_ms = lambda: clock.now_ms
        clock.now_ms = begins_ms - 1
        async with stack.post(chat(max_tokens=20, stream=True)) as answer:
            await answer.content.readany()
            with (config / "prices.yaml").open("a") as file:  # even one that is announced while it runs
                file.write(DEAR.format(since="2026-11-15T11:00:00+01:00"))
            stack.app.reload()
            clock.now_ms = begins_ms + 5000
            await answer.read()
        await call_at(stack, clock, begins_ms + 5000)
        spanning, after = await in_ledger(stack, stack.account, "2026-11")
        assert spanning.admitted_ms < begins_ms < spanning.settled_ms
        assert (spanning.charge.price_version, after.charge.price_version) == ("2025-01", "dear")
        assert costs_what_its_version_says(spanning)
        assert costs_what_its_version_says(after)


def costs_what_its_version_says(entry: Entry) -> bool:
    input_pico, output_pico = PICO[entry.charge.price_version]
    used = {line.usage_type: line.amount for line in entry.charge.lines}
    assert set(used) == {UsageType.INPUT, UsageType.OUTPUT}
    return entry.charge.total_pico == used[UsageType.INPUT] * input_pico + used[UsageType.OUTPUT] * output_pico


def amount_of(charges: list[tuple[object, ...]], kind: UsageType) -> int:
    return sum(line.amount for lines in charges for line in lines if line.usage_type is kind)


def versions(settings: Settings) -> list[str]:
    return [version.id for version in settings.prices.versions]
