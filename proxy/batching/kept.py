"""Which files are kept, for metrics.

What belongs here: files as a scrape shows them. What does not: when they are looked at (looking.py), the statement
(ledger/batches/files.py), and removing them (retention.py).
"""

from collections.abc import Callable
from typing import Final

from proxy.batching.looking import Look
from proxy.core.batches.objects import Purpose
from proxy.ledger.batches.files import BatchFiles

LOOK_S: Final = 60.0
"""Between two looks: every row is read, and what is over goes once a minute (retention.py)."""


class KeptWatch(Look[dict[str, tuple[int, int]]]):
    """The files at the last look: their number and bytes, by purpose.

    Args:
        files: of every account.
        on_error: told of what should not have happened.
    """

    def __init__(self, files: BatchFiles, on_error: Callable[[str, BaseException], None]) -> None:
        super().__init__("kept files", files.totals, LOOK_S, on_error)

    def files(self) -> dict[str, int]:
        """Return how many files are kept, by purpose: every purpose is there."""
        return {purpose: files for purpose, (files, _) in self._totals().items()}

    def size_bytes(self) -> dict[str, int]:
        """Return how many bytes they have together, likewise."""
        return {purpose: size_bytes for purpose, (_, size_bytes) in self._totals().items()}

    def _totals(self) -> dict[str, tuple[int, int]]:
        return {} if self.seen is None else dict.fromkeys((each.value for each in Purpose), (0, 0)) | self.seen
