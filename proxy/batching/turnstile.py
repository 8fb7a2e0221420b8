"""The turnstile: how fast lines begin while calls are in flight.

What belongs here: leaving calls the processor. What does not: how many lines run at once (permits.py), and places at
upstreams (upstream/spare.py).

Before a fast upstream lines would keep the event loop busy without a pause, and a call would wait for its turn at each
of its steps. So while there are calls a few lines begin, and then the loop has time for others: a fifth of a core or so
is what lines can use then. Without calls they use all of it. Before an upstream that takes its time nobody waits here.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

LINES_A_TURN: Final = 2
TURN_S: Final = 0.002


class Turnstile:
    """Lets all lines pass while there are no calls, and else ``LINES_A_TURN`` in ``TURN_S``, the first to come first.

    Args:
        calls_in_flight: returns how many calls there are.
    """

    def __init__(self, calls_in_flight: Callable[[], int]) -> None:
        self._calls_in_flight = calls_in_flight
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._passed = 0  # in this turn
        self._turn: asyncio.TimerHandle | None = None

    async def enter(self) -> None:
        """Wait until a line may begin."""
        if not self._waiting and (not self._calls_in_flight() or self._passed < LINES_A_TURN):
            self._count()
            return
        waits = asyncio.get_running_loop().create_future()
        self._waiting.append(waits)
        await waits

    def _count(self) -> None:
        self._passed += 1
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_later(TURN_S, self._next_turn)

    def _next_turn(self) -> None:
        self._turn = None
        self._passed = 0
        while self._waiting and (not self._calls_in_flight() or self._passed < LINES_A_TURN):
            waits = self._waiting.popleft()
            if not waits.done():  # else it was cancelled
                waits.set_result(None)
                self._count()
