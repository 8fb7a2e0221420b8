"""How much there is to do in batches, for metrics.

What belongs here: the queue as a scrape shows it. What does not: when it is looked at (looking.py), the statement
(ledger/batches/overview.py), and what metrics are called (telemetry/catalogue.py).
"""

from collections.abc import Callable, Iterable
from typing import Final

from proxy.batching.looking import Look
from proxy.ledger.batches.overview import Depth, Overview

LOOK_S: Final = 15.0
"""Between two looks: as often as Prometheus asks."""


class QueueWatch(Look[Depth]):
    """The queue at the last look.

    Args:
        overview: asks the database.
        clock_ms: Unix milliseconds.
        on_error: told of what should not have happened.
    """

    def __init__(
        self, overview: Overview, clock_ms: Callable[[], int], on_error: Callable[[str, BaseException], None]
    ) -> None:
        super().__init__("batch queue", overview.depth, LOOK_S, on_error)
        self._clock_ms = clock_ms

    def batches(self) -> dict[str, int]:
        """Return how many batches have not ended, by status."""
        return {} if self.seen is None else self.seen.batches

    def lines(self, models: Iterable[str]) -> dict[str, int]:
        """Return how many lines have not ended, by model: of every model given, and of any other that has some."""
        return {} if self.seen is None else dict.fromkeys(sorted(models), 0) | self.seen.lines

    def oldest_age_s(self) -> float | None:
        """Return the age of the oldest batch that waits or is in progress, seconds; 0: there is none."""
        if self.seen is None:
            return None
        if self.seen.oldest_ms is None:
            return 0.0
        return max(0, self._clock_ms() - self.seen.oldest_ms) / 1000
