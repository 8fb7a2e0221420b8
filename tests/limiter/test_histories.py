"""What must hold in every history: nothing beyond the limit in any window, honest waits, and two stores that agree."""

import asyncio
import copy
import random
from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.core.account_state import AccountState
from proxy.core.limits import Admission, Limit
from proxy.limiter.memory import MemoryLimiter
from proxy.limiter.redis import RedisLimiter
from tests.limiter.conftest import url_of
from tests.limiter.histories import (
    CALLS,
    HOLD_TTL_MS,
    LONG,
    SHORT,
    Player,
    Step,
    Stream,
    check_wait,
    deliver,
    random_step,
    steps,
)
from tests.limiter.support import DAY, HOUR, Clock, most_in_any_window, new_account, requests, window

same_every_time = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=120,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


# --- nothing beyond the limit ---------------------------------------------------------------------------------------

streams = st.lists(
    st.builds(
        Stream,
        start_ms=st.integers(0, 20_000),
        length_ms=st.sampled_from((0, 10, 900, 2500, 6000, 12_000)),
        need=st.integers(1, 12),
        pieces=st.integers(1, 6),
        dies_at=st.sampled_from((None, None, None, 0, 1, 2)),
    ),
    min_size=1,
    max_size=40,
)


@same_every_time
@given(streams)
def test_in_no_interval_is_more_than_the_limit_delivered(history: list[Stream]) -> None:
    limits = (window("short", 20, 4, 1), window("long", 50, 15, 3), requests(6, 5))
    played = deliver(history, limits)
    assert most_in_any_window(played["delivered"], 4000) <= 20
    assert most_in_any_window(played["delivered"], 15_000) <= 50
    assert most_in_any_window([(at, 1) for at in played["admitted"]], 5000) <= 6


@pytest.mark.parametrize(("limit", "horizon_s"), [(HOUR, 3 * 3600), (DAY, 3 * 86_400)])
def test_in_no_hour_and_no_day_is_more_than_the_limit_delivered(limit: Limit, horizon_s: int) -> None:
    rng = random.Random(3)
    history = [
        Stream(
            rng.randrange(horizon_s * 1000),
            rng.choice((100, 5000, 40_000)),
            rng.randrange(1, limit.capacity // 20),
            rng.randrange(1, 8),
            rng.choice((None, None, None, 1)),
        )
        for _ in range(900)
    ]
    played = deliver(history, (limit,))
    most = most_in_any_window(played["delivered"], limit.window_s * 1000)
    assert limit.capacity * 0.9 < most <= limit.capacity


# --- honest waits ---------------------------------------------------------------------------------------------------


def elsewhere(state: AccountState, limits: tuple[Limit, ...], needs: tuple[int, ...], at_ms: int) -> Admission:
    """Ask a copy of the account, and leave the account as it is."""
    return copy.deepcopy(state).admit("the same call", limits, needs, at_ms)


@same_every_time
@given(steps, st.integers(1, 20))
def test_a_refused_call_is_admitted_when_it_was_told_and_not_earlier(history: list[Step], need: int) -> None:
    clock, account = Clock(), "a"
    limiter = MemoryLimiter(clock, HOLD_TTL_MS)
    player = Player(limiter, account, clock)
    limits = (SHORT, LONG, CALLS)
    needs = (need, need, 1)

    async def play() -> None:
        for step in history:
            clock.now_ms += step.pass_ms
            await player.play(step)
            await limiter.peek(account, limits)
            state = limiter._accounts[account]
            answer = elsewhere(state, limits, needs, clock.now_ms)
            if not answer.admitted:
                check_wait(answer, lambda at_ms: elsewhere(state, limits, needs, at_ms))  # noqa: B023

    asyncio.run(play())


# --- two stores that agree ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def store() -> str:
    """The kind of Redis; some tests try a cluster too."""
    return "redis"


@pytest.fixture
def both(
    request: pytest.FixtureRequest, store: str, runner: asyncio.Runner
) -> Iterator[tuple[MemoryLimiter, RedisLimiter, Clock]]:
    clock = Clock()
    memory = MemoryLimiter(clock, HOLD_TTL_MS)
    in_redis = RedisLimiter(url_of(request, store), HOLD_TTL_MS, 10_000, None, clock)
    yield memory, in_redis, clock
    runner.run(in_redis.close())


Both = tuple[MemoryLimiter, RedisLimiter, Clock]


async def play_both(both: Both, history: list[Step], account: str) -> int:
    """Play a history on both stores, step by step, each compared; return how many calls were refused."""
    memory, in_redis, clock = both
    one, other = Player(memory, account, clock), Player(in_redis, account, clock)
    refused = 0
    for number, step in enumerate(history):
        clock.now_ms += step.pass_ms
        expected, got = await one.play(step), await other.play(step)
        assert got == expected, f"step {number}: {step}"
        refused += isinstance(got[0], Admission) and not got[0].admitted
    return refused


@same_every_time
@given(steps)
def test_redis_and_memory_answer_alike(both: Both, runner: asyncio.Runner, history: list[Step]) -> None:
    both[2].now_ms = Clock().now_ms
    runner.run(play_both(both, history, new_account()))


@pytest.mark.parametrize(("store", "seed"), [("redis", 1), ("redis", 2), ("redis", 3), ("cluster", 4)])
def test_redis_and_memory_answer_alike_for_long(both: Both, runner: asyncio.Runner, seed: int) -> None:
    rng = random.Random(seed)
    history = [random_step(rng) for _ in range(2500)]
    assert runner.run(play_both(both, history, new_account())) > 300


def test_redis_and_memory_agree_over_days_of_small_amounts(both: Both, runner: asyncio.Runner) -> None:
    memory, in_redis, clock = both
    rng, account = random.Random(5), new_account()
    limits = (window("hour", 3000, 3600, 10), window("day", 40_000, 86_400, 300))

    async def play() -> None:
        for number in range(2500):
            clock.pass_s(rng.expovariate(1 / 60) if rng.random() < 0.99 else rng.randrange(100_000))
            need = rng.randrange(1, 200)
            for limiter in (memory, in_redis):
                await limiter.settle(account, f"c{number - 1}", limits, (need // 2, need // 2))
            first = await memory.admit(account, f"c{number}", limits, (need, need))
            assert await in_redis.admit(account, f"c{number}", limits, (need, need)) == first

    runner.run(play())


# --- no trace -------------------------------------------------------------------------------------------------------


def dump(store: "redis.Redis[bytes]", account: str) -> dict[bytes, bytes | None]:
    return {key: store.dump(key) for key in sorted(store.keys(f"tollgate:{{{account}}}*"))}


@pytest.mark.parametrize("seed", [11, 12])
def test_a_refused_call_leaves_no_trace_in_either_store(
    both: Both, runner: asyncio.Runner, redis_url: str, seed: int
) -> None:
    memory, in_redis, clock = both
    rng, account = random.Random(seed), new_account()
    players = [Player(limiter, account, clock) for limiter in (memory, in_redis)]
    limits = (SHORT, LONG, CALLS)
    refusals = 0

    async def play() -> None:
        nonlocal refusals
        with redis.Redis.from_url(redis_url) as store:
            for _ in range(600):
                step = random_step(rng)
                clock.now_ms += step.pass_ms
                for player in players:
                    await player.play(step)
                    await player.limiter.peek(account, limits)  # the time is seen, and what is due has aged and expired
                before = (memory.dump(account), dump(store, account))
                needs = (rng.randrange(1, 25), rng.randrange(1, 45), 1)
                answers = [await limiter.admit(account, "refused", limits, needs) for limiter in (memory, in_redis)]
                assert answers[0] == answers[1]
                if answers[0].admitted:
                    for limiter in (memory, in_redis):
                        await limiter.release(account, "refused", limits)
                else:
                    refusals += 1
                    assert (memory.dump(account), dump(store, account)) == before

    runner.run(play())
    assert refusals > 100


def test_a_refusal_by_redis_is_lifted_when_it_said(both: Both, runner: asyncio.Runner, redis_url: str) -> None:
    _, in_redis, clock = both
    rng, account = random.Random(21), new_account()
    player = Player(in_redis, account, clock)
    limits = (SHORT, LONG, CALLS)
    checked = 0

    async def play() -> None:
        nonlocal checked
        with redis.Redis.from_url(redis_url) as store:
            for _ in range(500):
                step = random_step(rng)
                clock.now_ms += step.pass_ms
                await player.play(step)
                needs = (rng.randrange(1, 21), rng.randrange(1, 41), 1)
                refused = await in_redis.admit(account, "refused", limits, needs)
                if refused.admitted:
                    await in_redis.release(account, "refused", limits)
                    continue
                checked += 1
                outcomes = {}
                wait_ms = refused.retry_after_ms or 0
                real_ms = clock.now_ms
                for at_ms in (refused.now_ms + wait_ms - 1, refused.now_ms + wait_ms):
                    copied = new_account()
                    for key in store.keys(f"tollgate:{{{account}}}*"):
                        store.copy(key, key.replace(account.encode(), copied.encode()))
                    clock.now_ms = at_ms
                    answer = await in_redis.admit(copied, "x", limits, needs)
                    outcomes[at_ms - refused.now_ms - wait_ms] = answer.admitted
                clock.now_ms = real_ms
                assert outcomes == {-1: False, 0: True}

    runner.run(play())
    assert checked > 100
