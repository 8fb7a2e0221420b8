"""Batches that are stopped: what was finished is kept and billed, the rest is told, and nothing is run twice."""

import asyncio
import contextlib
from collections import Counter

import pytest
from sqlalchemy import update

from proxy.clock import unix_ms
from proxy.core.batches.objects import BatchStatus
from proxy.core.money import nano_from_pico_up
from proxy.ledger.batch_schema import batch_blocks, batches
from proxy.limiter import LimiterUnavailableError
from tests.batching.support import AT_ONCE, batch_now, create, ended, price_of, results, slow_lines, until, used_nano
from tests.ledger.support import rows_of


@pytest.fixture
def stack(few_at_once):
    return few_at_once


async def check_kept_and_billed(stack, batch, code):
    """Every line has one result; those with an answer are billed, each once, and nothing else is."""
    output, errors = await results(stack, batch)
    ids = [each["custom_id"] for each in output + errors]
    assert Counter(ids) == Counter(f"line-{number}" for number in range(batch.total))
    assert [each["error"]["code"] for each in errors] == [code] * len(errors)
    assert (batch.completed, batch.failed) == (len(output), len(errors))
    assert [int(each["custom_id"][5:]) for each in errors] == sorted(int(each["custom_id"][5:]) for each in errors)
    entries = {entry.call_id: entry.charge.total_pico for entry in await stack.entries()}
    assert entries == {each["response"]["request_id"]: price_of(each["response"]["body"]["usage"]) for each in output}
    assert (await used_nano(stack, batch))[0] == sum(nano_from_pico_up(cost) for cost in entries.values())
    return output, errors


async def test_a_cancelled_batch_keeps_what_was_finished_and_lets_running_lines_end(stack):
    batch_id = await create(stack, slow_lines(100))
    await until(stack, batch_id, lambda batch: batch.completed >= 2 * AT_ONCE)
    status, shown, _ = await stack.ask({}, route=f"/v1/batches/{batch_id}/cancel")
    assert (status, shown["status"]) == (200, "cancelling")
    batch = await ended(stack, batch_id)
    assert batch.status is BatchStatus.CANCELLED
    output, errors = await check_kept_and_billed(stack, batch, "batch_cancelled")
    assert len(output) >= 2 * AT_ONCE
    assert errors
    assert stack.cluster.running == 0


async def test_a_batch_past_its_time_keeps_what_was_finished(stack):
    batch_id = await create(stack, slow_lines(100))
    await until(stack, batch_id, lambda batch: batch.completed >= AT_ONCE)
    async with stack.app.database.write() as connection:
        await connection.execute(update(batches).values(expires_ms=unix_ms()))
    batch = await ended(stack, batch_id)
    assert batch.status is BatchStatus.EXPIRED
    output, errors = await check_kept_and_billed(stack, batch, "batch_expired")
    assert len(output) >= AT_ONCE
    assert {each["error"]["message"] for each in errors} == {
        "This request could not be executed before the completion window expired."
    }


async def test_where_the_budget_has_no_room_any_more_the_batch_stops_and_says_so(stack):
    batch_id = await create(stack, slow_lines(100))
    batch = await until(stack, batch_id, lambda batch: batch.completed >= AT_ONCE)
    limits = await stack.app.batch_work.budgets.of(batch, unix_ms())
    used, held = await used_nano(stack, batch)
    rest = limits[0].capacity - used - held
    await stack.app.limiter.record(stack.account, "other-calls", limits, (rest,))
    batch = await ended(stack, batch_id)
    assert (batch.status, batch.errors[0].code) == (BatchStatus.COMPLETED, "insufficient_budget")
    output, errors = await results(stack, batch)
    assert {each["error"]["code"] for each in errors} == {"insufficient_budget"}
    assert len(output) + len(errors) == 100
    entries = {entry.call_id: entry.charge.total_pico for entry in await stack.entries()}
    assert entries.keys() == {each["response"]["request_id"] for each in output}
    assert (await used_nano(stack, batch))[0] <= limits[0].capacity
    await asyncio.sleep(0.3)
    assert len(await stack.entries()) == len(output), "a line was run after the end"


async def test_a_line_that_others_leave_no_room_waits_for_them(stack):
    batch_id = await create(stack, slow_lines(8))
    batch = await until(stack, batch_id, lambda batch: batch.status is BatchStatus.IN_PROGRESS)
    limits = await stack.app.batch_work.budgets.of(batch, unix_ms())
    used, held = await used_nano(stack, batch)
    await stack.app.limiter.admit(stack.account, "other", limits, (limits[0].capacity - used - held,))
    await asyncio.sleep(1)
    assert (await batch_now(stack, batch_id)).status is BatchStatus.IN_PROGRESS
    await stack.app.limiter.release(stack.account, "other", limits)
    batch = await ended(stack, batch_id)
    assert (batch.status, batch.completed) == (BatchStatus.COMPLETED, 8)


async def test_while_the_limiter_is_away_nothing_is_recorded_twice_or_forgotten(stack, monkeypatch):
    limiter = stack.app.limiter
    record = limiter.record
    failures = iter([True] * 7)

    async def shaky(*arguments):
        if next(failures, False):
            raise LimiterUnavailableError("away")
        await record(*arguments)
        if next(failures, False):
            raise LimiterUnavailableError("it has been counted, but nobody knows")

    monkeypatch.setattr(limiter, "record", shaky)
    batch = await ended(stack, await create(stack, slow_lines(10)))
    assert (batch.status, batch.completed) == (BatchStatus.COMPLETED, 10)
    await check_kept_and_billed(stack, batch, "")


@contextlib.contextmanager
def unsettled(stack, monkeypatch):
    """Let the limiter never answer what is recorded; the event says that it has been asked."""
    hangs = asyncio.Event()

    async def never(*_):
        hangs.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(stack.app.limiter, "record", never)
        yield hangs


async def test_a_block_that_is_claimed_while_the_process_begins_to_end_is_given_back(stack, monkeypatch):
    worker = stack.app.batch_work.worker
    claim = worker._leases.claim_blocks
    began = asyncio.Event()

    async def claim_late(*arguments):
        claimed = await claim(*arguments)
        if claimed:
            await worker.close(0)
            began.set()
        return claimed

    monkeypatch.setattr(worker._leases, "claim_blocks", claim_late)
    await create(stack, slow_lines(6))
    await asyncio.wait_for(began.wait(), 20)
    async with asyncio.timeout(20):
        while [row["holder"] for row in await rows_of(stack.app.database, batch_blocks)] != [None]:
            await asyncio.sleep(0.02)
    assert not worker.blocks


async def test_whoever_takes_a_block_over_settles_what_the_one_before_may_not_have(stack, monkeypatch):
    """Killed between the ledger's transaction and the limiter: nothing is lost, and nothing is counted twice."""
    with unsettled(stack, monkeypatch) as hangs:
        batch_id = await create(stack, slow_lines(6))
        await asyncio.wait_for(hangs.wait(), 20)
        await die(stack)
    (left,) = await rows_of(stack.app.database, batch_blocks)
    assert left["unsettled"] is not None
    batch = await ended(stack, batch_id)
    assert (batch.status, batch.completed) == (BatchStatus.COMPLETED, 6)
    await check_kept_and_billed(stack, batch, "")


async def test_a_batch_that_ends_before_anybody_took_over_is_settled_at_its_end(stack, monkeypatch):
    with unsettled(stack, monkeypatch) as hangs:
        batch_id = await create(stack, slow_lines(20))
        await asyncio.wait_for(hangs.wait(), 20)
        await stack.ask({}, route=f"/v1/batches/{batch_id}/cancel")
        await die(stack)
    batch = await ended(stack, batch_id)
    assert batch.status is BatchStatus.CANCELLED
    output, _ = await check_kept_and_billed(stack, batch, "batch_cancelled")
    assert output


async def die(stack):
    """End all work on blocks as a kill does: nothing is tidied up. Their leases end at once, so that a test can go on.

    What the limiter holds is forgotten a minute later, as it is of a process that is dead.
    """
    worker = stack.app.batch_work.worker
    for task in list(worker._runs):
        task.cancel()
    await asyncio.gather(*worker._runs, return_exceptions=True)
    async with stack.app.database.write() as connection:
        await connection.execute(update(batch_blocks).values(until_ms=0))
