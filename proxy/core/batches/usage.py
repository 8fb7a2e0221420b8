"""What the lines of a batch have used together. Pure.

What belongs here: the sum, and how it follows from entries. What does not: how a customer sees it (shown.py).
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from proxy.core.entries import Entry
from proxy.core.usage import UsageType

_INPUT: Final = frozenset({UsageType.INPUT, UsageType.CACHED_INPUT, UsageType.RERANK})
"""A reranked token is one of a query or of a document: nothing is made of it but a score."""
_OUTPUT: Final = frozenset({UsageType.OUTPUT, UsageType.REASONING})


class BatchUsage(msgspec.Struct, frozen=True):
    """Tokens that are billed, counted as the usage of a call counts them: all of them, and of these some.

    Args:
        input_tokens: read, those in a cache and reranked ones included.
        cached_tokens: of these, found in a cache.
        output_tokens: made, reasoning included.
        reasoning_tokens: of these, reasoning.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output."""
        return self.input_tokens + self.output_tokens


def usage_of(entries: Iterable[Entry]) -> BatchUsage:
    """Return what entries of lines have used together."""
    amounts = dict.fromkeys(UsageType, 0)
    for entry in entries:
        for line in entry.charge.lines:
            amounts[line.usage_type] += line.amount
    return BatchUsage(
        input_tokens=sum(amounts[each] for each in _INPUT),
        cached_tokens=amounts[UsageType.CACHED_INPUT],
        output_tokens=sum(amounts[each] for each in _OUTPUT),
        reasoning_tokens=amounts[UsageType.REASONING],
    )
