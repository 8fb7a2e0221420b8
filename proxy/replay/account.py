"""An account's month, lived again: each call is admitted and settled by the code that does it in the proxy. Pure.

What belongs here: the order of what happens, and counting it. What does not: the rules of limits
(core/account_state.py), which limits there are (proposal.py), and where calls come from (ledger/).

- A call is admitted at its admission, and settled as long afterwards as it was then, with what it used. Of what happens
  in one millisecond, settlements come first.
- It holds what it used, or a stated cap: what it could have used is in no entry. A heartbeat is taken for granted.
- Calls from before the month count in its windows, and hold, as they were: none of them is refused.
- A line of a batch was admitted with its batch, and counts in budgets only; it is settled there and then, for it ran
  whenever there was room.
- A refused call leaves no trace, and is gone; or it is tried again at Retry-After, as SDKs do, up to a minute away.
"""

import heapq
from collections import Counter
from typing import Final

from proxy.allowances import Allowances
from proxy.core.account_state import AccountState
from proxy.core.headers import RETRY_SOON_MS, wait_of
from proxy.core.limit_names import BUDGET_NAMES
from proxy.core.limits import Admission
from proxy.core.quotas import Allowance
from proxy.core.usage import TariffClass
from proxy.ledger.months_entries import Holder, SettledCall
from proxy.months import Months
from proxy.replay.proposal import Proposal, Room, Rooms, output_tokens
from proxy.replay.report import AccountReport, Peak, Sums

_SETTLES: Final = 0
_BEATS: Final = 1
_COMES_AGAIN: Final = 2


class _Flight:
    """A call that has been admitted."""

    __slots__ = ("allowance", "amounts", "call_id", "ends_ms")

    def __init__(self, call_id: str, allowance: Allowance, amounts: tuple[int, ...], ends_ms: int) -> None:
        self.call_id = call_id
        self.allowance = allowance
        self.amounts = amounts
        self.ends_ms = ends_ms


class AccountReplay:
    """Replays the calls of one account, in the order of their admission.

    Args:
        proposal: what they are replayed against.
        holder: the account.
        month: which, ``YYYY-MM``; calls of another month come before it.
        allowances: puts limits together, for all accounts.
        months: the same for months.
    """

    def __init__(self, proposal: Proposal, holder: Holder, month: str, allowances: Allowances, months: Months) -> None:
        self._proposal = proposal
        self._holder = holder
        self._month = month
        self._months = months
        self._timezone = holder.account.timezone
        self._rooms = Rooms(proposal, holder, allowances)
        self._state = AccountState(0, proposal.hold_ttl_ms)
        self._beat_ms = proposal.hold_ttl_ms // 2
        self._events: list[tuple[int, int, int, _Flight | tuple[SettledCall, int]]] = []
        self._numbers = 0
        self._calls = 0
        self._refused: Counter[str] = Counter()
        self._shadowed: Counter[str] = Counter()
        self._delayed = 0
        self._lost_tokens = self._lost_pico = self._charged_pico = self._proposed_pico = 0
        self._first_refused_ms: int | None = None
        self._peaks: dict[str, Peak] = {}
        self._tiers: dict[str, None] = {}

    @property
    def refused_calls(self) -> int:
        """How many were refused so far."""
        return self._refused.total()

    def play(self, call: SettledCall) -> None:
        """Replay one call more.

        Raises:
            ProposalError: its tier is not in the proposal.
            UnpricedError: what it used has no price.
        """
        self._happen_until(call.admitted_ms)
        if call.month == self._month:
            self._calls += 1
            self._charged_pico += call.cost_pico
            self._tiers[call.tier] = None
        self._try(call, call.admitted_ms, 0)

    def finish(self) -> AccountReport:
        """Let everything end, and return what became of the calls."""
        while self._events:
            self._happen_until(self._events[0][0])
        sums = Sums(
            self._calls,
            dict(sorted(self._refused.items())),
            self._delayed,
            dict(sorted(self._shadowed.items())),
            self._lost_tokens,
            self._lost_pico,
            self._charged_pico,
            self._proposed_pico,
        )
        account = self._holder.account
        return AccountReport(
            account.id,
            account.name,
            account.timezone,
            tuple(self._tiers),
            self._proposal.tier,
            sums,
            self._first_refused_ms,
            self._peaks,
        )

    # What happens

    def _happen_until(self, now_ms: int) -> None:
        """Let everything happen that is due, in order."""
        while self._events and self._events[0][0] <= now_ms:
            at_ms, kind, _, what = heapq.heappop(self._events)
            if isinstance(what, tuple):
                self._try(what[0], at_ms, what[1])
            elif kind == _SETTLES:
                self._state.settle(what.call_id, what.allowance.limits, what.amounts, at_ms)
            else:
                limits = what.allowance.limits
                self._state.extend(what.call_id, limits, (0,) * len(limits), at_ms)
                self._await(what, at_ms)

    def _await(self, flight: _Flight, now_ms: int) -> None:
        """Note when a call that runs is heard of next."""
        if flight.ends_ms - now_ms <= self._beat_ms:
            self._note(flight.ends_ms, _SETTLES, flight)
        else:
            self._note(now_ms + self._beat_ms, _BEATS, flight)

    def _note(self, at_ms: int, kind: int, what: _Flight | tuple[SettledCall, int]) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (at_ms, kind, self._numbers, what))

    def _try(self, call: SettledCall, at_ms: int, tries: int) -> None:
        is_before = call.month != self._month
        is_line = call.tariff_class == TariffClass.BATCH
        month = self._months.at(at_ms, self._timezone)
        room = self._rooms.of(call, month, at_ms, is_open=is_before, is_line=is_line)
        allowance = room.allowance
        tokens, cost_pico, held_pico = output_tokens(call), 0, 0
        if not is_before:
            cost_pico = self._proposal.rating.cost_pico(call, at_ms)
            tokens, held_pico = self._proposal.holds(call, cost_pico, at_ms)
        if self._state.lacks(allowance.limits):
            self._state.seed(allowance.limits, {}, {}, at_ms)
        needs = allowance.needs(tokens, held_pico)
        answer = self._state.admit(call.call_id, allowance.limits, needs, at_ms)
        if answer.admitted:
            length_ms = 0 if is_line else call.settled_ms - call.admitted_ms
            amounts = allowance.amounts(output_tokens(call), cost_pico)
            self._await(_Flight(call.call_id, allowance, amounts, at_ms + length_ms), at_ms)
        if is_before:
            return
        if allowance.in_shadow and not tries:
            self._shadowed.update(allowance.would_refuse(answer, needs))
        if answer.admitted:
            self._proposed_pico += cost_pico
            self._delayed += tries > 0
            self._watch(room, answer)
        else:
            self._refuse(call, answer, cost_pico, at_ms, tries)

    def _refuse(self, call: SettledCall, answer: Admission, cost_pico: int, at_ms: int, tries: int) -> None:
        assert answer.bound is not None
        wait_ms = max(1, wait_of(answer))
        if tries < self._proposal.retries and answer.bound not in BUDGET_NAMES and wait_ms <= RETRY_SOON_MS:
            self._note(at_ms + -(-wait_ms // 1000) * 1000, _COMES_AGAIN, (call, tries + 1))
            return
        self._refused[answer.bound] += 1
        self._lost_tokens += output_tokens(call)
        self._lost_pico += cost_pico
        if self._first_refused_ms is None or call.admitted_ms < self._first_refused_ms:
            self._first_refused_ms = call.admitted_ms

    def _watch(self, room: Room, answer: Admission) -> None:
        for place, name, capacity in room.watched:
            state = answer.states[place]
            amount = state.used + state.held
            best = self._peaks.get(name)
            if best is None or amount * best.capacity > best.amount * capacity:
                self._peaks[name] = Peak(amount, capacity)
