"""While Redis is away no line begins that nobody counts; when it is back, all go on."""

import asyncio
import urllib.parse

import pytest

from proxy.core.batches.objects import BatchStatus
from proxy.core.money import nano_from_pico_up
from tests.batching.support import batch_now, chat_line, create, ended, until, used_nano
from tests.support.process import Gate
from tests.support.stack import running, write_config


@pytest.fixture
def gate(redis_url):
    """A way to Redis that can be closed."""
    gate = Gate(urllib.parse.urlsplit(redis_url).port)
    gate.open()
    yield gate
    gate.close()


async def test_lines_wait_for_redis_and_each_is_counted_once(tmp_path, gate):
    config = write_config(
        tmp_path, proxy=("lines_in_flight_max: 256", "commit_interval_ms: 50\n  lines_in_flight_max: 4")
    )
    environ = {"TOLLGATE_REDIS_URL": f"redis://127.0.0.1:{gate.port}/0"}
    async with running(tmp_path, config=config, environ=environ) as stack:
        lines = [chat_line(number, f"SIM:tokens=10 SIM:rate=100 {number}", max_tokens=10) for number in range(60)]
        batch_id = await create(stack, lines)
        await until(stack, batch_id, lambda batch: batch.completed >= 4)
        gate.close()
        async with asyncio.timeout(20):
            while not stack.app.limiter.is_degraded or stack.cluster.running:
                await asyncio.sleep(0.05)
        generated = stack.cluster.generation_tokens
        await asyncio.sleep(2)
        assert stack.cluster.generation_tokens == generated, "a line was run that nobody counts"
        assert (await batch_now(stack, batch_id)).status is BatchStatus.IN_PROGRESS
        gate.open()
        batch = await ended(stack, batch_id)
        assert (batch.status, batch.completed) == (BatchStatus.COMPLETED, 60)
        spent = sum(nano_from_pico_up(entry.charge.total_pico) for entry in await stack.entries())
        async with asyncio.timeout(20):
            while await used_nano(stack, batch) != (spent, 0):
                await asyncio.sleep(0.2)
