"""What is read off a whole answer."""

import json

import pytest

from proxy.core.catalogue import Engine
from proxy.core.meters import Reading, read_body
from proxy.core.usage import NOTHING, Source
from tests.meters.driving import amounts, sources


def read(answer: object, **more: int) -> Reading:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return read_body(Engine.VLLM, body, **{"choices": 1, "prompt_bytes": 100, **more})


def choice(text: str = "twelve bytes") -> dict[str, object]:
    return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}


def test_usage_is_taken_apart() -> None:
    usage = {
        "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 60}, "completion_tokens_details": {"reasoning_tokens": 20},
    }  # fmt: skip
    reading = read({"choices": [choice()], "usage": usage})
    assert amounts(reading.usage) == {"input": 40, "cached_input": 60, "output": 30, "reasoning": 20}
    assert reading.complete


@pytest.mark.parametrize(
    "usage", [None, {}, 7, {"prompt_tokens": -1, "completion_tokens": 1.5}, {"completion_tokens": 0}]
)
def test_an_answer_without_usage_is_estimated_from_its_text(usage: object) -> None:
    reading = read({"choices": [choice(), choice("é" * 6)], "usage": usage}, choices=2)
    assert amounts(reading.usage) == {"input": 25, "output": 6}
    assert sources(reading.usage) == {Source.ESTIMATED}
    assert reading.complete


def test_an_answer_of_nothing_has_no_output() -> None:
    reading = read({"choices": [choice("")], "usage": {"prompt_tokens": 4, "completion_tokens": 0}})
    assert amounts(reading.usage) == {"input": 4}


def test_tool_calls_and_reasoning_are_text_too() -> None:
    call = {"function": {"name": "f", "arguments": "{}" * 6}}
    message = {"content": None, "reasoning": "abc", "reasoning_content": "abc", "tool_calls": [call, None, {}, 7]}
    assert amounts(read({"choices": [{"message": message}]}).usage)["output"] == 4


DEEP = b'{"usage":' + b"[" * 100_000


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"<html>", b"\xff", DEEP, b'{"choices":[{"a":1}]'])
def test_what_is_no_answer_is_not_complete(body: bytes) -> None:
    reading = read(body)
    assert not reading.complete
    assert amounts(reading.usage) == {"input": 25}
    assert reading.usage.is_estimated


@pytest.mark.parametrize("choices", [7, "x", [7], [None], {"a": 1}, [{"message": 7}], [{"message": {"content": {}}}]])
def test_choices_of_another_shape_do_no_harm(choices: object) -> None:
    assert read({"choices": choices, "usage": {"prompt_tokens": 4, "completion_tokens": 0}}).usage.output_tokens == 0


def test_an_error_with_a_good_status_is_never_priced() -> None:
    reading = read({"error": {"message": "no"}})
    assert reading == Reading(NOTHING, complete=False, failed=True)
    usage = {"prompt_tokens": 4, "completion_tokens": 4}
    reading = read({"error": {"message": "no"}, "choices": [choice()], "usage": usage})
    assert reading == Reading(NOTHING, complete=False, failed=True)
    assert read({"detail": "Not Found"}) == Reading(NOTHING, complete=False)
