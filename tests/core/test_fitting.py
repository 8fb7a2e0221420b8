"""How much fits, to the token and to the nano-euro, and a call that is lowered to it: all other bytes are its own."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.account_state import AccountState
from proxy.core.calls import Terms
from proxy.core.calls.chat import prepare_chat
from proxy.core.calls.completions import prepare_completion
from proxy.core.catalogue import Engine, Model, Tier, Upstream
from proxy.core.fitting import asked_of, cost_line, largest_fit, least_of, lowered, whole
from proxy.core.limits import Admission, LimitState
from proxy.core.pricing import PriceVersion
from proxy.core.quotas import Allowance, cost_bound_pico, limits_of
from proxy.core.usage import TariffClass, UsageType

NOW_MS = 1_795_000_000_000
STANDARD = TariffClass.STANDARD
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MODEL = Model("m", (CHAT, COMPLETIONS), 60_000, (Upstream("u", "http://127.0.0.1:1", Engine.VLLM),), "m")
PROMPTS_ONLY = Model("p", (COMPLETIONS,), 60_000, (Upstream("u", "http://127.0.0.1:1", Engine.VLLM),), "p")
TERMS = Terms({"m": MODEL, "p": PROMPTS_ONLY}, 1024)


def prices(input_pico=1_800_000, output_pico=8_000_000, reasoning_pico=8_000_000):
    units = {
        UsageType.INPUT: input_pico,
        UsageType.CACHED_INPUT: input_pico // 2,
        UsageType.OUTPUT: output_pico,
        UsageType.REASONING: reasoning_pico,
    }
    return PriceVersion("v", 0, {(kind, STANDARD): price for kind, price in units.items()})


def allowance(hour=1000, day=2000, euros_nano=10**12, requests=100, calls=None):
    tier = Tier("t", "T", None, euros_nano * 1000, hour, day, requests, calls_in_flight=calls)
    return Allowance.of(limits_of(tier, "2026-11", NOW_MS + 10**9))


def chat(**more):
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}).encode()
    return prepare_chat(body, CHAT, TERMS)


def completion(**more):
    return prepare_completion(json.dumps({"model": "m", **more}).encode(), COMPLETIONS, TERMS)


def needs(terms, call, version):
    return terms.needs(call.output_tokens_max, cost_bound_pico(call, version, STANDARD))


# The number is true

amounts = st.integers(0, 3000)
calls = st.builds(
    lambda tokens, n: chat(max_tokens=tokens, n=n), st.integers(1, 3000), st.sampled_from((1, 1, 1, 2, 3, 7))
)


@given(
    call=calls,
    used=st.lists(st.tuples(amounts, st.integers(0, 10**10)), max_size=3),
    held=st.lists(st.tuples(amounts, st.integers(0, 10**10)), max_size=3),
    terms=st.builds(
        allowance,
        hour=st.sampled_from((None, 1000, 2500)),
        day=st.sampled_from((None, 2000, 5000)),
        euros_nano=st.one_of(st.integers(0, 3 * 10**7), st.just(10**12)),
        requests=st.integers(1, 4),
        calls=st.sampled_from((None, None, 1, 3)),
    ),
    version=st.builds(
        prices, st.sampled_from((0, 1_800_000)), st.sampled_from((0, 3, 8_000_000)), st.sampled_from((0, 8_000_001))
    ),
)
def test_a_call_with_the_largest_that_fits_is_admitted_and_with_one_more_it_is_not(call, used, held, terms, version):
    state = AccountState(NOW_MS, 60_000)
    state.seed(terms.limits, {}, {}, NOW_MS)
    for number, (tokens, nano) in enumerate(used):
        state.record(f"used {number}", terms.limits, terms.amounts(tokens, nano * 1000), NOW_MS + number)
    for number, (tokens, nano) in enumerate(held):
        state.admit(f"held {number}", terms.limits, terms.needs(tokens, nano * 1000), NOW_MS + 100 + number)
    answer = state.admit("it", terms.limits, needs(terms, call, version), NOW_MS + 200)
    if answer.admitted:
        return
    fit = largest_fit(terms.limits, answer.states, call, cost_line(call, version, STANDARD))

    assert fit < asked_of(call)
    one_more = lowered(call, fit + 1)
    assert not state.admit("it", terms.limits, needs(terms, one_more, version), NOW_MS + 200).admitted
    if fit:
        assert state.admit("it", terms.limits, needs(terms, lowered(call, fit), version), NOW_MS + 200).admitted


def room(terms, **remaining):
    """States of which so much is left."""
    states = [
        LimitState(limit.name, limit.capacity, limit.capacity - remaining.get(limit.name, limit.capacity), 0, NOW_MS)
        for limit in terms.limits
    ]
    return terms.limits, states


@pytest.mark.parametrize(
    ("call", "remaining", "fit"),
    [
        (chat(max_tokens=900), {"output_tokens_hour": 40}, 40),
        (chat(max_tokens=900), {"output_tokens_hour": 40, "output_tokens_day": 39}, 39),
        (chat(max_tokens=900, n=3), {"output_tokens_hour": 41}, 13),
        (chat(max_tokens=900, n=3), {"output_tokens_hour": 2}, 0),
        (chat(max_tokens=900), {"requests": 0}, 0),
        (chat(max_tokens=900), {"output_tokens_hour": 0}, 0),
        (completion(prompt=["a", "b"], max_tokens=500, best_of=5), {"output_tokens_hour": 59}, 5),
    ],
)
def test_what_fits_is_the_least_of_all_rooms_shared_among_the_texts(call, remaining, fit):
    assert largest_fit(*room(allowance(), **remaining), call, cost_line(call, prices(), STANDARD)) == fit


def test_the_budget_has_room_for_the_tokens_that_the_input_leaves_to_the_last_nano():
    call = chat(max_tokens=900)
    terms, cost = allowance(), cost_line(call, prices(), STANDARD)
    assert (cost.token_pico, cost.input_pico) == (8_000_000, call.input_tokens_max * 1_800_000)
    paid_nano = cost.input_pico // 1000 + 7 * 8000
    assert largest_fit(*room(terms, budget_month=paid_nano), call, cost) == 7
    assert largest_fit(*room(terms, budget_month=paid_nano - 1), call, cost) == 6
    assert largest_fit(*room(terms, budget_month=cost.input_pico // 1000 - 1), call, cost) == 0


def test_of_limits_that_nobody_has_used_everything_fits():
    call = chat(max_tokens=5000)
    terms = allowance()
    assert largest_fit(terms.limits, whole(terms.limits), call, cost_line(call, prices(), STANDARD)) == 1000


# A lowered call


def sent(call):
    return json.loads(call.body)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"max_tokens": 500}, {"max_tokens": 30}),
        ({"max_completion_tokens": 500}, {"max_completion_tokens": 30}),
        ({"max_tokens": 20, "max_completion_tokens": 500}, {"max_tokens": 20, "max_completion_tokens": 30}),
        ({"max_tokens": None, "max_completion_tokens": 500}, {"max_tokens": None, "max_completion_tokens": 30}),
        ({}, {"max_tokens": 30}),
    ],
)
def test_what_bounds_the_output_is_lowered_wherever_it_was_said(asked, expected):
    call = lowered(chat(**asked), 30)
    assert {name: value for name, value in sent(call).items() if name.startswith("max_")} == expected
    assert (call.output_tokens_max, asked_of(call)) == (30, 30)


def test_nothing_else_of_the_body_changes_not_even_its_spaces():
    said = b'[ {"role":"user","content":"max_tokens\\": 7"} ]'
    body = b'{"model" : "m", "max_tokens":\t700, "messages": %b, "max_tokens": 500 , "x":1.50}' % said
    call = lowered(prepare_chat(body, CHAT, TERMS), 30)
    assert call.body == body.replace(b"700", b"30").replace(b": 500 ,", b": 30 ,")


def test_a_lowered_call_holds_as_much_for_each_text_that_it_generates():
    assert lowered(chat(max_tokens=500, n=4), 30).output_tokens_max == 120
    assert lowered(completion(prompt=["a", "b"], max_tokens=500, best_of=5), 30).output_tokens_max == 300
    prompted = lowered(
        prepare_completion(
            b'{"model":"p","messages":[{"role":"user","content":"hi"}],"max_tokens":50,"n":2}', COMPLETIONS, TERMS
        ),
        30,
    )
    assert (prompted.output_tokens_max, sent(prompted)["max_tokens"], sent(prompted)["prompt"]) == (60, 30, "hi")


def test_a_call_is_never_lowered_below_what_its_engine_would_have_to_write():
    assert least_of(chat(max_tokens=500, min_tokens=100), 16) == 100
    assert least_of(chat(max_tokens=500, min_tokens=3), 16) == 16
    assert least_of(chat(max_tokens=500, min_tokens="many"), 16) == 16
    assert least_of(chat(max_tokens=500), 16) == 16


def test_a_share_of_a_limit_has_room_for_a_share():
    terms, call = allowance(), chat(max_tokens=900)
    states = tuple(LimitState(limit.name, limit.capacity // 4, 0, 0, NOW_MS) for limit in terms.limits)
    answer = Admission(admitted=False, now_ms=NOW_MS, states=states, bound="output_tokens_hour", retry_after_ms=1)
    assert largest_fit(terms.limits, answer.states, call, cost_line(call, prices(), STANDARD)) == 250
