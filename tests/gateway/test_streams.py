"""Streams at full speed: every byte arrives, memory stays flat, and whoever leaves is noticed."""

import asyncio
import hashlib
import json
import random
import socket
from typing import Self

import pytest

from proxy.simulator import Options
from tests.support.stack import ROUTE, chat, running, write_config

MEBIBYTE = 1 << 20


class Firehose:
    """An upstream that sends one long event stream as fast as it is taken, in chunks cut without regard to events."""

    def __init__(self, bytes_total: int, seed: int = 7) -> None:
        self.bytes_total = bytes_total
        self.sent = 0
        self.gone = asyncio.Event()
        self.digest = ""
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self.url = ""

    def _events(self) -> bytes:
        """About a mebibyte of events, some with split UTF-8, some large."""
        out = []
        size = 0
        while size < MEBIBYTE:
            text = "é€😀" * self._random.randrange(1, 20) + "x" * self._random.choice((1, 5, 200, 5000))
            delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
            event = f"data: {json.dumps({'id': 'c', 'choices': [delta]}, ensure_ascii=False)}\n\n".encode()
            out.append(event)
            size += len(event)
        return b"".join(out)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        block = self._events()
        digest = hashlib.sha256()
        try:
            while self.sent < self.bytes_total:
                start = 0
                while start < len(block):
                    size = self._random.choice((1, 7, 300, 20_000, 100_000))
                    piece = block[start : start + size]
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    start += len(piece)
                    await writer.drain()
                digest.update(block)
                self.sent += len(block)
            end = b"data: [DONE]\n\n"
            digest.update(end)
            self.digest = digest.hexdigest()
            writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(end), end))
            await writer.drain()
            await reader.read()
        except ConnectionError:
            pass
        finally:
            self.gone.set()
            writer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()


async def ask_raw(stack, body):
    """Send a streaming call over a socket of our own that reads only when told to."""
    sock = socket.create_connection(("127.0.0.1", stack.app.port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    sock.setblocking(False)
    data = json.dumps(body).encode()
    head = (
        f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.key}\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    await asyncio.get_running_loop().sock_sendall(sock, head.encode() + data)
    return sock


async def test_every_byte_of_a_long_stream_arrives(tmp_path):
    async with (
        Firehose(64 * MEBIBYTE) as firehose,
        running(tmp_path, environ={"TOLLGATE_UPSTREAM": firehose.url}) as stack,
    ):
        digest = hashlib.sha256()
        async with stack.post(chat(stream=True)) as answer:
            async for piece in answer.content.iter_any():
                digest.update(piece)
        assert digest.hexdigest() == firehose.digest
        (entry,) = await stack.entries()
        assert entry.outcome.value == "finished"


async def test_a_reader_that_stops_stops_the_upstream_and_not_the_memory(tmp_path):
    async with (
        Firehose(64 * MEBIBYTE) as firehose,
        running(tmp_path, environ={"TOLLGATE_UPSTREAM": firehose.url}) as stack,
    ):
        sock = await ask_raw(stack, chat(stream=True))
        before = -1
        while firehose.sent != before:  # until nothing moves any more
            before = firehose.sent
            await asyncio.sleep(0.5)
        assert firehose.sent < 16 * MEBIBYTE
        (connection,) = [c for c in stack.app.public._server.connections if c.transport is not None]
        assert connection.transport.get_write_buffer_size() < 2 * MEBIBYTE
        loop = asyncio.get_running_loop()
        last = b""
        while not last.endswith(b"0\r\n\r\n"):
            last = (last + await asyncio.wait_for(loop.sock_recv(sock, 1 << 18), 20))[-(1 << 18) :]
        assert firehose.sent >= 64 * MEBIBYTE
        sock.close()
        await stack.settled()


async def test_a_reader_that_never_comes_back_counts_as_gone(tmp_path):
    config = write_config(tmp_path, proxy=("client_stall_s: 120", "client_stall_s: 1"))
    async with (
        Firehose(64 * MEBIBYTE) as firehose,
        running(tmp_path, config=config, environ={"TOLLGATE_UPSTREAM": firehose.url}) as stack,
    ):
        sock = await ask_raw(stack, chat(stream=True))
        await asyncio.wait_for(firehose.gone.wait(), 20)
        (entry,) = await stack.entries()
        assert entry.outcome.value == "disconnected"
        assert entry.charge.total_pico > 0
        sock.close()


async def test_a_client_that_leaves_ends_the_upstreams_work_and_pays_for_what_was_produced(tmp_path):
    async with running(tmp_path, options=Options(tokens_per_second=200)) as stack:
        async with stack.post(chat("SIM:tokens=2000", max_tokens=2000, stream=True)) as answer:
            got = b""
            while got.count(b"data: ") < 20:
                got += await answer.content.readany()
            answer.close()
        (entry,) = await stack.entries()
        assert stack.cluster.running == 0
        assert entry.outcome.value == "disconnected"
        output = sum(line.amount for line in entry.charge.lines if line.usage_type.value == "output")
        assert 19 <= output <= stack.cluster.generation_tokens < 200
        _, _, headers = await stack.ask(chat("SIM:tokens=1", max_tokens=1))
        assert int(headers["X-RateLimit-Remaining-Output-Tokens-Hour"]) == 150_000 - output - 1


async def test_a_plain_call_whose_client_leaves_runs_to_its_end_and_is_billed(tmp_path):
    async with running(tmp_path, options=Options(tokens_per_second=50)) as stack:
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.2):
                await stack.ask(chat("SIM:tokens=25", max_tokens=25))
        (entry,) = await stack.entries()
        assert entry.outcome.value == "finished"
        assert sum(line.amount for line in entry.charge.lines if line.usage_type.value == "output") == 25


async def test_a_client_that_leaves_before_the_first_byte_of_a_stream_owes_nothing(stack):
    with pytest.raises(asyncio.TimeoutError):
        async with asyncio.timeout(0.3):
            await stack.ask(chat("SIM:stall", max_tokens=25, stream=True))
    assert (await stack.usage()).calls == 0
    _, _, headers = await stack.ask(chat(max_tokens=1))
    assert int(headers["X-RateLimit-Remaining-Output-Tokens-Hour"]) == 150_000 - 1


async def test_chunks_are_passed_on_as_they_come(tmp_path):
    async with running(tmp_path, options=Options(tokens_per_second=20)) as stack:
        loop = asyncio.get_running_loop()
        async with stack.post(chat("SIM:tokens=10", max_tokens=10, stream=True)) as answer:
            times = [loop.time() async for _ in answer.content.iter_any()]
        assert len(times) >= 10
        assert times[-1] - times[0] > 0.3  # spread over the half second that ten tokens take


async def test_a_silent_upstream_is_given_up(tmp_path):
    config = write_config(tmp_path, proxy=("first_byte_s: 600", "first_byte_s: 1"))
    async with running(tmp_path, config=config) as stack:
        status, body, _ = await stack.ask(chat("SIM:stall", max_tokens=25))
        assert (status, body["error"]["type"]) == (503, "service_unavailable_error")
        assert (await stack.usage()).calls == 0


async def test_a_long_stream_is_kept_alive_and_checkpointed(tmp_path):
    config = write_config(tmp_path, proxy=("heartbeat_s: 5", "heartbeat_s: 1"))
    async with running(tmp_path, config=config, options=Options(tokens_per_second=20)) as stack:
        async with stack.post(chat("SIM:tokens=50", max_tokens=50, stream=True)) as answer:
            await answer.content.readany()
            await asyncio.sleep(2.3)
            (flight,) = stack.app.settlement.in_flight.values()
            assert flight.known().output_tokens > 10
            assert stack.app.outbox._checkpointed == {flight.call_id}
            await answer.read()
        (entry,) = await stack.entries()
        assert entry.outcome.value == "finished"
        assert stack.app.outbox._checkpointed == set()
