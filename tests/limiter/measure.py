"""What the limiter costs: ``python -m tests.limiter.measure`` prints a table. Needs redis-server; takes half a minute.

Client CPU is this process's, kernel and all, without that of a bare await.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import redis
import uvloop

from proxy.core.limits import Limit
from proxy.limiter import RecordingLimiter
from proxy.limiter.memory import MemoryLimiter
from proxy.limiter.redis import RedisLimiter
from tests.limiter.support import DAY, HOUR, Clock, budget, requests
from tests.support.services import redis_server

CALLS = 20_000
AT_ONCE = 200
NEEDS = (10, 10, 1, 1000)
BIG = (
    Limit(HOUR.name, HOUR.kind, 10**12, HOUR.window_s, HOUR.bucket_s),
    Limit(DAY.name, DAY.kind, 10**12, DAY.window_s, DAY.bucket_s),
    requests(10**9),
    budget(10**15),
)


async def fill(limiter: RecordingLimiter, account: str, clock: Clock, limits: tuple[Limit, ...]) -> None:
    """A day of calls so frequent that every bucket of every window is there."""
    for number in range(86_400 // 300):
        clock.pass_s(300)
        await limiter.record(account, f"day{number}", limits, (1, 1, 1, 1))
    for number in range(3600 // 10):
        clock.pass_s(10)
        await limiter.record(account, f"hour{number}", limits, (1, 1, 1, 1))
    for number in range(60):
        clock.pass_s(1)
        await limiter.record(account, f"minute{number}", limits, (1, 1, 1, 1))


async def timed(verb: Callable[[int], Awaitable[object]]) -> tuple[float, float]:
    """Run a verb for every call; return CPU and wall time a call, in microseconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    for first in range(0, CALLS, AT_ONCE):
        await asyncio.gather(*(verb(number) for number in range(first, first + AT_ONCE)))
    return (time.process_time() - cpu) / CALLS * 1e6, (time.perf_counter() - wall) / CALLS * 1e6


async def nothing(_: int) -> None:
    await asyncio.sleep(0)


_cpu_s = [0.0]


def server_us(store: "redis.Redis[bytes]") -> str:
    """What a function call has cost Redis since the last question: CPU, network and all; and time in the function."""
    info = store.info("cpu")
    _cpu_s.append(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"])
    stats = store.info("commandstats").get("cmdstat_fcall", {"calls": 1, "usec_per_call": 0.0})
    store.config_resetstat()
    cpu_us = (_cpu_s[-1] - _cpu_s[-2]) / stats["calls"] * 1e6
    return f"{cpu_us:5.1f} us CPU, {stats['usec_per_call']:5.1f} us in the function"


async def measure_verbs(limiter: RecordingLimiter, store: "redis.Redis[bytes] | None", account: str) -> None:
    verbs: dict[str, Callable[[int], Awaitable[object]]] = {
        "admit": lambda number: limiter.admit(account, f"{number:036d}", BIG, NEEDS),
        "extend": lambda number: limiter.extend(account, f"{number:036d}", BIG, NEEDS),
        "settle": lambda number: limiter.settle(account, f"{number:036d}", BIG, NEEDS),
    }
    base_us, _ = await timed(nothing)
    for name, verb in verbs.items():
        cpu_us, wall_us = await timed(verb)
        server = f"server {server_us(store)}" if store else ""
        print(f"  {name:28} client {cpu_us - base_us:5.1f} us   wall {wall_us:5.1f} us   {server}")


async def measure_one_by_one(
    limiter: RecordingLimiter, store: "redis.Redis[bytes]", account: str, clock: Clock
) -> None:
    """Few calls in flight, as it is in life; and refusals by each limit, with and without calls in flight."""
    for number in range(2000):
        clock.now_ms += 3
        await limiter.admit(account, f"one{number}", BIG, NEEDS)
    print(f"  {'admit, calls in flight rise':28} server {server_us(store)}")
    for number in range(2000):
        clock.now_ms += 3
        await limiter.settle(account, f"one{number}", BIG, NEEDS)
    print(f"  {'settle':28} server {server_us(store)}")
    used = [state.used for state in (await limiter.peek(account, BIG)).states]
    for in_flight in (0, 20, 200):
        for number in range(in_flight):
            await limiter.admit(account, f"flight{number}", BIG, (1000, 1000, 1, 1000))
        for index, limit in enumerate(BIG):
            held = 0 if limit.name == "requests" else 1000 * in_flight
            full = list(BIG)
            full[index] = msgspec.structs.replace(limit, capacity=used[index] + held + (0 if held else in_flight))
            tight = tuple(full)
            need = [1, 1, 1, 1]
            need[index] = 1000
            await limiter.peek(account, tight)
            server_us(store)
            refused = 0
            for number in range(500):
                refused += not (await limiter.admit(account, f"refused{number}", tight, need)).admitted
            assert refused == 500
            print(f"  refused by {limit.name:18} {in_flight:3} in flight  server {server_us(store)}")
        for number in range(in_flight):
            await limiter.release(account, f"flight{number}", BIG)


async def main() -> None:
    clock = Clock()
    memory = MemoryLimiter(clock)
    await fill(memory, "acc", clock, BIG)
    print("in memory")
    await measure_verbs(memory, None, "acc")
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as url:
        clock = Clock()
        limiter = RedisLimiter(url, timeout_ms=10_000, now_ms=clock)
        on_time = RedisLimiter(url, timeout_ms=10_000)
        await fill(limiter, "acc", clock, BIG)
        with contextlib.closing(redis.Redis.from_url(url)) as store:
            sizes = {key.decode(): store.memory_usage(key, samples=0) for key in store.keys("*state")}
            print("state bytes without calls in flight:", sizes)
            for number in range(100):
                await limiter.admit("acc", f"{number:036d}", BIG, NEEDS)
            more = sum(store.memory_usage(key, samples=0) for key in store.keys("*{acc}*") if b"gone" not in key)
            print("bytes a call in flight:", (more - sum(sizes.values())) / 100)
            for number in range(100):
                await limiter.release("acc", f"{number:036d}", BIG)
            server_us(store)
            print("in Redis, 200 at once, the clock of Redis, an account with little history")
            await measure_verbs(on_time, store, "other")
            print("in Redis, 200 at once, a full account")
            await measure_verbs(limiter, store, "acc")
            print("in Redis, one by one, a full account")
            await measure_one_by_one(limiter, store, "acc", clock)
        await limiter.close()
        await on_time.close()


if __name__ == "__main__":
    uvloop.run(main())
