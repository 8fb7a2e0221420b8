"""Quotas: a tier as limits, a call as needs, its settlement as amounts. Pure.

What belongs here: the order and names of the limits of an account, and the numbers that go with them.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Final

import msgspec

from proxy.core.calls import PreparedCall
from proxy.core.catalogue import Tier
from proxy.core.headers import LimitHeaders
from proxy.core.limit_names import BUDGET_MONTH, OUTPUT_TOKENS_DAY, OUTPUT_TOKENS_HOUR, REQUESTS
from proxy.core.limits import Limit, LimitKind, Measure, Stamp
from proxy.core.money import PICO_PER_NANO
from proxy.core.pricing import PriceVersion
from proxy.core.usage import TariffClass, UsageType

UNLIMITED_NANO: Final = 2**52
"""Stands for "no monthly cap" (4.5 million euros a month), so that what is spent is known for every account."""

_PLACES: Final = {
    Measure.REQUESTS: 0,
    Measure.OUTPUT_TOKENS: 1,
    Measure.EUROS: 2,
    Measure.CALLS_IN_FLIGHT: 3,
}

# An attribute of an enumeration costs as much as a call; these are looked up for every call.
_INPUT: Final = UsageType.INPUT
_CACHED_INPUT: Final = UsageType.CACHED_INPUT
_OUTPUT: Final = UsageType.OUTPUT
_REASONING: Final = UsageType.REASONING

HOUR_S: Final = 3600
DAY_S: Final = 86_400


def limits_of(tier: Tier, month: str, month_ends_ms: int) -> tuple[Limit, ...]:
    """Return the limits of an account of this tier in a month, always in the order of ``LIMIT_NAMES``."""
    limits = [
        Limit(
            REQUESTS,
            LimitKind.WINDOW,
            tier.requests,
            tier.requests_window_s,
            1,
            Stamp.ADMISSION,
            counts=Measure.REQUESTS,
        ),
    ]
    if tier.output_tokens_hour is not None:
        limits.append(Limit(OUTPUT_TOKENS_HOUR, LimitKind.WINDOW, tier.output_tokens_hour, HOUR_S, 10))
    if tier.output_tokens_day is not None:
        limits.append(Limit(OUTPUT_TOKENS_DAY, LimitKind.WINDOW, tier.output_tokens_day, DAY_S, 300))
    cap = tier.monthly_limit_pico
    budget_nano = UNLIMITED_NANO if cap is None else cap // 1000
    limits.append(
        Limit(BUDGET_MONTH, LimitKind.BUDGET, budget_nano, period=month, ends_ms=month_ends_ms, counts=Measure.EUROS)
    )
    return tuple(limits)


class Allowance(msgspec.Struct, frozen=True):
    """What a call must fit into, how it is measured, and how its answer says so.

    Args:
        limits: all of them, taken together or not at all.
        headers: show them.
        pick: picks, beside each limit, what it counts, out of what a call uses.
    """

    limits: tuple[Limit, ...]
    headers: LimitHeaders
    pick: Callable[[tuple[int, int, int, int]], tuple[int, ...]]

    @classmethod
    def of(cls, limits: tuple[Limit, ...]) -> "Allowance":
        """Make the rest from the limits; there are at least two (requests and the budget)."""
        return cls(limits, LimitHeaders(limits), itemgetter(*[_PLACES[limit.counts] for limit in limits]))

    def needs(self, output_tokens: int, cost_pico: int) -> tuple[int, ...]:
        """Return, beside each limit, what a call may use of it; euros in nano-euros, rounded up."""
        return self.pick((1, output_tokens, -(-cost_pico // PICO_PER_NANO), 1))

    def amounts(self, output_tokens: int, cost_pico: int) -> tuple[int, ...]:
        """Return, beside each limit, what a call has used of it so far, or in the end."""
        return self.pick((1, output_tokens, -(-cost_pico // PICO_PER_NANO), 0))


def cost_bound_pico(call: PreparedCall, prices: PriceVersion, tariff_class: TariffClass) -> int:
    """Return the most that a call can cost, in pico-euros."""
    price = prices.unit_price_pico
    model = call.model.id
    if call.output_tokens_max:
        output_pico = max(price(model, _OUTPUT, tariff_class), price(model, _REASONING, tariff_class))
        input_pico = max(price(model, _INPUT, tariff_class), price(model, _CACHED_INPUT, tariff_class))
        return call.output_tokens_max * output_pico + call.input_tokens_max * input_pico
    total = 0
    if call.input_tokens_max:
        total += call.input_tokens_max * price(model, _INPUT, tariff_class)
    if call.rerank_tokens_max:
        total += call.rerank_tokens_max * price(model, UsageType.RERANK, tariff_class)
    if call.audio_minutes_max:
        total += call.audio_minutes_max * price(model, UsageType.AUDIO_MINUTES, tariff_class)
    return total
