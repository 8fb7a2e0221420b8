"""OpenAI's SDKs as their authors ship them, with files and batches: from upload to results, at half the price."""

import asyncio
import io
import json
import time
from fractions import Fraction

import openai
import pytest
import requests
from openai import AsyncOpenAI, OpenAI

from tests.sdk.samples import DOCUMENTS, EMBEDDING, HELLO, MODEL, QUESTION, RERANK, said
from tests.support.clients import node

CHAT = "/v1/chat/completions"
ENDED = {"completed", "failed", "expired", "cancelled"}
SLOW = said("SIM:tokens=8 SIM:rate=2")
"""Takes four seconds: a batch of it is still in progress when it is cancelled."""
ENDED_S = 30.0


def line(number: int, body: dict, url: str = CHAT) -> dict:
    return {"custom_id": f"request-{number}", "method": "POST", "url": url, "body": body}


def chats(count: int, messages=HELLO, max_tokens: int = 10) -> list[dict]:
    return [line(each, {"model": MODEL, "messages": messages, "max_tokens": max_tokens}) for each in range(count)]


def jsonl(lines: list[dict]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in lines).encode()


def upload(client: OpenAI, data: bytes, name: str = "requests.jsonl"):
    return client.files.create(file=(name, io.BytesIO(data)), purpose="batch")


def create(client: OpenAI, lines: list[dict], endpoint=CHAT, **more):
    file = upload(client, jsonl(lines))
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


def ended(client: OpenAI, batch):
    """Ask until it has ended, as OpenAI's guide says to do."""
    until_s = time.monotonic() + ENDED_S
    while batch.status not in ENDED:
        assert time.monotonic() < until_s, batch
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    return batch


@pytest.fixture
def customer(service):
    """A client of an account of its own, which has no batches yet; as shipped, it waits where it asks too often."""
    with OpenAI(api_key=service.new_key("wide"), base_url=service.base_url) as client:
        yield client


# The way of a batch


def test_from_the_upload_to_the_results_and_the_bill(customer, service):
    file = upload(customer, jsonl(chats(20)))
    assert (file.object, file.purpose, file.filename, file.status) == ("file", "batch", "requests.jsonl", "processed")
    assert file.bytes == len(jsonl(chats(20)))
    made = customer.batches.create(
        input_file_id=file.id,
        endpoint=CHAT,
        completion_window="24h",
        metadata={"night": "one"},
        output_expires_after={"anchor": "created_at", "seconds": 7200},
    )
    assert (made.object, made.status, made.endpoint, made.usage) == ("batch", "validating", CHAT, None)
    batch = ended(customer, made)
    assert (batch.status, batch.metadata, batch.errors) == ("completed", {"night": "one"}, None)
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (20, 20, 0)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at < batch.expires_at
    assert batch.expires_at - batch.created_at == 24 * 3600
    results = [json.loads(each) for each in customer.files.content(batch.output_file_id).text.splitlines()]
    assert [each["custom_id"] for each in results] == [f"request-{number}" for number in range(20)]
    tokens = {"prompt_tokens": 0, "completion_tokens": 0}
    for each in results:
        assert (each["error"], each["response"]["status_code"]) == (None, 200)
        answer = openai.types.chat.ChatCompletion.model_validate(each["response"]["body"])
        assert answer.choices[0].message.content
        for name in tokens:
            tokens[name] += getattr(answer.usage, name)
    assert batch.error_file_id is None
    assert (batch.usage.input_tokens, batch.usage.output_tokens) == tuple(tokens.values())
    assert batch.usage.total_tokens == sum(tokens.values())
    details = batch.usage.input_tokens_details.cached_tokens, batch.usage.output_tokens_details.reasoning_tokens
    assert details == (0, 0)
    output = customer.files.retrieve(batch.output_file_id)
    assert output.expires_at == output.created_at + 7200
    month = requests.get(
        f"{service.base_url}/usage", headers={"Authorization": f"Bearer {customer.api_key}"}, timeout=30
    ).json()["month"]
    assert {each["class"] for each in month["lines"]} == {"batch"}
    cost = Fraction(tokens["prompt_tokens"] * 9, 10_000_000) + Fraction(tokens["completion_tokens"] * 4, 1_000_000)
    assert Fraction(month["total"]) == cost > 0


def test_results_can_be_streamed_to_a_file(customer, tmp_path):
    batch = ended(customer, create(customer, chats(5)))
    with customer.files.with_streaming_response.content(batch.output_file_id) as answer:
        answer.stream_to_file(tmp_path / "output.jsonl")
    assert len((tmp_path / "output.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("endpoint", "body", "shows"),
    [
        ("/v1/completions", {"model": MODEL, "prompt": "Il était", "max_tokens": 5}, "choices"),
        ("/v1/embeddings", {"model": EMBEDDING, "input": "Le texte à vectoriser"}, "data"),
        ("/v1/rerank", {"model": RERANK, "query": QUESTION, "documents": DOCUMENTS}, "results"),
        ("/v2/rerank", {"model": RERANK, "query": QUESTION, "documents": DOCUMENTS}, "results"),
    ],
)
def test_every_endpoint(customer, endpoint, body, shows):
    batch = ended(customer, create(customer, [line(number, body, endpoint) for number in range(3)], endpoint))
    assert (batch.status, batch.request_counts.completed) == ("completed", 3)
    results = [json.loads(each) for each in customer.files.content(batch.output_file_id).text.splitlines()]
    assert all(each["response"]["body"][shows] for each in results)


def test_a_request_that_fails_is_in_the_error_file(customer):
    lines = [*chats(2), *chats(1, said("SIM:status=400"))]
    lines[2]["custom_id"] = "bad"
    batch = ended(customer, create(customer, lines))
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 2, 1)
    (error,) = [json.loads(each) for each in customer.files.content(batch.error_file_id).text.splitlines()]
    assert (error["custom_id"], error["response"]["status_code"]) == ("bad", 400)
    assert error["response"]["body"]["error"]["message"]


# Lists, cancelling, deleting


def test_lists_are_paged_by_the_sdk_itself(customer):
    made = [ended(customer, create(customer, chats(1))).id for _ in range(5)]
    assert [batch.id for batch in customer.batches.list(limit=2)] == made[::-1]
    first = customer.batches.list(limit=2)
    assert (len(first.data), first.has_more) == (2, True)
    assert [batch.id for batch in first.get_next_page().data] == made[::-1][2:4]
    inputs = [file.id for file in customer.files.list(purpose="batch", limit=2, order="asc")]
    assert len(inputs) == len(set(inputs)) == 5
    assert {file.purpose for file in customer.files.list(limit=3)} == {"batch", "batch_output"}


def test_a_batch_is_cancelled_and_keeps_what_was_finished(customer):
    lines = chats(3, SLOW)
    lines[1] = chats(2)[1]
    batch = create(customer, lines)
    while not batch.request_counts.completed:
        assert batch.status in {"validating", "in_progress"}
        time.sleep(0.2)
        batch = customer.batches.retrieve(batch.id)
    cancelled = customer.batches.cancel(batch.id)
    assert cancelled.status == "cancelling"
    assert cancelled.cancelling_at
    assert customer.batches.cancel(batch.id).status in {"cancelling", "cancelled"}
    batch = ended(customer, batch)
    counts = batch.request_counts
    assert (batch.status, counts.total, counts.completed + counts.failed) == ("cancelled", 3, 3)
    results = [
        json.loads(each)
        for file_id in (batch.output_file_id, batch.error_file_id)
        if file_id is not None
        for each in customer.files.content(file_id).text.splitlines()
    ]
    assert {each["custom_id"] for each in results} == {"request-0", "request-1", "request-2"}
    assert results[0]["response"]["status_code"] == 200
    assert all(each["response"] or each["error"]["code"] == "batch_cancelled" for each in results)
    over = ended(customer, create(customer, chats(1)))
    with pytest.raises(openai.BadRequestError):
        customer.batches.cancel(over.id)


def test_a_file_is_deleted_and_gone(customer):
    batch = ended(customer, create(customer, chats(1)))
    for file_id in (batch.input_file_id, batch.output_file_id):
        assert customer.files.retrieve(file_id).id == file_id
        deleted = customer.files.delete(file_id)
        assert (deleted.id, deleted.deleted) == (file_id, True)
        for ask in (customer.files.retrieve, customer.files.content, customer.files.delete):
            with pytest.raises(openai.NotFoundError):
                ask(file_id)


# Mistakes


def test_a_bad_file_fails_its_batch_and_says_which_lines(customer):
    good = jsonl(chats(4)).splitlines(keepends=True)
    bad = [good[0], b"{not JSON}\n", good[2].replace(b"gpt-oss:120b", b"no-such-model"), good[0]]
    file = upload(customer, b"".join(bad))
    batch = ended(customer, customer.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h"))
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert (batch.errors.data[0].line, batch.errors.data[0].code) == (2, "invalid_json_line")
    assert [each.line for each in batch.errors.data] == [2, 3, 4]
    assert all(each.message for each in batch.errors.data)
    assert batch.failed_at


def test_what_is_anothers_is_not_found(customer, service):
    batch = ended(customer, create(customer, chats(1)))
    with OpenAI(api_key=service.new_key("wide"), base_url=service.base_url, max_retries=0) as other:
        assert list(other.batches.list()) == []
        assert list(other.files.list()) == []
        for ask in (other.batches.retrieve, other.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                ask(batch.id)
        for file_id in (batch.input_file_id, batch.output_file_id):
            for ask in (other.files.retrieve, other.files.content, other.files.delete):
                with pytest.raises(openai.NotFoundError):
                    ask(file_id)
        with pytest.raises(openai.BadRequestError) as refused:
            other.batches.create(input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h")
    assert refused.value.param == "input_file_id"


def test_parameters_are_refused_with_their_name(customer):
    file = upload(customer, jsonl(chats(1)))
    for wrong in (
        {"endpoint": "/v1/audio/transcriptions"},
        {"completion_window": "1h"},
        {"metadata": {"a": "b" * 513}},
        {"output_expires_after": {"anchor": "created_at", "seconds": 60}},
    ):
        asked = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **wrong}
        with pytest.raises(openai.BadRequestError) as refused:
            customer.batches.create(**asked)
        assert refused.value.param == next(iter(wrong))
    with pytest.raises(openai.BadRequestError) as refused:
        customer.files.create(file=b"{}", purpose="fine-tune")
    assert refused.value.param == "purpose"
    with OpenAI(api_key="tg-nobody", base_url=customer.base_url, max_retries=0) as stranger:
        for ask in (stranger.files.list, stranger.batches.list, lambda: upload(stranger, b"{}\n")):
            with pytest.raises(openai.AuthenticationError):
                ask()


# The other clients


async def test_the_asynchronous_client(service):
    async with AsyncOpenAI(api_key=service.new_key("wide"), base_url=service.base_url, max_retries=0) as client:
        file = await client.files.create(file=("requests.jsonl", jsonl(chats(4))), purpose="batch")
        batch = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        async with asyncio.timeout(ENDED_S):
            while batch.status not in ENDED:
                await asyncio.sleep(0.2)
                batch = await client.batches.retrieve(batch.id)
        assert batch.status == "completed"
        content = await client.files.content(batch.output_file_id)
        assert len(content.text.splitlines()) == 4
        assert [each.id async for each in client.batches.list(limit=1)] == [batch.id]
        assert [each.id async for each in client.files.list(purpose="batch")] == [file.id]
        assert (await client.files.delete(file.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(file.id)


def test_the_client_for_node(service):
    lines, slow = (json.dumps(jsonl(each).decode()) for each in (chats(3), chats(1, SLOW)))
    made = node(
        f"const LINES = {lines}, SLOW = {slow};"
        """
        const OpenAI = require('openai');
        const client = new OpenAI({ apiKey: process.env.KEY, baseURL: process.env.BASE_URL });
        const upload = async (text) => client.files.create({
            file: await OpenAI.toFile(Buffer.from(text), 'requests.jsonl'), purpose: 'batch',
        });
        const create = async (text) => client.batches.create({
            input_file_id: (await upload(text)).id, endpoint: '/v1/chat/completions', completion_window: '24h',
        });
        const over = ['completed', 'failed', 'expired', 'cancelled'];
        const ended = async (batch) => {
            while (!over.includes(batch.status)) {
                await new Promise((resolve) => setTimeout(resolve, 200));
                batch = await client.batches.retrieve(batch.id);
            }
            return batch;
        };
        const thrown = async (ask) => {
            try { await ask(); } catch (error) { return error.constructor.name; }
            return null;
        };
        const batch = await ended(await create(LINES));
        const output = await (await client.files.content(batch.output_file_id)).text();
        const bad = await ended(await create(LINES + '{not JSON}'));
        const cancelled = await client.batches.cancel((await create(SLOW)).id);
        const ids = [];
        for await (const each of client.batches.list({ limit: 1 })) ids.push(each.id);
        const files = [];
        for await (const each of client.files.list({ limit: 2, purpose: 'batch' })) files.push(each.id);
        const deleted = await client.files.delete(batch.output_file_id);
        const missing = [
            await thrown(() => client.files.retrieve(batch.output_file_id)),
            await thrown(() => client.batches.retrieve('batch_' + '0'.repeat(32))),
        ];
        const late = await thrown(() => client.batches.cancel(batch.id));
        return { batch, output, bad, cancelled, ids, files, deleted, missing, late };
        """,
        KEY=service.new_key("wide"),
        BASE_URL=service.base_url,
    )
    assert not (isinstance(made, dict) and "error" in made), made
    assert made["batch"]["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert [json.loads(each)["response"]["status_code"] for each in made["output"].splitlines()] == [200] * 3
    assert [(each["line"], each["code"]) for each in made["bad"]["errors"]["data"]] == [(4, "invalid_json_line")]
    assert made["cancelled"]["status"] == "cancelling"
    assert (len(made["ids"]), made["ids"][2]) == (3, made["batch"]["id"])
    assert len(set(made["files"])) == 3
    assert made["deleted"]["deleted"] is True
    assert made["missing"] == ["NotFoundError", "NotFoundError"]
    assert made["late"] == "BadRequestError"
