"""Sending a call: which upstream, how often, and when not again.

What belongs here: the rule for trying again. Before the first byte of an answer a call may be sent elsewhere; after it,
never: the upstream may be working on it. What does not: the bytes (connection.py, relay.py), and lines of batches,
which wait for spare places (spare_exchange.py).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from proxy.core.calls import PreparedCall, Sent, Source
from proxy.core.calls.priority import with_priority
from proxy.core.catalogue import Upstream
from proxy.core.endpoints import Endpoint
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.failures import FailureKind, UpstreamError
from proxy.upstream.pool import UpstreamPool, UpstreamPools
from proxy.upstream.queue import Refusal
from proxy.upstream.relay import Relay

_NOT_BEGUN: Final = frozenset({FailureKind.UNREACHABLE, FailureKind.SATURATED, FailureKind.CLOSED})
"""Failures after which another upstream may be asked."""

BUSY: Final = frozenset({429, 502, 503, 504})
"""Statuses that say "not here, not now"."""

Pieces = tuple[bytes | Source, ...]
"""A body that is sent piece by piece."""


class Request:
    """What is sent upstream, but for what depends on which one.

    Args:
        endpoint: what is called; it knows what each engine is sent.
        call: the call.
        lines: header lines of the client that pass. The type is never the client's: curl's default is a form.
        account: whose call it is.
        priority: of the account's tier.

    Attributes:
        queued_s: how long it has waited for a place; None: not at all.
        refusal: why it got no place.
    """

    __slots__ = ("_call", "_endpoint", "_lines", "account", "priority", "queued_s", "refusal")

    def __init__(
        self, endpoint: Endpoint, call: PreparedCall, lines: bytes, account: str = "", priority: int = 0
    ) -> None:
        self._endpoint = endpoint
        self._call = call
        self._lines = lines
        self.account = account
        self.priority = priority
        self.queued_s: float | None = None
        self.refusal: Refusal | None = None

    def to(self, pool: UpstreamPool) -> tuple[bytes, Pieces | None]:
        """Return the request for one upstream: head and body in one piece, and what is too large to be part of it.

        Raises:
            ApiError: 400 when the body cannot be given a priority.
        """
        call, send, upstream = self._call, self._endpoint.send, pool.upstream
        sent = Sent(call.upstream_route, call.body) if send is None else send(call, upstream.engine)
        body = sent.body
        if upstream.priority_field and send is None and isinstance(body, bytes):
            body = with_priority(body, self.priority, upstream.engine)
        rest: Pieces | None = None
        if isinstance(body, bytes):
            size = len(body)
        else:
            size = sum([len(piece) if isinstance(piece, bytes) else piece.size for piece in body])
            rest, body = body, b""
        return b"%b %b%b HTTP/1.1\r\n%b%bcontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
            self._endpoint.method.encode(),
            pool.path_prefix,
            sent.route.encode(),
            pool.own_lines,
            self._lines,
            sent.content_type,
            size,
            body,
        ), rest


def in_order(pools: UpstreamPools, upstreams: Sequence[Upstream]) -> list[UpstreamPool]:
    """Preferred first, but those that failed a moment ago last."""
    if len(upstreams) == 1:
        return [pools.of(upstreams[0])]
    return sorted((pools.of(upstream) for upstream in upstreams), key=lambda pool: pool.is_suspect)


def _take_place(untried: Iterator[UpstreamPool], full: list[UpstreamPool]) -> UpstreamPool | None:
    """Take a place at the first upstream that has one; those before it are full. None: all are."""
    for pool in untried:
        if pool.in_flight < pool.places:
            pool.in_flight += 1  # given back by ``ended``
            return pool
        full.append(pool)
    return None


def _prepare(
    request: Request, pool: UpstreamPool, new_relay: Callable[[UpstreamPool], Relay]
) -> tuple[tuple[bytes, Pieces | None], Relay]:
    """Make what is needed to use a place that has been taken; until that is done, nobody else gives it back."""
    try:
        return request.to(pool), new_relay(pool)
    except BaseException:
        pool.ended()
        raise


def is_final(relay: Relay, pool: UpstreamPool, on_failure: Callable[[UpstreamPool, FailureKind], None]) -> bool:
    """Whether a failed exchange is the end of it, for the upstream may have begun to work."""
    error = relay.error
    if error is None:
        pool.turned_away()
    on_failure(pool, error.kind if error is not None else FailureKind.SATURATED)
    return error is not None and (error.kind not in _NOT_BEGUN or relay.streaming)


def until_over(relay: Relay, rest: Pieces | None, pool: UpstreamPool) -> Awaitable[None]:
    """Return what is done when the exchange is over."""
    return relay.over() if rest is None else _upload(relay, rest, pool.first_byte_s)


async def _upload(relay: Relay, pieces: Pieces, first_byte_s: float) -> None:
    """Send what is too large for one piece, as fast as the upstream takes it, and wait for the end of the exchange.

    An upstream may have said all it has to say before the upload is through: then the rest is not sent.

    Sources are read in threads: most of the time that costs more than it saves, for what was written a moment ago is
    still in the page cache; but a busy disk must never hold up everybody's streams. Whoever is cancelled here leaves
    the upstream, which has not got the whole request and so has not begun to work on it.
    """
    connection = relay.connection
    if connection is not None:
        connection.begin_upload()
        try:
            if await _send(connection, pieces):
                connection.end_upload(first_byte_s)
        except BaseException:
            relay.abort()
            raise
    await relay.over()


async def _send(connection: UpstreamConnection, pieces: Pieces) -> bool:
    """Send pieces; False: the upstream does not want all of them."""
    for piece in pieces:
        if isinstance(piece, bytes):
            if not await connection.upload(piece):
                return False
            continue
        source = piece.pieces()
        while read := await asyncio.to_thread(next, source, b""):
            if not await connection.upload(read):
                return False
    return True


async def exchange(
    pools: UpstreamPools,
    upstreams: Sequence[Upstream],
    request: Request,
    new_relay: Callable[[UpstreamPool], Relay],
    on_failure: Callable[[UpstreamPool, FailureKind], None],
) -> Relay:
    """Send a call and wait until its answer is over; return the relay, which knows how it ended.

    Upstreams that are full are passed over; when none of the others could begin, the call waits for a place at one.

    Cancelled, the last relay goes on: whoever cancels decides with ``Relay.abort`` or by awaiting ``over``. Only an
    upload under way ends with the cancellation.

    Raises:
        NoPlaceError: all that might have begun were full for too long (proxy.upstream.queue).
        UpstreamError: no upstream could even begin.
    """
    error: UpstreamError | None = None
    relay: Relay | None = None
    untried = iter(in_order(pools, upstreams))
    full: list[UpstreamPool] = []
    while (pool := _take_place(untried, full)) is not None or full:
        if pool is None:
            pool = await pools.queue.place(full, request)
            full.remove(pool)
        (payload, rest), relay = _prepare(request, pool, new_relay)
        try:
            connection = pool.begin(relay, payload)
            if connection is not None:
                relay.connection = connection
                await until_over(relay, rest, pool)
                if relay.error is not None and relay.error.kind is FailureKind.CLOSED:
                    # A kept connection that was closed meanwhile: once more over a fresh one.
                    connection = None
                    if pool.in_flight >= pool.places:  # its place has gone to a call that waited
                        full.append(pool)
                        continue
                    pool.in_flight += 1
                    relay = new_relay(pool)
            if connection is None:
                relay.connection = await pool.begin_fresh(relay, payload)
                await until_over(relay, rest, pool)
        except UpstreamError as exc:
            error, relay = exc, None
            pool.turned_away()
            on_failure(pool, exc.kind)
            continue
        if (relay.error is None and relay.status not in BUSY) or is_final(relay, pool, on_failure):
            return relay
    if relay is not None:
        return relay
    raise error or UpstreamError(FailureKind.UNREACHABLE, "no upstream")
