"""The relay: one answer on its way from an upstream to a client.

What belongs here: moving bytes at full speed, with back-pressure in both directions. What does not: who calls, what it
costs, and what the client is told when something fails (gateway.py).

A stream is written to the client's transport from within the upstream's read callback: no coroutine is woken for a
piece. What the meter holds back (the end of the stream) is written by ``finish``, after the call has been committed: a
client never sees the end of an answer that is not in the ledger. Any other answer is collected whole.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from proxy.core.meters import StreamMeter
from proxy.upstream.connection import Headers, UpstreamConnection
from proxy.upstream.failures import FailureKind, UpstreamError


class ClientPort(Protocol):
    """The client's side of a relay, as far as the relay needs it."""

    @property
    def chunked(self) -> bool:
        """Whether the client understands chunked transfer coding (HTTP/1.1)."""

    def write(self, data: bytes) -> bool:
        """Send; False when the client is gone."""

    def abort(self) -> None:
        """Cut the connection, so that what the client has cannot be taken for whole."""

    def attach(self, relay: "Relay | None") -> None:
        """Name the relay to be told of back-pressure (``pause``, ``resume``); None: no longer."""


class Relay:
    """The sink of one exchange.

    Args:
        client: where a stream goes.
        meter: reads a stream as it passes; None: a stream is not expected, the answer is collected whole.
        head: makes the head of a streamed answer from the upstream's headers.
        answer_bytes_max: most bytes of an answer that is collected.
        stall_s: how long a client may stop reading.
        clock: monotonic seconds.
        on_over: called once, when the exchange is over: ended, failed or aborted.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_client",
        "_clock",
        "_finished",
        "_head",
        "_on_over",
        "_pending_head",
        "_stall_s",
        "answer_bytes_max",
        "connection",
        "error",
        "first_byte_at",
        "headers",
        "is_over",
        "meter",
        "status",
        "streaming",
    )

    def __init__(
        self,
        client: ClientPort,
        meter: StreamMeter | None,
        head: Callable[[Headers], bytes],
        answer_bytes_max: int,
        stall_s: float,
        clock: Callable[[], float],
        on_over: Callable[[], None],
    ) -> None:
        self._client = client
        self._head = head
        self._clock = clock
        self._stall_s = stall_s
        self._on_over: Callable[[], None] | None = on_over
        self._pending_head = b""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self.answer_bytes_max = answer_bytes_max
        self.meter = meter
        self.connection: UpstreamConnection | None = None
        self.status = 0
        self.headers: Headers = []
        self.streaming = False
        self.error: UpstreamError | None = None
        self.first_byte_at: float | None = None
        self.is_over = False
        self._finished: asyncio.Future[None] | None = None

    # The upstream's side

    def on_head(self, status: int, headers: Headers) -> None:
        """Decide between streaming and collecting."""
        self.status = status
        self.headers = headers
        if self.meter is not None and status == 200 and _is_event_stream(headers):  # noqa: PLR2004
            self.streaming = True
            self._pending_head = self._head(headers)
            self._client.attach(self)

    def on_data(self, data: bytes) -> None:
        """Pass on a piece of a stream, or collect it."""
        if not self.streaming:
            self._collect(data)
            return
        out = self.meter.feed(data)  # type: ignore[union-attr]
        if out:
            if self.first_byte_at is None:
                self.first_byte_at = self._clock()
            if self._client.chunked:
                out = b"%x\r\n%b\r\n" % (len(out), out)
        if self._pending_head:
            out = self._pending_head + out
            self._pending_head = b""
        if out:
            self._client.write(out)  # a client that is gone is noticed by its own connection

    def on_end(self) -> None:
        """The answer is whole."""
        self._end(None)

    def on_failure(self, error: UpstreamError) -> None:
        """The exchange failed."""
        self._end(error)

    def _collect(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > self.answer_bytes_max:
            self.abort()
            self._end(UpstreamError(FailureKind.TOO_LARGE))
            return
        if data:
            self._body.append(data)

    def _end(self, error: UpstreamError | None) -> None:
        self.error = error
        self.is_over = True
        self._over()
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    # The client's side

    def pause(self) -> None:
        """The client reads slower than the upstream sends: stop the upstream, not the memory."""
        if self.connection is not None:
            self.connection.pause_reading(self._stall_s)

    def resume(self) -> None:
        """The client has caught up."""
        if self.connection is not None:
            self.connection.resume_reading()

    # The gateway's side

    @property
    def body(self) -> bytes:
        """The collected answer."""
        return self._body[0] if len(self._body) == 1 else b"".join(self._body)

    @property
    def has_begun(self) -> bool:
        """Whether the client has been sent the head of a stream."""
        return self.streaming and not self._pending_head

    def over(self) -> "asyncio.Future[None]":
        """Return what is done when the answer is whole or has failed; to be asked for again after a cancellation."""
        self._finished = finished = asyncio.get_running_loop().create_future()
        if self.is_over:
            finished.set_result(None)
        return finished

    def abort(self) -> None:
        """Leave the upstream: it sees its client go and stops generating."""
        connection = self.connection
        self._over()
        if connection is not None:
            connection.abort()

    def _over(self) -> None:
        self.connection = None
        self._client.attach(None)
        on_over, self._on_over = self._on_over, None
        if on_over is not None:
            on_over()

    def finish(self, last: bytes) -> None:
        """Write the end of a stream, after the call has been committed."""
        if self._client.chunked:
            last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if last else b"0\r\n\r\n"
        if self._pending_head:
            last = self._pending_head + last
            self._pending_head = b""
        self._client.write(last)


def _is_event_stream(headers: Headers) -> bool:
    return any(name == b"content-type" and value.lower().startswith(b"text/event-stream") for name, value in headers)
