"""Connections to the upstreams, kept for reuse.

What belongs here: opening, keeping, bounding and expiring connections, and passive health. What does not: bytes
(connection.py) and answers (relay.py).
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from proxy.core.catalogue import Upstream
from proxy.settings.types import Timeouts
from proxy.upstream.connection import Sink, UpstreamConnection
from proxy.upstream.failures import FailureKind, UpstreamError

SWEEP_S = 0.5
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 10.0


class UpstreamPool:
    """The connections to one upstream: last used, first reused, so that few stay busy and the rest can expire.

    Args:
        upstream: where to.
        timeouts: returns those in force: to connect, to the first byte, between bytes, to keep an idle connection.
        clock: monotonic seconds.
    """

    def __init__(self, upstream: Upstream, timeouts: Callable[[], Timeouts], clock: Callable[[], float]) -> None:
        parts = urlsplit(upstream.url)
        self.upstream = upstream
        self.path_prefix = parts.path.rstrip("/").encode()
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self.authority = parts.netloc.rpartition("@")[2]
        self.own_lines = b"host: %b\r\naccept-encoding: identity\r\n" % self.authority.encode("ascii")
        if upstream.api_key is not None:
            self.own_lines += b"authorization: Bearer %b\r\n" % upstream.api_key.encode()
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._timeouts = timeouts
        self._clock = clock
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._down_until = 0.0
        self._backoff_s = 0.0
        self.in_flight = 0

    @property
    def is_suspect(self) -> bool:
        """Whether the last attempt to reach it failed a moment ago: others are tried first."""
        return self._clock() < self._down_until

    @property
    def connections(self) -> int:
        """How many connections are open, busy or idle."""
        return len(self._open)

    @property
    def first_byte_s(self) -> float:
        """How long an upstream that has been sent everything may take to begin its answer."""
        return self._timeouts().first_byte_s

    def begin(self, sink: Sink, request: bytes) -> UpstreamConnection | None:
        """Send at once over an idle connection; None when there is none.

        Raises:
            UpstreamError: it is saturated.
        """
        self._check_capacity()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                self.in_flight += 1  # counted down by ``ended``
                self._begin(connection, sink, request)
                return connection
        return None

    async def begin_fresh(self, sink: Sink, request: bytes) -> UpstreamConnection:
        """Open a connection and send over it.

        Raises:
            UpstreamError: it is saturated, or cannot be reached.
        """
        self._check_capacity()
        self.in_flight += 1
        try:
            connection = await self._connect()
            self._begin(connection, sink, request)
        except BaseException:
            self.in_flight -= 1
            raise
        return connection

    def _begin(self, connection: UpstreamConnection, sink: Sink, request: bytes) -> None:
        timeouts = self._timeouts()
        connection.begin(sink, request, timeouts.first_byte_s, timeouts.idle_s)

    def ended(self) -> None:
        """Count down what ``begin`` or ``begin_fresh`` counted up: the exchange is over, however it ended."""
        self.in_flight -= 1

    def _check_capacity(self) -> None:
        if self.in_flight >= self.upstream.in_flight_max:
            raise UpstreamError(FailureKind.SATURATED, self.upstream.name)

    async def _connect(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeouts().connect_s):
                _, connection = await loop.create_connection(
                    lambda: UpstreamConnection(self._became_idle, self._lost, self._clock),
                    self._host,
                    self._port,
                    ssl=self._ssl,
                )
        except (OSError, TimeoutError, ssl.SSLError) as exc:
            self._backoff_s = min(BACKOFF_MAX_S, self._backoff_s * 2 or BACKOFF_FIRST_S)
            self._down_until = self._clock() + self._backoff_s
            raise UpstreamError(FailureKind.UNREACHABLE, type(exc).__name__) from exc
        self._backoff_s = self._down_until = 0.0
        if not connection.is_open:  # closed again before we could say anything
            raise UpstreamError(FailureKind.CLOSED, "at once")
        self._open.add(connection)
        return connection

    def _became_idle(self, connection: UpstreamConnection) -> None:
        connection.idle_since = self._clock()
        self._idle.append(connection)

    def _lost(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def sweep(self) -> None:
        """End exchanges whose deadline has passed and close connections that were idle for too long."""
        now = self._clock()
        keepalive_s = self._timeouts().keepalive_s
        idle = set(self._idle)
        for connection in list(self._open):
            if connection in idle:
                if connection.idle_since + keepalive_s < now:
                    connection.close()
            elif connection.deadline < now:
                connection.expire()

    def close(self) -> None:
        """Close every connection; exchanges under way are cut."""
        for connection in list(self._open):
            connection.abort()


class UpstreamPools:
    """The pools of every upstream, by name, and the one task that watches their deadlines."""

    def __init__(self, timeouts: Callable[[], Timeouts], clock: Callable[[], float]) -> None:
        self._timeouts = timeouts
        self._clock = clock
        self._pools: dict[Upstream, UpstreamPool] = {}

    def of(self, upstream: Upstream) -> UpstreamPool:
        """Return the pool of an upstream, made when first asked for (a reload may bring new ones)."""
        pool = self._pools.get(upstream)
        if pool is None:
            pool = self._pools[upstream] = UpstreamPool(upstream, self._timeouts, self._clock)
        return pool

    def all(self) -> list[UpstreamPool]:
        """Return every pool."""
        return list(self._pools.values())

    async def watch(self) -> None:
        """Sweep until cancelled: one timer for all exchanges is cheaper than a timer for each."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for pool in self._pools.values():
                pool.sweep()

    def retain(self, upstreams: set[Upstream]) -> None:
        """After a reload: forget the pools of upstreams that are gone, once nothing is in flight there."""
        for upstream, pool in list(self._pools.items()):
            if upstream not in upstreams and not pool.in_flight:
                pool.close()
                del self._pools[upstream]

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()
