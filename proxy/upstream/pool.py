"""Connections to the upstreams, kept for reuse.

What belongs here: opening, keeping, bounding and expiring connections, and passive health. What does not: bytes
(connection.py), answers (relay.py), and waiting for a place (queue.py; spare.py for who lets everybody else go first).
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from proxy.core.catalogue import Upstream
from proxy.core.fairness import Pace
from proxy.outgoing import Outgoing
from proxy.settings.types import QueueSettings, Timeouts
from proxy.upstream.connection import Sink, UpstreamConnection
from proxy.upstream.failures import FailureKind, UpstreamError
from proxy.upstream.queue import Line, Queue
from proxy.upstream.spare import SpareCapacity, SpareGroup, SparePlace

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
        spare: gets those that become free while only lines of batches wait.

    Attributes:
        in_flight: calls that have a place: counted up by whoever takes one, down by ``ended``.
        places: how many places there are: the upstream's ``in_flight_max``, less those that are closed for a moment.
        lines: those in which calls wait for a place.
        pace: how fast places become free while calls wait.
        spare_places: those that anybody may take away, the newest last.
        spare_groups: those in which lines of batches wait for one.
        spare_most: most of them at present; None: any number.
    """

    def __init__(
        self,
        upstream: Upstream,
        timeouts: Callable[[], Timeouts],
        clock: Callable[[], float],
        queue: "Queue[UpstreamPool]",
        spare: SpareCapacity,
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
        self._outgoing = Outgoing()
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._down_until = 0.0
        self._backoff_s = 0.0
        self._queue = queue
        self._spare = spare
        self.in_flight = 0
        self.places = upstream.in_flight_max
        self.lines: list[Line[UpstreamPool]] = []
        self.pace = Pace()
        self.spare_places: dict[SparePlace, None] = {}
        self.spare_groups: list[SpareGroup] = []
        self.spare_most: int | None = None

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
        elif self.spare_groups:
            self._spare.hand_over(self)

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

    async def open(self) -> None:
        """Open a connection, which ``begin`` finds if it is called at once.

        Raises:
            UpstreamError: it cannot be reached.
        """
        self._became_idle(await self._connect())

    def displace(self) -> bool:
        """Take the place of a line of a batch, for a call that has found it full; False: there is none."""
        return self._spare.displace(self)

    def _begin(self, connection: UpstreamConnection, sink: Sink, request: bytes) -> None:
        timeouts = self._timeouts()
        connection.begin(sink, request, timeouts.first_byte_s, timeouts.idle_s)

    def turned_away(self) -> None:
        """It is busy, or cannot be reached: while calls wait, one place is closed until the next sweep.

        Else every call that waits would be sent there, and turned away, as fast as it can say so. Lines of batches
        keep away until then, and come back a few at a time.
        """
        if self.lines and self.places:
            self.places -= 1
        self.spare_most = 0

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
                    lambda: UpstreamConnection(self._became_idle, self._lost, self._clock, self._outgoing),
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
        if self.spare_most is not None:
            more = 2 * self.spare_most + 1
            self.spare_most = more if more < self.places else None
        if self.spare_groups:
            self._spare.hand_over(self)

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
        kept_percent: returns how much of an upstream's places lines of batches leave free.

    Attributes:
        queue: where calls wait for a place.
        spare: the places that lines of batches may have.
    """

    def __init__(
        self,
        timeouts: Callable[[], Timeouts],
        clock: Callable[[], float],
        queue_settings: Callable[[], QueueSettings] = QueueSettings,
        kept_percent: Callable[[], int] = lambda: 0,
    ) -> None:
        self._timeouts = timeouts
        self._clock = clock
        self._pools: dict[Upstream, UpstreamPool] = {}
        self.queue: Queue[UpstreamPool] = Queue(queue_settings, clock)
        self.spare = SpareCapacity(kept_percent)

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
        pool = self._pools[upstream] = UpstreamPool(upstream, self._timeouts, self._clock, self.queue, self.spare)
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
            elif adopted is None and not pool.in_flight and not pool.lines and not pool.spare_groups:
                pool.close()
                del self._pools[upstream]

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()


def _place(upstream: Upstream) -> Upstream:
    """Return what of an upstream decides where its connections lead, and with which key."""
    return msgspec.structs.replace(upstream, in_flight_max=0, priority_field=False)
