"""How much there is to do in batches, for metrics: looked at now and then, so that a scrape asks no database.

What belongs here: the last look. What does not: the statement (ledger/batches/overview.py), and what metrics are called
(telemetry/catalogue.py).
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from proxy.ledger.batches.overview import Depth, Overview
from proxy.ledger.errors import LedgerError

LOOK_S: Final = 15.0
"""Between two looks: as often as Prometheus asks."""


class QueueWatch:
    """What the queue was like at the last look; while the database does not answer, nothing is known.

    Args:
        overview: asks it.
        clock_ms: Unix milliseconds.
        on_error: told of what should not have happened.
    """

    def __init__(
        self, overview: Overview, clock_ms: Callable[[], int], on_error: Callable[[str, BaseException], None]
    ) -> None:
        self._overview = overview
        self._clock_ms = clock_ms
        self._on_error = on_error
        self.depth: Depth | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once."""
        try:
            self.depth = await self._overview.depth()
        except LedgerError:
            self.depth = None
        except Exception as exc:  # noqa: BLE001 - the next look may go well
            self.depth = None
            self._on_error("batch queue", exc)

    def batches(self) -> dict[str, int]:
        """Return how many batches have not ended, by status."""
        return {} if self.depth is None else self.depth.batches

    def lines(self, models: Iterable[str]) -> dict[str, int]:
        """Return how many lines have not ended, by model: of every model given, and of any other that has some."""
        return {} if self.depth is None else dict.fromkeys(sorted(models), 0) | self.depth.lines

    def oldest_age_s(self) -> float | None:
        """Return the age of the oldest batch that waits or is in progress, seconds; 0: there is none."""
        if self.depth is None:
            return None
        if self.depth.oldest_ms is None:
            return 0.0
        return max(0, self._clock_ms() - self.depth.oldest_ms) / 1000
