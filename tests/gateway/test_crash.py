"""``kill -9`` under load: whoever has a whole answer is in the ledger, once; a stream that was cut is billed so far.

The proxy is a real process that is killed and started again on the same state, several times over.
"""

import asyncio
import contextlib
import json
import random
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from tests.support.process import Tollgate, eventually, generated, is_running, serving, simulator
from tests.support.stack import ROUTE, chat, write_config

CUSTOMERS = 24
LONG_STREAMS = 6
CHECKPOINTED_S = 2.4
"""From here on a stream has been checkpointed at least once, with a heartbeat every second."""

COMPLETION_TOKENS = re.compile(rb'"completion_tokens":([0-9]+)')
TYPES = ("input", "cached_input", "output", "reasoning", "rerank", "audio_minutes")


class Customers:
    """Clients that note the id of every answer that they got whole, and how much they saw of those that were cut."""

    def __init__(self, tollgate: Tollgate, key: str, chance: random.Random) -> None:
        self._url = tollgate.url + ROUTE
        self._auth = {"Authorization": f"Bearer {key}"}
        self._chance = chance
        self.whole: list[str] = []
        self.cut: dict[str, int] = {}

    async def until_it_dies(self, tollgate: Tollgate, kill_after_s: float) -> None:
        """Call without end; kill the proxy at some moment; return when every client has noticed."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=self._auth) as session:
            await self._until_known(session)
            clients = [asyncio.create_task(self._short_calls(session)) for _ in range(CUSTOMERS)]
            clients += [asyncio.create_task(self._long_stream(session)) for _ in range(LONG_STREAMS)]
            await asyncio.sleep(kill_after_s)
            await asyncio.to_thread(tollgate.kill)
            await asyncio.gather(*clients)

    async def _until_known(self, session: aiohttp.ClientSession) -> None:
        """Wait until the proxy has read the new key and what the account has used."""
        async with asyncio.timeout(20):
            while True:
                async with session.post(self._url, json=chat(max_tokens=1)) as answer:
                    await answer.read()
                    if answer.status == 200:
                        self.whole.append(answer.headers["x-request-id"])
                        return
                await asyncio.sleep(0.05)

    async def _short_calls(self, session: aiohttp.ClientSession) -> None:
        with contextlib.suppress(aiohttp.ClientError):
            while True:
                streamed = self._chance.random() < 0.5
                body = chat(f"call {self._chance.random()}", max_tokens=self._chance.randint(1, 40), stream=streamed)
                async with session.post(self._url, json=body) as answer:
                    assert answer.status == 200, await answer.text()
                    raw = await answer.read()  # raises when the last chunk or byte is missing
                    assert raw.endswith(b"data: [DONE]\n\n") if streamed else json.loads(raw)["usage"]
                    self.whole.append(answer.headers["x-request-id"])

    async def _long_stream(self, session: aiohttp.ClientSession) -> None:
        options = {"include_usage": True, "continuous_usage_stats": True}  # an event may be several tokens
        body = chat("SIM:tokens=5000 SIM:rate=300", max_tokens=5000, stream=True, stream_options=options)
        call_id, seen = "", b""
        with contextlib.suppress(aiohttp.ClientError):
            async with session.post(self._url, json=body) as answer:
                assert answer.status == 200, await answer.text()
                call_id = answer.headers["x-request-id"]
                async for piece in answer.content.iter_any():
                    seen += piece
        self.cut[call_id] = max(int(tokens) for tokens in COMPLETION_TOKENS.findall(seen))


async def rows(database_url: str, query: str) -> list[tuple[object, ...]]:
    """Ask the database itself."""
    if database_url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as connection:
            return connection.execute(query).fetchall()
    connection = await asyncpg.connect(database_url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def check_every_whole_answer_is_there_once(database_url: str, whole: list[str]) -> None:
    kept = await rows(database_url, "SELECT call_id, count(*) FROM entries GROUP BY call_id")
    assert len(set(whole)) == len(whole)
    assert set(whole) - {call_id for call_id, _ in kept} == set(), "a call whose client has the whole answer is lost"
    assert {count for _, count in kept} == {1}
    listed = ", ".join(f"'{call_id}'" for call_id in whole)
    outcomes = await rows(database_url, f"SELECT DISTINCT outcome FROM entries WHERE call_id IN ({listed})")
    assert outcomes == [("finished",)]


async def check_the_rollups(database_url: str) -> None:
    """The sums by day and by month are those of the entries, to the pico-euro."""
    one = ", ".join(f"sum({name}_quantity), sum({name}_cost_pico)" for name in TYPES)
    (truth,) = await rows(database_url, f"SELECT {one} FROM entries")
    ((calls,),) = await rows(database_url, "SELECT count(*) FROM entries")
    for period in ("daily", "monthly"):
        summed = await rows(
            database_url, f"SELECT usage_type, sum(quantity), sum(cost_pico) FROM rollups_{period} GROUP BY usage_type"
        )
        sums = {usage_type: (quantity, cost) for usage_type, quantity, cost in summed}
        assert [amount for name in TYPES for amount in sums.get(name, (0, 0))] == list(truth)
        assert await rows(database_url, f"SELECT sum(calls) FROM calls_{period}") == [(calls,)]


async def check_cut_streams(database_url: str, cut: dict[str, int]) -> None:
    """Each is billed to its last checkpoint: at least something, at most what its client had been sent."""
    listed = ", ".join(f"'{call_id}'" for call_id in cut)
    query = f"SELECT call_id, outcome, output_quantity + reasoning_quantity FROM entries WHERE call_id IN ({listed})"
    billed = {call_id: (outcome, amount) for call_id, outcome, amount in await rows(database_url, query)}
    assert set(billed) == set(cut)
    assert {outcome for outcome, _ in billed.values()} == {"interrupted"}
    amounts = {call_id: (amount, cut[call_id]) for call_id, (_, amount) in billed.items()}
    assert [pair for pair in amounts.values() if not 150 < pair[0] <= pair[1]] == []


async def crashes(tollgate: Tollgate, database_url: str, cluster: str, rounds: int, seed: int) -> None:
    """Kill it as often as said, and compare what clients know with what the ledger says."""
    chance = random.Random(seed)
    whole: list[str] = []
    cut: dict[str, int] = {}
    key = await asyncio.to_thread(tollgate.create_account, "acme", "monthly")
    for _ in range(rounds):
        await asyncio.to_thread(lambda: eventually(lambda: tollgate.readiness()[0] == 200))
        customers = Customers(tollgate, key, chance)
        await customers.until_it_dies(tollgate, CHECKPOINTED_S + chance.random())
        assert len(customers.whole) > CUSTOMERS, "no load: nothing is shown"
        whole += customers.whole
        cut |= customers.cut
        await asyncio.to_thread(tollgate.start)
    await asyncio.to_thread(lambda: eventually(lambda: tollgate.metrics().total("tollgate_outbox_entries") == 0, 20))

    await check_every_whole_answer_is_there_once(database_url, whole)
    await check_the_rollups(database_url)
    await check_cut_streams(database_url, cut)
    ((billed,),) = await rows(database_url, "SELECT sum(output_quantity + reasoning_quantity) FROM entries")
    assert billed <= generated(cluster), "more is billed than was generated"
    usage = await asyncio.to_thread(tollgate.usage, "acme")
    assert [(usage["calls"],)] == await rows(database_url, "SELECT count(*) FROM entries")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    with simulator(tmp_path) as url:
        yield url


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A heartbeat every second, and room for many requests."""
    return write_config(
        tmp_path, proxy=("heartbeat_s: 5", "heartbeat_s: 1"), tiers=("requests: 1000", "requests: 1000000")
    )


async def test_kill_9_loses_no_finished_call_and_counts_none_twice(tmp_path, cluster, config):
    tollgate = Tollgate(tmp_path / "one", cluster, config=config)
    with serving(tollgate):
        await crashes(tollgate, f"sqlite:///{tollgate.state / 'ledger.db'}", cluster, rounds=3, seed=11)


async def test_kill_9_with_redis_and_postgresql(tmp_path, cluster, config, redis_url, postgres_database):
    environ = {"TOLLGATE_REDIS_URL": redis_url, "TOLLGATE_DATABASE_URL": postgres_database}
    tollgate = Tollgate(tmp_path / "one", cluster, config=config, environ=environ)
    with serving(tollgate):
        await crashes(tollgate, postgres_database, cluster, rounds=1, seed=12)


async def test_what_was_committed_but_never_shipped_comes_home_once_however_often_it_is_sent(tmp_path, cluster, config):
    """Killed while somebody else has the ledger locked: all is in the outbox. It is shipped, and shipped again."""
    tollgate = Tollgate(tmp_path / "one", cluster, config=config)
    with serving(tollgate):
        key = await asyncio.to_thread(tollgate.create_account, "acme", "monthly")
        customers = Customers(tollgate, key, random.Random(13))
        ledger = tollgate.state / "ledger.db"
        (shipping,) = tollgate.children()
        with contextlib.closing(sqlite3.connect(ledger, isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            await customers.until_it_dies(tollgate, CHECKPOINTED_S)
            (before,) = blocker.execute("SELECT count(*) FROM entries").fetchone()
            blocker.execute("ROLLBACK")
        assert before < len(customers.whole) / 2
        await asyncio.to_thread(lambda: eventually(lambda: not is_running(shipping), 2))
        kept = {path: path.read_bytes() for path in tollgate.state.glob("outbox-0.db*")}

        for _ in range(2):
            await asyncio.to_thread(tollgate.start)
            await asyncio.to_thread(
                lambda: eventually(lambda: tollgate.metrics().total("tollgate_outbox_entries") == 0)
            )
            await check_every_whole_answer_is_there_once(f"sqlite:///{ledger}", customers.whole)
            await check_the_rollups(f"sqlite:///{ledger}")
            await asyncio.to_thread(tollgate.kill)
            for path, data in kept.items():  # as if it had died between the ledger's commit and its own
                path.write_bytes(data)
