"""Rerank, end to end: every engine behind the proxy gives the documented answer, and every token its price."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from proxy.core.catalogue import Engine, TokenizerError
from proxy.core.entries import Entry, Outcome
from proxy.core.usage import Source, UsageType
from proxy.simulator import Options
from proxy.tokenizers import FileTokenizer
from tests.meters.recordings import WIRE, load
from tests.support.stack import Stack, running, write_config
from tests.support.tokenizer import PAIR_TOKENS, write_tokenizer

V1, V2 = "/v1/rerank", "/v2/rerank"
MODEL = "nvidia/llama-nemotron-rerank-vl-1b-v2"
QUERY = "Quelle est la capitale de la France ?"
PARIS = "Paris est la capitale et la plus grande ville de France."
LYON = "Lyon est une grande ville du sud-est de la France."
FRANCE = "La France est un pays d'Europe occidentale."
PRICE_PICO = 4_000_000  # 4.00 euros a million
ENGINES = (Engine.VLLM, Engine.INFINITY, Engine.LLAMA_CPP, Engine.SGLANG, Engine.TEI, Engine.COHERE)


def ask(**more):
    return {"model": MODEL, "query": QUERY, "documents": [PARIS, LYON, FRANCE], "top_n": 2, **more}


def estimated(query: str = QUERY, documents=(PARIS, LYON, FRANCE)) -> int:
    return sum(-(-len(query.encode()) // 4) + -(-len(text.encode()) // 4) for text in documents)


def words(text: str) -> int:
    """Return what the tests' tokenizer counts: words, and runs of marks between them."""
    return len(text.replace(".", " . ").replace("?", " ? ").replace("'", " ' ").replace("-", " - ").split())


def counted(query: str = QUERY, documents=(PARIS, LYON, FRANCE)) -> int:
    return sum(words(query) + words(text) + PAIR_TOKENS for text in documents)


@contextlib.asynccontextmanager
async def proxy_before(engine: Engine, folder: Path, *, tokenizer: bool = False, url: str = "") -> AsyncIterator[Stack]:
    config = write_config(folder, models=("engine: vllm", f"engine: {engine.value}"))
    if tokenizer:
        write_tokenizer(config / "tokenizer.json")
        models = (config / "models.yaml").read_text()
        route = "endpoints: [/v1/rerank, /v2/rerank]"
        (config / "models.yaml").write_text(models.replace(route, f"{route}\n    tokenizer: tokenizer.json"))
    environ = {"TOLLGATE_UPSTREAM": url} if url else {}
    options = Options(tokens_per_second=0, engine=engine)
    async with running(folder, config=config, options=options, environ=environ) as stack:
        yield stack


async def the_entry(stack: Stack) -> Entry:
    (entry,) = await stack.entries()
    return entry


def charged(entry: Entry) -> tuple[int, Source]:
    """Return tokens and source of an entry, once its price is exact."""
    (line,) = entry.charge.lines
    assert line.usage_type is UsageType.RERANK
    assert (line.unit_price_pico, line.cost_pico) == (PRICE_PICO, line.amount * PRICE_PICO)
    assert entry.charge.total_pico == line.cost_pico > 0
    return line.amount, line.source


async def test_the_documented_example(stack: Stack):
    status, answer, headers = await stack.ask(ask(), route=V1)
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert answer["id"] == f"rerank-{headers['x-request-id']}"
    assert [(one["index"], one["document"]) for one in answer["results"]] == [
        (0, {"text": PARIS}),
        (2, {"text": FRANCE}),
    ]
    assert answer["results"][0]["relevance_score"] > answer["results"][1]["relevance_score"]
    assert answer["usage"]["billed_units"] == answer["meta"]["billed_units"] == {"search_units": 3}
    entry = await the_entry(stack)
    assert (entry.endpoint, entry.model, entry.outcome) == (V1, MODEL, Outcome.FINISHED)
    assert charged(entry) == (answer["usage"]["total_tokens"], Source.REPORTED)


@pytest.mark.parametrize("route", [V1, V2])
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.value)
async def test_every_engine_gives_the_documented_answer_by_both_routes(engine: Engine, route: str, tmp_path: Path):
    async with proxy_before(engine, tmp_path) as stack:
        status, answer, _ = await stack.ask(ask(), route=route)
        assert status == 200, answer
        assert set(answer) == {"id", "results", "usage", "meta"}
        assert [one["document"] for one in answer["results"]] == [{"text": PARIS}, {"text": FRANCE}]
        assert answer["meta"]["api_version"]["version"] == route[2]
        tokens, source = charged(await the_entry(stack))
        told = engine not in (Engine.INFINITY, Engine.TEI, Engine.COHERE)
        assert source is (Source.REPORTED if told else Source.ESTIMATED)
        assert told or tokens == estimated()
        assert answer["usage"]["total_tokens"] == answer["meta"]["tokens"]["input_tokens"] == tokens


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.value)
async def test_every_engine_ranks_objects_and_gives_them_back_whole(engine: Engine, tmp_path: Path):
    documents = [{"text": PARIS, "url": "a"}, LYON, {"text": FRANCE}]
    async with proxy_before(engine, tmp_path) as stack:
        status, answer, _ = await stack.ask(ask(documents=documents), route=V1)
        assert status == 200, answer
        assert [one["document"] for one in answer["results"]] == [documents[0], documents[2]]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.value)
async def test_every_engine_leaves_documents_out_and_gives_all_results_when_asked(engine: Engine, tmp_path: Path):
    async with proxy_before(engine, tmp_path) as stack:
        _, answer, _ = await stack.ask(ask(return_documents=False, top_n=None), route=V1)
        assert [set(one) for one in answer["results"]] == [{"index", "relevance_score"}] * 3


@pytest.mark.parametrize("engine", [Engine.INFINITY, Engine.TEI, Engine.COHERE], ids=lambda engine: engine.value)
async def test_what_an_engine_does_not_tell_is_counted_by_the_models_tokenizer(engine: Engine, tmp_path: Path):
    async with proxy_before(engine, tmp_path, tokenizer=True) as stack:
        _, answer, _ = await stack.ask(ask(), route=V2)
        assert charged(await the_entry(stack)) == (counted(), Source.MEASURED)
        assert answer["usage"]["total_tokens"] == counted()


async def test_what_an_engine_tells_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def count(tokenizer, texts):
        raise AssertionError("counted")

    monkeypatch.setattr(FileTokenizer, "count", count)
    async with proxy_before(Engine.VLLM, tmp_path, tokenizer=True) as stack:
        assert (await stack.ask(ask(), route=V1))[0] == 200
        assert charged(await the_entry(stack))[1] is Source.REPORTED


async def test_a_tokenizer_that_gives_up_leaves_the_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def count(tokenizer, texts):
        raise TokenizerError("no")

    monkeypatch.setattr(FileTokenizer, "count", count)
    async with proxy_before(Engine.TEI, tmp_path, tokenizer=True) as stack:
        assert (await stack.ask(ask(), route=V1))[0] == 200
        assert charged(await the_entry(stack)) == (estimated(), Source.ESTIMATED)


async def test_others_are_served_while_tokens_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    may_end, count = threading.Event(), FileTokenizer.count

    def slow(tokenizer, texts):
        assert may_end.wait(20)
        return count(tokenizer, texts)

    monkeypatch.setattr(FileTokenizer, "count", slow)
    async with proxy_before(Engine.TEI, tmp_path, tokenizer=True) as stack:
        counting = asyncio.create_task(stack.ask(ask(), route=V1))
        while not stack.cluster.seen:
            await asyncio.sleep(0.01)
        assert (await stack.ask({**ask(), "documents": []}, route=V1))[0] == 400
        assert not counting.done()
        may_end.set()
        assert (await counting)[0] == 200


async def test_a_client_that_leaves_while_its_tokens_are_counted_pays_for_its_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    has_begun, may_end, count = threading.Event(), threading.Event(), FileTokenizer.count

    def slow(tokenizer, texts):
        has_begun.set()
        assert may_end.wait(20)
        return count(tokenizer, texts)

    monkeypatch.setattr(FileTokenizer, "count", slow)
    async with proxy_before(Engine.TEI, tmp_path, tokenizer=True) as stack:
        calling = asyncio.create_task(stack.ask(ask(), route=V1))
        assert await asyncio.to_thread(has_begun.wait, 20)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        while not len(stack.app.tasks):
            await asyncio.sleep(0.01)
        may_end.set()
        assert charged(await the_entry(stack)) == (counted(), Source.MEASURED)


async def test_what_is_wrong_with_a_request_is_said_and_costs_nothing(stack: Stack):
    status, answer, _ = await stack.ask(ask(top_n=0), route=V2)
    assert (status, answer["error"]["param"]) == (400, "top_n")
    assert answer["error"]["message"] == "Invalid parameter 'top_n': must be an integer of at least 1"
    assert await stack.entries() == []


@contextlib.asynccontextmanager
async def answering(status: int, body: bytes) -> AsyncIterator[str]:
    """Run a server that answers every request with the same."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status, body=body, content_type="application/json")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("engine", "case", "param", "message"),
    [
        (Engine.INFINITY, "infinity-0.0.78-rerank/rerank_doc_objects", "documents", "Input should be a valid string"),
        (Engine.INFINITY, "infinity-0.0.78-rerank/rerank_no_query", "query", "Field required"),
        (Engine.VLLM, "vllm-0.32.0-rerank/rerank_empty_docs", None, "At least one text_pair element must be given"),
    ],
)
async def test_an_engines_refusal_becomes_the_documented_error(engine, case, param, message, tmp_path: Path):
    recorded = load(WIRE / f"{case}.http")
    async with (
        answering(recorded.status, recorded.body) as url,
        proxy_before(engine, tmp_path, url=url) as stack,
    ):
        status, answer, _ = await stack.ask(ask(), route=V1)
        expected = {"message": message, "type": "invalid_request_error"} | ({"param": param} if param else {})
        assert (status, answer) == (400, {"error": expected})
        assert await stack.entries() == []


@pytest.mark.parametrize(
    "body",
    [
        b"[]", b"<html>", b'{"results":[]}', b'{"results":[{"index":3,"relevance_score":1}]}',
        b'{"error":{"message":"no"},"results":[{"index":0,"relevance_score":1}],"usage":{"total_tokens":9}}',
    ],
)  # fmt: skip
async def test_what_is_no_ranking_is_neither_shown_nor_billed(body: bytes, tmp_path: Path):
    async with answering(200, body) as url, proxy_before(Engine.VLLM, tmp_path, url=url) as stack:
        status, answer, _ = await stack.ask(ask(), route=V1)
        assert (status, answer["error"]["type"]) == (503, "service_unavailable_error")
        assert await stack.entries() == []


@pytest.mark.parametrize("usage", [{}, {"total_tokens": 0}, {"total_tokens": -4}, {"total_tokens": 10**15}])
async def test_nothing_that_an_engine_says_makes_a_ranking_free(usage, tmp_path: Path):
    body = json.dumps({"results": [{"index": 1, "relevance_score": 0.5}], "usage": usage}).encode()
    async with answering(200, body) as url, proxy_before(Engine.VLLM, tmp_path, url=url) as stack:
        assert (await stack.ask(ask(), route=V1))[0] == 200
        assert charged(await the_entry(stack)) == (estimated(), Source.ESTIMATED)


async def test_a_call_that_could_cost_more_than_the_whole_month_is_refused_before_it_is_sent(tmp_path: Path):
    config = write_config(tmp_path, tiers=("monthly_limit: 1000", "monthly_limit: 0.10"))
    async with running(tmp_path, config=config) as stack:
        assert (await stack.ask(ask(), route=V1))[0] == 200
        status, answer, _ = await stack.ask(ask(documents=["x" * 4000] * 10), route=V1)
        assert status == 400
        assert answer["error"]["message"] == "The request may cost more than your tier's whole limit"
        assert len(stack.cluster.seen) == 1
