"""``kill -9`` under a running batch, again and again: every line has one result and is billed once.

The proxies are real processes, two replicas with a file store, a PostgreSQL and a Redis in common.
"""

import asyncio
import contextlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from tests.batching.support import CHAT, EMBEDDER, chat_line, jsonl, line, price_of, prices
from tests.support.process import Tollgate, eventually, serving, simulator
from tests.support.stack import write_config

LINES = 400
KILLS = 6
SECONDS_MAX = 180


class Customer:
    """Somebody with a key, who uploads, creates and reads over HTTP, at whichever replica answers."""

    def __init__(self, replicas: tuple[Tollgate, ...], key: str) -> None:
        self._replicas = itertools.cycle(replicas)
        self._auth = {"Authorization": f"Bearer {key}"}

    async def ask(self, method: str, path: str, **options):
        """Ask until somebody answers; return the body."""
        async with asyncio.timeout(SECONDS_MAX), aiohttp.ClientSession(headers=self._auth) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.request(method, next(self._replicas).url + path, **options) as answer:
                        body = await answer.read()
                        if answer.status == 200:
                            return body
                        assert answer.status >= 500 or answer.status == 401, body  # new keys are known in a moment
                await asyncio.sleep(0.05)

    async def create(self, lines, endpoint=CHAT):
        for _ in range(2):  # by both replicas
            await self.ask("GET", "/v1/batches")
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", jsonl(lines), filename="input.jsonl", content_type="application/jsonl")
        file = json.loads(await self.ask("POST", "/v1/files", data=form))
        wanted = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h"}
        return json.loads(await self.ask("POST", "/v1/batches", json=wanted))["id"]

    async def batch(self, batch_id):
        return json.loads(await self.ask("GET", f"/v1/batches/{batch_id}"))

    async def content(self, file_id):
        body = await self.ask("GET", f"/v1/files/{file_id}/content")
        return [json.loads(each) for each in body.splitlines()]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Short leases and holds, so that what a dead process had is free soon."""
    path = write_config(
        tmp_path,
        proxy=("batch: #", "batch: #\n  lease_s: 5\n  commit_interval_ms: 100\n  block_lines_max: 16\n  #"),
        tiers=("requests: 1000", "requests: 1000000"),
    )
    proxy = path / "proxy.yaml"
    text = proxy.read_text()
    for old, new in (
        ("hold_ttl_s: 60", "hold_ttl_s: 8"),
        ("heartbeat_s: 5", "heartbeat_s: 1"),
        ("lines_in_flight_max: 256", "lines_in_flight_max: 24"),
    ):
        assert old in text
        text = text.replace(old, new)
    proxy.write_text(text)
    return path


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    with simulator(tmp_path) as url:
        yield url


def two(tmp_path: Path, cluster: str, config: Path, environ: dict[str, str]) -> tuple[Tollgate, Tollgate]:
    """Return two replicas whose files lie in one folder."""
    shared = tmp_path / "shared"
    shared.mkdir()
    made = tuple(Tollgate(tmp_path / name, cluster, config=config, environ=environ) for name in ("one", "two"))
    for each in made:
        each.state.mkdir(parents=True)
        (each.state / "files").symlink_to(shared)
    return made


async def kill_again_and_again(replicas, customer, batch_ids, chance) -> int:
    """Kill one replica or the other at some moment, and start it again; return how often a batch was under way."""
    under_way = 0
    for number in range(KILLS):
        await asyncio.sleep(0.3 + chance.random())
        victim = replicas[number % 2]
        states = [await customer.batch(batch_id) for batch_id in batch_ids]
        under_way += any(state["status"] in ("in_progress", "finalizing", "validating") for state in states)
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(chance.random())
        await asyncio.to_thread(victim.start)
    return under_way


async def check(customer, database_url, batch_id, lines, price) -> list[str]:
    """One result a line, in order, and one entry a result, at its price; return the call ids."""
    async with asyncio.timeout(SECONDS_MAX):
        while (batch := await customer.batch(batch_id))["status"] != "completed":
            assert batch["status"] in ("validating", "in_progress", "finalizing"), batch
            await asyncio.sleep(0.2)
    assert batch["request_counts"] == {"total": len(lines), "completed": len(lines), "failed": 0}
    assert batch["error_file_id"] is None
    output = await customer.content(batch["output_file_id"])
    assert [each["custom_id"] for each in output] == [each["custom_id"] for each in lines]
    calls = [each["response"]["request_id"] for each in output]
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "SELECT call_id, cost_pico, tariff_class FROM entries WHERE call_id = ANY($1)", calls
        )
        segments = await connection.fetchval("SELECT count(*) FROM batch_lines WHERE batch_id = $1", batch_id)
    finally:
        await connection.close()
    assert Counter(row["call_id"] for row in rows) == Counter(calls)
    assert {row["tariff_class"] for row in rows} == {"batch"}
    assert sum(row["cost_pico"] for row in rows) == sum(price(each["response"]["body"]["usage"]) for each in output)
    assert segments in (0, len(lines))
    return calls


async def test_kill_9_under_batches_loses_no_line_and_bills_none_twice(
    tmp_path, cluster, config, redis_url, postgres_database
):
    environ = {"TOLLGATE_REDIS_URL": redis_url, "TOLLGATE_DATABASE_URL": postgres_database}
    replicas = two(tmp_path, cluster, config, environ)
    chance = random.Random(31)
    with serving(replicas[0]), serving(replicas[1]):
        keys = await asyncio.to_thread(replicas[0].create_accounts, acme="monthly", other="tier4")
        acme, other = (Customer(replicas, keys[name]) for name in ("acme", "other"))
        chats = [
            chat_line(number, f"SIM:tokens={chance.randint(1, 60)} SIM:rate=15 {number}", max_tokens=60)
            for number in range(LINES)
        ]
        texts = [
            line(number, {"model": EMBEDDER, "input": f"text {number}"}, "/v1/embeddings") for number in range(LINES)
        ]
        chat_id = await acme.create(chats)
        embedding_id = await other.create(texts, "/v1/embeddings")
        second_id = await other.create(chats)
        under_way = await kill_again_and_again(replicas, acme, [chat_id], chance)
        assert under_way >= KILLS // 2, "nothing was running: nothing is shown"

        def input_only(usage):
            return usage["prompt_tokens"] * prices()["input"]

        calls = await check(acme, postgres_database, chat_id, chats, price_of)
        calls += await check(other, postgres_database, embedding_id, texts, input_only)
        calls += await check(other, postgres_database, second_id, chats, price_of)
        await check_nothing_else(replicas, postgres_database, calls)


async def check_nothing_else(replicas, database_url, calls) -> None:
    """There are no other entries, and limiter and rollups say the same as the entries, once all holds are over."""
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM entries") == len(calls) == 3 * LINES
    finally:
        await connection.close()

    def agrees():
        """Rollups and limiter agree with the entries."""
        done = replicas[0].run("reconcile", "--source", "rollups", "--source", "limiter")
        return done.returncode == 0

    await asyncio.to_thread(lambda: eventually(agrees, 30, 1))


async def test_a_process_that_drains_gives_its_lines_to_the_other(
    tmp_path, cluster, config, redis_url, postgres_database
):
    environ = {"TOLLGATE_REDIS_URL": redis_url, "TOLLGATE_DATABASE_URL": postgres_database}
    replicas = two(tmp_path, cluster, config, environ)
    with serving(replicas[0]), serving(replicas[1]):
        keys = await asyncio.to_thread(replicas[0].create_accounts, acme="monthly")
        acme = Customer(replicas[:1], keys["acme"])
        lines = [chat_line(each, f"SIM:tokens=30 SIM:rate=60 {each}", max_tokens=30) for each in range(LINES // 4)]
        batch_id = await acme.create(lines)
        while (await acme.batch(batch_id))["request_counts"]["completed"] < 10:
            await asyncio.sleep(0.05)
        assert await asyncio.to_thread(replicas[1].terminate) == 0
        calls = await check(acme, postgres_database, batch_id, lines, price_of)
        assert len(calls) == LINES // 4
