"""A connection to Redis, shared by every call of the process.

What belongs here: connecting, gathering commands per turn of the event loop, handing answers out in order, and giving
the connection up when an answer is late. What does not: what the commands mean (commands.py), and reconnecting
(keeper.py).

A caller that is cancelled leaves its place in the queue, so that the order of the answers is never disturbed.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

import hiredis

from proxy.limiter import LimiterUnavailableError
from proxy.limiter.commands import pack
from proxy.limiter.targets import Target

Answer = Any
"""What hiredis makes of an answer: bytes, int, list, None, or a ``hiredis.ReplyError`` (returned, not raised)."""


class UnansweredError(LimiterUnavailableError):
    """A command was sent, and no answer came: it may have been done."""


WAITING_MAX = 16_384
"""How many commands may wait for their answers; more are refused."""

_NOTHING = object()


class Listener(Protocol):
    """Waits for an answer in place of a coroutine."""

    def answered(self, answer: Answer) -> None:
        """It has come. Must not raise."""

    def unanswered(self) -> None:
        """The connection was lost before it came. Must not raise."""


class Link(asyncio.Protocol):
    """A connection, from ``open_link``.

    Args:
        target: what it leads to.
        timeout_s: an answer later than this costs the connection.
        on_lost: called once when the connection is gone.
    """

    def __init__(self, target: Target, timeout_s: float, on_lost: Callable[["Link"], None]) -> None:
        self.target = target
        self._timeout_s = timeout_s
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._batch: list[bytes] = []
        self._waiting: deque[asyncio.Future[Answer] | Listener] = deque()
        self._asked = 0
        self._answered = 0
        self._batches: deque[tuple[float, int]] = deque()  # when each was written, and the number of its last command
        self._timer: asyncio.TimerHandle | None = None
        self.lost: str | None = None

    def send(self, command: bytes) -> "asyncio.Future[Answer]":
        """Write a command at the end of this turn of the loop, and return its answer to be.

        The future raises ``UnansweredError`` when the connection is lost before the answer has come.

        Raises:
            LimiterUnavailableError: the connection is lost already, or too much is waiting.
        """
        future: asyncio.Future[Answer] = self._loop.create_future()
        self.tell(command, future)
        return future

    def tell(self, command: bytes, listener: "Listener | asyncio.Future[Answer]") -> None:
        """Write a command as ``send`` does, and let ``listener`` have the answer.

        Raises:
            LimiterUnavailableError: the connection is lost already, or too much is waiting.
        """
        if self.lost is not None:
            raise LimiterUnavailableError(self.lost)
        if len(self._waiting) >= WAITING_MAX:
            raise LimiterUnavailableError(f"{WAITING_MAX} commands wait for Redis already")
        if not self._batch:
            self._loop.call_soon(self._flush)
        self._batch.append(command)
        self._asked += 1
        self._waiting.append(listener)

    def lose(self, reason: str) -> None:
        """Give the connection up."""
        if self.lost is not None:
            return
        self.lost = reason
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            if not isinstance(waiter, asyncio.Future):
                waiter.unanswered()
            elif not waiter.done():
                waiter.set_exception(UnansweredError(reason))
                waiter.exception()  # looked at: a caller that has left is no error
        self._on_lost(self)

    # --- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance

    def data_received(self, data: bytes) -> None:
        """Hand the answers out."""
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (answer := reader.gets()) is not _NOTHING:
                waiter = waiting.popleft()
                self._answered += 1
                if not isinstance(waiter, asyncio.Future):
                    waiter.answered(answer)
                elif not waiter.done():
                    waiter.set_result(answer)
        except (hiredis.ProtocolError, IndexError):
            self.lose("Redis sent what is no answer")

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.lose(f"the connection to Redis is lost: {type(exc).__name__ if exc else 'closed'}")

    # --- its parts ---------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        if self.lost is not None or self._transport is None:
            return
        self._batches.append((self._loop.time(), self._asked))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._look)
        self._transport.write(b"".join(batch))

    def _look(self) -> None:
        """Lose the connection when the oldest batch without an answer is too old; look again when the next will be."""
        self._timer = None
        batches = self._batches
        while batches and batches[0][1] <= self._answered:
            batches.popleft()
        if not batches:
            return
        left_s = batches[0][0] + self._timeout_s - self._loop.time()
        if left_s <= 0:
            self.lose(f"Redis has not answered within {self._timeout_s} s")
        else:
            self._timer = self._loop.call_later(left_s, self._look)


async def open_link(target: Target, timeout_s: float, on_lost: Callable[[Link], None]) -> Link:
    """Connect and log in.

    Raises:
        LimiterUnavailableError: Redis does not answer in time, or does not let us in.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            if target.path is not None:
                _, link = await loop.create_unix_connection(lambda: Link(target, timeout_s, on_lost), target.path)
            else:
                _, link = await loop.create_connection(
                    lambda: Link(target, timeout_s, on_lost), target.host, target.port, ssl=target.tls
                )
    except (OSError, TimeoutError) as exc:
        raise LimiterUnavailableError(f"no connection to Redis at {target!r}: {type(exc).__name__}") from exc
    try:
        await _log_in(link, target)
    except BaseException:
        link.lose("not logged in")
        raise
    return link


async def _log_in(link: Link, target: Target) -> None:
    steps = []
    if target.password is not None:
        login = [target.username] if target.username else []
        steps.append(pack("AUTH", *login, target.password))
    if target.db:
        steps.append(pack("SELECT", str(target.db)))
    for answer in [await link.send(step) for step in steps]:
        if isinstance(answer, hiredis.ReplyError):
            raise LimiterUnavailableError(f"Redis at {target!r} does not let us in: {answer}")
