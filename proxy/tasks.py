"""Background tasks, in one place that keeps and drains them.

What belongs here: the only ``asyncio.create_task`` of the project. A bare task can be garbage-collected while it runs,
and its exception is lost; here each is referenced until it ends, its failure is reported, and shutdown waits for it.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Tasks:
    """A tracked, drained set of tasks.

    Args:
        on_failure: called with the exception of a task that failed (never with a cancellation).
    """

    def __init__(self, on_failure: Callable[[str, BaseException], None]) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._watching: set[asyncio.Task[Any]] = set()
        self._on_failure = on_failure

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a coroutine in the background under a name that logs can show."""
        task = asyncio.create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def watch(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run what runs for as long as the process: its owner cancels it, ``drain`` does not wait for it."""
        task = self.spawn(coroutine, name)
        self._running.discard(task)
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._on_failure(task.get_name(), failure)

    async def drain(self, timeout_s: float) -> int:
        """Wait for what runs; cancel what has not ended after ``timeout_s``. Return how many were cancelled."""
        if not self._running:
            return 0
        _, late = await asyncio.wait(set(self._running), timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=5)
        return len(late)
