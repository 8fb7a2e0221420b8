"""Ten thousand calls that go wrong, and afterwards nothing is left of them: no hold, task, connection, file or object.

The whole proxy runs in this process, on the loop that it is served with, so that everything can be counted. Clients are
raw sockets: they leave when they like.
"""

import asyncio
import contextlib
import gc
import json
import os
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import uvloop

from proxy.clock import unix_ms
from proxy.core.entries import Outcome
from proxy.core.quotas import limits_of
from proxy.simulator import Options, SimulatedCluster
from proxy.upstream.connection import UpstreamConnection
from tests.support.ports import free_port
from tests.support.stack import MODEL, ROUTE, Stack, chat, running, write_config

FAILURES = 10_000
CONCURRENCY = 100
BODY_BYTES_MAX = 65_536
REQUESTS_SMALL = 20
UNREACHABLE, HANGING_UP = "gemma3:27b", "DeepSeek-OCR"

UPSTREAMS = """
upstreams:
  cluster: {url: "%s", engine: vllm}
  unreachable: {url: "http://127.0.0.1:%d", engine: vllm}
  hanging-up: {url: "http://127.0.0.1:%d", engine: vllm}
models:
  gpt-oss:120b: {endpoints: [/v1/chat/completions], max_model_len: 60000, upstreams: [cluster]}
  gemma3:27b: {endpoints: [/v1/chat/completions], max_model_len: 60000, upstreams: [unreachable]}
  DeepSeek-OCR: {endpoints: [/v1/chat/completions], max_model_len: 60000, upstreams: [hanging-up]}
"""
PROXY = f"""
timeouts: {{first_byte_s: 4, client_body_s: 1, client_stall_s: 1, keepalive_s: 1}}
sizes: {{body_bytes_max: {BODY_BYTES_MAX}}}
limiter: {{heartbeat_s: 1}}
"""
TIERS = f"""
tiers:
  wide:
    {{title: Wide, purchase_credit: none, monthly_limit: unlimited, output_tokens_hour: unlimited,
      output_tokens_day: unlimited, requests: 1000000}}
  small:
    {{title: Small, purchase_credit: none, monthly_limit: 100, output_tokens_hour: 30000,
      output_tokens_day: 30000, requests: {REQUESTS_SMALL}, requests_window_s: 86400}}
"""
BROKEN = b'{"model": "gpt-oss:120b", "messages": ['
GARBAGE_FOLLOWS = "garbage follows"
LENGTH = re.compile(rb"content-length: ([0-9]+)")
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes ``close`` send a reset."""


class Customers:
    """Clients of raw sockets. ``free`` may never be billed, ``leaver`` for what was made, ``small`` is refused."""

    def __init__(self, stack: Stack, free: str, leaver: str, small: str, chance: random.Random) -> None:
        self._port = stack.app.port
        self.free, self.leaver, self.small = free, leaver, small
        self.chance = chance
        self.statuses: Counter[tuple[str, int]] = Counter()

    def request(self, key: str, body: object, *, length: int | None = None, version: str = "1.1") -> bytes:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return (
            f"POST {ROUTE} HTTP/{version}\r\nHost: proxy\r\nAuthorization: Bearer {key}\r\n"
            f"Connection: close\r\nContent-Length: {len(raw) if length is None else length}\r\n\r\n"
        ).encode() + raw

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection that ends politely or with a reset."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            yield reader, writer
        finally:
            if self.chance.random() < 0.5:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def answered(self, kind: str, raw: bytes, *expected: int) -> bytes:
        """Send, read an answer, and note its status: the proxy may wait for the rest of a body that it has refused."""
        async with self.connected() as (reader, writer), asyncio.timeout(30):
            writer.write(raw)
            answer = await reader.readuntil(b"\r\n\r\n")
            if (length := LENGTH.search(answer)) is not None:
                answer += await reader.readexactly(int(length[1]))
            if b"transfer-encoding" in answer or kind == GARBAGE_FOLLOWS:
                answer += await reader.read()
        status = int(answer[9:12] or 0)
        self.statuses[kind, status] += 1
        assert status in expected, (kind, status, answer[-300:])
        return answer

    async def leaves(self, raw: bytes, *, after_bytes: int = 0, after_s: float = 0.0) -> None:
        """Send, perhaps wait for the beginning of the answer, and go."""
        async with self.connected() as (reader, writer), asyncio.timeout(30):
            writer.write(raw)
            if after_bytes:
                with contextlib.suppress(asyncio.IncompleteReadError):
                    await reader.readexactly(after_bytes)
            await asyncio.sleep(after_s)


Failure = Callable[[Customers], Awaitable[object]]


def answered(status: int, body: object, *, key: str = "free") -> Failure:
    """A call that is answered with an error."""

    def fail(customers: Customers) -> Awaitable[object]:
        token = getattr(customers, key, key)
        return customers.answered(str(body)[:60], customers.request(token, body), status)

    return fail


def switched(status: int, switches: str, model: str = MODEL, **more: object) -> Failure:
    """A call whose upstream fails."""
    return answered(status, chat(switches, model=model, max_tokens=60, **more))


async def too_large(customers: Customers) -> None:
    """Its head says so: the body need not be sent."""
    await customers.answered("too large", customers.request(customers.free, b"", length=BODY_BYTES_MAX + 1), 413)


async def too_large_in_chunks(customers: Customers) -> None:
    chunk = b"%x\r\n%b\r\n" % (32_768, b"x" * 32_768)
    head = customers.request(customers.free, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    await customers.answered("too large in chunks", head + chunk * 3 + b"0\r\n\r\n", 413)


async def broken_chunks(customers: Customers) -> None:
    head = customers.request(customers.free, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    await customers.answered("broken chunks", head + b"zz\r\nnonsense\r\n\r\n", 400)


async def refused(customers: Customers) -> None:
    await customers.answered("refused", customers.request(customers.small, chat(max_tokens=1)), 200, 429)


async def breaks_off(customers: Customers) -> None:
    body = chat("SIM:tokens=50 SIM:drop-after=5", max_tokens=60, stream=True)
    assert b"[DONE]" not in await customers.answered("breaks off", customers.request(customers.free, body), 200)


async def garbage_follows(customers: Customers) -> None:
    raw = customers.request(customers.leaver, chat(max_tokens=2)).replace(b"Connection: close\r\n", b"")
    answer = await customers.answered(GARBAGE_FOLLOWS, raw + b"\x16\x03\x01 no HTTP \r\n\r\n", 200, 400)
    assert b"HTTP/1.1 400" in answer


async def garbage(customers: Customers) -> None:
    await customers.answered("garbage", b"\x16\x03\x01\x00\xa5 no HTTP\r\n\r\n", 400)


async def half_a_head(customers: Customers) -> None:
    await customers.leaves(customers.request(customers.free, b"")[:50], after_s=customers.chance.random() / 50)


async def half_a_body(customers: Customers) -> None:
    raw = customers.request(customers.free, chat("x" * 5000))
    await customers.leaves(raw[:-2000], after_s=customers.chance.random() / 50)


async def slow_body(customers: Customers) -> None:
    await customers.answered("slow body", customers.request(customers.free, BROKEN, length=500), 408)


async def leaves_at_once(customers: Customers) -> None:
    stream = customers.chance.random() < 0.5
    await customers.leaves(customers.request(customers.leaver, chat(max_tokens=5, stream=stream)))


async def leaves_while_the_upstream_thinks(customers: Customers) -> None:
    body = chat("SIM:stall", max_tokens=5, stream=customers.chance.random() < 0.5)
    await customers.leaves(customers.request(customers.free, body), after_s=0.05)


async def leaves_a_slow_answer(customers: Customers) -> None:
    raw = customers.request(customers.leaver, chat("SIM:tokens=10 SIM:rate=100", max_tokens=20))
    await customers.leaves(raw, after_s=customers.chance.random() / 10)


async def leaves_mid_stream(customers: Customers) -> None:
    body = chat("SIM:tokens=400 SIM:rate=200", max_tokens=400, stream=True)
    version = customers.chance.choice(["1.1", "1.0"])
    await customers.leaves(customers.request(customers.leaver, body, version=version), after_bytes=1500)


async def leaves_mid_head(customers: Customers) -> None:
    body = chat("SIM:tokens=400 SIM:rate=200", max_tokens=400, stream=True)
    await customers.leaves(customers.request(customers.leaver, body), after_bytes=12)


KINDS: list[Failure] = [
    answered(400, BROKEN),
    answered(400, chat(temperature=9)),
    answered(404, chat(model="no-such-model")),
    answered(401, chat(), key="tg-wrong"),
    answered(400, chat(max_tokens=59_000), key="small"),
    too_large,
    too_large_in_chunks,
    broken_chunks,
    refused,
    switched(500, "SIM:status=500"),
    switched(503, "SIM:status=503"),
    switched(503, "SIM:status=503", stream=True),
    switched(503, "SIM:garbage"),
    switched(503, "SIM:not-http"),
    switched(503, "SIM:drop", stream=True),
    switched(503, "SIM:drop"),
    switched(503, "SIM:drop-after=5 SIM:tokens=50"),
    switched(503, "never sent", UNREACHABLE),
    switched(503, "never read", HANGING_UP),
    breaks_off,
    garbage,
    garbage_follows,
    half_a_head,
    half_a_body,
    slow_body,
    leaves_at_once,
    leaves_while_the_upstream_thinks,
    leaves_a_slow_answer,
    leaves_mid_stream,
    leaves_mid_head,
]


async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream that resets every connection as soon as it is there."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


async def run_all(customers: Customers, failures: list[Failure]) -> None:
    """Let a hundred clients go through them."""
    left = iter(failures)

    async def client() -> None:
        for failure in left:
            await failure(customers)

    async with asyncio.TaskGroup() as clients:
        for _ in range(CONCURRENCY):
            clients.create_task(client())


class Remains(msgspec.Struct):
    """What a process has at one moment."""

    tasks: Counter[str]
    files: int
    objects: int
    resident_bytes: int

    @classmethod
    async def once_quiet(cls, stack: Stack) -> "Remains":
        """Wait until every call is settled and idle connections have been closed; then count."""
        async with asyncio.timeout(20):
            while any(pool.connections for pool in stack.app.pools.all()):
                await asyncio.sleep(0.05)
        await stack.settled()
        await asyncio.sleep(0.2)
        gc.collect()
        tasks = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())
        return cls(tasks, _open_files(), len(gc.get_objects()), _resident_bytes())


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def check_that_nothing_is_held(stack: Stack) -> None:
    app = stack.app
    assert app.settlement.in_flight == {}
    assert len(app.tasks) == 0
    assert app.outbox._file._reader.execute("SELECT count(*) FROM checkpoints").fetchone() == (0,)
    assert {pool.upstream.name: pool.in_flight for pool in app.pools.all()} == {
        "cluster": 0,
        "unreachable": 0,
        "hanging-up": 0,
    }
    assert app.public._server is not None
    assert app.public._server.connections == []
    settings = app._holder.current
    for account in app.directory.accounts.values():
        month = app.gateway._months.at(unix_ms(), account.timezone)
        limits = limits_of(settings.tiers[account.tier], month.name, month.ends_ms)
        peeked = await app.limiter.peek(account.id, limits)
        assert {state.name: state.held for state in peeked.states if state.held} == {}, account.name
        kept = app.limiter.dump(account.id)
        assert kept is None or kept["holds"] == {}, account.name


async def check_the_ledger(stack: Stack, free: str, leaver: str, small: str, admitted_small: int) -> None:
    """Only what was made for somebody is billed, and only where a client is to blame that it did not get it."""
    entries = await stack.entries(free)
    assert {entry.outcome for entry in entries} == {Outcome.UPSTREAM_FAILED}
    assert sum(entry.charge.total_pico for entry in entries) == 0
    left = await stack.entries(leaver)
    assert {entry.outcome for entry in left} == {Outcome.FINISHED, Outcome.DISCONNECTED}
    assert all(entry.charge.total_pico > 0 for entry in left)
    assert max(line.amount for entry in left for line in entry.charge.lines) <= 400
    assert len(await stack.entries(small)) == admitted_small


@contextlib.asynccontextmanager
async def three_upstreams(folder: Path) -> AsyncIterator[Stack]:
    """A proxy with a cluster that works, a server that is not there, and one that resets every connection."""
    config = write_config(folder)
    (config / "tiers.yaml").write_text(TIERS)
    (config / "proxy.yaml").write_text(PROXY)
    bad = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with SimulatedCluster(Options(tokens_per_second=0)) as cluster, bad:
        models = UPSTREAMS % (cluster.url, free_port(), bad.sockets[0].getsockname()[1])
        (config / "models.yaml").write_text(models)
        async with running(folder, config=config, environ={"TOLLGATE_UPSTREAM": ""}, tier="wide") as stack:
            yield stack


async def ten_thousand_failures(folder: Path) -> None:
    async with three_upstreams(folder) as stack:
        leaver, small = await stack.add_account("leaver", "wide"), await stack.add_account("small", "small")
        chance = random.Random(1)
        customers = Customers(stack, stack.key, leaver.token, small.token, chance)
        await run_all(customers, KINDS * 15)
        before = await Remains.once_quiet(stack)
        failures = [KINDS[number % len(KINDS)] for number in range(FAILURES)]
        chance.shuffle(failures)
        await run_all(customers, failures)
        after = await Remains.once_quiet(stack)

        await check_that_nothing_is_held(stack)
        assert after.tasks == before.tasks
        assert abs(after.files - before.files) <= 5
        assert after.objects - before.objects < FAILURES / 4, "something is kept of each call"
        assert after.resident_bytes - before.resident_bytes < 64 * 1024 * 1024
        assert customers.statuses["refused", 200] == REQUESTS_SMALL
        await check_the_ledger(stack, stack.account, leaver.key.account_id, small.key.account_id, REQUESTS_SMALL)


def test_nothing_is_left_of_ten_thousand_failures(tmp_path):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ten_thousand_failures(tmp_path))


async def test_an_upstream_that_hangs_up_before_it_is_asked_leaves_nothing(stack, monkeypatch):
    made = UpstreamConnection.connection_made

    def made_and_lost(connection: UpstreamConnection, transport: asyncio.Transport) -> None:
        made(connection, transport)
        connection.connection_lost(None)
        transport.abort()

    monkeypatch.setattr(UpstreamConnection, "connection_made", made_and_lost)
    status, body, _ = await stack.ask(chat(max_tokens=5))
    assert (status, body["error"]["type"]) == (503, "service_unavailable_error")
    await stack.settled()
    (pool,) = stack.app.pools.all()
    assert (pool.in_flight, pool.connections) == (0, 0)
