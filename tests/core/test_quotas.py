"""Levels as limits: which there are, what they are called, and what one in shadow would have done."""

import pytest
from msgspec.structs import replace

from proxy.allowances import Allowances, limits_of_models
from proxy.core.accounts import Account, Key, Principal
from proxy.core.catalogue import Model, OwnLimits, Tier
from proxy.core.headers import LimitHeaders, refusal_lines, shadow_line
from proxy.core.levels import FOR_EVER_MS, Overridable, Override, with_overrides
from proxy.core.limit_names import LIMIT_NAMES, model_of_scope, scope_of_model
from proxy.core.limits import UNLIMITED, Admission, LimitKind, LimitState, Measure
from proxy.core.quotas import UNLIMITED_NANO, UNLIMITED_PICO, Allowance, key_limits_of, limits_of, model_limits_of
from proxy.limiter.commands import Plan
from proxy.months import Month

NOW_MS = 1_795_000_000_000
ENDS_MS = 1_796_000_000_000
MONTH = Month("2026-11", "2026-11-19", ENDS_MS, NOW_MS - 1000, NOW_MS + 1000)
TIER = Tier("tier1", "Tier 1", 200 * 10**12, 1000 * 10**12, 150_000, 3_600_000)
KEY_LIMITS = OwnLimits("key_1", 1000, 5000, 10, 60, 2 * 10**12, 2)
MODEL_LIMITS = OwnLimits(scope_of_model("rare:1b"), output_tokens_hour=700, calls_in_flight=1)
MODEL = Model("rare:1b", ("/v1/chat/completions",), 8192, (), "rare:1b", limits=MODEL_LIMITS)
PLAIN = replace(MODEL, id="plain:1b", limits=None)


def principal(key_limits=None, overrides=(), account="acc_a", key="key_1"):
    return Principal(Account(account, "acme", "tier1"), Key(key, account, "digest", limits=key_limits), overrides)


def names(limits):
    return [limit.name for limit in limits]


# Which there are


def test_a_tier_has_a_limit_of_calls_in_flight_only_where_it_says_so():
    assert names(limits_of(TIER, "2026-11", ENDS_MS)) == [
        "requests", "output_tokens_hour", "output_tokens_day", "budget_month",
    ]  # fmt: skip
    last = limits_of(replace(TIER, calls_in_flight=4), "2026-11", ENDS_MS)[-1]
    assert (last.name, last.capacity, last.counts) == ("calls_in_flight", 4, Measure.CALLS_IN_FLIGHT)


def test_a_key_has_what_it_was_given_under_names_of_its_own():
    limits = key_limits_of(KEY_LIMITS, "2026-11", ENDS_MS)
    assert [(limit.name, limit.capacity) for limit in limits] == [
        ("key_requests", 10),
        ("key_output_tokens_hour", 1000),
        ("key_output_tokens_day", 5000),
        ("key_budget_month", 2 * 10**9),
        ("key_calls_in_flight", 2),
    ]
    assert {limit.stored_name.partition(".")[2] for limit in limits} == {"key_1"}
    assert (limits[3].kind, limits[3].period, limits[3].ends_ms) == (LimitKind.BUDGET, "2026-11", ENDS_MS)


def test_every_name_is_of_the_vocabulary_and_every_limit_can_be_stored():
    limits = (
        *limits_of(replace(TIER, calls_in_flight=4), "2026-11", ENDS_MS),
        *key_limits_of(KEY_LIMITS, "2026-11", ENDS_MS),
        *model_limits_of(OwnLimits(scope_of_model("a/B@c+d:e_f"), 1, 1, 1, 60, None, 1)),
    )
    assert set(names(limits)) == set(LIMIT_NAMES) - {"credit", "purchase_credit"}
    assert len({limit.stored_name for limit in limits}) == len(limits)
    Plan(limits)


@pytest.mark.parametrize("model", ["gpt-oss:120b", "a/b", "a_b", "a_2fb", "A.b-c", "x@y+z", "_", ""])
def test_a_models_id_comes_back_from_its_scope(model):
    assert model_of_scope(scope_of_model(model)) == model


def test_ids_that_differ_have_scopes_that_differ():
    ids = ["a/b", "a_b", "a:b", "a_2fb", "a_5f2fb", "a.b", "a-b", "ab"]
    assert len({scope_of_model(model) for model in ids}) == len(ids)


def test_a_call_in_flight_needs_one_while_it_runs_and_none_in_the_end():
    allowance = Allowance.of(limits_of(replace(TIER, calls_in_flight=4), "2026-11", ENDS_MS))
    assert allowance.needs(100, 1500) == (1, 100, 100, 2, 1)
    assert allowance.amounts(40, 1500) == (1, 40, 40, 2, 0)


# Overrides


def override(limit, amount, ends_ms=NOW_MS + 1000):
    return Override(Overridable(limit), amount, ends_ms)


def test_an_override_holds_until_its_instant_and_no_longer():
    mine = (override("output_tokens_hour", 300_000),)
    assert with_overrides(TIER, mine, NOW_MS + 999) == (replace(TIER, output_tokens_hour=300_000), NOW_MS + 1000)
    assert with_overrides(TIER, mine, NOW_MS + 1000) == (TIER, FOR_EVER_MS)


def test_the_last_of_several_wins_and_one_that_runs_longer_comes_back():
    both = (override("requests", 5, NOW_MS + 5000), override("requests", 9), override("monthly_limit", 7 * 10**12))
    tier, until_ms = with_overrides(TIER, both, NOW_MS)
    assert (tier.requests, tier.monthly_limit_pico, until_ms) == (9, 7 * 10**12, NOW_MS + 1000)
    tier, until_ms = with_overrides(TIER, both, NOW_MS + 1000)
    assert (tier.requests, tier.monthly_limit_pico, until_ms) == (5, 1000 * 10**12, NOW_MS + 5000)


def test_what_is_unlimited_is_counted_on_and_not_shown():
    free = tuple(override(limit, None) for limit in ("output_tokens_hour", "output_tokens_day", "monthly_limit"))
    tier, _ = with_overrides(TIER, free, NOW_MS)
    limits = limits_of(tier, "2026-11", ENDS_MS)
    assert [limit.capacity for limit in limits] == [1000, UNLIMITED, UNLIMITED, UNLIMITED_NANO]
    text = LimitHeaders(limits).lines(admission(limits, 0, 0, 0, 0))
    assert b"Requests" in text
    assert b"utput" not in text


# Remembering


@pytest.fixture
def allowances():
    return Allowances()


def test_what_has_no_limits_of_its_own_shares_the_tiers_allowance(allowances):
    shared = allowances.of(principal(), None, TIER, MONTH, NOW_MS)
    assert shared.limits == limits_of(TIER, MONTH.name, MONTH.ends_ms)
    assert allowances.of(principal(account="acc_b"), PLAIN, TIER, MONTH, NOW_MS) is shared


def test_levels_add_up_and_are_remembered_as_long_as_they_are_the_same(allowances):
    asks = principal(KEY_LIMITS)
    first = allowances.of(asks, MODEL, TIER, MONTH, NOW_MS)
    assert names(first.limits) == [
        "requests", "output_tokens_hour", "output_tokens_day", "budget_month",
        "key_requests", "key_output_tokens_hour", "key_output_tokens_day", "key_budget_month", "key_calls_in_flight",
        "model_output_tokens_hour", "model_calls_in_flight",
    ]  # fmt: skip
    again = principal(replace(KEY_LIMITS))  # read again from the ledger
    assert allowances.of(again, MODEL, TIER, MONTH, NOW_MS) is first
    changed = allowances.of(principal(replace(KEY_LIMITS, requests=11)), MODEL, TIER, MONTH, NOW_MS)
    assert [limit.capacity for limit in changed.limits if limit.name == "key_requests"] == [11]


def test_accounts_that_differ_in_nothing_share_an_allowance_of_a_model(allowances):
    one, other = principal(), principal(account="acc_b", key="key_2")
    assert allowances.of(one, MODEL, TIER, MONTH, NOW_MS) is allowances.of(other, MODEL, TIER, MONTH, NOW_MS)


def test_two_keys_do_not_share_their_limits(allowances):
    one = allowances.of(principal(KEY_LIMITS), None, TIER, MONTH, NOW_MS)
    other = allowances.of(principal(replace(KEY_LIMITS, scope="key_2"), key="key_2"), None, TIER, MONTH, NOW_MS)
    shared = {limit.stored_name for limit in one.limits} & {limit.stored_name for limit in other.limits}
    assert shared == {"requests", "output_tokens_hour", "output_tokens_day", "budget_month"}


def test_an_override_ends_by_itself(allowances):
    asks = principal(overrides=(override("output_tokens_hour", 10),))

    def hour(now_ms):
        return allowances.of(asks, None, TIER, MONTH, now_ms).limits[1].capacity

    assert [hour(NOW_MS), hour(NOW_MS + 999), hour(NOW_MS + 1000)] == [10, 10, 150_000]


def test_what_is_remembered_is_bounded(allowances, monkeypatch):
    monkeypatch.setattr("proxy.allowances.REMEMBERED_MAX", 10)
    for number in range(35):
        limits = replace(KEY_LIMITS, scope=f"key_{number}")
        allowances.of(principal(limits, key=f"key_{number}"), None, TIER, MONTH, NOW_MS)
        assert len(allowances._remembered) <= 10


def test_a_model_with_aliases_is_shown_once():
    assert names(limits_of_models([MODEL, PLAIN, MODEL])) == ["model_output_tokens_hour", "model_calls_in_flight"]


# Shadow


def admission(limits, *used, held=0, **refusal):
    states = tuple(
        LimitState(limit.name, limit.capacity, amount, held, NOW_MS + 1000)
        for limit, amount in zip(limits, used, strict=True)
    )
    return Admission(not refusal, NOW_MS, states, refusal.get("bound"), refusal.get("wait_ms"))


SHADOWED = replace(TIER, shadow=("output_tokens_hour", "monthly_limit"))


def test_a_limit_in_shadow_counts_without_a_bound_under_the_same_name():
    bound, shadowed = limits_of(TIER, "2026-11", ENDS_MS), limits_of(SHADOWED, "2026-11", ENDS_MS)
    assert [limit.stored_name for limit in bound] == [limit.stored_name for limit in shadowed]
    assert [(limit.capacity, limit.shadow) for limit in shadowed] == [
        (1000, None), (UNLIMITED, 150_000), (3_600_000, None), (UNLIMITED, 1000 * 10**9),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("hour", "euros_nano", "expected"),
    [
        (150_000, 10**12, ()),
        (150_001, 0, ("output_tokens_hour",)),
        (0, 10**12 + 1, ("budget_month",)),
        (150_001, 10**12 + 1, ("output_tokens_hour", "budget_month")),
    ],
)
def test_an_admitted_call_would_have_been_refused_where_all_of_it_is_more_than_the_limit(hour, euros_nano, expected):
    allowance = Allowance.of(limits_of(SHADOWED, "2026-11", ENDS_MS))
    assert allowance.would_refuse(admission(allowance.limits, 1, hour, hour, euros_nano), (1, 5, 5, 5)) == expected


def test_a_refused_call_took_nothing_and_its_need_is_added():
    allowance = Allowance.of(limits_of(SHADOWED, "2026-11", ENDS_MS))
    refused = admission(allowance.limits, 1000, 149_990, 0, 0, bound="requests", wait_ms=5)
    assert allowance.would_refuse(refused, (1, 10, 10, 5)) == ()
    assert allowance.would_refuse(refused, (1, 11, 11, 5)) == ("output_tokens_hour",)


def test_a_share_of_a_limit_in_shadow_is_judged_as_a_share():
    allowance = Allowance.of(limits_of(SHADOWED, "2026-11", ENDS_MS))
    part = tuple(
        replace(state, capacity=state.capacity * 25 // 100)
        for state in admission(allowance.limits, 1, 37_500, 0, 0).states
    )
    answer = Admission(admitted=True, now_ms=NOW_MS, states=part)
    assert allowance.would_refuse(answer, (1, 5, 5, 5)) == ()
    more = (part[0], replace(part[1], used=37_501), *part[2:])
    assert allowance.would_refuse(replace(answer, states=more), (1, 5, 5, 5)) == ("output_tokens_hour",)


def test_what_is_in_shadow_is_not_shown_as_a_limit():
    limits = limits_of(SHADOWED, "2026-11", ENDS_MS)
    text = LimitHeaders(limits).lines(admission(limits, 1, 2, 3, 4))
    assert b"Output-Tokens-Day" in text
    assert b"utput-Tokens-Hour" not in text
    assert b"output_tokens_hour" not in text
    assert shadow_line(["output_tokens_hour", "requests"]) == b"X-RateLimit-Shadow: output_tokens_hour, requests\r\n"


# What is said


def test_limits_of_keys_and_models_show_in_the_pair_and_not_in_the_trios():
    limits = (
        *limits_of(TIER, "2026-11", ENDS_MS),
        *key_limits_of(KEY_LIMITS, "2026-11", ENDS_MS),
        *model_limits_of(MODEL_LIMITS),
    )
    text = LimitHeaders(limits).lines(admission(limits, 1, 2, 3, 4, 1, 990, 3, 4, 0, 2, 1)).decode()
    assert text.count("X-RateLimit-Limit-") == 3
    policy, rate = text.splitlines()[-2:]
    assert policy.startswith('RateLimit-Policy: "model_calls_in_flight";q=1;qu="concurrent-requests", ')
    assert rate.startswith('RateLimit: "model_calls_in_flight";r=0;t=1, "key_output_tokens_hour";r=10;t=1, ')
    assert "budget" not in text


@pytest.mark.parametrize("name", ["calls_in_flight", "key_calls_in_flight", "model_calls_in_flight"])
def test_too_many_calls_at_once_are_told_to_come_back_in_a_second(name):
    refused = Admission(admitted=False, now_ms=NOW_MS, states=(), bound=name, retry_after_ms=57_000)
    expected = f"X-RateLimit-Bound: {name}\r\nRetry-After: 1\r\nretry-after-ms: 1000\r\nx-should-retry: true\r\n"
    assert refusal_lines(refused) == expected.encode()


def test_a_keys_spent_month_says_stop():
    refused = Admission(admitted=False, now_ms=NOW_MS, states=(), bound="key_budget_month", retry_after_ms=10**9)
    assert refusal_lines(refused) == b"X-RateLimit-Bound: key_budget_month\r\nx-should-retry: false\r\n"


def test_a_key_whose_limits_were_taken_away_is_counted_on():
    gone = OwnLimits("key_1", UNLIMITED, None, None, 60, UNLIMITED_PICO, None)
    assert [limit.capacity for limit in key_limits_of(gone, "2026-11", ENDS_MS)] == [UNLIMITED, UNLIMITED_NANO]
