"""Both limiters, behind one name: every test of the contract runs against each."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.core.limits import Limit
from proxy.limiter import RecordingLimiter, SeedLoader
from proxy.limiter.memory import MemoryLimiter
from proxy.limiter.redis import RedisLimiter
from tests.limiter.own_redis import Server
from tests.limiter.support import Clock, new_account

Make = Callable[..., RecordingLimiter]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def account() -> str:
    return new_account()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()


class _Soon:
    """A limiter whose ``settle`` is made of ``settle_soon``: what is said of the one must hold of the other."""

    def __init__(self, limiter: RecordingLimiter) -> None:
        self._limiter = limiter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._limiter, name)

    async def settle(self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]) -> None:
        rest = self._limiter.settle_soon(account_id, call_id, limits, amounts)
        if rest is not None:
            await rest
        await self._limiter.ping()
        async with asyncio.timeout(5):
            while getattr(self._limiter, "owed", 0):
                await asyncio.sleep(0.01)


def url_of(request: pytest.FixtureRequest, store: str) -> str:
    """Return the URL of a Redis, or of a cluster of three primaries."""
    if store == "cluster":
        return request.getfixturevalue("three_primaries").url  # type: ignore[no-any-return]
    return request.getfixturevalue("redis_url")  # type: ignore[no-any-return]


@pytest.fixture(params=["memory", "redis", "cluster", "memory-soon", "redis-soon"])
async def make_limiter(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Make]:
    """Make a limiter of one of the kinds, on the test's clock."""
    async with AsyncExitStack() as stack:

        def make(seed_loader: SeedLoader | None = None, hold_ttl_ms: int = 60_000) -> RecordingLimiter:
            limiter: RecordingLimiter
            if request.param.startswith("memory"):
                limiter = MemoryLimiter(clock, hold_ttl_ms, seed_loader)
            else:
                url = url_of(request, request.param.removesuffix("-soon"))
                limiter = RedisLimiter(url, hold_ttl_ms, 5000, seed_loader, clock)
            stack.push_async_callback(limiter.close)
            return cast("RecordingLimiter", _Soon(limiter)) if request.param.endswith("-soon") else limiter

        if not request.param.startswith("memory"):
            url_of(request, request.param.removesuffix("-soon"))
        yield make


@pytest.fixture
def limiter(make_limiter: Make) -> RecordingLimiter:
    return make_limiter()
