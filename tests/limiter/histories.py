"""Random histories of calls: from hypothesis where a failure should shrink, from a seeded generator for length."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

from proxy.core.account_state import AccountState
from proxy.core.limits import NEVER_MS, Admission, Limit
from proxy.limiter import RecordingLimiter
from tests.limiter.support import START_MS, Clock, budget, requests, window

HOLD_TTL_MS = 3000
SHORT = window("short", 20, 4, 2)
LONG = window("long", 40, 25, 8)
CALLS = requests(6, 5)
FIRST_PERIOD, SECOND_PERIOD = budget(60, "p1", START_MS + 20_000), budget(60, "p2", START_MS + 10**9)


def limits_at(now_ms: int, which: int) -> tuple[Limit, ...]:
    """The limits that a gateway would name at that time: all, or those that another endpoint has."""
    cost = FIRST_PERIOD if now_ms < FIRST_PERIOD.ends_ms else SECOND_PERIOD
    return ((SHORT, LONG, CALLS, cost), (SHORT, CALLS, cost), (CALLS, cost), (SHORT, LONG))[which]


class Step(NamedTuple):
    """One thing that happens: the time that passes before it, the verb, the call, and how much."""

    pass_ms: int
    verb: str
    call: int
    amount: int
    which: int


VERBS = (
    "admit",
    "admit",
    "admit",
    "admit",
    "settle",
    "settle",
    "extend",
    "extend",
    "release",
    "peek",
    "record",
    "grow",
    "grow",
)
PAUSES_MS = (0, 0, 1, 250, 999, 1000, 1001, 2000, 3000, 4000, 9000, 25_000, -700)

steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(PAUSES_MS),
        st.sampled_from(VERBS),
        st.integers(0, 7),
        st.integers(0, 21),
        st.sampled_from((0, 0, 0, 1, 2, 3)),
    ),
    min_size=1,
    max_size=60,
)


def random_step(rng: random.Random) -> Step:
    return Step(
        rng.choice(PAUSES_MS) if rng.random() < 0.6 else rng.randrange(0, 700),
        rng.choice(VERBS),
        rng.randrange(12),
        rng.randrange(0, 14),
        rng.choice((0, 0, 0, 1, 2, 3)),
    )


def amounts_of(step: Step, limits: Sequence[Limit]) -> tuple[int, ...]:
    return tuple(1 if limit.name == "requests" else step.amount for limit in limits)


class Player:
    """Plays steps on a limiter, and answers what it answered. A call keeps the limits that it was admitted with."""

    def __init__(self, limiter: RecordingLimiter, account: str, clock: Clock) -> None:
        self.limiter, self.account, self.clock = limiter, account, clock
        self.limits: dict[int, tuple[Limit, ...]] = {}

    async def play(self, step: Step) -> tuple[Any, Admission]:
        """Let one step happen; return its answer, and how all limits stand afterwards."""
        verb, call_id = step.verb, f"call-{step.call}"
        now_limits = limits_at(self.clock.now_ms, step.which)
        if verb in ("admit", "record"):
            limits = self.limits.setdefault(step.call, now_limits)
        else:
            limits = self.limits.get(step.call, now_limits)
        amounts = amounts_of(step, limits)
        answer: Any
        if verb == "peek":
            answer = await self.limiter.peek(self.account, now_limits)
        elif verb == "release":
            answer = await self.limiter.release(self.account, call_id, limits)
        else:
            answer = await getattr(self.limiter, verb)(self.account, call_id, limits, amounts)
        if verb in ("settle", "release", "record"):
            self.limits.pop(step.call, None) if step.amount % 3 else None  # now and then its replay finds other limits
        everything = (SHORT, LONG, CALLS, FIRST_PERIOD, SECOND_PERIOD)
        return answer, await self.limiter.peek(self.account, everything)


def check_wait(refused: Admission, admit_at: Callable[[int], Admission]) -> None:
    """Hold a refusal to rule 8; ``admit_at`` asks for the same call at another time, in a world of its own.

    A budget's period that has ended is a wait of a moment: its next period is another limit.
    """
    wait_ms = refused.retry_after_ms
    assert wait_ms is not None
    assert wait_ms >= 1
    if wait_ms == NEVER_MS or refused.bound == "cost_month":
        return
    assert admit_at(refused.now_ms + wait_ms).admitted
    assert not admit_at(refused.now_ms + wait_ms - 1).admitted
    whole_s = math.ceil(wait_ms / 1000)
    assert admit_at(refused.now_ms + whole_s * 1000).admitted
    assert not admit_at(refused.now_ms + (whole_s - 1) * 1000).admitted


class Stream(NamedTuple):
    """A call that delivers: how much it may, from when to when, and whether its process dies on the way."""

    start_ms: int
    length_ms: int
    need: int
    pieces: int
    dies_at: int | None


def deliver(streams: Sequence[Stream], limits: Sequence[Limit]) -> dict[str, Any]:
    """Play streams against an account and return what was delivered, when: [(ms, amount)], and the admissions.

    Every stream delivers evenly, sends heartbeats with what is known, and is settled at its end. One that dies delivers
    nothing after its last heartbeat: what nobody can know of, no limiter can count (rule 6).
    """
    state = AccountState(0, HOLD_TTL_MS)
    state.seed(limits, {}, {}, 0)
    events: list[tuple[int, int, str, int]] = []
    for number, stream in enumerate(streams):
        events.append((stream.start_ms, number, "admit", 0))
    delivered: list[tuple[int, int]] = []
    admitted: list[int] = []
    sent = dict.fromkeys(range(len(streams)), 0)
    while events:
        events.sort(key=lambda event: (event[0], event[1]))
        at, number, verb, piece = events.pop(0)
        stream = streams[number]
        needs = [1 if limit.name == "requests" else stream.need for limit in limits]
        if verb == "admit":
            answer = state.admit(f"s{number}", limits, needs, at)
            if answer.admitted:
                admitted.append(answer.now_ms)
                events.append((at, number, "piece", 1))
        elif verb == "piece":
            amount = stream.need * piece // stream.pieces - stream.need * (piece - 1) // stream.pieces
            if stream.dies_at is not None and piece > stream.dies_at:
                continue
            delivered.append((at, amount))
            sent[number] += amount
            known = [0 if limit.name == "requests" else sent[number] for limit in limits]
            if piece == stream.pieces:
                state.settle(f"s{number}", limits, known, at)
                continue
            if not state.extend(f"s{number}", limits, known, at):
                state.settle(f"s{number}", limits, known, at)  # expired: what was just sent is a late correction
                delivered.pop()
                continue
            pause_ms = min(stream.length_ms // stream.pieces, HOLD_TTL_MS - 1)
            events.append((at + pause_ms, number, "piece", piece + 1))
    return {"delivered": delivered, "admitted": admitted, "state": state}
