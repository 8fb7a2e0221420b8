"""Usage: what a call used, as counted quantities by type.

What belongs here: the types and the arithmetic on them. What does not: reading usage off a response (meters.py) and
prices (pricing.py).

Types are disjoint: a token is counted under one type only. With vLLM and OpenAI ``completion_tokens`` contains the
reasoning tokens and ``prompt_tokens`` the cached ones; the meters take them apart before a ``Usage`` is made.
"""

from enum import StrEnum
from typing import Final

import msgspec


class UsageType(StrEnum):
    """What is counted. Tokens, but for ``AUDIO_MINUTES`` (every started minute is one)."""

    INPUT = "input"
    CACHED_INPUT = "cached_input"
    OUTPUT = "output"
    REASONING = "reasoning"
    RERANK = "rerank"
    AUDIO_MINUTES = "audio_minutes"


_OUTPUT: Final = UsageType.OUTPUT
_REASONING: Final = UsageType.REASONING


class TariffClass(StrEnum):
    """Which of the two price classes a call is charged in."""

    STANDARD = "standard"
    BATCH = "batch"


class Source(StrEnum):
    """Where a quantity comes from: the upstream said so, we measured it ourselves, or it is a stated estimate."""

    REPORTED = "reported"
    MEASURED = "measured"
    ESTIMATED = "estimated"


class Quantity(msgspec.Struct, frozen=True):
    """An amount of one usage type (tokens, or started minutes of audio; never negative)."""

    type: UsageType
    amount: int
    source: Source = Source.REPORTED


class Usage(msgspec.Struct, frozen=True):
    """The quantities of one call: at most one per type, types with nothing used left out."""

    quantities: tuple[Quantity, ...] = ()

    def amount(self, usage_type: UsageType) -> int:
        """Return the amount of a type, 0 when the call used none of it."""
        for quantity in self.quantities:
            if quantity.type is usage_type:
                return quantity.amount
        return 0

    @property
    def output_tokens(self) -> int:
        """Tokens that count in the output windows: output and reasoning."""
        tokens = 0
        for quantity in self.quantities:
            if quantity.type is _OUTPUT or quantity.type is _REASONING:
                tokens += quantity.amount
        return tokens

    @property
    def is_estimated(self) -> bool:
        """Whether any quantity is an estimate."""
        return any(quantity.source is Source.ESTIMATED for quantity in self.quantities)


NOTHING = Usage()
