"""Learned lengths, and how a hold grows."""

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import lengths
from proxy.core.growing import RETRY_MAX_MS, RETRY_MS, Growing
from proxy.core.lengths import BUCKETS, KEPT_CALLS, KINDS_MAX, Histogram, Lengths, bucket_of, longest_in


@given(st.integers(0, (1 << 26) - 1))
def test_a_length_lies_in_a_bucket_that_ends_at_most_an_eighth_above_it(tokens):
    bucket = bucket_of(tokens)
    assert 0 <= bucket < BUCKETS
    assert tokens <= longest_in(bucket) <= tokens + tokens // 8
    assert bucket == 0 or longest_in(bucket - 1) < tokens


def test_a_length_beyond_all_buckets_lies_in_the_last():
    assert bucket_of(1 << 40) == BUCKETS - 1


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=300), st.integers(50, 99))
def test_the_quantile_covers_its_share_and_hardly_more(seen, per_cent):
    histogram = Histogram(per_cent)
    for tokens in seen:
        histogram.note(tokens)
    histogram._reckon()
    exact = sorted(seen)[-(-len(seen) * per_cent // 100) - 1]
    assert exact <= histogram.quantile <= exact + exact // 8


def test_what_was_long_ago_fades():
    histogram = Histogram(90)
    for _ in range(2000):
        histogram.note(4000)
    for _ in range(8 * KEPT_CALLS):
        histogram.note(100)
    assert histogram.quantile < 112
    assert histogram.beyond(200) == 0  # nothing is left of the old ones


def test_a_rare_length_is_remembered_for_hundreds_of_calls():
    histogram = Histogram(99)
    histogram.note(4000)
    for _ in range(KEPT_CALLS + 32):
        histogram.note(100)
    assert histogram.beyond(1000) >= 4000


def test_of_the_calls_that_got_so_far_alone_the_quantile_is_another():
    histogram = Histogram(90)
    for tokens in range(1, 1001):
        histogram.note(tokens)
    histogram._reckon()
    assert 900 <= histogram.quantile <= 1023
    assert 950 <= histogram.beyond(500) <= 1023
    assert histogram.beyond(1100) == 0


def learn(known, account, model, tokens, calls, *, cap=4096, streamed=True):
    for _ in range(calls):
        known.note(account, model, cap, tokens, streamed=streamed)


def test_an_account_is_believed_after_a_while_the_model_before_and_nobody_at_first():
    known = Lengths(90)
    assert known.expected("a", "m", 4096, streamed=True) == 4096
    learn(known, "b", "m", 700, lengths.MODEL_CALLS_MIN - 1)
    assert known.expected("a", "m", 4096, streamed=True) == 4096
    learn(known, "b", "m", 700, 1)
    assert 700 <= known.expected("a", "m", 4096, streamed=True) < 790
    learn(known, "a", "m", 90, lengths.OWN_CALLS_MIN - 1)
    assert known.expected("a", "m", 4096, streamed=True) >= 700
    learn(known, "a", "m", 90, 1)
    assert 90 <= known.expected("a", "m", 4096, streamed=True) < 102
    assert 700 <= known.expected("b", "m", 4096, streamed=True) < 790


def test_calls_of_another_order_of_cap_of_another_model_or_in_one_piece_tell_nothing():
    known = Lengths(90)
    learn(known, "a", "m", 50, 100, cap=64)
    assert known.expected("a", "m", 60, streamed=True) < 60
    assert known.expected("a", "m", 4096, streamed=True) == 4096
    assert known.expected("a", "m", 60, streamed=False) == 60
    assert known.expected("a", "n", 60, streamed=True) == 60


def test_what_is_expected_is_never_more_than_the_cap_nor_nothing():
    known = Lengths(90)
    learn(known, "a", "m", 4000, 100)
    assert known.expected("a", "m", 3000, streamed=True) == 3000
    learn(known, "b", "m", 0, 100)
    assert known.expected("b", "m", 3000, streamed=True) == 1


def test_whoever_wants_all_to_be_covered_holds_the_cap():
    known = Lengths(100)
    learn(known, "a", "m", 50, 100)
    assert known.expected("a", "m", 4096, streamed=True) == 4096
    assert known.expected_beyond(60, "a", "m", 4096, streamed=True) == 4096


def test_memory_is_bounded_and_the_longest_unused_is_forgotten():
    known = Lengths(90)
    learn(known, "kept", "m", 50, lengths.OWN_CALLS_MIN)
    for number in range(2 * KINDS_MAX):
        known.note(f"account-{number}", "m", 4096, 50, streamed=True)
        if number % 100 == 0:
            known.note("kept", "m", 4096, 50, streamed=True)
    assert len(known) == KINDS_MAX
    assert known.expected("kept", "m", 4096, streamed=True) < 60
    assert sys.getsizeof(Histogram(90)._weights) < 1024


def test_a_stream_asks_at_half_of_its_hold_and_for_what_others_needed_that_got_so_far():
    growing = Growing(1000, 4096, 256)
    assert growing.ask_at == 500
    wish = growing.wish(500, 50.0, 3000)
    assert wish == 3000
    growing.granted(wish, 50.0)
    assert (growing.held, growing.ask_at, growing.is_full) == (3000, 1500, False)


def test_a_stream_of_which_nobody_knows_more_asks_for_a_step_and_a_fast_one_for_two_seconds():
    growing = Growing(1000, 9999, 256)
    assert growing.wish(900, 50.0, 0) == 1256
    assert growing.wish(900, 400.0, 0) == 1800
    assert growing.wish(1500, 50.0, 0) == 1756  # what waits to pass has to have room too
    assert growing.wish(900, 50.0, 20_000) == 9999


def test_a_stream_that_holds_all_it_may_produce_never_asks():
    growing = Growing(1000, 1200, 256)
    growing.granted(growing.wish(900, 50.0, 0), 50.0)
    assert growing.is_full
    assert growing.ask_at == 1200


def test_refused_a_stream_asks_less_and_less_often_until_it_is_granted():
    growing = Growing(1000, 4096, 256)
    pauses = []
    for _ in range(30):
        growing.refused()
        pauses.append(growing.pause_ms)
    assert pauses[:4] == [RETRY_MS, 2 * RETRY_MS, 4 * RETRY_MS, 8 * RETRY_MS]
    assert pauses[-1] == RETRY_MAX_MS
    growing.granted(1256, 10.0)
    growing.refused()
    assert growing.pause_ms == RETRY_MS


@pytest.mark.parametrize("held", [1, 2, 3, 8, 33, 64, 65])
def test_even_the_smallest_hold_asks_before_it_is_used_up(held):
    growing = Growing(held, 4096, 16)
    assert 0 <= growing.ask_at < held


def test_heavy_tailed_lengths_are_covered_as_often_as_was_asked_for():
    drawn = random.Random(3)
    known, beyond, calls = Lengths(90), 0, 20_000
    for _ in range(calls):
        tokens = min(4096, int(drawn.lognormvariate(5.86, 1.0)))
        beyond += tokens > known.expected("a", "m", 4096, streamed=True)
        known.note("a", "m", 4096, tokens, streamed=True)
    assert 0.06 < beyond / calls < 0.105
