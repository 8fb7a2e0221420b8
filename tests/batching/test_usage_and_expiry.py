"""A batch says what its lines have used, and its results are kept as long as their owner wants."""

import pytest
from sqlalchemy import select

from proxy.core.batches.objects import BatchStatus
from proxy.core.batches.usage import BatchUsage, usage_of
from proxy.ledger.batch_schema import batch_files
from proxy.ledger.batches.rows import file_of
from tests.batching.support import EMBEDDER, batch_now, chat_line, create, ended, line, results, until
from tests.support.stack import running, write_config

RERANKER = "nvidia/llama-nemotron-rerank-vl-1b-v2"
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


async def files_of(stack, batch):
    """Return its output and its error file."""
    found = []
    async with stack.app.database.read() as connection:
        for file_id in (batch.output_file_id, batch.error_file_id):
            row = (await connection.execute(select(batch_files).where(batch_files.c.id == file_id))).mappings().one()
            found.append(file_of(dict(row)))
    return found


async def look(stack, batch_id):
    async with stack.session.get(f"{stack.url}/v1/batches/{batch_id}", headers=stack.auth()) as answer:
        assert answer.status == 200
        return await answer.json()


async def test_usage_is_the_sum_of_the_answers_and_of_the_entries(stack):
    contents = ["SIM:cached=3 one", "SIM:status=400", "two", "SIM:tokens=9 three"]
    lines = [chat_line(number, content, max_tokens=12) for number, content in enumerate(contents)]
    batch = await ended(stack, await create(stack, lines))
    assert (batch.status, batch.completed, batch.failed) == (BatchStatus.COMPLETED, 3, 1)
    output, _ = await results(stack, batch)
    told = [each["response"]["body"]["usage"] for each in output]
    assert (await look(stack, batch.id))["usage"] == {
        "input_tokens": sum(each["prompt_tokens"] for each in told),
        "input_tokens_details": {"cached_tokens": 3},
        "output_tokens": sum(each["completion_tokens"] for each in told),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": sum(each["total_tokens"] for each in told),
    }
    assert batch.usage == usage_of(await stack.entries())
    assert batch.usage.output_tokens > 9


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/embeddings", {"model": EMBEDDER, "input": ["one", "SIM:prompt-tokens=31"]}),
        ("/v1/rerank", {"model": RERANKER, "query": "SIM:prompt-tokens=31", "documents": ["a", "b"]}),
    ],
)
async def test_what_is_embedded_or_reranked_is_input(stack, endpoint, body):
    batch = await ended(stack, await create(stack, [line(number, body, endpoint) for number in range(3)], endpoint))
    assert batch.usage == usage_of(await stack.entries()) == BatchUsage(3 * 31)


async def test_usage_grows_while_lines_end_and_is_unknown_before_they_can(stack):
    lines = [chat_line(0, max_tokens=3), chat_line(1, "SIM:tokens=60 SIM:rate=30", max_tokens=60)]
    batch_id = await create(stack, lines)
    batch = await until(stack, batch_id, lambda batch: batch.completed)
    assert (batch.status, batch.completed) == (BatchStatus.IN_PROGRESS, 1)
    first = (await look(stack, batch_id))["usage"]["output_tokens"]
    assert 0 < first <= 3
    await ended(stack, batch_id)
    assert (await look(stack, batch_id))["usage"]["output_tokens"] == first + 60
    failed = await ended(stack, await create(stack, [line(0, [])]))
    assert (failed.status, failed.usage) == (BatchStatus.FAILED, None)
    assert (await look(stack, failed.id))["usage"] is None


async def test_results_are_kept_as_long_as_their_owner_wants_counted_from_their_creation(stack):
    lines = [chat_line(0, max_tokens=3), chat_line(1, "SIM:status=400")]
    wanted = {"anchor": "created_at", "seconds": 3600}
    batch = await ended(stack, await create(stack, lines, output_expires_after=wanted))
    for file in await files_of(stack, batch):
        assert file.created_ms > batch.created_ms
        assert file.expires_ms == file.created_ms + HOUR_MS
    plain = await ended(stack, await create(stack, lines))
    for file in await files_of(stack, plain):
        assert file.expires_ms == file.created_ms + 30 * DAY_MS


async def test_nobodys_results_are_kept_longer_than_the_operator_keeps_any(tmp_path):
    config = write_config(tmp_path, proxy=("result_days: 30", "result_days: 1"))
    async with running(tmp_path, config=config) as stack:
        lines = [chat_line(0, max_tokens=3), chat_line(1, "SIM:status=400")]
        wanted = {"anchor": "created_at", "seconds": 2_592_000}
        batch = await ended(stack, await create(stack, lines, output_expires_after=wanted))
        assert (await batch_now(stack, batch.id)).output_expires_after_s == 2_592_000
        for file in await files_of(stack, batch):
            assert file.expires_ms == file.created_ms + DAY_MS
