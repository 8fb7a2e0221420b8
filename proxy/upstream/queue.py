"""The queue: calls that wait for a place, because every upstream of their model is full.

What belongs here: waiting, bounded in number and time, and the handing over of a place that becomes free. What does
not: the order (core/fairness.py), connections (pool.py), and which upstream a call tries when none is full
(exchange.py).

Calls that wait for the same upstreams form a line. A place that becomes free is handed over at once, before anybody
else can take it: while one call waits an upstream stays full, so whoever comes finds it full, and waits in turn. Nobody
waits for a line of a batch: it gives its place up (spare.py).
"""

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection
from enum import StrEnum
from typing import Any, Final, Generic, Protocol, TypeVar

from proxy.core.fairness import Order, Pace, Waiting
from proxy.settings.types import QueueSettings
from proxy.upstream.failures import FailureKind, UpstreamError

RETRY_S_MAX: Final = 60
"""Longest ``Retry-After``: SDKs sleep no longer (see docs/wire.md)."""


class Refusal(StrEnum):
    """Why a call gets no place; also a metric label."""

    WAITED = "waited"
    """It has waited as long as a call may."""
    FULL = "full"
    """Too many wait already, of its account or of all."""
    DISPLACED = "displaced"
    """Too many wait, and it gave way to another."""
    DRAINING = "draining"
    """The process is about to end."""
    LEFT = "left"
    """Its client did not wait for it."""


class NoPlaceError(UpstreamError):
    """A call has got no place.

    Args:
        reason: why.
        retry_after_s: when one is likely to be had, whole seconds from 1 to ``RETRY_S_MAX``.
    """

    def __init__(self, reason: Refusal, retry_after_s: int) -> None:
        super().__init__(FailureKind.SATURATED, reason.value)
        self.reason = reason
        self.retry_after_s = retry_after_s


class Places(Protocol):
    """An upstream, as far as the queue knows it.

    Attributes:
        in_flight: places that are taken.
        places: places that there are.
        lines: those in which calls wait for it.
        pace: how fast places become free there.
    """

    in_flight: int
    places: int
    lines: "list[Line[Any]]"
    pace: Pace

    def ended(self) -> None:
        """Give a place back."""

    def displace(self) -> bool:
        """Take the place of a line of a batch, for a call that has found it full; False: there is none."""


class Caller(Protocol):
    """Who wants a place.

    Attributes:
        queued_s: how long it has waited; None: not at all. Written by the queue.
        refusal: why it got no place; None: it did, or did not ask. Written by the queue.
    """

    queued_s: float | None
    refusal: Refusal | None

    @property
    def account(self) -> str:
        """Whose call it is."""

    @property
    def priority(self) -> int:
        """Of the account's tier: higher goes first."""


P = TypeVar("P", bound=Places)


class _Waiter(Waiting, Generic[P]):
    """A call that waits; ``outcome`` is the upstream with a place for it, or why it gets none."""

    __slots__ = ("line", "outcome")

    def __init__(self, caller: Caller, line: "Line[P]") -> None:
        super().__init__(caller.account, caller.priority)
        self.line = line
        self.outcome: asyncio.Future[P | NoPlaceError] = asyncio.get_running_loop().create_future()


class Line(Generic[P]):
    """The calls that wait for one set of upstreams."""

    __slots__ = ("order", "upstreams")

    def __init__(self, upstreams: frozenset[P], order: Order[_Waiter[P]]) -> None:
        self.upstreams = upstreams
        self.order = order


class Queue(Generic[P]):
    """All lines.

    Args:
        settings: returns those in force.
        clock: monotonic seconds.
    """

    def __init__(self, settings: Callable[[], QueueSettings], clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._turns = itertools.count()
        self._lines: dict[frozenset[P], Line[P]] = {}
        self._draining = False

    async def place(self, upstreams: Collection[P], caller: Caller) -> P:
        """Wait for a place at any of some upstreams that were full; return where one is. It is taken already.

        Raises:
            NoPlaceError: there is none, in time.
        """
        for upstream in upstreams:  # one may have got room while others were tried
            if upstream.in_flight < upstream.places:
                upstream.in_flight += 1
                return upstream
        for upstream in upstreams:
            if upstream.displace():
                return upstream
        settings = self._settings()
        line = self._line(frozenset(upstreams))
        began_s = self._clock()
        waited_s = caller.queued_s or 0.0
        caller.queued_s = waited_s
        waiter = self._enter(line, caller, settings)
        give_up = asyncio.get_running_loop().call_later(
            max(0.0, settings.wait_s - waited_s), self._refuse, waiter, Refusal.WAITED
        )
        try:
            outcome = await waiter.outcome
        except asyncio.CancelledError:
            self._left(waiter)
            caller.refusal = Refusal.LEFT
            raise
        finally:
            give_up.cancel()
            caller.queued_s = waited_s + self._clock() - began_s
        if isinstance(outcome, NoPlaceError):
            caller.refusal = outcome.reason
            raise outcome
        return outcome

    def freed(self, upstream: P) -> None:
        """Hand over what has become free at an upstream for which calls wait."""
        if upstream.in_flight < upstream.places:
            upstream.pace.freed(self._clock())
            self.hand_over(upstream)

    def hand_over(self, upstream: P) -> None:
        """Hand over all places that are free at an upstream."""
        while upstream.lines and upstream.in_flight < upstream.places:
            line = min(upstream.lines, key=_first)
            waiter = line.order.take()
            self._shrank(line)
            if not waiter.outcome.done():  # else its client has just left, and its task has yet to notice
                upstream.in_flight += 1
                waiter.outcome.set_result(upstream)

    def drain(self) -> None:
        """Refuse whoever waits, and who would have to from now on: another process has places, and more time."""
        self._draining = True
        for line in list(self._lines.values()):
            while line.order:
                self._refuse(line.order.take(), Refusal.DRAINING)
            self._shrank(line)

    def waiting(self) -> dict[int, int]:
        """Return how many calls wait, by priority."""
        counts: Counter[int] = Counter()
        for line in self._lines.values():
            counts.update(line.order.by_priority())
        return dict(counts)

    # Entering a line, and leaving it

    def _line(self, upstreams: frozenset[P]) -> Line[P]:
        line = self._lines.get(upstreams)
        return line if line is not None else Line(upstreams, Order(self._turns))

    def _enter(self, line: Line[P], caller: Caller, settings: QueueSettings) -> _Waiter[P]:
        """Let a call wait. Raises NoPlaceError: it may not."""
        waiter = _Waiter(caller, line)
        order = line.order
        reason: Refusal | None = None
        gives_way: _Waiter[P] | None = None
        if self._draining:
            reason = Refusal.DRAINING
        elif settings.wait_s <= 0 or order.waiting_of(caller.account, caller.priority) >= settings.account_calls_max:
            reason = Refusal.FULL
        elif len(order) >= settings.calls_max:
            gives_way = order.gives_way(caller.account, caller.priority)
            reason = Refusal.FULL if gives_way is None else None
        if reason is not None:
            caller.refusal = reason
            raise NoPlaceError(reason, self._retry_after_s(self._interval_s(line), line, waiter, reason))
        order.add(waiter)
        self._grew(line)
        if gives_way is not None:
            self._refuse(gives_way, Refusal.DISPLACED)
        return waiter

    def _refuse(self, waiter: _Waiter[P], reason: Refusal) -> None:
        line = waiter.line
        interval_s = self._interval_s(line)
        if line.order.remove(waiter):
            self._shrank(line)
        if not waiter.outcome.done():
            retry_after_s = self._retry_after_s(interval_s, line, waiter, reason)
            waiter.outcome.set_result(NoPlaceError(reason, retry_after_s))

    def _left(self, waiter: _Waiter[P]) -> None:
        """Let go of a call whose client has left: of its turn, or of the place that it was given just now."""
        if waiter.line.order.remove(waiter):
            self._shrank(waiter.line)
        elif not waiter.outcome.cancelled() and not isinstance(given := waiter.outcome.result(), NoPlaceError):
            given.ended()

    def _grew(self, line: Line[P]) -> None:
        if line.upstreams in self._lines:
            return
        self._lines[line.upstreams] = line
        now_s = self._clock()
        for upstream in line.upstreams:
            if not upstream.lines:
                upstream.pace.began(now_s)
            upstream.lines.append(line)

    def _shrank(self, line: Line[P]) -> None:
        if not line.order and self._lines.get(line.upstreams) is line:
            del self._lines[line.upstreams]
            for upstream in line.upstreams:
                upstream.lines.remove(line)

    def _interval_s(self, line: Line[P]) -> float:
        """Return the seconds from one free place for a line to the next; 0: nothing has been seen yet."""
        now_s = self._clock()
        intervals_s = [upstream.pace.interval_s(now_s) if upstream.lines else 0.0 for upstream in line.upstreams]
        return 1 / sum([1 / interval_s for interval_s in intervals_s]) if all(intervals_s) else 0.0

    def _retry_after_s(self, interval_s: float, line: Line[P], call: Waiting, reason: Refusal) -> int:
        """Return when a call would probably get a place, if it came back and nobody else came meanwhile."""
        if reason is Refusal.DRAINING:
            return 1
        lines = {id(each): each for upstream in line.upstreams for each in upstream.lines}
        ahead = sum([each.order.ahead_of(call.account, call.priority) for each in lines.values()])
        return max(1, min(RETRY_S_MAX, math.ceil((ahead + 1) * interval_s)))


def _first(line: Line[Any]) -> tuple[int, int]:
    return line.order.first()
