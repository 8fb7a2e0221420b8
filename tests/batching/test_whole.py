"""Whole batches: every line has its result, in the order of the file, and costs half."""

import pytest

from proxy.core.batches.objects import BatchStatus
from proxy.core.usage import TariffClass
from tests.batching.support import chat_line, create, ended, price_of, results
from tests.support.stack import running


@pytest.fixture
async def stack(tmp_path, database_url):
    async with running(tmp_path, environ={"TOLLGATE_DATABASE_URL": database_url}) as stack:
        yield stack


async def test_every_line_has_its_result_and_is_billed_at_the_batch_price(stack):
    lines = [chat_line(number, max_tokens=5 + number % 7) for number in range(150)]
    batch = await ended(stack, await create(stack, lines))
    assert (batch.status, batch.total, batch.completed, batch.failed) == (BatchStatus.COMPLETED, 150, 150, 0)
    output, errors = await results(stack, batch)
    assert errors == []
    assert [each["custom_id"] for each in output] == [each["custom_id"] for each in lines]
    assert all(each["error"] is None and each["response"]["status_code"] == 200 for each in output)
    entries = {entry.call_id: entry for entry in await stack.entries()}
    assert len(entries) == 150
    for each in output:
        entry = entries[each["response"]["request_id"]]
        assert entry.tariff_class is TariffClass.BATCH
        assert entry.charge.total_pico == price_of(each["response"]["body"]["usage"])
