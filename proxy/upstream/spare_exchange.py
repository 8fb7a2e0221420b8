"""Sending a line of a batch: like a call (exchange.py), but only where there is spare capacity.

What belongs here: the same rule for trying again, for an exchange that waits outside the queue and may be displaced.
What does not: who may take a spare place, and who takes it away (spare.py).
"""

from collections.abc import Callable, Sequence
from functools import partial

from proxy.core.catalogue import Upstream
from proxy.upstream.exchange import BUSY, Request, in_order, is_final, until_over
from proxy.upstream.failures import FailureKind, UpstreamError
from proxy.upstream.pool import UpstreamPool, UpstreamPools
from proxy.upstream.relay import Relay
from proxy.upstream.spare import DisplacedError, SparePlace

NewRelay = Callable[[UpstreamPool, Callable[[], None]], Relay]
"""Makes the relay of an attempt: (pool, what its ``on_over`` is) -> relay, which collects."""


async def spare_exchange(
    pools: UpstreamPools,
    upstreams: Sequence[Upstream],
    request: Request,
    new_relay: NewRelay,
    on_failure: Callable[[UpstreamPool, FailureKind], None],
) -> Relay:
    """Wait for a spare place, send, and wait until the answer is over; return the relay, which knows how it ended.

    A call never waits for this, neither in the queue nor elsewhere: it takes the place away.

    Cancelled, the exchange is cut: the upstream sees its client go, and the place is given back.

    Raises:
        ApiError: it cannot be sent as it is.
        DisplacedError: a call has taken the place. Nothing is to be billed; it may be begun again.
        UpstreamError: no upstream could even begin. All have been tried, and some may have said that they are busy: it
            may be begun again.
    """
    error: UpstreamError | None = None
    relay: Relay | None = None
    untried = in_order(pools, upstreams)
    fresh: UpstreamPool | None = None  # one whose kept connection turned out closed: once more over a new one
    while untried:
        place = await pools.spare.take(untried, request.account)
        pool = place.pool
        untried.remove(pool)
        try:
            relay = await _attempt(place, request, new_relay, fresh=fresh is pool)
        except DisplacedError:
            raise
        except UpstreamError as exc:
            error, relay = exc, None
            pool.turned_away()
            on_failure(pool, exc.kind)
            continue
        if isinstance(relay.error, DisplacedError):
            raise relay.error
        if relay.error is not None and relay.error.kind is FailureKind.CLOSED and fresh is not pool:
            fresh = pool
            untried.insert(0, pool)
            continue
        if (relay.error is None and relay.status not in BUSY) or is_final(relay, pool, on_failure):
            return relay
    if relay is not None:
        return relay
    raise error or UpstreamError(FailureKind.UNREACHABLE, "no upstream")


async def _attempt(place: SparePlace, request: Request, new_relay: NewRelay, *, fresh: bool) -> Relay:
    """Use a place. Raises DisplacedError: it was taken away before anything was sent; UpstreamError: cannot connect."""
    pool = place.pool
    relay: Relay | None = None
    try:
        payload, rest = request.to(pool)
        relay = new_relay(pool, place.give_back)
        connection = None if fresh else pool.begin(relay, payload)
        while connection is None:
            await pool.open()
            place.check()
            connection = pool.begin(relay, payload)
        relay.connection = connection
        place.on_displaced = partial(_displaced, relay)
        await until_over(relay, rest, pool)
    except BaseException:
        if relay is not None:
            relay.abort()
        place.give_back()
        raise
    return relay


def _displaced(relay: Relay) -> None:
    """End an exchange whose place is gone: the upstream sees its client go and stops."""
    relay.abort()
    relay.on_failure(DisplacedError())
