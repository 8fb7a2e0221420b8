"""Overrides and limits of keys: kept with their history, felt by every replica, seeded from what they count."""

import asyncio

import pytest
from msgspec.structs import replace
from sqlalchemy import update

from proxy.core.catalogue import OwnLimits
from proxy.core.levels import EUROS_MAX, Overridable, Override
from proxy.core.limit_names import scope_of_model
from proxy.core.limits import UNLIMITED
from proxy.core.quotas import UNLIMITED_PICO, key_limits_of, model_limits_of
from proxy.core.usage import UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.directory import Directory
from proxy.ledger.errors import RefusedChangeError, UnknownAccountError, UnknownKeyError, UnknownOverrideError
from proxy.ledger.keys import Keys
from proxy.ledger.overrides import Overrides
from proxy.ledger.schema import entries, limit_overrides
from proxy.ledger.store import Ledger
from tests.ledger.support import NOON_MS, entry, rows_of
from tests.support.tampering import unguard

HOUR = Overridable.OUTPUT_TOKENS_HOUR
REQUESTS = Overridable.REQUESTS
MONTHLY = Overridable.MONTHLY_LIMIT
TODAY_MS = NOON_MS + 10**12  # far from now, whatever now is: the directory asks the real clock


@pytest.fixture
async def account(database, clock):
    return await Accounts(database, clock).create("acme", "tier1")


@pytest.fixture
def overrides(database, clock, account):
    return Overrides(database, clock)


@pytest.fixture
def keys(database, clock, account):
    return Keys(database, clock)


async def principal_of(database, token):
    directory = Directory(database)
    await directory.refresh()
    return directory.authenticate(token, NOON_MS)


# Overrides


async def test_an_override_is_kept_with_who_and_why(overrides, account):
    made = await overrides.set("acme", {HOUR: 300_000, MONTHLY: None}, TODAY_MS, " launch ", "ada")
    assert [(info.limit, info.amount, info.ends_ms, info.why, info.set_by) for info in made] == [
        (HOUR, 300_000, TODAY_MS, "launch", "ada"),
        (MONTHLY, None, TODAY_MS, "launch", "ada"),
    ]
    assert await overrides.all("acme") == made
    assert await overrides.all(account.id) == made
    assert await overrides.all() == made


async def test_a_dropped_one_stays_in_the_history_with_who_dropped_it(overrides, clock, database):
    (made,) = await overrides.set("acme", {HOUR: 300_000}, TODAY_MS, "launch", "ada")
    clock.now_ms += 5000
    dropped = await overrides.drop(made.id, "grace")
    assert dropped == replace(made, dropped_ms=NOON_MS + 5000, dropped_by="grace")
    clock.now_ms += 5000
    assert await overrides.drop(made.id, "somebody else") == dropped
    assert await overrides.all() == [dropped]
    assert len(await rows_of(database, limit_overrides)) == 1


async def test_one_that_is_over_is_not_dropped(overrides, clock):
    (made,) = await overrides.set("acme", {HOUR: 300_000}, NOON_MS + 1000, "launch", "ada")
    clock.now_ms += 1000
    assert await overrides.drop(made.id, "grace") == made


@pytest.mark.parametrize(
    ("numbers", "ends_ms", "why", "message"),
    [
        ({}, TODAY_MS, "launch", "at least one limit"),
        ({HOUR: 1}, NOON_MS, "launch", "in the past"),
        ({HOUR: 1}, TODAY_MS, "  ", "a reason"),
        ({HOUR: 0}, TODAY_MS, "launch", "out of range"),
        ({HOUR: UNLIMITED + 1}, TODAY_MS, "launch", "out of range"),
        ({MONTHLY: EUROS_MAX * 10**12 + 1}, TODAY_MS, "launch", "out of range"),
        ({Overridable.REQUESTS_WINDOW_S: 86_401}, TODAY_MS, "launch", "out of range"),
        ({REQUESTS: None}, TODAY_MS, "launch", "never unlimited"),
    ],
)
async def test_what_makes_no_sense_is_refused_whole(overrides, numbers, ends_ms, why, message):
    with pytest.raises(RefusedChangeError, match=message):
        await overrides.set("acme", numbers, ends_ms, why, "ada")
    with pytest.raises(RefusedChangeError, match=message):
        await overrides.set("acme", {Overridable.CALLS_IN_FLIGHT: 1, **numbers} if numbers else {}, ends_ms, why, "ada")
    assert await overrides.all() == []


async def test_strangers_are_told_so(overrides):
    with pytest.raises(UnknownAccountError):
        await overrides.set("nobody", {HOUR: 1}, TODAY_MS, "launch", "ada")
    with pytest.raises(UnknownAccountError):
        await overrides.all("nobody")
    with pytest.raises(UnknownOverrideError):
        await overrides.drop("ovr_none", "ada")


async def test_who_calls_comes_with_the_overrides_that_are_not_over_in_the_order_of_their_setting(
    overrides, keys, database, clock
):
    new = await keys.create("acme")
    await Accounts(database, clock).create("other", "tier1")
    first, second = [
        (await overrides.set("acme", {HOUR: number}, TODAY_MS + number, "launch", "ada"))[0] for number in (1, 2)
    ]
    (dropped,) = await overrides.set("acme", {REQUESTS: 7}, TODAY_MS, "launch", "ada")
    await overrides.drop(dropped.id, "ada")
    await Overrides(database, lambda: 1000).set("acme", {REQUESTS: 8}, 2000, "over long ago", "ada")
    await overrides.set("other", {REQUESTS: 9}, TODAY_MS, "launch", "ada")
    assert (await principal_of(database, new.token)).overrides == (
        Override(HOUR, 1, first.ends_ms),
        Override(HOUR, 2, second.ends_ms),
    )


async def test_each_change_is_seen_by_a_replica_that_looks_again(overrides, keys, database):
    new = await keys.create("acme")
    directory = Directory(database)
    await directory.refresh()

    async def seen():
        assert await directory.refresh()
        assert not await directory.refresh()
        principal = directory.authenticate(new.token, NOON_MS)
        return len(principal.overrides), principal.key.limits

    (made,) = await overrides.set("acme", {HOUR: 1}, TODAY_MS, "launch", "ada")
    assert await seen() == (1, None)
    await overrides.drop(made.id, "ada")
    assert await seen() == (0, None)
    await keys.limit(new.key.id, {REQUESTS: 5})
    assert await seen() == (0, OwnLimits(new.key.id, requests=5))


# Limits of keys


async def test_a_key_is_made_with_limits_of_its_own(keys, database):
    numbers = {HOUR: 1000, Overridable.OUTPUT_TOKENS_DAY: 5000, REQUESTS: 10, Overridable.REQUESTS_WINDOW_S: 5}
    numbers |= {MONTHLY: 2 * 10**12, Overridable.CALLS_IN_FLIGHT: 2}
    new = await keys.create("acme", limits=numbers)
    assert new.key.limits == OwnLimits(new.key.id, 1000, 5000, 10, 5, 2 * 10**12, 2)
    assert (await principal_of(database, new.token)).key == new.key
    assert [info.key for info in await keys.all()] == [new.key]


async def test_a_key_without_any_has_none(keys, database):
    new = await keys.create("acme")
    assert new.key.limits is None
    assert (await principal_of(database, new.token)).key.limits is None


async def test_a_limit_is_changed_alone_and_one_taken_away_is_counted_on(keys):
    new = await keys.create("acme", limits={HOUR: 1000, REQUESTS: 10, MONTHLY: 10**12})
    changed = await keys.limit(new.key.id, {HOUR: 2000, MONTHLY: None, Overridable.CALLS_IN_FLIGHT: None})
    assert changed.limits == OwnLimits(new.key.id, 2000, None, 10, 60, UNLIMITED_PICO, None)


@pytest.mark.parametrize("limits", [{}, {HOUR: 0}, {MONTHLY: EUROS_MAX * 10**12 + 1}])
async def test_a_limit_out_of_range_changes_nothing(keys, limits):
    new = await keys.create("acme", limits={REQUESTS: 10})
    with pytest.raises(RefusedChangeError):
        await keys.limit(new.key.id, {**limits, **({REQUESTS: 11} if limits else {})})
    assert [info.key.limits.requests for info in await keys.all()] == [10]
    with pytest.raises(UnknownKeyError):
        await keys.limit("key_none", {REQUESTS: 1})


async def test_a_key_that_takes_anothers_place_goes_on_with_its_limits(keys):
    first = await keys.create("acme", limits={REQUESTS: 10, HOUR: 7})
    second = await keys.rotate(first.key.id, 60_000)
    third = await keys.rotate(second.key.id, 0)
    assert third.key.limits == first.key.limits
    assert third.key.limits.scope == first.key.id


async def test_two_that_limit_a_key_at_once_both_count(keys):
    new = await keys.create("acme")
    await asyncio.gather(keys.limit(new.key.id, {REQUESTS: 5}), keys.limit(new.key.id, {HOUR: 6}))
    assert [info.key.limits for info in await keys.all()] == [OwnLimits(new.key.id, 6, requests=5)]


# What a store is told of them


def used(key_id, seconds_ago, tokens, model="gpt-oss:120b", **changes):
    at_ms = NOON_MS - int(seconds_ago * 1000)
    quantities = ((UsageType.INPUT, 1), (UsageType.OUTPUT, tokens))
    return entry(key_id=key_id, model=model, used=quantities, admitted_ms=at_ms, settled_ms=at_ms, **changes)


def stored(seed, name):
    found = {key: amounts for key, amounts in seed.windows.items() if key.startswith(f"{name}.")}
    assert len(found) == 1
    return sum(amount for _, amount in next(iter(found.values())))


async def test_a_keys_limits_are_seeded_with_what_it_used_and_those_before_it(ledger, keys, account, clock):
    first = await keys.create("acme", limits={REQUESTS: 10, HOUR: 700, MONTHLY: 10**12, Overridable.CALLS_IN_FLIGHT: 1})
    second = await keys.rotate(first.key.id, 60_000)
    other = await keys.create("acme", limits={HOUR: 700})
    mine = {"account_id": account.id}
    await ledger.insert([used(first.key.id, 50, 5, **mine), used(second.key.id, 40, 7, **mine)])
    await ledger.insert([used(other.key.id, 30, 100, **mine), used(first.key.id, 4000, 100, **mine)])
    await ledger.insert([used(first.key.id, 20, 1000, account_id="acc_of_nobody")])
    limits = key_limits_of(second.key.limits, "2026-11", NOON_MS + 10**9)
    seed = await ledger.seed(account.id, limits)
    assert stored(seed, "key_output_tokens_hour") == 12
    assert stored(seed, "key_requests") == 2
    assert stored(seed, "key_calls_in_flight") == 0
    pico = 3 * 1_800_000 + (5 + 7 + 100) * 8_000_000
    assert seed.spent == {(f"key_budget_month.{first.key.id}", "2026-11"): pico // 1000}


async def test_what_a_key_spent_in_other_months_is_not_of_this_one(ledger, keys, account):
    new = await keys.create("acme", limits={MONTHLY: 10**12})
    mine = {"account_id": account.id}
    await ledger.insert([used(new.key.id, 5, 5, month="2026-10", **mine), used(new.key.id, 5, 0, **mine)])
    seed = await ledger.seed(account.id, key_limits_of(new.key.limits, "2026-11", NOON_MS + 10**9))
    assert list(seed.spent.values()) == [1800]


async def test_sums_that_64_bits_do_not_hold_are_exact(ledger, keys, account, database):
    new = await keys.create("acme", limits={MONTHLY: 10**12})
    calls = [used(new.key.id, 5, 0, account_id=account.id) for _ in range(3)]
    await ledger.insert(calls)
    await unguard(database, "entries")
    async with database.write() as connection:
        await connection.execute(update(entries).values(cost_pico=2**63 - 1))
    seed = await ledger.seed(account.id, key_limits_of(new.key.limits, "2026-11", NOON_MS + 10**9))
    assert list(seed.spent.values()) == [-(-3 * (2**63 - 1) // 1000)]


async def test_a_models_limits_are_seeded_with_what_the_account_used_of_it(ledger):
    scarce = OwnLimits(scope_of_model("rare:1b"), 700, 900, 10, 60, None, 1)
    await ledger.insert([used("key_1", 50, 5, "rare:1b"), used("key_2", 40, 7, "rare:1b"), used("key_1", 5, 100)])
    await ledger.insert([used("key_1", 5000, 20, "rare:1b"), used("key_1", 30, 100, "rare_3a1b")])
    seed = await ledger.seed("acc_a", model_limits_of(scarce))
    assert stored(seed, "model_output_tokens_hour") == 12
    assert stored(seed, "model_output_tokens_day") == 32
    assert stored(seed, "model_requests") == 2
    assert stored(seed, "model_calls_in_flight") == 0


async def test_a_call_that_has_just_ended_is_not_in_flight(ledger, keys, account):
    new = await keys.create("acme", limits={Overridable.CALLS_IN_FLIGHT: 1, REQUESTS: 5})
    await ledger.insert([used(new.key.id, 0.5, 5, account_id=account.id)])
    seed = await ledger.seed(account.id, key_limits_of(new.key.limits, "2026-11", NOON_MS + 10**9))
    assert (stored(seed, "key_requests"), stored(seed, "key_calls_in_flight")) == (1, 0)


async def test_what_waits_in_the_outbox_is_of_its_key_and_its_model(database, outbox, clock, keys, account):
    ledger = Ledger(database, outbox, clock_ms=clock)
    new = await keys.create("acme", limits={HOUR: 700, MONTHLY: 10**12})
    mine = {"account_id": account.id}
    for call in (
        used(new.key.id, 5, 5, **mine),
        used(new.key.id, 4, 7, "rare:1b", **mine),
        used("key_2", 3, 90, **mine),
    ):
        await outbox.commit(call)
    scarce = OwnLimits(scope_of_model("rare:1b"), output_tokens_hour=9)
    limits = (*key_limits_of(new.key.limits, "2026-11", NOON_MS + 10**9), *model_limits_of(scarce))
    seed = await ledger.seed(account.id, limits)
    assert (stored(seed, "key_output_tokens_hour"), stored(seed, "model_output_tokens_hour")) == (12, 7)
    assert list(seed.spent.values()) == [(2 * 1_800_000 + 12 * 8_000_000) // 1000]
