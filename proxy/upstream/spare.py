"""Spare capacity: places that nobody else wants, for exchanges that anybody else may displace.

What belongs here: who may take a spare place, who waits for one, and how it is taken away again. What does not: calls
that come before (queue.py, which has no part of its own for this), and the exchange in a place (exchange.py).

Rules:

1. A place is spare when its upstream has one free beyond those that are kept, and has neither failed nor turned anybody
   away a moment ago. No call waits for such an upstream: while one does, it is full (queue.py).
2. A call that finds all its upstreams full gets the place of a line that was let in as spare, at once: the newest one,
   so that the oldest come to their end. While a call waits for an upstream, no line holds a place there.
3. Accounts whose lines wait take turns, and within an account the first to come is the first to go.
4. What turned somebody away gets no line until the next sweep, then one, three, seven, … with each sweep.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from proxy.core.fairness import Order, Waiting
from proxy.upstream.failures import FailureKind, UpstreamError

if TYPE_CHECKING:
    from proxy.upstream.pool import UpstreamPool

_PERCENT: Final = 100


class DisplacedError(UpstreamError):
    """A call has taken the place: the exchange was cut, nobody is to be billed, and it may be begun again later."""

    def __init__(self) -> None:
        super().__init__(FailureKind.SATURATED, "displaced")


class SparePlace:
    """A place that is held until it is given back, or taken away.

    Args:
        pool: where it is.

    Attributes:
        on_displaced: called when it is taken away; from then on ``give_back`` does nothing.
        is_displaced: whether it was.
    """

    __slots__ = ("is_displaced", "on_displaced", "pool")

    def __init__(self, pool: "UpstreamPool") -> None:
        self.pool = pool
        self.on_displaced: Callable[[], None] | None = None
        self.is_displaced = False

    def check(self) -> None:
        """Raise DisplacedError when it has been taken away."""
        if self.is_displaced:
            raise DisplacedError

    def give_back(self) -> None:
        """Give it back, once: whatever else calls it finds nothing to do."""
        held = self.pool.spare_places
        if self in held:
            del held[self]
            self.pool.ended()


class _Waiter(Waiting):
    """A line that waits for a spare place; ``outcome`` is the place."""

    __slots__ = ("group", "outcome")

    def __init__(self, account: str, group: "SpareGroup") -> None:
        super().__init__(account, 0)
        self.group = group
        self.outcome: asyncio.Future[SparePlace] = asyncio.get_running_loop().create_future()


class SpareGroup:
    """The lines that wait for a spare place at any of the same upstreams."""

    __slots__ = ("order", "pools")

    def __init__(self, pools: "frozenset[UpstreamPool]", turns: Iterator[int]) -> None:
        self.pools = pools
        self.order: Order[_Waiter] = Order(turns)


class SpareCapacity:
    """The spare places of all upstreams.

    Args:
        kept_percent: returns how much of an upstream's places is kept for calls that may come, rounded down.

    Attributes:
        displaced: how many places have been taken away.
    """

    def __init__(self, kept_percent: Callable[[], int]) -> None:
        self._kept_percent = kept_percent
        self._groups: dict[frozenset[UpstreamPool], SpareGroup] = {}
        self._turns = itertools.count()
        self.displaced = 0

    async def take(self, pools: "Sequence[UpstreamPool]", account: str) -> SparePlace:
        """Wait for a spare place at any of some upstreams, the first of them first."""
        for pool in pools:
            if self._is_spare(pool):
                return _hold(pool)
        waiter = self._enter(frozenset(pools), account)
        try:
            return await waiter.outcome
        except asyncio.CancelledError:
            self._left(waiter)
            raise

    def waiting(self) -> int:
        """Return how many lines wait."""
        return sum(len(group.order) for group in self._groups.values())

    def hand_over(self, pool: "UpstreamPool") -> None:
        """Hand over what is spare at an upstream for which lines wait."""
        while pool.spare_groups and self._is_spare(pool):
            group = min(pool.spare_groups, key=_first)
            waiter = group.order.take()
            self._shrank(group)
            if not waiter.outcome.done():  # else it was cancelled, and its task has yet to notice
                waiter.outcome.set_result(_hold(pool))

    def displace(self, pool: "UpstreamPool") -> bool:
        """Take a place away, for a call that has found an upstream full; False: there is none to take.

        The place stays counted, as the call's. Where there are more calls than places (a reload has taken some away),
        places are given up until one is left over.
        """
        while pool.spare_places:
            place, _ = pool.spare_places.popitem()
            place.is_displaced = True
            self.displaced += 1
            if place.on_displaced is not None:
                place.on_displaced()
            if pool.in_flight <= pool.places:
                return True
            pool.in_flight -= 1
        return False

    # Inside

    def _is_spare(self, pool: "UpstreamPool") -> bool:
        places = pool.places
        return (
            pool.in_flight < places - places * self._kept_percent() // _PERCENT
            and (pool.spare_most is None or len(pool.spare_places) < pool.spare_most)
            and not pool.is_suspect
        )

    def _enter(self, pools: "frozenset[UpstreamPool]", account: str) -> _Waiter:
        group = self._groups.get(pools)
        if group is None:
            group = self._groups[pools] = SpareGroup(pools, self._turns)
            for pool in pools:
                pool.spare_groups.append(group)
        waiter = _Waiter(account, group)
        group.order.add(waiter)
        return waiter

    def _left(self, waiter: _Waiter) -> None:
        if waiter.group.order.remove(waiter):
            self._shrank(waiter.group)
        elif not waiter.outcome.cancelled():
            waiter.outcome.result().give_back()

    def _shrank(self, group: SpareGroup) -> None:
        if not group.order and self._groups.get(group.pools) is group:
            del self._groups[group.pools]
            for pool in group.pools:
                pool.spare_groups.remove(group)


def _hold(pool: "UpstreamPool") -> SparePlace:
    pool.in_flight += 1
    place = SparePlace(pool)
    pool.spare_places[place] = None
    return place


def _first(group: SpareGroup) -> tuple[int, int]:
    return group.order.first()
