"""The gate: what passes of a stream, byte for byte, and what its hold does not cover."""

import json
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.catalogue import Engine
from proxy.core.growing import Growing
from proxy.core.meters import Gate, stream_meter
from proxy.core.meters.chat_shape import ChatShaped

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}


def event(value):
    return b"data: %b\n\n" % json.dumps(value, separators=(",", ":")).encode()


def chunk(text, completion=None, *, index=0, finish=None):
    value = {**HEAD, "choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}
    if completion is not None:
        value["usage"] = {"prompt_tokens": 5, "total_tokens": 5 + completion, "completion_tokens": completion}
    return event(value)


def told(tokens, *, step=1):
    """Return a stream as vLLM tells it: usage in every chunk, ``step`` tokens each, one unseen at the end."""
    events = [chunk("", 0)]
    events += [chunk("x" * step, number) for number in range(step, tokens, step)]
    events.append(chunk("", tokens, finish="stop"))
    usage = {"prompt_tokens": 5, "total_tokens": 5 + tokens, "completion_tokens": tokens}
    return [*events, event({**HEAD, "choices": [], "usage": usage}), b"data: [DONE]\n\n"]


def untold(tokens):
    """Return a stream whose usage comes at its end only."""
    usage = {"prompt_tokens": 5, "total_tokens": 5 + tokens, "completion_tokens": tokens}
    last = event({**HEAD, "choices": [], "usage": usage})
    return [*(chunk("x") for _ in range(tokens)), chunk("", finish="stop"), last, b"data: [DONE]\n\n"]


def gate_of(held, cap=10_000, *, choices=1, stops=True):
    return Gate(Growing(held, cap, 256), choices, stops=stops)


def completion_of(passed):
    """Return the usage that the last whole chunk of some bytes reports."""
    lines = [line[6:] for line in passed.split(b"\n") if line.startswith(b"data: {")]
    return max((msgspec.json.decode(line)["usage"]["completion_tokens"] for line in lines), default=0)


def cut_anywhere(stream, seed):
    drawn, at = random.Random(seed), 0
    while at < len(stream):
        size = drawn.choice((1, 3, 50, 170, 400, 5000))
        yield stream[at : at + size]
        at += size


def test_what_is_covered_passes_unread_as_the_objects_that_came():
    gate = gate_of(100_000, 200_000)
    first, second, *others = told(100)
    assert gate.take(first) + gate.take(second) == first + second  # read: does the engine tell?
    assert all(gate.take(piece) is piece for piece in others)
    assert not gate.has_news


@pytest.mark.parametrize("make", [told, untold])
@pytest.mark.parametrize("held", [1, 2, 10, 50, 99, 100])
def test_nothing_beyond_the_hold_passes_however_the_stream_is_cut(make, held):
    stream = b"".join(make(200))
    for seed in range(5):
        gate = gate_of(held)
        passed = b"".join(map(gate.take, cut_anywhere(stream, seed)))
        assert gate.is_shut
        assert gate.has_news
        assert stream.startswith(passed)
        assert passed.endswith(b"\n\n") or not passed
        if make is told:
            assert completion_of(passed) <= held - 1
        else:
            assert passed.count(b'"x"') <= held - 1
        assert gate.kept().startswith(b"data: ")


@given(st.integers(1, 400), st.lists(st.integers(1, 200), max_size=12), st.integers(0, 99), st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_a_stream_passes_whole_and_in_order_as_its_hold_grows(held, steps, seed, step):
    stream = b"".join(told(420, step=step))
    gate = gate_of(held)
    pieces, passed = cut_anywhere(stream, seed), b""
    for piece in pieces:
        passed += gate.take(piece)
        assert completion_of(passed) <= gate.growing.held
        if gate.is_shut and steps:
            gate.growing.granted(gate.growing.held + steps.pop(), 10.0)
            passed += gate.release()
    assert stream.startswith(passed)
    gate.growing.granted(10_000, 10.0)
    assert passed + gate.release() + gate.rest() == stream


def test_the_token_that_ends_a_text_finds_room_in_the_hold():
    gate = gate_of(100)
    assert b"".join(map(gate.take, told(100))) == b"".join(told(100))
    gate = gate_of(99)
    passed = b"".join(map(gate.take, told(100)))
    assert completion_of(passed) == 98
    assert gate.is_shut


def test_more_is_asked_for_at_half_of_the_hold_and_once():
    gate = gate_of(100)
    asked = []
    for number, piece in enumerate(told(95)):
        gate.take(piece)
        if gate.has_news:
            asked.append(number)
            gate.has_news, gate.is_asking = False, True
    assert len(asked) == 1
    assert asked[0] in (50, 51)


def test_a_gate_that_stops_nothing_asks_all_the_same():
    gate = gate_of(100, stops=False)
    assert b"".join(map(gate.take, told(500))) == b"".join(told(500))
    assert gate.has_news
    assert not gate.is_shut


def test_several_choices_share_a_hold():
    events = [chunk("x", number, index=index) for number in range(1, 60) for index in range(3)]
    gate = gate_of(90, choices=3)
    passed = b"".join(map(gate.take, events))
    assert passed.count(b'"x"') == 87  # one is left for the end of each


def test_a_chunk_of_many_tokens_is_kept_back_whole():
    gate = gate_of(100)
    passed = gate.take(chunk("", 0) + chunk("x" * 40, 40) + chunk("x" * 80, 120))
    assert passed == chunk("", 0) + chunk("x" * 40, 40)
    assert gate.reached == 120


def test_zeros_that_come_before_the_truth_count_as_chunks():
    events = [chunk("x", 0) for _ in range(200)]
    passed = b"".join(map(gate_of(100).take, events))
    assert passed.count(b'"x"') == 99


def test_a_usage_of_nonsense_passes_no_more_than_the_hold():
    gate = gate_of(100)
    assert gate.take(chunk("x", 10**9)) == b""
    assert gate.is_shut


@given(st.binary(max_size=600), st.integers(1, 50))
def test_any_bytes_pass_or_wait_and_none_is_lost(stream, held):
    gate = gate_of(held)
    passed = b"".join(map(gate.take, cut_anywhere(stream, 1)))
    gate.growing.granted(10_000, 1.0)
    assert passed + gate.release() + gate.rest() == stream


# A stream that ends at the gate


def meter_of(*, forward_usage=False, choices=1):
    return stream_meter(
        Engine.VLLM, forward_usage=forward_usage, strip_continuous=True, choices=choices, prompt_bytes=40
    )


def ended(text):
    lines = text.split(b"\n\n")
    assert lines[-2:] == [b"data: [DONE]", b""]
    return [msgspec.json.decode(line.removeprefix(b"data: ")) for line in lines[:-2]]


def test_a_cut_stream_says_why_in_its_own_likeness_and_what_it_used():
    meter = meter_of(forward_usage=True)
    meter.feed(b"".join(told(100)[:31]))
    (last, usage) = ended(meter.cut(b""))
    assert last == {**HEAD, "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]}
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 5, "total_tokens": 35, "completion_tokens": 30}
    reading = meter.finish()
    assert (reading.usage.output_tokens, reading.complete) == (30, False)


def test_usage_is_not_said_to_a_client_that_did_not_ask():
    meter = meter_of()
    meter.feed(b"".join(told(100)[:31]))
    assert len(ended(meter.cut(b""))) == 1


def test_only_choices_without_a_reason_are_given_one():
    meter = meter_of(choices=3)
    meter.feed(chunk("x", 1) + chunk("y", 1, index=1, finish="stop") + chunk("z", 1, index=2))
    assert [each["choices"][0]["index"] for each in ended(meter.cut(b""))] == [0, 2]


def test_a_stream_cut_before_its_first_chunk_takes_after_what_was_kept_back():
    (last,) = ended(meter_of().cut(chunk("x", 500)))
    assert (last["id"], last["object"], last["model"]) == ("chatcmpl-1", "chat.completion.chunk", "m")


def test_a_stream_of_which_nothing_is_known_ends_all_the_same():
    (last,) = ended(meter_of().cut(b""))
    assert last["choices"][0]["finish_reason"] == "length"


def test_a_prompted_chat_is_cut_in_the_shape_of_a_chat():
    meter = ChatShaped(meter_of())
    head = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m"}
    meter.feed(event({**head, "choices": [{"index": 0, "text": "x", "finish_reason": None}]}))
    (last,) = ended(meter.cut(b""))
    assert (last["id"], last["object"]) == ("chatcmpl-1", "chat.completion.chunk")
    assert last["choices"][0]["finish_reason"] == "length"
    assert "delta" in last["choices"][0]
