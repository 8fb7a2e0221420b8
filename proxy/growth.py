"""Growth: what a call holds of its output windows, from its admission to its end.

What belongs here: expecting a length, asking for more while a stream goes on, and what a refusal means for the stream.
What does not: the numbers (core/lengths.py, core/growing.py), what passes (core/meters/gate.py), bytes
(upstream/relay.py), and the rules of holds (core/limits.py).

Money is always held at the full bound, so that nothing here can touch the monthly cap. Asking happens off the way of
the tokens: a stream that gets near the end of its hold leaves one task, which asks until the stream has what it wants,
is over, or is cut. A store that is away, or has lost the hold, stops no stream: what that may cost is bounded elsewhere
(limiter/degraded.py).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from proxy.core.calls import PreparedCall
from proxy.core.catalogue import Guarantee, Tier
from proxy.core.entries import Outcome
from proxy.core.growing import Growing
from proxy.core.lengths import Lengths
from proxy.core.limits import Growth, Measure
from proxy.core.meters import EventMeter, Gate
from proxy.core.quotas import Allowance
from proxy.core.usage import Usage
from proxy.limiter import Limiter, LimiterUnavailableError
from proxy.settings.types import LimiterSettings
from proxy.settlement import Flight
from proxy.tasks import Tasks
from proxy.upstream.relay import Relay

_LEARNED = frozenset({Outcome.FINISHED, Outcome.DISCONNECTED, Outcome.CUT})


class Holds:
    """Decides what calls hold, and lets streams hold more.

    Args:
        limiter: where the holds are.
        settings: the quantile, the step, and how long a stream waits.
        tasks: where asking goes on.
        clock: monotonic seconds.
        sleep: waits so many seconds.

    Attributes:
        cut: streams ended for want of room, ever, by tier id.
        granted: wishes that were granted, ever.
        refused: wishes that were refused, ever.
    """

    def __init__(
        self,
        limiter: Limiter,
        settings: LimiterSettings,
        tasks: Tasks,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limiter = limiter
        self._step = settings.hold_step_tokens
        self._patience_s = settings.hold_patience_s
        self._tasks = tasks
        self._clock = clock
        self._sleep = sleep
        self._lengths = Lengths(settings.hold_quantile_percent)
        self.cut: dict[str, int] = {}
        self.granted = 0
        self.refused = 0

    def expected(self, account_id: str, tier: Tier, allowance: Allowance, call: PreparedCall) -> int:
        """Return the output tokens that a call is to hold when it is admitted: all that it can produce, or less.

        A whole answer cannot be ended early: where the tier's guarantee is strict, it holds all. What can produce more
        than a whole limit is refused for good, and so holds all too.
        """
        cap, largest = call.output_tokens_max, allowance.output_tokens_max
        if largest is None or not 1 < cap <= largest or (not call.stream and tier.guarantee is Guarantee.STRICT):
            return cap
        return self._lengths.expected(account_id, call.model.id, cap, streamed=call.stream)

    def follow(self, flight: Flight, relay: Relay, meter: EventMeter) -> None:
        """Watch how far a stream gets, if it does not hold all that it can produce."""
        place, call = flight.allowance.output_place, flight.call
        if place is None or flight.needs[place] >= call.output_tokens_max:
            return
        growing = Growing(flight.needs[place], call.output_tokens_max, self._step)
        gate = relay.gate = Gate(growing, call.choices, stops=flight.tier.guarantee is Guarantee.STRICT)

        def asks() -> None:
            gate.is_asking = True
            self._tasks.spawn(self._ask(flight, relay, gate, meter), "grow")

        relay.on_news = asks

    def learn(self, flight: Flight, usage: Usage, outcome: Outcome) -> None:
        """Learn from a call that has ended; one that was cut would have been longer."""
        call = flight.call
        if flight.allowance.output_place is None or not call.output_tokens_max or outcome not in _LEARNED:
            return
        tokens = usage.output_tokens
        if outcome is Outcome.CUT:
            tokens = min(2 * tokens, call.output_tokens_max)
        account_id = flight.principal.account.id
        self._lengths.note(account_id, call.model.id, call.output_tokens_max, tokens, streamed=call.stream)

    async def _ask(self, flight: Flight, relay: Relay, gate: Gate, meter: EventMeter) -> None:
        """Ask until the stream holds what it wants, is over, or is cut."""
        growing = gate.growing
        while relay.gate is gate and not flight.is_settling:
            passed = max(gate.reached, meter.known().output_tokens)
            per_s = self._pace(relay, passed)
            wish = growing.wish(passed, per_s, self._beyond(flight, passed))
            growth = await self._grow(flight, wish)
            if growth is Growth.REFUSED:
                self.refused += 1
                wish, growth = await self._squeeze(flight, growing.held, wish)
            if relay.gate is not gate:
                return
            if growth is Growth.REFUSED:
                growing.refused()
                if await self._wait(flight, relay, gate, meter):
                    continue
                return
            self.granted += 1
            growing.granted(flight.call.output_tokens_max if growth is Growth.GONE else wish, per_s)
            gate.is_asking = False
            relay.go_on()
            if relay.gate is not gate or not gate.has_news:
                return
            gate.has_news, gate.is_asking = False, True

    async def _wait(self, flight: Flight, relay: Relay, gate: Gate, meter: EventMeter) -> bool:
        """After a refusal: wait until it is time to ask again; False: the stream has been cut."""
        pause_s = gate.growing.pause_ms / 1000
        if flight.tier.guarantee is Guarantee.SOFT:
            await self._tell(flight, meter)
        elif relay.dry_since is not None:
            left_s = relay.dry_since + self._patience_s - self._clock()
            if left_s <= 0:
                tier = flight.tier.id
                self.cut[tier] = self.cut.get(tier, 0) + 1
                relay.cut(meter.cut(gate.kept()))
                return False
            pause_s = min(pause_s, left_s)
        await self._sleep(pause_s)
        return True

    async def _grow(self, flight: Flight, wish: int) -> Growth:
        """Ask for a hold of so many tokens; of all else the call holds enough already."""
        wants = flight.allowance.needs(wish, 0)
        try:
            return await self._limiter.grow(flight.principal.account.id, flight.call_id, flight.allowance.limits, wants)
        except LimiterUnavailableError:
            return Growth.GRANTED

    async def _squeeze(self, flight: Flight, held: int, wish: int) -> tuple[int, Growth]:
        """Ask for as much of a refused wish as there is room for; return what was asked for, and the answer."""
        allowance = flight.allowance
        try:
            answer = await self._limiter.peek(flight.principal.account.id, allowance.limits)
        except LimiterUnavailableError:
            return wish, Growth.REFUSED
        pairs = zip(allowance.limits, answer.states, strict=True)
        room = min(state.remaining for limit, state in pairs if limit.counts is Measure.OUTPUT_TOKENS)
        less = min(held + room, wish)
        return less, await self._grow(flight, less) if less > held else Growth.REFUSED

    async def _tell(self, flight: Flight, meter: EventMeter) -> None:
        """Let a stream that goes on without room be counted, so that nobody else is admitted into it."""
        known = flight.allowance.amounts(meter.known().output_tokens, 0)
        with contextlib.suppress(LimiterUnavailableError):  # the settlement will say it
            await self._limiter.extend(flight.principal.account.id, flight.call_id, flight.allowance.limits, known)

    def _beyond(self, flight: Flight, passed: int) -> int:
        call = flight.call
        return self._lengths.expected_beyond(
            passed, flight.principal.account.id, call.model.id, call.output_tokens_max, streamed=call.stream
        )

    def _pace(self, relay: Relay, passed: int) -> float:
        """Return how fast a stream has come so far, tokens per second."""
        if relay.first_byte_at is None:
            return 0.0
        return passed / max(self._clock() - relay.first_byte_at, 1.0)
