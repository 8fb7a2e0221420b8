"""Quotas: a tier as limits, a call as needs, its settlement as amounts. Pure.

What belongs here: the order and names of the limits of an account, and the numbers that go with them.
"""

from typing import Final

from proxy.core.calls import PreparedCall
from proxy.core.catalogue import Tier
from proxy.core.limits import Limit, LimitKind, Stamp
from proxy.core.money import nano_from_pico_up
from proxy.core.pricing import PriceVersion
from proxy.core.usage import TariffClass, UsageType

REQUESTS: Final = "requests"
OUTPUT_TOKENS_HOUR: Final = "output_tokens_hour"
OUTPUT_TOKENS_DAY: Final = "output_tokens_day"
BUDGET_MONTH: Final = "budget_month"
LIMIT_NAMES: Final = (REQUESTS, OUTPUT_TOKENS_HOUR, OUTPUT_TOKENS_DAY, BUDGET_MONTH)
UNLIMITED_NANO: Final = 2**52
"""Stands for "no monthly cap" (4.5 million euros a month), so that what is spent is known for every account."""

HOUR_S: Final = 3600
DAY_S: Final = 86_400


def limits_of(tier: Tier, month: str, month_ends_ms: int) -> tuple[Limit, ...]:
    """Return the limits of an account of this tier in a month, always in the order of ``LIMIT_NAMES``."""
    limits = [
        Limit(REQUESTS, LimitKind.WINDOW, tier.requests, tier.requests_window_s, 1, Stamp.ADMISSION),
    ]
    if tier.output_tokens_hour is not None:
        limits.append(Limit(OUTPUT_TOKENS_HOUR, LimitKind.WINDOW, tier.output_tokens_hour, HOUR_S, 10))
    if tier.output_tokens_day is not None:
        limits.append(Limit(OUTPUT_TOKENS_DAY, LimitKind.WINDOW, tier.output_tokens_day, DAY_S, 300))
    cap = tier.monthly_limit_pico
    budget_nano = UNLIMITED_NANO if cap is None else cap // 1000
    limits.append(Limit(BUDGET_MONTH, LimitKind.BUDGET, budget_nano, period=month, ends_ms=month_ends_ms))
    return tuple(limits)


def amounts(limits: tuple[Limit, ...], output_tokens: int, cost_pico: int) -> tuple[int, ...]:
    """Return, beside each limit, what a call has used of it: one request, output tokens, or nano-euros rounded up."""
    nano = nano_from_pico_up(cost_pico)
    by_name = {
        REQUESTS: 1,
        OUTPUT_TOKENS_HOUR: output_tokens,
        OUTPUT_TOKENS_DAY: output_tokens,
        BUDGET_MONTH: nano,
    }
    return tuple([by_name[limit.name] for limit in limits])


def cost_bound_pico(call: PreparedCall, prices: PriceVersion, tariff_class: TariffClass) -> int:
    """Return the most that a call can cost, in pico-euros."""
    model = call.model.id

    def dearest(*types: UsageType) -> int:
        return max(prices.unit_price_pico(model, usage_type, tariff_class) for usage_type in types)

    return call.input_tokens_max * dearest(UsageType.INPUT, UsageType.CACHED_INPUT) + call.output_tokens_max * dearest(
        UsageType.OUTPUT, UsageType.REASONING
    )
