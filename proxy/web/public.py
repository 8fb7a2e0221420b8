"""The customers' listener: what is told of a request to whoever answers it.

What belongs here: what gateway and views are told, and answers that need neither. What does not: what a call means
(gateway.py), which request is one (routes.py), bytes and framing (http.py, exchange.py).
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

from proxy.core.audio import DurationMeter
from proxy.core.calls import Form
from proxy.core.endpoints import Endpoint
from proxy.core.errors import method_not_allowed, route_not_found
from proxy.gateway import Gateway
from proxy.incoming import Answer
from proxy.settings.types import ProxySettings
from proxy.telemetry.logs import log_failure
from proxy.upstream.relay import ClientPort
from proxy.views.contract import BODY_BYTES_MAX, Asked
from proxy.views.desk import Views
from proxy.web.connections import Connections
from proxy.web.cors import answer_lines, is_allowed, preflight_lines
from proxy.web.exchange import Exchange, date
from proxy.web.forms import FormReader
from proxy.web.http import Connection
from proxy.web.routes import Route, find_route
from proxy.web.sending import send
from proxy.web.spool import Spool
from proxy.web.uploads import read_form, reader_of

BACKLOG: Final = 4096
"""asyncio's default of 100 drops bursts of new connections, which then wait a second for retransmission."""

SWEEP_S: Final = 1.0
CUT_S: Final = 1.0
"""For the calls that are cut at the end to notice it."""

CLIENT_REQUEST_ID_CHARS_MAX: Final = 128
SPOOL_FOLDER: Final = "spool"
"""Of the state folder."""
NO_CONTENT: Final = 204
_BEARER: Final = b"bearer "
_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
)
_WHOLE_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def stream_head(port: ClientPort, lines: bytes, *, whole: bool = False, length: int | None = None) -> bytes:
    """Return the head of an answer that is relayed as it comes: the documented type, then ``lines``.

    Args:
        port: where it goes.
        lines: header lines beyond type, framing and date.
        whole: whether it is an answer too large for memory, in JSON, rather than a stream of events.
        length: of its body, where that is known.
    """
    framing = b"" if length is None else b"content-length: %d\r\n" % length
    if not port.chunked:
        framing += b"connection: close\r\n"
    elif length is None:
        framing = b"transfer-encoding: chunked\r\n"
    return (_WHOLE_HEAD if whole else _STREAM_HEAD) + framing + date.now() + lines + port.lines + b"\r\n"


class _Incoming:
    """A request (``proxy.gateway.Incoming``)."""

    __slots__ = ("_form", "_settings", "_spool", "client_request_id", "endpoint", "port", "started_s")

    def __init__(
        self, exchange: Exchange, endpoint: Endpoint, started_s: float, settings: ProxySettings, spool: Spool
    ) -> None:
        self.port = exchange
        self.endpoint = endpoint
        self.started_s = started_s
        self._settings = settings
        self._spool = spool
        self._form: FormReader | None = None
        self.client_request_id = _client_request_id(exchange)

    def token(self) -> str | None:
        """The bearer token, None when there is none."""
        return _token(self.port)

    def wants_fit(self) -> bool:
        """Whether its client would rather have less output than a refusal."""
        value = self.port.noted.get(b"x-ratelimit-fit")
        return value is not None and value.lower() == b"true"

    def raw_headers(self) -> Iterable[tuple[bytes, bytes]]:
        """The request's headers: names in lower case, values as they came."""
        return self.port.headers

    def body(self) -> Awaitable[bytes]:
        """Read the whole body; a client that waits for it is told to go on. Raises ApiError (400, 408, 413)."""
        return self.port.body(self._settings.sizes.body_bytes_max, self._settings.timeouts.client_body_s)

    async def form(self) -> Form:
        """Read the whole body as a form. Raises ApiError (400, 408, 413, 503)."""
        exchange, settings = self.port, self._settings
        reader = self._form = reader_of(exchange, self._spool, DurationMeter)
        return await reader.read(exchange.pieces(settings.sizes.upload_bytes_max, settings.timeouts.client_body_s))

    def close(self) -> None:
        """Let go of what the request has left on disk."""
        if self._form is not None:
            self._form.close()


async def _answered() -> None:
    """Stand for an answer that has been written."""


def _token(exchange: Exchange) -> str | None:
    value = exchange.noted.get(b"authorization", b"")
    if value[: len(_BEARER)].lower() != _BEARER:
        return None
    return value[len(_BEARER) :].strip().decode("latin-1")  # any bytes are text in it: a wrong key, not a failure


def _client_request_id(exchange: Exchange) -> str | None:
    name = exchange.noted.get(b"x-request-id")
    return None if name is None else name[:CLIENT_REQUEST_ID_CHARS_MAX].decode("utf-8", "replace")


class PublicListener:
    """The customers' listener.

    Args:
        gateway: serves calls.
        views: answers what is no call.
        settings: returns the settings in force.
        clock: monotonic seconds.

    Attributes:
        spool: where uploads wait for their upstream.
    """

    def __init__(
        self, gateway: Gateway, views: Views, settings: Callable[[], ProxySettings], clock: Callable[[], float]
    ) -> None:
        self._gateway = gateway
        self._views = views
        self._settings = settings
        self._clock = clock
        self._server: Connections | None = None
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self.spool = Spool(
            Path(settings().state_dir) / SPOOL_FOLDER, lambda: settings().sizes.spool_bytes_max, log_failure
        )

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None, *, reuse_port: bool = False) -> int:
        """Listen; return the port. With ``reuse_port`` several processes may share it (SO_REUSEPORT)."""
        settings = self._settings()
        server = self._server = Connections(
            self._handle,
            log_failure,
            self._clock,
            settings.timeouts.keepalive_s,
            settings.sizes.write_buffer_bytes,
        )
        self._listener = await asyncio.get_running_loop().create_server(
            lambda: Connection(server), host, port, ssl=tls, backlog=BACKLOG, reuse_port=reuse_port, reuse_address=True
        )
        self._sweep()
        return int(self._listener.sockets[0].getsockname()[1])

    def _sweep(self) -> None:
        assert self._server is not None
        self._server.sweep()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _handle(self, exchange: Exchange) -> Awaitable[Answer | None]:
        """Return what answers a request: no coroutine of its own stands between a call and its task."""
        started_s = self._clock()
        settings = self._settings()
        origin = exchange.noted.get(b"origin")
        if origin is not None:
            exchange.lines = answer_lines(settings.cors_origins, origin)
        route = find_route(exchange)
        if route is None:
            error = route_not_found()
            exchange.answer(error.status, b"application/json", b"", error.body)
        elif exchange.method not in route.methods:
            error = method_not_allowed()
            exchange.answer(error.status, b"application/json", b"allow: %b\r\n" % route.allow, error.body)
        elif exchange.method == b"OPTIONS":
            self._say_options(exchange, route, settings)
        elif route.endpoint is not None:
            return self._gateway.serve(_Incoming(exchange, route.endpoint, started_s, settings, self.spool))
        else:
            assert route.view is not None
            asked = Asked(
                route.view,
                route.name,
                _token(exchange),
                started_s,
                _client_request_id(exchange),
                exchange.method,
                exchange.target.partition(b"?")[2],
                partial(exchange.body, BODY_BYTES_MAX, settings.timeouts.client_body_s),
                partial(read_form, exchange, self.spool, settings.timeouts.client_body_s),
            )
            return self._view(exchange, asked, settings.timeouts.client_stall_s)
        return _answered()

    async def _view(self, exchange: Exchange, asked: Asked, stall_s: float) -> Answer | None:
        answer = await self._views.serve(asked)
        if answer.pieces is None:
            return answer
        await send(exchange, answer, answer.pieces, stall_s)
        return None

    def _say_options(self, exchange: Exchange, route: Route, settings: ProxySettings) -> None:
        """Say what may be asked of a route; to a browser, that pages of an allowed origin may ask it (a preflight)."""
        lines = b"allow: %b\r\n" % route.allow
        origin = exchange.noted.get(b"origin")
        if origin is not None and is_allowed(settings.cors_origins, origin):
            lines += preflight_lines(exchange.headers, route.allow)
        exchange.answer(NO_CONTENT, b"", lines, b"")

    def stop_accepting(self) -> None:
        """Close the listening socket and idle connections; others are closed once their call has been answered."""
        if self._listener is not None:
            self._listener.close()
        if self._server is not None:
            self._server.close_idle()

    async def close(self, timeout_s: float) -> None:
        """Wait until calls in flight have been answered, to the last byte; then cut what is left."""
        self.stop_accepting()
        if self._server is None:
            return
        await self._server.close(timeout_s, CUT_S)
        if self._sweeper is not None:
            self._sweeper.cancel()
