"""Going on without Redis: bounded, said once, and handed over afterwards."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from proxy.core.limits import NEVER_MS, Admission, Limit, LimitKind, Measure
from proxy.limiter import LimiterUnavailableError
from proxy.limiter.degraded import DegradedLimiter
from proxy.limiter.memory import MemoryLimiter
from proxy.limiter.redis import RedisLimiter
from proxy.limiter.seeding import LedgerUnavailableError
from tests.limiter.own_redis import Server
from tests.limiter.support import Clock, budget, requests, window

TOKENS = window("tokens", 100, 60, 5)
LIMITS = (TOKENS, requests(40), budget(1000))


class Primary(MemoryLimiter):
    """A shared limiter that can be switched off, and counts how often it was asked in vain."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.away: LimiterUnavailableError | None = None
        self.asked_in_vain = 0
        self.owed: list[tuple[str, str]] = []

    def _check(self) -> None:
        if self.away is not None:
            self.asked_in_vain += 1
            raise self.away

    async def admit(self, account_id: str, call_id: str, limits: Sequence[Limit], needs: Sequence[int]) -> Admission:
        self._check()
        return await super().admit(account_id, call_id, limits, needs)

    async def settle(self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]) -> None:
        if self.away:
            self.owed.append(("settle", call_id))
        else:
            await super().settle(account_id, call_id, limits, amounts)

    async def record(self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]) -> None:
        self._check()
        await super().record(account_id, call_id, limits, amounts)

    async def extend(self, account_id: str, call_id: str, limits: Sequence[Limit], known: Sequence[int]) -> bool:
        self._check()
        return await super().extend(account_id, call_id, limits, known)

    async def peek(self, account_id: str, limits: Sequence[Limit]) -> Admission:
        self._check()
        return await super().peek(account_id, limits)

    async def ping(self, part: str = "") -> None:
        self._check()


@pytest.fixture
def primary(clock: Clock) -> Primary:
    return Primary(clock)


@pytest.fixture
async def limiter(primary: Primary, clock: Clock) -> AsyncIterator[DegradedLimiter]:
    limiter = DegradedLimiter(primary, 25, 600, clock, probe_s=0.01)
    yield limiter
    await limiter.close()


def go_away(primary: Primary) -> None:
    primary.away = LimiterUnavailableError("switched off")


async def come_back(primary: Primary, limiter: DegradedLimiter) -> None:
    primary.away = None
    deadline = time.monotonic() + 5
    while limiter.is_degraded:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def states_of(limiter: MemoryLimiter | DegradedLimiter | RedisLimiter, account: str) -> list[tuple[int, int]]:
    return [(state.used, state.held) for state in (await limiter.peek(account, LIMITS)).states]


async def test_while_the_primary_answers_it_alone_decides(
    limiter: DegradedLimiter, primary: Primary, account: str
) -> None:
    assert (await limiter.admit(account, "a", LIMITS, (60, 1, 10))).admitted
    assert await limiter.extend(account, "a", LIMITS, (5, 0, 1))
    await limiter.settle(account, "a", LIMITS, (50, 1, 9))
    await limiter.admit(account, "b", LIMITS, (50, 1, 1))
    await limiter.release(account, "b", LIMITS)
    assert await states_of(primary, account) == await states_of(limiter, account) == [(50, 0), (2, 0), (9, 0)]
    assert (limiter.is_degraded, limiter.admitted_alone, limiter.outages) == (False, 0, 0)


async def test_of_few_calls_at_once_a_share_is_one_and_goes_on_when_it_has_ended(
    limiter: DegradedLimiter, primary: Primary, account: str
) -> None:
    two = Limit("calls_in_flight", LimitKind.WINDOW, 2, window_s=1, bucket_s=1, counts=Measure.CALLS_IN_FLIGHT)
    limits = (two, requests(40))
    go_away(primary)
    assert (await limiter.admit(account, "a", limits, (1, 1))).admitted
    assert (await limiter.admit(account, "b", limits, (1, 1))).bound == "calls_in_flight"
    await limiter.settle(account, "a", limits, (0, 1))
    assert (await limiter.admit(account, "c", limits, (1, 1))).admitted


async def test_without_the_primary_the_share_is_admitted_and_not_more(
    limiter: DegradedLimiter, primary: Primary, account: str
) -> None:
    go_away(primary)
    answers = [await limiter.admit(account, f"c{number}", LIMITS, (3, 1, 10)) for number in range(12)]
    assert [answer.admitted for answer in answers] == [True] * 8 + [False] * 4
    assert answers[8].bound == "tokens"
    assert answers[8].states[0].capacity == 25
    assert limiter.is_degraded
    assert (limiter.admitted_alone, limiter.refused_alone) == (8, 4)


async def test_the_primary_is_not_asked_for_each_call_while_it_is_away(
    primary: Primary, clock: Clock, account: str, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = DegradedLimiter(primary, 25, 600, clock, probe_s=3600)
    go_away(primary)
    with caplog.at_level(logging.WARNING):
        await asyncio.gather(*(limiter.admit(account, f"c{number}", LIMITS, (1, 1, 1)) for number in range(20)))
    assert primary.asked_in_vain <= 20  # those that asked before the first answer
    asked = primary.asked_in_vain
    await asyncio.gather(*(limiter.admit(account, f"d{number}", LIMITS, (1, 1, 1)) for number in range(20)))
    await limiter.extend(account, "c1", LIMITS, (1, 1, 1))
    await limiter.peek(account, LIMITS)
    assert primary.asked_in_vain == asked
    assert [record.message for record in caplog.records if "is away" in record.message] == [caplog.records[0].message]
    await limiter.close()


async def test_with_a_share_of_0_nothing_is_admitted_without_the_primary(
    primary: Primary, clock: Clock, account: str
) -> None:
    limiter = DegradedLimiter(primary, 0, 600, clock)
    go_away(primary)
    with pytest.raises(LimiterUnavailableError):
        await limiter.admit(account, "a", LIMITS, (1, 1, 1))
    with pytest.raises(LimiterUnavailableError):
        await limiter.peek(account, LIMITS)
    await limiter.close()


async def test_after_its_time_nothing_is_admitted_without_the_primary(
    limiter: DegradedLimiter, primary: Primary, clock: Clock, account: str
) -> None:
    go_away(primary)
    await limiter.admit(account, "a", LIMITS, (1, 1, 1))
    clock.pass_s(600)
    await limiter.admit(account, "b", LIMITS, (1, 1, 1))
    clock.pass_s(0.001)
    with pytest.raises(LimiterUnavailableError):
        await limiter.admit(account, "c", LIMITS, (1, 1, 1))


async def test_a_call_that_only_the_whole_limit_could_take_is_unavailable_and_not_impossible(
    limiter: DegradedLimiter, primary: Primary, account: str
) -> None:
    go_away(primary)
    with pytest.raises(LimiterUnavailableError, match="share of tokens"):
        await limiter.admit(account, "a", LIMITS, (26, 1, 1))
    assert (await limiter.admit(account, "b", LIMITS, (101, 1, 1))).retry_after_ms == NEVER_MS
    assert (await limiter.admit(account, "c", LIMITS, (25, 1, 1))).admitted


async def test_what_was_used_without_the_primary_is_handed_over_whole(
    limiter: DegradedLimiter, primary: Primary, account: str
) -> None:
    await limiter.admit(account, "before", LIMITS, (30, 1, 100))
    go_away(primary)
    await limiter.admit(account, "over", LIMITS, (10, 1, 100))
    await limiter.admit(account, "given back", LIMITS, (10, 1, 100))
    await limiter.settle(account, "over", LIMITS, (8, 1, 80))
    await limiter.release(account, "given back", LIMITS)
    await limiter.admit(account, "still running", LIMITS, (10, 1, 100))
    assert limiter.waiting == 2
    await come_back(primary, limiter)
    assert await states_of(primary, account) == [(8, 30), (3, 0), (80, 100)]
    assert await limiter.extend(account, "still running", LIMITS, (5, 1, 50))
    await limiter.settle(account, "still running", LIMITS, (9, 1, 90))
    assert await states_of(primary, account) == [(17, 30), (4, 0), (170, 100)]
    await limiter.settle(account, "still running", LIMITS, (9, 1, 90))
    assert await states_of(primary, account) == [(17, 30), (4, 0), (170, 100)]
    assert (limiter.handed_over, limiter.waiting) == (3, 0)


async def test_a_primary_that_goes_away_again_during_the_hand_over_is_told_the_rest_later(
    limiter: DegradedLimiter, primary: Primary, account: str
) -> None:
    go_away(primary)
    for number in range(8):
        await limiter.admit(account, f"c{number}", LIMITS, (3, 1, 10))
        await limiter.settle(account, f"c{number}", LIMITS, (3, 1, 10))
    told, gone_again = 0, asyncio.Event()

    async def record_some(*args: object) -> None:
        nonlocal told
        told += 1
        if told == 3:
            go_away(primary)
            gone_again.set()
        await MemoryLimiter.record(primary, *args)  # type: ignore[arg-type]
        primary._check()

    real, primary.record = primary.record, record_some  # type: ignore[method-assign]
    primary.away = None
    await asyncio.wait_for(gone_again.wait(), 5)
    assert limiter.is_degraded
    primary.record = real  # type: ignore[method-assign]
    await come_back(primary, limiter)
    assert await states_of(primary, account) == [(24, 0), (8, 0), (80, 0)]


async def test_outages_that_follow_each_other_share_one_share(
    limiter: DegradedLimiter, primary: Primary, account: str
) -> None:
    admitted = 0
    for outage in range(3):
        go_away(primary)
        for number in range(8):
            name = f"c{outage}-{number}"
            if (await limiter.admit(account, name, LIMITS, (5, 1, 10))).admitted:
                admitted += 1
                await limiter.settle(account, name, LIMITS, (5, 1, 10))
        await come_back(primary, limiter)
    assert admitted == 5
    assert limiter.outages == 3


async def test_calls_that_the_primary_admitted_go_on_and_settle_there(
    limiter: DegradedLimiter, primary: Primary, account: str
) -> None:
    await limiter.admit(account, "a", LIMITS, (30, 1, 100))
    go_away(primary)
    assert await limiter.extend(account, "a", LIMITS, (5, 1, 5)) is True
    await limiter.settle(account, "a", LIMITS, (20, 1, 50))
    assert primary.owed == [("settle", "a")]
    assert limiter.waiting == 0


async def test_a_call_is_recorded_where_it_was_admitted_and_waits_for_a_primary_that_is_away(
    limiter: DegradedLimiter, primary: Primary, account: str
) -> None:
    await limiter.admit(account, "a", LIMITS, (60, 1, 10))
    go_away(primary)
    with pytest.raises(LimiterUnavailableError):
        await limiter.record(account, "a", LIMITS, (50, 1, 9))
    await limiter.admit(account, "b", LIMITS, (10, 1, 10))
    await limiter.record(account, "b", LIMITS, (5, 1, 7))
    await come_back(primary, limiter)
    for _ in range(2):  # once, however often it is said
        await limiter.record(account, "a", LIMITS, (50, 1, 9))
    assert await states_of(primary, account) == [(55, 0), (2, 0), (16, 0)]


async def test_several_calls_are_recorded_where_each_was_admitted(
    limiter: DegradedLimiter, primary: Primary, account: str
) -> None:
    await limiter.admit(account, "a", LIMITS, (60, 1, 10))
    go_away(primary)
    await limiter.admit(account, "b", LIMITS, (10, 1, 10))
    amounts = {"a": (50, 1, 9), "b": (5, 1, 7), "c": (1, 1, 1)}
    with pytest.raises(LimiterUnavailableError):
        await limiter.record_all(account, LIMITS, amounts)
    await come_back(primary, limiter)
    for _ in range(2):
        await limiter.record_all(account, LIMITS, amounts)
    assert await states_of(primary, account) == [(56, 0), (3, 0), (17, 0)]


async def test_a_ledger_that_is_away_does_not_cut_the_primary_off(
    limiter: DegradedLimiter, primary: Primary, account: str
) -> None:
    primary.away = LedgerUnavailableError("no ledger")
    assert (await limiter.admit(account, "a", LIMITS, (25, 1, 10))).admitted
    assert not limiter.is_degraded
    primary.away = None
    await limiter.settle(account, "a", LIMITS, (20, 1, 10))
    assert await states_of(primary, account) == [(20, 0), (1, 0), (10, 0)]


async def test_a_stalled_redis_is_survived_and_the_sums_are_equal_afterwards(tmp_path: Path, account: str) -> None:
    server = Server(tmp_path)
    limits = (window("tokens", 10_000, 3600, 10), requests(1000), budget(10**6))
    redis_limiter = RedisLimiter(server.url, timeout_ms=300)
    limiter = DegradedLimiter(redis_limiter, 25, 600, probe_s=0.05)
    spent = 0
    slowest_s = 0.0

    async def call(number: int) -> None:
        nonlocal spent, slowest_s
        began = time.monotonic()
        answer = await limiter.admit(account, f"c{number}", limits, (20, 1, 10))
        slowest_s = max(slowest_s, time.monotonic() - began)
        if answer.admitted:
            await asyncio.sleep(0.05)
            await limiter.settle(account, f"c{number}", limits, (number % 20, 1, 10))
            spent += number % 20

    calls = []
    for number in range(300):
        if number == 80:
            server.stall()
        if number == 220:
            server.go_on()
        calls.append(asyncio.create_task(call(number)))
        await asyncio.sleep(0.005)
    await asyncio.gather(*calls)
    assert 0.2 < slowest_s < 1.5
    assert limiter.admitted_alone > 20
    deadline = time.monotonic() + 10
    while limiter.is_degraded or limiter.waiting or redis_limiter.owed:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    states = (await redis_limiter.peek(account, limits)).states
    assert [(state.used, state.held) for state in states][::2] == [(spent, 0), (3000, 0)]
    assert states[1].used >= 300
    await limiter.close()
    server.close()
