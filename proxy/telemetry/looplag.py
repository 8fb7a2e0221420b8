"""Event-loop lag: how late the loop wakes what asked to be woken.

What belongs here: the sample and the task that takes it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

SAMPLE_INTERVAL_S: Final = 0.5
SAMPLES_KEPT: Final = 60
"""30 seconds' worth, so that no scrape at a usual interval misses a stall."""


class LoopLag:
    """The latest samples of the lag, in seconds."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=SAMPLES_KEPT)

    def note(self, lag_s: float) -> None:
        """Keep a sample; it drops out after ``SAMPLES_KEPT`` more."""
        self._samples.append(max(0.0, lag_s))

    def longest_s(self) -> float:
        """Return the longest of the samples kept, 0 before the first."""
        return max(self._samples, default=0.0)


async def sample_loop_lag(
    lag: LoopLag,
    *,
    clock: Callable[[], float] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Sample until cancelled: sleep, and note by how much the sleep was too long."""
    now = clock or asyncio.get_running_loop().time
    while True:
        before_s = now()
        await sleep(SAMPLE_INTERVAL_S)
        lag.note(now() - before_s - SAMPLE_INTERVAL_S)
