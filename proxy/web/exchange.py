"""One request and the answer to it.

What belongs here: a request's head, its body as it comes in, and how an answer is written. What does not: the
connection (http.py), and what a request means (public.py).
"""

import asyncio
import email.utils
import time
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Final, Protocol

from proxy.core.errors import body_too_large, invalid_request, request_timeout
from proxy.web.encodings import decoded

UNASKED_BYTES_MAX: Final = 262_144
"""What is taken of a body that nobody has asked for yet."""
STEP_BYTES: Final = 8_388_608
"""Of a body that is taken in pieces, what a client has the time of a whole body for."""

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_NO_CONTENT: Final = 204
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE: Final = b"connection: close\r\n"
_KEEP: Final = b"connection: keep-alive\r\n"


class DateLine:
    """The Date header, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def now(self) -> bytes:
        """Return the line."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = f"date: {email.utils.formatdate(second, usegmt=True)}\r\n".encode()
        return self._line


date = DateLine()


def whole_answer(status: int, content_type: bytes, connection: bytes, lines: bytes, body: bytes) -> bytes:
    """Return a whole answer in one piece; ``connection`` and ``lines`` are header lines."""
    return answer_head(status, content_type, len(body), connection, lines) + body


def answer_head(status: int, content_type: bytes, size_bytes: int, connection: bytes, lines: bytes) -> bytes:
    """Return the head of an answer with a body of so many bytes."""
    return b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b%b\r\n" % (
        _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status,
        content_type,
        size_bytes,
        connection,
        date.now(),
        lines,
    )


def bare_answer(status: int, connection: bytes, lines: bytes) -> bytes:
    """Return an answer whose status says that it has no body: then it has no type and no length (RFC 9110, 8.6)."""
    return b"%b%b%b%b\r\n" % (_STATUS_LINES[status], connection, date.now(), lines)


def last_answer(status: int, body: bytes) -> bytes:
    """Return a whole answer after which the connection is closed."""
    return whole_answer(status, b"application/json", _CLOSE, b"", body)


class Pausable(Protocol):
    """What produces a stream, as far as back-pressure goes."""

    def pause(self) -> None:
        """The client does not keep up."""

    def resume(self) -> None:
        """The client has caught up."""


class Carrier(Protocol):
    """The connection, as far as one exchange on it needs it."""

    transport: asyncio.Transport | None
    current: "Exchange | None"
    producer: Pausable | None
    writing_paused: bool

    @property
    def is_closing(self) -> bool:
        """Whether no further request will be taken."""

    def post(self, data: bytes) -> None:
        """Send at the end of this turn of the event loop, with what others have to send."""

    def hold_reading(self) -> None:
        """Take nothing more from the client for now."""

    def go_on_reading(self) -> None:
        """Take more from the client."""


class Exchange:
    """A request, and the way back to whoever made it (``proxy.upstream.relay.ClientPort``).

    Args:
        carrier: its connection.
        method: as sent.
        target: request target as sent, with its query.
        headers: names in lower case, values as sent.
        noted: those of the headers that mean something to the server itself, the first of each name.
        keep_alive: whether the client would make another request on this connection.
        chunked: whether the client understands chunked transfer coding (HTTP/1.1).

    Attributes:
        lines: header lines that any answer to this request ends with, whoever makes it.
    """

    __slots__ = (
        "_bytes_max",
        "_carrier",
        "_first",
        "_more",
        "_size",
        "_waiter",
        "answered_whole",
        "began",
        "broken",
        "chunked",
        "complete",
        "headers",
        "keep_alive",
        "lines",
        "method",
        "noted",
        "target",
    )

    def __init__(
        self,
        carrier: Carrier,
        method: bytes,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        noted: dict[bytes, bytes],
        *,
        keep_alive: bool,
        chunked: bool,
    ) -> None:
        self._carrier = carrier
        self.method = method
        self.target = target
        self.headers = headers
        self.noted = noted
        self.keep_alive = keep_alive
        self.chunked = chunked
        self.lines = b""
        self.complete = False
        self.broken = False
        self.began = False  # the answer
        self.answered_whole = False  # rather than streamed
        self._first = b""
        self._more: bytearray | None = None
        self._size = 0
        self._bytes_max: int | None = None
        self._waiter: asyncio.Future[None] | None = None

    # The connection's side

    def take(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._size += len(data)
        if self._bytes_max is not None and self._size > self._bytes_max:
            self.drop()
            self._wake()
        elif self._more is not None:
            self._more += data
        elif self._first:  # one buffer, not a list: a body in chunks of one byte must not take fifty times its size
            self._more = bytearray(self._first)
            self._more += data
        else:
            self._first = data
        if self._bytes_max is None:  # nobody has asked for all of it
            if self._size > UNASKED_BYTES_MAX:
                self._carrier.hold_reading()
            if self._waiter is not None:
                self._wake()

    def drop(self) -> None:
        """Keep nothing of the body, also of what is still to come."""
        self._first = b""
        self._more = None
        self._bytes_max = -1

    def end(self, *, broken: bool = False) -> None:
        """Take note that the body is whole, or that it never will be."""
        self.complete = not broken
        self.broken = broken
        if self._waiter is not None:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The request

    @property
    def persists(self) -> bool:
        """Whether the connection may go on after the answer; a stream to HTTP/1.0 ends by its end."""
        return self.keep_alive and (self.chunked or self.answered_whole)

    @property
    def path(self) -> bytes:
        """The target without its query; of an absolute one, what follows the host. Nothing is decoded."""
        path = self.target.partition(b"?")[0]
        if path.startswith(b"/"):
            return path
        scheme, _, rest = path.partition(b"://")
        return rest[rest.find(b"/") :] if scheme.lower() in {b"http", b"https"} and b"/" in rest else path

    async def body(self, bytes_max: int, timeout_s: float) -> bytes:
        """Return the whole body, once; a client that waits to be asked for it is told to go on.

        Raises:
            ApiError: 413 when it is too large, 408 when it takes too long, 400 when it is broken.
        """
        length = self.noted.get(b"content-length")
        if length is not None and int(length) > bytes_max:
            raise body_too_large(bytes_max)
        if not self.complete and not self.broken and self._size <= bytes_max:
            self._bytes_max = bytes_max
            self._go_on()
            await self._more_to_come(timeout_s)
        if self._size > bytes_max:
            raise body_too_large(bytes_max)
        if self.broken:
            raise invalid_request("The request body is broken")
        if self._size > UNASKED_BYTES_MAX:
            self._carrier.go_on_reading()  # a client that is held cannot be seen to leave
        whole = self._first if self._more is None else bytes(self._more)
        self.drop()
        coding = self.noted.get(b"content-encoding")
        return whole if coding is None else await decoded(whole, coding, bytes_max)

    async def pieces(self, bytes_max: int, timeout_s: float) -> AsyncGenerator[bytes, None]:
        """Return the body as it comes, instead of ``body``: the client is paused while whoever asks is busy.

        A piece is no larger than ``UNASKED_BYTES_MAX`` and what one read brings. ``timeout_s`` is for each started
        ``STEP_BYTES``. To be closed by whoever does not take it to its end.

        Raises:
            ApiError: 413 when it is too large, 408 when it takes too long, 400 when it is broken.
        """
        length = self.noted.get(b"content-length")
        if length is not None and int(length) > bytes_max:
            raise body_too_large(bytes_max)
        now = asyncio.get_running_loop().time
        started_s = now()
        total = 0
        while True:
            if not self._size and not self.complete and not self.broken:
                self._go_on()
                await self._more_to_come(started_s + timeout_s * (1 + total // STEP_BYTES) - now())
            piece = self._first if self._more is None else bytes(self._more)
            if not piece:
                self._carrier.go_on_reading()  # a client that is held cannot be seen to leave
                break
            self._first, self._more, self._size = b"", None, 0
            total += len(piece)
            if total > bytes_max:
                raise body_too_large(bytes_max)
            yield piece
        if self.broken:
            raise invalid_request("The request body is broken")

    def _go_on(self) -> None:
        """Take more of the body; a client that waits to be asked for it is told so, once."""
        carrier = self._carrier
        if not self._size and self.chunked and self.noted.pop(b"expect", b"").lower() == b"100-continue":
            transport = carrier.transport
            if transport is not None and not transport.is_closing():
                transport.write(_CONTINUE)
        carrier.go_on_reading()

    async def _more_to_come(self, timeout_s: float) -> None:
        """Wait to be woken. Raises ApiError (408)."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._waiter
        except TimeoutError:
            raise request_timeout() from None
        finally:
            self._waiter = None

    # The answer

    def answer(self, status: int, content_type: bytes, lines: bytes, body: bytes) -> None:
        """Write a whole answer; ``lines`` are header lines beyond type, length, connection and date.

        A 204 has no body, and no type.
        """
        if self.began:
            self.abort()  # a second answer would be taken for a part of the first
            return
        keep = self.keep_alive = self.keep_alive and self.complete and not self._carrier.is_closing
        connection = (b"" if self.chunked else _KEEP) if keep else _CLOSE
        if self.lines:
            lines += self.lines
        if status == _NO_CONTENT:
            data = bare_answer(status, connection, lines)
        else:
            data = whole_answer(status, content_type, connection, lines, body)
        self.answered_whole = True
        if self._carrier.current is self:
            self.began = True
            self._carrier.post(data if self.method != b"HEAD" else data[: len(data) - len(body)])

    def begin(self, status: int, content_type: bytes, lines: bytes, size_bytes: int) -> bool:
        """Write the head of an answer whose body follows, exactly so long; False when the client is gone."""
        keep = self.keep_alive = self.keep_alive and self.complete and not self._carrier.is_closing
        connection = (b"" if self.chunked else _KEEP) if keep else _CLOSE
        self.answered_whole = True
        return self.write(answer_head(status, content_type, size_bytes, connection, lines + self.lines))

    def write(self, data: bytes) -> bool:
        """Send; False when the client is gone."""
        carrier = self._carrier
        transport = carrier.transport
        if carrier.current is not self or transport is None or transport.is_closing():
            return False
        self.began = True
        transport.write(data)
        return True

    def attach(self, relay: Pausable | None) -> None:
        """Tell this relay of back-pressure from now on."""
        carrier = self._carrier
        if carrier.current is self:
            carrier.producer = relay
            if relay is not None and carrier.writing_paused:
                relay.pause()

    def abort(self) -> None:
        """Cut the connection, so that what the client has cannot be taken for whole."""
        carrier = self._carrier
        if carrier.current is self and carrier.transport is not None:
            carrier.transport.abort()
