"""Which limits a call must fit into: its account's, its key's and its model's, remembered between calls.

What belongs here: putting the levels together, in front of ``core.quotas``. What does not: what a limit is (core/), and
which month it is (months.py).

An account without overrides, a key and a model without limits of their own share one allowance with every other such
call of the tier. The others are remembered each, as long as nothing that they are made of changes.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from proxy.core.accounts import Principal
from proxy.core.catalogue import Model, OwnLimits, Tier
from proxy.core.levels import Override, with_overrides
from proxy.core.limits import Limit
from proxy.core.quotas import Allowance, key_limits_of, limits_of, model_limits_of
from proxy.months import Month

REMEMBERED_MAX: Final = 16_384
"""How many allowances are remembered that are not their tier's; beyond it the memory begins again."""
TIERS_REMEMBERED_MAX: Final = 512
"""The same of those that are."""


class _Parts(NamedTuple):
    """What an allowance is made of. Compared by value: accounts are read again with each change of any of them."""

    tier: Tier
    month: str
    month_ends_ms: int
    overrides: tuple[Override, ...]
    key_limits: OwnLimits | None
    model_limits: OwnLimits | None


class Allowances:
    """Finds the allowance of a call."""

    def __init__(self) -> None:
        self._of_tiers: dict[tuple[str, str, int], tuple[Tier, Allowance]] = {}
        self._remembered: dict[tuple[str, str, str, int], tuple[_Parts, int, Allowance]] = {}

    def of(self, principal: Principal, model: Model | None, tier: Tier, month: Month, now_ms: int) -> Allowance:
        """Return what a call must fit into.

        Args:
            principal: who calls.
            model: what for; None: that is not known, and nothing is said of its limits.
            tier: that the account holds.
            month: the account's.
            now_ms: Unix milliseconds.
        """
        model_limits = None if model is None else model.limits
        key_limits = principal.key.limits
        if model_limits is None and key_limits is None and not principal.overrides:
            return self._of_tier(tier, month)
        is_own = key_limits is not None or principal.overrides
        place = (
            principal.account.id if is_own else tier.id,
            "" if key_limits is None else principal.key.id,
            "" if model_limits is None else model_limits.scope,
            month.ends_ms,
        )
        parts = _Parts(tier, month.name, month.ends_ms, principal.overrides, key_limits, model_limits)
        remembered = self._remembered.get(place)
        if remembered is None or remembered[0] != parts or remembered[1] <= now_ms:
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            remembered = self._remembered[place] = (parts, *_put_together(parts, now_ms))
        return remembered[2]

    def _of_tier(self, tier: Tier, month: Month) -> Allowance:
        place = (tier.id, month.name, month.ends_ms)
        remembered = self._of_tiers.get(place)
        if remembered is None or remembered[0] is not tier:  # a reload brings new tiers under the old ids
            if len(self._of_tiers) >= TIERS_REMEMBERED_MAX:
                self._of_tiers.clear()
            remembered = self._of_tiers[place] = (tier, Allowance.of(limits_of(tier, month.name, month.ends_ms)))
        return remembered[1]


def _put_together(parts: _Parts, now_ms: int) -> tuple[int, Allowance]:
    """Return the allowance as it is now, after the time until which it is so."""
    tier, until_ms = with_overrides(parts.tier, parts.overrides, now_ms)
    limits = limits_of(tier, parts.month, parts.month_ends_ms)
    if parts.key_limits is not None:
        limits += key_limits_of(parts.key_limits, parts.month, parts.month_ends_ms)
    if parts.model_limits is not None:
        limits += model_limits_of(parts.model_limits)
    return until_ms, Allowance.of(limits)


def limits_of_models(models: Iterable[Model]) -> tuple[Limit, ...]:
    """Return the limits that an account has with models, each model once."""
    own = {model.limits.scope: model.limits for model in models if model.limits is not None}
    return tuple(limit for limits in own.values() for limit in model_limits_of(limits))
