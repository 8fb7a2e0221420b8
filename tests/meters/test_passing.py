"""What a stream meter lets pass, holds back and removes."""

import itertools

import pytest

from proxy.core.catalogue import Engine
from proxy.core.meters.chat_stream import HELD_BYTES_MAX
from proxy.core.meters.lines import LINE_BYTES_MAX
from tests.meters.driving import DONE, ROLE, STOP, amounts, chunk, content, drive, meter_for, totals

USAGE = '{"prompt_tokens":9,"total_tokens":11,"completion_tokens":2}'
ANSWER = ROLE + content("a") + content("b") + STOP


def test_a_piece_without_usage_passes_as_the_very_same_object() -> None:
    meter = meter_for(strip_continuous=True)
    meter.feed(ROLE)
    piece = content("a") * 300
    assert meter.feed(piece) is piece


def test_the_usage_chunk_goes_with_its_blank_line_when_the_client_did_not_ask() -> None:
    driven = drive(meter_for(), [ANSWER + totals(USAGE) + DONE])
    assert driven.passed == ANSWER
    assert driven.tail == DONE
    assert amounts(driven.reading.usage) == {"input": 9, "output": 2}


def test_the_usage_chunk_stays_when_the_client_asked() -> None:
    driven = drive(meter_for(forward_usage=True, strip_continuous=True), [ANSWER + totals(USAGE) + DONE])
    assert driven.passed == ANSWER + totals(USAGE)
    assert driven.tail == DONE


def test_the_end_is_held_back_whatever_follows_it() -> None:
    meter = meter_for()
    assert meter.feed(ANSWER + DONE + b": bye\n\n" + content("late")) == ANSWER
    assert meter.feed(content("later")) == b""
    assert meter.tail() == DONE + b": bye\n\n" + content("late") + content("later")
    assert meter.finish().complete


def test_what_is_held_after_the_end_is_bounded() -> None:
    meter = meter_for()
    meter.feed(ANSWER + DONE)
    for _ in range(100):
        assert meter.feed(b"x" * 10_000) == b""
    assert len(meter.tail()) == HELD_BYTES_MAX


def test_an_end_inside_a_text_is_no_end() -> None:
    stream = ROLE + content("[DONE]") + content("data: [DONE]") + content("data: [DONE]\\ndata: [DONE]") + STOP
    driven = drive(meter_for(), [stream])
    assert driven.passed == stream
    assert driven.tail == b""


def test_an_end_with_more_than_a_little_space_is_no_end() -> None:
    stream = ANSWER + b"data: [DONE]" + b" " * 100 + b"\n\n"
    assert drive(meter_for(), [stream]).passed == stream


@pytest.mark.parametrize("end", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE] \n\n", b"data: [DONE]\r\n\r\n"])
def test_an_end_is_seen_with_any_line_end_or_none(end: bytes) -> None:
    driven = drive(meter_for(), [ROLE + content("a") + end])
    assert driven.passed == ROLE + content("a")
    assert driven.tail == end
    assert driven.reading.complete


def test_a_stream_without_spaces_after_its_colons_is_read_too() -> None:
    stream = (ANSWER + totals(USAGE) + DONE).replace(b"data: ", b"data:")
    driven = drive(meter_for(), [stream])
    assert driven.passed == ANSWER.replace(b"data: ", b"data:")
    assert driven.tail == b"data:[DONE]\n\n"
    assert amounts(driven.reading.usage) == {"input": 9, "output": 2}


def test_a_stream_of_crlf_lines_is_read_and_cut_too() -> None:
    counted = content("a", usage=USAGE)
    stream = (ROLE + counted + STOP + totals(USAGE) + DONE).replace(b"\n", b"\r\n")
    driven = drive(meter_for(strip_continuous=True), [stream])
    assert driven.out == (ROLE + content("a") + STOP + DONE).replace(b"\n", b"\r\n")
    assert amounts(driven.reading.usage) == {"input": 9, "output": 2}


def test_an_unfinished_line_waits_for_its_end() -> None:
    meter = meter_for()
    assert meter.feed(ROLE + b'data: {"choi') == ROLE
    assert meter.feed(b'ces":[]}') == b""
    assert meter.feed(b"\n") == b'data: {"choices":[]}\n'


def test_an_unfinished_line_comes_with_the_tail() -> None:
    meter = meter_for()
    meter.feed(ROLE + content("a")[:-9])
    assert meter.tail() == content("a")[:-9]
    assert not meter.finish().complete


def test_a_usage_chunk_that_ends_the_stream_without_a_line_end_is_read_and_removed() -> None:
    driven = drive(meter_for(), [ANSWER + totals(USAGE).rstrip()])
    assert driven.out == ANSWER
    assert amounts(driven.reading.usage) == {"input": 9, "output": 2}


def test_the_rest_of_an_event_whose_data_was_removed_stays_an_event_of_its_own() -> None:
    data = totals(USAGE)
    stream = ANSWER + b"event: message\n" + data + b": ping\n\n" + b"id: 7\n" + data + DONE
    driven = drive(meter_for(), [stream])
    assert driven.passed == ANSWER + b"event: message\n\n" + b": ping\n\n" + b"id: 7\n\n"


def test_only_the_blank_line_right_after_a_removed_chunk_goes_with_it() -> None:
    data = totals(USAGE)[:-1]
    driven = drive(meter_for(), [ANSWER + data + b"id: 7\n\n" + DONE])
    assert driven.passed == ANSWER + b"id: 7\n\n"


def test_comments_other_fields_and_null_events_pass() -> None:
    stream = b": ping\n\nretry: 5\n\nevent: x\nid: 1\ndata: null\n\n" + ANSWER + b":\n\n" + b"\n\n\n" + b"junk\n"
    driven = drive(meter_for(strip_continuous=True), [stream + DONE])
    assert driven.out == stream + DONE
    assert driven.reading.usage.output_tokens == 2


@pytest.mark.parametrize("choices", [1, 2])
def test_a_chunk_whose_usage_counts_nothing_passes(choices: int) -> None:
    stream = ANSWER + totals('{"queue_ms":12}')
    assert drive(meter_for(choices=choices), [stream + DONE]).passed == stream


def test_usage_in_content_chunks_is_cut_out_and_nothing_else_moves() -> None:
    counted = [content(letter, usage=USAGE) for letter in "abc"]
    driven = drive(meter_for(strip_continuous=True), [ROLE + b"".join(counted) + DONE])
    assert driven.passed == ROLE + content("a") + content("b") + content("c")


def test_usage_in_content_chunks_stays_when_the_gateway_did_not_cause_it() -> None:
    stream = ROLE + content("a", usage=USAGE) + content("b", usage=USAGE) + STOP
    driven = drive(meter_for(), [stream + totals(USAGE) + DONE])
    assert driven.passed == stream


CHOICE = '{"index":0,"delta":{"content":"x"},"finish_reason":null}'
DEEP = '{"completion_tokens":2,"d":{"e":{"f":[1,"}"]}}}'
INNER = f'{{"y":[{{}}],"usage":{USAGE}}}'
AWKWARD = [
    (f'{{"usage":{USAGE},"choices":[{CHOICE}]}}', f'{{"choices":[{CHOICE}]}}'),
    (f'{{"usage" : {USAGE} , "choices":[{CHOICE}]}}', f'{{ "choices":[{CHOICE}]}}'),
    (f'{{"choices":[{CHOICE}], "usage" : {USAGE} }}', f'{{"choices":[{CHOICE}] }}'),
    (f'{{"choices":[{CHOICE}],"usage":{USAGE},"x":[{{"usage":{USAGE}}}]}}', None),
    (f'{{"choices":[{CHOICE}],"usage":{USAGE},"fp":"a}}b"}}', f'{{"choices":[{CHOICE}],"fp":"a}}b"}}'),
    (f'{{"choices":[{CHOICE}],"usage":{DEEP}}}', f'{{"choices":[{CHOICE}]}}'),
    (f'{{"choices":[{CHOICE}],"usage":null,"usage":{USAGE}}}', f'{{"choices":[{CHOICE}],"usage":null}}'),
    (f'{{"choices":[{CHOICE}],"usage":{USAGE},"usage":{USAGE}}}', f'{{"choices":[{CHOICE}]}}'),
    (f'{{"choices":[{CHOICE}],"t":{{"usage":{USAGE}}}}}', f'{{"choices":[{CHOICE}],"t":{{"usage":{USAGE}}}}}'),
    (f'{{"usage":{USAGE},"choices":[{CHOICE}],"usage":{USAGE}}}', f'{{"choices":[{CHOICE}]}}'),
    (f'{{"choices":[{CHOICE}],"x":{INNER}}}', f'{{"choices":[{CHOICE}],"x":{INNER}}}'),
    (f'{{"choices":[{CHOICE}],"a":[1],"usage":{USAGE}}}', f'{{"choices":[{CHOICE}],"a":[1]}}'),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "left"), AWKWARD)
def test_usage_in_an_unusual_place_is_cut_out_exactly(sent: str, left: str | None) -> None:
    left = left if left is not None else sent.replace(f'"usage":{USAGE},"x"', '"x"')
    driven = drive(meter_for(strip_continuous=True), [ROLE + f"data: {sent}\n\n".encode() + DONE])
    assert driven.passed.decode() == ROLE.decode() + f"data: {left}\n\n"


LOOKALIKES = [
    r'"content":"}],\"usage\":{\"prompt_tokens\":1,\"total_tokens\":2,\"completion_tokens\":1}}"',
    '"content":"usage"',
    '"content":"completion_tokens"',
    r'"content":"\"completion_tokens"',
    r'"tool_calls":[{"index":0,"function":{"arguments":"{\"usage\":{\"completion_tokens\":5}}"}}]',
    r'"tool_calls":[{"index":0,"function":{"name":"usage","arguments":"\"completion_tokens\":9"}}]',
    '"content":"x","usage":{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1}',
]


@pytest.mark.parametrize("delta", LOOKALIKES)
@pytest.mark.parametrize("choices", [1, 2])
def test_nothing_that_a_customer_can_have_generated_is_taken_for_usage(delta: str, choices: int) -> None:
    stream = ROLE + chunk(delta) + STOP
    driven = drive(meter_for(strip_continuous=True, choices=choices), [stream + DONE])
    assert driven.passed == stream
    assert driven.reading.usage.is_estimated


def test_a_token_that_is_a_key_of_the_log_probabilities_is_no_usage() -> None:
    choice = '{"index":0,"text":"a","logprobs":{"top_logprobs":[{"usage":-1.5,"completion_tokens":-2.5}]}}'
    stream = f'data: {{"object":"text_completion","choices":[{choice}]}}\n\n'.encode()
    driven = drive(meter_for(strip_continuous=True), [stream + DONE])
    assert driven.passed == stream
    assert driven.reading.usage.is_estimated


def test_a_line_that_is_too_long_passes_unread_and_is_not_kept() -> None:
    long = b'data: {"choices":[],"usage":{"completion_tokens":5,"x":"' + b"y" * LINE_BYTES_MAX + b'"}}\n'
    meter = meter_for()
    meter.feed(ROLE)
    kept_most = passed = 0
    for at in range(0, len(long), 4096):
        passed += len(meter.feed(long[at : at + 4096]))
        kept_most = max(kept_most, at + 4096 - passed)
    assert passed == len(long)
    assert kept_most <= LINE_BYTES_MAX + 4096
    whole = meter_for()
    assert whole.feed(ROLE + long) == ROLE + long
    assert meter.feed(ANSWER + DONE) == whole.feed(ANSWER + DONE) == ANSWER
    meter.tail()
    whole.tail()
    assert meter.finish() == whole.finish()


@pytest.mark.parametrize("cuts", [[], [9000, LINE_BYTES_MAX + 50]])
def test_reading_goes_on_after_a_line_that_was_too_long(cuts: list[int]) -> None:
    long = b"x" * (LINE_BYTES_MAX + 100) + b"\n"
    pieces = [long[start:end] for start, end in itertools.pairwise([0, *cuts, len(long)])]
    meter = meter_for()
    assert b"".join(map(meter.feed, [ANSWER, *pieces])) == ANSWER + long
    assert meter.feed(totals(USAGE)) == b"\n"
    assert amounts(meter.known()) == {"input": 9, "output": 2}
    assert meter.feed(totals(USAGE)[:-1]) == b""
    assert b"".join(map(meter.feed, [*pieces, b"\n"])) == long + b"\n"


def test_a_line_of_any_length_may_arrive_byte_by_byte() -> None:
    meter = meter_for()
    for _ in range(2 * LINE_BYTES_MAX // 64):
        meter.feed(b"z" * 64)
    assert meter.feed(b"\n" + ANSWER) == b"\n" + ANSWER


def test_no_engine_needs_another_meter() -> None:
    for engine in Engine:
        assert drive(meter_for(engine), [ANSWER + totals(USAGE) + DONE]).out == ANSWER + DONE
