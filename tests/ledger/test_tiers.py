"""Tiers change at once or from the account's next month on, on every replica, and say who decided it."""

import random
from datetime import datetime

import pytest
from sqlalchemy import select, text

from proxy.core.accounts import PlannedTier
from proxy.core.calendar import month_bounds_ms
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.directory import Directory
from proxy.ledger.errors import LedgerRefusedError, UnknownAccountError
from proxy.ledger.keys import Keys
from proxy.ledger.lot_states import LotStateReader
from proxy.ledger.migrations import migrate
from proxy.ledger.month_sums import read_tiers
from proxy.ledger.months_entries import MonthsEntries
from proxy.ledger.schema import directory_changes
from proxy.ledger.store import Ledger
from proxy.ledger.tiers import TierChange, standing_changes
from tests.ledger.support import NOON_MS, entry

DECEMBER_MS = 1_796_079_600_000  # 2026-12-01 00:00 in Paris
JANUARY_MS = 1_798_758_000_000  # 2027-01-01 00:00 in Paris
DAY_MS = 86_400_000


@pytest.fixture
def accounts(database, clock):
    return Accounts(database, clock)


async def replica(database, **options):
    directory = Directory(database, **options)
    await directory.refresh()
    return directory


async def version(database):
    async with database.read() as connection:
        return (await connection.execute(select(directory_changes.c.version))).scalar_one()


@pytest.mark.parametrize(
    ("timezone", "month", "ends"),
    [
        ("Europe/Paris", "2026-10", "2026-10-31T23:00Z"),  # 745 hours
        ("Europe/Paris", "2027-03", "2027-03-31T22:00Z"),  # 743 hours
        ("America/New_York", "2026-10", "2026-11-01T04:00Z"),  # the clocks go back two hours after
        ("Pacific/Auckland", "2026-09", "2026-09-30T11:00Z"),  # they went forward four days before
        ("UTC", "2026-12", "2027-01-01T00:00Z"),
    ],
)
async def test_two_replicas_turn_at_the_first_instant_of_the_month_and_nobody_writes(
    database_url, database, accounts, clock, timezone, month, ends
):
    starts_ms, ends_ms = month_bounds_ms(month, timezone)
    clock.now_ms = starts_ms
    await accounts.create("acme", "tier1", timezone)
    token = (await Keys(database, clock).create("acme")).token
    other = Database.open(database_url, pool_size=1)
    replicas = [await replica(database), await replica(other)]
    clock.now_ms = ends_ms - 1
    planned = await accounts.plan_tier("acme", "tier3", by="root")
    assert planned.planned == PlannedTier("tier3", ends_ms)
    assert planned.tier == "tier1"
    assert [await each.refresh() for each in replicas] == [True, True]
    before = await version(database)
    for directory in replicas:
        for now_ms, tier in ((starts_ms, "tier1"), (ends_ms - 1, "tier1"), (ends_ms, "tier3"), (ends_ms + 1, "tier3")):
            assert directory.authenticate(token, now_ms).account.tier == tier
            assert [account.at(now_ms).tier for account in directory.accounts.values()] == [tier]
    assert await version(database) == before
    await other.close()
    async with database.read() as connection:
        text_ms = (await connection.execute(text("SELECT next_tier_ms FROM accounts"))).scalar_one()
    assert text_ms == ms(ends)


async def test_a_planned_change_is_made_while_the_database_is_away(database, accounts, clock):
    await accounts.create("acme", "tier1")
    token = (await Keys(database, clock).create("acme")).token
    await accounts.plan_tier("acme", "tier2")
    directory = await replica(database)
    async with database.write() as connection:
        await connection.execute(text("ALTER TABLE accounts RENAME TO away"))
    assert directory.authenticate(token, DECEMBER_MS - 1).account.tier == "tier1"
    assert directory.authenticate(token, DECEMBER_MS).account.tier == "tier2"


async def test_every_reader_goes_by_his_clock(database, accounts, clock):
    account = await accounts.create("acme", "tier1")
    await accounts.plan_tier("acme", "tier2")
    assert [each.tier for each in await accounts.all()] == ["tier1"]
    clock.now_ms = DECEMBER_MS
    assert [(each.tier, each.planned) for each in await accounts.all()] == [("tier2", None)]
    assert (await accounts.named(account.id)).tier == "tier2"


async def test_a_plan_says_who_decided_it_and_when_and_takes_the_place_of_another(accounts, clock):
    account = await accounts.create("acme", "tier1", by="a")
    clock.now_ms += 1000
    await accounts.plan_tier("acme", "tier2", by="b")
    clock.now_ms += 1000
    await accounts.plan_tier("acme", "tier3", by="c")
    assert await accounts.tier_history(account.id) == [
        TierChange(NOON_MS, "tier1", "a", NOON_MS),
        TierChange(DECEMBER_MS, "tier2", "b", NOON_MS + 1000, NOON_MS + 2000, "c"),
        TierChange(DECEMBER_MS, "tier3", "c", NOON_MS + 2000),
    ]
    assert (await accounts.named("acme")).at(DECEMBER_MS).tier == "tier3"


async def test_a_plan_can_be_given_up_and_made_again_within_a_millisecond(accounts):
    account = await accounts.create("acme", "tier1")
    for tier in ("tier2", "tier3", "tier2"):
        await accounts.plan_tier("acme", tier)
        assert (await accounts.keep_tier("acme", by="z")).planned is None
    await accounts.plan_tier("acme", "tier4")
    history = await accounts.tier_history(account.id)
    assert [(change.tier, change.dropped_by) for change in history] == [
        ("tier1", None), ("tier2", "z"), ("tier3", "z"), ("tier2", "z"), ("tier4", None),
    ]  # fmt: skip
    assert len({change.decided_ms for change in history[1:]}) == 4


async def test_the_same_plan_again_changes_nothing_and_so_does_giving_up_none(accounts, database):
    account = await accounts.create("acme", "tier1")
    await accounts.keep_tier("acme")
    await accounts.plan_tier("acme", "tier1")
    await accounts.plan_tier("acme", "tier2")
    before = await version(database), await accounts.tier_history(account.id)
    assert (await accounts.plan_tier("acme", "tier2", by="other")).planned == PlannedTier("tier2", DECEMBER_MS)
    assert (await version(database), await accounts.tier_history(account.id)) == before
    assert len(before[1]) == 2


async def test_to_plan_the_tier_that_is_held_is_to_give_up_the_plan(accounts):
    account = await accounts.create("acme", "tier1")
    await accounts.plan_tier("acme", "tier2")
    assert (await accounts.plan_tier("acme", "tier1", by="b")).planned is None
    assert (await accounts.tier_history(account.id))[-1].dropped_by == "b"


async def test_a_change_at_once_leaves_the_planned_one_standing(accounts, clock):
    account = await accounts.create("acme", "tier1")
    await accounts.plan_tier("acme", "tier3")
    clock.now_ms += 1000
    changed = await accounts.set_tier("acme", "tier2", by="b")
    assert (changed.tier, changed.planned) == ("tier2", PlannedTier("tier3", DECEMBER_MS))
    assert changed == await accounts.named("acme")
    clock.now_ms = DECEMBER_MS + 5
    assert (await accounts.named("acme")).tier == "tier3"
    assert (await accounts.set_tier("acme", "tier1")).planned is None
    assert [(change.effective_ms, change.tier) for change in await accounts.tier_history(account.id)] == [
        (NOON_MS, "tier1"), (NOON_MS + 1000, "tier2"), (DECEMBER_MS, "tier3"), (DECEMBER_MS + 5, "tier1"),
    ]  # fmt: skip


async def test_a_change_at_the_instant_of_the_planned_one_comes_after_it(accounts, clock):
    account = await accounts.create("acme", "tier1")
    await accounts.plan_tier("acme", "tier3")
    clock.now_ms = DECEMBER_MS
    await accounts.set_tier("acme", "tier2")
    assert (await accounts.named("acme")).tier == "tier2"
    assert (await accounts.tier_history(account.id))[-1].effective_ms == DECEMBER_MS + 1


async def test_a_change_after_a_plan_that_was_given_up_takes_effect_at_once(accounts, clock):
    account = await accounts.create("acme", "tier1")
    await accounts.plan_tier("acme", "tier3")
    await accounts.keep_tier("acme")
    clock.now_ms += 1000
    await accounts.set_tier("acme", "tier2")
    assert (await accounts.tier_history(account.id))[1].effective_ms == NOON_MS + 1000


async def test_a_plan_for_nobody_is_refused(accounts):
    for change in (accounts.plan_tier("nobody", "tier1"), accounts.keep_tier("nobody")):
        with pytest.raises(UnknownAccountError, match="nobody"):
            await change


async def test_what_is_held_follows_from_the_history_whatever_was_decided(accounts, database, clock):
    """Nobody's account row, read by any clock, says other than the rows that stand."""
    decisions = random.Random(7)
    account = await accounts.create("acme", "tier0")
    for _ in range(60):
        clock.now_ms += decisions.choice((0, 1, DAY_MS, 5 * DAY_MS, max(0, DECEMBER_MS - clock.now_ms)))
        tier = f"tier{decisions.randrange(4)}"
        match decisions.randrange(4):
            case 0:
                await accounts.set_tier("acme", tier)
            case 1 | 2:
                await accounts.plan_tier("acme", tier)
            case _:
                await accounts.keep_tier("acme")
        known = await accounts.named("acme")
        async with database.read() as connection:
            changes = (await standing_changes(connection))[account.id]
        begin_ms = clock.now_ms + 100  # of several changes in one millisecond each took effect a little later
        for at_ms in range(begin_ms, begin_ms + 62 * DAY_MS, DAY_MS):
            assert known.at(at_ms).tier == [tier for since, tier in changes if since <= at_ms][-1]


async def test_a_replay_knows_a_plan_only_in_the_months_in_which_it_held(accounts, database, clock):
    account = await accounts.create("acme", "tier1")
    await accounts.plan_tier("acme", "tier2")
    await accounts.plan_tier("acme", "tier3")
    ledger = Ledger(database, clock_ms=clock)
    await ledger.insert([entry(account_id=account.id), entry(account_id=account.id, month="2026-12", day="2026-12-01")])
    months = MonthsEntries(database, clock)
    assert [(await months.holders(month))[0].tiers for month in ("2026-11", "2026-12")] == [("tier1",), ("tier3",)]
    assert (await months.holders("2026-10"))[0].tiers == ("tier1",)  # no calls: what it holds now
    clock.now_ms = JANUARY_MS
    assert (await months.holders("2026-10"))[0].tiers == ("tier3",)


async def test_an_invoice_names_the_tier_of_the_months_end_and_never_one_that_was_given_up(accounts, database, clock):
    account = await accounts.create("acme", "tier1")
    await accounts.plan_tier("acme", "tier2")
    await accounts.plan_tier("acme", "tier3")
    kept = await accounts.create("kept", "tier1")
    await accounts.plan_tier("kept", "tier2")
    await accounts.keep_tier("kept")
    ids = [account.id, kept.id]
    async with database.read() as connection:
        november = await read_tiers(connection, ids, dict.fromkeys(ids, DECEMBER_MS))
        december = await read_tiers(connection, ids, dict.fromkeys(ids, JANUARY_MS))
    assert november == {account.id: "tier1", kept.id: "tier1"}
    assert december == {account.id: "tier3", kept.id: "tier1"}
    clock.now_ms = DECEMBER_MS
    (state,) = await LotStateReader(database, clock).read([account.id])
    assert state.account.tier == "tier3"


async def test_the_database_itself_refuses_to_rewrite_the_history(accounts, database):
    await accounts.create("acme", "tier1")
    await accounts.plan_tier("acme", "tier2")
    await accounts.keep_tier("acme")
    for statement in (
        "DELETE FROM account_tiers",
        "UPDATE account_tiers SET tier = 'tier4'",
        "UPDATE account_tiers SET changed_by = 'nobody'",
        "UPDATE account_tiers SET decided_ms = 1",
        "UPDATE account_tiers SET dropped_ms = NULL, dropped_by = NULL",
        f"UPDATE account_tiers SET dropped_ms = effective_ms, dropped_by = 'x' WHERE effective_ms = {NOON_MS}",
        "UPDATE accounts SET timezone = 'UTC'",
    ):
        with pytest.raises(LedgerRefusedError):
            await execute(database, statement)
    assert [change.tier for change in await accounts.tier_history((await accounts.named("acme")).id)] == [
        "tier1",
        "tier2",
    ]


async def test_a_ledger_from_before_keeps_its_history(database_url, monkeypatch):
    monkeypatch.setattr("proxy.ledger.migrations.HEAD", "0005")
    await migrate(database_url)
    database = Database.open(database_url)
    await execute(
        database,
        "INSERT INTO accounts (id, name, tier, timezone, created_ms) VALUES ('a', 'acme', 'tier2', 'Europe/Paris', 1)",
    )
    for at_ms, tier, by in ((1, "tier1", "x"), (5, "tier2", "y")):
        await execute(database, f"INSERT INTO account_tiers VALUES ('a', {at_ms}, '{tier}', '{by}')")
    monkeypatch.undo()
    await migrate(database_url)
    store = Accounts(database)
    assert await store.tier_history("a") == [TierChange(1, "tier1", "x", 1), TierChange(5, "tier2", "y", 5)]
    assert ((await store.named("acme")).tier, (await store.named("acme")).planned) == ("tier2", None)
    await database.close()


async def execute(database, statement):
    async with database.write() as connection:
        await connection.execute(text(statement))


def ms(instant: str) -> int:
    return int(datetime.fromisoformat(instant).timestamp()) * 1000
