"""What is found in the ledger: each thing once, whoever looks, however often and in whatever state it was left."""

import asyncio
import json

import msgspec
import pytest

from proxy.core.catalogue import Tier
from proxy.core.events import Event, EventKind
from proxy.core.levels import Overridable
from proxy.core.usage import UsageType
from proxy.events.watcher import EXPIRING_MS, FORGET_MS, Watcher
from proxy.ledger import schema
from proxy.ledger.accounts import Accounts
from proxy.ledger.credit import Credit
from proxy.ledger.directory import Directory
from proxy.ledger.errors import LedgerUnavailableError
from proxy.ledger.events import Events
from proxy.ledger.overrides import Overrides
from proxy.ledger.store import Ledger
from tests.events.receiver import no_float
from tests.ledger.support import NOON_MS, PRICES, entry, rows_of

EURO = 10**12
DAY_MS = 86_400_000
DECEMBER_MS = 1_796_079_600_000  # 2026-12-01 00:00 in Paris
OUTPUT_PICO = PRICES[UsageType.OUTPUT]
TIERS = {
    "small": Tier("small", "Small", 2 * EURO, 1000 * OUTPUT_PICO, None, None),
    "large": Tier("large", "Large", None, 10_000 * OUTPUT_PICO, None, None),
    "free": Tier("free", "Free", None, None, None, None),
}


class Scene:
    """A ledger with accounts, and watchers over it."""

    def __init__(self, database, clock):
        self.database, self.clock = database, clock
        self.ledger = Ledger(database, clock_ms=clock)
        self.accounts, self.credit = Accounts(database, clock), Credit(database, clock)
        self.directory = Directory(database)

    def watcher(self):
        return Watcher(self.database, lambda: self.directory.accounts, lambda: TIERS, self.clock)

    async def create(self, name, tier="free", **more):
        account = await self.accounts.create(name, tier, **more)
        await self.directory.refresh()
        return account

    async def buy(self, name, amount_pico, reference, last_day=None):
        await self.credit.add(name, amount_pico, reference, last_day)
        await self.directory.refresh()

    async def use(self, account, tokens, day="2026-11-24"):
        used = [(UsageType.OUTPUT, tokens)]
        await self.ledger.insert([entry(account_id=account.id, day=day, month=day[:7], used=used)])


@pytest.fixture
def scene(database, clock):
    return Scene(database, clock)


def brief(events):
    return sorted((event.kind.value, event.subject, event.threshold) for event in events)


async def test_each_threshold_of_a_months_budget_is_told_once(scene):
    account = await scene.create("acme", "small")
    watcher = scene.watcher()
    told = []
    for tokens in (499, 1, 0, 299, 1, 194, 1, 500):
        await scene.use(account, tokens)
        told.append(brief(await watcher.look()))
    month = "2026-11"
    assert told == [
        [],
        [("budget.reached", month, 50)],
        [],
        [],
        [("budget.reached", month, 80)],
        [],
        [("budget.reached", month, 100)],
        [],
    ]


async def test_several_at_once_are_each_told_with_exact_amounts(scene):
    account = await scene.create("acme", "small")
    await scene.use(account, 850)
    assert brief(await scene.watcher().look()) == [("budget.reached", "2026-11", 50), ("budget.reached", "2026-11", 80)]
    bodies = [json.loads(row["body"], parse_float=no_float) for row in await rows_of(scene.database, schema.events)]
    assert bodies[0]["type"] == "budget.reached"
    assert bodies[0]["timestamp"] == "2026-11-24T11:00:00Z"
    assert bodies[0]["data"] == {
        "account": "acme",
        "account_id": account.id,
        "month": "2026-11",
        "threshold_percent": 50,
        "spent_eur": "0.0068",
        "limit_eur": "0.008",
    }


async def test_another_replica_and_one_that_has_started_anew_find_nothing_more(scene):
    account = await scene.create("acme", "small")
    await scene.use(account, 900)
    found = await asyncio.gather(*(scene.watcher().look() for _ in range(4)))
    assert sum(len(each) for each in found) == 2
    assert await scene.watcher().look() == []
    assert len(await rows_of(scene.database, schema.events)) == 2


async def test_a_new_month_begins_anew_and_late_calls_of_the_old_one_count_there(scene):
    account = await scene.create("acme", "small")
    watcher = scene.watcher()
    await scene.use(account, 600, "2026-11-30")
    scene.clock.now_ms = NOON_MS + 7 * DAY_MS  # 1 December
    await scene.use(account, 300, "2026-11-30")
    await scene.use(account, 500, "2026-12-01")
    assert brief(await watcher.look()) == [
        ("budget.reached", "2026-11", 50),
        ("budget.reached", "2026-11", 80),
        ("budget.reached", "2026-12", 50),
    ]


async def test_an_override_of_the_monthly_limit_is_the_budget_while_it_runs(scene):
    account = await scene.create("acme", "small")
    overrides = Overrides(scene.database, scene.clock)
    await overrides.set("acme", {Overridable.MONTHLY_LIMIT: 10_000 * OUTPUT_PICO}, NOON_MS + DAY_MS, "a sale", "root")
    await scene.use(account, 900)
    watcher = scene.watcher()
    assert await watcher.look() == []
    scene.clock.now_ms += DAY_MS
    assert brief(await watcher.look()) == [("budget.reached", "2026-11", 50), ("budget.reached", "2026-11", 80)]


async def test_thresholds_of_credit_are_those_of_what_the_month_began_with_or_bought(scene):
    account = await scene.create("acme")
    await scene.buy("acme", 1000 * OUTPUT_PICO, "first")
    await scene.use(account, 700, "2026-10-31")  # before it was bought: to be invoiced
    watcher = scene.watcher()
    assert await watcher.look() == []
    await scene.use(account, 500)
    assert brief(await watcher.look()) == [("credit.reached", "2026-11", 50)]
    await scene.buy("acme", 1000 * OUTPUT_PICO, "second")
    assert await watcher.look() == []
    await scene.use(account, 1100)
    (event,) = await watcher.look()
    assert brief([event]) == [("credit.reached", "2026-11", 80)]
    assert (event.data["drawn_eur"], event.data["credit_eur"], event.data["balance_eur"]) == (
        "0.0128",
        "0.016",
        "0.0032",
    )
    scene.clock.now_ms = NOON_MS + 10 * DAY_MS
    await scene.use(account, 210, "2026-12-04")
    assert brief(await watcher.look()) == [("credit.reached", "2026-12", 50)]


async def test_credit_that_has_ended_no_longer_counts(scene):
    account = await scene.create("acme")
    await scene.buy("acme", 1000 * OUTPUT_PICO, "short", "2026-11-25")
    await scene.buy("acme", 1000 * OUTPUT_PICO, "long", "2027-12-31")
    await scene.use(account, 300)
    watcher = scene.watcher()
    assert brief(await watcher.look())[0][0] == "credit.expiring"
    scene.clock.now_ms += 2 * DAY_MS
    await scene.use(account, 500, "2026-11-26")
    assert brief(await watcher.look()) == [("credit.reached", "2026-11", 50)]
    assert brief(await scene.watcher().look()) == []


async def test_very_many_accounts_are_looked_at_a_part_at_a_time(scene, monkeypatch):
    monkeypatch.setattr("proxy.events.watcher.UNKNOWN_AT_ONCE", 2)
    for name in "abcde":
        account = await scene.create(name)
        await scene.buy(name, 1000 * OUTPUT_PICO, "first")
        await scene.use(account, 600)
    watcher = scene.watcher()
    assert [len(await watcher.look()) for _ in range(4)] == [2, 2, 1, 0]


async def test_a_lot_that_ends_within_a_week_is_told_once_if_it_holds_something(scene):
    account = await scene.create("acme")
    await scene.buy("acme", 100 * OUTPUT_PICO, "spent", "2026-12-01")
    await scene.buy("acme", 1000 * OUTPUT_PICO, "kept", "2026-12-01")
    await scene.buy("acme", EURO, "later", "2027-06-30")
    await scene.use(account, 300)
    watcher = scene.watcher()
    lots = {lot.reference: lot for lot in await scene.credit.lots()}
    scene.clock.now_ms = lots["kept"].expires_ms - EXPIRING_MS - 1
    assert await watcher.look() == []
    scene.clock.now_ms += 1
    (event,) = await watcher.look()
    assert brief([event]) == [("credit.expiring", lots["kept"].id, 0)]
    assert event.data == {
        "account": "acme",
        "account_id": account.id,
        "lot": lots["kept"].id,
        "reference": "kept",
        "left_eur": "0.0064",
        "last_day": "2026-12-01",
        "expires_at": "2026-12-01T23:00:00Z",
    }
    assert await watcher.look() == []
    assert await scene.watcher().look() == []


async def test_a_tier_that_has_been_paid_is_told_once(scene):
    account = await scene.create("acme", "small")
    watcher = scene.watcher()
    await scene.buy("acme", EURO, "half")
    assert await watcher.look() == []
    await scene.buy("acme", EURO, "rest")
    (event,) = await watcher.look()
    assert (event.kind, event.subject) == (EventKind.TIER_ACTIVATED, "small")
    assert (event.data["paid_eur"], event.data["purchase_credit_eur"]) == ("2.00", "2.00")
    await scene.accounts.set_tier("acme", "free")
    await scene.directory.refresh()
    assert await watcher.look() == []
    await scene.accounts.set_tier(account.id, "small")
    await scene.directory.refresh()
    assert await watcher.look() == []


async def test_a_planned_tier_is_told_when_it_comes_and_one_that_was_given_up_never(scene):
    await scene.create("acme", "free", credit_pico=2 * EURO)
    await scene.create("other", "free", credit_pico=2 * EURO)
    for name in ("acme", "other"):
        await scene.accounts.plan_tier(name, "small")
    await scene.accounts.keep_tier("other")
    await scene.directory.refresh()
    watcher = scene.watcher()
    scene.clock.now_ms = DECEMBER_MS - 1
    assert await watcher.look() == []
    scene.clock.now_ms = DECEMBER_MS
    (event,) = await watcher.look()
    assert (event.kind, event.data["account"]) == (EventKind.TIER_ACTIVATED, "acme")
    assert await watcher.look() == []


@pytest.mark.parametrize("is_planned", [True, False])
async def test_a_month_that_is_over_is_held_to_the_tier_of_its_end(scene, is_planned):
    account = await scene.create("acme", "large")
    if is_planned:
        await scene.accounts.plan_tier("acme", "small")
    await scene.use(account, 950)  # nearly all that "small" allows, and a tenth of what "large" does
    scene.clock.now_ms = DECEMBER_MS
    if not is_planned:
        await scene.accounts.set_tier("acme", "small")
    await scene.directory.refresh()
    watcher = scene.watcher()
    assert await watcher.look() == []
    await scene.accounts.plan_tier("acme", "free")  # which writes what had come due
    await scene.directory.refresh()
    assert await watcher.look() == []
    await scene.use(account, 950, "2026-12-01")
    assert {event.subject for event in await watcher.look()} == {"2026-12"}


async def test_what_was_activated_long_ago_is_not_told(scene):
    await scene.create("acme", "small", credit_pico=2 * EURO)
    scene.clock.now_ms += 8 * DAY_MS
    assert await scene.watcher().look() == []


async def test_a_look_that_failed_is_made_up_for(scene):
    account = await scene.create("acme")
    await scene.buy("acme", 1000 * OUTPUT_PICO, "first")
    await scene.use(account, 600)
    watcher = scene.watcher()
    record = watcher._events.record

    async def fail(*_):
        raise LedgerUnavailableError("away")

    watcher._events.record = fail
    with pytest.raises(LedgerUnavailableError):
        await watcher.look()
    watcher._events.record = record
    assert brief(await watcher.look()) == [("credit.reached", "2026-11", 50)]


async def test_what_is_remembered_is_made_up_anew_and_nothing_is_told_twice(scene):
    account = await scene.create("acme", "small", credit_pico=2 * EURO)
    await scene.use(account, 900)
    watcher = scene.watcher()
    assert len(await watcher.look()) == 3
    scene.clock.now_ms += FORGET_MS
    assert await watcher.look() == []


async def test_accounts_of_tiers_that_are_gone_are_passed_over(scene):
    account = await scene.create("acme", "gone", credit_pico=EURO)
    await scene.use(account, 900)
    await scene.ledger.insert([entry(account_id="acc_unknown")])
    assert await scene.watcher().look() == []


async def test_the_same_thing_is_kept_once_whatever_is_said_of_it(database, clock):
    events = Events(database)
    account = await Accounts(database, clock).create("acme", "free")
    watcher = Watcher(database, dict, dict, clock)
    assert await watcher.look() == []
    event = Event(account.id, EventKind.BUDGET_REACHED, "2026-11", 50, {"spent_eur": "1.00"})
    again = msgspec.structs.replace(event, data={"spent_eur": "2.00"})
    assert await events.record([event, again], clock()) == [event]
    assert await events.record([again], clock()) == []
    ((name, kept),) = await events.all(account.id)
    assert (name, "1.00" in kept.body, kept.next_attempt_ms) == ("acme", True, NOON_MS)
