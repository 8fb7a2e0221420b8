"""One connection to an upstream: HTTP/1.1 over an asyncio transport, parsed by httptools.

What belongs here: bytes and framing of one exchange at a time. What does not: choosing connections (pool.py) and what
an answer means (relay.py).

aiohttp's client costs 60-70 us a call; this costs a few, because no coroutine is woken for a piece of an answer: what
one read brought is joined and handed to the sink synchronously.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import httptools

from proxy.outgoing import Outgoing
from proxy.upstream.failures import FailureKind, UpstreamError

HEAD_BYTES_MAX = 65_536
UPLOAD_BUFFER_BYTES = 262_144
"""What may wait for an upstream to read it before an upload is paused."""
Headers = list[tuple[bytes, bytes]]
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class Sink(Protocol):
    """What an exchange reports to. Exactly one of ``on_end`` and ``on_failure`` is called, once, last."""

    def on_head(self, status: int, headers: Headers) -> None:
        """The head of the final answer (1xx are passed over). Header names are in lower case."""

    def on_data(self, data: bytes) -> None:
        """What one read brought of the body, joined; called right after ``on_head`` too, then maybe empty."""

    def on_end(self) -> None:
        """The answer is whole."""

    def on_failure(self, error: UpstreamError) -> None:
        """The exchange failed; nothing more will come."""


class UpstreamConnection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    Args:
        on_idle: called when an exchange has ended cleanly and the connection may carry another one.
        on_lost: called once, when the connection is of no more use.
        clock: monotonic seconds.
        outgoing: gathers the requests of one turn of the event loop.
    """

    __slots__ = (
        "_body_until_close",
        "_clock",
        "_complete",
        "_head",
        "_head_bytes",
        "_head_told",
        "_headers",
        "_idle_s",
        "_keep_alive",
        "_on_idle",
        "_on_lost",
        "_on_stall",
        "_outgoing",
        "_parser",
        "_pieces",
        "_posted",
        "_received",
        "_sink",
        "_transport",
        "_uploading",
        "_writable",
        "_writing_paused",
        "deadline",
        "exchanges",
        "idle_since",
        "on_body",
        "reading_paused",
    )

    def __init__(
        self,
        on_idle: Callable[["UpstreamConnection"], None],
        on_lost: Callable[["UpstreamConnection"], None],
        clock: Callable[[], float],
        outgoing: Outgoing,
    ) -> None:
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._idle_s = 0.0
        self._clock = clock
        self._outgoing = outgoing
        self._posted = b""  # a request, to be sent at the end of this turn
        self._transport: asyncio.Transport | None = None
        self._sink: Sink | None = None
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # httptools calls it once a chunk: a C function costs nothing
        self._headers: Headers = []
        self._head_bytes = 0  # received with the head, or as a part of it; after it, of trailers
        self._head = False  # the head of the final answer has been read ...
        self._head_told = False  # ... and the sink knows it
        self._complete = False
        self._keep_alive = False
        self._received = False
        self._body_until_close = True
        self._parser = httptools.HttpResponseParser(self)
        self.deadline = 0.0
        self.idle_since = 0.0
        self.reading_paused = False
        self._on_stall: Callable[[], None] | None = None
        self._uploading = False  # a request of which more is to be sent
        self._writing_paused = False
        self._writable: asyncio.Future[None] | None = None  # somebody waits to send more

    # What the pool and the relay do with it

    @property
    def is_open(self) -> bool:
        """Whether it can still carry an exchange."""
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, sink: Sink, request: bytes, first_byte_s: float, idle_s: float) -> None:
        """Send a request and report its answer to ``sink``; waits are bounded, in seconds of silence.

        The request is whole, or its beginning: then ``begin_upload`` follows at once.
        """
        assert self._sink is None
        assert self._transport is not None
        self._sink = sink
        self._received = False
        self._idle_s = idle_s
        self.deadline = self._clock() + first_byte_s
        self._posted = request
        self._outgoing.gather(self)

    def send_posted(self) -> None:
        """Send now what ``begin`` was given."""
        if self._posted:
            request, self._posted = self._posted, b""
            if self.is_open:
                self._transport.write(request)  # type: ignore[union-attr]

    def begin_upload(self) -> None:
        """Say that more of the request is to be sent, with ``upload``, until ``end_upload``."""
        assert self._transport is not None
        self.send_posted()
        self._uploading = True
        self._transport.set_write_buffer_limits(high=UPLOAD_BUFFER_BYTES)
        self.deadline = self._clock() + self._idle_s

    async def upload(self, piece: bytes) -> bool:
        """Send the next piece, and wait until there is room for another; False: no more is wanted.

        No more is wanted once the answer is whole, or the exchange has failed.
        """
        if not self._uploading or not self.is_open:
            return False
        self._transport.write(piece)  # type: ignore[union-attr]
        if self._uploading and self._writing_paused:
            self._writable = asyncio.get_running_loop().create_future()
            try:
                await self._writable
            finally:
                self._writable = None
        if self._uploading and not self._head:
            self.deadline = self._clock() + self._idle_s
        return self._uploading

    def end_upload(self, first_byte_s: float) -> None:
        """Say that the request is whole; from now on its answer is waited for."""
        if self._uploading:
            self._uploading = False
            if not self._head:
                self.deadline = self._clock() + first_byte_s

    def abort(self) -> None:
        """Close at once and forget the sink: the upstream sees that its client has left, and stops generating."""
        self._sink = None
        self._stop_uploading()
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close an idle connection."""
        if self._transport is not None:
            self._transport.close()

    def pause_reading(self, stall_s: float, on_stall: Callable[[], None] | None = None) -> None:
        """Take nothing more from the upstream until ``resume_reading``; the reader has ``stall_s`` to catch up.

        If it does not, ``on_stall`` is called, or without it the exchange fails.
        """
        self._on_stall = on_stall
        if not self.reading_paused and self.is_open and self._sink is not None:
            self.reading_paused = True
            self.deadline = self._clock() + stall_s
            self._transport.pause_reading()  # type: ignore[union-attr]

    def resume_reading(self) -> None:
        """Go on reading."""
        if self.reading_paused:
            self.reading_paused = False
            self.deadline = self._clock() + self._idle_s
            if self.is_open:
                self._transport.resume_reading()  # type: ignore[union-attr]

    def expire(self) -> None:
        """End an exchange whose deadline has passed."""
        if self.reading_paused and self._on_stall is not None:
            self._on_stall()
            return
        self._fail(FailureKind.CLIENT_STALLED if self.reading_paused else FailureKind.TIMEOUT)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = transport  # type: ignore[assignment]

    def pause_writing(self) -> None:  # noqa: D102
        self._writing_paused = True

    def resume_writing(self) -> None:  # noqa: D102
        self._writing_paused = False
        self._wake()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._sink is None:
            self.close()  # an idle upstream has nothing to say: what follows could be taken for the next answer
            return
        if self._posted:  # nor can it answer what it has not been sent
            self._fail(FailureKind.CLOSED, "out of turn")
            return
        self._received = True
        self.deadline = self._clock() + self._idle_s
        if not self._head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._deliver()  # what came before the fault is whole events that the client may have
            self._fail(FailureKind.BROKEN if self._head else FailureKind.INVALID, type(exc).__name__)
            return
        if self._head_bytes > HEAD_BYTES_MAX and not self._head:
            self._fail(FailureKind.INVALID, "answer head too large")
            return
        try:
            self._deliver()
        except Exception as exc:  # noqa: BLE001 - a bug in a sink ends this exchange, and says so to whoever waits for it
            self._fail(FailureKind.INTERNAL, cause=exc)
            return
        if self._complete:
            self._finish()

    def eof_received(self) -> None:  # noqa: D102
        if self._sink is not None and self._head and self._body_until_close:
            self._complete = True
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._transport = None
        self._fail(FailureKind.BROKEN if self._received else FailureKind.CLOSED, type(exc).__name__ if exc else "")
        self._on_lost(self)

    # httptools callbacks (on_body is a list's append)

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if self._head:  # a trailer, which nobody asked for
            self._head_bytes += len(name) + len(value)
            if self._head_bytes > HEAD_BYTES_MAX:
                raise ValueError("trailers too large")
            return
        name = name.lower()
        if name in _FRAMING:
            self._body_until_close = False
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:  # noqa: D102
        if self._complete:
            raise ValueError("a second answer to one request")
        if self._head_bytes > HEAD_BYTES_MAX and _size(self._headers) > HEAD_BYTES_MAX:
            raise ValueError("answer head too large")
        if self._parser.get_status_code() >= 200:  # noqa: PLR2004
            self._head = True
            self._head_bytes = 0
            self._keep_alive = self._parser.should_keep_alive()  # the parser forgets it at the end of the message

    def on_message_complete(self) -> None:  # noqa: D102
        if self._head:
            self._complete = True
        else:  # 1xx: the final answer follows
            self._headers.clear()
            self._body_until_close = True

    # Inside

    def _deliver(self) -> None:
        """Tell the sink what this read brought: the head when it is new, then the body's pieces as one."""
        if not self._head:
            return
        pieces = self._pieces
        tell_head = not self._head_told
        if tell_head:
            self._head_told = True
            assert self._sink is not None
            self._sink.on_head(self._parser.get_status_code(), self._headers)
        if (pieces or tell_head) and self._sink is not None:  # the sink may have let go of us at the head
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._sink.on_data(data)

    def _finish(self) -> None:
        sink = self._sink
        reusable = self._keep_alive and not self._body_until_close
        unsent = self._uploading
        self._reset()
        if unsent:
            self.abort()  # an answer before the end of the request: what is still unsent would be taken for the next
        elif reusable and self.is_open:
            self._on_idle(self)
        else:
            self.close()
        if sink is not None:
            sink.on_end()

    def _reset(self) -> None:
        self._sink = None
        self._head = self._head_told = self._complete = False
        self._head_bytes = 0
        self._headers = []
        self._pieces.clear()
        self._body_until_close = True
        if self._uploading:
            self._stop_uploading()
        if self.reading_paused:
            self.resume_reading()

    def _stop_uploading(self) -> None:
        if self._uploading:
            self._uploading = False
            self._wake()

    def _wake(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _fail(self, kind: FailureKind, detail: str = "", cause: BaseException | None = None) -> None:
        sink = self._sink
        self.abort()
        if sink is not None:
            error = UpstreamError(kind, detail)
            error.__cause__ = cause
            sink.on_failure(error)


def _size(headers: Headers) -> int:
    return sum(len(name) + len(value) for name, value in headers)
