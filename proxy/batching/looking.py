"""Looks at the ledger for metrics: taken now and then, so that a scrape asks no database.

What belongs here: when to look, and what stands while nothing is known. What does not: what is looked at (queue.py,
kept.py), and what metrics are called (telemetry/catalogue.py).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from proxy.ledger.errors import LedgerError

T = TypeVar("T")


class Look(Generic[T]):
    """What was seen last; while the database does not answer, nothing is known.

    Args:
        name: what is looked at, for ``on_error``.
        ask: asks the database.
        every_s: seconds between two looks.
        on_error: told of what should not have happened.

    Attributes:
        seen: what it was at the last look; None: not known.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], Awaitable[T]],
        every_s: float,
        on_error: Callable[[str, BaseException], None],
    ) -> None:
        self._name = name
        self._ask = ask
        self._every_s = every_s
        self._on_error = on_error
        self.seen: T | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Look once."""
        try:
            self.seen = await self._ask()
        except LedgerError:
            self.seen = None
        except Exception as exc:  # noqa: BLE001 - the next look may go well
            self.seen = None
            self._on_error(self._name, exc)
