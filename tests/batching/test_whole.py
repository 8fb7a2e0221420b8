"""Whole batches: every line has its result, in the order of the file, and costs half."""

import asyncio

import pytest

from proxy.batching import running as running_module
from proxy.clock import unix_ms
from proxy.core.batches.objects import BatchStatus
from proxy.core.money import nano_from_pico_up
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.batch_schema import batch_blocks, batch_lines, batches
from tests.batching.support import (
    EMBEDDER,
    batch_now,
    chat_line,
    create,
    ended,
    line,
    price_of,
    prices,
    results,
    used_nano,
)
from tests.ledger.support import rows_of

RERANKER = "nvidia/llama-nemotron-rerank-vl-1b-v2"


async def test_every_line_has_its_result_and_is_billed_at_the_batch_price(stack):
    lines = [chat_line(number, max_tokens=5 + number % 7) for number in range(150)]
    batch = await ended(stack, await create(stack, lines))
    assert (batch.status, batch.total, batch.completed, batch.failed) == (BatchStatus.COMPLETED, 150, 150, 0)
    assert list(batch.stamps) == [BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.COMPLETED]
    output, errors = await results(stack, batch)
    assert (errors, batch.error_file_id) == ([], None)
    assert [each["custom_id"] for each in output] == [each["custom_id"] for each in lines]
    assert all(each["error"] is None and each["response"]["status_code"] == 200 for each in output)
    assert len({each["id"] for each in output}) == 150
    entries = {entry.call_id: entry for entry in await stack.entries()}
    assert len(entries) == 150
    for each in output:
        entry = entries[each["response"]["request_id"]]
        assert (entry.tariff_class, entry.key_id, entry.streamed) == (TariffClass.BATCH, stack.key_id, False)
        assert (entry.month, entry.day, entry.admitted_ms) == (batch.month, batch.day, batch.created_ms)
        assert entry.charge.total_pico == price_of(each["response"]["body"]["usage"])
        assert entry.charge.total_pico > 0


async def test_when_it_has_ended_nothing_is_left_but_its_files_and_what_was_used(stack):
    batch = await ended(stack, await create(stack, [chat_line(number, max_tokens=3) for number in range(20)]))
    async with asyncio.timeout(20):
        while await rows_of(stack.app.database, batch_blocks) or await rows_of(stack.app.database, batch_lines):
            await asyncio.sleep(0.02)
    (row,) = await rows_of(stack.app.database, batches)
    assert row["holder"] is None
    names = [name async for name in stack.app.batch_work.store.names("")]
    assert [name for name in names if "segment" in name] == []
    entries = await stack.entries()
    spent = sum(nano_from_pico_up(entry.charge.total_pico) for entry in entries)
    assert await used_nano(stack, batch) == (spent, 0)
    assert stack.app.settlement.in_flight == {}


@pytest.mark.parametrize(
    ("endpoint", "body", "usage_type"),
    [
        ("/v1/completions", {"model": "gpt-oss:120b", "prompt": "Once", "max_tokens": 4}, UsageType.OUTPUT),
        ("/v1/embeddings", {"model": EMBEDDER, "input": ["one", "two"]}, UsageType.INPUT),
        ("/v1/rerank", {"model": RERANKER, "query": "q", "documents": ["a", "b"]}, UsageType.RERANK),
        ("/v2/rerank", {"model": RERANKER, "query": "q", "documents": ["a", "b"]}, UsageType.RERANK),
    ],
)
async def test_every_endpoint_answers_as_its_calls_are_answered(stack, endpoint, body, usage_type):
    batch = await ended(stack, await create(stack, [line(number, body, endpoint) for number in range(3)], endpoint))
    assert (batch.status, batch.completed) == (BatchStatus.COMPLETED, 3)
    (one, *_), _ = await results(stack, batch)
    entries = await stack.entries()
    status, answer, _ = await stack.ask(body, route=endpoint)
    assert status == 200
    same = {"id", "created", "meta"}
    assert {name: value for name, value in one["response"]["body"].items() if name not in same} == {
        name: value for name, value in answer.items() if name not in same
    }
    each = prices()
    for entry in entries:
        assert {charged.usage_type for charged in entry.charge.lines} >= {usage_type}
        assert entry.charge.total_pico == sum(
            charged.amount * each[charged.usage_type.value] for charged in entry.charge.lines
        )


async def test_lines_that_fail_are_told_apart_and_cost_nothing(stack, monkeypatch):
    monkeypatch.setattr(running_module, "PAUSE_FIRST_S", 0.01)
    monkeypatch.setattr(running_module, "PAUSE_MAX_S", 0.02)
    contents = ["fine", "SIM:status=400", "SIM:status=500", "SIM:drop", "SIM:garbage", "fine too"]
    lines = [chat_line(number, content, max_tokens=3) for number, content in enumerate(contents)]
    batch = await ended(stack, await create(stack, lines))
    assert (batch.status, batch.completed, batch.failed) == (BatchStatus.COMPLETED, 2, 4)
    output, errors = await results(stack, batch)
    assert [each["custom_id"] for each in output] == ["line-0", "line-5"]
    assert [each["custom_id"] for each in errors] == ["line-1", "line-2", "line-3", "line-4"]
    assert [each["response"]["status_code"] for each in errors] == [400, 500, 503, 503]
    assert [each["response"]["body"]["error"]["type"] for each in errors] == [
        "invalid_request_error",
        "server_error",
        "service_unavailable_error",
        "service_unavailable_error",
    ]
    assert len(await stack.entries()) == 2
    assert (await used_nano(stack, batch))[1] == 0


async def test_while_the_upstream_is_away_lines_wait(stack, monkeypatch):
    monkeypatch.setattr(running_module, "PAUSE_FIRST_S", 0.05)
    monkeypatch.setattr(running_module, "PAUSE_MAX_S", 0.2)
    port = int(stack.cluster.url.rpartition(":")[2])
    await stack.cluster.stop()
    batch_id = await create(stack, [chat_line(number, max_tokens=3) for number in range(8)])
    async with asyncio.timeout(20):
        while not all(pool.is_suspect for pool in stack.app.pools.all()) or not stack.app.pools.all():
            await asyncio.sleep(0.01)
    assert (await batch_now(stack, batch_id)).completed == 0
    await stack.cluster.start(port=port)
    batch = await ended(stack, batch_id)
    assert (batch.status, batch.completed, batch.failed) == (BatchStatus.COMPLETED, 8, 0)
    assert unix_ms() < batch.expires_ms


async def test_batches_do_not_touch_the_hour_the_day_or_the_requests(stack):
    _, _, before = await stack.ask(chat_line(0, max_tokens=1)["body"])
    await ended(stack, await create(stack, [chat_line(number, max_tokens=9) for number in range(30)]))
    _, _, after = await stack.ask(chat_line(0, max_tokens=1)["body"])
    remaining = "X-RateLimit-Remaining-Requests"
    assert int(before[remaining]) - int(after[remaining]) == 1
    tokens = [name for name in before if name.lower().startswith("x-ratelimit-remaining-") and name != remaining]
    assert tokens
    for name in tokens:
        assert int(before[name]) - int(after[name]) <= 1
