"""What the API documentation shows of each route is what the simulated cluster answers: so that a demo is honest.

A documented field is there, with the documented type; that there are more is an engine's own affair. Where the
documented answer is made by the proxy (a transcription's segments, a rerank's search units), what it is made of is
here.
"""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.simulator import Options, SimulatedCluster
from tests.simulator.exchange import events, exchange
from tests.simulator.test_wire import form, wav

WORDS = st.text(max_size=40)
USAGE = {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int}
CHAT = {
    "id": str,
    "object": "chat.completion",
    "created": int,
    "model": "gpt-oss:120b",
    "choices": [{"index": int, "message": {"role": "assistant"}, "finish_reason": str}],
    "usage": USAGE,
}
CHUNK = {
    "id": str,
    "object": "chat.completion.chunk",
    "created": int,
    "model": "gpt-oss:120b",
    "choices": [{"delta": dict, "index": int, "finish_reason": (str, type(None))}],
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}, "unit": {"type": "string"}}},
    },
}
EMBEDDINGS = {
    "object": "list",
    "data": [{"object": "embedding", "index": int, "embedding": [float]}],
    "model": "granite-embedding:278m",
    "usage": {"prompt_tokens": int, "total_tokens": int},
}
RERANK = {
    "id": str,
    "results": [{"index": int, "relevance_score": float, "document": {"text": str}}],
    "usage": {"total_tokens": int},
}
SEGMENT = {"id": int, "seek": int, "start": float, "end": float, "text": str, "tokens": [int], "temperature": float}
TRANSCRIPTION = {"text": str, "segments": [SEGMENT], "language": "fr", "duration": float}
MODELS = {
    "object": "list",
    "data": [{"id": str, "object": "model", "created": int, "max_model_len": int, "permission": [dict]}],
}

chats = st.fixed_dictionaries(
    {"messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": WORDS}), min_size=1, max_size=3)},
    optional={
        "temperature": st.floats(0, 2),
        "max_tokens": st.integers(1, 64),
        "top_p": st.floats(0, 1),
        "presence_penalty": st.floats(-2, 2),
        "frequency_penalty": st.floats(-2, 2),
        "user": WORDS,
        "tools": st.just([TOOL]),
        "tool_choice": st.sampled_from(["none", "auto", {"type": "function", "function": {"name": "f"}}]),
    },
)


def holds(documented: Any, answered: Any) -> bool:
    """Whether an answer has what is documented: these members, of these types or values; lists of such items."""
    if isinstance(documented, dict):
        return isinstance(answered, dict) and all(
            name in answered and holds(wanted, answered[name]) for name, wanted in documented.items()
        )
    if isinstance(documented, list):
        return isinstance(answered, list) and bool(answered) and all(holds(documented[0], one) for one in answered)
    if isinstance(documented, type | tuple):
        return isinstance(answered, documented)
    return bool(answered == documented)


def ask(path: str, body: object, **more: Any) -> bytes:
    """Return the answer of a call that succeeds, or of a refused one in the engine's words."""

    async def call() -> tuple[str, bytes]:
        async with SimulatedCluster(Options(tokens_per_second=0)) as cluster:
            status, _, raw = await exchange(cluster, path, body, **more)
        return status, raw

    status, raw = asyncio.run(call())
    assert status == "HTTP/1.1 200 OK", raw
    return raw


@settings(max_examples=25, deadline=None)
@given(chats)
def test_a_chat_with_any_documented_parameters_has_the_documented_answer(body: dict[str, Any]) -> None:
    body |= {"model": "gpt-oss:120b"}
    answer = json.loads(ask("/v1/chat/completions", body))
    assert holds(CHAT, answer)
    message = answer["choices"][0]["message"]
    assert "content" in message
    if answer["choices"][0]["finish_reason"] == "tool_calls":
        assert holds(
            [{"id": str, "type": "function", "function": {"name": str, "arguments": str}}], message["tool_calls"]
        )


@settings(max_examples=25, deadline=None)
@given(chats)
def test_a_stream_has_the_documented_chunks_and_end(body: dict[str, Any]) -> None:
    raw = ask("/v1/chat/completions", body | {"model": "gpt-oss:120b", "stream": True})
    chunks = events(raw)
    assert holds([CHUNK], chunks)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] in ("stop", "length", "tool_calls")


def test_the_result_of_a_tool_is_answered_with_a_text() -> None:
    call = {"id": "call_abc123", "type": "function", "function": {"name": "get_current_weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Quel temps fait-il à Paris ?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_abc123", "content": '{"temperature": "22"}'},
    ]
    answer = json.loads(ask("/v1/chat/completions", {"model": "gpt-oss:120b", "messages": messages, "tools": [TOOL]}))
    assert holds(CHAT, answer)
    assert answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}},
        {"type": "image", "image": "data:image/jpeg;base64,AAAA"},
    ],
)
def test_an_image_counts_as_input(part: dict[str, Any]) -> None:
    text = {"type": "text", "text": "Que vois-tu sur cette image ?"}
    body = {"model": "gpt-oss:120b", "messages": [{"role": "user", "content": [text, part]}], "max_tokens": 500}
    answer = json.loads(ask("/v1/chat/completions", body))
    assert holds(CHAT, answer)
    assert answer["usage"]["prompt_tokens"] > 256


@settings(max_examples=25, deadline=None)
@given(WORDS | st.lists(WORDS, min_size=1, max_size=3))
def test_embeddings_have_the_documented_answer(given_input: str | list[str]) -> None:
    answer = json.loads(ask("/v1/embeddings", {"model": "granite-embedding:278m", "input": given_input}))
    assert holds(EMBEDDINGS, answer)
    assert len(answer["data"]) == (len(given_input) if isinstance(given_input, list) else 1)


@settings(max_examples=25, deadline=None)
@given(WORDS, st.lists(WORDS, min_size=1, max_size=5), st.none() | st.integers(1, 7), st.sampled_from(["v1", "v2"]))
def test_rerank_has_what_the_documented_answer_is_made_of(
    query: str, documents: list[str], top_n: int | None, version: str
) -> None:
    body = {"model": "nvidia/llama-nemotron-rerank-vl-1b-v2", "query": query, "documents": documents}
    answer = json.loads(ask(f"/{version}/rerank", body | ({} if top_n is None else {"top_n": top_n})))
    assert holds(RERANK, answer)
    assert len(answer["results"]) == min(top_n or len(documents), len(documents))
    assert all(documents[result["index"]] == result["document"]["text"] for result in answer["results"])


def test_a_transcription_has_what_the_documented_answer_is_made_of() -> None:
    body, headers = form(wav(4), model="whisper", language="fr", response_format="verbose_json")
    answer = json.loads(ask("/v1/audio/transcriptions", body, headers=headers))
    assert holds(TRANSCRIPTION, answer)
    assert answer["segments"][0]["end"] == 4.0


def test_models_are_listed_with_their_documented_fields() -> None:
    assert holds(MODELS, json.loads(ask("/v1/models", b"", method="GET")))


def test_two_texts_are_scored_as_they_are_ranked() -> None:
    body = {"model": "m", "text_1": "what is a cat", "text_2": ["a car", "a cat is"]}
    data = json.loads(ask("/v1/score", body))["data"]
    assert data[1]["score"] > data[0]["score"]
