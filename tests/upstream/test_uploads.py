"""Uploads: bodies that are sent piece by piece, to upstreams that take them, refuse them, stall or leave."""

import asyncio
import hashlib
import os
from typing import Self

import pytest

from proxy.core.calls import PreparedCall, Sent
from proxy.core.catalogue import Engine, Model, Upstream
from proxy.core.endpoints import CHAT_COMPLETIONS
from proxy.settings.types import Timeouts
from proxy.upstream.exchange import Request, exchange
from proxy.upstream.failures import FailureKind
from proxy.upstream.pool import UpstreamPools
from proxy.upstream.relay import Relay
from tests.upstream.test_connection import PLAIN, Bench, FakeTransport, Recorder

MEBIBYTE = 1 << 20
PIECE = 262_144


class Transport(FakeTransport):
    """A transport whose write buffer fills at a mark, as asyncio's do."""

    def __init__(self):
        super().__init__()
        self.protocol = None
        self.high = 0
        self.buffered = 0

    def set_write_buffer_limits(self, high):
        self.high = high

    def write(self, data):
        super().write(data)
        self.buffered += len(data)
        if self.high and self.buffered > self.high:
            self.protocol.pause_writing()

    def drain(self):
        self.buffered = 0
        self.protocol.resume_writing()

    def abort(self):
        self.closing = True


class Uploading(Bench):
    """A connection over which a request's beginning has been sent."""

    def __init__(self):
        super().__init__()
        self.transport = self.connection._transport = Transport()
        self.transport.protocol = self.connection
        self.sink = Recorder()
        self.connection.begin(self.sink, b"head", 60.0, 10.0)
        self.connection.begin_upload()


@pytest.fixture
def bench():
    return Uploading()


async def step():
    for _ in range(4):
        await asyncio.sleep(0)


# The connection, as a transcript


async def test_pieces_go_out_until_the_upstream_does_not_keep_up(bench):
    assert await bench.connection.upload(b"a" * 200_000)
    stuck = asyncio.ensure_future(bench.connection.upload(b"b" * 200_000))
    await step()
    assert not stuck.done()
    bench.transport.drain()
    assert await stuck
    assert b"".join(bench.transport.written) == b"head" + b"a" * 200_000 + b"b" * 200_000


async def test_the_answer_is_waited_for_from_the_end_of_the_upload_on(bench):
    assert bench.connection.deadline == 110.0  # an upload may stall for ten seconds
    bench.now = 105.0
    await bench.connection.upload(b"a")
    assert bench.connection.deadline == 115.0
    bench.connection.end_upload(60.0)
    assert bench.connection.deadline == 165.0
    bench.connection.data_received(PLAIN)
    assert (bench.sink.body, bench.sink.ends, bench.idle) == (b"hello", 1, [bench.connection])


async def test_an_upstream_that_stops_reading_is_given_up(bench):
    stuck = asyncio.ensure_future(bench.connection.upload(b"a" * 300_000))
    await step()
    bench.now = 111.0
    assert bench.connection.deadline < bench.now
    bench.connection.expire()
    assert await stuck is False
    assert bench.sink.error.kind is FailureKind.TIMEOUT


async def test_an_answer_before_the_end_of_an_upload_ends_it_and_the_connection_with_it(bench):
    stuck = asyncio.ensure_future(bench.connection.upload(b"a" * 300_000))
    await step()
    bench.connection.data_received(PLAIN.replace(b"200 OK", b"413 Too Large"))
    assert await stuck is False
    assert await bench.connection.upload(b"b") is False
    assert (bench.sink.status, bench.sink.ends) == (413, 1)
    assert (bench.idle, bench.transport.closing) == ([], True)
    assert b"b" not in bench.transport.written


async def test_a_head_before_the_end_of_an_upload_does_not_end_it(bench):
    bench.connection.data_received(PLAIN[:-2])
    assert await bench.connection.upload(b"a")
    bench.connection.end_upload(60.0)
    assert bench.connection.deadline == 110.0  # between two bytes of an answer that has begun
    bench.connection.data_received(PLAIN[-2:])
    assert (bench.sink.ends, bench.idle) == (1, [bench.connection])


@pytest.mark.parametrize(("received", "kind"), [(b"", FailureKind.CLOSED), (PLAIN[:-2], FailureKind.BROKEN)])
async def test_an_upstream_that_leaves_in_the_middle_of_an_upload_fails_it(bench, received, kind):
    stuck = asyncio.ensure_future(bench.connection.upload(b"a" * 300_000))
    await step()
    if received:
        bench.connection.data_received(received)
    bench.connection.connection_lost(ConnectionResetError())
    assert await stuck is False
    assert bench.sink.error.kind is kind


async def test_the_next_request_on_the_connection_is_no_upload(bench):
    await bench.connection.upload(b"a")
    bench.connection.end_upload(60.0)
    bench.connection.data_received(PLAIN)
    sink = Recorder()
    bench.connection.begin(sink, b"next", 60.0, 10.0)
    bench.end_turn()
    bench.connection.data_received(PLAIN)
    assert (sink.ends, bench.idle) == (1, [bench.connection] * 2)


# Real upstreams


class Bytes:
    """A source that counts how often it is read, and how far."""

    def __init__(self, size: int) -> None:
        self._block = os.urandom(PIECE)
        self.size = size
        self.reads = 0
        self.given = 0
        self.failing = False

    def pieces(self):
        self.reads += 1
        self.given = 0
        while self.given < self.size:
            if self.failing:
                raise OSError("the disk is gone")
            piece = self._block[: self.size - self.given]
            self.given += len(piece)
            yield piece

    def digest(self, before: bytes, after: bytes) -> str:
        digest = hashlib.sha256(before)
        for piece in self.pieces():
            digest.update(piece)
        digest.update(after)
        return digest.hexdigest()


class Whisper:
    """An upstream over a real socket; ``mode`` says what it does with an upload."""

    def __init__(self, mode: str = "answer") -> None:
        self.mode = mode
        self.digests: list[str] = []
        self.connections = 0
        self.received = 0
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.gone = asyncio.Event()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=65_536)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                if not await self._answer(reader, writer, length):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone.set()
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int) -> bool:
        if self.mode == "refuse":
            writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 7\r\n\r\ntoo big")
            await writer.drain()
            await asyncio.sleep(0.05)
            return False
        if self.mode == "refuse and read on":
            writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 7\r\n\r\ntoo big")
        digest = hashlib.sha256()
        rest = length
        while rest:
            await self.may_read.wait()
            data = await reader.read(min(rest, 65_536))
            if not data:
                return False
            digest.update(data)
            rest -= len(data)
            self.received += len(data)
            if self.mode == "leave" and length - rest > MEBIBYTE:
                writer.transport.abort()
                return False
        self.digests.append(digest.hexdigest())
        if self.mode == "answer":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        elif self.mode == "answer, then leave":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            await writer.drain()
            self.may_leave = asyncio.Event()
            await self.may_leave.wait()
            return False
        return True


class Port:
    """A client that is not there."""

    chunked = True

    def write(self, data):
        return False

    def abort(self):
        pass

    def attach(self, relay):
        pass


class Caller:
    """Sends uploads to upstreams, as the gateway does."""

    def __init__(self, *whispers: Whisper, idle_s: float = 120.0) -> None:
        self.upstreams = tuple(
            Upstream(f"u{number}", whisper.url, Engine.VLLM) for number, whisper in enumerate(whispers)
        )
        self.pools = UpstreamPools(lambda: Timeouts(idle_s=idle_s), asyncio.get_running_loop().time)
        self.failures: list[FailureKind] = []

    def request(self, *body) -> Request:
        model = Model("m", (), 100, self.upstreams, "m")
        endpoint = CHAT_COMPLETIONS
        call = PreparedCall(model, "/v1/audio/transcriptions", b"")
        replaced = {name: getattr(endpoint, name) for name in endpoint.__struct_fields__}
        replaced["send"] = lambda call, engine: Sent("/upload", body, b"multipart/form-data; boundary=b")
        return Request(type(endpoint)(**replaced), call, b"x-request-id: 1\r\n")

    async def send(self, *body) -> Relay:
        def new_relay(pool):
            clock = asyncio.get_running_loop().time
            return Relay(Port(), None, lambda *_, **__: b"", 1 << 20, 1 << 20, None, 5.0, clock, pool.ended)

        def failed(pool, kind):
            self.failures.append(kind)

        return await exchange(self.pools, self.upstreams, self.request(*body), new_relay, failed)

    def close(self) -> None:
        assert [pool.in_flight for pool in self.pools.all()] == [0] * len(self.pools.all())
        self.pools.close()


async def test_an_upload_arrives_byte_for_byte(tmp_path):
    source = Bytes(32 * MEBIBYTE + 5)
    async with Whisper() as whisper:
        caller = Caller(whisper)
        relay = await caller.send(b"before", source, b"after")
        assert (relay.status, relay.body, source.reads) == (200, b"{}", 1)
        assert whisper.digests == [source.digest(b"before", b"after")]
        await caller.send(b"a", Bytes(0), b"b")  # over the same connection
        assert whisper.connections == 1
        caller.close()


async def test_a_slow_upstream_is_waited_for_and_the_source_is_not_read_ahead():
    source = Bytes(32 * MEBIBYTE)
    async with Whisper() as whisper:
        whisper.may_read.clear()
        caller = Caller(whisper)
        sending = asyncio.ensure_future(caller.send(source))
        given = -1
        while source.given != given or not given:
            given = source.given
            await asyncio.sleep(0.1)
        assert source.given - whisper.received < 12 * MEBIBYTE  # what the kernel's buffers hold, and three pieces
        (connection,) = caller.pools.of(caller.upstreams[0])._open
        assert connection._transport.get_write_buffer_size() <= 2 * PIECE
        whisper.may_read.set()
        relay = await sending
        assert relay.status == 200
        assert whisper.digests == [source.digest(b"", b"")]
        caller.close()


@pytest.mark.parametrize("mode", ["refuse", "refuse and read on"])
async def test_a_refusal_before_the_end_is_the_answer_and_ends_the_connection(mode):
    source = Bytes(32 * MEBIBYTE)
    async with Whisper(mode) as whisper:
        caller = Caller(whisper)
        relay = await caller.send(source)
        assert (relay.error, relay.status, relay.body) == (None, 413, b"too big")
        assert source.given < source.size
        await asyncio.wait_for(whisper.gone.wait(), 5)
        assert caller.pools.of(caller.upstreams[0]).connections == 0
        caller.close()


async def test_an_upload_that_breaks_off_goes_elsewhere_from_its_beginning():
    source = Bytes(8 * MEBIBYTE)
    async with Whisper("leave") as bad, Whisper() as good:
        caller = Caller(bad, good)
        relay = await caller.send(b"x", source)
        assert (relay.status, caller.failures) == (200, [FailureKind.CLOSED])
        assert source.reads == 2
        assert good.digests == [source.digest(b"x", b"")]
        caller.close()


async def test_an_upload_over_a_connection_that_was_closed_meanwhile_is_sent_once_more():
    source = Bytes(8 * MEBIBYTE)
    async with Whisper("answer, then leave") as whisper:
        caller = Caller(whisper)
        await caller.send(b"x")
        whisper.mode = "answer"
        whisper.may_leave.set()  # it leaves at this moment: the pool does not know it yet
        relay = await caller.send(source)
        assert (relay.error, relay.status) == (None, 200)
        assert (whisper.connections, caller.failures) == (2, [])
        assert whisper.digests[1:] == [source.digest(b"", b"")]
        caller.close()


async def test_whoever_cancels_an_upload_leaves_the_upstream():
    source = Bytes(32 * MEBIBYTE)
    async with Whisper() as whisper:
        whisper.may_read.clear()
        caller = Caller(whisper)
        sending = asyncio.ensure_future(caller.send(source))
        while not source.given:
            await asyncio.sleep(0.01)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        whisper.may_read.set()
        await asyncio.wait_for(whisper.gone.wait(), 5)
        assert whisper.digests == []
        caller.close()


async def test_a_source_that_cannot_be_read_leaves_the_upstream():
    source = Bytes(8 * MEBIBYTE)
    source.failing = True
    async with Whisper() as whisper:
        caller = Caller(whisper)
        with pytest.raises(OSError, match="the disk is gone"):
            await caller.send(source)
        await asyncio.wait_for(whisper.gone.wait(), 5)
        caller.close()


def test_a_plain_body_is_part_of_the_first_write():
    upstream = Upstream("u", "http://u.example/base", Engine.VLLM)
    pools = UpstreamPools(Timeouts, lambda: 0.0)
    model = Model("m", (), 100, (upstream,), "m")
    request = Request(CHAT_COMPLETIONS, PreparedCall(model, "/v1/x", b'{"a":1}'), b"")
    payload, rest = request.to(pools.of(upstream))
    assert rest is None
    assert payload.startswith(b"POST /base/v1/x HTTP/1.1\r\n")
    assert payload.endswith(b'content-type: application/json\r\ncontent-length: 7\r\n\r\n{"a":1}')
