"""Connections to the upstreams, kept for reuse.

What belongs here: opening, keeping, bounding and expiring connections, and passive health. What does not: bytes
(connection.py), answers (relay.py), and waiting for a place (queue.py).
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from proxy.core.catalogue import Upstream
from proxy.core.fairness import Pace
from proxy.settings.types import QueueSettings, Timeouts
from proxy.upstream.connection import Sink, UpstreamConnection
from proxy.upstream.failures import FailureKind, UpstreamError
from proxy.upstream.queue import Line, Queue

SWEEP_S = 0.5
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 10.0


class UpstreamPool:
    """The connections to one upstream: last used, first reused, so that few stay busy and the rest can expire.

    Args:
        upstream: where to.
        timeouts: returns those in force: to connect, to the first byte, between bytes, to keep an idle connection.
        clock: monotonic seconds.
        queue: gets the places that become free while calls wait for them.

    Attributes:
        in_flight: calls that have a place: counted up by whoever takes one, down by ``ended``.
        places: how many places there are: the upstream's ``in_flight_max``, less those that are closed for a moment.
        lines: those in which calls wait for a place.
        pace: how fast places become free while calls wait.
    """

    def __init__(
        self,
        upstream: Upstream,
        timeouts: Callable[[], Timeouts],
        clock: Callable[[], float],
        queue: "Queue[UpstreamPool]",
    ) -> None:
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
        self._queue = queue
        self.in_flight = 0
        self.places = upstream.in_flight_max
        self.lines: list[Line[UpstreamPool]] = []
        self.pace = Pace()

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

    def ended(self) -> None:
        """Give a place back: the exchange is over, however it ended."""
        self.in_flight -= 1
        if self.lines:
            self._queue.freed(self)

    def begin(self, sink: Sink, request: bytes) -> UpstreamConnection | None:
        """Send at once over an idle connection, from the place that has been taken; None when there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                self._begin(connection, sink, request)
                return connection
        return None

    async def begin_fresh(self, sink: Sink, request: bytes) -> UpstreamConnection:
        """Open a connection and send over it, from the place that has been taken; a failure gives the place back.

        Raises:
            UpstreamError: it cannot be reached.
        """
        try:
            connection = await self._connect()
            self._begin(connection, sink, request)
        except BaseException:
            self.ended()
            raise
        return connection

    def _begin(self, connection: UpstreamConnection, sink: Sink, request: bytes) -> None:
        timeouts = self._timeouts()
        connection.begin(sink, request, timeouts.first_byte_s, timeouts.idle_s)

    def turned_away(self) -> None:
        """It is busy, or cannot be reached: while calls wait, one place is closed until the next sweep.

        Else every call that waits would be sent there, and turned away, as fast as it can say so.
        """
        if self.lines and self.places:
            self.places -= 1

    def adopt(self, upstream: Upstream) -> None:
        """Take over what a reload has changed of an upstream that is still the same."""
        self.upstream = upstream
        self._open_places()

    def _open_places(self) -> None:
        self.places = self.upstream.in_flight_max
        if self.lines:
            self._queue.hand_over(self)

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
        """End exchanges whose deadline has passed, close connections that were idle for too long, open all places."""
        now = self._clock()
        keepalive_s = self._timeouts().keepalive_s
        idle = set(self._idle)
        for connection in list(self._open):
            if connection in idle:
                if connection.idle_since + keepalive_s < now:
                    connection.close()
            elif connection.deadline < now:
                connection.expire()
        if self.places != self.upstream.in_flight_max:
            self._open_places()

    def close(self) -> None:
        """Close every connection; exchanges under way are cut."""
        for connection in list(self._open):
            connection.abort()


class UpstreamPools:
    """The pools of every upstream, the queue before them, and the one task that watches their deadlines.

    Args:
        timeouts: returns those in force.
        clock: monotonic seconds.
        queue_settings: returns those in force.

    Attributes:
        queue: where calls wait for a place.
    """

    def __init__(
        self,
        timeouts: Callable[[], Timeouts],
        clock: Callable[[], float],
        queue_settings: Callable[[], QueueSettings] = QueueSettings,
    ) -> None:
        self._timeouts = timeouts
        self._clock = clock
        self._pools: dict[Upstream, UpstreamPool] = {}
        self.queue: Queue[UpstreamPool] = Queue(queue_settings, clock)

    def of(self, upstream: Upstream) -> UpstreamPool:
        """Return the pool of an upstream, made when first asked for (a reload may bring new ones)."""
        pool = self._pools.get(upstream)
        return pool if pool is not None else self._find(upstream)

    def _find(self, upstream: Upstream) -> UpstreamPool:
        """Return the pool of an upstream that other settings named, as a call from before a reload does; or make it."""
        place = _place(upstream)
        for pool in self._pools.values():
            if _place(pool.upstream) == place:
                return pool
        pool = self._pools[upstream] = UpstreamPool(upstream, self._timeouts, self._clock, self.queue)
        return pool

    def all(self) -> list[UpstreamPool]:
        """Return every pool."""
        return list(self._pools.values())

    async def watch(self) -> None:
        """Sweep until cancelled: one timer for all exchanges is cheaper than a timer for each."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for pool in self.all():
                pool.sweep()

    def retain(self, upstreams: set[Upstream]) -> None:
        """After a reload: one pool for one server, whatever else has changed of it; forget those that are gone.

        A pool that is gone is closed once nothing is in flight there: by the next reload after that.
        """
        present = {_place(upstream): upstream for upstream in upstreams}
        for upstream, pool in list(self._pools.items()):
            adopted = present.get(_place(upstream))
            if adopted is not None and adopted != upstream:
                del self._pools[upstream]
                self._pools[adopted] = pool
                pool.adopt(adopted)
            elif adopted is None and not pool.in_flight and not pool.lines:
                pool.close()
                del self._pools[upstream]

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()


def _place(upstream: Upstream) -> Upstream:
    """Return what of an upstream decides where its connections lead, and with which key."""
    return msgspec.structs.replace(upstream, in_flight_max=0, priority_field=False)
