"""Side by side with recorded servers: the same request gets the same fields, in the same order, of the same types.

Numbers, texts and ids differ: the recorded model is another. What a client or a meter could depend on does not.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.core.catalogue import Engine
from proxy.simulator import Options, SimulatedCluster
from tests.simulator.exchange import CHAT, chat, chunks, events, exchange

WIRE = Path(__file__).parent.parent / "wire"
CHAT_FOLDER = "vllm-0.32.0-chat"
FORCED = WIRE / "vllm-0.32.0-chat-forceusage"
CUT = b"...cut..."
TEXT = ("/v1/chat/completions", "/v1/completions")
SETUPS = {
    CHAT_FOLDER: Options(tokens_per_second=0, models=("scripted",), max_model_len=2048, routes=TEXT),
    "vllm-0.32.0-embed": Options(models=("minilm",), max_model_len=256, shortens_vectors=False),
    "vllm-0.32.0-rerank": Options(models=("reranker",), max_model_len=512),
    "vllm-0.32.0-whisper": Options(tokens_per_second=0, models=("whisper",), max_model_len=448),
    "infinity-0.0.78-embed": Options(models=("minilm", "reranker"), engine=Engine.INFINITY),
    "infinity-0.0.78-rerank": Options(models=("minilm", "reranker"), engine=Engine.INFINITY),
}
"""The cluster that is to answer as each folder's server did."""
OTHERS = [
    (folder, path.stem) for folder in SETUPS if folder != CHAT_FOLDER for path in sorted((WIRE / folder).glob("*.http"))
]
"""Every recorded call that generates no text."""
ANSWERS = [
    "chat",
    "chat_think",
    "chat_n2",
    "chat_tool",
    "chat_maxtok",
    "chat_logprobs",
    "comp",
    "comp_list",
    "comp_n2_bestof",
    "comp_tokens",
    "err_bad_role",
]
STREAMS = [
    "chat_think_stream",
    "chat_tool_stream",
    "chat_stream_usage_false",
    "chat_stream_continuous",
    "chat_maxtok_stream",
    "comp_list_stream",
    "comp_stream_nousage",
    "comp_stream_usage",
]
REFUSALS = [
    "chat_maxtok0",
    "err_bad_json",
    "err_bad_model",
    "err_bad_model_stream",
    "err_bad_temp",
    "err_emb_on_chat_model",
    "err_empty_body",
    "err_empty_messages",
    "err_max_tokens_too_big",
    "err_method",
    "err_no_messages",
    "err_no_route",
    "err_rerank_on_chat_model",
    "err_stream_options_without_stream",
    "err_text_plain",
    "err_too_long",
    "err_too_long_stream",
    "err_wrong_type",
]


def _shape(value: Any) -> Any:
    """Return what stands where: keys in order and types; texts and numbers give way to their type."""
    if isinstance(value, dict):
        if value and all(isinstance(inner, float) for inner in value.values()):
            return "by token"
        if value and all(key.isdigit() for key in value):
            return ["by token id", *map(_shape, list(value.values())[:1])]
        return [(key, _shape(inner)) for key, inner in value.items()]
    if isinstance(value, list) and value and all(type(inner) is int for inner in value):
        return ["int"]
    if isinstance(value, list):
        return [_shape(inner) for inner in value[:2]]
    return type(value).__name__


def _recording(folder: str, case: str) -> tuple[str, str, tuple[str, ...], bytes, str, bytes]:
    """Return method, path, headers and body of the request; head and body of the answer."""
    request, _, body = (WIRE / folder / f"{case}.req").read_bytes().partition(b"\r\n\r\n")
    first, *lines = request.decode().split("\r\n")
    method, path, _ = first.split(" ")
    kinds = tuple(line for line in lines if line.lower().startswith("content-type"))
    head, _, answer = (WIRE / folder / f"{case}.http").read_bytes().partition(b"\r\n\r\n")
    length = next(int(line.split()[1]) for line in lines if line.lower().startswith("content-length"))
    return method, path, kinds, _completed(body, length), head.decode(), answer


def _completed(body: bytes, length: int) -> bytes:
    """Return a request's body as long as it was: of a long one only the beginning was kept."""
    if not body.endswith(CUT):
        return body
    body = body.removesuffix(CUT)
    if body.startswith(b"------XyZ"):
        end, filler = b"\r\n------XyZ--\r\n", bytes(length)
    else:
        end, filler = b'"}]}' if b'"messages"' in body else b'"}', b"hello there " * length
    return body + filler[len(body) + len(end) - length :] + end


async def _replay(case: str, folder: str = CHAT_FOLDER) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """Return (status line and what says how a body is to be read, body) as recorded and as simulated."""
    method, path, headers, body, head, answer = _recording(folder, case)
    status, *lines = head.split("\r\n")
    recorded = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    async with SimulatedCluster(SETUPS[folder]) as cluster:
        simulated, made, raw = await exchange(cluster, path, body, method=method, headers=headers)
    return (f"{status} {_framing(recorded)}", answer), (f"{simulated} {_framing(made)}", raw)


def _framing(headers: dict[str, str]) -> str:
    has_length = "with" if "content-length" in headers else "without"
    return f"{headers['content-type']}, {has_length} length, from {headers['server']}"


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
        for choice in event["choices"] if "chat" in event["object"] else []:
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


@pytest.mark.parametrize(("folder", "case"), OTHERS)
async def test_what_generates_no_text_is_answered_as_recorded(folder: str, case: str) -> None:
    (status, answer), (simulated, raw) = await _replay(case, folder)
    assert simulated == status
    if " 200 " not in status:
        assert raw == answer
    elif "text/event-stream" in status:
        assert _kinds(raw) == _kinds(answer)
    else:
        assert _shape(json.loads(raw)) == _shape(json.loads(answer))


@pytest.mark.parametrize(("folder", "case"), [pair for pair in OTHERS if pair[0].startswith("infinity")])
async def test_infinity_counts_characters_as_the_recorded_one_does(folder: str, case: str) -> None:
    (status, answer), (_, raw) = await _replay(case, folder)
    if " 200 " in status:
        assert json.loads(raw).get("usage") == json.loads(answer).get("usage")


async def test_an_echoed_prompt_comes_first_and_with_its_probabilities() -> None:
    recorded = json.loads(_recording(CHAT_FOLDER, "comp_echo_logprobs")[-1])
    body = {"model": "m", "prompt": "hi there you", "echo": True, "logprobs": 1, "max_tokens": 2}
    async with SimulatedCluster(Options(tokens_per_second=0)) as cluster:
        *_, raw = await exchange(cluster, "/v1/completions", body)
        *_, stream = await exchange(cluster, "/v1/completions", body | {"stream": True})
    made = json.loads(raw)
    assert _shape(made) == _shape(recorded)
    choice = made["choices"][0]
    assert "".join(choice["logprobs"]["tokens"][:3]) == "hi there you"
    assert len(choice["logprobs"]["tokens"]) == 3 + made["usage"]["completion_tokens"]
    assert "".join(event["choices"][0]["text"] for event in events(stream)) == choice["text"]
    assert choice["text"].startswith("hi there you")


async def test_a_stop_word_is_sampled_and_not_said() -> None:
    recorded = json.loads(_recording(CHAT_FOLDER, "chat_stop")[-1])
    async with SimulatedCluster(Options(tokens_per_second=0)) as cluster:
        *_, raw = await exchange(cluster, CHAT, chat("hi SIM:tokens=60"))
        words = json.loads(raw)["choices"][0]["message"]["content"].split(" ")
        *_, raw = await exchange(cluster, CHAT, chat("hi SIM:tokens=60", stop=[" " + words[9]]))
        *_, stream = await exchange(cluster, CHAT, chat("hi SIM:tokens=60", stop=" " + words[9], stream=True))
    made = json.loads(raw)
    choice = made["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", " " + words[9])
    assert words[9] not in choice["message"]["content"].split(" ")
    assert made["usage"]["completion_tokens"] < 60
    assert events(stream)[-1]["choices"][0]["stop_reason"] == " " + words[9]
    for one in (recorded, made):
        for field in ("content", "reasoning"):
            one["choices"][0]["message"].pop(field)
    assert _shape(made) == _shape(recorded)
