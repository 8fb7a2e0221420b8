"""What the limiter costs, counted in commands and bytes: of accounts, windows and history it is independent."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from proxy.core.limits import Limit
from proxy.limiter.redis import RedisLimiter
from tests.limiter.measure import BIG
from tests.limiter.own_redis import Server
from tests.limiter.support import Clock, budget, requests, window

OUTER = ("cmdstat_fcall", "cmdstat_config|resetstat")


@pytest.fixture
async def limiter(server: Server, clock: Clock) -> AsyncIterator[RedisLimiter]:
    limiter = RedisLimiter(server.url, timeout_ms=5000, now_ms=clock)
    yield limiter
    await limiter.close()


class Count:
    """How many functions were called since, and how many commands they gave."""

    def __init__(self, server: Server) -> None:
        self._client = server.client()
        self._client.config_resetstat()

    def read(self) -> tuple[int, int]:
        stats = self._client.info("commandstats")
        self._client.close()
        given = sum(stat["calls"] for name, stat in stats.items() if name not in OUTER)
        return stats["cmdstat_fcall"]["calls"], given


def needs_of(limits: tuple[Limit, ...], tokens: int) -> tuple[int, ...]:
    return tuple(1 if limit.name == "requests" else tokens for limit in limits)


async def cost_of_a_call(
    limiter: RedisLimiter, server: Server, account: str, limits: tuple[Limit, ...], call_id: str
) -> tuple[int, int]:
    """Admit and settle a call of an account that is known; return the functions called and the commands given."""
    await limiter.peek(account, limits)
    count = Count(server)
    assert (await limiter.admit(account, call_id, limits, needs_of(limits, 5))).admitted
    await limiter.settle(account, call_id, limits, needs_of(limits, 5))
    return count.read()


async def test_a_call_costs_the_same_with_one_account_as_with_a_thousand(limiter: RedisLimiter, server: Server) -> None:
    alone = await cost_of_a_call(limiter, server, "alone", BIG, "a")
    for number in range(1000):
        await limiter.admit(f"other-{number}", "a", BIG, needs_of(BIG, 5))
    assert await cost_of_a_call(limiter, server, "alone", BIG, "b") == alone
    assert alone[0] == 2  # one round trip each


@pytest.mark.parametrize(("window_s", "bucket_s"), [(60, 1), (3600, 10), (86_400, 300), (86_400, 60)])
async def test_a_call_costs_the_same_under_a_full_window_of_any_length(
    limiter: RedisLimiter, server: Server, clock: Clock, account: str, window_s: int, bucket_s: int
) -> None:
    limits = (window("tokens", 10**9, window_s, bucket_s), requests(10**9), budget(10**12))
    fresh = await cost_of_a_call(limiter, server, "new", limits, "a")
    for number in range(window_s // bucket_s):
        clock.pass_s(bucket_s)
        await limiter.record(account, f"b{number}", limits, needs_of(limits, 1))
    clock.pass_s(0.5)  # no bucket begins or ends here
    assert await cost_of_a_call(limiter, server, account, limits, "a") == fresh


@pytest.mark.parametrize("in_flight", [0, 1, 500])
async def test_a_refusal_looks_at_no_more_calls_in_flight_than_must_end(
    limiter: RedisLimiter, server: Server, account: str, in_flight: int
) -> None:
    tokens = window("tokens", 1000 * max(in_flight, 1), 60, 5)
    if not in_flight:
        await limiter.record(account, "before", (tokens,), (1000,))
    for number in range(in_flight):
        await limiter.admit(account, f"flight{number}", (tokens,), (1000,))
    count = Count(server)
    assert not (await limiter.admit(account, "refused", (tokens,), (10,))).admitted
    functions, commands = count.read()
    assert functions == 1
    assert commands <= 6


async def test_a_key_and_a_model_with_limits_of_their_own_cost_no_further_commands(
    limiter: RedisLimiter, server: Server, account: str
) -> None:
    more = tuple(
        msgspec.structs.replace(limit, name=f"{limit.name}_{scope}", scope=scope)
        for scope in ("key", "model")
        for limit in BIG[:2]
    )
    few = await cost_of_a_call(limiter, server, "few", BIG, "a")
    assert await cost_of_a_call(limiter, server, account, (*BIG, *more), "a") == few
