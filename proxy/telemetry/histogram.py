"""Histograms that cost a bisection: fixed buckets, plain numbers, one thread.

What belongs here: counting into buckets. What does not: names and labels (catalogue.py), text (families.py).
"""

from bisect import bisect_left
from itertools import accumulate


class Histogram:
    """Counts of observations by bucket.

    Args:
        bounds: upper bounds of the buckets, rising; a value equal to a bound belongs to its bucket (``le``).
    """

    __slots__ = ("_counts", "bounds", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.total = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[int]:
        """Return the observations up to each bound; the last is all of them (``+Inf``)."""
        return list(accumulate(self._counts))
