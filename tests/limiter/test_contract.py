"""The contract that every limiter keeps: the nine rules of proxy/core/limits.py, one after the other."""

import asyncio

import pytest

from proxy.core.limits import NEVER_MS, Growth, Limit
from proxy.limiter import LimiterUnavailableError, RecordingLimiter, Seed
from tests.limiter.conftest import Make
from tests.limiter.support import START_MS, Clock, budget, requests, window

TOKENS = window("tokens", 100, 60, 5)
DAY_MS = 86_400_000


async def used_and_held(limiter: RecordingLimiter, account: str, limit: Limit) -> tuple[int, int]:
    state = (await limiter.peek(account, (limit,))).states[0]
    return state.used, state.held


async def use(limiter: RecordingLimiter, account: str, limit: Limit, amount: int, call_id: str) -> None:
    assert (await limiter.admit(account, call_id, (limit,), (amount,))).admitted
    await limiter.settle(account, call_id, (limit,), (amount,))


# --- rule 1: windows ------------------------------------------------------------------------------------------------


async def test_a_call_is_admitted_up_to_the_last_unit_and_not_beyond(limiter: RecordingLimiter, account: str) -> None:
    await use(limiter, account, TOKENS, 60, "settled")
    assert (await limiter.admit(account, "in flight", (TOKENS,), (39,))).admitted
    assert not (await limiter.admit(account, "too large", (TOKENS,), (2,))).admitted
    assert (await limiter.admit(account, "fits", (TOKENS,), (1,))).admitted
    assert not (await limiter.admit(account, "nothing left", (TOKENS,), (1,))).admitted


async def test_an_amount_counts_until_the_millisecond_before_it_is_a_window_old(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    await use(limiter, account, TOKENS, 60, "a")
    clock.now_ms = START_MS + 59_999
    assert await used_and_held(limiter, account, TOKENS) == (60, 0)
    clock.now_ms = START_MS + 60_000
    assert await used_and_held(limiter, account, TOKENS) == (0, 0)


async def test_a_bucket_ages_out_with_its_newest_amount(limiter: RecordingLimiter, account: str, clock: Clock) -> None:
    await use(limiter, account, TOKENS, 10, "first")
    clock.now_ms = START_MS + 4_999
    await use(limiter, account, TOKENS, 20, "joins it")
    clock.now_ms = START_MS + 5_000
    await use(limiter, account, TOKENS, 30, "begins the next")
    clock.now_ms = START_MS + 64_998
    assert await used_and_held(limiter, account, TOKENS) == (60, 0)
    clock.now_ms = START_MS + 64_999
    assert await used_and_held(limiter, account, TOKENS) == (30, 0)
    clock.now_ms = START_MS + 65_000
    assert await used_and_held(limiter, account, TOKENS) == (0, 0)


async def test_buckets_that_age_out_unseen_go_together_at_the_millisecond(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    for start_s, seen_s, left in ((0, 64.999, 20), (100, 65, 10), (200, 70, 0)):
        for at_s in (0, 5, 10):
            clock.now_ms = START_MS + (start_s + at_s) * 1000
            await use(limiter, account, TOKENS, 10, f"c{start_s + at_s}")
        clock.now_ms = START_MS + round((start_s + seen_s) * 1000)
        assert await used_and_held(limiter, account, TOKENS) == (left, 0)


async def test_the_states_tell_when_a_window_is_whole_again(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    assert (await limiter.peek(account, (TOKENS,))).states[0].reset_ms == START_MS
    await use(limiter, account, TOKENS, 10, "a")
    clock.pass_s(7)
    assert (await limiter.peek(account, (TOKENS,))).states[0].reset_ms == START_MS + 60_000
    await limiter.admit(account, "b", (TOKENS,), (1,))
    assert (await limiter.peek(account, (TOKENS,))).states[0].reset_ms == START_MS + 67_000


async def test_many_buckets_come_and_go(limiter: RecordingLimiter, account: str, clock: Clock) -> None:
    limit = window("tokens", 100_000, 3600, 1)
    for second in range(300):
        clock.now_ms = START_MS + second * 1000
        await use(limiter, account, limit, second + 1, f"c{second}")
    for second in (0, 1, 18, 19, 20, 37, 38, 200, 299):
        clock.now_ms = START_MS + 3_600_000 + second * 1000 - 1
        assert (await used_and_held(limiter, account, limit))[0] == sum(range(second + 1, 301))
    clock.pass_s(0.001)
    assert await used_and_held(limiter, account, limit) == (0, 0)
    await use(limiter, account, limit, 5, "afterwards")
    assert await used_and_held(limiter, account, limit) == (5, 0)


# --- rule 2: stamps -------------------------------------------------------------------------------------------------


async def test_a_slow_calls_tokens_count_from_its_settlement(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    await limiter.admit(account, "slow", (TOKENS,), (80,))
    clock.pass_s(50)
    await limiter.settle(account, "slow", (TOKENS,), (70,))
    clock.pass_s(59.999)
    assert await used_and_held(limiter, account, TOKENS) == (70, 0)


async def test_a_request_counts_from_its_admission_and_is_never_given_back(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    limit = requests(2)
    await limiter.admit(account, "a", (limit,), (1,))
    await limiter.release(account, "a", (limit,))
    clock.pass_s(30)
    await limiter.admit(account, "b", (limit,), (1,))
    clock.pass_s(15)
    await limiter.settle(account, "b", (limit,), (7,))
    assert await used_and_held(limiter, account, limit) == (2, 0)
    assert not (await limiter.admit(account, "c", (limit,), (1,))).admitted
    clock.pass_s(15)
    assert await used_and_held(limiter, account, limit) == (1, 0)


# --- rule 3: budgets ------------------------------------------------------------------------------------------------


async def test_a_budget_counts_what_is_spent_and_held_until_its_period_ends(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    november, december = budget(1000), budget(1000, "2026-12", START_MS + 2 * 10**9)
    await use(limiter, account, november, 700, "a")
    await limiter.admit(account, "b", (november,), (300,))
    refused = await limiter.admit(account, "c", (november,), (1,))
    assert (refused.admitted, refused.bound, refused.retry_after_ms) == (False, "cost_month", 60_000)
    await limiter.settle(account, "b", (november,), (300,))
    refused = await limiter.admit(account, "c", (november,), (1,))
    assert refused.retry_after_ms == 10**9
    assert refused.states[0].reset_ms == november.ends_ms
    assert (await limiter.admit(account, "c", (december,), (1,))).admitted


async def test_a_call_settles_into_the_period_in_which_it_was_admitted(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    november, december = budget(1000), budget(1000, "2026-12", START_MS + 2 * 10**9)
    clock.now_ms = november.ends_ms - 1
    await limiter.admit(account, "a", (november,), (500,))
    clock.pass_s(10)
    await limiter.admit(account, "b", (december,), (100,))
    await limiter.settle(account, "a", (november,), (400,))
    assert await used_and_held(limiter, account, november) == (400, 0)
    assert await used_and_held(limiter, account, december) == (0, 100)


async def test_a_call_that_expires_after_the_turn_of_the_month_is_charged_to_its_own_period(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    november, december = budget(1000), budget(1000, "2026-12", START_MS + 2 * 10**9)
    clock.now_ms = november.ends_ms - 1
    await limiter.admit(account, "a", (november, TOKENS), (500, 50))
    await limiter.extend(account, "a", (november, TOKENS), (200, 20))
    clock.pass_s(61)
    assert await used_and_held(limiter, account, december) == (0, 0)
    assert await used_and_held(limiter, account, november) == (200, 0)
    assert await used_and_held(limiter, account, TOKENS) == (20, 0)


async def test_a_budget_is_kept_for_forty_days_after_its_end_and_can_be_asked_for_later(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    over = budget(1000)
    for number, (late_ms, spent) in enumerate(((40 * DAY_MS, 5), (40 * DAY_MS + 1, 0))):
        await limiter.record(account, "a", (over,), (5,))
        clock.now_ms = over.ends_ms + late_ms
        await limiter.peek(account, (budget(1000, f"2027-0{number + 1}", START_MS + 10**11),))
        assert await used_and_held(limiter, account, over) == (spent, 0)


async def test_a_budget_without_an_end_is_bound_for_good(limiter: RecordingLimiter, account: str) -> None:
    credit = budget(1000, period="", ends_ms=0, name="credit")
    await use(limiter, account, credit, 1000, "a")
    refused = await limiter.admit(account, "b", (credit,), (1,))
    assert (refused.bound, refused.retry_after_ms) == ("credit", NEVER_MS)


# --- rule 4: all or none --------------------------------------------------------------------------------------------


async def test_a_call_that_one_limit_refuses_takes_nothing_of_the_others(
    limiter: RecordingLimiter, account: str
) -> None:
    limits = (TOKENS, requests(10), budget(1000))
    await use(limiter, account, TOKENS, 95, "a")
    refused = await limiter.admit(account, "b", limits, (6, 1, 10))
    assert (refused.admitted, refused.bound) == (False, "tokens")
    assert [(state.used, state.held) for state in refused.states] == [(95, 0), (0, 0), (0, 0)]
    assert [(state.used, state.held) for state in (await limiter.peek(account, limits)).states] == [
        (95, 0),
        (0, 0),
        (0, 0),
    ]
    await limiter.settle(account, "b", limits, (6, 1, 10))
    assert await used_and_held(limiter, account, TOKENS) == (95, 0)


async def test_of_several_limits_that_refuse_the_one_with_the_longest_wait_binds(
    limiter: RecordingLimiter, account: str
) -> None:
    short, long = window("short", 10, 60), window("long", 10, 3600)
    await limiter.admit(account, "a", (short, long), (10, 10))
    await limiter.settle(account, "a", (short, long), (10, 10))
    refused = await limiter.admit(account, "b", (short, long), (1, 1))
    assert (refused.bound, refused.retry_after_ms) == ("long", 3_600_000)


async def test_of_equal_waits_the_first_limit_binds(limiter: RecordingLimiter, account: str) -> None:
    one, other = window("one", 10, 60), window("other", 10, 60)
    await limiter.admit(account, "a", (one, other), (10, 10))
    await limiter.settle(account, "a", (one, other), (10, 10))
    assert (await limiter.admit(account, "b", (one, other), (1, 1))).bound == "one"


# --- rule 5: replays ------------------------------------------------------------------------------------------------


async def test_a_replayed_admission_returns_the_first_answer_and_takes_nothing(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    limits = (TOKENS, requests(10))
    first = await limiter.admit(account, "a", limits, (60, 1))
    clock.pass_s(5)
    await limiter.admit(account, "b", limits, (10, 1))
    assert await limiter.admit(account, "a", limits, (60, 1)) == first
    assert [(state.used, state.held) for state in (await limiter.peek(account, limits)).states] == [(0, 70), (2, 0)]


async def test_replayed_settlements_releases_and_heartbeats_of_a_call_that_is_gone_change_nothing(
    limiter: RecordingLimiter, account: str
) -> None:
    for end in ("settle", "release"):
        await limiter.admit(account, end, (TOKENS,), (20,))
        if end == "settle":
            await limiter.settle(account, end, (TOKENS,), (15,))
        else:
            await limiter.release(account, end, (TOKENS,))
        await limiter.settle(account, end, (TOKENS,), (18,))
        await limiter.release(account, end, (TOKENS,))
        assert await limiter.extend(account, end, (TOKENS,), (19,)) is False
        assert await used_and_held(limiter, account, TOKENS) == (15, 0)


async def test_a_call_nobody_admitted_can_be_settled_without_effect(limiter: RecordingLimiter, account: str) -> None:
    await limiter.settle(account, "unknown", (TOKENS,), (50,))
    await limiter.release(account, "unknown", (TOKENS,))
    assert await limiter.extend(account, "unknown", (TOKENS,), (50,)) is False
    assert await used_and_held(limiter, account, TOKENS) == (0, 0)


# --- rule 6: expiry -------------------------------------------------------------------------------------------------


async def test_a_hold_lives_for_its_time_and_no_millisecond_longer(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    await limiter.admit(account, "a", (TOKENS,), (80,))
    clock.now_ms = START_MS + 59_999
    assert await used_and_held(limiter, account, TOKENS) == (0, 80)
    clock.now_ms = START_MS + 60_000
    assert await used_and_held(limiter, account, TOKENS) == (0, 0)


async def test_a_heartbeat_renews_a_hold(limiter: RecordingLimiter, account: str, clock: Clock) -> None:
    await limiter.admit(account, "a", (TOKENS,), (80,))
    for _ in range(3):
        clock.pass_s(59)
        assert await limiter.extend(account, "a", (TOKENS,), (0,)) is True
    assert await used_and_held(limiter, account, TOKENS) == (0, 80)


async def test_an_expired_call_is_charged_what_was_last_known_at_its_expiry(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    await limiter.admit(account, "a", (TOKENS,), (80,))
    await limiter.extend(account, "a", (TOKENS,), (30,))
    clock.pass_s(100)
    assert await used_and_held(limiter, account, TOKENS) == (30, 0)
    clock.now_ms = START_MS + 119_999
    assert await used_and_held(limiter, account, TOKENS) == (30, 0)
    clock.now_ms = START_MS + 120_000
    assert await used_and_held(limiter, account, TOKENS) == (0, 0)


async def test_a_late_settlement_corrects_the_charge_upwards_once(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    limits = (TOKENS, budget(1000))
    await limiter.admit(account, "a", limits, (80, 500))
    await limiter.extend(account, "a", limits, (30, 100))
    clock.pass_s(61)
    for _ in range(2):
        await limiter.settle(account, "a", limits, (50, 300))
        assert [state.used for state in (await limiter.peek(account, limits)).states] == [50, 300]


async def test_a_late_settlement_corrects_the_charge_downwards_once(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    limits = (TOKENS, budget(1000))
    await limiter.admit(account, "a", limits, (60, 500))
    await limiter.extend(account, "a", limits, (30, 100))
    clock.pass_s(59)
    await limiter.admit(account, "b", limits, (9, 9))
    clock.pass_s(12)
    await limiter.settle(account, "b", limits, (9, 9))
    for _ in range(2):
        await limiter.settle(account, "a", limits, (10, 40))
        assert [state.used for state in (await limiter.peek(account, limits)).states] == [19, 49]
    clock.now_ms = START_MS + 120_000
    assert (await used_and_held(limiter, account, TOKENS))[0] == 9


async def test_an_expired_call_is_remembered_for_a_day(limiter: RecordingLimiter, account: str, clock: Clock) -> None:
    limit = budget(1000)
    for name, late_ms, spent in (("in time", DAY_MS - 1, 70), ("too late", DAY_MS, 70)):
        await limiter.admit(account, name, (limit,), (100,))
        clock.pass_s(60)
        await limiter.peek(account, (limit,))
        clock.now_ms += late_ms
        await limiter.settle(account, name, (limit,), (70,))
        assert await used_and_held(limiter, account, limit) == (spent, 0)


async def test_a_release_after_expiry_changes_nothing(limiter: RecordingLimiter, account: str, clock: Clock) -> None:
    await limiter.admit(account, "a", (TOKENS,), (80,))
    await limiter.extend(account, "a", (TOKENS,), (30,))
    clock.pass_s(61)
    await limiter.release(account, "a", (TOKENS,))
    assert await used_and_held(limiter, account, TOKENS) == (30, 0)


async def test_what_is_known_is_held_where_it_exceeds_the_hold_and_never_taken_back(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    await limiter.admit(account, "a", (TOKENS,), (10,))
    await limiter.extend(account, "a", (TOKENS,), (25,))
    await limiter.extend(account, "a", (TOKENS,), (5,))
    assert await used_and_held(limiter, account, TOKENS) == (0, 25)
    clock.pass_s(61)
    assert await used_and_held(limiter, account, TOKENS) == (25, 0)


# --- rule 7: time ---------------------------------------------------------------------------------------------------


async def test_a_clock_that_runs_back_stands_still(limiter: RecordingLimiter, account: str, clock: Clock) -> None:
    await use(limiter, account, TOKENS, 60, "a")
    clock.now_ms = START_MS - 50_000
    answer = await limiter.admit(account, "b", (TOKENS,), (50,))
    assert (answer.admitted, answer.now_ms, answer.retry_after_ms) == (False, START_MS, 60_000)
    await use(limiter, account, TOKENS, 5, "c")
    clock.now_ms = START_MS + 59_999
    assert await used_and_held(limiter, account, TOKENS) == (65, 0)


async def test_a_refusal_and_a_look_move_the_clock_too(limiter: RecordingLimiter, account: str, clock: Clock) -> None:
    clock.pass_s(10)
    await limiter.peek(account, (TOKENS,))
    clock.pass_s(10)
    await limiter.admit(account, "a", (TOKENS,), (101,))
    clock.pass_s(-15)
    assert (await limiter.peek(account, (TOKENS,))).now_ms == START_MS + 20_000


# --- rule 8: when to come again -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("need", "wait_ms"), [(31, 20_000), (40, 20_000), (41, 50_000), (100, 50_000)])
async def test_a_refused_call_is_told_the_first_moment_at_which_it_fits(
    limiter: RecordingLimiter, account: str, clock: Clock, need: int, wait_ms: int
) -> None:
    await use(limiter, account, TOKENS, 10, "a")
    clock.pass_s(30)
    await use(limiter, account, TOKENS, 60, "b")
    clock.pass_s(10)
    refused = await limiter.admit(account, "c", (TOKENS,), (need,))
    assert refused.retry_after_ms == wait_ms
    clock.now_ms += wait_ms - 1
    assert not (await limiter.admit(account, "c", (TOKENS,), (need,))).admitted
    clock.now_ms += 1
    assert (await limiter.admit(account, "c", (TOKENS,), (need,))).admitted


async def test_the_wait_foresees_that_holds_expire_and_leave_what_was_known(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    await limiter.admit(account, "a", (TOKENS,), (90,))
    await limiter.extend(account, "a", (TOKENS,), (40,))
    assert (await limiter.admit(account, "b", (TOKENS,), (60,))).retry_after_ms == 60_000
    assert (await limiter.admit(account, "b", (TOKENS,), (61,))).retry_after_ms == 120_000


async def test_the_wait_foresees_that_an_expiring_hold_keeps_the_open_bucket(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    await limiter.admit(account, "a", (TOKENS,), (50,))
    await limiter.extend(account, "a", (TOKENS,), (1,))
    clock.pass_s(57)
    await use(limiter, account, TOKENS, 50, "b")  # its bucket is open until 62; the hold expires at 60, into it
    assert (await limiter.admit(account, "c", (TOKENS,), (49,))).retry_after_ms == 3_000
    assert (await limiter.admit(account, "c", (TOKENS,), (50,))).retry_after_ms == 63_000


async def test_a_need_larger_than_the_whole_limit_is_never_met(limiter: RecordingLimiter, account: str) -> None:
    refused = await limiter.admit(account, "a", (TOKENS, budget(1000)), (101, 1))
    assert (refused.admitted, refused.bound, refused.retry_after_ms) == (False, "tokens", NEVER_MS)


async def test_a_need_of_the_whole_limit_is_met(limiter: RecordingLimiter, account: str) -> None:
    assert (await limiter.admit(account, "a", (TOKENS,), (100,))).admitted


# --- numbers --------------------------------------------------------------------------------------------------------


async def test_amounts_are_exact_up_to_2_to_the_53_less_1(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    limits = (window("tokens", 2**53 - 1, 60, 1), budget(2**53 - 1))
    needs = (2**53 - 2, 2**53 - 2)
    for round_ in range(3):  # running totals begin again
        await limiter.admit(account, f"a{round_}", limits, (1, 0))
        await limiter.settle(account, f"a{round_}", limits, (1, 0))
        clock.pass_s(2)
        assert (await limiter.admit(account, f"b{round_}", limits, needs)).admitted
        refused = await limiter.admit(account, "c", limits, (1, 0))
        assert (refused.admitted, refused.states[0].remaining) == (False, 0)
        await limiter.settle(account, f"b{round_}", limits, (2**53 - 2, 0))
        assert [state.used for state in (await limiter.peek(account, limits)).states] == [2**53 - 1, 0]
        clock.pass_s(58)
        assert [state.used for state in (await limiter.peek(account, limits)).states] == [2**53 - 2, 0]
        clock.pass_s(1)


@pytest.mark.parametrize("amount", [-1, 2**53])
async def test_an_amount_out_of_range_is_a_bug_of_the_caller(
    limiter: RecordingLimiter, account: str, amount: int
) -> None:
    with pytest.raises(ValueError, match="amounts"):
        await limiter.admit(account, "a", (TOKENS,), (amount,))
    with pytest.raises(ValueError, match="amounts"):
        await limiter.settle(account, "a", (TOKENS,), (amount,))


async def test_a_limit_whose_window_has_changed_is_another_limit(limiter: RecordingLimiter, account: str) -> None:
    await use(limiter, account, TOKENS, 60, "a")
    longer = window("tokens", 100, 120, 5)
    assert await used_and_held(limiter, account, longer) == (0, 0)
    assert await used_and_held(limiter, account, TOKENS) == (60, 0)


async def test_a_capacity_may_change_from_call_to_call(limiter: RecordingLimiter, account: str) -> None:
    await use(limiter, account, TOKENS, 60, "a")
    smaller, larger = window("tokens", 50, 60, 5), window("tokens", 1000, 60, 5)
    refused = await limiter.admit(account, "b", (smaller,), (1,))
    assert (refused.admitted, refused.states[0].remaining) == (False, 0)
    assert (await limiter.admit(account, "b", (larger,), (900,))).admitted


# --- calls admitted elsewhere ---------------------------------------------------------------------------------------


async def test_a_call_admitted_elsewhere_is_recorded_once_with_its_request(
    limiter: RecordingLimiter, account: str
) -> None:
    limits = (TOKENS, requests(10), budget(1000))
    for _ in range(2):
        await limiter.record(account, "a", limits, (20, 1, 300))
        await limiter.settle(account, "a", limits, (99, 1, 999))
        assert [state.used for state in (await limiter.peek(account, limits)).states] == [20, 1, 300]


async def test_recording_a_call_that_is_held_settles_it_once(limiter: RecordingLimiter, account: str) -> None:
    limits = (TOKENS, requests(10))
    await limiter.admit(account, "a", limits, (50, 1))
    for _ in range(2):
        await limiter.record(account, "a", limits, (20, 1))
        assert [(state.used, state.held) for state in (await limiter.peek(account, limits)).states] == [(20, 0), (1, 0)]


async def test_recording_a_call_that_has_expired_corrects_it_once(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    await limiter.admit(account, "a", (TOKENS,), (50,))
    await limiter.extend(account, "a", (TOKENS,), (15,))
    clock.pass_s(61)
    for _ in range(2):
        await limiter.record(account, "a", (TOKENS,), (20,))
        assert await used_and_held(limiter, account, TOKENS) == (20, 0)


async def test_several_calls_are_recorded_each_once_wherever_they_were_admitted(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    limits = (window("tokens", 100_000, 60, 5), budget(100_000))
    await limiter.admit(account, "expired", limits, (5, 7))
    clock.pass_s(61)
    await limiter.admit(account, "held", limits, (5, 7))
    amounts = dict.fromkeys(["expired", "held", *(f"call-{number}" for number in range(200))], (2, 3))
    for _ in range(2):
        await limiter.record_all(account, limits, amounts)
        states = (await limiter.peek(account, limits)).states
        assert [(state.used, state.held) for state in states] == [(404, 0), (606, 0)]
    await limiter.record_all(account, limits, {})
    assert [state.used for state in (await limiter.peek(account, limits)).states] == [404, 606]


# --- together -------------------------------------------------------------------------------------------------------


async def test_calls_that_come_at_once_never_get_more_than_there_is(limiter: RecordingLimiter, account: str) -> None:
    answers = await asyncio.gather(*(limiter.admit(account, f"c{i}", (TOKENS,), (3,)) for i in range(200)))
    assert sum(answer.admitted for answer in answers) == 33
    await asyncio.gather(*(limiter.settle(account, f"c{i}", (TOKENS,), (2,)) for i in range(200)))
    assert await used_and_held(limiter, account, TOKENS) == (66, 0)


# --- seeding --------------------------------------------------------------------------------------------------------


async def test_an_unknown_account_is_seeded_from_the_ledger_before_its_first_decision(
    make_limiter: Make, account: str, clock: Clock
) -> None:
    limits = (TOKENS, budget(1000))
    asked = []

    async def ledger(account_id: str, asked_limits: object) -> Seed:
        asked.append((account_id, asked_limits))
        await asyncio.sleep(0)
        amounts = ((START_MS - 60_000, 7), (START_MS - 59_999, 50), (START_MS - 10_000, 20), (START_MS + 500, 4))
        return Seed(spent={("cost_month", "2026-11"): 990, ("cost_month", "2026-10"): 5}, windows={"tokens": amounts})

    limiter = make_limiter(ledger)
    answers = await asyncio.gather(*(limiter.admit(account, f"c{i}", limits, (26, 10)) for i in range(20)))
    assert [answer.admitted for answer in answers].count(True) == 1
    assert asked == [(account, limits)]
    await limiter.settle(account, "c0", limits, (26, 10))
    assert [state.used for state in (await limiter.peek(account, limits)).states] == [100, 1000]
    clock.now_ms = START_MS + 1
    assert (await limiter.peek(account, limits)).states[0].used == 50


async def test_a_new_period_is_seeded_and_the_rest_stays_as_it_is(make_limiter: Make, account: str) -> None:
    async def ledger(account_id: str, limits: object) -> Seed:
        return Seed(spent={("cost_month", "2026-12"): 40}, windows={"tokens": ((START_MS, 30),)})

    limiter = make_limiter(ledger)
    await use(limiter, account, TOKENS, 60, "a")
    limits = (TOKENS, budget(1000, "2026-12", START_MS + 2 * 10**9))
    assert [state.used for state in (await limiter.peek(account, limits)).states] == [90, 40]


async def test_while_the_ledger_does_not_answer_nothing_is_decided(make_limiter: Make, account: str) -> None:
    is_down = True

    async def ledger(account_id: str, limits: object) -> Seed:
        if is_down:
            raise OSError("no ledger")
        return Seed()

    limiter = make_limiter(ledger)
    for answer in await asyncio.gather(
        *(limiter.admit(account, f"c{i}", (TOKENS,), (1,)) for i in range(3)), return_exceptions=True
    ):
        assert isinstance(answer, LimiterUnavailableError)
    is_down = False
    assert (await limiter.admit(account, "c", (TOKENS,), (1,))).admitted


async def test_a_caller_that_leaves_does_not_end_the_seeding_for_the_others(make_limiter: Make, account: str) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def ledger(account_id: str, limits: object) -> Seed:
        begun.set()
        await go_on.wait()
        return Seed(windows={"tokens": ((START_MS, 30),)})

    limiter = make_limiter(ledger)
    leaving = asyncio.create_task(limiter.admit(account, "a", (TOKENS,), (1,)))
    await begun.wait()
    staying = asyncio.create_task(limiter.peek(account, (TOKENS,)))
    await asyncio.sleep(0)
    leaving.cancel()
    go_on.set()
    assert (await staying).states[0].used == 30


# --- rule 9: more for a call in flight ------------------------------------------------------------------------------


async def test_a_call_gets_more_while_there_is_room_and_holds_it(limiter: RecordingLimiter, account: str) -> None:
    await limiter.admit(account, "a", (TOKENS,), (30,))
    assert await limiter.grow(account, "a", (TOKENS,), (70,)) is Growth.GRANTED
    assert await used_and_held(limiter, account, TOKENS) == (0, 70)
    assert not (await limiter.admit(account, "b", (TOKENS,), (31,))).admitted
    assert await limiter.grow(account, "a", (TOKENS,), (100,)) is Growth.GRANTED
    assert await limiter.grow(account, "a", (TOKENS,), (101,)) is Growth.REFUSED
    assert await used_and_held(limiter, account, TOKENS) == (0, 100)


async def test_a_wish_that_one_limit_cannot_grant_raises_none(limiter: RecordingLimiter, account: str) -> None:
    limits = (TOKENS, budget(1000))
    await limiter.admit(account, "a", limits, (30, 500))
    assert await limiter.grow(account, "a", limits, (40, 1001)) is Growth.REFUSED
    assert await used_and_held(limiter, account, TOKENS) == (0, 30)
    assert await limiter.grow(account, "a", limits, (40, 1000)) is Growth.GRANTED
    assert await used_and_held(limiter, account, TOKENS) == (0, 40)


async def test_wanting_no_more_than_is_held_takes_nothing_and_renews(
    limiter: RecordingLimiter, account: str, clock: Clock
) -> None:
    await limiter.admit(account, "a", (TOKENS,), (30,))
    clock.pass_s(59)
    assert await limiter.grow(account, "a", (TOKENS,), (10,)) is Growth.GRANTED
    clock.pass_s(59)
    assert await used_and_held(limiter, account, TOKENS) == (0, 30)


async def test_a_refused_wish_renews_nothing(limiter: RecordingLimiter, account: str, clock: Clock) -> None:
    await limiter.admit(account, "a", (TOKENS,), (30,))
    clock.pass_s(59)
    assert await limiter.grow(account, "a", (TOKENS,), (101,)) is Growth.REFUSED
    clock.pass_s(1)
    assert await used_and_held(limiter, account, TOKENS) == (0, 0)


async def test_a_call_that_is_gone_gets_no_more(limiter: RecordingLimiter, account: str, clock: Clock) -> None:
    assert await limiter.grow(account, "never", (TOKENS,), (10,)) is Growth.GONE
    await limiter.admit(account, "a", (TOKENS,), (30,))
    clock.pass_s(60)
    assert await limiter.grow(account, "a", (TOKENS,), (40,)) is Growth.GONE
    assert await used_and_held(limiter, account, TOKENS) == (0, 0)


async def test_what_is_stamped_at_admission_does_not_grow(limiter: RecordingLimiter, account: str) -> None:
    calls = requests(1)
    await limiter.admit(account, "a", (TOKENS, calls), (30, 1))
    assert await limiter.grow(account, "a", (TOKENS, calls), (50, 5)) is Growth.GRANTED
    assert await used_and_held(limiter, account, calls) == (1, 0)


async def test_growth_makes_room_of_what_has_aged_out(limiter: RecordingLimiter, account: str, clock: Clock) -> None:
    await limiter.admit(account, "old", (TOKENS,), (60,))
    await limiter.settle(account, "old", (TOKENS,), (60,))
    await limiter.admit(account, "a", (TOKENS,), (40,))
    clock.pass_s(59)
    assert await limiter.grow(account, "a", (TOKENS,), (50,)) is Growth.REFUSED
    clock.now_ms = START_MS + 59_999
    assert await limiter.grow(account, "a", (TOKENS,), (41,)) is Growth.REFUSED
    await limiter.extend(account, "a", (TOKENS,), (1,))
    clock.now_ms = START_MS + 60_000
    assert await limiter.grow(account, "a", (TOKENS,), (100,)) is Growth.GRANTED
