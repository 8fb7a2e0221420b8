"""A Redis Cluster: every account exact on its own primary, wherever that is and whatever happens to the others."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.core.limits import Admission
from proxy.limiter import AccountUnavailableError, LimiterUnavailableError, Seed, library
from proxy.limiter.degraded import DegradedLimiter
from proxy.limiter.redis import RedisLimiter
from tests.limiter.support import START_MS, Clock, budget, new_account, requests, window
from tests.support.services import RedisCluster, redis_cluster

TOKENS = window("tokens", 100, 60, 5)
LIMITS = (TOKENS, requests(10_000), budget(10_000))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A cluster for tests that do it harm; each leaves it whole."""
    with redis_cluster(tmp_path_factory.mktemp("own")) as cluster:
        yield cluster
        cluster.wait_until_whole()


@pytest.fixture
async def limiter(own: RedisCluster, clock: Clock) -> AsyncIterator[RedisLimiter]:
    limiter = RedisLimiter(own.url, timeout_ms=500, now_ms=clock)
    yield limiter
    await limiter.close()


def accounts_on(cluster: RedisCluster, number: int, count: int = 1) -> list[str]:
    """Return accounts that a primary has."""
    found: list[str] = []
    while len(found) < count:
        name = new_account()
        if cluster.owner_of(name) == number:
            found.append(name)
    return found


async def used_of(limiter: RedisLimiter, account: str) -> list[int]:
    return [state.used for state in (await limiter.peek(account, LIMITS)).states]


async def until(holds: Callable[[], Awaitable[Any]], seconds: float = 15.0) -> None:
    """Wait until something is true, or no longer raises that the store is away."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if await holds():
                return
        except LimiterUnavailableError:
            pass
        assert time.monotonic() < deadline, "it does not come to pass"
        await asyncio.sleep(0.02)


async def answers(limiter: RedisLimiter) -> bool:
    await limiter.ping()
    return not limiter.owed


def connections(limiter: RedisLimiter) -> int:
    """How many primaries a limiter is connected to."""
    return sum(keeper.link is not None for keeper in limiter._router._nodes.values())


# --- finding the way ------------------------------------------------------------------------------------------------


async def test_accounts_are_spread_over_all_primaries_and_each_is_exact(three_primaries: RedisCluster) -> None:
    limiter = RedisLimiter(three_primaries.url, timeout_ms=5000)
    accounts = [new_account() for _ in range(300)]
    answers = await asyncio.gather(
        *(limiter.admit(account, f"c{number}", LIMITS, (30, 1, 10)) for account in accounts for number in range(4))
    )
    assert sum(answer.admitted for answer in answers) == 3 * len(accounts)
    await asyncio.gather(
        *(limiter.settle(account, f"c{number}", LIMITS, (20, 1, 7)) for account in accounts for number in range(4))
    )
    states = [(await limiter.peek(account, LIMITS)).states for account in accounts]
    assert {tuple((state.used, state.held) for state in of_one) for of_one in states} == {((60, 0), (3, 0), (21, 0))}
    by_primary = [sum(limiter.part_of(account) == part for account in accounts) for part in limiter.parts()]
    assert len(by_primary) == 3
    assert min(by_primary) > 60
    await limiter.close()


async def test_a_primary_is_connected_to_when_one_of_its_accounts_is_asked_for(three_primaries: RedisCluster) -> None:
    limiter = RedisLimiter(three_primaries.url, timeout_ms=5000)
    for number in range(3):
        await limiter.peek(accounts_on(three_primaries, number)[0], LIMITS)
        assert connections(limiter) == number + 1
    await limiter.close()


async def test_one_node_that_answers_is_enough_of_those_that_are_named(three_primaries: RedisCluster) -> None:
    port = three_primaries.ports[2]
    limiter = RedisLimiter(f"redis://127.0.0.1:1,127.0.0.1:2,127.0.0.1:{port}/0", timeout_ms=5000)
    for number in range(3):
        await limiter.peek(accounts_on(three_primaries, number)[0], LIMITS)
    await limiter.close()


async def test_several_redis_that_are_no_cluster_are_refused(redis_url: str, account: str) -> None:
    host = redis_url.removeprefix("redis://").removesuffix("/0")
    limiter = RedisLimiter(f"redis://{host},{host}/0")
    with pytest.raises(LimiterUnavailableError, match="is no cluster"):
        await limiter.peek(account, LIMITS)
    await limiter.close()


async def test_a_cluster_has_no_other_database(three_primaries: RedisCluster, account: str) -> None:
    limiter = RedisLimiter(three_primaries.url.removesuffix("0") + "3")
    with pytest.raises(LimiterUnavailableError, match="cluster mode"):
        await limiter.peek(account, LIMITS)
    await limiter.close()


async def test_every_primary_gets_the_functions_and_those_that_are_lost_are_loaded_again(
    limiter: RedisLimiter, own: RedisCluster
) -> None:
    accounts = [accounts_on(own, number)[0] for number in range(3)]
    for account in accounts:
        await limiter.admit(account, "a", LIMITS, (5, 1, 1))
    own.ask(1, "FUNCTION", "FLUSH")
    for account in accounts:
        await limiter.settle(account, "a", LIMITS, (5, 1, 1))
        assert await used_of(limiter, account) == [5, 1, 1]
    assert all(library.NAME in own.ask(number, "FUNCTION", "LIST") for number in range(3))


def protect(cluster: RedisCluster, certificate: Path, key: Path) -> None:
    """Let every node ask for a password, and speak TLS alone."""
    for number, port in enumerate(cluster.ports):
        files = ("tls-cert-file", certificate, "tls-key-file", key, "tls-ca-cert-file", certificate)
        cluster.ask(number, "CONFIG", "SET", *map(str, files), "tls-auth-clients", "no")
        cluster.ask(number, "CONFIG", "SET", "port", "0", "tls-port", str(port), "requirepass", "sesame")


@pytest.fixture
def certified(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(words, check=True, capture_output=True)
    return certificate, key


async def test_a_password_and_tls_are_used_with_every_node(
    tmp_path: Path, certified: tuple[Path, Path], account: str
) -> None:
    with redis_cluster(tmp_path, 2) as cluster:
        protect(cluster, *certified)
        url = f"rediss://:sesame@127.0.0.1:{cluster.ports[0]}/0?ssl_ca_certs={certified[0]}"
        limiter = RedisLimiter(url, timeout_ms=5000)
        for _ in range(20):
            assert (await limiter.admit(new_account(), "a", LIMITS, (5, 1, 1))).admitted
        assert connections(limiter) == 2
        await limiter.close()
        wrong = RedisLimiter(url.replace("sesame", "open-up"), timeout_ms=5000)
        with pytest.raises(LimiterUnavailableError) as refused:
            await wrong.peek(account, LIMITS)
        assert "open-up" not in str(refused.value)
        await wrong.close()


# --- accounts that move ---------------------------------------------------------------------------------------------


async def test_an_account_that_moves_under_load_stays_exact(own: RedisCluster, clock: Clock) -> None:
    limiters = [RedisLimiter(own.url, timeout_ms=2000, now_ms=clock) for _ in range(2)]
    account = accounts_on(own, 0)[0]
    slot = int(own.ask(0, "CLUSTER", "KEYSLOT", account))
    limits = (window("tokens", 3000, 3600, 10), requests(100_000))
    admitted = spent = 0
    is_over = False

    async def calls(number: int) -> None:
        nonlocal admitted, spent
        count = 0
        while not is_over:
            count += 1
            limiter, name = limiters[count % 2], f"c{number}-{count}"
            if (await limiter.admit(account, name, limits, (20, 1))).admitted:
                admitted += 1
                await asyncio.sleep(0.001)
                if count % 5 == 0:
                    await limiter.release(account, name, limits)
                else:
                    await limiter.settle(account, name, limits, (count % 8, 1))
                    spent += count % 8
            await asyncio.sleep(0.002)

    load = [asyncio.create_task(calls(number)) for number in range(20)]
    await asyncio.sleep(0.1)
    await asyncio.to_thread(own.move, slot, 0, 2)
    await asyncio.sleep(0.1)
    await asyncio.to_thread(own.move, slot, 2, 0, lambda: time.sleep(0.1))
    await asyncio.sleep(0.1)
    is_over = True
    await asyncio.gather(*load)
    for limiter in limiters:
        await until(lambda limiter=limiter: answers(limiter))  # type: ignore[misc]
        assert limiter.dropped == 0
    states = (await limiters[0].peek(account, limits)).states
    assert [(state.used, state.held) for state in states] == [(spent, 0), (admitted, 0)]
    assert 0 < spent <= 3000
    for limiter in limiters:
        await limiter.close()


async def test_who_has_been_told_of_a_move_asks_the_right_primary_at_once(
    limiter: RedisLimiter, own: RedisCluster
) -> None:
    account = accounts_on(own, 0)[0]
    slot = int(own.ask(0, "CLUSTER", "KEYSLOT", account))
    await limiter.admit(account, "a", LIMITS, (5, 1, 1))
    before = limiter.part_of(account)
    own.move(slot, 0, 1)
    assert limiter.part_of(account) == before
    await limiter.settle(account, "a", LIMITS, (5, 1, 1))
    assert limiter.part_of(account) == f"127.0.0.1:{own.ports[1]}/0"
    own.ask(1, "CONFIG", "RESETSTAT")
    own.ask(0, "CONFIG", "RESETSTAT")
    for _ in range(10):
        assert await used_of(limiter, account) == [5, 1, 1]
    assert "calls=10" in own.ask(1, "INFO", "commandstats").partition("cmdstat_fcall:")[2].partition("\n")[0]
    assert "cmdstat_fcall:" not in own.ask(0, "INFO", "commandstats")
    own.move(slot, 1, 0)


async def test_an_account_whose_keys_have_all_moved_is_asked_for_where_they_are(
    limiter: RedisLimiter, own: RedisCluster
) -> None:
    account = accounts_on(own, 0)[0]
    slot = int(own.ask(0, "CLUSTER", "KEYSLOT", account))
    await limiter.admit(account, "in flight", LIMITS, (20, 1, 1))
    await limiter.record(account, "gone", LIMITS, (5, 1, 1))
    own.ask(0, "HSET", f"tollgate:{{{account}}}:gone:1", "long gone", "x")  # as after a day: every key exists
    found: list[Admission] = []
    loop = asyncio.get_running_loop()

    def ask() -> None:
        verbs = (limiter.admit(account, "b", LIMITS, (7, 1, 1)), limiter.peek(account, LIMITS))
        found.extend(asyncio.run_coroutine_threadsafe(verb, loop).result(10) for verb in verbs)

    own.ask(1, "CONFIG", "RESETSTAT")
    await asyncio.to_thread(own.move, slot, 0, 1, before_end=ask)
    assert [answer.states[0].held for answer in found] == [27, 27]
    assert "cmdstat_asking:calls=2" in own.ask(1, "INFO", "commandstats").replace("|", ":")
    assert (await limiter.peek(account, LIMITS)).states[0].used == 5
    own.move(slot, 1, 0)


async def test_a_move_that_takes_long_concerns_its_accounts_alone(own: RedisCluster, clock: Clock) -> None:
    redis_limiter = RedisLimiter(own.url, timeout_ms=300, now_ms=clock)
    limiter = DegradedLimiter(redis_limiter, 25, 600, clock, probe_s=0.02)
    moving, staying = accounts_on(own, 0, 2)
    for account in (moving, staying):
        await limiter.admit(account, "a", LIMITS, (5, 1, 1))
    slot = int(own.ask(0, "CLUSTER", "KEYSLOT", moving))
    began, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def pause() -> None:
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)

    move = asyncio.create_task(asyncio.to_thread(own.move, slot, 0, 1, pause))
    await began.wait()
    with pytest.raises(AccountUnavailableError, match="on the move"):
        await redis_limiter.admit(moving, "b", LIMITS, (5, 1, 1))
    answer = await limiter.admit(moving, "c", LIMITS, (5, 1, 1))  # of this replica's share
    assert (answer.admitted, answer.states[0].capacity, limiter.outages) == (True, 25, 0)
    assert (await limiter.admit(staying, "c", LIMITS, (5, 1, 1))).states[0].capacity == 100
    await limiter.settle(moving, "c", LIMITS, (4, 1, 1))
    assert limiter.waiting == 1
    go_on.set()
    await move
    await until(lambda: _is_handed_over(limiter, redis_limiter))
    assert await used_of(redis_limiter, moving) == [4, 2, 1]
    assert (await redis_limiter.peek(moving, LIMITS)).states[0].held == 5
    await limiter.close()
    own.move(slot, 1, 0)


async def _is_handed_over(limiter: DegradedLimiter, redis_limiter: RedisLimiter) -> bool:
    return not limiter.waiting and not limiter.is_degraded and await answers(redis_limiter)


# --- primaries that go away -----------------------------------------------------------------------------------------


async def test_a_primary_that_is_killed_takes_only_its_accounts_along(own: RedisCluster, clock: Clock) -> None:
    ledger: dict[str, int] = {}

    async def load(account_id: str, limits: object) -> Seed:
        spent = ledger.get(account_id, 0)
        return Seed(windows={"tokens": ((START_MS, spent),)}) if spent else Seed()

    redis_limiter = RedisLimiter(own.url, timeout_ms=500, seed_loader=load, now_ms=clock)
    limiter = DegradedLimiter(redis_limiter, 25, 600, clock, probe_s=0.05)
    gone, *others = [accounts_on(own, number)[0] for number in (1, 0, 2)]
    for account in (gone, *others):
        await limiter.admit(account, "a", LIMITS, (30, 1, 10))
        ledger[account] = 30
        await limiter.settle(account, "a", LIMITS, (30, 1, 10))
        await limiter.admit(account, "in flight", LIMITS, (20, 1, 10))
    own.kill(1)
    alone = [await limiter.admit(gone, f"alone{number}", LIMITS, (10, 1, 10)) for number in range(4)]
    assert [answer.admitted for answer in alone] == [True, True, False, False]
    for account in others:  # exact, to the last token
        answered = [await limiter.admit(account, f"b{number}", LIMITS, (10, 1, 10)) for number in range(6)]
        assert [answer.admitted for answer in answered] == [True] * 5 + [False]
        assert answered[0].states[0].capacity == 100
    assert (limiter.outages, limiter.admitted_alone, limiter.is_alone) == (1, 2, False)
    await limiter.settle(gone, "alone0", LIMITS, (8, 1, 10))
    await limiter.settle(gone, "in flight", LIMITS, (15, 1, 10))
    for account in others:
        await limiter.settle(account, "in flight", LIMITS, (15, 1, 10))
        assert (await redis_limiter.peek(account, LIMITS)).states[0].used == 45
    assert (
        redis_limiter.owed <= 2
    )  # a settlement to the primary that is away, and perhaps an admission it did not answer
    own.start(1)
    own.wait_until_whole()
    await until(lambda: _is_handed_over(limiter, redis_limiter))
    await limiter.settle(gone, "alone1", LIMITS, (9, 1, 10))
    assert await used_of(redis_limiter, gone) == [30 + 8 + 15 + 9, 2, 30]  # the ledger was asked of no requests
    assert (redis_limiter.dropped, limiter.handed_over) == (0, 2)
    await limiter.close()


async def test_debts_to_a_primary_that_is_away_hold_up_none_to_others(own: RedisCluster, clock: Clock) -> None:
    limiter = RedisLimiter(own.url, timeout_ms=500, now_ms=clock)
    gone, there = accounts_on(own, 1)[0], accounts_on(own, 0)[0]
    for account in (gone, there):
        await limiter.peek(account, LIMITS)
    own.kill(1)
    with pytest.raises(LimiterUnavailableError):
        await limiter.peek(gone, LIMITS)
    for number in range(600):  # more than are paid at once
        await limiter.settle(gone, f"c{number}", LIMITS, (1, 1, 1))
    leaving = asyncio.create_task(limiter.admit(there, "a", LIMITS, (50, 1, 1)))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)

    async def is_paid() -> bool:
        return limiter.owed == 600 and (await limiter.peek(there, LIMITS)).states[0].held == 0

    await until(is_paid)
    own.start(1)
    own.wait_until_whole()
    await until(lambda: answers(limiter))
    await limiter.close()


async def test_a_replica_that_takes_over_is_found(own_with_replica: tuple[RedisCluster, int], clock: Clock) -> None:
    cluster, replica = own_with_replica
    redis_limiter = RedisLimiter(cluster.url, timeout_ms=500, now_ms=clock)
    limiter = DegradedLimiter(redis_limiter, 25, 600, clock, probe_s=0.05)
    account = accounts_on(cluster, 1)[0]
    await limiter.admit(account, "a", LIMITS, (30, 1, 10))
    await until(lambda: _follows(cluster, replica))
    cluster.kill(1)
    assert (await limiter.admit(account, "alone", LIMITS, (5, 1, 10))).states[0].capacity == 25
    await limiter.settle(account, "alone", LIMITS, (4, 1, 10))
    cluster.ask(replica, "CLUSTER", "FAILOVER", "TAKEOVER")
    await until(lambda: _is_handed_over(limiter, redis_limiter))
    assert redis_limiter.part_of(account) == f"127.0.0.1:{cluster.ports[replica]}/0"
    await limiter.settle(account, "a", LIMITS, (20, 1, 10))
    assert await used_of(redis_limiter, account) == [24, 2, 20]
    await limiter.close()


async def _follows(cluster: RedisCluster, replica: int) -> bool:
    """Whether the replica has what was written to node 1."""
    offset = cluster.ask(1, "INFO", "replication").partition("master_repl_offset:")[2].split()[0]
    return f"slave_repl_offset:{offset}" in cluster.ask(replica, "INFO", "replication")


@pytest.fixture
def own_with_replica(tmp_path: Path) -> Iterator[tuple[RedisCluster, int]]:
    with redis_cluster(tmp_path, 2, "--repl-diskless-sync-delay", "0") as cluster:
        yield cluster, cluster.add_replica(1)


# --- data that may be old -------------------------------------------------------------------------------------------


def ledger_of(amounts: dict[str, int]) -> Callable[[str, object], Awaitable[Seed]]:
    """A ledger that knows of calls of every account: name to amount."""

    async def load(account_id: str, limits: object) -> Seed:
        return Seed(windows={"tokens": tuple((START_MS, amount) for amount in amounts.values())}, calls=tuple(amounts))

    return load


async def test_a_primary_that_wakes_up_with_old_data_is_not_believed(own: RedisCluster, clock: Clock) -> None:
    amounts: dict[str, int] = {}
    limiters = [RedisLimiter(own.url, 60_000, 500, ledger_of(amounts), clock) for _ in range(2)]
    old, other = accounts_on(own, 2)[0], accounts_on(own, 0)[0]
    for account in (old, other):
        await limiters[0].admit(account, "early", LIMITS, (10, 1, 1))
    own.ask(2, "SAVE")
    amounts |= {"early": 10, "late": 30}
    for name, amount in amounts.items():
        await limiters[0].admit(old, name, LIMITS, (amount, 1, 1))
        await limiters[0].settle(old, name, LIMITS, (amount, 1, 1))
    await limiters[0].admit(old, "in flight", LIMITS, (20, 1, 1))
    own.kill(2)
    own.start(2)
    own.wait_until_whole()
    assert own.ask(2, "EXISTS", f"tollgate:{{{old}}}:state").strip() == "1"  # as of before "early" was settled
    for limiter in limiters:
        await until(lambda limiter=limiter: answers(limiter))  # type: ignore[misc]
        assert await used_of(limiter, old) == [40, 0, 0]
    await limiters[0].settle(old, "in flight", LIMITS, (5, 1, 1))
    assert await used_of(limiters[1], old) == [45, 0, 1]
    assert (await limiters[1].peek(other, LIMITS)).states[0].held == 10  # its primary has forgotten nothing
    for limiter in limiters:
        await limiter.close()


async def test_a_primary_forgets_once_in_a_run_however_many_replicas_come(own: RedisCluster, clock: Clock) -> None:
    def connect() -> RedisLimiter:
        return RedisLimiter(own.url, 60_000, 500, ledger_of({}), clock)

    account = accounts_on(own, 2)[0]
    first = connect()
    await first.admit(account, "a", LIMITS, (10, 1, 1))
    for _ in range(3):
        other = connect()
        assert (await other.peek(account, LIMITS)).states[0].held == 10
        await other.close()
    run = next(line for line in own.ask(2, "INFO", "server").splitlines() if line.startswith("run_id")).split(":")[1]
    own.ask(2, "FUNCTION", "FLUSH")  # with them goes what they remember
    own.ask(2, "FUNCTION", "LOAD", "#!lua name=tollgate_run_old\nredis.register_function('o', function() end)")
    started_again = connect()
    assert (await started_again.peek(account, LIMITS)).states[0].held == 0
    await started_again.admit(account, "b", LIMITS, (7, 1, 1))
    own.ask(2, "FUNCTION", "DELETE", f"tollgate_run_{run}")  # whoever comes before the mark is set asks as well
    own.ask(2, "FUNCTION", "LOAD", "#!lua name=tollgate_run_old\nredis.register_function('o', function() end)")
    at_once = connect()
    assert (await at_once.peek(account, LIMITS)).states[0].held == 7
    assert own.ask(2, "FUNCTION", "LIST", "LIBRARYNAME", "tollgate_run_*").count(run) == 2  # library and function
    assert "tollgate_run_old" not in own.ask(2, "FUNCTION", "LIST")
    for limiter in (first, started_again, at_once):
        await limiter.close()
