"""What the limiter costs in Redis, and what it must not grow with: accounts, windows' length, history, refusals.

Each load runs on a Redis (or a cluster of three primaries) of its own, with calls 50 at a time. A call is an admission
and a settlement. Redis tells what it has used: processor time of its main thread, network and all, and time within the
functions. Rounds of all loads take turns, and each load's best round counts: a busy machine only ever adds.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import redis
import uvloop

from proxy.core.limits import Limit
from proxy.limiter.redis import RedisLimiter
from tests.limiter.measure import BIG, fill
from tests.limiter.support import Clock, budget, requests, window
from tests.support.services import redis_cluster, redis_server

AT_ONCE = 50
CALLS = 4000
ACCOUNTS = (1, 100, 10_000)
GROWTH_MAX = 1.4
"""How much more a call may cost with the most of something than with the least: machines are no better than that."""
REFUSAL_MAX = 1.6
"""The same for a refusal that looks at calls in flight, beside an admission: less than a call, which is settled too."""
STATE_BYTES_MAX = 16 * 1024
NEED = 10


@dataclass(frozen=True)
class Cost:
    """Of one round, in microseconds: a call's of Redis, of it within the functions, and of this process; and commands.

    Args:
        commands: that the functions give, a call.
    """

    redis_us: float
    function_us: float
    client_us: float
    commands: float


@dataclass
class Load:
    """Calls of one kind, and what they cost in each round.

    Args:
        name: as the report calls it.
        group: loads of one group are compared with its first.
        run: makes calls, given the number of the first; returns how many.
        prepare: makes room again, without being measured.
        ceiling: how much more it may cost in the functions than the first of its group; None: it is not judged.
    """

    name: str
    group: str
    run: Callable[[int], Awaitable[int]]
    stores: "Stores"
    prepare: Callable[[int], Awaitable[None]] | None = None
    ceiling: float | None = GROWTH_MAX
    costs: list[Cost] = field(default_factory=list)

    async def measure(self, first: int) -> None:
        """Run one round."""
        self.stores.reset()
        cpu_s = time.process_time()
        calls = await self.run(first)
        client_us = (time.process_time() - cpu_s) / calls * 1e6
        self.costs.append(self.stores.cost(calls, client_us))
        if self.prepare is not None:
            await self.prepare(first)

    def best(self) -> Cost:
        """Return the least of each figure."""
        return Cost(*(min(getattr(cost, name) for cost in self.costs) for name in Cost.__dataclass_fields__))


class Stores:
    """What the servers behind a limiter have used."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._clients = [redis.Redis(port=port) for port in ports]
        self._cpu_s = 0.0

    def reset(self) -> None:
        """Begin to count."""
        for client in self._clients:
            client.config_resetstat()
        self._cpu_s = self._used_s()

    def cost(self, calls: int, client_us: float) -> Cost:
        """Return what was used since."""
        redis_us = (self._used_s() - self._cpu_s) / calls * 1e6
        stats = [client.info("commandstats") for client in self._clients]
        function_us = sum(stat.get("cmdstat_fcall", {"usec": 0})["usec"] for stat in stats) / calls
        outer = {"cmdstat_fcall", "cmdstat_config|resetstat", "cmdstat_info"}
        commands = sum(stat[name]["calls"] for stat in stats for name in stat if name not in outer) / calls
        return Cost(redis_us, function_us, client_us, commands)

    def _used_s(self) -> float:
        said = [client.info("cpu") for client in self._clients]
        return float(sum(one["used_cpu_user_main_thread"] + one["used_cpu_sys_main_thread"] for one in said))

    def state_bytes(self, account: str) -> int:
        """Return what all keys of an account take, but for those that remember calls that are gone."""
        (client,) = self._clients
        keys = [key for key in client.keys(f"tollgate:{{{account}}}*") if b"gone" not in key]
        return sum(client.memory_usage(key, samples=0) or 0 for key in keys)

    def close(self) -> None:
        """Let go."""
        for client in self._clients:
            client.close()


async def _at_once(number: int, verb: Callable[[int], Awaitable[Any]]) -> None:
    for first in range(0, number, AT_ONCE):
        await asyncio.gather(*(verb(index) for index in range(first, min(first + AT_ONCE, number))))


class Bench:
    """Makes the loads.

    Args:
        calls: of each load in a round.
    """

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.loads: list[Load] = []
        self.state_bytes = 0

    def whole_calls(
        self,
        name: str,
        group: str,
        limiter: RedisLimiter,
        accounts: Sequence[str],
        limits: tuple[Limit, ...],
        stores: Stores,
    ) -> None:
        """Add a load of admissions and settlements, spread over accounts."""
        needs = _needs(limits, NEED)

        async def run(first: int) -> int:
            async def call(index: int) -> None:
                number = first + index
                account = accounts[number % len(accounts)]
                answer = await limiter.admit(account, f"{number:036d}", limits, needs)
                assert answer.admitted
                await limiter.settle(account, f"{number:036d}", limits, needs)

            await _at_once(self.calls, call)
            return self.calls

        self.loads.append(Load(name, group, run, stores))

    def admissions(self, name: str, limiter: RedisLimiter, account: str, stores: Stores) -> None:
        """Add a load of admissions alone, for refusals to be compared with."""
        needs = _needs(BIG, NEED)
        number = self.calls // 4

        async def run(first: int) -> int:
            await _at_once(number, lambda index: _admit(limiter, account, f"{first + index:036d}", BIG, needs, True))
            return number

        async def prepare(first: int) -> None:
            await _at_once(number, lambda index: limiter.release(account, f"{first + index:036d}", BIG))

        self.loads.append(Load(name, "refusals", run, stores, prepare))

    def refusals(
        self,
        name: str,
        limiter: RedisLimiter,
        account: str,
        limits: tuple[Limit, ...],
        needs: tuple[int, ...],
        stores: Stores,
        ceiling: float | None,
    ) -> None:
        """Add a load of refusals alone."""
        number = self.calls // 4

        async def run(first: int) -> int:
            await _at_once(
                number, lambda index: _admit(limiter, account, f"r{first + index:035d}", limits, needs, False)
            )
            return number

        self.loads.append(Load(name, "refusals", run, stores, ceiling=ceiling))

    async def rounds(self, number: int) -> None:
        """Measure every load, in turn."""
        for turn in range(number + 1):
            for load in self.loads:
                await load.measure(turn * self.calls)
                if turn == 0:
                    load.costs.clear()  # warm now


async def _admit(
    limiter: RedisLimiter, account: str, call_id: str, limits: tuple[Limit, ...], needs: tuple[int, ...], expected: bool
) -> None:
    assert (await limiter.admit(account, call_id, limits, needs)).admitted is expected


def _needs(limits: tuple[Limit, ...], tokens: int) -> tuple[int, ...]:
    return tuple(1 if limit.name == "requests" else tokens for limit in limits)


@contextlib.asynccontextmanager
async def _limiter(
    url: str, ports: Sequence[int], clock: Clock | None = None
) -> AsyncIterator[tuple[RedisLimiter, Stores]]:
    limiter, stores = RedisLimiter(url, timeout_ms=10_000, now_ms=clock), Stores(ports)
    try:
        yield limiter, stores
    finally:
        await limiter.close()
        stores.close()


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


async def _many_accounts(bench: Bench, stack: contextlib.AsyncExitStack, folder: Path) -> None:
    for count in ACCOUNTS:
        part = folder / f"accounts-{count}"
        part.mkdir()
        url = stack.enter_context(redis_server(part))
        limiter, stores = await stack.enter_async_context(_limiter(url, [_port(url)]))
        await _add_accounts(bench, f"{count:,} account{'s' if count > 1 else ''}", "accounts", limiter, stores, count)
    part = folder / "cluster"
    part.mkdir()
    cluster = stack.enter_context(redis_cluster(part))
    limiter, stores = await stack.enter_async_context(_limiter(cluster.url, cluster.ports))
    name = f"{ACCOUNTS[-1]:,} accounts, a cluster of 3 primaries together"
    await _add_accounts(bench, name, "cluster", limiter, stores, ACCOUNTS[-1])


async def _add_accounts(bench: Bench, name: str, group: str, limiter: RedisLimiter, stores: Stores, count: int) -> None:
    accounts = [f"account-{number}" for number in range(count)]
    await _at_once(count, lambda index: limiter.peek(accounts[index], BIG))
    bench.whole_calls(name, group, limiter, accounts, BIG, stores)


async def _long_windows(bench: Bench, stack: contextlib.AsyncExitStack, folder: Path) -> None:
    for title, window_s, bucket_s in (("60 s", 60, 1), ("1 h", 3600, 10), ("24 h", 86_400, 300)):
        part = folder / f"window-{window_s}"
        part.mkdir()
        url, clock = stack.enter_context(redis_server(part)), Clock()
        limiter, stores = await stack.enter_async_context(_limiter(url, [_port(url)], clock))
        limits = (window("tokens", 10**12, window_s, bucket_s), requests(10**9), budget(10**15))
        for number in range(window_s // bucket_s):
            clock.pass_s(bucket_s)
            await limiter.record("acc", f"b{number}", limits, (1, 1, 1))
        bench.whole_calls(f"a window of {title}, every bucket in use", "windows", limiter, ["acc"], limits, stores)


async def _history(bench: Bench, stack: contextlib.AsyncExitStack, folder: Path) -> None:
    part = folder / "history"
    part.mkdir()
    url, clock = stack.enter_context(redis_server(part)), Clock()
    limiter, stores = await stack.enter_async_context(_limiter(url, [_port(url)], clock))
    await fill(limiter, "full", clock, BIG)
    await limiter.peek("new", BIG)
    bench.state_bytes = stores.state_bytes("full")
    bench.whole_calls("an account without a history", "history", limiter, ["new"], BIG, stores)
    bench.whole_calls("an account after a full day", "history", limiter, ["full"], BIG, stores)
    await fill(limiter, "busy", clock, BIG)
    bench.admissions("admission, after a full day", limiter, "busy", stores)
    used = [state.used for state in (await limiter.peek("busy", BIG)).states]
    for name, flights, waits_for, ceiling in (
        ("refusal, no call in flight", 0, 0, GROWTH_MAX),
        ("refusal, 200 calls in flight, the first of which makes room", 200, 1, REFUSAL_MAX),
        ("refusal, 200 calls in flight, all of which must end first", 200, 200, None),
    ):
        account = f"busy-{waits_for}"
        await _copy(url, "busy", account)
        for number in range(flights):
            await limiter.admit(account, f"flight{number}", BIG, _needs(BIG, 1000))
        capacity = used[0] + 1000 * flights
        limits = (msgspec.structs.replace(BIG[0], capacity=capacity), *BIG[1:])
        needs = (1000 * waits_for if waits_for else min(100, used[0]), 1, 1, 1)
        bench.refusals(name, limiter, account, limits, needs, stores, ceiling)


async def _copy(url: str, source: str, target: str) -> None:
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        for key in client.keys(f"tollgate:{{{source}}}*"):
            client.copy(key, key.replace(b"{%s}" % source.encode(), b"{%s}" % target.encode()))


async def _measure(calls: int, rounds: int) -> Bench:
    bench = Bench(calls)
    with tempfile.TemporaryDirectory() as folder:
        async with contextlib.AsyncExitStack() as stack:
            for add in (_many_accounts, _long_windows, _history):
                await add(bench, stack, Path(folder))
            await bench.rounds(rounds)
    return bench


@dataclass(frozen=True)
class LimiterResult:
    """What was measured."""

    loads: list[Load]
    state_bytes: int

    def problems(self) -> list[str]:
        """Say what is not good enough."""
        found = []
        for load, cost, first in self._compared():
            ratio = cost.function_us / first.function_us
            if load.ceiling is not None and ratio > load.ceiling:
                found.append(f"limiter: {load.name}: {ratio:.2f}x is over {load.ceiling}x")
        if self.state_bytes > STATE_BYTES_MAX:
            found.append(f"limiter: a full account takes {self.state_bytes} bytes, more than {STATE_BYTES_MAX}")
        return found

    def _compared(self) -> list[tuple[Load, Cost, Cost]]:
        """Each load with what it costs, and what the first of its group does."""
        firsts: dict[str, Cost] = {}
        return [(load, load.best(), firsts.setdefault(load.group, load.best())) for load in self.loads]

    def markdown(self) -> str:
        """Return the table."""
        lines = [
            "| load | Redis, us | in the functions, us | of the first | commands | client, us |",
            "|---|---|---|---|---|---|",
        ]
        for load, cost, first in self._compared():
            ratio = f"{cost.function_us / first.function_us:.2f}x"
            figures = (f"{cost.redis_us:.1f}", f"{cost.function_us:.1f}", ratio, f"{cost.commands:.1f}")
            lines.append(f"| {load.name} | {' | '.join(figures)} | {cost.client_us:.1f} |")
        return "\n".join([*lines, "", f"State of an account after a full day: {self.state_bytes:,} bytes."])

    def as_dict(self) -> dict[str, Any]:
        """Return everything that was measured."""
        loads = [{"load": load.name, "costs": [vars(cost) for cost in load.costs]} for load in self.loads]
        return {"loads": loads, "state_bytes": self.state_bytes, "problems": self.problems()}


def measure_limiter(rounds: int, *, quick: bool) -> LimiterResult:
    """Start the stores and measure every load."""
    bench = uvloop.run(_measure(CALLS // 4 if quick else CALLS, rounds))
    return LimiterResult(bench.loads, bench.state_bytes)
