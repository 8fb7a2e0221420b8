"""The customers' listener: HTTP in, HTTP out.

What belongs here: aiohttp's low-level server, reading requests, writing whole answers and the heads of streams. What
does not: what a call means (gateway.py). Nothing of aiohttp is known further in.

Answers are written to the transport in one piece, head and body; aiohttp is then told that everything has been sent.
Its own way (StreamResponse, headers as a dictionary, a writer) costs more than the rest of a call.
"""

import asyncio
import email.utils
import ssl
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from proxy.core.endpoints import ENDPOINTS, Endpoint
from proxy.core.errors import (
    ApiError,
    body_too_large,
    internal,
    invalid_request,
    method_not_allowed,
    request_timeout,
    route_not_found,
)
from proxy.gateway import Answer, Gateway
from proxy.settings.types import ProxySettings
from proxy.upstream.relay import ClientPort, Relay

BACKLOG: Final = 4096
"""aiohttp's default of 128 drops bursts of new connections, which then wait a second for retransmission."""

DRAIN_POLL_S: Final = 0.02
CUT_S: Final = 1.0
"""For the calls that are cut at the end to notice it."""

CLIENT_REQUEST_ID_CHARS_MAX: Final = 128
_BEARER: Final = "bearer "
_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class _DateLine:
    """The Date header, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def now(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = f"date: {email.utils.formatdate(second, usegmt=True)}\r\n".encode()
        return self._line


_date = _DateLine()


def stream_head(port: ClientPort, lines: bytes) -> bytes:
    """Return the head of a streamed answer: the documented type and cache rule, then ``lines``."""
    framing = b"transfer-encoding: chunked\r\n" if port.chunked else b"connection: close\r\n"
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
        + framing
        + _date.now()
        + lines
        + b"\r\n"
    )


class _AlreadySent(web.StreamResponse):
    """What aiohttp is given when the answer is on its way: there is nothing left to prepare or write."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing."""

    async def write_eof(self, data: bytes | bytearray | memoryview = b"") -> None:
        """Do nothing."""


class _Connection(RequestHandler):
    """A client's connection: aiohttp's, with back-pressure passed on and errors in the documented shape."""

    __slots__ = ("_write_buffer_bytes", "relay", "was_cut")

    def __init__(self, write_buffer_bytes: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - aiohttp's own
        super().__init__(*args, **kwargs)
        self._write_buffer_bytes = write_buffer_bytes
        self.relay: Relay | None = None
        self.was_cut = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        super().connection_made(transport)
        if isinstance(transport, asyncio.WriteTransport):
            transport.set_write_buffer_limits(high=self._write_buffer_bytes)

    def close_if_idle(self) -> None:
        """Close unless a request is here or on its way in (aiohttp's own way would also stop reading its body)."""
        if self._waiter is not None and not self._waiter.done() and self.transport is not None:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client does not keep up."""
        super().pause_writing()
        if self.relay is not None:
            self.relay.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self.relay is not None:
            self.relay.resume()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002
        status: int = 500,  # noqa: ARG002
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Answer what is not HTTP in the documented shape; its text may hold a secret, so it is not logged."""
        error = invalid_request("The request is not valid HTTP") if isinstance(exc, HttpProcessingError) else internal()
        if self.transport is not None and not self.was_cut:
            answer = Answer(error.status, b"", error.body)
            self.transport.write(_whole(answer, keep_alive=False))
        return _CLOSE


class _Port:
    """A client's side of one call (``proxy.upstream.relay.ClientPort``)."""

    __slots__ = ("_connection", "chunked")

    def __init__(self, connection: _Connection, *, chunked: bool) -> None:
        self._connection = connection
        self.chunked = chunked

    def write(self, data: bytes) -> bool:
        """Send; False when the client is gone."""
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            return False
        transport.write(data)
        return True

    def attach(self, relay: Relay | None) -> None:
        """Tell this relay of back-pressure from now on."""
        self._connection.relay = relay
        if relay is not None and self._connection.writing_paused:
            relay.pause()

    def abort(self) -> None:
        """Cut the connection, so that what the client has cannot be taken for whole."""
        self._connection.was_cut = True
        if self._connection.transport is not None:
            self._connection.transport.abort()


class _Incoming:
    """A request (``proxy.gateway.Incoming``)."""

    __slots__ = (
        "_body_bytes_max",
        "_body_s",
        "_request",
        "client_request_id",
        "endpoint",
        "port",
        "started_s",
    )

    def __init__(
        self,
        request: web.BaseRequest,
        endpoint: Endpoint,
        port: _Port,
        started_s: float,
        settings: ProxySettings,
    ) -> None:
        self._request = request
        self._body_bytes_max = settings.sizes.body_bytes_max
        self._body_s = settings.timeouts.client_body_s
        self.endpoint = endpoint
        self.port = port
        self.started_s = started_s
        self.client_request_id: str | None = request.headers.get("X-Request-Id")

    def token(self) -> str | None:
        """The bearer token, None when there is none."""
        value = self._request.headers.get("Authorization", "")
        return value[len(_BEARER) :].strip() if value[: len(_BEARER)].lower() == _BEARER else None

    def raw_headers(self) -> Iterable[tuple[bytes, bytes]]:
        """The request's headers as they came."""
        return self._request.raw_headers

    async def body(self) -> bytes:
        """Read the whole body; a client that waits for it is told to go on.

        Raises:
            ApiError: 413 when it is too large, 408 when it takes too long, 400 when it is broken.
        """
        request = self._request
        if (request.content_length or 0) > self._body_bytes_max:
            raise body_too_large(self._body_bytes_max)
        if request.headers.get("Expect", "").lower() == "100-continue":
            self.port.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        content = request.content
        if content.is_eof():  # it came with the head, as most do
            whole = content.read_nowait(-1)
            if len(whole) > self._body_bytes_max:
                raise body_too_large(self._body_bytes_max)
            return whole
        try:
            async with asyncio.timeout(self._body_s):
                return await self._read(content)
        except TimeoutError:
            raise request_timeout() from None
        except (web.RequestPayloadError, HttpProcessingError) as exc:
            raise invalid_request("The request body is broken") from exc

    async def _read(self, content: StreamReader) -> bytes:
        pieces = []
        size = 0
        while piece := await content.readany():
            size += len(piece)
            if size > self._body_bytes_max:
                raise body_too_large(self._body_bytes_max)
            pieces.append(piece)
        return b"".join(pieces)


def _whole(answer: Answer, *, keep_alive: bool) -> bytes:
    """Return a whole answer in one piece."""
    return b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b%b\r\n%b" % (
        _STATUS_LINES.get(answer.status) or b"HTTP/1.1 %d \r\n" % answer.status,
        answer.content_type,
        len(answer.body),
        b"" if keep_alive else b"connection: close\r\n",
        _date.now(),
        answer.lines,
        answer.body,
    )


class _Server(web.Server):
    """aiohttp's low-level server with our connections."""

    write_buffer_bytes = 262_144

    def __call__(self) -> RequestHandler:
        """Return the protocol of a new connection."""
        return _Connection(self.write_buffer_bytes, self, loop=self._loop, **self._kwargs)


class PublicListener:
    """The customers' listener.

    Args:
        gateway: serves calls.
        settings: returns the settings in force.
        clock: monotonic seconds.
    """

    def __init__(self, gateway: Gateway, settings: Callable[[], ProxySettings], clock: Callable[[], float]) -> None:
        self._gateway = gateway
        self._settings = settings
        self._clock = clock
        self._server: _Server | None = None
        self._listener: asyncio.Server | None = None
        self._keep_alive = _AlreadySent(keep_alive=True)
        self._closing = False

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None, *, reuse_port: bool = False) -> int:
        """Listen; return the port. With ``reuse_port`` several processes may share it (SO_REUSEPORT)."""
        settings = self._settings()
        self._server = _Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=settings.timeouts.keepalive_s,
            request_factory=self._request,
        )
        self._server.write_buffer_bytes = settings.sizes.write_buffer_bytes
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            self._server, host, port, ssl=tls, backlog=BACKLOG, reuse_port=reuse_port, reuse_address=True
        )
        return int(self._listener.sockets[0].getsockname()[1])

    @staticmethod
    def _request(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, protocol._loop, client_max_size=0)  # noqa: SLF001

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, _Connection)
        started_s = self._clock()
        keep_alive = request.keep_alive
        chunked = request.version >= (1, 1)
        try:
            endpoint = self._route(request)
        except ApiError as error:
            answer: Answer | None = Answer(error.status, b"", error.body)
        else:
            port = _Port(connection, chunked=chunked)
            answer = await self._gateway.serve(_Incoming(request, endpoint, port, started_s, self._settings()))
        if answer is None:
            keep_alive = keep_alive and chunked and not connection.was_cut and not self._closing
            return self._keep_alive if keep_alive else _CLOSE
        if self._closing or not request.content.is_eof():
            keep_alive = False  # what is still to come of the body is not the next request
        if connection.transport is not None:
            connection.transport.write(_whole(answer, keep_alive=keep_alive))
        return self._keep_alive if keep_alive else _CLOSE

    @staticmethod
    def _route(request: web.BaseRequest) -> Endpoint:
        endpoint = ENDPOINTS.get(request.path)
        if endpoint is None:
            raise route_not_found()
        if request.method != endpoint.method:
            raise method_not_allowed()
        return endpoint

    def stop_accepting(self) -> None:
        """Close the listening socket; open connections are closed once the call on them has been answered."""
        self._closing = True
        if self._listener is not None:
            self._listener.close()

    async def close(self, timeout_s: float) -> None:
        """Wait until calls in flight have been answered, to the last byte; then cut what is left."""
        self.stop_accepting()
        if self._server is None:
            return
        deadline_s = self._clock() + timeout_s
        while self._server.connections and self._clock() < deadline_s:
            for connection in self._server.connections:
                assert isinstance(connection, _Connection)
                connection.close_if_idle()
            await asyncio.sleep(DRAIN_POLL_S)
        await self._server.shutdown(CUT_S)



_CLOSE = _AlreadySent(keep_alive=False)
