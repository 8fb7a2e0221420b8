"""A proposal: what a month is replayed against. Pure.

What belongs here: the values, and which limits a call of the past would have had to fit into. What does not: what
became of it (account.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from proxy.allowances import Allowances
from proxy.core.accounts import Key, Principal
from proxy.core.catalogue import Model, Tier
from proxy.core.endpoints import ROUTE_USAGE_TYPES
from proxy.core.levels import Override, with_overrides
from proxy.core.limits import UNLIMITED, Limit, LimitKind
from proxy.core.quotas import UNLIMITED_NANO, Allowance, limits_of
from proxy.core.usage import UsageType
from proxy.core.windows import Key as LimitKey
from proxy.core.windows import key_of
from proxy.ledger.months_entries import Holder, SettledCall
from proxy.months import Month
from proxy.replay.rating import Rating

_OUTPUT: Final = tuple(UsageType).index(UsageType.OUTPUT)
_REASONING: Final = tuple(UsageType).index(UsageType.REASONING)
_GENERATING: Final = frozenset(route for route, kinds in ROUTE_USAGE_TYPES.items() if UsageType.OUTPUT in kinds)
_REMEMBERED_MAX: Final = 4096


class Proposal(msgspec.Struct, frozen=True):
    """What a month is replayed against.

    Args:
        tiers: by id.
        rating: the prices.
        models: by every name; their limits hold as they are.
        tier: id of the one that every account is given; None: each call has the one that it was made with.
        cap: output tokens that a call holds at least while it runs; None: what it used in the end.
        retries: how often a refused call is tried again, at Retry-After, as far as SDKs wait.
        hold_ttl_ms: life of a hold without a heartbeat.
    """

    tiers: Mapping[str, Tier]
    rating: Rating
    models: Mapping[str, Model] = {}
    tier: str | None = None
    cap: int | None = None
    retries: int = 0
    hold_ttl_ms: int = 60_000

    def tier_of(self, call: SettledCall) -> Tier:
        """Return the tier of a call.

        Raises:
            ProposalError: the proposal has none of that name.
        """
        tier = self.tiers.get(self.tier or call.tier)
        if tier is None:
            raise ProposalError(f"there is no tier {call.tier!r}, with which call {call.call_id} was made")
        return tier

    def holds(self, call: SettledCall, cost_pico: int, at_ms: int) -> tuple[int, int]:
        """Return the output tokens and pico-euros that a call holds."""
        tokens = output_tokens(call)
        if self.cap is None or self.cap <= tokens or call.endpoint not in _GENERATING:
            return tokens, cost_pico
        return self.cap, cost_pico + (self.cap - tokens) * self.rating.output_unit_pico(call, at_ms)


class ProposalError(Exception):
    """The month cannot be replayed against this proposal; the message says why, for the operator."""


def output_tokens(call: SettledCall) -> int:
    """Return the tokens of a call that count in the output windows: output and reasoning."""
    return call.quantities[_OUTPUT] + call.quantities[_REASONING]


class Room(msgspec.Struct, frozen=True):
    """What a call must fit into.

    Args:
        allowance: its limits, and behind them those that only count.
        watched: (place, name, capacity) of those whose fullness is of interest.
    """

    allowance: Allowance
    watched: tuple[tuple[int, str, int], ...]


class Rooms:
    """Finds what the calls of one account must fit into.

    A window is another limit when its length changes. Where an account's tier changed in the month, or was overridden,
    each of its calls counts in all windows that it ever has then: each finds what was used before, as in the ledger.

    Args:
        proposal: what is proposed.
        holder: the account.
        allowances: the proxy's own.
    """

    def __init__(self, proposal: Proposal, holder: Holder, allowances: Allowances) -> None:
        self._proposal = proposal
        self._holder = holder
        self._allowances = allowances
        self._principals: dict[str, Principal] = {}
        self._until_ms = 0
        self._overrides: tuple[Override, ...] = ()
        self._rooms: dict[tuple[int, bool, bool], tuple[Allowance, Room]] = {}
        held = holder.tiers if proposal.tier is None else (proposal.tier,)
        tiers = [proposal.tiers[tier] for tier in held if tier in proposal.tiers]
        self._first = tiers[0] if tiers else None
        self._counting = _windows_ever(holder, tiers)

    def of(self, call: SettledCall, month: Month, at_ms: int, *, is_open: bool, is_line: bool) -> Room:
        """Return what a call must fit into.

        Args:
            call: the call.
            month: that it is tried in.
            at_ms: when, Unix milliseconds; never before that of the last call.
            is_open: whether everything counts, and nothing refuses: it was made before the month.
            is_line: whether it is a line of a batch, which budgets count and no window.
        """
        if at_ms >= self._until_ms:
            self._renew(at_ms)
        principal = self._principals.get(call.key_id) or self._principal(call.key_id)
        model = self._proposal.models.get(call.model)
        tier = (self._first if is_open else None) or self._proposal.tier_of(call)
        allowance = self._allowances.of(principal, model, tier, month, at_ms)
        place = (id(allowance), is_open, is_line)
        made = self._rooms.get(place)
        if made is None or made[0] is not allowance:
            if len(self._rooms) >= _REMEMBERED_MAX:
                self._rooms.clear()
            made = self._rooms[place] = (allowance, self._room(allowance, is_open=is_open, is_line=is_line))
        return made[1]

    def _room(self, allowance: Allowance, *, is_open: bool, is_line: bool) -> Room:
        limits = tuple(_budgets(allowance.limits)) if is_line else allowance.limits
        own = {key_of(limit) for limit in limits}
        behind = () if is_line else tuple(limit for key, limit in self._counting.items() if key not in own)
        if is_open:
            return Room(Allowance.of((*map(_unlimited, limits), *behind)), ())
        capacities = [limit.capacity if limit.shadow is None else limit.shadow for limit in limits]
        watched = tuple(
            (place, limit.name, capacity)
            for place, (limit, capacity) in enumerate(zip(limits, capacities, strict=True))
            if capacity < UNLIMITED_NANO
        )
        return Room(Allowance.of((*limits, *behind)), watched)

    def _principal(self, key_id: str) -> Principal:
        if len(self._principals) >= _REMEMBERED_MAX:
            self._principals.clear()
        key = self._holder.keys.get(key_id) or Key(key_id, self._holder.account.id, "")
        principal = self._principals[key_id] = Principal(self._holder.account, key, self._overrides)
        return principal

    def _renew(self, at_ms: int) -> None:
        """Find the overrides in force, and until when they are."""
        spans = self._holder.overrides
        self._overrides = tuple(span.override for span in spans if span.since_ms <= at_ms < span.override.ends_ms)
        self._until_ms = min((at for at in _changes(self._holder) if at > at_ms), default=UNLIMITED)
        self._principals.clear()


def _changes(holder: Holder) -> list[int]:
    return [at for span in holder.overrides for at in (span.since_ms, span.override.ends_ms)]


def _windows_ever(holder: Holder, tiers: Sequence[Tier]) -> dict[LimitKey, Limit]:
    """Return the windows of the account's own that it has at any time, as limits that refuse nothing."""
    if len(tiers) == 1 and not holder.overrides:
        return {}
    found: dict[LimitKey, Limit] = {}
    for at_ms in (0, *_changes(holder)):
        overrides = [span.override for span in holder.overrides if span.since_ms <= at_ms]
        for tier in tiers:
            limits = limits_of(with_overrides(tier, overrides, at_ms)[0], "", 0)
            found |= {key_of(limit): _unlimited(limit) for limit in _windows(limits)}
    return found


def _windows(limits: Iterable[Limit]) -> Iterable[Limit]:
    return (limit for limit in limits if limit.window_s)


def _budgets(limits: Iterable[Limit]) -> Iterable[Limit]:
    return (limit for limit in limits if limit.kind is LimitKind.BUDGET)


def _unlimited(limit: Limit) -> Limit:
    return msgspec.structs.replace(limit, capacity=UNLIMITED, shadow=None)
