"""Three replicas on one Redis, and on a cluster of three primaries: never over the limit, and not a token off."""

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.clock import unix_ms
from proxy.core.calendar import month_bounds_ms, month_of
from proxy.core.entries import Entry
from proxy.core.limits import Admission, Growth, Limit, LimitKind, LimitState, Measure
from proxy.core.quotas import limits_of
from proxy.core.usage import UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.keys import Keys
from proxy.ledger.store import Ledger
from proxy.limiter.redis import RedisLimiter
from proxy.settings.holder import SettingsHolder
from tests.limiter.conftest import url_of
from tests.limiter.support import Clock, budget, most_in_any_window, new_account, requests, window
from tests.support.process import Tollgate, eventually, serving, simulator
from tests.support.services import create_database
from tests.support.stack import ROUTE, chat, write_config

STORES = ("redis", "cluster")
REPLICAS = 3


# --- in one process: every delivery is written down, and every interval looked at -----------------------------------

SHORT, LONG = window("short", 120, 4, 1), window("long", 400, 20, 3)
CALLS, MONTH = requests(60, 5), budget(10**9)
AT_ONCE = Limit("at_once", LimitKind.WINDOW, 6, window_s=1, bucket_s=1, counts=Measure.CALLS_IN_FLIGHT)
LIMITS = (SHORT, LONG, CALLS, MONTH, AT_ONCE)
PRICE_NANO = 7
HOLD_TTL_MS = 60_000


class Account:
    """What is known of an account without asking any limiter."""

    def __init__(self) -> None:
        self.name = new_account()
        self.delivered: list[tuple[int, int]] = []  # when, how many tokens
        self.admitted: list[tuple[int, int]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.refused = 0
        self.dead = 0


class Customers:
    """Calls that hold, deliver, grow, end, break off, or die, each at a replica of its own choice.

    A call that dies says nothing more to any limiter; what it has delivered since its last heartbeat is nothing.
    """

    def __init__(self, replicas: list[RedisLimiter], clock: Clock, accounts: int, seed: int) -> None:
        self.replicas, self.clock = replicas, clock
        self.rng = random.Random(seed)
        self.accounts = [Account() for _ in range(accounts)]
        self.tasks: set[asyncio.Task[None]] = set()
        self.count = 0

    async def run(self, turns: int) -> None:
        """Let time pass, begin calls, and break some off wherever they happen to be."""
        for _ in range(turns):
            self.clock.now_ms += self.rng.randrange(40)
            for account in self.rng.sample(self.accounts, 3):
                self.count += 1
                task = asyncio.create_task(self.call(account, f"call-{self.count}"))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
                if self.rng.random() < 0.1:  # its client leaves while the limiter is asked
                    await asyncio.sleep(0)
                    task.cancel()
            if self.rng.random() < 0.3 and self.tasks:
                self.rng.choice(sorted(self.tasks, key=id)).cancel()
            await asyncio.sleep(0.001)
        while self.tasks:
            self.clock.now_ms += 5
            await asyncio.sleep(0.001)

    async def call(self, account: Account, call_id: str) -> None:
        limiter, rng = self.rng.choice(self.replicas), self.rng
        need = rng.randrange(1, 40)
        answer = await limiter.admit(account.name, call_id, LIMITS, amounts(need, 1))
        if not answer.admitted:
            account.refused += 1
            return
        account.admitted.append((answer.now_ms, 1))
        account.in_flight += 1
        account.most_in_flight = max(account.most_in_flight, account.in_flight)
        try:
            sent = await self.deliver(limiter, account, call_id, need)
        finally:
            account.in_flight -= 1
        if sent is None:
            account.dead += 1
            return
        # the end of a call is not broken off by its client
        how = rng.random()
        if sent == 0 and how < 0.5:
            ended: Awaitable[None] | None = limiter.release(account.name, call_id, LIMITS)
        elif how < 0.5:
            ended = limiter.settle(account.name, call_id, LIMITS, amounts(sent, 0))
        else:
            ended = limiter.settle_soon(account.name, call_id, LIMITS, amounts(sent, 0))
        if ended is not None:
            await ended

    async def deliver(self, limiter: RedisLimiter, account: Account, call_id: str, need: int) -> int | None:
        """Deliver a part of what is held, in pieces; return how much it was, None: the process has died."""
        rng, sent, held = self.rng, 0, need
        try:
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(rng.random() * 0.01)
                if rng.random() < 0.2:
                    want = held + rng.randrange(1, 20)
                    grown = await limiter.grow(account.name, call_id, LIMITS, amounts(want, 1))
                    assert grown is not Growth.GONE
                    held = want if grown is Growth.GRANTED else held
                piece = rng.randrange(held - sent + 1)
                sent += piece
                account.delivered.append((self.clock.now_ms, piece))
                if rng.random() < 0.3:
                    assert await limiter.extend(account.name, call_id, LIMITS, amounts(sent, 1))
                    if rng.random() < 0.05:
                        return None
        except asyncio.CancelledError:
            pass  # the client has left: what was delivered is settled all the same
        return sent


def amounts(tokens: int, calls: int) -> tuple[int, ...]:
    return (tokens, tokens, 1, PRICE_NANO * tokens, calls)


async def standing(limiter: RedisLimiter, account: str) -> dict[str, LimitState]:
    answer: Admission = await limiter.peek(account, LIMITS)
    return {state.name: state for state in answer.states}


@pytest.fixture(params=STORES)
async def replicas(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[list[RedisLimiter]]:
    url = url_of(request, request.param)
    made = [RedisLimiter(url, HOLD_TTL_MS, 5000, None, clock) for _ in range(REPLICAS)]
    yield made
    for limiter in made:
        await limiter.close()


async def test_no_interval_holds_more_than_the_limit_whatever_callers_do(
    replicas: list[RedisLimiter], clock: Clock
) -> None:
    customers = Customers(replicas, clock, 15, seed=7)
    await customers.run(1200)
    async with asyncio.timeout(10):
        while any(limiter.owed for limiter in replicas):
            await asyncio.sleep(0.02)
        for limiter in replicas:
            await limiter.ping()  # what was settled without waiting is in
    for account in customers.accounts:
        assert (await standing(replicas[0], account.name))["at_once"].held == account.dead
    assert sum(account.dead for account in customers.accounts) > 5
    clock.now_ms += HOLD_TTL_MS  # those that died expire
    for account in customers.accounts:
        for limit in (SHORT, LONG):
            assert most_in_any_window(account.delivered, limit.window_s * 1000) <= limit.capacity
        assert most_in_any_window(account.admitted, CALLS.window_s * 1000) <= CALLS.capacity
        assert account.most_in_flight <= AT_ONCE.capacity
        states = await standing(replicas[0], account.name)
        assert {state.held for state in states.values()} == {0}
        assert states["cost_month"].used == PRICE_NANO * sum(amount for _, amount in account.delivered)
    assert sum(account.refused for account in customers.accounts) > 300, "there was no pressure"
    tightest = max(most_in_any_window(account.delivered, SHORT.window_s * 1000) for account in customers.accounts)
    assert tightest > SHORT.capacity * 0.8, "the limit was never near"
    assert {limiter.dropped for limiter in replicas} == {0}
    parts = {replicas[0].part_of(account.name) for account in customers.accounts}
    assert len(parts) == len(replicas[0].parts())


# --- in processes: what the ledger says and what the limiter says ----------------------------------------------------

TOKENS_HOUR, REQUESTS_DAY = 3000, 120
TIERS = f"""
tiers:
  narrow:
    {{title: Narrow, purchase_credit: none, monthly_limit: 1000, output_tokens_hour: {TOKENS_HOUR},
      output_tokens_day: 10000000, requests: {REQUESTS_DAY}, requests_window_s: 86400}}
"""
ACCOUNTS = 8
CALLS_EACH = 150


class Fleet:
    """Three proxies on one ledger and one limiter, and accounts with a key each."""

    def __init__(self, proxies: list[Tollgate], config: Path, database_url: str, redis_url: str) -> None:
        self.proxies, self.config = proxies, config
        self.database_url, self.redis_url = database_url, redis_url
        self.keys: dict[str, str] = {}  # account id to token
        self.statuses: dict[int, int] = {}

    async def add_accounts(self) -> None:
        """Create accounts, and wait until every proxy knows the keys of all."""
        database = Database.open(self.database_url, pool_size=1)
        for number in range(ACCOUNTS):
            await Accounts(database).create(f"account-{number}", "narrow")
            made = await Keys(database).create(f"account-{number}")
            self.keys[made.key.account_id] = made.token
        await database.close()

    async def run(self, seed: int) -> None:
        """Make the calls of every account, all at once, many of which are broken off."""
        rng = random.Random(seed)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            for key in self.keys.values():
                for proxy in self.proxies:
                    async with asyncio.timeout(10):
                        while await self.status(session, proxy, key) == 401:
                            await asyncio.sleep(0.05)
            gate = asyncio.Semaphore(60)
            calls = [key for key in self.keys.values() for _ in range(CALLS_EACH)]
            rng.shuffle(calls)
            async with asyncio.TaskGroup() as group:
                for key in calls:
                    await gate.acquire()
                    task = group.create_task(self.call(session, rng, key))
                    task.add_done_callback(lambda _: gate.release())

    async def status(self, session: aiohttp.ClientSession, proxy: Tollgate, key: str) -> int:
        async with session.get(f"{proxy.url}/v1/models", headers={"Authorization": f"Bearer {key}"}) as answer:
            return answer.status

    async def call(self, session: aiohttp.ClientSession, rng: random.Random, key: str) -> None:
        """Make a call of a random kind; in a third of them the client leaves at a moment of its own."""
        proxy, leaves_after_s = rng.choice(self.proxies), rng.random() * 0.15
        tokens = rng.randrange(1, 80)
        body = chat(f"SIM:tokens={tokens} SIM:rate=400", max_tokens=rng.randrange(1, 100), stream=rng.random() < 0.6)
        request = self.ask(session, proxy, key, body)
        if rng.random() < 0.35:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(request, leaves_after_s)
        else:
            await request

    async def ask(self, session: aiohttp.ClientSession, proxy: Tollgate, key: str, body: dict[str, Any]) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        async with session.post(proxy.url + ROUTE, json=body, headers=headers) as answer:
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
            await answer.read()

    def settle(self) -> None:
        """Wait until every proxy has settled all calls and brought all entries to the ledger."""
        for proxy in self.proxies:
            eventually(lambda proxy=proxy: _is_at_rest(proxy), 20)

    async def sums(self) -> dict[str, tuple[list[Entry], tuple[LimitState, ...]]]:
        """Return what ledger and limiter say of each account."""
        month = month_of(unix_ms(), "Europe/Paris")
        tier = SettingsHolder(self.config, {}).current.tiers["narrow"]
        limits = limits_of(tier, month, month_bounds_ms(month, "Europe/Paris")[1])
        database = Database.open(self.database_url, pool_size=1)
        ledger = Ledger(database)
        limiter = RedisLimiter(self.redis_url, timeout_ms=5000, seed_loader=ledger.seed)
        found = {}
        for account in self.keys:
            states = (await limiter.peek(account, limits)).states
            found[account] = (await ledger.entries_of(account, month), states)
        await limiter.close()
        await database.close()
        return found


def _is_at_rest(proxy: Tollgate) -> bool:
    said = proxy.metrics()
    names = ("tollgate_calls_in_flight", "tollgate_holds", "tollgate_outbox_entries", "tollgate_limiter_degraded")
    return not any(said.total(name) for name in names)


@pytest.fixture(params=STORES)
def fleet(request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str) -> Iterator[Fleet]:
    redis_url = url_of(request, request.param)
    name = f"t_{uuid.uuid4().hex}"
    create_database(postgres_url, name)
    database_url = f"{postgres_url.rsplit('/', 1)[0]}/{name}"
    config = write_config(tmp_path)
    (config / "tiers.yaml").write_text(TIERS)
    environ = {"TOLLGATE_REDIS_URL": redis_url, "TOLLGATE_DATABASE_URL": database_url}
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(simulator(tmp_path))
        proxies = [Tollgate(tmp_path / part, cluster, config=config, environ=environ) for part in ("a", "b", "c")]
        for proxy in proxies:
            stack.enter_context(serving(proxy))
        yield Fleet(proxies, config, database_url, redis_url)


def tokens_of(entry: Entry) -> int:
    lines = entry.charge.lines
    return sum(line.amount for line in lines if line.usage_type in (UsageType.OUTPUT, UsageType.REASONING))


def test_three_proxies_never_give_more_than_the_limit_and_agree_with_the_ledger(fleet: Fleet) -> None:
    asyncio.run(fleet.add_accounts())
    asyncio.run(fleet.run(seed=3))
    fleet.settle()
    assert set(fleet.statuses) == {200, 429}, fleet.statuses
    calls_by_proxy = [proxy.metrics().total("tollgate_charged_calls_total") for proxy in fleet.proxies]
    assert min(calls_by_proxy) > 50
    for entries, states in asyncio.run(fleet.sums()).values():
        used = {state.name: state.used for state in states}
        assert {state.held for state in states} == {0}
        tokens = sum(tokens_of(entry) for entry in entries)
        assert tokens == used["output_tokens_hour"] == used["output_tokens_day"]
        assert TOKENS_HOUR * 0.8 < tokens <= TOKENS_HOUR
        assert len(entries) <= used["requests"] <= REQUESTS_DAY
        assert used["budget_month"] == sum(-(-entry.charge.total_pico // 1000) for entry in entries)
