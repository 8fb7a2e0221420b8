"""HTTP/1.1 on the customers' side: an asyncio transport, parsed by httptools.

What belongs here: bytes and framing of one connection, and its bounds. What does not: one request and its answer
(exchange.py), all connections of a listener (connections.py), and what a request means (public.py).

One exchange at a time: what else a client sends meanwhile waits here, bounded, and is answered in order. A head that
will not be served (heads.py) ends the connection.
"""

import asyncio
import math
from collections import deque
from typing import Any, Final

import httptools

from proxy.core.errors import ApiError, internal, invalid_request
from proxy.web.connections import Connections
from proxy.web.exchange import Exchange, Pausable, last_answer
from proxy.web.heads import HEAD_BYTES_MAX, HEADERS_MAX, NOT_HTTP, TOO_LARGE, RefusedHeadError, noted_of, takes_chunks

SLICE_BYTES: Final = 16_384
"""What is parsed in one go where a request may end: it bounds how many can be waiting parsed."""
UNPARSED_BYTES_MAX: Final = 65_536
"""What may wait behind an exchange before the client is paused."""
DISCARD_BYTES_MAX: Final = 16_777_216
HEAD_S: Final = 30.0
"""From the first byte of a head to its last."""
LINGER_S: Final = 2.0
"""How long a client that has been answered early may go on sending: closing at once would destroy the answer."""
UNSENT_S: Final = 30.0
"""How long a client may take nothing of an answer that is complete."""


class Connection(asyncio.Protocol):
    """A client's connection (``proxy.web.exchange.Carrier``).

    Args:
        server: the listener's connections.
    """

    __slots__ = (
        "_discarded",
        "_fault",
        "_headers",
        "_lingering",
        "_overhead",
        "_parser",
        "_posted",
        "_queue",
        "_reading_paused",
        "_receiving",
        "_resuming",
        "_server",
        "_target",
        "_unparsed",
        "_unsent",
        "_upgrading",
        "current",
        "deadline",
        "producer",
        "task",
        "transport",
        "writing_paused",
    )

    def __init__(self, server: Connections) -> None:
        self._server = server
        self._parser: Any = httptools.HttpRequestParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._target = b""
        self._overhead = 0  # bytes taken that were not a body's
        self._receiving: Exchange | None = None  # whose body is coming in
        self._upgrading = False  # the parser would have the rest of it belong to another protocol ...
        self._resuming = False  # ... and another parser is being told where we are
        self._queue: deque[Exchange] = deque()
        self._unparsed = bytearray()
        self._fault: ApiError | None = None
        self._lingering = False
        self._discarded = 0
        self._reading_paused = False
        self._unsent = 0
        self._posted = b""  # a whole answer, to be sent at the end of this turn
        self.transport: asyncio.Transport | None = None
        self.current: Exchange | None = None
        self.task: asyncio.Task[None] | None = None
        self.producer: Pausable | None = None
        self.writing_paused = False
        self.deadline = server.now_s + server.keepalive_s

    @property
    def is_closing(self) -> bool:
        """Whether no further request will be taken."""
        return self._server.closing

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(high=self._server.write_buffer_bytes)  # type: ignore[union-attr]
        self._server.connected(self)
        if self._server.closing:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102, ARG002
        task = self.task
        self.transport = self.producer = None
        self._parser = None  # it holds methods of ours: a circle
        self._queue.clear()
        self._unparsed.clear()
        self._posted = b""
        self.deadline = math.inf
        if task is not None:
            task.cancel()
        self._server.lost(self, task)

    def eof_received(self) -> None:
        """The client has no more to say: it has left, and the transport closes itself."""
        self.deadline = self._server.now_s + UNSENT_S

    def pause_writing(self) -> None:  # noqa: D102
        self.writing_paused = True
        if self.producer is not None:
            self.producer.pause()

    def resume_writing(self) -> None:  # noqa: D102
        self.writing_paused = False
        if self.producer is not None:
            self.producer.resume()
        elif self.current is None:
            self._next()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._lingering:
            self._discard(data)
        elif self._fault is not None:
            pass  # the connection ends with the exchange that is under way
        elif self._is_occupied():
            self._unparsed += data
            if len(self._unparsed) > UNPARSED_BYTES_MAX:
                self.hold_reading()
        elif len(data) <= SLICE_BYTES:
            self._parse(data)
        else:
            self._parse_slices(data)

    # Reading

    def _parse_slices(self, data: bytes) -> None:
        view = memoryview(data)
        start = 0
        while start < len(data) and self._fault is None and self._parser is not None:
            if self._is_occupied():
                self._unparsed += view[start:]
                self.hold_reading()
                return
            self._parse(view[start : start + SLICE_BYTES])
            start += SLICE_BYTES

    def _parse(self, data: bytes | memoryview) -> None:
        self._overhead += len(data)
        try:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as exc:
                self._go_on(data[exc.args[0] :])
        except httptools.HttpParserError as exc:
            cause = exc.__context__
            message = str(cause) if isinstance(cause, RefusedHeadError) else NOT_HTTP
            self._break(invalid_request(message))
        else:
            if self._overhead > 2 * HEAD_BYTES_MAX or len(self._headers) > HEADERS_MAX:
                self._break(invalid_request(TOO_LARGE))
        if self.current is None and not self._lingering:
            self._start_or_wait()

    def _go_on(self, data: bytes | memoryview) -> None:
        """Feed what follows a request that asked for an upgrade, and may ask for one again."""
        while True:
            self._upgrading = False
            exchange = self._receiving
            if exchange is None or exchange.method == b"CONNECT":
                raise httptools.HttpParserError from None  # what follows is for whoever is at the other end
            self._resume(exchange)
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as exc:
                data = data[exc.args[0] :]
            else:
                return

    def _resume(self, exchange: Exchange) -> None:
        """Go on with HTTP/1.1 after a request that would rather have upgraded: its body is still to come."""
        noted = exchange.noted
        framing = b""
        if b"transfer-encoding" in noted:
            framing = b"transfer-encoding: chunked\r\n"
        elif b"content-length" in noted:
            framing = b"content-length: %b\r\n" % noted[b"content-length"]
        self._parser = httptools.HttpRequestParser(self)
        self._resuming = True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % framing)
        self._target = b""

    def _break(self, error: ApiError) -> None:
        """Take nothing more; what came whole before is still answered."""
        self._fault = error
        self._unparsed.clear()
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            receiving.end(broken=receiving.method != b"CONNECT")

    def _start_or_wait(self) -> None:
        if self._queue:
            if not self.writing_paused:
                exchange = self.current = self._queue.popleft()
                self.deadline = math.inf
                self.task = asyncio.get_running_loop().create_task(self._run(exchange), name="exchange")
        elif self._fault is not None:
            self._refuse(self._fault)
        elif self._overhead and self.deadline > self._server.now_s + HEAD_S:
            self.deadline = self._server.now_s + HEAD_S

    def _refuse(self, error: ApiError) -> None:
        self.send_posted()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(last_answer(error.status, error.body))
            self._linger()

    def post(self, data: bytes) -> None:
        """Send at the end of this turn of the event loop, with what others have to send.

        The next exchange begins in a turn after it, so what that one streams cannot overtake it.
        """
        self._posted += data
        self._server.outgoing.gather(self)

    def send_posted(self) -> None:
        """Send now what has been posted: before anything else is written, and before the connection closes."""
        if self._posted:
            data, self._posted = self._posted, b""
            if self.transport is not None and not self.transport.is_closing():
                self.transport.write(data)

    def hold_reading(self) -> None:
        """Take nothing more from the client for now."""
        if not self._reading_paused and self.transport is not None and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def go_on_reading(self) -> None:
        """Take more from the client."""
        if self._reading_paused:
            self._reading_paused = False
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()

    # httptools callbacks

    def on_url(self, url: bytes) -> None:  # noqa: D102
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if self._receiving is None:  # else a trailer, which nobody asked for
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:  # noqa: D102
        if self._resuming:
            self._resuming = False
            return
        headers, target, parser = self._headers, self._target, self._parser
        self._headers = []
        self._target = b""
        noted = noted_of(headers, target, self._overhead + SLICE_BYTES)
        chunked = takes_chunks(parser.get_http_version(), noted)
        method = parser.get_method()
        keep_alive = parser.should_keep_alive() and method != b"CONNECT"
        self._upgrading = (b"upgrade" in noted or method == b"CONNECT") and parser.should_upgrade()
        exchange = Exchange(self, method, target, headers, noted, keep_alive=keep_alive, chunked=chunked)
        self._overhead = 0
        self._receiving = exchange
        self._queue.append(exchange)

    def on_body(self, data: bytes) -> None:  # noqa: D102
        self._overhead = 0
        if self._receiving is not None:
            self._receiving.take(data)

    def on_message_complete(self) -> None:  # noqa: D102
        if not self._upgrading and self._receiving is not None:
            self._overhead = 0
            self._receiving.end()
            self._receiving = None

    # Exchanges

    async def _run(self, exchange: Exchange) -> None:
        try:
            answer = await self._server.handle(exchange)
            if answer is not None:
                exchange.answer(answer.status, answer.content_type, answer.lines, answer.body)
        except asyncio.CancelledError:
            self.task = self.current = None
            self.abort()
            raise
        except Exception as exc:  # noqa: BLE001 - a bug must not leave a client without an answer, nor a task unread
            self._server.failed("exchange", exc)
            error = internal()
            exchange.answer(error.status, b"application/json", b"", error.body)
        self._ended(exchange)

    def _ended(self, exchange: Exchange) -> None:
        self.task = self.current = self.producer = None
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self.deadline = self._server.now_s + self._server.keepalive_s
        if not exchange.began:
            transport.abort()
        elif not exchange.complete:
            exchange.drop()
            self._linger()
        elif self._server.closing or not exchange.persists:
            self.close()
        elif self._queue or self._unparsed or self._fault is not None:
            self._next()

    def _next(self) -> None:
        """Go on with what has been waiting."""
        if self._queue or self._fault is not None:
            self._start_or_wait()
        if self._unparsed and not self._is_occupied():
            waiting = bytes(self._unparsed)
            self._unparsed.clear()
            self._parse_slices(waiting)
        if not self._unparsed and (self._receiving is None or self._receiving is self.current):
            self.go_on_reading()

    def _is_occupied(self) -> bool:
        """Whether what comes now is for later: an exchange has all it needs, or an answer has yet to be taken."""
        current = self.current
        return self.writing_paused if current is None else current.complete

    # The end

    def _linger(self) -> None:
        """Let an early answer arrive: close our side, and pass over what the client had still to say."""
        self._lingering = True
        self.deadline = self._server.now_s + LINGER_S
        self.send_posted()
        transport = self.transport
        assert transport is not None
        if transport.can_write_eof():
            transport.write_eof()
        self.go_on_reading()

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > DISCARD_BYTES_MAX:
            self.close()
        elif self._fault is None:
            self._parse(data)
            if self._receiving is None:
                self.close()  # that was all

    def close(self) -> None:
        """Close once everything has been sent."""
        self.deadline = self._server.now_s + UNSENT_S
        self.send_posted()
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        if self.transport is not None:
            self.transport.abort()

    def expire(self) -> None:
        """Do what is due at the deadline."""
        transport = self.transport
        if transport is None:
            return
        unsent = transport.get_write_buffer_size()
        if unsent and unsent != self._unsent:  # the client is still taking it
            self._unsent = unsent
            self.deadline = self._server.now_s + UNSENT_S
        elif unsent or transport.is_closing():
            transport.abort()
        else:
            self.close()
