"""A month in the ledger, replayed: against what stood, nothing changes; of many rows, few are in memory."""

import tracemalloc
import weakref

import msgspec
import pytest

from proxy.core.calendar import month_bounds_ms
from proxy.core.entries import Charge, ChargeLine, Entry, Outcome
from proxy.core.levels import Overridable, Override
from proxy.core.pricing import PriceBook, PriceVersion
from proxy.core.usage import Source, TariffClass, UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.errors import UnknownAccountError
from proxy.ledger.keys import Keys
from proxy.ledger.months_entries import ROWS, MonthsEntries
from proxy.ledger.overrides import Overrides
from proxy.ledger.store import Ledger
from proxy.replay.month import MissingTiersError, replay_month
from proxy.replay.proposal import Proposal, ProposalError
from proxy.replay.rating import Rating
from proxy.replay.report import Simulation
from tests.ledger.support import Clock
from tests.replay.living import BOOK, DAY_MS, HOUR_MS, LARGE, MODELS, OCTOBER_MS, PRICES, SMALL, Life, stricter

TIERS = {"small": SMALL, "large": LARGE}
HOUR_NAME = "output_tokens_hour"


def proposal(**changes) -> Proposal:
    return Proposal(**{"tiers": TIERS, "rating": Rating(BOOK), "models": MODELS, **changes})


async def replayed(database, account=None, month="2026-10", **changes) -> Simulation:
    return await replay_month(MonthsEntries(database), proposal(**changes), month, account)


async def lived(database, seed: int) -> list[Life]:
    """Two accounts in different zones: one with a limited key and an override that is dropped, one with no windows."""
    clock = Clock(OCTOBER_MS - 30 * DAY_MS)
    accounts, keys, overrides = (make(database, clock) for make in (Accounts, Keys, Overrides))
    await accounts.create("busy", "small")
    await accounts.create("far", "large", "America/Havana")
    own = {Overridable.OUTPUT_TOKENS_HOUR: 4_000, Overridable.MONTHLY_LIMIT: 10**12, Overridable.REQUESTS: 7}
    limited = (await keys.create("busy", limits=own)).key
    plain = (await keys.create("busy")).key
    other = (await keys.create("far")).key
    clock.now_ms = set_ms = OCTOBER_MS + 2 * HOUR_MS
    (made,) = await overrides.set("busy", {Overridable.OUTPUT_TOKENS_HOUR: 9_000}, set_ms + 9 * HOUR_MS, "why", "me")
    clock.now_ms = dropped_ms = set_ms + 3 * HOUR_MS
    await overrides.drop(made.id, "me")
    override = Override(Overridable.OUTPUT_TOKENS_HOUR, 9_000, dropped_ms)

    def in_force(at_ms: int) -> tuple[Override, ...]:
        return (override,) if set_ms <= at_ms < dropped_ms else ()

    lives = [
        Life(await accounts.named("busy"), SMALL, [limited, plain], seed, in_force),
        Life(await accounts.named("far"), LARGE, [other], seed + 1),
    ]
    await lives[0].live(OCTOBER_MS - 20 * HOUR_MS, OCTOBER_MS + 2 * DAY_MS, 240_000)
    await lives[1].live(OCTOBER_MS - 5 * HOUR_MS, OCTOBER_MS + DAY_MS, 400_000)
    for life in lives:
        await Ledger(database).insert(life.entries)
    return lives


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_against_what_stood_nobody_is_refused_and_no_pico_euro_changes(database, seed):
    lives = await lived(database, seed)
    assert lives[0].refused > 30  # life was no less strict
    simulation = await replayed(database)
    for life in lives:
        (report,) = [each for each in simulation.accounts if each.account_id == life.account.id]
        entries = [entry for entry in life.entries if entry.month == "2026-10"]
        charged_pico = sum(entry.charge.total_pico for entry in entries)
        assert 0 < len(entries) < len(life.entries)
        assert (report.sums.calls, report.sums.refused, report.first_refused_ms) == (len(entries), {}, None)
        assert report.sums.charged_pico == report.sums.proposed_pico == charged_pico
    assert simulation.price_versions == ("old", "dear")
    assert all(peak.amount <= peak.capacity for report in simulation.accounts for peak in report.peaks.values())


async def test_half_of_every_limit_refuses_some_and_what_is_lost_and_kept_is_all_there_was(database):
    await lived(database, 4)
    half = stricter(SMALL, output_tokens_hour=3_000, requests=4)
    simulation = await replayed(database, tiers={"small": half, "large": LARGE})
    busy, far = simulation.accounts
    assert (busy.name, busy.tiers, far.sums.refused) == ("busy", ("small",), {})
    assert set(busy.sums.refused) >= {HOUR_NAME, "requests"}
    assert busy.sums.proposed_pico + busy.sums.lost_pico == busy.sums.charged_pico
    assert busy.sums.difference_pico == -busy.sums.lost_pico < 0
    assert busy.first_refused_ms >= OCTOBER_MS
    assert 900 < busy.peaks[HOUR_NAME].permille <= 1000
    assert simulation.totals.refused_calls == busy.sums.refused_calls


async def test_an_override_of_the_past_holds_from_when_it_was_set_to_when_it_was_dropped(database):
    clock = Clock(OCTOBER_MS - DAY_MS)
    account = await Accounts(database, clock).create("acme", "small")
    overrides = Overrides(database, clock)
    clock.now_ms = OCTOBER_MS + 2 * HOUR_MS
    numbers = {Overridable.OUTPUT_TOKENS_HOUR: 9_000}
    (made,) = await overrides.set("acme", numbers, OCTOBER_MS + 11 * HOUR_MS, "a demonstration", "me")
    clock.now_ms = OCTOBER_MS + 5 * HOUR_MS
    await overrides.drop(made.id, "me")
    minutes = (5, 6, 180, 181, 182, 360, 361)  # two, three within the override, two
    calls = [entry_at(OCTOBER_MS + at * 60_000, at, account_id=account.id, tokens=900, tier="small") for at in minutes]
    await Ledger(database).insert(calls)
    (report,) = (await replayed(database, tiers={"small": stricter(SMALL, output_tokens_hour=1_000)})).accounts
    assert (report.sums.refused, report.first_refused_ms) == ({HOUR_NAME: 2}, OCTOBER_MS + 6 * 60_000)
    assert report.peaks[HOUR_NAME].amount == 900


async def test_limits_that_a_key_has_now_hold_all_the_month_for_its_calls(database):
    account = await Accounts(database, Clock(OCTOBER_MS - DAY_MS)).create("acme", "large")
    keys = Keys(database)
    limited = (await keys.create("acme", limits={Overridable.OUTPUT_TOKENS_HOUR: 1_000})).key
    plain = (await keys.create("acme")).key
    calls = [
        entry_at(OCTOBER_MS + at * 60_000, at, account_id=account.id, tokens=900, key_id=key.id)
        for at, key in ((1, limited), (2, plain), (3, limited), (4, plain))
    ]
    await Ledger(database).insert(calls)
    assert (await replayed(database)).totals.refused == {"key_output_tokens_hour": 1}
    (holder,) = await MonthsEntries(database).holders("2026-10")
    assert set(holder.keys) == {limited.id}


async def test_one_account_is_replayed_by_name_or_id(database):
    lives = await lived(database, 6)
    for name in ("far", lives[1].account.id):
        assert [report.name for report in (await replayed(database, name)).accounts] == ["far"]
    with pytest.raises(UnknownAccountError):
        await replayed(database, "nobody")


async def test_a_month_without_calls_is_empty(database):
    await lived(database, 7)
    assert (await replayed(database, month="2025-01")).accounts == ()


async def test_tiers_that_accounts_hold_and_the_proposal_lacks_are_named_with_their_accounts(database):
    await lived(database, 8)
    await Accounts(database).create("idle", "gone")
    with pytest.raises(MissingTiersError) as error:
        await replayed(database, tiers={"small": SMALL})
    assert error.value.holders == {"gone": ["idle"], "large": ["far"]}
    assert (await replayed(database, tiers={"small": SMALL}, tier="small")).totals.calls > 0


async def test_lines_of_batches_are_in_the_month_of_their_batch_and_in_no_window(database):
    account = await Accounts(database, Clock(OCTOBER_MS - DAY_MS)).create("acme", "small")
    about = {"account_id": account.id, "tier": "small"}
    lines = [
        entry_at(at_ms, at, tokens=900, tariff_class=TariffClass.BATCH, settled_ms=OCTOBER_MS + HOUR_MS, **about)
        for at, at_ms in enumerate((OCTOBER_MS - 1, OCTOBER_MS, OCTOBER_MS))
    ]
    lines[0] = msgspec.structs.replace(lines[0], month="2026-09")
    await Ledger(database).insert([*lines, entry_at(OCTOBER_MS + 2 * HOUR_MS - 1, 9, tokens=900, **about)])
    prices = {**PRICES, (UsageType.OUTPUT, TariffClass.BATCH): 4_000_000}
    rating = Rating(PriceBook((PriceVersion("v", 0, prices),)))
    tiers = {"small": stricter(SMALL, output_tokens_hour=900, requests=1, calls_in_flight=1)}
    (report,) = (await replayed(database, tiers=tiers, rating=rating)).accounts
    assert (report.sums.calls, report.sums.refused) == (3, {})
    assert report.sums.proposed_pico == 2 * 900 * 4_000_000 + 900 * 8_000_000
    assert report.peaks[HOUR_NAME].amount == 900
    (holder,) = await MonthsEntries(database).holders("2026-10")
    pages = [page async for page in MonthsEntries(database).calls(holder, "2026-10")]
    assert {call.month for page in pages for call in page} == {"2026-10"}


async def test_what_has_no_price_is_told_with_its_account(database):
    await lived(database, 9)
    batch = entry_at(OCTOBER_MS, 0, tariff_class=TariffClass.BATCH)
    await Ledger(database).insert([batch])
    with pytest.raises(ProposalError, match=f"account acc_x: version old has no batch price .* call {batch.call_id}"):
        await replayed(database)


def entry_at(admitted_ms: int, number: int, *, account_id="acc_x", tokens=10, **changes) -> Entry:
    lines = (ChargeLine(UsageType.OUTPUT, tokens, Source.REPORTED, 8_000_000, tokens * 8_000_000),)
    made = Entry(
        call_id=f"{number:08d}",
        account_id=account_id,
        month="2026-10",
        day="2026-10-01",
        key_id="key_x",
        tier="large",
        endpoint="/v1/chat/completions",
        model="chat",
        tariff_class=TariffClass.STANDARD,
        outcome=Outcome.FINISHED,
        admitted_ms=admitted_ms,
        settled_ms=admitted_ms + 500,
        charge=Charge(lines, tokens * 8_000_000, "old"),
    )
    return msgspec.structs.replace(made, **changes)


async def test_calls_come_in_the_order_of_their_admission_whatever_their_ids(database):
    times = [(number * 7919 % 3001) * 1000 for number in range(3 * ROWS)]
    await Ledger(database).insert([entry_at(OCTOBER_MS + at, number) for number, at in enumerate(times)])
    entries = MonthsEntries(database)
    (holder,) = await entries.holders("2026-10")
    assert (holder.account.name, holder.calls, holder.tiers) == ("acc_x", 3 * ROWS, ())
    pages = [page async for page in entries.calls(holder, "2026-10")]
    calls = [call for page in pages for call in page]
    assert [(call.admitted_ms, call.call_id) for call in calls] == sorted(
        (OCTOBER_MS + at, f"{number:08d}") for number, at in enumerate(times)
    )
    assert max(map(len, pages)) <= ROWS


async def test_calls_from_before_the_month_count_when_it_begins_and_are_not_its_own(database):
    before = [
        entry_at(OCTOBER_MS - 1000, 1, tokens=5_000, month="2026-09", tier="small"),  # settled before the month
        entry_at(OCTOBER_MS - 2 * DAY_MS, 2, tokens=60_000, month="2026-09", tier="small"),  # no window goes so far
    ]
    within = [entry_at(OCTOBER_MS + 10, 3, tokens=1_001, tier="small"), entry_at(OCTOBER_MS + 20, 4, tier="small")]
    await Ledger(database).insert(before + within)
    sums = (await replayed(database)).totals
    assert (sums.calls, sums.refused, sums.lost_tokens) == (2, {HOUR_NAME: 1}, 1_001)


async def test_the_month_is_that_of_the_accounts_own_zone(database):
    clock = Clock(OCTOBER_MS - DAY_MS)
    account = await Accounts(database, clock).create("far", "small", "America/Havana")
    starts_ms = month_bounds_ms("2026-10", account.timezone)[0]
    assert starts_ms > OCTOBER_MS
    tier = stricter(SMALL, monthly_limit_pico=1_000 * 8_000_000)
    calls = [
        entry_at(starts_ms - 3_000, 1, account_id=account.id, tokens=900, month="2026-09", tier="small"),
        entry_at(starts_ms + 3_000, 2, account_id=account.id, tokens=900, tier="small"),
        entry_at(starts_ms + 9_000, 3, account_id=account.id, tokens=101, tier="small"),
    ]
    await Ledger(database).insert(calls)
    sums = (await replayed(database, tiers={"small": tier})).totals
    assert (sums.calls, sums.refused) == (2, {"budget_month": 1})
    assert (await MonthsEntries(database).holders("2026-10"))[0].month_starts_ms == starts_ms


async def test_a_tier_that_changed_within_the_month_finds_what_was_used_before(database):
    clock = Clock(OCTOBER_MS - 30 * DAY_MS)
    accounts = Accounts(database, clock)
    account = await accounts.create("acme", "large")
    clock.now_ms = OCTOBER_MS + HOUR_MS
    await accounts.set_tier("acme", "small")
    clock.now_ms += 20 * DAY_MS * 2
    await accounts.set_tier("acme", "later")
    calls = [
        entry_at(OCTOBER_MS + HOUR_MS - 60_000, 1, account_id=account.id, tokens=5_900, tier="large"),
        entry_at(OCTOBER_MS + HOUR_MS + 60_000, 2, account_id=account.id, tokens=101, tier="small"),
        entry_at(OCTOBER_MS + HOUR_MS + 61_000, 3, account_id=account.id, tokens=99, tier="small"),
    ]
    await Ledger(database).insert(calls)
    (report,) = (await replayed(database, tiers={**TIERS, "later": LARGE})).accounts
    assert (report.tiers, report.sums.refused) == (("large", "small"), {HOUR_NAME: 1})


@pytest.mark.parametrize("calls", [24_000])
async def test_of_a_large_month_few_rows_are_in_memory(database, calls):
    batch = 2_000
    for start in range(0, calls, batch):
        numbers = range(start, start + batch)
        await Ledger(database).insert([entry_at(OCTOBER_MS + 900 * number, number) for number in numbers])
    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0

    class Watched(MonthsEntries):
        async def calls(self, holder, month):
            nonlocal most
            async for page in super().calls(holder, month):
                for call in page:
                    alive.add(call)
                most = max(most, len(alive))
                yield page

    tracemalloc.start()
    try:
        simulation = await replay_month(Watched(database), proposal(tier="small"), "2026-10")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert simulation.totals.calls == calls
    assert most <= 3 * ROWS
    assert peak_bytes < 12_000_000
