"""All connections of a listener: kept, swept, drained.

What belongs here: what concerns them together. What does not: what one of them does (http.py).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from proxy.incoming import Answer
from proxy.outgoing import Outgoing
from proxy.web.exchange import Exchange


class Connection(Protocol):
    """One connection, as far as the others are concerned."""

    transport: asyncio.Transport | None
    current: Exchange | None
    task: asyncio.Task[None] | None
    deadline: float

    def close(self) -> None:
        """Close once everything has been sent."""

    def abort(self) -> None:
        """Cut the connection."""

    def expire(self) -> None:
        """Do what is due at the deadline."""


class Connections:
    """All connections of one listener.

    Args:
        handle: answers an exchange, or returns the answer that is to be written; cancelled when the client leaves.
        failed: told of a bug in ``handle``.
        clock: monotonic seconds.
        keepalive_s: idle time after which connections are closed.
        write_buffer_bytes: what may wait for a slow reader before its producer is paused.
    """

    def __init__(
        self,
        handle: Callable[[Exchange], Awaitable[Answer | None]],
        failed: Callable[[str, BaseException], None],
        clock: Callable[[], float],
        keepalive_s: float,
        write_buffer_bytes: int,
    ) -> None:
        self.handle = handle
        self.failed = failed
        self.clock = clock
        self.keepalive_s = keepalive_s
        self.write_buffer_bytes = write_buffer_bytes
        self.outgoing = Outgoing()
        self.closing = False
        self.now_s = clock()  # as of the last sweep: near enough for deadlines
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()  # of clients that have left
        self._empty: asyncio.Future[None] | None = None

    @property
    def connections(self) -> list[Connection]:
        """Every open connection."""
        return list(self._connections)

    def connected(self, connection: Connection) -> None:
        """Keep a connection."""
        self._connections.add(connection)

    def lost(self, connection: Connection, task: asyncio.Task[None] | None) -> None:
        """Let go of a connection; its task may still have to end."""
        self._connections.discard(connection)
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._empty is not None and not self._connections and not self._empty.done():
            self._empty.set_result(None)

    def sweep(self) -> None:
        """Close what has been waiting too long; to be called about once a second."""
        now_s = self.now_s = self.clock()
        for connection in self.connections:
            if connection.deadline < now_s:
                connection.expire()

    def close_idle(self) -> None:
        """Take no further requests; connections without one are closed."""
        self.closing = True
        for connection in self.connections:
            if connection.current is None:
                connection.close()

    async def close(self, timeout_s: float, cut_s: float) -> None:
        """Wait for exchanges in flight; then cancel them, and wait ``cut_s`` for them to notice."""
        self.close_idle()
        await self._until_empty(timeout_s)
        tasks = self._tasks | {task for connection in self._connections if (task := connection.task) is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=cut_s)
        for connection in self.connections:
            connection.abort()
        await self._until_empty(cut_s)

    async def _until_empty(self, timeout_s: float) -> None:
        if self._connections:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._empty], timeout=timeout_s)
