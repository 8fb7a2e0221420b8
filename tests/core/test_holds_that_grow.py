"""Histories of calls that hold less than they may use: no window delivers more than its limit, no month costs more."""

from collections import deque

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.account_state import AccountState
from proxy.core.growing import Growing
from proxy.core.limits import Growth, Limit, LimitKind, Measure

WINDOW_S = 60
LIMITS = (
    Limit("tokens", LimitKind.WINDOW, 1000, window_s=WINDOW_S, bucket_s=5),
    Limit("budget", LimitKind.BUDGET, 40_000, period="2026-11", ends_ms=10**12, counts=Measure.EUROS),
)
PRICE = 7
"""Of a token, in the budget's unit."""


class Call(msgspec.Struct):
    """A stream as its client sees it: ``passed`` tokens, of which it may get no more than it holds."""

    growing: Growing
    cap: int
    passed: int = 0


STEPS = st.one_of(
    st.tuples(st.just("begin"), st.integers(1, 150), st.integers(1, 900)),
    st.tuples(st.just("pass"), st.integers(0, 9), st.integers(1, 400)),
    st.tuples(st.just("grow"), st.integers(0, 9), st.integers(0, 900)),
    st.tuples(st.just("end"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("beat"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 9000), st.just(0)),
)


@given(st.lists(STEPS, min_size=20, max_size=120))
@settings(max_examples=300, deadline=None)
def test_no_true_window_and_no_month_is_ever_exceeded(steps):
    state = AccountState(0, hold_ttl_ms=1_000_000)
    state.seed(LIMITS, {}, {}, 0)
    now_ms, number, spent = 0, 0, 0
    calls: dict[str, Call] = {}
    delivered: deque[tuple[int, int]] = deque()
    for what, first, second in steps:
        if what == "wait":
            now_ms += first
            continue
        if what == "begin":
            number += 1
            cap = first + second
            if state.admit(str(number), LIMITS, (first, cap * PRICE), now_ms).admitted:
                calls[str(number)] = Call(Growing(first, cap, 64), cap)
            continue
        if not calls:
            continue
        call_id = sorted(calls)[first % len(calls)]
        call = calls[call_id]
        if what == "pass":
            tokens = min(second, call.growing.held - call.passed)
            call.passed += tokens
            delivered.append((now_ms, tokens))
        elif what == "grow":
            wish = call.growing.wish(call.passed, 50.0, second)
            if state.grow(call_id, LIMITS, (wish, 0), now_ms) is Growth.GRANTED:
                call.growing.granted(wish, 50.0)
            else:
                call.growing.refused()
        elif what == "beat":
            assert state.extend(call_id, LIMITS, (call.passed, call.passed * PRICE), now_ms)
        else:
            del calls[call_id]
            spent += call.passed * PRICE
            state.settle(call_id, LIMITS, (call.passed, call.passed * PRICE), now_ms)
        while delivered and delivered[0][0] <= now_ms - WINDOW_S * 1000:
            delivered.popleft()
        assert sum(tokens for _, tokens in delivered) <= LIMITS[0].capacity
        assert spent + sum(call.cap for call in calls.values()) * PRICE <= LIMITS[1].capacity
