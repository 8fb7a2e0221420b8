"""Whatever an upstream sends, and however it is cut: nothing raises, and the cuts change nothing."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.catalogue import Engine
from proxy.core.meters import StreamMeter, read_body
from tests.meters.driving import DONE, ROLE, STOP, chunk, content, drive, meter_for, totals

NUMBERS = st.sampled_from(["0", "1", "7", "-3", "2.5", "null", '"x"', "[1]", "99999999999999999999"])
USAGES = st.one_of(
    st.builds('{{"prompt_tokens":{},"total_tokens":{},"completion_tokens":{}}}'.format, NUMBERS, NUMBERS, NUMBERS),
    st.builds('{{"completion_tokens" : {}, "d":{{"e":[{{}}]}} }}'.format, NUMBERS),
    st.sampled_from(["null", "{}", '{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"x":{"y":1,"z":2}}']),
)  # fmt: skip
DELTAS = st.sampled_from(
    [
        '"content":"a"', '"content":""', '"content":"usage"', '"content":"completion_tokens"',
        r'"content":"\"usage\":{}],"', '"x":[{"usage":{}}]',
    ]
)  # fmt: skip
CHUNKS = st.builds(
    chunk,
    DELTAS,
    st.sampled_from([None, "stop"]),
    st.one_of(st.just(""), USAGES),
    st.sampled_from([0, 1]),
    st.sampled_from(["", '"usage":null,', '"usage":{"completion_tokens":1},']),
)
SCRAPS = st.sampled_from(
    [
        b"\n", b"\r\n", b"\r", b": ping\n\n", b"event: x\n", b"id: 1\n", b"data: null\n\n", b"data:\n\n",
        DONE, ROLE, STOP, b"data:[DONE]\n\n", b"data: [DONE]\r\n\r\n", b"data: [DONE]", b"data: {",
        b'data: {"error":{"message":"x"}}\n\n',
        b'"completion_tokens":3', b'}],"usage":{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1}}\n',
        b'data: {"choices":[],"usage":{"completion_tokens":1}', b'data:{"choices":[]}\n', content("data: [DONE]"),
    ]
)  # fmt: skip
STREAMS = st.lists(st.one_of(CHUNKS, SCRAPS, st.builds(totals, USAGES), st.binary(max_size=9)), max_size=14).map(
    b"".join
)
LONGER = st.builds(lambda stream, times, after: stream * times + after, STREAMS, st.integers(1, 4), STREAMS)
CUTS = st.lists(st.integers(0, 4000), max_size=12)
ENGINES = st.sampled_from([Engine.VLLM, Engine.LLAMA_CPP])
MODES = st.tuples(st.booleans(), st.booleans(), st.sampled_from([1, 2]))


def a_meter(engine: Engine, mode: tuple[bool, bool, int]) -> StreamMeter:
    return meter_for(engine, forward_usage=mode[0], strip_continuous=mode[1], choices=mode[2])


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(at, len(stream)) for at in cuts), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@settings(max_examples=600, deadline=None)
@given(LONGER, CUTS, ENGINES, MODES)
def test_where_a_stream_is_cut_changes_nothing(
    stream: bytes, cuts: list[int], engine: Engine, mode: tuple[bool, bool, int]
) -> None:
    whole = drive(a_meter(engine, mode), [stream])
    assert drive(a_meter(engine, mode), cut(stream, cuts)) == whole
    assert drive(a_meter(engine, mode), [stream[at : at + 1] for at in range(len(stream))]) == whole
    if mode[:2] == (True, False):
        assert whole.out == stream


@pytest.mark.parametrize("opening", range(0, 130, 10))
def test_an_estimate_does_not_depend_on_how_chunks_that_are_removed_arrive(opening: int) -> None:
    unknown = totals('{"prompt_tokens":0,"completion_tokens":0}')
    lengths = [opening, *range(80)]
    stream = b"".join(content("x" * length) + unknown for length in lengths)
    whole = drive(meter_for(), [stream])
    assert whole.reading.usage.is_estimated
    assert drive(meter_for(), stream.splitlines(keepends=True)) == whole


@settings(max_examples=300, deadline=None)
@given(STREAMS, ENGINES, MODES)
def test_what_passes_is_whole_lines_of_the_stream_in_order(
    stream: bytes, engine: Engine, mode: tuple[bool, bool, int]
) -> None:
    driven = drive(a_meter(engine, mode), [stream])
    assert not driven.passed or driven.passed.endswith(b"\n")
    left = iter(stream)
    assert all(byte in left for byte in driven.out)
    assert all(quantity.amount > 0 for quantity in driven.reading.usage.quantities)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), CUTS, MODES)
def test_any_bytes_pass_as_they_are(stream: bytes, cuts: list[int], mode: tuple[bool, bool, int]) -> None:
    assert drive(a_meter(Engine.VLLM, mode), cut(stream, cuts)).out == stream


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=99), STREAMS.map(lambda stream: stream[6:].rstrip())))
def test_any_body_is_read_without_raising(body: bytes) -> None:
    reading = read_body(Engine.VLLM, body, choices=1, prompt_bytes=10)
    assert all(quantity.amount > 0 for quantity in reading.usage.quantities)
