"""Permits: how many lines run at once in this process.

What belongs here: the bounds of all lines, of one account's and of one model's, and who is next. What does not: places
at upstreams (upstream/spare.py).
"""

import asyncio
from collections import Counter
from collections.abc import Callable

from proxy.core.batches.turns import Bounds

_Wanted = tuple[str, str]
"""Account, model."""


class Permits:
    """Permits for lines. Of those who wait, whose account has the fewest of the model is first, then who came first.

    Nobody waits for a bound that does not concern him.

    Args:
        bounds: returns those in force.
    """

    def __init__(self, bounds: Callable[[], Bounds]) -> None:
        self._bounds = bounds
        self._waiting: dict[asyncio.Future[None], _Wanted] = {}
        self._own: Counter[_Wanted] = Counter()
        self._models: Counter[str] = Counter()
        self.taken = 0

    async def take(self, account_id: str, model: str) -> None:
        """Wait for a permit."""
        wanted = (account_id, model)
        if self._is_free(wanted):
            self._count(wanted, 1)
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting[granted] = wanted
        try:
            await granted
        except asyncio.CancelledError:
            if self._waiting.pop(granted, None) is None and not granted.cancelled():  # granted just now
                self.give_back(account_id, model)
            raise

    def give_back(self, account_id: str, model: str) -> None:
        """Give a permit back: who is next has it at once."""
        self._count((account_id, model), -1)
        # A waiter that is cancelled has yet to notice.
        ready = [granted for granted, wanted in self._waiting.items() if not granted.done() and self._is_free(wanted)]
        if ready:
            granted = min(ready, key=lambda each: self._own[self._waiting[each]])  # of equals the first to come
            wanted = self._waiting.pop(granted)
            self._count(wanted, 1)
            granted.set_result(None)

    def _is_free(self, wanted: _Wanted) -> bool:
        bounds = self._bounds()
        return (
            self.taken < bounds.total
            # Of an account's lines with one model: those of another, which may be away, leave them their own.
            and self._own[wanted] < bounds.of_account
            and self._models[wanted[1]] < bounds.of_model
        )

    def _count(self, wanted: _Wanted, step: int) -> None:
        self.taken += step
        self._own[wanted] += step
        self._models[wanted[1]] += step
        if not self._own[wanted]:
            del self._own[wanted]
        if not self._models[wanted[1]]:
            del self._models[wanted[1]]
