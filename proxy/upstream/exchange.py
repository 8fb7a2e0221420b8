"""Sending a call: which upstream, how often, and when not again.

What belongs here: the rule for trying again. Before the first byte of an answer a call may be sent elsewhere; after it,
never: the upstream may be working on it. What does not: the bytes (connection.py, relay.py).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from proxy.core.calls import PreparedCall, Sent, Source
from proxy.core.catalogue import Upstream
from proxy.core.endpoints import Endpoint
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.failures import FailureKind, UpstreamError
from proxy.upstream.pool import UpstreamPool, UpstreamPools
from proxy.upstream.relay import Relay

_NOT_BEGUN: Final = frozenset({FailureKind.UNREACHABLE, FailureKind.SATURATED, FailureKind.CLOSED})
"""Failures after which another upstream may be asked."""

_BUSY: Final = frozenset({429, 502, 503, 504})
"""Statuses that say "not here, not now"."""

Pieces = tuple[bytes | Source, ...]
"""A body that is sent piece by piece."""


class Request:
    """What is sent upstream, but for what depends on which one.

    Args:
        endpoint: what is called; it knows what each engine is sent.
        call: the call.
        lines: header lines of the client that pass. The type is never the client's: curl's default is a form.
    """

    __slots__ = ("_call", "_endpoint", "_lines")

    def __init__(self, endpoint: Endpoint, call: PreparedCall, lines: bytes) -> None:
        self._endpoint = endpoint
        self._call = call
        self._lines = lines

    def to(self, pool: UpstreamPool) -> tuple[bytes, Pieces | None]:
        """Return the request for one upstream: head and body in one piece, and what is too large to be part of it."""
        call, send = self._call, self._endpoint.send
        sent = Sent(call.upstream_route, call.body) if send is None else send(call, pool.upstream.engine)
        body = sent.body
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


def _in_order(pools: UpstreamPools, upstreams: Sequence[Upstream]) -> Iterable[UpstreamPool]:
    """Preferred first, but those that failed a moment ago last."""
    found = [pools.of(upstream) for upstream in upstreams]
    if len(found) > 1:
        found.sort(key=lambda pool: pool.is_suspect)
    return found


def _over(relay: Relay, rest: Pieces | None, pool: UpstreamPool) -> Awaitable[None]:
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

    Cancelled, the last relay goes on: whoever cancels decides with ``Relay.abort`` or by awaiting ``over``. Only an
    upload under way ends with the cancellation.

    Raises:
        UpstreamError: no upstream could even begin.
    """
    error: UpstreamError | None = None
    relay: Relay | None = None
    for pool in _in_order(pools, upstreams):
        payload, rest = request.to(pool)
        try:
            relay = new_relay(pool)
            connection = pool.begin(relay, payload)
            if connection is not None:
                relay.connection = connection
                await _over(relay, rest, pool)
                if relay.error is not None and relay.error.kind is FailureKind.CLOSED:
                    relay = new_relay(pool)  # a kept connection that was closed meanwhile: once more over a fresh one
                    connection = None
            if connection is None:
                relay.connection = await pool.begin_fresh(relay, payload)
                await _over(relay, rest, pool)
        except UpstreamError as exc:
            error, relay = exc, None
            on_failure(pool, exc.kind)
            continue
        if relay.error is None and relay.status not in _BUSY:
            return relay
        on_failure(pool, relay.error.kind if relay.error is not None else FailureKind.SATURATED)
        if relay.error is not None and (relay.error.kind not in _NOT_BEGUN or relay.streaming):
            return relay
    if relay is not None:
        return relay
    raise error or UpstreamError(FailureKind.UNREACHABLE, "no upstream")
