"""Looking at what Redis knows, and correcting it: verbs that only a reconciliation uses."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.core.limits import Limit, LimitKind
from proxy.limiter import Seed
from proxy.limiter.redis import RedisLimiter
from tests.limiter.conftest import url_of
from tests.limiter.support import Clock, budget, window

MONTH = budget(1_000)
OTHER = budget(1_000, period="2026-12")


@pytest.fixture(params=["redis", "cluster"])
async def limiter(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[RedisLimiter]:
    async def load(_account: str, _limits: object) -> Seed:
        return Seed({("cost_month", "2026-11"): 100})

    made = RedisLimiter(url_of(request, request.param), 60_000, 5000, load, clock)
    yield made
    await made.close()


async def used(limiter: RedisLimiter, account: str, limit: Limit = MONTH) -> tuple[int, int] | None:
    (state,) = await limiter.look(account, (limit,))
    return None if state is None else (state.used, state.held)


async def test_looking_learns_nothing_and_tells_each_limit_by_itself(limiter: RedisLimiter, account: str):
    assert await limiter.look(account, (MONTH, OTHER)) == (None, None)

    await limiter.peek(account, (MONTH,))

    assert await used(limiter, account) == (100, 0)
    assert await used(limiter, account, OTHER) is None


async def test_a_correction_changes_what_is_spent_and_no_hold(limiter: RedisLimiter, account: str):
    await limiter.admit(account, "call-1", (MONTH,), (50,))

    assert await limiter.correct(account, MONTH, 7)
    assert await used(limiter, account) == (107, 50)
    assert await limiter.correct(account, MONTH, -30)
    assert await used(limiter, account) == (77, 50)

    await limiter.settle(account, "call-1", (MONTH,), (20,))
    assert await used(limiter, account) == (97, 0)


async def test_corrections_and_settlements_do_not_take_each_other_back(limiter: RedisLimiter, account: str):
    for number in range(20):
        await limiter.admit(account, f"call-{number}", (MONTH,), (10,))

    await asyncio.gather(
        *(limiter.settle(account, f"call-{number}", (MONTH,), (10,)) for number in range(20)),
        *(limiter.correct(account, MONTH, -1) for _ in range(20)),
    )

    assert await used(limiter, account) == (100 + 200 - 20, 0)


async def test_nothing_is_spent_below_nothing(limiter: RedisLimiter, account: str):
    await limiter.peek(account, (MONTH,))

    await limiter.correct(account, MONTH, -101)

    assert await used(limiter, account) == (0, 0)


async def test_a_budget_that_is_not_known_is_not_made_by_correcting_it(limiter: RedisLimiter, account: str):
    assert not await limiter.correct(account, MONTH, 5)
    assert await used(limiter, account) is None


async def test_a_window_is_not_corrected(limiter: RedisLimiter, account: str):
    limit = window("tokens", 10, 60)
    assert limit.kind is LimitKind.WINDOW

    with pytest.raises(AssertionError):
        await limiter.correct(account, limit, 1)
