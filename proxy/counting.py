"""Counting: work of seconds on a processor, beside the event loop.

What belongs here: the few threads that do it. They are not asyncio's own, which name lookups and files wait for.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
V = TypeVar("V")

THREADS: Final = 2
"""One long count does not hold up the next, and two leave the event loop its share of the machine."""


class Counting:
    """Runs functions in threads of its own. What waits is bounded by the calls that are in flight."""

    def __init__(self) -> None:
        self._threads: Final = ThreadPoolExecutor(THREADS, "counting")

    async def run(self, count: Callable[[V], T], value: V) -> T:
        """Return what ``count`` makes of ``value``; cancelled, it no longer waits for it."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, count, value)

    def close(self) -> None:
        """Forget what has not begun; what has goes on to its end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
