"""Headers in both directions, as a careful proxy treats them, and what limits say about themselves."""

import re

import pytest

from proxy.core.catalogue import Tier
from proxy.core.headers import LimitHeaders, answer_lines, refusal_lines, upstream_lines
from proxy.core.limits import NEVER_MS, Admission, LimitState
from proxy.core.quotas import limits_of
from proxy.core.refusals import fit_lines, refused_lines, too_large_lines, unpaid_lines

CALL_ID = "019abc12-3456-7def-8123-456789abcdef"
TIER = Tier("tier1", "Tier 1", 200 * 10**12, 1000 * 10**12, 150_000, 3_600_000)
LIMITS = limits_of(TIER, "2026-11", 1_796_000_000_000)


def lines_of(raw):
    return [tuple(line.split(b": ", 1)) for line in raw.split(b"\r\n")[:-1]]


def test_hop_by_hop_and_private_headers_end_at_the_proxy():
    sent = [
        (b"Host", b"api"), (b"Authorization", b"Bearer secret"), (b"Connection", b"keep-alive, X-Hop"), (b"X-Hop",
        b"1"), (b"Keep-Alive", b"5"), (b"Transfer-Encoding", b"chunked"), (b"TE", b"trailers"), (b"Upgrade", b"h2c"),
        (b"Proxy-Authorization", b"x"), (b"Cookie", b"a=b"), (b"Content-Length", b"9"), (b"Accept-Encoding", b"br"),
        (b"X-Forwarded-For", b"10.0.0.1"), (b"Expect", b"100-continue"), (b"X-Request-Id", b"mine"), (b"api-key", b"k"),
        (b"Content-Type", b"application/json"), (b"User-Agent", b"sdk/1"), (b"X-Custom", b"kept"),
        (b"X-RateLimit-Fit", b"true"),
    ]  # fmt: skip
    sent = [(name.lower(), value) for name, value in sent]
    kept = dict(lines_of(upstream_lines(sent, CALL_ID)))
    assert kept.pop(b"traceparent")
    assert kept == {
        b"user-agent": b"sdk/1",
        b"x-custom": b"kept",
        b"x-request-id": CALL_ID.encode(),
    }


def test_a_valid_trace_goes_on_with_our_span_as_parent():
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    kept = dict(lines_of(upstream_lines([(b"traceparent", trace), (b"tracestate", b"a=1")], CALL_ID)))
    assert kept[b"tracestate"] == b"a=1"
    assert re.fullmatch(rb"00-0af7651916cd43dd8448eb211c80319c-[0-9a-f]{16}-01", kept[b"traceparent"])
    assert kept[b"traceparent"] != trace


@pytest.mark.parametrize(
    "trace", [b"", b"00-zz", b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", b"ff-" + b"a" * 32 + b"-1-1"]
)
def test_without_a_valid_trace_one_begins_here_and_a_foreign_state_is_dropped(trace):
    kept = dict(lines_of(upstream_lines([(b"traceparent", trace), (b"tracestate", b"a=1")], CALL_ID)))
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-00", kept[b"traceparent"])
    assert b"tracestate" not in kept


def test_an_upstreams_own_limits_cookies_and_framing_do_not_reach_a_client():
    answer = [
        (b"content-type", b"application/json"), (b"content-length", b"5"), (b"transfer-encoding", b"chunked"),
        (b"x-ratelimit-limit-requests", b"1"), (b"retry-after", b"1"), (b"set-cookie", b"a"), (b"server", b"uvicorn"),
        (b"date", b"today"), (b"connection", b"x-hop"), (b"x-hop", b"1"), (b"x-kept", b"yes"), (b"vary", b"Origin"),
        (b"access-control-allow-origin", b"*"),
    ]  # fmt: skip
    assert lines_of(answer_lines(answer)) == [(b"x-kept", b"yes")]


def admission(**refusal):
    now_ms = 1_795_000_000_000
    states = (
        LimitState("requests", 1000, 1, 0, now_ms + 60_000),
        LimitState("output_tokens_hour", 150_000, 100_000, 49_000, now_ms + 3_600_000),
        LimitState("output_tokens_day", 3_600_000, 100_000, 49_000, now_ms + 86_400_000),
        LimitState("budget_month", 10**12, 5, 5, 1_796_000_000_000),
    )
    return Admission(not refusal, now_ms, states, refusal.get("bound"), refusal.get("retry_after_ms"))


def test_the_documented_trio_and_the_token_windows_stand_on_an_answer():
    shown = dict(lines_of(LimitHeaders(LIMITS).lines(admission())))
    assert shown[b"X-RateLimit-Limit-Requests"] == b"1000"
    assert shown[b"X-RateLimit-Remaining-Requests"] == b"999"
    assert shown[b"X-RateLimit-Reset-Requests"] == b"1795000060"
    assert shown[b"X-RateLimit-Limit-Output-Tokens-Hour"] == b"150000"
    assert shown[b"X-RateLimit-Remaining-Output-Tokens-Hour"] == b"1000"
    assert shown[b"X-RateLimit-Reset-Output-Tokens-Hour"] == b"1795003600"
    assert shown[b"X-RateLimit-Limit-Output-Tokens-Day"] == b"3600000"
    assert not any(b"udget" in name for name in shown)


def test_the_ietf_pair_names_the_tightest_limit_first():
    shown = dict(lines_of(LimitHeaders(LIMITS).lines(admission())))
    assert shown[b"RateLimit-Policy"].startswith(b'"output_tokens_hour";q=150000;w=3600, "output_tokens_day";')
    assert shown[b"RateLimit"].startswith(b'"output_tokens_hour";r=1000;t=3600, ')


def test_the_ietf_pair_names_the_binding_limit_first_and_when_to_come_back():
    refused = admission(bound="requests", retry_after_ms=1500)
    shown = dict(lines_of(LimitHeaders(LIMITS).lines(refused)))
    assert shown[b"RateLimit"].startswith(b'"requests";r=999;t=2, ')


@pytest.mark.parametrize(
    ("wait_ms", "expected"),
    [
        (1, {b"Retry-After": b"1", b"retry-after-ms": b"1", b"x-should-retry": b"true"}),
        (0, {b"Retry-After": b"1", b"retry-after-ms": b"1", b"x-should-retry": b"true"}),
        (60_000, {b"Retry-After": b"60", b"retry-after-ms": b"60000", b"x-should-retry": b"true"}),
        (60_001, {b"Retry-After": b"61", b"x-should-retry": b"false"}),
        (1_200_000, {b"Retry-After": b"1200", b"x-should-retry": b"false"}),
    ],
)
def test_a_refusal_says_when_to_come_back_in_the_words_of_the_sdks(wait_ms, expected):
    shown = dict(lines_of(refusal_lines(admission(bound="output_tokens_hour", retry_after_ms=wait_ms))))
    assert shown == {b"X-RateLimit-Bound": b"output_tokens_hour", **expected}


def test_a_spent_month_says_stop_and_nothing_that_a_client_would_sleep():
    shown = dict(lines_of(refusal_lines(admission(bound="budget_month", retry_after_ms=10**9))))
    assert shown == {b"X-RateLimit-Bound": b"budget_month", b"x-should-retry": b"false"}


@pytest.mark.parametrize(
    ("bound", "wait_ms", "retry_at", "whole_at"),
    [
        ("output_tokens_hour", 1000, 1_795_000_001, 1_795_003_600),
        ("output_tokens_hour", 1001, 1_795_000_002, 1_795_003_600),
        ("output_tokens_hour", 0, 1_795_000_001, 1_795_003_600),
        ("requests", 59_500, 1_795_000_060, 1_795_000_060),
        ("budget_month", 1_000_000_000, 1_796_000_000, 1_796_000_000),
    ],
)
def test_a_refusal_says_in_instants_when_the_call_fits_and_when_its_limit_is_whole(bound, wait_ms, retry_at, whole_at):
    shown = dict(lines_of(refused_lines(admission(bound=bound, retry_after_ms=wait_ms), 12)))
    assert int(shown[b"X-RateLimit-Retry-At"]) == retry_at
    assert int(shown[b"X-RateLimit-Whole-At"]) == whole_at
    assert shown[b"X-RateLimit-Fit-Max-Tokens"] == b"12"
    assert (b"Retry-After" in shown) == (bound != "budget_month")


def test_a_refusal_of_what_generates_no_text_names_no_length():
    shown = dict(lines_of(refused_lines(admission(bound="requests", retry_after_ms=1), None)))
    assert b"X-RateLimit-Fit-Max-Tokens" not in shown


def test_when_too_many_calls_are_in_flight_the_wait_is_a_guess_of_a_second():
    states = (LimitState("calls_in_flight", 2, 0, 2, 1_795_000_001_000),)
    answer = Admission(False, 1_795_000_000_000, states, "calls_in_flight", 59_000)
    shown = dict(lines_of(refused_lines(answer, 0)))
    assert (shown[b"Retry-After"], shown[b"retry-after-ms"], shown[b"x-should-retry"]) == (b"1", b"1000", b"true")
    assert shown[b"X-RateLimit-Retry-At"] == b"1795000001"


@pytest.mark.parametrize("lines", [too_large_lines, lambda answer, fit: unpaid_lines(answer.bound, fit)])
def test_where_no_wait_helps_none_is_offered(lines):
    endless = admission(bound="output_tokens_hour", retry_after_ms=NEVER_MS)
    assert dict(lines_of(lines(endless, 7))) == {
        b"X-RateLimit-Bound": b"output_tokens_hour",
        b"x-should-retry": b"false",
        b"X-RateLimit-Fit-Max-Tokens": b"7",
    }
    assert b'"output_tokens_hour";r=1000;t=3600, ' in LimitHeaders(LIMITS).lines(endless)


def test_a_lowered_call_is_told_so():
    assert dict(lines_of(fit_lines(812))) == {b"X-RateLimit-Fit": b"lowered", b"X-RateLimit-Fit-Max-Tokens": b"812"}


def test_an_account_without_token_windows_shows_requests_only():
    monthly = Tier("monthly", "Monthly Billing", None, None, None, None)
    limits = limits_of(monthly, "2026-11", 1_796_000_000_000)
    assert [limit.name for limit in limits] == ["requests", "budget_month"]
