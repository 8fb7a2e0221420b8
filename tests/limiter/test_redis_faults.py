"""What can happen to Redis and to callers: restarts, stalls, lost data and functions, cancelled calls, passwords."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
import uvloop

from proxy.limiter import LimiterUnavailableError, Seed, library
from proxy.limiter import redis as redis_module
from proxy.limiter.redis import TOGETHER, RedisLimiter
from tests.limiter.measure import BIG, fill
from tests.limiter.own_redis import Server
from tests.limiter.support import START_MS, Clock, budget, new_account, requests, window
from tests.support.ports import free_port
from tests.support.services import redis_server

TOKENS = window("tokens", 100, 60, 5)
MONTH = budget(10_000)
LIMITS = (TOKENS, requests(10_000), MONTH)


@pytest.fixture
async def limiter(server: Server, clock: Clock) -> AsyncIterator[RedisLimiter]:
    limiter = RedisLimiter(server.url, timeout_ms=300, now_ms=clock)
    yield limiter
    await limiter.close()


async def used_of(limiter: RedisLimiter, account: str) -> list[int]:
    return [state.used for state in (await limiter.peek(account, LIMITS)).states]


async def until_back(limiter: RedisLimiter, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            await limiter.ping()
            if not limiter.owed:
                return
        except LimiterUnavailableError:
            pass
        assert time.monotonic() < deadline, "Redis does not come back"
        await asyncio.sleep(0.02)


# --- what is remembered ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["settle", "record", "release"])
async def test_of_a_call_that_has_ended_nothing_is_remembered(limiter: RedisLimiter, verb: str) -> None:
    account = new_account()
    await limiter.admit(account, "a", LIMITS, (1, 1, 1))
    assert len(limiter._epochs) == 1
    amounts = () if verb == "release" else ((1, 1, 1),)
    await getattr(limiter, verb)(account, "a", LIMITS, *amounts)
    assert not limiter._epochs


async def test_of_more_calls_than_can_be_remembered_the_oldest_are_forgotten(
    limiter: RedisLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "EPOCHS_MAX", 2)
    account = new_account()
    for call in "abc":
        await limiter.admit(account, call, LIMITS, (1, 1, 1))
    assert list(limiter._epochs) == [(account, "b"), (account, "c")]


# --- callers --------------------------------------------------------------------------------------------------------


async def test_callers_that_are_cancelled_never_shift_the_answers_of_others(limiter: RedisLimiter) -> None:
    accounts = [new_account() for _ in range(100)]
    for number, account in enumerate(accounts):
        await limiter.record(account, "a", LIMITS, (number, 1, 1))
    for _ in range(10):
        looks = [asyncio.create_task(limiter.peek(account, LIMITS)) for account in accounts]
        await asyncio.sleep(0)
        for look in looks[::3]:
            look.cancel()
        answers = await asyncio.gather(*looks, return_exceptions=True)
        for number, answer in enumerate(answers):
            if number % 3 == 0:
                assert isinstance(answer, asyncio.CancelledError)
            else:
                assert not isinstance(answer, BaseException)
                assert answer.states[0].used == number


async def test_an_admission_nobody_waits_for_any_more_is_given_back(limiter: RedisLimiter, account: str) -> None:
    await limiter.peek(account, LIMITS)
    leaving = asyncio.create_task(limiter.admit(account, "a", LIMITS, (50, 1, 1)))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await until_back(limiter)
    assert (await limiter.peek(account, LIMITS)).states[0].held == 0


async def test_a_settlement_whose_task_is_cancelled_is_made_all_the_same(limiter: RedisLimiter, account: str) -> None:
    await limiter.admit(account, "a", LIMITS, (50, 1, 1))
    leaving = asyncio.create_task(limiter.settle(account, "a", LIMITS, (20, 1, 5)))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await until_back(limiter)
    assert await used_of(limiter, account) == [20, 1, 5]


async def test_two_replicas_at_once_never_admit_more_than_there_is(server: Server, account: str) -> None:
    replicas = [RedisLimiter(server.url, timeout_ms=5000) for _ in range(2)]
    answers = await asyncio.gather(
        *(replicas[number % 2].admit(account, f"c{number}", LIMITS, (1, 1, 1)) for number in range(400))
    )
    assert sum(answer.admitted for answer in answers) == 100
    for replica in replicas:
        await replica.close()


# --- Redis away -----------------------------------------------------------------------------------------------------


async def test_a_redis_that_stalls_costs_each_caller_a_bounded_wait_and_then_none(
    limiter: RedisLimiter, server: Server, account: str
) -> None:
    await limiter.peek(account, LIMITS)
    server.stall()
    began = time.monotonic()
    answers = await asyncio.gather(
        *(limiter.admit(account, f"c{number}", LIMITS, (1, 1, 1)) for number in range(50)), return_exceptions=True
    )
    assert all(isinstance(answer, LimiterUnavailableError) for answer in answers)
    assert time.monotonic() - began < 2
    with pytest.raises(LimiterUnavailableError):
        await limiter.peek(account, LIMITS)  # waits for the connection that is tried
    began = time.monotonic()
    with pytest.raises(LimiterUnavailableError):
        await limiter.peek(account, LIMITS)
    assert time.monotonic() - began < 0.1
    server.go_on()
    await until_back(limiter)
    assert (await limiter.peek(account, LIMITS)).states[0].held == 0  # what Redis took unheard was released


async def test_settlements_made_while_redis_is_away_reach_it_when_it_is_back(
    limiter: RedisLimiter, server: Server, account: str
) -> None:
    for number in range(20):
        await limiter.admit(account, f"c{number}", LIMITS, (5, 1, 10))
    server.stall()
    await asyncio.gather(*(limiter.settle(account, f"c{number}", LIMITS, (2, 1, 7)) for number in range(10)))
    await asyncio.gather(*(limiter.release(account, f"c{number}", LIMITS) for number in range(10, 20)))
    assert limiter.owed == 20
    server.go_on()
    await until_back(limiter)
    states = (await limiter.peek(account, LIMITS)).states
    assert [(state.used, state.held) for state in states] == [(20, 0), (20, 0), (70, 0)]
    assert limiter.dropped == 0


async def test_what_is_owed_is_paid_at_the_close(server: Server, clock: Clock, account: str) -> None:
    limiter = RedisLimiter(server.url, timeout_ms=300, now_ms=clock)
    await limiter.admit(account, "a", LIMITS, (5, 1, 10))
    leaving = asyncio.create_task(limiter.settle(account, "a", LIMITS, (2, 1, 7)))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await limiter.close()
    with pytest.raises(LimiterUnavailableError, match="closed"):
        await limiter.peek(account, LIMITS)
    other = RedisLimiter(server.url, now_ms=clock)
    assert await used_of(other, account) == [2, 1, 7]
    await other.close()


async def test_settlements_that_nobody_waits_for_are_owed_while_redis_is_silent(
    limiter: RedisLimiter, server: Server, account: str
) -> None:
    for number in range(20):
        await limiter.admit(account, f"c{number}", LIMITS, (5, 1, 10))
    server.stall()
    for number in range(20):
        assert limiter.settle_soon(account, f"c{number}", LIMITS, (2, 1, 7)) is None
    async with asyncio.timeout(5):
        while limiter.owed < 20:
            await asyncio.sleep(0.02)
    server.go_on()
    await until_back(limiter)
    states = (await limiter.peek(account, LIMITS)).states
    assert [(state.used, state.held) for state in states] == [(40, 0), (20, 0), (140, 0)]


async def test_settlements_on_their_way_arrive_before_the_close(server: Server, clock: Clock, account: str) -> None:
    limiter = RedisLimiter(server.url, timeout_ms=300, now_ms=clock)
    await limiter.admit(account, "a", LIMITS, (5, 1, 10))
    limiter.settle_soon(account, "a", LIMITS, (2, 1, 7))
    await limiter.close()
    other = RedisLimiter(server.url, now_ms=clock)
    assert await used_of(other, account) == [2, 1, 7]
    await other.close()


async def test_a_redis_that_is_killed_and_comes_back_empty_is_seeded_and_loses_no_call(
    server: Server, clock: Clock, account: str
) -> None:
    ledger: dict[str, int] = {}

    async def load(account_id: str, limits: object) -> Seed:
        amounts = tuple((START_MS, amount) for amount in ledger.values())
        return Seed({("cost_month", "2026-11"): 10 * sum(ledger.values())}, {"tokens": amounts}, tuple(ledger))

    limiter = RedisLimiter(server.url, timeout_ms=500, seed_loader=load, now_ms=clock)
    for name in ("settled", "in the ledger before it is settled", "slow"):
        await limiter.admit(account, name, LIMITS, (20, 1, 200))
    ledger["settled"] = 11
    await limiter.settle(account, "settled", LIMITS, (11, 1, 110))
    server.kill()
    ledger["in the ledger before it is settled"] = 5
    await limiter.settle(account, "in the ledger before it is settled", LIMITS, (5, 1, 50))
    with pytest.raises(LimiterUnavailableError):
        await limiter.peek(account, LIMITS)
    server.start()
    await until_back(limiter)
    assert await used_of(limiter, account) == [16, 0, 160]
    for _ in range(2):
        await limiter.settle(account, "slow", LIMITS, (7, 1, 70))
        assert await used_of(limiter, account) == [23, 0, 230]
    await limiter.close()


async def test_a_redis_that_has_lost_its_data_is_seeded_before_the_next_decision(
    server: Server, clock: Clock, account: str
) -> None:
    async def load(account_id: str, limits: object) -> Seed:
        return Seed(windows={"tokens": ((START_MS, 90),)})

    limiter = RedisLimiter(server.url, seed_loader=load, now_ms=clock)
    await limiter.peek(account, LIMITS)
    with server.client() as client:
        client.flushall()
    assert not (await limiter.admit(account, "a", LIMITS, (11, 1, 1))).admitted
    assert (await limiter.admit(account, "a", LIMITS, (10, 1, 1))).admitted
    await limiter.close()


async def test_a_redis_that_wakes_up_with_old_data_is_not_believed(tmp_path: Path, clock: Clock, account: str) -> None:
    ledger: dict[str, int] = {}

    async def load(account_id: str, limits: object) -> Seed:
        return Seed(windows={"tokens": tuple((START_MS, amount) for amount in ledger.values())}, calls=tuple(ledger))

    server = Server(tmp_path, "--appendonly", "no", "--dbfilename", "old.rdb")
    limiter = RedisLimiter(server.url, timeout_ms=500, seed_loader=load, now_ms=clock)
    other = RedisLimiter(server.url, timeout_ms=500, seed_loader=load, now_ms=clock)
    await limiter.admit(account, "early", LIMITS, (10, 1, 1))
    with server.client() as client:
        client.save()
    for name, amount in (("early", 10), ("late", 30)):
        await limiter.admit(account, name, LIMITS, (amount, 1, 1))
        ledger[name] = amount
        await limiter.settle(account, name, LIMITS, (amount, 1, 1))
    await limiter.admit(account, "in flight", LIMITS, (20, 1, 1))
    server.kill()
    server.start()
    with server.client() as client:
        assert client.keys(f"tollgate:1:{{{account}}}:state")  # what was known before "early" was settled
    await until_back(limiter)
    assert await used_of(limiter, account) == await used_of(other, account) == [40, 0, 0]
    await limiter.settle(account, "in flight", LIMITS, (5, 1, 1))
    assert await used_of(other, account) == [45, 0, 1]
    await limiter.close()
    await other.close()
    server.close()


async def test_functions_that_are_lost_are_loaded_again(limiter: RedisLimiter, server: Server, account: str) -> None:
    await limiter.admit(account, "a", LIMITS, (5, 1, 1))
    with server.client() as client:
        client.function_flush()
    await limiter.settle(account, "a", LIMITS, (5, 1, 1))
    assert await used_of(limiter, account) == [5, 1, 1]


async def test_calls_are_recorded_together_when_functions_are_lost_or_no_answer_comes(
    limiter: RedisLimiter, server: Server, account: str
) -> None:
    calls = {f"call-{number}": (2, 1, 3) for number in range(2 * TOGETHER)}
    await limiter.peek(account, LIMITS)
    with server.client() as client:
        client.function_flush()
    await limiter.record_all(account, LIMITS, calls)
    assert await used_of(limiter, account) == [4 * TOGETHER, 2 * TOGETHER, 6 * TOGETHER]
    server.stall()
    with pytest.raises(LimiterUnavailableError):
        await limiter.record_all(account, LIMITS, calls | {"more": (1, 1, 1)})
    server.go_on()
    await until_back(limiter)
    await limiter.record_all(account, LIMITS, calls | {"more": (1, 1, 1)})
    assert await used_of(limiter, account) == [4 * TOGETHER + 1, 2 * TOGETHER + 1, 6 * TOGETHER + 1]


async def test_another_version_of_the_functions_is_left_alone_and_ours_are_put_beside_it(
    limiter: RedisLimiter, server: Server, account: str
) -> None:
    with server.client() as client:
        client.function_flush()
        client.function_load(library.CODE.replace(library.NAME, "tollgate_older"))
    await limiter.admit(account, "a", LIMITS, (5, 1, 1))
    with server.client() as client:
        names = {listed[1].decode() for listed in client.function_list()}
    assert names == {"tollgate_older", library.NAME}


def test_the_library_is_named_by_its_content() -> None:
    text = Path(library.__file__).with_name("limiter.lua").read_bytes()
    assert f"tollgate_{hashlib.sha256(text).hexdigest()[:12]}" == library.NAME
    assert library.CODE.startswith(f"#!lua name={library.NAME}\n")
    assert "LIBRARY_NAME" not in library.CODE


async def test_expiries_that_are_lost_are_made_again_from_the_calls_in_flight(
    limiter: RedisLimiter, server: Server, clock: Clock, account: str
) -> None:
    await limiter.admit(account, "a", LIMITS, (40, 1, 1))
    clock.pass_s(30)
    await limiter.admit(account, "b", LIMITS, (40, 1, 1))
    with server.client() as client:
        assert client.delete(f"tollgate:{{{account}}}:expiries") == 1
    clock.pass_s(30)
    assert (await limiter.peek(account, LIMITS)).states[0].held == 40
    clock.pass_s(30)
    assert (await limiter.peek(account, LIMITS)).states[0].held == 0


async def test_a_redis_without_memory_refuses_admissions_and_takes_settlements(
    limiter: RedisLimiter, server: Server, account: str
) -> None:
    await limiter.admit(account, "a", LIMITS, (5, 1, 1))
    with server.client() as client:
        client.config_set("maxmemory", "1mb")
        client.config_set("maxmemory", 1)
        with pytest.raises(LimiterUnavailableError, match="OOM"):
            await limiter.admit(account, "b", LIMITS, (5, 1, 1))
        with pytest.raises(LimiterUnavailableError, match="OOM"):
            await limiter.ping()
        await limiter.settle(account, "a", LIMITS, (5, 1, 1))
        assert limiter.owed == 0
        client.config_set("maxmemory", 0)
    assert await used_of(limiter, account) == [5, 1, 1]


async def test_no_redis_at_all_is_said_at_once_and_found_when_it_starts(tmp_path: Path, account: str) -> None:
    server = Server(tmp_path)
    server.kill()
    limiter = RedisLimiter(server.url, timeout_ms=1000)
    for _ in range(3):
        with pytest.raises(LimiterUnavailableError, match="no connection"):
            await limiter.peek(account, LIMITS)
    server.start()
    await until_back(limiter)
    await limiter.close()
    server.close()


# --- its configuration ----------------------------------------------------------------------------------------------


async def test_a_password_and_a_database_of_the_url_are_used_and_never_shown(tmp_path: Path, account: str) -> None:
    with redis_server(tmp_path, free_port()) as url:
        port = int(url.split(":")[2].split("/")[0])
        with redis.Redis(port=port) as client:
            client.config_set("requirepass", "sesame-open")
        good = RedisLimiter(f"redis://:sesame-open@127.0.0.1:{port}/3")
        await good.peek(account, LIMITS)
        await good.close()
        with redis.Redis(port=port, password="sesame-open", db=3) as client:
            assert client.exists(f"tollgate:{{{account}}}:state") == 1
            client.config_set("requirepass", "")
        wrong = RedisLimiter(f"redis://someone:sesame-shut@127.0.0.1:{port}/3")
        with pytest.raises(LimiterUnavailableError) as refused:
            await wrong.peek(account, LIMITS)
        assert "sesame" not in str(refused.value) + repr(wrong._router._targets)
        await wrong.close()


async def test_a_node_of_a_cluster_takes_every_verb(tmp_path: Path, account: str) -> None:
    with redis_server(tmp_path, free_port(), "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as url:
        port = int(url.split(":")[2].split("/")[0])
        with redis.Redis(port=port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            deadline = time.monotonic() + 10
            while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        limiter = RedisLimiter(url, hold_ttl_ms=50)
        await limiter.admit(account, "a", LIMITS, (5, 1, 1))
        assert await limiter.extend(account, "a", LIMITS, (2, 0, 1))
        await asyncio.sleep(0.06)
        await limiter.settle(account, "a", LIMITS, (3, 1, 1))
        await limiter.record(account, "b", LIMITS, (3, 1, 1))
        await limiter.release(account, "c", LIMITS)
        assert await used_of(limiter, account) == [6, 2, 2]
        await limiter.close()


async def test_the_clock_is_that_of_redis(server: Server, account: str) -> None:
    limiter = RedisLimiter(server.url)
    assert abs((await limiter.peek(account, LIMITS)).now_ms - time.time() * 1000) < 5000
    await limiter.close()


def test_it_runs_on_uvloop(server: Server, account: str) -> None:
    async def run() -> list[int]:
        limiter = RedisLimiter(server.url)
        await asyncio.gather(*(limiter.admit(account, f"c{number}", LIMITS, (1, 1, 1)) for number in range(50)))
        await asyncio.gather(*(limiter.settle(account, f"c{number}", LIMITS, (1, 1, 1)) for number in range(50)))
        used = await used_of(limiter, account)
        await limiter.close()
        return used

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == [50, 50, 50]


# --- its cost -------------------------------------------------------------------------------------------------------


async def test_a_full_account_takes_little_memory_and_every_key_of_it_ends(
    limiter: RedisLimiter, server: Server, clock: Clock, account: str
) -> None:
    await fill(limiter, account, clock, BIG)
    for number in range(5):
        await limiter.admit(account, f"in flight {number}", BIG, (10, 10, 1, 10))
    with server.client() as client:
        keys = [key for key in client.keys(f"tollgate:{{{account}}}*") if b"gone" not in key]
        assert sum(client.memory_usage(key, samples=0) or 0 for key in keys) <= 16_384 + 5 * 512
        assert all(0 < client.pttl(key) <= 40 * 86_400_000 for key in client.keys("tollgate:*"))


async def commands_of(server: Server, limiter: RedisLimiter, account: str, need: int) -> tuple[bool, int]:
    """Admit a call; return whether it was, and how many commands the function gave."""
    with server.client() as client:
        client.config_resetstat()
        answer = await limiter.admit(account, f"c{need}", BIG, (need, need, 1, 1))
        stats = client.info("commandstats")
        outer = ("cmdstat_fcall", "cmdstat_config|resetstat")
        return answer.admitted, sum(stat["calls"] for name, stat in stats.items() if name not in outer)


async def test_neither_admission_nor_refusal_costs_more_for_a_long_history(
    limiter: RedisLimiter, server: Server, clock: Clock, account: str
) -> None:
    await limiter.peek(account, BIG)
    _, fresh = await commands_of(server, limiter, account, 1)
    await fill(limiter, account, clock, BIG)
    await limiter.peek(account, BIG)
    admitted, full = await commands_of(server, limiter, account, 2)
    assert admitted
    assert full <= fresh
    admitted, _ = await commands_of(server, limiter, account, BIG[0].capacity - 1)
    assert not admitted
    for need in (BIG[0].capacity - 300, BIG[0].capacity - 100):
        admitted, given = await commands_of(server, limiter, account, need)
        assert not admitted
        assert given <= 20  # halving 20 chunks of one window and 16 of the other, of 720 buckets
