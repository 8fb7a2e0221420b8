"""Uploads and answers too large for memory: every byte arrives, memory stays flat, and nothing stays behind."""

import asyncio
import contextlib
import hashlib
import os
import re
import socket
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
import uvloop

from proxy.core.calls import Form, PreparedCall, Sent
from proxy.core.calls.checking import find_model
from proxy.core.endpoints import Endpoint
from proxy.core.errors import invalid_parameter
from proxy.core.meters import Reading
from proxy.core.usage import Quantity, Source, Usage, UsageType
from proxy.ledger.errors import OutboxError
from proxy.web import routes as routing
from proxy.web.routes import Route
from tests.support.descriptors import no_spooled_open, spooled_open
from tests.support.stack import running, write_config

LOOPS = {"uvloop": uvloop.new_event_loop}
"""Run on the loop that serves customers: it tells of back-pressure, and of who leaves, in its own way."""

MEBIBYTE = 1 << 20
FLAT = 12 * MEBIBYTE
"""What proxy, client and upstream, all in this process, may need more for tens of mebibytes than for none."""

UPLOAD = "/v1/audio/transcriptions"
LARGE = "/v1/embeddings"
BLOCK = os.urandom(65_535) + b"#"  # an answer that ends with "}" is taken for whole


# Two routes that only move bytes


class UploadCall(PreparedCall, frozen=True):
    """A call with a form."""

    form: Any = None


def prepare_upload(received, route, terms):
    assert isinstance(received, Form)
    fields = dict(received.fields)
    if "file" not in received.files:
        raise invalid_parameter("file", "is required")
    if fields.get("task") == "crash":
        raise RuntimeError("a bug")
    model = find_model(fields.get("model", "whisper"), route, terms)
    return UploadCall(model, route, b"", audio_minutes_max=1, form=received)


def send_upload(call, engine):
    file = call.form.files["file"].content
    head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
    return Sent(call.upstream_route, (head, file, b"\r\n--b--\r\n"), b"multipart/form-data; boundary=b")


def used(usage_type):
    return Usage((Quantity(usage_type, 1, Source.REPORTED),))


def read_upload(engine, body, call):
    return Reading(used(UsageType.AUDIO_MINUTES), complete=body.startswith(b"{"))


def prepare_large(received, route, terms):
    return PreparedCall(find_model("granite-embedding:278m", route, terms), route, received)


class EndMeter:
    """Passes everything but the last brace."""

    def __init__(self):
        self._held = b""

    def feed(self, piece):
        data = self._held + piece
        self._held = data[-1:]
        return data[:-1]

    def known(self):
        return used(UsageType.INPUT)

    def tail(self):
        return self._held

    def finish(self):
        return Reading(self.known(), complete=self._held == b"}")


ROWS = [
    Endpoint(UPLOAD, "POST", (), prepare_upload, read_upload, takes_form=True, send=send_upload),
    Endpoint(
        LARGE,
        "POST",
        (),
        prepare_large,
        lambda engine, body, call: Reading(used(UsageType.INPUT), complete=body.endswith(b"}")),
        body_meter=lambda engine, call: EndMeter(),
    ),
]


@pytest.fixture(autouse=True)
def routes(monkeypatch):
    for row in ROWS:
        monkeypatch.setitem(routing._TABLE, row.route.encode(), Route((b"POST",), endpoint=row))


# An upstream that swallows uploads and pours out answers


class Upstream:
    """An inference server made of bytes."""

    def __init__(self, *, answer_bytes: int = 0, framing: str = "length", breaks_at: int | None = None) -> None:
        self.answer_bytes = answer_bytes
        self.framing = framing
        self.breaks_at = breaks_at
        self.received = 0
        self.uploaded = hashlib.sha256()
        self.sent = 0
        self.poured = hashlib.sha256()
        self.ended = 0
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.status = b"200 OK"
        self.early = False
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=65_536)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.sleep(0.02)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        rest = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while rest and not self.early:
            await self.may_read.wait()
            data = await reader.read(min(rest, 65_536))
            if not data:
                return False
            self.uploaded.update(data)
            self.received += len(data)
            rest -= len(data)
        await self.may_answer.wait()
        return await self._answer(writer)

    async def _answer(self, writer: asyncio.StreamWriter) -> bool:
        size = max(2, self.answer_bytes)
        framing = {
            "length": b"content-length: %d\r\n" % size,
            "chunks": b"transfer-encoding: chunked\r\n",
            "close": b"",
        }
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n%b\r\n"
        writer.write(head % (self.status, framing[self.framing]))
        at = 0
        while at < size:
            piece = (b"{" if at == 0 else b"") + BLOCK
            piece = piece[: size - 1 - at] if at < size - 1 else b"}"
            if self.breaks_at is not None and at + len(piece) > self.breaks_at:
                await writer.drain()
                if self.framing != "close":
                    writer.transport.abort()
                return False
            self.poured.update(piece)
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self.framing == "chunks" else piece)
            await writer.drain()
            at += len(piece)
            self.sent += len(piece)
        if self.framing == "chunks":
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        self.ended += 1
        return self.framing != "close" and not self.early


@contextlib.asynccontextmanager
async def proxied(tmp_path, upstream, **options):
    """Run a proxy in front of an upstream; when it ends, nothing of any upload is left."""
    async with upstream, running(tmp_path, environ={"TOLLGATE_UPSTREAM": upstream.url}, **options) as stack:
        yield stack
        await stack.settled()
        await no_spooled_open()
        assert (stack.app.public.spool.files, stack.app.public.spool.bytes_on_disk) == (0, 0)
        assert [pool.in_flight for pool in stack.app.pools.all()] == [0] * len(stack.app.pools.all())


HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
TAIL = b'\r\n--x\r\nContent-Disposition: form-data; name="task"\r\n\r\n%b\r\n--x--\r\n'
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


async def form_of(size, task=b"transcribe"):
    yield HEAD
    for at in range(0, size, len(BLOCK)):
        yield BLOCK[: size - at]
    yield TAIL % task


def upload(stack, size, **more):
    """Upload a file of some size, in chunks; use it as an async context manager."""
    return stack.session.post(stack.url + UPLOAD, data=form_of(size, **more), headers={**stack.auth(), **FORM})


def sent_digest(size):
    digest = hashlib.sha256(b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n')
    for at in range(0, size, len(BLOCK)):
        digest.update(BLOCK[: size - at])
    digest.update(b"\r\n--b--\r\n")
    return digest.hexdigest()


class PeakMemory:
    """How much more this process has needed at once since it was asked to watch."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._before = self._kibibytes("VmRSS")

    def _kibibytes(self, name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1])

    @property
    def grown(self) -> int:
        """Bytes between now's highest and then's."""
        return (self._kibibytes("VmHWM") - self._before) * 1024


# Uploads


async def test_an_upload_arrives_byte_for_byte_and_memory_stays_flat(tmp_path):
    upstream = Upstream()
    size = 64 * MEBIBYTE + 3
    async with proxied(tmp_path, upstream) as stack:
        async with upload(stack, 300_000) as answer:
            assert answer.status == 200
        upstream.uploaded = hashlib.sha256()
        memory = PeakMemory()
        async with upload(stack, size) as answer:
            assert (answer.status, await answer.read()) == (200, b"{}")
        assert memory.grown < FLAT
        assert upstream.uploaded.hexdigest() == sent_digest(size)
        assert (await stack.usage()).calls == 2


async def test_an_upstream_that_is_slow_to_read_costs_no_memory(tmp_path):
    upstream = Upstream()
    async with proxied(tmp_path, upstream) as stack:
        async with upload(stack, 300_000) as answer:
            assert answer.status == 200
        upstream.may_read.clear()
        memory = PeakMemory()

        async def ask():
            async with upload(stack, 48 * MEBIBYTE) as answer:
                return answer.status

        asking = asyncio.ensure_future(ask())
        while not stack.app.settlement.in_flight:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert memory.grown < FLAT
        assert stack.app.public.spool.bytes_on_disk == 48 * MEBIBYTE
        async with stack.session.get(f"{stack.admin_url}/metrics") as metrics:
            assert f"tollgate_spool_bytes {48 * MEBIBYTE}.0" in (await metrics.text()).splitlines()
        upstream.may_read.set()
        assert await asking == 200
        assert memory.grown < FLAT


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"Content-Type": "application/json"}, "must be multipart/form-data"),
        ({**FORM, "Content-Encoding": "gzip"}, "Content-Encoding"),
        ({"Content-Type": "multipart/form-data; boundary=y"}, "broken"),
    ],
)
async def test_what_is_no_form_is_refused(tmp_path, headers, says):
    async with proxied(tmp_path, Upstream()) as stack:
        request = stack.session.post(stack.url + UPLOAD, data=HEAD + TAIL % b"x", headers={**stack.auth(), **headers})
        async with request as answer:
            assert answer.status == 400
            assert says in (await answer.json())["error"]["message"]


async def test_an_upload_that_is_too_large_is_refused_and_gone(tmp_path):
    config = write_config(tmp_path, proxy=("sizes: # bytes", "sizes:\n  upload_bytes_max: 1_000_000"))
    async with proxied(tmp_path, Upstream(), config=config) as stack:
        async with upload(stack, 3 * MEBIBYTE) as answer:
            assert answer.status == 413
        assert (await stack.usage()).calls == 0


async def test_nothing_is_read_of_an_upload_without_a_key(tmp_path):
    async with proxied(tmp_path, Upstream()) as stack:
        request = stack.session.post(stack.url + UPLOAD, data=form_of(3 * MEBIBYTE), headers=FORM)
        async with request as answer:
            assert answer.status == 401
            assert spooled_open() == []


@pytest.mark.parametrize(("task", "status"), [(b"crash", 500), (b"", 200)])
async def test_a_file_ends_with_its_call_however_that_ends(tmp_path, task, status):
    async with proxied(tmp_path, Upstream()) as stack, upload(stack, 2 * MEBIBYTE, task=task) as answer:
        assert answer.status == status


async def test_an_upstreams_refusal_before_the_end_is_the_answer(tmp_path):
    upstream = Upstream()
    upstream.early, upstream.status = True, b"413 Too Large"
    async with proxied(tmp_path, upstream) as stack:
        async with upload(stack, 32 * MEBIBYTE) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["type"] == "invalid_request_error"
        assert (await stack.usage()).calls == 0


async def test_an_upstream_that_cannot_be_reached_is_a_503(tmp_path):
    upstream = Upstream()
    async with proxied(tmp_path, upstream) as stack:
        upstream._server.close()
        async with upload(stack, 2 * MEBIBYTE) as answer:
            assert answer.status == 503


async def test_a_client_that_leaves_while_it_uploads_leaves_nothing_behind(tmp_path):
    async with proxied(tmp_path, Upstream()) as stack:
        sock = socket.create_connection(("127.0.0.1", stack.app.port))
        lines = f"Authorization: Bearer {stack.key}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        sock.sendall(f"POST {UPLOAD} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n{lines}\r\n".encode() + HEAD)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(sock, BLOCK * 32)
        async with asyncio.timeout(5):
            while not spooled_open():
                await asyncio.sleep(0.01)
        sock.close()
        await no_spooled_open()
        assert (await stack.usage()).calls == 0


async def test_a_client_that_leaves_before_its_upload_is_through_to_the_upstream_owes_nothing(tmp_path):
    upstream = Upstream()
    upstream.may_read.clear()
    async with proxied(tmp_path, upstream) as stack:
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(1), upload(stack, 32 * MEBIBYTE):
                pass
        await stack.settled()
        upstream.may_read.set()
        assert (await stack.usage()).calls == 0
        assert upstream.ended == 0


async def test_a_client_that_leaves_while_the_upstream_works_is_billed(tmp_path):
    upstream = Upstream()
    upstream.may_answer.clear()
    async with proxied(tmp_path, upstream) as stack:
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(1), upload(stack, 2 * MEBIBYTE):
                pass
        assert len(spooled_open()) == 1
        upstream.may_answer.set()
        (entry,) = await stack.entries()
        assert (entry.outcome.value, upstream.ended) == ("finished", 1)


# Large answers


def ask(stack, **options):
    return stack.session.post(stack.url + LARGE, data=b"{}", headers=stack.auth(), **options)


async def read(stack):
    async with ask(stack) as answer:
        return await answer.read()


@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
async def test_a_large_answer_arrives_byte_for_byte_and_memory_stays_flat(tmp_path, framing):
    upstream = Upstream(framing=framing)
    async with proxied(tmp_path, upstream) as stack:
        async with ask(stack) as answer:
            assert await answer.read() == b"{}"
        upstream.answer_bytes, upstream.poured = 64 * MEBIBYTE, hashlib.sha256()
        memory = PeakMemory()
        digest = hashlib.sha256()
        async with ask(stack) as answer:
            length = answer.headers.get("Content-Length")
            assert length == (str(64 * MEBIBYTE) if framing == "length" else None)
            assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
            assert "X-RateLimit-Remaining-Requests" in answer.headers
            async for piece in answer.content.iter_any():
                digest.update(piece)
        assert digest.hexdigest() == upstream.poured.hexdigest()
        assert memory.grown < FLAT
        assert [entry.outcome.value for entry in await stack.entries()] == ["finished", "finished"]
        assert [entry.streamed for entry in await stack.entries()] == [False, False]


async def test_the_connection_goes_on_after_a_large_answer(tmp_path):
    async with proxied(tmp_path, Upstream(answer_bytes=3 * MEBIBYTE)) as stack:
        for _ in range(3):
            async with ask(stack) as answer:
                assert len(await answer.read()) == 3 * MEBIBYTE
        assert len(stack.app.public._server.connections) == 1


async def test_a_reader_that_stops_stops_the_upstream_and_not_the_memory(tmp_path):
    upstream = Upstream(answer_bytes=64 * MEBIBYTE)
    async with proxied(tmp_path, upstream) as stack:
        memory = PeakMemory()
        sock = await ask_raw(stack)
        before = -1
        while upstream.sent != before:  # until nothing moves any more
            before = upstream.sent
            await asyncio.sleep(0.4)
        assert upstream.sent < 16 * MEBIBYTE
        (connection,) = [c for c in stack.app.public._server.connections if c.transport is not None]
        assert connection.transport.get_write_buffer_size() < 2 * MEBIBYTE
        got = await read_all(sock)
        assert got == 64 * MEBIBYTE
        assert memory.grown < FLAT


async def ask_raw(stack, version="1.1"):
    """Ask over a socket of our own that reads only when told to."""
    sock = socket.create_connection(("127.0.0.1", stack.app.port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    sock.setblocking(False)
    head = (
        f"POST {LARGE} HTTP/{version}\r\nAuthorization: Bearer {stack.key}\r\nContent-Length: 2\r\nHost: x\r\n\r\n{{}}"
    )
    await asyncio.get_running_loop().sock_sendall(sock, head.encode())
    return sock


async def read_all(sock, until_close=False):
    """Read an answer to its announced length, or to the end of the connection; return the size of its body."""
    loop = asyncio.get_running_loop()
    got = b""
    while b"\r\n\r\n" not in got:
        got += await asyncio.wait_for(loop.sock_recv(sock, 65_536), 10)
    head, _, rest = got.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])
    size = len(rest)
    while size < length or until_close:
        data = await asyncio.wait_for(loop.sock_recv(sock, 262_144), 10)
        if not data:
            break
        size += len(data)
    sock.close()
    return size


async def test_a_client_of_http_1_0_gets_all_of_it_and_the_end_of_the_connection(tmp_path):
    async with proxied(tmp_path, Upstream(answer_bytes=3 * MEBIBYTE)) as stack:
        sock = await ask_raw(stack, "1.0")
        assert await read_all(sock, until_close=True) == 3 * MEBIBYTE


@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
async def test_an_upstream_that_breaks_off_cuts_the_client_and_is_not_billed(tmp_path, framing):
    upstream = Upstream(answer_bytes=16 * MEBIBYTE, framing=framing, breaks_at=8 * MEBIBYTE)
    async with proxied(tmp_path, upstream) as stack:
        with pytest.raises(aiohttp.ClientPayloadError):  # after a head of a whole answer
            await read(stack)
        (entry,) = await stack.entries()
        assert (entry.outcome.value, entry.charge.total_pico) == ("upstream_failed", 0)


@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
async def test_an_upstream_that_breaks_off_before_anything_was_relayed_is_a_503(tmp_path, framing):
    upstream = Upstream(answer_bytes=16 * MEBIBYTE, framing=framing, breaks_at=MEBIBYTE // 2)
    async with proxied(tmp_path, upstream) as stack:
        async with ask(stack) as answer:
            assert answer.status == 503
        assert (await stack.usage()).calls == 0


async def test_a_client_that_leaves_in_the_middle_is_billed_for_the_whole_answer(tmp_path):
    upstream = Upstream(answer_bytes=48 * MEBIBYTE)
    async with proxied(tmp_path, upstream) as stack:
        memory = PeakMemory()
        async with ask(stack) as answer:
            await answer.content.readexactly(2 * MEBIBYTE)
            answer.close()
        (entry,) = await stack.entries()
        assert (entry.outcome.value, upstream.ended) == ("finished", 1)
        assert entry.charge.total_pico > 0
        assert memory.grown < FLAT


async def test_a_client_that_leaves_before_the_answer_is_billed_for_it_and_no_memory_is(tmp_path):
    upstream = Upstream(answer_bytes=48 * MEBIBYTE)
    upstream.may_answer.clear()
    async with proxied(tmp_path, upstream) as stack:
        memory = PeakMemory()
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.3), ask(stack):
                pass
        upstream.may_answer.set()
        (entry,) = await stack.entries()
        assert (entry.outcome.value, upstream.ended) == ("finished", 1)
        assert memory.grown < FLAT


async def test_a_reader_that_never_comes_back_is_cut_and_billed_for_the_whole_answer(tmp_path):
    config = write_config(tmp_path, proxy=("client_stall_s: 120", "client_stall_s: 1"))
    upstream = Upstream(answer_bytes=48 * MEBIBYTE)
    async with proxied(tmp_path, upstream, config=config) as stack:
        sock = await ask_raw(stack)
        async with asyncio.timeout(10):
            while not upstream.ended:
                await asyncio.sleep(0.05)
        (entry,) = await stack.entries()
        assert (entry.outcome.value, entry.charge.total_pico > 0) == ("finished", True)
        with pytest.raises((AssertionError, ConnectionError)):
            assert await read_all(sock) == 48 * MEBIBYTE
        sock.close()


async def test_the_end_is_not_seen_of_what_could_not_be_recorded(tmp_path, monkeypatch):
    async with proxied(tmp_path, Upstream(answer_bytes=3 * MEBIBYTE)) as stack:

        async def refuse(entry):
            raise OutboxError("the disk is full")

        monkeypatch.setattr(stack.app.outbox, "commit", refuse)
        with pytest.raises(aiohttp.ClientPayloadError):
            await read(stack)
        monkeypatch.undo()


async def test_a_large_answer_in_flight_is_known_to_the_heartbeat(tmp_path):
    async with proxied(tmp_path, Upstream(answer_bytes=64 * MEBIBYTE)) as stack:
        sock = await ask_raw(stack)
        await asyncio.sleep(0.3)
        (flight,) = stack.app.settlement.in_flight.values()
        assert flight.known() == used(UsageType.INPUT)
        assert await read_all(sock) == 64 * MEBIBYTE
