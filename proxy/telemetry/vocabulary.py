"""Vocabularies: which values a metric label may take.

What belongs here: the rule that keeps the number of series bounded whatever callers pass in. What does not:
metrics.
"""

from collections.abc import Iterable
from typing import Final

UNKNOWN: Final = "unknown"
"""What a value outside a closed vocabulary becomes."""
OTHER: Final = "other"
"""What one value too many becomes in an open vocabulary."""


class Vocabulary:
    """The values of one label.

    Args:
        known: with values, the vocabulary is closed: anything else is ``unknown``. None: it is open, and learns
            the first ``values_max`` values it sees; anything after that is ``other``. Nothing at all is ``unknown``
            in both.
        values_max: size of an open vocabulary.
    """

    __slots__ = ("_closed", "_values", "_values_max")

    def __init__(self, known: Iterable[str] | None = None, *, values_max: int = 64) -> None:
        self._closed = known is not None
        self._values = set(known or ())
        self._values_max = values_max

    def learn(self, values: Iterable[str]) -> None:
        """Add values that the operator has named since (a model in reloaded settings)."""
        self._values.update(values)

    def bound(self, value: str) -> str:
        """Return the label value that stands for ``value``."""
        if value in self._values:
            return value
        if self._closed or not value:
            return UNKNOWN
        if len(self._values) >= self._values_max:
            return OTHER
        self._values.add(value)
        return value
