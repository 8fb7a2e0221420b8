"""Limits under load, simulated: how much of a window each policy of holding uses, and whether more is delivered.

What belongs here: the discrete-event model of the clients and streams of one account. What decides is the proxy's own
code (``AccountState``, ``Lengths``, ``Growing``), not a model of it. What does not belong here: which cases are run,
and the table (holds.py).

The model: calls come at random, at a multiple of what the limit could carry, evenly or in bursts. Each would produce a
length drawn from a log-normal distribution, up to its cap, at a speed of its own. A client that is refused comes back
after Retry-After, as SDKs do: twice at most, and not if that is more than a minute. A window is what has been delivered
in any 3,600 (86,400) whole seconds, whatever the limiter thinks.
"""

import heapq
import math
import random
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Final

import msgspec

from proxy.core.account_state import AccountState
from proxy.core.growing import Growing
from proxy.core.lengths import Lengths
from proxy.core.limits import Growth, Limit, LimitKind

MEDIAN_TOKENS: Final = 350
SIGMA: Final = 1.0
"""Of the logarithms: one call in ten is longer than 1,260 tokens, one in a hundred than 3,590."""
SPEEDS: Final = (20, 50, 90)
"""Tokens per second: the slowest, the most usual and the fastest (a triangular distribution)."""
BURST_SHARE: Final = 1 / 3
"""Of the tightest window, what one burst asks for ..."""
BURST_MS: Final = 5_000
"""... within this time."""
FIRST_TOKEN_MS: Final = 400
HOLD_TTL_MS: Final = 60_000
HEARTBEAT_MS: Final = 5_000
RETRIES_MAX: Final = 2
RETRY_MAX_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
ACCOUNT, MODEL = "account", "model"


class Policy(StrEnum):
    """What a call holds, and what happens when that is not enough."""

    CAP = "whole cap held"
    AFTER = "paid afterwards"
    STRICT = "adaptive, strict"
    SOFT = "adaptive, soft"


class Case(msgspec.Struct, frozen=True):
    """One run.

    Args:
        policy: what is held.
        cap: max_tokens of every call.
        windows: (capacity in tokens, length in s, bucket in s) of the account's limits.
        load: offered tokens, as a multiple of what the tightest window lets pass.
        bursts: whether calls come in bursts.
        hours: how long it is measured, after a warm-up of the tightest window and a quarter.
        per_cent, step, patience_ms: the limiter's settings.
    """

    policy: Policy
    cap: int
    windows: tuple[tuple[int, int, int], ...]
    load: float
    bursts: bool = False
    hours: float = 4
    per_cent: int = 90
    step: int = 256
    patience_ms: int = 10_000


class Outcome(msgspec.Struct, frozen=True):
    """What came of it: shares in per cent."""

    used: float
    worst: float
    cut: float
    refused: float
    streams: int


class _Stream:
    __slots__ = ("asks", "booked_ms", "call_id", "dry_ms", "growing", "length", "passed", "per_ms", "started_ms")

    def __init__(self, call_id: str, growing: Growing, length: int, per_ms: float, now_ms: int) -> None:
        self.call_id = call_id
        self.growing = growing
        self.length = length
        self.per_ms = per_ms
        self.started_ms = now_ms + FIRST_TOKEN_MS
        self.passed = 0  # delivered
        self.booked_ms = self.started_ms  # up to when deliveries are booked
        self.dry_ms: int | None = None  # since when nothing passes for want of a hold
        self.asks = False


class Simulation:
    """One case. Deterministic for a seed."""

    def __init__(self, case: Case, seed: int) -> None:
        self._case = case
        self._random = random.Random(seed)
        self._limits = tuple(
            Limit(f"w{seconds}", LimitKind.WINDOW, capacity, seconds, bucket)
            for capacity, seconds, bucket in case.windows
        )
        self._state = AccountState(0, HOLD_TTL_MS)
        self._state.seed(self._limits, {}, {}, 0)
        self._lengths = Lengths(case.per_cent)
        self._events: list[tuple[int, int, Callable[[int], None]]] = []
        self._number = 0
        self._streams: dict[str, _Stream] = {}
        self._capacity, self._seconds, _ = min(case.windows, key=lambda window: window[0] / window[1])
        self._warm_ms = self._seconds * 1250
        self._end_ms = self._warm_ms + int(case.hours * HOUR_MS)
        self._delivered = [0] * (self._end_ms // 1000 + 600)
        self._offered = self._refused = self._cut = self._ended = 0
        mean = sum(min(self._length(), case.cap) for _ in range(20_000)) / 20_000
        self._gap_ms = self._seconds * 1000 * mean / self._capacity / case.load
        self._burst = max(2, int(self._capacity * BURST_SHARE / mean))

    def run(self) -> Outcome:
        """Run to the end."""
        self._at(0, self._arrive)
        while self._events:
            now_ms, _, what = heapq.heappop(self._events)
            if now_ms >= self._end_ms:
                break
            what(now_ms)
        first, last = self._warm_ms // 1000, self._end_ms // 1000
        sums = [0]
        for amount in self._delivered[:last]:
            sums.append(sums[-1] + amount)
        fills = [sums[end] - sums[end - self._seconds] for end in range(first, last + 1)]
        used = 100 * sum(fills) / len(fills) / self._capacity
        worst = 0.0
        for capacity, seconds, _ in self._case.windows:
            most = max(sums[end] - sums[max(0, end - seconds)] for end in range(1, last + 1))
            worst = max(worst, 100 * most / capacity)
        return Outcome(
            used, worst, 100 * self._cut / max(1, self._ended), 100 * self._refused / max(1, self._offered), self._ended
        )

    def _at(self, when_ms: int, what: Callable[[int], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (when_ms, self._number, what))

    def _length(self) -> int:
        return max(1, int(self._random.lognormvariate(math.log(MEDIAN_TOKENS), SIGMA)))

    # Clients

    def _arrive(self, now_ms: int) -> None:
        count = self._burst if self._case.bursts else 1
        for _ in range(count):
            late_ms = int(self._random.uniform(0, BURST_MS)) if self._case.bursts else 0
            length = min(self._length(), self._case.cap)
            self._at(now_ms + late_ms, partial(self._ask, length, 0))
        self._at(now_ms + 1 + int(self._random.expovariate(1 / (self._gap_ms * count))), self._arrive)

    def _ask(self, length: int, retries: int, now_ms: int) -> None:
        case = self._case
        is_counted = now_ms >= self._warm_ms
        self._offered += is_counted and not retries
        self._number += 1
        call_id = str(self._number)
        held = 1
        if case.policy is Policy.CAP:
            held = case.cap
        elif case.policy is not Policy.AFTER:
            held = self._lengths.expected(ACCOUNT, MODEL, case.cap, streamed=True)
        answer = self._state.admit(call_id, self._limits, (held,) * len(self._limits), now_ms)
        if not answer.admitted:
            wait_ms = -(-(answer.retry_after_ms or 0) // 1000) * 1000
            if retries < RETRIES_MAX and wait_ms <= RETRY_MAX_MS:
                self._at(now_ms + wait_ms, partial(self._ask, length, retries + 1))
            else:
                self._refused += is_counted
            return
        per_ms = self._random.triangular(SPEEDS[0], SPEEDS[2], SPEEDS[1]) / 1000
        stream = self._streams[call_id] = _Stream(call_id, Growing(held, case.cap, case.step), length, per_ms, now_ms)
        self._at(now_ms + HEARTBEAT_MS, partial(self._beat, stream))
        self._plan(stream, now_ms)

    # Streams

    def _produced(self, stream: _Stream, now_ms: int) -> int:
        return min(stream.length, max(0, int((now_ms - stream.started_ms) * stream.per_ms)))

    def _pass(self, stream: _Stream, now_ms: int) -> None:
        """Deliver what has been produced, as far as the hold reaches, and book when."""
        reach = stream.growing.held if self._case.policy is Policy.STRICT else stream.length
        passing = min(self._produced(stream, now_ms), reach) - stream.passed
        if passing > 0:
            first, last = stream.booked_ms // 1000, now_ms // 1000
            if stream.dry_ms is not None:
                first = last
            share, rest = divmod(passing, last - first + 1)
            for second in range(first, last + 1):
                self._delivered[second] += share
            self._delivered[last] += rest
            stream.passed += passing
        stream.booked_ms = max(now_ms, stream.booked_ms)

    def _when(self, stream: _Stream, tokens: int) -> int:
        """Return when a stream will have produced so many tokens."""
        return stream.started_ms + math.ceil(tokens / stream.per_ms)

    def _plan(self, stream: _Stream, now_ms: int) -> None:
        """Let the next thing happen to a stream: it has passed whole, asks for more, or has nothing left to pass."""
        growing, policy = stream.growing, self._case.policy
        ends_ms = self._when(stream, stream.length)
        if policy is not Policy.STRICT or growing.held >= stream.length:
            self._at(max(now_ms, ends_ms), partial(self._end, stream))
        if policy in (Policy.STRICT, Policy.SOFT) and not stream.asks and not growing.is_full:
            asks_ms = max(now_ms, self._when(stream, growing.ask_at))
            if asks_ms < ends_ms or growing.held < stream.length:
                stream.asks = True
                self._at(asks_ms, partial(self._grow, stream))

    def _grow(self, stream: _Stream, now_ms: int) -> None:
        """Ask as proxy/growth.py does."""
        if stream.call_id not in self._streams:
            return
        growing, case = stream.growing, self._case
        self._pass(stream, now_ms)
        if case.policy is Policy.STRICT and stream.dry_ms is None and self._produced(stream, now_ms) > growing.held:
            stream.dry_ms = now_ms
        if self._gets_more(stream, now_ms):
            self._pass(stream, now_ms)
            stream.dry_ms, stream.asks = None, False
            self._plan(stream, now_ms)
            return
        growing.refused()
        if case.policy is Policy.SOFT:
            self._tell(stream, now_ms)
        elif stream.dry_ms is not None and now_ms - stream.dry_ms >= case.patience_ms:
            self._settle(stream, now_ms, cut=True)
            return
        self._at(now_ms + growing.pause_ms, partial(self._grow, stream))

    def _gets_more(self, stream: _Stream, now_ms: int) -> bool:
        growing, limits, per_s = stream.growing, self._limits, stream.per_ms * 1000
        expected = self._lengths.expected_beyond(stream.passed, ACCOUNT, MODEL, self._case.cap, streamed=True)
        wish = growing.wish(stream.passed, per_s, expected)
        answer = self._state.grow(stream.call_id, limits, (wish,) * len(limits), now_ms)
        if answer is Growth.REFUSED:
            room = min(state.remaining for state in self._state.peek(limits, now_ms).states)
            wish = min(growing.held + room, wish)
            if wish > growing.held:
                answer = self._state.grow(stream.call_id, limits, (wish,) * len(limits), now_ms)
        if answer is Growth.GRANTED:
            growing.granted(wish, per_s)
        return answer is Growth.GRANTED

    def _tell(self, stream: _Stream, now_ms: int) -> None:
        self._state.extend(stream.call_id, self._limits, (stream.passed,) * len(self._limits), now_ms)

    def _beat(self, stream: _Stream, now_ms: int) -> None:
        if stream.call_id in self._streams:
            self._pass(stream, now_ms)
            self._tell(stream, now_ms)
            self._at(now_ms + HEARTBEAT_MS, partial(self._beat, stream))

    def _end(self, stream: _Stream, now_ms: int) -> None:
        if stream.call_id in self._streams:
            self._settle(stream, now_ms, cut=False)

    def _settle(self, stream: _Stream, now_ms: int, *, cut: bool) -> None:
        self._pass(stream, now_ms)
        del self._streams[stream.call_id]
        self._state.settle(stream.call_id, self._limits, (stream.passed,) * len(self._limits), now_ms)
        self._lengths.note(ACCOUNT, MODEL, self._case.cap, stream.passed * (1 + cut), streamed=True)
        if now_ms >= self._warm_ms:
            self._ended += 1
            self._cut += cut
