"""The relay: one answer on its way from an upstream to a client.

What belongs here: moving bytes at full speed, with back-pressure in both directions. What does not: who calls, what it
costs, and what the client is told when something fails (gateway.py).

A stream is written to the client's transport from within the upstream's read callback: no coroutine is woken for a
piece. What the meter holds back (the end of the stream) is written by ``finish``, after the call has been committed: a
client never sees the end of an answer that is not in the ledger. Any other answer is collected whole; but one too large
for that is relayed like a stream, where a meter can read it on its way.

A stream whose hold may not reach its end has a gate before the meter. What the gate keeps back stops the upstream, as a
slow client does, until the hold reaches further (``go_on``) or the stream ends there (``cut``).
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from proxy.core.meters import Gate, StreamMeter
from proxy.upstream.connection import Headers, UpstreamConnection
from proxy.upstream.failures import FailureKind, UpstreamError

OK = 200


class AnswerHead(Protocol):
    """Makes the head of an answer that is relayed as it comes."""

    def __call__(self, headers: Headers, *, whole: bool, length: int | None) -> bytes:
        """Return it.

        Args:
            headers: of the upstream's answer.
            whole: whether it is a large answer, rather than a stream of events.
            length: of a large answer's body, where it is known.
        """


class ClientPort(Protocol):
    """The client's side of a relay, as far as the relay needs it."""

    @property
    def chunked(self) -> bool:
        """Whether the client understands chunked transfer coding (HTTP/1.1)."""

    @property
    def lines(self) -> bytes:
        """Header lines that any answer to this request ends with."""

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
        head: makes the head of an answer that is relayed as it comes.
        answer_bytes_max: most bytes of an answer that is collected.
        collect_bytes_max: above this size an answer is relayed as it comes, if ``body_meter`` is there.
        body_meter: makes what reads a whole answer as it passes; None: all of it is collected.
        stall_s: how long a client may stop reading.
        clock: monotonic seconds.
        on_over: called once, when the exchange is over: ended, failed or aborted.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_body_meter",
        "_chunked",
        "_client",
        "_clock",
        "_collect_bytes_max",
        "_finished",
        "_head",
        "_is_slow",
        "_late",
        "_left",
        "_on_over",
        "_owed",
        "_pending_head",
        "_stall_s",
        "answer_bytes_max",
        "connection",
        "dry_since",
        "ending",
        "error",
        "first_byte_at",
        "gate",
        "headers",
        "is_over",
        "meter",
        "on_news",
        "status",
        "streaming",
        "whole",
    )

    def __init__(
        self,
        client: ClientPort,
        meter: StreamMeter | None,
        head: AnswerHead,
        answer_bytes_max: int,
        collect_bytes_max: int,
        body_meter: Callable[[], StreamMeter] | None,
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
        self._chunked = False
        self._left = False
        self._owed = 0  # bytes that a client with a content-length still waits for
        self._collect_bytes_max = collect_bytes_max
        self._body_meter = body_meter
        self.answer_bytes_max = answer_bytes_max
        self.meter = meter
        self.connection: UpstreamConnection | None = None
        self.status = 0
        self.headers: Headers = []
        self.streaming = False  # relayed as it comes ...
        self.whole = False  # ... though it is no stream of events
        self.error: UpstreamError | None = None
        self.first_byte_at: float | None = None
        self.is_over = False
        self._finished: asyncio.Future[None] | None = None
        self.gate: Gate | None = None
        self.on_news: Callable[[], None] | None = None  # told when the gate asks for more
        self.dry_since: float | None = None  # since when the gate keeps something back
        self.ending: bytes | None = None  # what ends a stream that was cut
        self._is_slow = False  # the client has not caught up
        self._late: tuple[UpstreamError | None] | None = None  # how the exchange ended while something was kept back

    # The upstream's side

    def on_head(self, status: int, headers: Headers) -> None:
        """Decide between relaying and collecting."""
        self.status = status
        self.headers = headers
        if self.meter is not None and status == OK and _is_event_stream(headers):
            self.streaming = True
            self._chunked = self._client.chunked
            self._pending_head = self._head(headers, whole=False, length=None)
            self._client.attach(self)

    def on_data(self, data: bytes) -> None:
        """Pass on a piece, or collect it."""
        if not self.streaming:
            self._collect(data)
            return
        self._pass(data if self.gate is None else self._gated(self.gate, data))

    def _gated(self, gate: Gate, data: bytes) -> bytes:
        data = gate.take(data)
        if gate.has_news:
            gate.has_news = False
            if gate.is_shut and self.dry_since is None:
                self.dry_since = self._clock()
                self._hold_back()
            if not gate.is_asking and self.on_news is not None:
                self.on_news()
        return data

    def _pass(self, data: bytes) -> None:
        out = self.meter.feed(data)  # type: ignore[union-attr]
        if out:
            if self.first_byte_at is None:
                self.first_byte_at = self._clock()
            if self._owed:
                self._owed -= len(out)
            elif self._chunked:
                out = b"%x\r\n%b\r\n" % (len(out), out)
        if self._pending_head:
            out = self._pending_head + out
            self._pending_head = b""
        if out and not self._left:
            self._client.write(out)  # a client that is gone is noticed by its own connection

    def on_end(self) -> None:
        """The answer is whole."""
        if self.gate is not None:
            self._end_gated(None)
        else:
            self._end(None)

    def on_failure(self, error: UpstreamError) -> None:
        """The exchange failed."""
        if self.gate is not None:
            self._end_gated(error)
        else:
            self._end(error)

    def _end_gated(self, error: UpstreamError | None) -> None:
        """End with what the gate keeps back, once that has passed or is given up."""
        if self.dry_since is not None:
            self._late = (error,)
            self.connection = None  # it may carry another exchange now
            return
        if self.streaming and self.gate is not None and (rest := self.gate.rest()):
            self._pass(rest)
        self._end(error)

    def _collect(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > self._collect_bytes_max and self._body_meter is not None and self.status == OK:
            self._relay_whole(self._body_meter(), b"".join([*self._body, data]))
        elif self._body_bytes > self.answer_bytes_max:
            self.abort()
            self._end(UpstreamError(FailureKind.TOO_LARGE))
        elif data:
            self._body.append(data)

    def _relay_whole(self, meter: StreamMeter, begun: bytes) -> None:
        """Pass on, from its beginning, an answer that turns out too large to be collected.

        Until here an upstream that fails is told of with the documented error; from here on the client is cut.
        """
        self._body.clear()
        self.meter = meter
        self.streaming = self.whole = True
        if not self._left:
            length = _length(self.headers)
            self._owed = length or 0
            self._chunked = length is None and self._client.chunked
            self._pending_head = self._head(self.headers, whole=True, length=length)
            self._client.attach(self)
        self.on_data(begun)

    def _end(self, error: UpstreamError | None) -> None:
        self.error = error
        self.is_over = True
        self._over()
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    # The client's side

    def pause(self) -> None:
        """The client reads slower than the upstream sends: stop the upstream, not the memory."""
        self._is_slow = True
        self._hold_back()

    def resume(self) -> None:
        """The client has caught up."""
        self._is_slow = False
        self._go_on()

    def _hold_back(self) -> None:
        if self.connection is not None and not self._left:
            self.connection.pause_reading(self._stall_s, self._give_up_client if self.whole else None)

    def _go_on(self) -> None:
        if self.connection is not None and self.dry_since is None and not self._is_slow:
            self.connection.resume_reading()

    def _give_up_client(self) -> None:
        """The client has not caught up in time. What it asked for runs to its end, as if it had left."""
        self.leave()
        self._client.abort()

    # The gateway's side

    @property
    def body(self) -> bytes:
        """The collected answer."""
        return self._body[0] if len(self._body) == 1 else b"".join(self._body)

    def over(self) -> "asyncio.Future[None]":
        """Return what is done when the answer is whole or has failed; to be asked for again after a cancellation."""
        self._finished = finished = asyncio.get_running_loop().create_future()
        if self.is_over:
            finished.set_result(None)
        return finished

    def go_on(self) -> None:
        """The hold reaches further, or no more is asked for at present: pass on what the gate lets pass now."""
        gate = self.gate
        if gate is None or self.is_over:
            return
        if data := gate.release():
            self._pass(data)
        if gate.is_shut:
            return
        if self.dry_since is not None:
            self.dry_since = None
            if self._late is not None:
                self._end_gated(self._late[0])
            else:
                self._go_on()

    def cut(self, ending: bytes) -> None:
        """End the stream here, with these events: the upstream is left, and what the gate keeps back is dropped."""
        connection = self.connection
        self.ending = ending
        self._end(None)
        if connection is not None:
            connection.abort()

    def leave(self) -> None:
        """Go on without the client: take the rest of the answer, for what it says of its usage, and drop it."""
        self._left = True
        self._client.attach(None)
        self.resume()

    def abort(self) -> None:
        """Leave the upstream: it sees its client go and stops generating."""
        connection = self.connection
        self._over()
        if connection is not None:
            connection.abort()

    def _over(self) -> None:
        self.connection = None
        self.gate = self.on_news = None
        if self.streaming:
            self._client.attach(None)
        on_over, self._on_over = self._on_over, None
        if on_over is not None:
            on_over()

    def finish(self, last: bytes) -> None:
        """Write the end of what was relayed, after the call has been committed."""
        is_short = self._owed > len(last)
        if self._chunked:
            last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last) if last else b"0\r\n\r\n"
        if self._pending_head:
            last = self._pending_head + last
            self._pending_head = b""
        self._client.write(last)
        if is_short:  # a meter may leave blanks out that the upstream counted
            self._client.abort()


def _is_event_stream(headers: Headers) -> bool:
    return any(name == b"content-type" and value.lower().startswith(b"text/event-stream") for name, value in headers)


def _length(headers: Headers) -> int | None:
    """Return the length of a body, where its framing says so beforehand."""
    length = None
    for name, value in headers:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            length = int(value)
    return length
