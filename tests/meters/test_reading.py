"""What a stream meter reads: an engine's usage, engine by engine, and the estimate when there is none."""

import pytest

from proxy.core.catalogue import Engine
from proxy.core.usage import NOTHING, Source, UsageType
from tests.meters.driving import (
    DONE,
    ROLE,
    STOP,
    amounts,
    chunk,
    content,
    drive,
    meter_for,
    sources,
    totals,
)  # fmt: skip


def usage(prompt: int, completion: int, more: str = "") -> str:
    return f'{{"prompt_tokens":{prompt},"total_tokens":{prompt + completion},"completion_tokens":{completion}{more}}}'


HELLO = ROLE + content("Hel") + content("lo") + STOP


def test_llama_cpp_sends_usage_once_a_choice_and_the_prompt_is_counted_once() -> None:
    stream = content("a") + content("b", index=1) + chunk(finish="stop") + chunk(finish="stop", index=1)
    stream += totals(usage(7, 3)) + totals(usage(7, 4)) + DONE
    driven = drive(meter_for(Engine.LLAMA_CPP, choices=2), [b"data: null\n\n" + stream])
    assert amounts(driven.reading.usage) == {"input": 7, "output": 7}
    assert b"usage" not in driven.out


def test_llama_cpp_completes_several_prompts_and_each_is_counted() -> None:
    stream = chunk('"content":"a"', "stop", usage(5, 3)) + chunk('"content":"b"', "stop", usage(6, 4), index=1)
    driven = drive(meter_for(Engine.LLAMA_CPP, choices=2), [stream + DONE])
    assert amounts(driven.reading.usage) == {"input": 11, "output": 7}


def test_ollama_sends_zeros_until_it_knows() -> None:
    zeros = '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'
    stream = content("a", usage=zeros) + content("b", usage=zeros)
    meter = meter_for(Engine.OLLAMA, strip_continuous=True, prompt_bytes=40)
    assert meter.feed(stream) == content("a") + content("b")
    assert amounts(meter.known()) == {"input": 10, "output": 2}
    assert sources(meter.known()) == {Source.ESTIMATED}
    last = '{"prompt_tokens":8,"completion_tokens":2,"total_tokens":10}'
    assert meter.feed(chunk(finish="stop", usage=last) + DONE) == STOP
    assert amounts(meter.known()) == {"input": 8, "output": 2}
    assert sources(meter.known()) == {Source.REPORTED}


def test_transformers_ends_with_usage_beside_the_finish_reason_and_nothing_after() -> None:
    stream = HELLO[: -len(STOP)] + chunk(finish="stop", usage=usage(12, 2))
    driven = drive(meter_for(Engine.TRANSFORMERS), [stream])
    assert driven.out == stream
    assert driven.tail == b""
    assert driven.reading.complete
    assert amounts(driven.reading.usage) == {"input": 12, "output": 2}


def test_transformers_usage_is_left_to_a_client_that_asked_and_cut_for_one_that_did_not() -> None:
    stream = HELLO[: -len(STOP)] + chunk(finish="stop", usage=usage(12, 2))
    asked = drive(meter_for(Engine.TRANSFORMERS, forward_usage=True, strip_continuous=True), [stream])
    assert asked.out == stream
    unasked = drive(meter_for(Engine.TRANSFORMERS, strip_continuous=True), [stream])
    assert unasked.out == HELLO
    assert asked.reading == unasked.reading


def test_llama_cpp_python_never_sends_usage_and_is_counted() -> None:
    spaced = HELLO.replace(b'":', b'": ')
    driven = drive(meter_for(Engine.LLAMA_CPP_PYTHON, prompt_bytes=41), [spaced + DONE])
    assert amounts(driven.reading.usage) == {"input": 11, "output": 2}
    assert sources(driven.reading.usage) == {Source.ESTIMATED}
    assert driven.reading.complete


def test_sglang_names_reasoning_tokens_beside_the_details() -> None:
    numbers = usage(20, 9, ',"prompt_tokens_details":{"cached_tokens":16},"reasoning_tokens":5')
    driven = drive(meter_for(Engine.SGLANG, strip_continuous=True), [HELLO + totals(numbers) + DONE])
    assert amounts(driven.reading.usage) == {"input": 4, "cached_input": 16, "output": 4, "reasoning": 5}


def test_sglang_statistics_are_cut_out_and_read() -> None:
    extra = ',"prompt_tokens_details":null,"reasoning_tokens":0'
    stream = content("a", usage=usage(3, 1, extra)) + content("b", usage=usage(3, 2, extra))
    meter = meter_for(Engine.SGLANG, strip_continuous=True)
    assert meter.feed(stream) == content("a") + content("b")
    assert amounts(meter.known()) == {"input": 3, "output": 2}


def test_tgi_sends_one_chunk_without_an_id() -> None:
    last = totals(usage(30, 2)).replace(b'"id":"c"', b'"id":""')
    driven = drive(meter_for(Engine.TGI), [HELLO + last + DONE])
    assert driven.passed == HELLO
    assert amounts(driven.reading.usage) == {"input": 30, "output": 2}


def test_openai_sends_null_usage_with_every_chunk_and_that_passes_in_one_piece() -> None:
    nulls = content("a", usage="null") * 50
    meter = meter_for(Engine.OPENAI, strip_continuous=True)
    meter.feed(chunk('"role":"assistant","content":""', usage="null"))
    assert meter.feed(nulls) is nulls
    details = ',"completion_tokens_details":{"reasoning_tokens":64},"prompt_tokens_details":{"cached_tokens":1024}'
    meter.feed(totals(usage(1100, 114, details)) + DONE)
    assert amounts(meter.finish().usage) == {"input": 76, "cached_input": 1024, "output": 50, "reasoning": 64}


def test_hidden_reasoning_is_believed_although_nothing_of_it_was_seen() -> None:
    details = ',"completion_tokens_details":{"reasoning_tokens":90000}'
    driven = drive(meter_for(Engine.OPENAI), [HELLO + totals(usage(9, 90002, details)) + DONE])
    assert amounts(driven.reading.usage) == {"input": 9, "output": 2, "reasoning": 90000}


def test_reasoning_that_stands_beside_the_completion_is_not_taken_from_it() -> None:
    numbers = '{"prompt_tokens":10,"completion_tokens":5,"total_tokens":22,"reasoning_tokens":7}'
    driven = drive(meter_for(), [HELLO + totals(numbers) + DONE])
    assert amounts(driven.reading.usage) == {"input": 10, "output": 5, "reasoning": 7}
    assert sources(driven.reading.usage) == {Source.REPORTED}


def test_more_reasoning_than_completion_is_no_more_than_the_completion_and_an_estimate() -> None:
    details = ',"completion_tokens_details":{"reasoning_tokens":9}'
    driven = drive(meter_for(), [HELLO + totals(usage(10, 5, details)) + DONE])
    assert amounts(driven.reading.usage) == {"input": 10, "reasoning": 5}
    assert driven.reading.usage.is_estimated


def test_more_cached_than_prompt_tokens_is_no_more_than_the_prompt() -> None:
    details = ',"prompt_tokens_details":{"cached_tokens":99}'
    driven = drive(meter_for(), [HELLO + totals(usage(10, 2, details)) + DONE])
    assert amounts(driven.reading.usage) == {"cached_input": 10, "output": 2}


@pytest.mark.parametrize("engine", [Engine.VLLM, Engine.SGLANG])
def test_a_broken_stream_of_two_choices_is_the_sum_of_what_each_last_said(engine: Engine) -> None:
    stream = content("a", usage=usage(6, 1)) + content("b", index=1, usage=usage(6, 1))
    stream += content("c", usage=usage(6, 2)) + content("d", usage=usage(6, 3))
    meter = meter_for(engine, choices=2, strip_continuous=True)
    meter.feed(stream)
    assert amounts(meter.finish().usage) == {"input": 6, "output": 4}
    assert not meter.finish().complete


def test_a_stream_of_two_choices_is_complete_when_both_have_finished() -> None:
    meter = meter_for(choices=2)
    meter.feed(content("a") + content("b", index=1) + chunk(finish="stop"))
    assert not meter.finish().complete
    meter.feed(chunk(finish="length", index=1))
    assert meter.finish().complete


def test_a_broken_stream_is_metered_by_its_last_statistics() -> None:
    meter = meter_for(strip_continuous=True)
    meter.feed(ROLE + content("a", usage=usage(16, 1)) + content("b", usage=usage(16, 7)) + content("c")[:40])
    assert amounts(meter.finish().usage) == {"input": 16, "output": 7}
    assert sources(meter.finish().usage) == {Source.REPORTED}
    assert not meter.finish().complete


def test_what_a_stream_says_at_its_end_corrects_its_statistics() -> None:
    meter = meter_for(strip_continuous=True)
    meter.feed(ROLE + content("a", usage=usage(16, 1)) + content("b", usage=usage(16, 2)))
    meter.feed(STOP + totals(usage(16, 3, ',"prompt_tokens_details":{"cached_tokens":12}')) + DONE)
    assert amounts(meter.finish().usage) == {"input": 4, "cached_input": 12, "output": 3}


def test_counted_are_deltas_with_text_not_those_that_open_or_close() -> None:
    tool = chunk('"tool_calls":[{"index":0,"function":{"name":"f"}}]')
    call = chunk('"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]')
    thought = chunk('"reasoning_content":"hm","reasoning":"hm"')
    stream = ROLE + thought + content("a") + content("") + tool + call + chunk('"refusal":"no"') + STOP
    meter = meter_for()
    meter.feed(stream)
    assert meter.known().output_tokens == 5


@pytest.mark.parametrize("noise", [b"", b": ping\n\n" * 9, b"data: null\n\n" * 9])
@pytest.mark.parametrize("deltas", [1, 5, 18, 40, 5000])
def test_deltas_are_counted_however_many_there_are(deltas: int, noise: bytes) -> None:
    meter = meter_for(Engine.TGI)
    meter.feed(ROLE + noise)
    for _ in range(deltas):
        meter.feed(content("word"))
    meter.feed(noise)
    assert meter.known().amount(UsageType.OUTPUT) == deltas
    meter.feed(STOP)
    assert meter.known().amount(UsageType.OUTPUT) == deltas


@pytest.mark.parametrize("deltas", [3, 300])
def test_deltas_of_several_tokens_count_for_more_than_one(deltas: int) -> None:
    meter = meter_for(Engine.OPENAI)
    for _ in range(deltas):
        meter.feed(content("some twenty letters!"))
    tokens = meter.known().amount(UsageType.OUTPUT)
    assert tokens == 4 * deltas
    meter = meter_for(Engine.OPENAI, choices=2)
    meter.feed(content("some twenty letters!") * deltas)
    assert meter.known().amount(UsageType.OUTPUT) == tokens


ABSURD = ["-1", "2.0", "1e3", '"5"', "null", "true", "[]", "9007199254740993", "1" + "0" * 40, "500000"]


@pytest.mark.parametrize("number", ABSURD)
def test_an_impossible_completion_is_estimated_and_the_prompt_still_believed(number: str) -> None:
    numbers = f'{{"prompt_tokens":9,"total_tokens":11,"completion_tokens":{number}}}'
    driven = drive(meter_for(strip_continuous=True), [ROLE + content("a", usage=numbers) + STOP + DONE])
    assert amounts(driven.reading.usage) == {"input": 9, "output": 1}
    assert [quantity.source for quantity in driven.reading.usage.quantities] == [Source.REPORTED, Source.ESTIMATED]


@pytest.mark.parametrize("number", [*ABSURD[:-1], "0", "5000000"])
def test_an_impossible_prompt_is_estimated_and_the_completion_still_believed(number: str) -> None:
    numbers = f'{{"prompt_tokens":{number},"total_tokens":11,"completion_tokens":3}}'
    driven = drive(meter_for(prompt_bytes=50), [HELLO + totals(numbers) + DONE])
    assert amounts(driven.reading.usage) == {"input": 13, "output": 3}


@pytest.mark.parametrize("number", ABSURD[:-1])
def test_impossible_details_are_not_believed(number: str) -> None:
    details = f',"prompt_tokens_details":{{"cached_tokens":{number}}}'
    details += f',"completion_tokens_details":7,"reasoning_tokens":{number}'
    driven = drive(meter_for(), [HELLO + totals(usage(9, 2, details)) + DONE])
    assert amounts(driven.reading.usage) == {"input": 9, "output": 2}
    assert sources(driven.reading.usage) == {Source.REPORTED}


@pytest.mark.parametrize("numbers", ["{}", '{"completion_tokens":{}}', '"completion_tokens"', "7", "[]"])
def test_usage_that_says_nothing_is_no_usage(numbers: str) -> None:
    driven = drive(meter_for(), [HELLO + totals(numbers) + DONE])
    assert amounts(driven.reading.usage) == {"input": 25, "output": 2}
    assert driven.reading.complete


def test_an_answer_of_nothing_has_no_output() -> None:
    driven = drive(meter_for(), [ROLE + STOP + totals(usage(9, 0)) + DONE])
    assert amounts(driven.reading.usage) == {"input": 9}
    assert sources(driven.reading.usage) == {Source.REPORTED}


@pytest.mark.parametrize(
    "error", [b'data: {"error":{"message":"full","code":500}}\n\n', b'data: {"object":"error","message":"x"}\n\n']
)  # fmt: skip
def test_an_error_in_the_stream_is_noted_and_never_priced(error: bytes) -> None:
    broken = drive(meter_for(), [ROLE + content("a") + error + DONE])
    assert broken.out == ROLE + content("a") + error + DONE
    assert (broken.reading.complete, broken.reading.failed) == (False, True)
    assert broken.reading.usage.output_tokens == 1
    assert drive(meter_for(), [error + DONE]).reading.usage == NOTHING
    at_once = drive(meter_for(strip_continuous=True), [chunk('"role":"assistant"', usage=usage(9, 0)) + error + DONE])
    assert at_once.reading.usage == NOTHING


def test_nesting_without_end_is_no_usage() -> None:
    deep = b'data: {"choices":[],"usage":{"completion_tokens":' + b"[" * 100_000 + b"\n\n"
    driven = drive(meter_for(), [HELLO + deep + DONE])
    assert driven.passed == HELLO + deep
    assert driven.reading.usage.output_tokens == 2


@pytest.mark.parametrize("stream", [b"", b"\n", b"<html>502</html>", b"\xff\xfe\x00", b"data: {", b"data: [DONE]\n\n"])
def test_a_stream_of_nothing_is_never_silently_free(stream: bytes) -> None:
    driven = drive(meter_for(prompt_bytes=0), [stream])
    assert driven.out == stream
    assert amounts(driven.reading.usage) == {"input": 1}
    assert driven.reading.usage.is_estimated
    assert driven.reading.complete is (b"[DONE]" in stream)
