"""Quotas: tiers, keys and models as limits, a call as needs, its settlement as amounts. Pure.

What belongs here: the order and names of the limits of a call, and the numbers that go with them.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final

import msgspec

from proxy.core.calls import PreparedCall
from proxy.core.catalogue import OwnLimits, Tier
from proxy.core.headers import LimitHeaders
from proxy.core.limit_names import ACCOUNT_NAMES, KEY_NAMES, MODEL_NAMES, Names
from proxy.core.limits import UNLIMITED, Admission, Limit, LimitKind, Measure, Stamp
from proxy.core.money import PICO_PER_NANO, nano_from_pico_up
from proxy.core.pricing import PriceVersion
from proxy.core.usage import TariffClass, UsageType

UNLIMITED_NANO: Final = 2**52
"""Stands for "no monthly cap" (4.5 million euros a month), so that what is spent is known for every account."""
UNLIMITED_PICO: Final = UNLIMITED_NANO * PICO_PER_NANO

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
    """Return the limits of an account of this tier in a month, always in the order of ``ACCOUNT_NAMES``."""
    cap = tier.monthly_limit_pico
    numbers = OwnLimits(
        scope="",
        output_tokens_hour=tier.output_tokens_hour,
        output_tokens_day=tier.output_tokens_day,
        requests=tier.requests,
        requests_window_s=tier.requests_window_s,
        monthly_limit_pico=UNLIMITED_PICO if cap is None else cap,
        calls_in_flight=tier.calls_in_flight,
        shadow=tier.shadow,
    )
    return _limits(ACCOUNT_NAMES, numbers, month, month_ends_ms)


def key_limits_of(own: OwnLimits, month: str, month_ends_ms: int) -> tuple[Limit, ...]:
    """Return the limits of a key in a month, in the order of ``KEY_NAMES``."""
    return _limits(KEY_NAMES, own, month, month_ends_ms)


def model_limits_of(own: OwnLimits) -> tuple[Limit, ...]:
    """Return the limits of an account with a model, in the order of ``MODEL_NAMES``."""
    assert own.monthly_limit_pico is None
    return _limits(MODEL_NAMES, own, "", 0)


def _limits(names: Names, own: OwnLimits, month: str, month_ends_ms: int) -> tuple[Limit, ...]:
    def limit(name: str, setting: str, kind: LimitKind, capacity: int, counts: Measure, **more: Any) -> Limit:  # noqa: ANN401
        if setting not in own.shadow:
            return Limit(name, kind, capacity, counts=counts, scope=own.scope, **more)
        return Limit(name, kind, UNLIMITED, counts=counts, scope=own.scope, shadow=capacity, **more)

    window, tokens = LimitKind.WINDOW, Measure.OUTPUT_TOKENS
    made = []
    if (requests := own.requests) is not None:
        form = {"window_s": own.requests_window_s, "bucket_s": 1, "stamp": Stamp.ADMISSION}
        made.append(limit(names.requests, "requests", window, requests, Measure.REQUESTS, **form))
    if (hour := own.output_tokens_hour) is not None:
        name = names.output_tokens_hour
        made.append(limit(name, "output_tokens_hour", window, hour, tokens, window_s=HOUR_S, bucket_s=10))
    if (day := own.output_tokens_day) is not None:
        name = names.output_tokens_day
        made.append(limit(name, "output_tokens_day", window, day, tokens, window_s=DAY_S, bucket_s=300))
    if (cap := own.monthly_limit_pico) is not None:
        form = {"period": month, "ends_ms": month_ends_ms}
        nano = cap // PICO_PER_NANO
        made.append(limit(names.budget_month, "monthly_limit", LimitKind.BUDGET, nano, Measure.EUROS, **form))
    if (calls := own.calls_in_flight) is not None:
        name, form = names.calls_in_flight, {"window_s": 1, "bucket_s": 1}
        made.append(limit(name, "calls_in_flight", window, calls, Measure.CALLS_IN_FLIGHT, **form))
    return tuple(made)


class Allowance(msgspec.Struct, frozen=True):
    """What a call must fit into, how it is measured, and how its answer says so.

    Args:
        limits: all of them, taken together or not at all.
        headers: show them.
        pick: picks, beside each limit, what it counts, out of what a call uses.
        in_shadow: places of the limits that count and refuse nothing.
        output_place: place of the first limit that counts output tokens; None: there is none.
        output_tokens_max: the smallest capacity of those limits; None: there is none.
    """

    limits: tuple[Limit, ...]
    headers: LimitHeaders
    pick: Callable[[tuple[int, int, int, int]], tuple[int, ...]]
    in_shadow: tuple[int, ...] = ()
    output_place: int | None = None
    output_tokens_max: int | None = None

    @classmethod
    def of(cls, limits: tuple[Limit, ...]) -> "Allowance":
        """Make the rest from the limits; there is at least one, the budget."""
        places = [_PLACES[limit.counts] for limit in limits]
        pick = itemgetter(*places) if len(places) > 1 else itemgetter(slice(places[0], places[0] + 1))
        in_shadow = tuple(place for place, limit in enumerate(limits) if limit.shadow is not None)
        output = [place for place, limit in enumerate(limits) if limit.counts is Measure.OUTPUT_TOKENS]
        most = min([limits[place].capacity for place in output], default=None)
        return cls(limits, LimitHeaders(limits), pick, in_shadow, output[0] if output else None, most)

    def needs(self, output_tokens: int, cost_pico: int) -> tuple[int, ...]:
        """Return, beside each limit, what a call may use of it; euros in nano-euros, rounded up."""
        return self.pick((1, output_tokens, nano_from_pico_up(cost_pico), 1))

    def amounts(self, output_tokens: int, cost_pico: int) -> tuple[int, ...]:
        """Return, beside each limit, what a call has used of it so far, or in the end."""
        return self.pick((1, output_tokens, nano_from_pico_up(cost_pico), 0))

    def would_refuse(self, answer: Admission, needs: Sequence[int]) -> tuple[str, ...]:
        """Return the names of the limits in shadow that would have refused a call: only those that are asked know."""
        names = []
        for place in self.in_shadow:
            limit, state = self.limits[place], answer.states[place]
            assert limit.shadow is not None
            capacity = limit.shadow
            if state.capacity != limit.capacity:  # only a share of it can be granted now
                capacity = -(-capacity * state.capacity // limit.capacity)
            taken = state.used + state.held + (0 if answer.admitted else needs[place])
            if taken > capacity:
                names.append(limit.name)
        return tuple(names)


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
