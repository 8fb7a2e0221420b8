"""A key that ends while its batch is in progress: the account pays, so the batch goes on; an operator may cancel it."""

import asyncio
import sys

import pytest

from proxy.core.batches.objects import BatchStatus
from proxy.core.money import nano_from_pico_up
from proxy.ledger.keys import Keys
from tests.batching.support import AT_ONCE, batch_now, create, ended, price_of, results, slow_lines, until, used_nano
from tests.support.stack import CONFIG, chat

LINES = 24
LINES_MANY = 400
"""They last longer than a command needs to start."""


@pytest.fixture
def stack(few_at_once):
    return few_at_once


async def revoke(stack):
    """Revoke the key, and return another of the account."""
    keys = Keys(stack.app.database)
    await keys.revoke(stack.key_id)
    return (await keys.create("acme")).token


async def rotate(stack):
    """Let another key take the place of this one at once, and return it."""
    return (await Keys(stack.app.database).rotate(stack.key_id, 0)).token


async def half_done(stack, count=LINES):
    batch_id = await create(stack, slow_lines(count))
    await until(stack, batch_id, lambda batch: batch.completed >= AT_ONCE)
    return batch_id


async def forget_payers(stack):
    """Let the next line ask again who pays."""
    await stack.app.directory.refresh()
    stack.app.batch_work.running._payers.clear()


async def look(stack, batch_id, key):
    async with stack.session.get(f"{stack.url}/v1/batches/{batch_id}", headers=stack.auth(key)) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("end", [revoke, rotate], ids=["revoked", "rotated"])
async def test_a_batch_goes_on_when_its_key_has_ended_and_is_billed_to_its_account(stack, end):
    batch_id = await half_done(stack)
    other = await end(stack)
    await forget_payers(stack)
    assert (await batch_now(stack, batch_id)).status is BatchStatus.IN_PROGRESS
    assert (await stack.ask(chat()))[0] == 401
    assert (await look(stack, batch_id, stack.key))[0] == 401
    batch = await ended(stack, batch_id)
    assert (batch.status, batch.completed) == (BatchStatus.COMPLETED, LINES)
    status, shown = await look(stack, batch_id, other)
    assert (status, shown["status"]) == (200, "completed"), "it is the account's, whatever key looks"
    output, _ = await results(stack, batch)
    entries = {entry.call_id: entry for entry in await stack.entries()}
    assert entries.keys() == {each["response"]["request_id"] for each in output}
    for each in output:
        entry = entries[each["response"]["request_id"]]
        assert (entry.key_id, entry.charge.total_pico) == (stack.key_id, price_of(each["response"]["body"]["usage"]))
    spent = sum(nano_from_pico_up(entry.charge.total_pico) for entry in entries.values())
    assert await used_nano(stack, batch) == (spent, 0)


@pytest.mark.parametrize("end", [revoke, rotate], ids=["revoked", "rotated"])
async def test_another_key_of_the_account_cancels_it_and_the_ended_one_can_not(stack, end):
    batch_id = await half_done(stack)
    other = await end(stack)
    await forget_payers(stack)
    route = f"/v1/batches/{batch_id}/cancel"
    assert (await stack.ask({}, route=route))[0] == 401
    status, shown, _ = await stack.ask({}, route=route, key=other)
    assert (status, shown["status"]) == (200, "cancelling")
    assert (await ended(stack, batch_id)).status is BatchStatus.CANCELLED


async def test_an_operator_cancels_the_batch_of_a_key_that_was_revoked(stack, tmp_path, database_url):
    batch_id = await half_done(stack, LINES_MANY)
    await revoke(stack)
    await forget_payers(stack)
    command = [sys.executable, "-m", "proxy", "batch", "cancel", batch_id, "--config", str(CONFIG)]
    environment = {"TOLLGATE_DATABASE_URL": database_url, "TOLLGATE_STATE_DIR": str(tmp_path / "state")}
    done = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    said, _ = await done.communicate()
    assert said.decode() == f"Batch {batch_id} of account acme is cancelling.\n"
    batch = await ended(stack, batch_id)
    assert batch.status is BatchStatus.CANCELLED
    output, errors = await results(stack, batch)
    assert AT_ONCE <= len(output) < LINES_MANY
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
    assert {entry.call_id for entry in await stack.entries()} == {each["response"]["request_id"] for each in output}
