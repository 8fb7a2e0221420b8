"""Embeddings, end to end: what the model is given, what the customer gets, and what it costs."""

import asyncio
import base64
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from proxy.core.catalogue import Engine
from proxy.core.entries import Entry
from proxy.core.usage import Source, UsageType
from tests.core.test_token_ids import ENCODED
from tests.meters.recordings import WIRE, Recording, load
from tests.support.stack import Stack, running, write_config
from tests.support.tokenizer import write_tokenizer

ROUTE = "/v1/embeddings"
MODEL = "granite-embedding:278m"
TEXT = "Le texte à vectoriser"
PRICE_PICO = 1_800_000  # 1.80 euros a million
RECORDED = {one.name: one for one in map(load, sorted(WIRE.glob("*embed/*.http")))}
REFUSED = [one for one in RECORDED.values() if one.status in {400, 422}]


class Server:
    """An inference server that answers what it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer = RECORDED["vllm-0.32.0-embed/emb"]
        self.asked: list[bytes] = []
        self.pause: asyncio.Event | None = None

    async def serve(self, request: web.Request) -> web.StreamResponse:
        assert request.path == ROUTE
        self.asked.append(await request.read())
        if self.pause is None:
            return web.Response(status=self.answer.status, body=self.answer.body, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(self.answer.body[:-1])
        await self.pause.wait()
        await response.write(self.answer.body[-1:])
        return response

    @property
    def inputs(self) -> list[object]:
        return [json.loads(body)["input"] for body in self.asked]


@contextlib.asynccontextmanager
async def before_a_server(
    folder: Path, engine: Engine = Engine.VLLM, token_ids: str | None = None, *, tokenizer: bool = False
) -> AsyncIterator[tuple[Stack, Server]]:
    config = write_config(folder, models=("engine: vllm", f"engine: {engine.value}"))
    if token_ids is not None:
        models = (config / "models.yaml").read_text()
        route = "endpoints: [/v1/embeddings]"
        (config / "models.yaml").write_text(models.replace(route, f"{route}\n    token_ids: {token_ids}"))
    if tokenizer:
        write_tokenizer(config / "tokenizer.json")
        models = (config / "models.yaml").read_text()
        route = "endpoints: [/v1/embeddings]"
        (config / "models.yaml").write_text(models.replace(route, f"{route}\n    tokenizer: tokenizer.json"))
    server = Server()
    runner = web.ServerRunner(web.Server(server.serve))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with running(folder, config=config, environ={"TOLLGATE_UPSTREAM": url}) as stack:
            yield stack, server
    finally:
        await runner.cleanup()


def ask(given: object = TEXT, **more: object) -> dict[str, object]:
    return {"model": MODEL, "input": given, **more}


async def only_line(stack: Stack) -> tuple[Entry, int, Source]:
    """The call's one entry, with amount and source of its one line, which must be input."""
    (entry,) = await stack.entries()
    (line,) = entry.charge.lines
    assert line.usage_type is UsageType.INPUT
    assert entry.charge.total_pico == line.amount * PRICE_PICO
    return entry, line.amount, line.source


async def test_the_documented_example_is_answered_metered_priced_and_kept(stack):
    status, answer, headers = await stack.ask(ask(), route=ROUTE)
    assert status == 200
    assert (answer["object"], answer["model"], answer["data"][0]["object"]) == ("list", MODEL, "embedding")
    entry, amount, source = await only_line(stack)
    assert (amount, source) == (answer["usage"]["prompt_tokens"], Source.REPORTED)
    assert (entry.endpoint, entry.model, entry.call_id) == (ROUTE, MODEL, headers["x-request-id"])
    assert headers["X-RateLimit-Remaining-Requests"] == "999"
    assert headers["X-RateLimit-Remaining-Output-Tokens-Hour"] == "150000"  # no output


async def test_the_documented_embedding_class_gets_its_vectors_in_order(stack):
    texts = ["un", "deux", "trois"]
    status, answer, _ = await stack.ask({"input": texts, "model": MODEL}, route=ROUTE)
    assert status == 200
    vectors = [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])]
    alone = [(await stack.ask(ask(text), route=ROUTE))[1]["data"][0]["embedding"] for text in texts]
    assert vectors == alone


async def test_vectors_in_base64_arrive_to_the_byte(stack):
    _, plain, _ = await stack.ask(ask(), route=ROUTE)
    _, encoded, _ = await stack.ask(ask(encoding_format="base64"), route=ROUTE)
    raw = base64.b64decode(encoded["data"][0]["embedding"])
    vector = struct.unpack(f"<{len(raw) // 4}f", raw)
    assert vector == pytest.approx(plain["data"][0]["embedding"], abs=1e-6)


@pytest.mark.parametrize("case", ["emb", "emb_base64", "emb_list", "emb_tokens"])
async def test_an_answer_is_what_the_server_sent_byte_for_byte(tmp_path, case):
    async with before_a_server(tmp_path) as (stack, server):
        server.answer = RECORDED[f"vllm-0.32.0-embed/{case}"]
        async with stack.post(ask(["one", "two"]), route=ROUTE) as answer:
            assert await answer.read() == server.answer.body
        _, amount, source = await only_line(stack)
        usage = json.loads(server.answer.body)["usage"]
        assert (amount, source) == (usage["prompt_tokens"], Source.REPORTED)


async def test_what_a_client_of_tiktoken_encoded_reaches_the_model_as_the_text_that_it_was(tmp_path):
    async with before_a_server(tmp_path) as (stack, server):
        for text, ids in ENCODED.items():
            await stack.ask(ask(ids, encoding_format="base64"), route=ROUTE)
            assert server.inputs[-1] == text
        status, _, _ = await stack.ask(ask(list(ENCODED.values())), route=ROUTE)
        assert status == 200
        assert server.inputs[-1] == list(ENCODED)
        assert json.loads(server.asked[0]) == ask(next(iter(ENCODED)), encoding_format="base64")


async def test_a_text_that_a_client_cut_is_the_same_text_in_two_inputs(tmp_path):
    text = "日本語のテキスト、漢字かな交じり文。"
    ids = ENCODED[text]
    async with before_a_server(tmp_path) as (stack, server):
        for at in range(1, len(ids)):
            await stack.ask(ask([ids[:at], ids[at:]]), route=ROUTE)
            first, second = server.inputs[-1]
            assert (first.rstrip("\ufffd") + second.lstrip("\ufffd")).replace("\ufffd", "") in (
                text,
                text.replace(text[len(first.rstrip("\ufffd"))], "", 1),
            )


async def test_a_models_own_ids_pass_untouched(tmp_path):
    async with before_a_server(tmp_path, token_ids="upstream") as (stack, server):
        server.answer = RECORDED["vllm-0.32.0-embed/emb_tokens"]
        status, _, _ = await stack.ask(ask([101, 7592, 102]), route=ROUTE)
        assert (status, server.inputs) == (200, [[101, 7592, 102]])
        assert (await only_line(stack))[1:] == (3, Source.REPORTED)


async def test_ids_that_a_model_does_not_take_are_refused_before_it_is_asked(tmp_path):
    async with before_a_server(tmp_path, token_ids="refuse") as (stack, server):
        status, answer, _ = await stack.ask(ask([[9906, 1917]]), route=ROUTE)
        problem = "must be a text or a list of texts: this model takes no token ids"
        assert status == 400
        assert answer["error"] == {
            "message": f"Invalid parameter 'input': {problem}",
            "type": "invalid_request_error",
            "param": "input",
        }
        assert (await stack.ask(ask(), route=ROUTE))[0] == 200
        assert server.inputs == [TEXT]
        assert len(await stack.entries()) == 1


@pytest.mark.parametrize("given", ["", [], [[]], ["a", 1], None, 5, [100_256]])
async def test_an_input_that_is_none_is_refused_and_costs_nothing(stack, given):
    status, answer, headers = await stack.ask(ask(given), route=ROUTE)
    assert (status, answer["error"]["type"], answer["error"]["param"]) == (400, "invalid_request_error", "input")
    assert headers["X-RateLimit-Remaining-Requests"] == "1000"
    assert await stack.entries() == []


async def test_a_chat_model_embeds_nothing(stack):
    status, answer, _ = await stack.ask(ask() | {"model": "gpt-oss:120b"}, route=ROUTE)
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


async def test_characters_that_infinity_counts_are_not_billed(tmp_path):
    async with before_a_server(tmp_path, Engine.INFINITY) as (stack, server):
        server.answer = RECORDED["infinity-0.0.78-embed/emb"]
        async with stack.post(ask("hello world"), route=ROUTE) as answer:
            assert await answer.read() == server.answer.body
        assert json.loads(server.answer.body)["usage"]["prompt_tokens"] == 11
        assert (await only_line(stack))[1:] == (3, Source.ESTIMATED)


@pytest.mark.parametrize("recording", REFUSED, ids=lambda recording: recording.name)
async def test_a_servers_refusal_is_the_documented_error_and_costs_nothing(tmp_path, recording):
    async with before_a_server(tmp_path) as (stack, server):
        server.answer = recording
        status, answer, _ = await stack.ask(ask(), route=ROUTE)
        assert status == 400
        assert answer["error"]["type"] == "invalid_request_error"
        assert set(answer["error"]) <= {"message", "type", "param"}
        assert answer["error"]["message"]
        assert await stack.entries() == []


@pytest.mark.parametrize("body", [b'{"error":{"message":"out of memory"}}', b"[]", b'{"data":[', b"<html>", b""])
async def test_what_is_no_answer_is_neither_passed_on_nor_billed(tmp_path, body):
    async with before_a_server(tmp_path) as (stack, server):
        server.answer = Recording("made", 200, body, {}, 0)
        status, answer, _ = await stack.ask(ask(), route=ROUTE)
        assert (status, answer["error"]["type"]) == (503, "service_unavailable_error")
        assert await stack.entries() == []


def large(megabytes: int) -> Recording:
    answer = json.loads(RECORDED["vllm-0.32.0-embed/emb"].body)
    answer["data"] = answer["data"] * (megabytes * 1_000_000 // 8000)
    return Recording("large", 200, json.dumps(answer).encode(), {}, 0)


async def test_megabytes_of_vectors_pass_as_they_come_and_are_billed(tmp_path):
    async with before_a_server(tmp_path) as (stack, server):
        server.answer = large(5)
        async with stack.post(ask(["a text"] * 600), route=ROUTE) as answer:
            assert await answer.read() == server.answer.body
        assert (await only_line(stack))[1:] == (4, Source.REPORTED)


async def test_no_client_has_a_large_answer_whole_before_it_is_in_the_ledger(tmp_path):
    async with before_a_server(tmp_path) as (stack, server):
        server.answer, server.pause = large(3), asyncio.Event()
        async with stack.post(ask(["a text"] * 600), route=ROUTE) as answer:
            begun = b""
            while len(begun) < len(server.answer.body) - 2:
                begun += await answer.content.readany()
            assert begun == server.answer.body[:-2]
            assert len(stack.app.settlement.in_flight) == 1
            server.pause.set()
            assert await answer.read() == server.answer.body[-2:]
        assert (await only_line(stack))[1:] == (4, Source.REPORTED)


async def test_a_large_answer_that_tells_no_tokens_is_billed_what_the_tokenizer_counts(tmp_path):
    async with before_a_server(tmp_path, Engine.INFINITY, tokenizer=True) as (stack, server):
        server.answer = large(3)
        async with stack.post(ask(["hello world"] * 400), route=ROUTE) as answer:
            assert await answer.read() == server.answer.body
        assert (await only_line(stack))[1:] == (800, Source.MEASURED)
