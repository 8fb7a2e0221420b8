"""Other engines than vLLM: their routes, what they report of what they read, and their words when they refuse.

Infinity is held against recordings (test_recordings.py); here is what sources and documentation say of the others.
"""

import json
from typing import Any

import pytest

from proxy.core.catalogue import Engine
from proxy.simulator import Options, SimulatedCluster
from proxy.simulator.engines import ENGINES
from tests.simulator.exchange import exchange
from tests.simulator.test_wire import form, wav

EMBED = {"model": "m", "input": ["hello world", "a b c d"]}
RERANK = {"model": "m", "query": "what is a cat", "documents": ["hello", "a car", "a cat is"], "top_n": 2}
TEI = {"query": "what is a cat", "texts": ["hello", "a car", "a cat is"]}
TOKENS = 3 * (3 + 4) + 2 + 2 + 2  # three pairs: a template and the query each, then the texts


async def ask(engine: Engine, path: str, body: object, **options: Any) -> tuple[int, Any]:
    """Return status and body of one answer."""
    async with SimulatedCluster(Options(tokens_per_second=0, engine=engine, **options)) as cluster:
        status, _, raw = await exchange(cluster, path, body)
    return int(status.split(" ")[1]), json.loads(raw)


@pytest.mark.parametrize("engine", ENGINES)
async def test_each_engine_embeds_and_numbers_its_vectors(engine: Engine) -> None:
    status, body = await ask(engine, "/v1/embeddings", EMBED)
    assert status == 200
    assert [item["index"] for item in body["data"]] == [0, 1]
    counted = 18 if engine is Engine.INFINITY else 9
    assert (body["usage"]["prompt_tokens"], body["usage"]["total_tokens"]) == (counted, counted)


@pytest.mark.parametrize(
    ("engine", "path"),
    [
        (Engine.VLLM, "/v2/rerank"),
        (Engine.LLAMA_CPP, "/v1/rerank"),
        (Engine.INFINITY, "/v1/rerank"),
        (Engine.COHERE, "/v1/rerank"),
        (Engine.COHERE, "/v2/rerank"),
    ],
)
async def test_rerank_as_an_object_lists_the_best_first(engine: Engine, path: str) -> None:
    status, body = await ask(engine, path, RERANK)
    assert status == 200
    assert [result["index"] for result in body["results"]] == [2, 1]


async def test_llama_cpp_shows_no_documents_and_speaks_teis_language_too() -> None:
    _, body = await ask(Engine.LLAMA_CPP, "/rerank", RERANK)
    assert list(body) == ["model", "object", "usage", "results"]
    assert list(body["results"][0]) == ["index", "relevance_score"]
    assert body["usage"]["total_tokens"] == TOKENS
    _, body = await ask(Engine.LLAMA_CPP, "/rerank", TEI)
    assert [list(item) for item in body] == [["index", "score"]] * 3


async def test_sglang_answers_a_bare_list_whose_items_say_what_was_read() -> None:
    status, body = await ask(Engine.SGLANG, "/v1/rerank", RERANK | {"top_n": None})
    assert status == 200
    assert [item["index"] for item in body] == [2, 1, 0]
    assert sum(item["meta_info"]["prompt_tokens"] for item in body) == TOKENS
    status, body = await ask(Engine.SGLANG, "/v1/rerank", RERANK | {"query": " "})
    assert (status, body["object"], body["code"]) == (400, "error", 400)


async def test_tei_answers_a_bare_list_that_says_nothing_of_what_was_read() -> None:
    status, body = await ask(Engine.TEI, "/rerank", TEI | {"return_text": True})
    assert status == 200
    assert [list(item) for item in body] == [["index", "text", "score"]] * 3
    assert (await ask(Engine.TEI, "/rerank", RERANK))[0] == 422
    assert (await ask(Engine.TEI, "/v1/rerank", RERANK))[0] == 404


async def test_cohere_reports_search_units_of_a_hundred_documents() -> None:
    _, body = await ask(Engine.COHERE, "/v1/rerank", RERANK | {"documents": ["x"] * 101, "return_documents": True})
    assert body["meta"] == {"api_version": {"version": "1"}, "billed_units": {"search_units": 2}}
    assert body["results"][0]["document"] == {"text": "x"}
    status, body = await ask(Engine.COHERE, "/v2/rerank", RERANK | {"documents": []})
    assert (status, list(body)) == (400, ["id", "message"])


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if not ENGINES[engine].generates])
async def test_what_is_no_text_server_has_no_chat(engine: Engine) -> None:
    assert (await ask(engine, "/v1/chat/completions", {}))[0] == 404


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_body_that_is_no_json_is_refused_in_the_engines_words(engine: Engine) -> None:
    status, body = await ask(engine, "/v1/embeddings", b"{")
    keys = {
        Engine.INFINITY: (422, "detail"),
        Engine.TEI: (422, "error"),
        Engine.COHERE: (400, "id"),
        Engine.SGLANG: (400, "object"),
    }
    assert (status, next(iter(body))) == keys.get(engine, (400, "error"))


@pytest.mark.parametrize(
    ("model", "kind", "usage"),
    [
        ("whisper-1", "json", {"type": "duration", "seconds": 4}),
        ("whisper-1", "verbose_json", {"type": "duration", "seconds": 4}),
        ("gpt-4o-transcribe", "json", "tokens"),
    ],
)
async def test_openai_reports_seconds_of_whisper_and_tokens_of_its_other_models(
    model: str, kind: str, usage: object
) -> None:
    body, headers = form(wav(3.25), model=model, response_format=kind)
    async with SimulatedCluster(Options(tokens_per_second=0, engine=Engine.OPENAI)) as cluster:
        *_, raw = await exchange(cluster, "/v1/audio/transcriptions", body, headers=headers)
    found = json.loads(raw)["usage"]
    assert usage in (found, found["type"])


@pytest.mark.parametrize(("kind", "start"), [("text", b" 3 seconds"), ("srt", b"1\n00:00:00,000"), ("vtt", b"WEBVTT")])
async def test_openai_writes_texts_and_subtitles_as_plain_text(kind: str, start: bytes) -> None:
    body, headers = form(wav(3.25), model="whisper-1", response_format=kind)
    async with SimulatedCluster(Options(tokens_per_second=0, engine=Engine.OPENAI)) as cluster:
        _, found, raw = await exchange(cluster, "/v1/audio/transcriptions", body, headers=headers)
    assert found["content-type"] == "text/plain; charset=utf-8"
    assert raw.startswith(start)


async def test_openai_streams_deltas_and_says_what_it_used_with_the_last_one() -> None:
    body, headers = form(wav(3.25), model="gpt-4o-transcribe", stream="true")
    async with SimulatedCluster(Options(tokens_per_second=0, engine=Engine.OPENAI)) as cluster:
        *_, raw = await exchange(cluster, "/v1/audio/transcriptions", body, headers=headers)
    assert raw.count(b"transcript.text.delta") == 5
    assert b'"output_tokens":6}' in raw
    assert b"[DONE]" not in raw


async def test_sglang_reports_seconds_with_every_whole_transcription() -> None:
    body, headers = form(wav(3.25), model="m", response_format="verbose_json")
    async with SimulatedCluster(Options(engine=Engine.SGLANG)) as cluster:
        *_, raw = await exchange(cluster, "/v1/audio/transcriptions", body, headers=headers)
        status, *_ = await exchange(cluster, "/v1/audio/translations", body, headers=headers)
    assert json.loads(raw)["usage"] == {"type": "duration", "seconds": 4}
    assert status == "HTTP/1.1 404 Not Found"
