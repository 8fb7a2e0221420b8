"""Keeping one connection to Redis: made when it is first needed, and again whenever it is lost.

What belongs here: when to try, how long to pause, and who waits for it. What does not: what is done to open one
(router.py), and the connection itself (wire.py).
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from proxy.limiter import LimiterUnavailableError
from proxy.limiter.wire import Link

BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 2.0


class Keeper:
    """Keeps a connection.

    Args:
        name: of what it leads to, for messages and as the name of a part of the store.
        open_link: connects, given whom to tell of the loss. Raises ``LimiterUnavailableError``.
        on_change: called when there is a connection, when it is lost, and after each attempt in vain.

    Attributes:
        link: the connection; None while there is none.
    """

    def __init__(
        self,
        name: str,
        open_link: Callable[[Callable[[Link], None]], Awaitable[Link]],
        on_change: Callable[[], None],
    ) -> None:
        self.name = name
        self.link: Link | None = None
        self._open_link = open_link
        self._on_change = on_change
        self._linked: asyncio.Future[Link] | None = None  # the attempt under way; None: the last one failed
        self._task: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._reason = "not connected to Redis yet"
        self._is_closed = False

    async def connected(self) -> Link:
        """Wait for the connection that is being made; fail at once while Redis is known to be away.

        Raises:
            LimiterUnavailableError: it is, or this is closed.
        """
        if self.link is not None:
            return self.link
        if self._is_closed:
            raise LimiterUnavailableError("the limiter is closed")
        if self._task is None:
            self._linked = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._keep_connected(), name="limiter-redis")
        if self._linked is None:
            raise LimiterUnavailableError(self._reason)
        return await asyncio.shield(self._linked)

    def stop(self) -> None:
        """End the connection and the attempts to make one; whoever waits for one is told."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
        if self.link is not None:
            self.link.lose("closed")
        self._fail("the limiter is closed")

    async def close(self) -> None:
        """Stop, and wait until that is done."""
        self.stop()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_connected(self) -> None:
        """Connect, wait until the connection is lost, and connect again: at once first, then with growing pauses."""
        pause_s = 0.0
        while True:
            self._lost.clear()
            began_s = time.monotonic()
            try:
                link = await self._open_link(self._on_lost)
            except LimiterUnavailableError as exc:
                self._fail(str(exc))
            else:
                self.link = link
                if link.lost is not None:  # already
                    self._on_lost(link)
                elif self._linked is not None and not self._linked.done():
                    self._linked.set_result(link)
                self._on_change()
                await self._lost.wait()
                if time.monotonic() - began_s > BACKOFF_MAX_S:
                    pause_s = 0.0
                    continue
                self._fail("the connection to Redis does not last")
            pause_s = min(max(pause_s * 2, BACKOFF_MIN_S), BACKOFF_MAX_S)
            await asyncio.sleep(pause_s * (0.5 + random.random() / 2))  # noqa: S311 - not a secret

    def _on_lost(self, link: Link) -> None:
        """Note the loss of the connection; that of one which never served concerns nobody."""
        if link is self.link:
            self.link = None
            if self._linked is None or self._linked.done():
                self._linked = asyncio.get_running_loop().create_future()
            self._lost.set()
            self._on_change()

    def _fail(self, reason: str) -> None:
        self._reason = reason
        linked, self._linked = self._linked, None
        if linked is not None and not linked.done():
            linked.set_exception(LimiterUnavailableError(reason))
            linked.exception()  # looked at: perhaps nobody waits
        self._on_change()
