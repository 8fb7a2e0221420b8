"""Levels: the numbers that keys, models and overrides bring beside those of a tier. Pure.

What belongs here: these values, and a tier as overrides make it for a while. What does not: limits (quotas.py), and
where the numbers are kept (ledger/, settings/).
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from proxy.core.catalogue import Tier
from proxy.core.limits import UNLIMITED
from proxy.core.money import PICO_PER_EURO

FOR_EVER_MS: Final = 2**63 - 1
DAY_S: Final = 86_400


class Overridable(StrEnum):
    """A number of a tier that an account may have otherwise for a while; called as in tiers.yaml."""

    OUTPUT_TOKENS_HOUR = "output_tokens_hour"
    OUTPUT_TOKENS_DAY = "output_tokens_day"
    REQUESTS = "requests"
    REQUESTS_WINDOW_S = "requests_window_s"
    MONTHLY_LIMIT = "monthly_limit"
    CALLS_IN_FLIGHT = "calls_in_flight"


EUROS_MAX: Final = 9_000_000
"""In nano-euros it must stay below 2**53, where the limiter's store stops being exact."""


def largest(limit: Overridable) -> int:
    """Return the largest amount that a number can have."""
    if limit is Overridable.MONTHLY_LIMIT:
        return EUROS_MAX * PICO_PER_EURO
    return DAY_S if limit is Overridable.REQUESTS_WINDOW_S else UNLIMITED


BOUNDED: Final = frozenset({Overridable.REQUESTS, Overridable.REQUESTS_WINDOW_S})
"""What is never unlimited, in tiers.yaml neither."""


class Override(msgspec.Struct, frozen=True):
    """A number that an account has instead of its tier's, until an instant.

    Args:
        limit: which number.
        amount: tokens, requests, seconds, calls or pico-euros; None: unlimited.
        ends_ms: Unix milliseconds from which on the tier's number holds again.
    """

    limit: Overridable
    amount: int | None
    ends_ms: int


def with_overrides(tier: Tier, overrides: Sequence[Override], now_ms: int) -> tuple[Tier, int]:
    """Return the tier as it is for an account with these overrides, and until when it is so, Unix milliseconds.

    Of several for one number the last wins; when it ends, one before it that still runs takes over. A window that is
    unlimited is counted on, so that the tier's own number finds everything when it holds again.
    """
    changes: dict[str, int | None] = {}
    until_ms = FOR_EVER_MS
    for override in overrides:
        if now_ms < override.ends_ms:
            until_ms = min(until_ms, override.ends_ms)
            if override.limit is Overridable.MONTHLY_LIMIT:
                changes["monthly_limit_pico"] = override.amount
            else:
                changes[override.limit.value] = UNLIMITED if override.amount is None else override.amount
    return (msgspec.structs.replace(tier, **changes) if changes else tier), until_ms
