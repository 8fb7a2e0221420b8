"""A batch that is cancelled before its file has been checked: no line is run, no file is made, nothing is kept."""

import asyncio

import pytest

from proxy.core.batches.objects import BatchStatus
from proxy.ledger.batch_schema import batch_blocks
from tests.batching.support import CHAT, batch_now, chat_line, create, ended, used_nano
from tests.ledger.support import rows_of
from tests.support.stack import running, write_config

LINES = 20
SOON_S = 15
"""Less than a lease: who checks a file lets go of it."""
ALLOWANCE = "batch_enqueued_tokens: 200_000_000"
ENQUEUED_MAX = 30_000
"""Room for one batch of so many lines, and not for two."""


class SlowFile:
    """Lets the check of a file wait in its middle.

    Attributes:
        is_read: somebody has begun to read it.
        may_go_on: the rest of it comes.
    """

    def __init__(self, stack, monkeypatch):
        self.is_read, self.may_go_on = asyncio.Event(), asyncio.Event()
        store = stack.app.batch_work.store
        read = store.read

        async def slowly(name, *part):
            async for piece in read(name, *part):
                half = len(piece) // 2
                yield piece[:half]
                self.is_read.set()
                await self.may_go_on.wait()
                yield piece[half:]

        monkeypatch.setattr(store, "read", slowly)


def lines(content="Bonjour"):
    return [chat_line(number, content, max_tokens=5) for number in range(LINES)]


async def cancel(stack, batch_id):
    status, shown, _ = await stack.ask({}, route=f"/v1/batches/{batch_id}/cancel")
    assert status == 200
    return shown


async def delete_file(stack, file_id):
    async with stack.session.delete(f"{stack.url}/v1/files/{file_id}", headers=stack.auth()) as answer:
        return answer.status, await answer.json()


async def check_nothing_came_of_it(stack, batch_id, file_id):
    batch = await ended(stack, batch_id, SOON_S)
    assert (batch.status, batch.errors) == (BatchStatus.CANCELLED, ())
    assert list(batch.stamps) == [BatchStatus.CANCELLING, BatchStatus.CANCELLED]
    async with stack.session.get(f"{stack.url}/v1/batches/{batch_id}", headers=stack.auth()) as answer:
        shown = await answer.json()
    assert shown["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert (shown["output_file_id"], shown["error_file_id"], shown["errors"], shown["usage"]) == (None,) * 4
    assert (await rows_of(stack.app.database, batch_blocks), await stack.entries()) == ([], [])
    assert not [seen for seen in stack.cluster.seen if seen.path == CHAT], "no line was run"
    assert (batch.enqueued_tokens, await used_nano(stack, batch)) == (0, (0, 0))
    assert [name async for name in stack.app.batch_work.store.names("results/")] == []
    assert (await delete_file(stack, file_id))[0] == 200, "nothing needs its requests any more"


@pytest.mark.parametrize("last", [[], [{"no": "request"}]], ids=["sound", "not sound"])
async def test_a_batch_that_is_cancelled_while_its_file_is_checked_ends_as_cancelled(stack, monkeypatch, last):
    slow = SlowFile(stack, monkeypatch)
    batch_id = await create(stack, [*lines(), *last])
    file_id = (await batch_now(stack, batch_id)).input_file_id
    async with asyncio.timeout(20):
        await slow.is_read.wait()
    assert (await cancel(stack, batch_id))["status"] == "cancelling"
    assert (await batch_now(stack, batch_id)).status is BatchStatus.CANCELLING, "whoever checks it lets go of it first"
    status, refusal = await delete_file(stack, file_id)
    assert (status, refusal["error"]["code"]) == (400, "file_in_use")
    slow.may_go_on.set()
    await check_nothing_came_of_it(stack, batch_id, file_id)
    assert (await cancel(stack, batch_id))["status"] == "cancelled", "to cancel it again changes nothing"


async def test_a_batch_that_is_cancelled_while_it_waits_for_its_check_ends_at_once(stack, monkeypatch):
    slow = SlowFile(stack, monkeypatch)
    first = await create(stack, lines())
    async with asyncio.timeout(20):
        await slow.is_read.wait()
    batch_id = await create(stack, lines())
    file_id = (await batch_now(stack, batch_id)).input_file_id
    await cancel(stack, batch_id)
    await check_nothing_came_of_it(stack, batch_id, file_id)
    assert (await batch_now(stack, first)).status is BatchStatus.VALIDATING
    slow.may_go_on.set()
    assert (await ended(stack, first)).completed == LINES


async def test_nothing_of_the_allowance_is_kept_for_a_batch_that_was_cancelled_early(
    tmp_path, database_url, monkeypatch
):
    config = write_config(tmp_path, tiers=(ALLOWANCE, f"batch_enqueued_tokens: {ENQUEUED_MAX}"))
    async with running(tmp_path, config=config, environ={"TOLLGATE_DATABASE_URL": database_url}) as stack:
        slow = SlowFile(stack, monkeypatch)
        first = await create(stack, lines("SIM:tokens=5 SIM:rate=1"))
        async with asyncio.timeout(20):
            await slow.is_read.wait()
        await cancel(stack, first)
        slow.may_go_on.set()
        second = await ended(stack, await create(stack, lines()))
        assert (second.status, second.completed) == (BatchStatus.COMPLETED, LINES)
        assert second.enqueued_tokens > ENQUEUED_MAX / 2, "two of them do not fit"
