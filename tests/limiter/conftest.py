"""Both limiters, behind one name: every test of the contract runs against each."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from proxy.limiter import RecordingLimiter, SeedLoader
from proxy.limiter.memory import MemoryLimiter
from proxy.limiter.redis import RedisLimiter
from tests.limiter.support import Clock, new_account

Make = Callable[..., RecordingLimiter]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def account() -> str:
    return new_account()


@pytest.fixture(params=["memory", "redis"])
async def make_limiter(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Make]:
    """Make a limiter of one of the two kinds, on the test's clock."""
    async with AsyncExitStack() as stack:

        def make(seed_loader: SeedLoader | None = None, hold_ttl_ms: int = 60_000) -> RecordingLimiter:
            limiter: RecordingLimiter
            if request.param == "memory":
                limiter = MemoryLimiter(clock, hold_ttl_ms, seed_loader)
            else:
                url: str = request.getfixturevalue("redis_url")
                limiter = RedisLimiter(url, hold_ttl_ms, 5000, seed_loader, clock)
            stack.push_async_callback(limiter.close)
            return limiter

        request.getfixturevalue("redis_url") if request.param == "redis" else None
        yield make


@pytest.fixture
def limiter(make_limiter: Make) -> RecordingLimiter:
    return make_limiter()
