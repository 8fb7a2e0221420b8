"""Side by side with a recorded vLLM 0.32: the same request gets the same fields, in the same order, of the same types.

Numbers, texts and ids differ: the recorded model is another. What a client or a meter could depend on does not.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.simulator import Options, SimulatedCluster
from tests.simulator.exchange import CHAT, chat, chunks, events, exchange

RECORDED = Path(__file__).parent.parent / "wire" / "vllm-0.32.0-chat"
FORCED = RECORDED.with_name("vllm-0.32.0-chat-forceusage")
ANSWERS = ["chat_think", "chat_n2", "chat_tool", "chat_maxtok", "comp", "comp_list", "comp_tokens"]
STREAMS = [
    "chat_think_stream",
    "chat_tool_stream",
    "chat_stream_usage_false",
    "chat_stream_continuous",
    "chat_maxtok_stream",
    "comp_list_stream",
    "comp_stream_nousage",
]
REFUSALS = [
    "chat_maxtok0",
    "err_bad_json",
    "err_bad_model",
    "err_bad_model_stream",
    "err_bad_temp",
    "err_empty_body",
    "err_empty_messages",
    "err_max_tokens_too_big",
    "err_method",
    "err_no_messages",
    "err_no_route",
    "err_stream_options_without_stream",
    "err_text_plain",
    "err_wrong_type",
]


def _shape(value: Any) -> Any:
    """Return what stands where: keys in order and types; texts and numbers give way to their type."""
    if isinstance(value, dict):
        return [(key, _shape(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return [_shape(inner) for inner in value[:2]]
    return type(value).__name__


def _recording(case: str) -> tuple[str, str, tuple[str, ...], bytes, str, bytes]:
    """Return method, path, headers and body of the request; status line and body of the answer."""
    request, _, body = (RECORDED / f"{case}.req").read_bytes().partition(b"\r\n\r\n")
    first, *lines = request.decode().split("\r\n")
    method, path, _ = first.split(" ")
    kinds = tuple(line for line in lines if line.lower().startswith("content-type"))
    head, _, answer = (RECORDED / f"{case}.http").read_bytes().partition(b"\r\n\r\n")
    return method, path, kinds, body, head.decode().split("\r\n")[0], answer


async def _replay(case: str) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """Return (status line, body) as recorded and as simulated."""
    method, path, headers, body, status, answer = _recording(case)
    options = Options(tokens_per_second=0, models=("scripted",), max_model_len=2048)
    async with SimulatedCluster(options) as cluster:
        simulated, _, raw = await exchange(cluster, path, body, method=method, headers=headers)
    return (status, answer), (simulated, raw)


@pytest.mark.parametrize("case", ANSWERS)
async def test_a_whole_answer_has_the_recorded_shape(case: str) -> None:
    (status, answer), (simulated, raw) = await _replay(case)
    assert simulated == status
    recorded, made = json.loads(answer), json.loads(raw)
    for choice in recorded["choices"] + made["choices"]:  # whether this model reasons is its own affair
        for field in ("content", "reasoning"):
            choice.get("message", {}).pop(field, None)
    assert _shape(made) == _shape(recorded)


def _kinds(raw: bytes) -> list[Any]:
    """Return the shapes of a stream's events, each once, in order of appearance."""
    data = [chunk.removeprefix(b"data: ").rstrip() for chunk in chunks(raw)]
    assert data.pop() == b"[DONE]"
    shapes: list[Any] = []
    for one in data:
        event = json.loads(one)
        for choice in event["choices"]:
            delta = choice.get("delta", {})
            if "reasoning" in delta:
                delta["content"] = delta.pop("reasoning")
        if (shape := _shape(event)) not in shapes:
            shapes.append(shape)
    return shapes


@pytest.mark.parametrize("case", STREAMS)
async def test_a_stream_has_the_recorded_shapes_in_their_order(case: str) -> None:
    (status, answer), (simulated, raw) = await _replay(case)
    assert simulated == status
    assert _kinds(raw) == _kinds(answer)


async def test_with_several_choices_each_event_counts_its_own_choice_and_the_last_one_the_call() -> None:
    options = Options(tokens_per_second=0, force_include_usage=True)
    async with SimulatedCluster(options) as cluster:
        *_, raw = await exchange(cluster, CHAT, chat("hi SIM:tokens=20", n=2, max_tokens=8, stream=True))
    recorded = (FORCED / "chat_n2_stream.http").read_bytes().partition(b"\r\n\r\n")[2]
    for stream in (raw, recorded):
        *running, last = events(stream)
        for index in (0, 1):
            counts = [event["usage"]["completion_tokens"] for event in running if event["choices"][0]["index"] == index]
            assert (counts[0], counts[-1]) == (0, 8)
        assert last["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_refusal_is_the_recorded_one_byte_for_byte(case: str) -> None:
    recorded, simulated = await _replay(case)
    assert simulated == recorded
