"""Calls that find every upstream full, through the whole proxy: who waits, in which order, and how it ends.

The upstream answers when the test says so: what is asserted is an order, not a time.
"""

import asyncio
import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import pytest

from proxy.clock import unix_ms
from proxy.core.entries import Outcome
from proxy.simulator import Options, SimulatedCluster
from proxy.upstream.pool import SWEEP_S
from tests.support.stack import MODEL, Stack, chat, running, write_config

UNAVAILABLE = {"error": {"message": "Service temporarily unavailable", "type": "service_unavailable_error"}}
SMALL = "gemma3:27b"

MODELS = """
upstreams:
  one: {{url: "{one}", in_flight_max: {places}}}
  two: {{url: "{two}", in_flight_max: {places}}}
models:
  gpt-oss:120b: {{endpoints: [/v1/chat/completions], max_model_len: 60000, upstreams: [{upstreams}]}}
  gemma3:27b: {{endpoints: [/v1/chat/completions], max_model_len: 60000, upstreams: [one]}}
"""
ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Bonjour"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
}


class Server:
    """An inference server that takes any number of calls and answers each when it is told to.

    Attributes:
        came: what the calls say, in the order in which they arrived.
    """

    def __init__(self) -> None:
        self.came: list[str] = []
        self.url = ""
        self.status = 200
        self.answers_at_once = False
        self._held: list[asyncio.Event] = []
        self._arrived = asyncio.Condition()
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._open:
            writer.close()
        for held in self._held:
            held.set()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                assert length
                body = json.loads(await reader.readexactly(int(length[1])))
                held = asyncio.Event()
                async with self._arrived:
                    self.came.append(body["messages"][0]["content"])
                    self._held.append(held)
                    self._arrived.notify_all()
                if not self.answers_at_once:
                    await held.wait()
                text = json.dumps(ANSWER).encode()
                writer.write(b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\n" % self.status)
                writer.write(b"content-length: %d\r\n\r\n%b" % (len(text), text))
                await writer.drain()
        self._open.discard(writer)
        writer.close()

    async def has(self, count: int) -> list[str]:
        """Wait until so many calls have arrived; return what all of them say."""
        async with asyncio.timeout(10), self._arrived:
            await self._arrived.wait_for(lambda: len(self.came) >= count)
        return self.came

    def answer(self, count: int = 1) -> None:
        """Answer the calls that have been held for longest."""
        for held in [held for held in self._held if not held.is_set()][:count]:
            held.set()


class Bench:
    """A proxy in front of two servers with few places, and accounts to call it with."""

    def __init__(self, stack: Stack, servers: list[Server]) -> None:
        self.stack = stack
        self.server = servers[0]
        self.servers = servers
        self.keys: dict[str, str] = {"acme": stack.key}
        self.tasks: list[asyncio.Task] = []

    async def account(self, name: str, tier: str = "tier1") -> None:
        self.keys[name] = (await self.stack.add_account(name, tier)).token

    def call(self, name: str, text: str | None = None, **more) -> asyncio.Task:
        """Make a call in the background: its status, body and headers."""
        body = chat(text or name, max_tokens=5, **more)
        task = asyncio.ensure_future(self.stack.ask(body, key=self.keys[name]))
        self.tasks.append(task)
        return task

    async def fill(self, places: int) -> None:
        """Take every place of the first server."""
        for _ in range(places):
            self.call("acme", "filling")
        await self.server.has(places)

    def waiting(self) -> dict[int, int]:
        return self.stack.app.pools.queue.waiting()

    async def until_waiting(self, count: int) -> None:
        async with asyncio.timeout(10):
            while sum(self.waiting().values()) != count:
                await asyncio.sleep(0.005)

    async def metrics(self) -> str:
        async with self.stack.session.get(f"{self.stack.admin_url}/metrics") as answer:
            return await answer.text()

    async def finish(self) -> None:
        """Answer everything that is there and still to come."""
        while not all(task.done() for task in self.tasks):
            for server in self.servers:
                server.answer(1000)
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def bench(
    folder: Path, *, places: int = 2, upstreams: str = "one", queue: str = "wait_s: 60", tier: str = "tier1"
) -> AsyncIterator[Bench]:
    async with Server() as one, Server() as two:
        config = write_config(folder)
        (config / "models.yaml").write_text(MODELS.format(one=one.url, two=two.url, places=places, upstreams=upstreams))
        (config / "proxy.yaml").write_text(f"queue: {{{queue}}}\n")
        async with running(folder, config=config, environ={"TOLLGATE_UPSTREAM": ""}, tier=tier) as stack:
            made = Bench(stack, [one, two])
            try:
                yield made
            finally:
                for server in made.servers:
                    server.answers_at_once = True
                    server.answer(1000)
                for task in made.tasks:
                    task.cancel()
                await asyncio.gather(*made.tasks, return_exceptions=True)


async def test_a_call_that_finds_its_upstream_full_waits_and_is_served(tmp_path, capfd):
    async with bench(tmp_path) as full:
        await full.fill(2)
        waits = full.call("acme", "waiting")
        await full.until_waiting(1)
        assert len(full.stack.app.settlement.in_flight) == 3  # its hold is kept alive as any other's
        await full.stack.app.settlement.beat_once(unix_ms() + 10_000)
        assert 'tollgate_queued_calls{priority="0"} 1.0' in await full.metrics()
        assert full.server.came == ["filling", "filling"]
        full.server.answer()
        assert await full.server.has(3) == ["filling", "filling", "waiting"]
        full.server.answer(2)
        status, body, _ = await waits
        assert (status, body["choices"][0]["message"]["content"]) == (200, "Bonjour")
        text = await full.metrics()
        assert 'tollgate_queue_wait_seconds_count{tier="tier1"} 1' in text
        assert 'tollgate_queued_calls{priority="0"} 0.0' in text
        assert len(await full.stack.entries()) == 3
        await asyncio.sleep(0.15)
        lines = [json.loads(line) for line in capfd.readouterr().out.splitlines() if "call_id" in line]
        assert sorted("queued_ms" in line for line in lines) == [False, False, True]
        assert all(line["overhead_ms"] < line["duration_ms"] - line.get("queued_ms", 0) for line in lines)


async def test_a_flood_of_tier_1_does_not_slow_a_priority_account(tmp_path):
    async with bench(tmp_path, places=8) as full:
        for name in ("t1", "t2", "t3"):
            await full.account(name)
        await full.account("priority", "monthly")
        await full.fill(8)
        for name in ("t1", "t2", "t3"):
            for _ in range(100):
                full.call(name)
        await full.until_waiting(300)
        for turn in range(1, 11):  # each of its calls needs one place that becomes free, and not one more
            urgent = full.call("priority")
            await full.until_waiting(302 - turn)
            full.server.answer()
            assert (await full.server.has(8 + 2 * turn - 1))[-1] == "priority"
            full.server.answer()  # and where it has none waiting, the others go on
            assert (await full.server.has(8 + 2 * turn))[-1] in {"t1", "t2", "t3"}
        served = Counter(full.server.came[8:])
        assert served == {"priority": 10, "t1": 4, "t2": 3, "t3": 3}
        await full.finish()
        assert (await urgent)[0] == 200
        assert Counter(task.result()[0] for task in full.tasks) == {200: 318}


async def test_of_two_equal_accounts_each_gets_half_whatever_the_other_brings(tmp_path):
    async with bench(tmp_path, places=4) as full:
        await full.account("many")
        await full.account("few")
        await full.fill(4)
        for _ in range(200):
            full.call("many")
        await full.until_waiting(200)
        for _ in range(4):
            full.call("few")
        await full.until_waiting(204)
        for count in range(1, 9):
            full.server.answer()
            await full.server.has(4 + count)
        assert Counter(full.server.came[4:]) == {"many": 4, "few": 4}
        await full.finish()


async def test_who_waits_too_long_is_told_so_and_owes_nothing(tmp_path):
    async with bench(tmp_path, queue="wait_s: 0.1") as full:
        await full.fill(2)
        status, body, headers = await full.call("acme")
        assert (status, body) == (503, UNAVAILABLE)
        assert re.fullmatch(r"[1-9]\d*", headers["Retry-After"])
        assert 1 <= int(headers["Retry-After"]) <= 60
        assert headers["x-should-retry"] == "true"
        assert headers["X-RateLimit-Limit-Requests"] == "1000"
        assert len(full.stack.app.settlement.in_flight) == 2
        assert 'tollgate_queue_refusals_total{tier="tier1",reason="waited"} 1' in await full.metrics()
        assert full.waiting() == {}
        await full.finish()
        assert len(await full.stack.entries()) == 2


async def test_a_stream_that_gets_no_place_is_told_so_before_it_begins(tmp_path):
    async with bench(tmp_path, queue="wait_s: 0.1") as full:
        await full.fill(2)
        status, body, headers = await full.call("acme", stream=True)
        assert (status, body, headers["x-should-retry"]) == (503, UNAVAILABLE, "true")


async def test_when_too_many_wait_one_more_is_refused_at_once_unless_its_priority_is_higher(tmp_path):
    async with bench(tmp_path, queue="wait_s: 60, calls_max: 3, account_calls_max: 2") as full:
        await full.account("other")
        await full.account("priority", "monthly")
        await full.fill(2)
        first = [full.call("acme") for _ in range(2)]
        await full.until_waiting(2)
        assert (await full.call("acme"))[0] == 503  # of its account
        full.call("other")
        await full.until_waiting(3)
        assert (await full.call("other"))[0] == 503  # of all
        full.call("priority")
        status, _, headers = await first[1]  # gives way
        assert (status, headers["Retry-After"]) == (503, "1")
        full.server.answer()
        assert (await full.server.has(3))[-1] == "priority"
        text = await full.metrics()
        assert 'tollgate_queue_refusals_total{tier="tier1",reason="full"} 2' in text
        assert 'tollgate_queue_refusals_total{tier="tier1",reason="displaced"} 1' in text
        await full.finish()


async def test_a_client_that_leaves_the_line_frees_its_place_and_its_hold_at_once(tmp_path):
    async with bench(tmp_path) as full:
        await full.fill(2)
        leaves, stays = full.call("acme", "leaves"), full.call("acme", "stays")
        await full.until_waiting(2)
        leaves.cancel()
        await full.until_waiting(1)
        async with asyncio.timeout(5):
            while len(full.stack.app.settlement.in_flight) > 3:
                await asyncio.sleep(0.005)
        full.server.answer()
        assert (await full.server.has(3))[-1] == "stays"
        full.server.answer(2)
        assert (await stays)[0] == 200
        assert 'reason="left"} 1' in await full.metrics()
        assert [entry.outcome for entry in await full.stack.entries()] == [Outcome.FINISHED] * 3


async def test_a_process_that_is_about_to_end_sends_who_waits_elsewhere_and_serves_the_others(tmp_path):
    async with bench(tmp_path) as full:
        await full.fill(2)
        waits = full.call("acme")
        await full.until_waiting(1)
        closing = asyncio.ensure_future(full.stack.app.public.close(20))
        full.stack.app.pools.queue.drain()
        status, body, headers = await waits
        assert (status, body, headers["Retry-After"]) == (503, UNAVAILABLE, "1")
        full.server.answer(2)
        assert [(await task)[0] for task in full.tasks[:2]] == [200, 200]
        await closing
        assert not len(full.stack.app.tasks)


async def test_closing_the_app_leaves_no_call_waiting_and_no_task(tmp_path):
    async with bench(tmp_path) as full:
        await full.fill(2)
        waits = [full.call("acme") for _ in range(20)]
        await full.until_waiting(20)
        closing = asyncio.ensure_future(full.stack.app.close())
        assert {(await task)[0] for task in waits} == {503}
        full.server.answer(2)
        assert [(await task)[0] for task in full.tasks[:2]] == [200, 200]
        await closing
        assert (full.waiting(), len(full.stack.app.tasks)) == ({}, 0)


async def test_a_reload_with_more_places_lets_in_who_waits(tmp_path):
    async with bench(tmp_path, places=1) as full:
        await full.fill(1)
        for _ in range(3):
            full.call("acme")
        await full.until_waiting(3)
        models = tmp_path / "config" / "models.yaml"
        models.write_text(models.read_text().replace("in_flight_max: 1", "in_flight_max: 3"))
        full.stack.app.reload()
        await full.server.has(3)
        assert full.waiting() == {0: 1}
        models.write_text(models.read_text().replace("in_flight_max: 3", "in_flight_max: 2"))
        full.stack.app.reload()
        full.server.answer()
        async with asyncio.timeout(5):
            while not full.tasks[0].done():
                await asyncio.sleep(0.005)
        assert (full.waiting(), len(full.server.came)) == ({0: 1}, 3)
        full.server.answer()
        await full.server.has(4)
        await full.finish()


async def test_a_model_with_two_upstreams_waits_for_whichever_has_room_first(tmp_path):
    async with bench(tmp_path, places=1, upstreams="one, two") as full:
        one, two = full.servers
        full.call("acme", "filling")
        full.call("acme", "filling")
        await one.has(1)
        await two.has(1)
        full.call("acme", "either")
        await full.until_waiting(1)
        full.call("acme", "one only", model=SMALL)
        await full.until_waiting(2)
        two.answer()
        assert (await two.has(2))[-1] == "either"
        two.answer()
        async with asyncio.timeout(5):
            while full.stack.app.pools.all()[1].in_flight:
                await asyncio.sleep(0.005)
        assert sum(full.waiting().values()) == 1  # a place at the other is none for it
        one.answer()
        assert (await one.has(2))[-1] == "one only"
        await full.finish()


async def test_an_upstream_that_is_away_is_passed_over_and_the_full_one_waited_for(tmp_path):
    async with bench(tmp_path, places=1, upstreams="two, one") as full:
        one, two = full.servers
        await two.__aexit__()
        full.call("acme", "filling")
        await one.has(1)
        full.call("acme", "waiting")
        await full.until_waiting(1)
        one.answer()
        assert (await one.has(2))[-1] == "waiting"
        await full.finish()
        assert [task.result()[0] for task in full.tasks] == [200, 200]


async def test_a_place_that_becomes_free_while_another_upstream_is_tried_is_not_missed(tmp_path):
    async with bench(tmp_path, places=1, upstreams="one, two") as full:
        one, two = full.servers
        full.call("acme", "filling")
        await one.has(1)
        full.call("acme", "turned away")
        await two.has(1)  # one was full
        one.answer()
        assert (await full.tasks[0])[0] == 200
        two.status = 503
        two.answer()
        assert (await one.has(2))[-1] == "turned away"
        one.answer()
        assert (await full.tasks[1])[0] == 200


async def test_an_upstream_that_is_busy_itself_is_not_hammered_by_who_waits(tmp_path):
    async with bench(tmp_path, places=2) as full:
        await full.fill(2)
        for _ in range(50):
            full.call("acme")
        await full.until_waiting(50)
        full.server.status = 503
        began_s = time.monotonic()
        full.server.answer(2)
        for _ in range(40):
            full.server.answer(50)
            await asyncio.sleep(0.005)
        sweeps = 1 + int((time.monotonic() - began_s) / SWEEP_S)
        # Each sweep opens two places; each place has turned two away before it is known to be closed.
        assert len(full.server.came) <= 2 + 4 * (1 + sweeps) < 50
        full.server.status = 200
        await full.finish()
        assert Counter(task.result()[0] for task in full.tasks)[200] >= 40


@pytest.mark.parametrize(("engine", "sign"), [("vllm", "-"), ("sglang", "")])
async def test_an_engine_that_takes_a_priority_is_told_that_of_the_tier_and_nothing_a_client_claims(
    tmp_path, engine, sign
):
    async with SimulatedCluster(Options(tokens_per_second=0)) as cluster:
        config = write_config(tmp_path)
        old = (config / "models.yaml").read_text()
        assert "engine: vllm" in old
        new = old.replace("http://127.0.0.1:9900", cluster.url)
        (config / "models.yaml").write_text(new.replace("engine: vllm", f"engine: {engine}\n    priority_field: true"))
        async with running(tmp_path, config=config, environ={"TOLLGATE_UPSTREAM": ""}) as stack:
            urgent = await stack.add_account("urgent", "monthly")
            assert (await stack.ask(chat(max_tokens=2)))[0] == 200
            assert (await stack.ask(chat(max_tokens=2, priority=-1000)))[0] == 200
            async with stack.post(chat(max_tokens=2, stream=True), key=urgent.token) as answer:
                assert answer.status == 200
            sent = [re.findall(rb'"priority":\s*(-?\d+)', seen.body) for seen in cluster.seen]
            assert sent == [[b"0"], [b"0"], [f"{sign}10".encode()]]
            # A body in which the field cannot be found and replaced is refused, and holds nothing.
            crowd = {f"m{number}": number for number in range(1001)} | {"priority": -1000}
            assert (await stack.ask(chat(max_tokens=2, **crowd)))[0] == 400
            await stack.settled()
            assert len(cluster.seen) == 3


async def test_an_engine_that_is_not_told_priorities_gets_the_body_as_it_came(stack):
    body = b'{"model": "%b", "max_tokens": 2,  "priority": 3, "messages": [{"role":"user","content":"a"}]}'
    sent = body % MODEL.encode()
    headers = {**stack.auth(), "Content-Type": "application/json"}
    async with stack.session.post(f"{stack.url}/v1/chat/completions", data=sent, headers=headers) as answer:
        assert answer.status == 200
    assert stack.cluster.seen[-1].body == sent
