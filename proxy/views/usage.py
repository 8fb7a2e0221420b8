"""What an account has used and may still use (GET /v1/usage).

What belongs here: the shape of the answer. What does not: counting (limiter/, ledger/reading.py). Amounts of money are
exact decimal strings, instants are given in Unix seconds and in RFC 3339.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from proxy.core.accounts import Account
from proxy.core.calendar import month_bounds_ms
from proxy.core.catalogue import Tier
from proxy.core.limit_names import KEY_NAMES, MODEL_NAMES, model_of_scope
from proxy.core.limits import UNLIMITED, Limit, LimitKind, LimitState, Measure
from proxy.core.money import PICO_PER_NANO, euros_text
from proxy.core.quotas import UNLIMITED_NANO
from proxy.ledger.store import MonthUsage
from proxy.months import Month
from proxy.views.credit import ShownCredit
from proxy.views.instants import seconds_up, text_of_s
from proxy.views.receipt import CURRENCY, ShownTier, unit_of

_UNITS: Final = {
    Measure.REQUESTS: "requests",
    Measure.OUTPUT_TOKENS: "tokens",
    Measure.EUROS: CURRENCY,
    Measure.CALLS_IN_FLIGHT: "calls",
}


class ShownLimit(msgspec.Struct, frozen=True, omit_defaults=True):
    """One limit: whole numbers of requests, tokens or calls, or exact amounts of euros as text.

    ``limit`` and ``remaining`` are null where there is none. A window has ``window_seconds``, a budget has ``period``.
    ``scope`` says whose limit it is: the account's, that of the ``key`` which asks, or the account's with a ``model``.
    A limit whose ``mode`` is ``shadow`` counts and refuses nothing.
    """

    name: str
    scope: str
    unit: str
    limit: int | str | None
    used: int | str
    held: int | str
    remaining: int | str | None
    reset: int
    reset_at: str
    window_seconds: int = 0
    period: str = ""
    key: str = ""
    model: str = ""
    mode: str = ""


class ShownLine(msgspec.Struct, frozen=True):
    """What was used of one type, with one model, in one price class."""

    model: str
    type: str
    tariff_class: str = msgspec.field(name="class")
    quantity: int
    unit: str
    amount: str


class ShownPeriod(msgspec.Struct, frozen=True):
    """A day or a month."""

    period: str
    starts: int
    starts_at: str
    ends: int
    ends_at: str
    calls: int
    total: str
    lines: tuple[ShownLine, ...]


class ShownUsage(msgspec.Struct, frozen=True):
    """Everything. ``as_of`` is when it was put together."""

    object: str
    as_of: int
    as_of_at: str
    account: str
    tier: ShownTier
    timezone: str
    currency: str
    degraded: bool
    limits: tuple[ShownLimit, ...]
    today: ShownPeriod
    month: ShownPeriod
    credit: ShownCredit | UnsetType = UNSET


def usage_shown(
    account: Account,
    tier: Tier,
    month: Month,
    limits: Sequence[tuple[Limit, LimitState]],
    used: tuple[MonthUsage, MonthUsage],
    now_ms: int,
    *,
    credit: ShownCredit | None,
    is_degraded: bool,
) -> ShownUsage:
    """Return the answer.

    Args:
        account: whose.
        tier: that it holds.
        month: its present month and day.
        limits: its limits, those of its key and those with models, and how each stands.
        used: of the day, and of the month.
        now_ms: Unix milliseconds.
        credit: what it has prepaid; None: it has nothing to do with credit.
        is_degraded: whether the states are those of this process alone.
    """
    day_used, month_used = used
    starts_ms, ends_ms = month_bounds_ms(month.name, account.timezone)
    now_s = now_ms // 1000
    return ShownUsage(
        object="usage",
        as_of=now_s,
        as_of_at=text_of_s(now_s),
        account=account.name,
        tier=ShownTier(tier.id, tier.title),
        timezone=account.timezone,
        currency=CURRENCY,
        degraded=is_degraded,
        limits=tuple(_limit(limit, state) for limit, state in limits),
        today=_period(month.day, month.day_starts_ms, month.day_ends_ms, day_used),
        month=_period(month.name, starts_ms, ends_ms, month_used),
        credit=UNSET if credit is None else credit,
    )


def _limit(limit: Limit, state: LimitState) -> ShownLimit:
    reset = seconds_up(state.reset_ms)
    scope, key, model = "account", "", ""
    if limit.name in KEY_NAMES:
        scope, key = "key", limit.scope
    elif limit.name in MODEL_NAMES:
        scope, model = "model", model_of_scope(limit.scope)
    capacity: int | None = state.capacity
    if limit.shadow is not None:
        capacity = limit.shadow
    elif limit.capacity in (UNLIMITED, UNLIMITED_NANO):
        capacity = None
    remaining = None if capacity is None else max(0, capacity - state.used - state.held)
    amount = _euros if limit.kind is LimitKind.BUDGET else _whole
    return ShownLimit(
        limit.name,
        scope,
        _UNITS[limit.counts],
        None if capacity is None else amount(capacity),
        amount(state.used),
        amount(state.held),
        None if remaining is None else amount(remaining),
        reset,
        text_of_s(reset),
        window_seconds=limit.window_s if limit.counts is not Measure.CALLS_IN_FLIGHT else 0,
        period=limit.period,
        key=key,
        model=model,
        mode="" if limit.shadow is None else "shadow",
    )


def _whole(amount: int) -> int | str:
    return amount


def _euros(amount_nano: int) -> int | str:
    return euros_text(amount_nano * PICO_PER_NANO)


def _period(name: str, starts_ms: int, ends_ms: int, used: MonthUsage) -> ShownPeriod:
    starts, ends = starts_ms // 1000, ends_ms // 1000
    lines = tuple(
        ShownLine(
            line.model,
            line.usage_type.value,
            line.tariff_class.value,
            line.quantity,
            unit_of(line.usage_type)[0],
            euros_text(line.cost_pico),
        )
        for line in used.lines
    )
    return ShownPeriod(
        name, starts, text_of_s(starts), ends, text_of_s(ends), used.calls, euros_text(used.cost_pico), lines
    )
