"""Calls and a batch before one upstream: no call waits for a line, and every line ends once."""

import asyncio
import contextlib
import json
import re
from collections import Counter

import pytest

from proxy.core.batches.objects import BatchStatus
from proxy.core.usage import TariffClass
from proxy.simulator import Options, SimulatedCluster
from tests.batching.support import chat_line, create, ended, results, until
from tests.support.holding import HoldingServer
from tests.support.stack import chat, running, write_config

PLACES = 4
LINES_IN_FLIGHT = 16
SLOW = "SIM:tokens=2 SIM:rate=100"
"""Two hundredths of a second a call."""
ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-oss:120b",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Bonjour"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
}


def said(body):
    return json.loads(body)["messages"][0]["content"]


@contextlib.asynccontextmanager
async def before(url, folder, more="poll_s: 0.05"):
    """Run a proxy before an upstream with four places, none of them kept, that runs 16 lines at once."""
    config = write_config(
        folder,
        models=("in_flight_max: 4096", f"in_flight_max: {PLACES}"),
        proxy=(
            "lines_in_flight_max: 256",
            f"lines_in_flight_max: {LINES_IN_FLIGHT}\n  commit_interval_ms: 50\n  {more}",
        ),
    )
    proxy, models = config / "proxy.yaml", config / "models.yaml"
    proxy.write_text(re.sub(r"places_kept_percent: \d+", "places_kept_percent: 0", proxy.read_text()))
    models.write_text(models.read_text().replace("http://127.0.0.1:9900", url))
    async with running(folder, config=config, environ={"TOLLGATE_UPSTREAM": ""}) as stack:
        yield stack


async def server_answers(server, until_done):
    """Let the server answer whatever it holds, until something is done; return what came of that."""
    done = asyncio.ensure_future(until_done)
    while not done.done():
        server.answer(*server.holds)
        await asyncio.sleep(0.005)
    return await done


@pytest.fixture
async def server():
    async with HoldingServer(said, json.dumps(ANSWER).encode()) as server:
        yield server


@pytest.fixture
async def held(tmp_path, server):
    """A proxy before a server with four places that answers when it is told to."""
    async with before(server.url, tmp_path) as stack:
        yield stack
        answering = asyncio.ensure_future(server_answers(server, asyncio.Event().wait()))
    answering.cancel()


async def queue_waits(stack):
    """Return how many calls have waited for a place, by tier."""
    async with stack.session.get(f"{stack.admin_url}/metrics") as answer:
        found = re.findall(r'tollgate_queue_wait_seconds_count\{tier="(\w+)"\} (\d+)', await answer.text())
    return {tier: int(count) for tier, count in found if int(count)}


async def check_each_line_once(stack, batch, calls):
    output, errors = await results(stack, batch)
    assert (batch.status, batch.completed, errors) == (BatchStatus.COMPLETED, batch.total, [])
    assert [each["custom_id"] for each in output] == [f"line-{number}" for number in range(batch.total)]
    entries = await stack.entries()
    classes = Counter(entry.tariff_class for entry in entries)
    assert classes == {TariffClass.BATCH: batch.total, TariffClass.STANDARD: calls}
    assert {entry.call_id for entry in entries} >= {each["response"]["request_id"] for each in output}


async def test_calls_take_the_places_of_lines_and_wait_for_each_other_alone(held, server):
    stack = held
    urgent = await stack.add_account("urgent", "monthly")
    batch_id = await create(stack, [chat_line(number) for number in range(30)])
    assert all(name.startswith("Line") for name in await server.has(PLACES))  # nobody calls: it has every place
    (pool,) = [pool for pool in stack.app.pools.all() if pool.spare_places]
    assert (pool.in_flight, len(pool.spare_places)) == (PLACES, PLACES)

    keys = {"urgent 1": urgent.token, "urgent 2": urgent.token}
    names = ["call 1", "urgent 1", "call 2", "urgent 2"]
    calls = {}
    for name in names:
        calls[name] = asyncio.ensure_future(stack.ask(chat(name), key=keys.get(name)))
        assert (await server.has(len(server.came) + 1))[-1] == name  # and no line comes back meanwhile
    assert (pool.in_flight, len(pool.spare_places), len(server.holds)) == (PLACES, 0, PLACES)
    assert stack.app.batch_work.worker._tools.turnstile._calls_in_flight() == PLACES  # lines are none of them
    assert sum(stack.app.pools.queue.waiting().values()) == 0
    assert await queue_waits(stack) == {}

    # One more waits, as it would without a batch: calls have all places.
    calls["waits"] = asyncio.ensure_future(stack.ask(chat("waits")))
    async with asyncio.timeout(10):
        while not stack.app.pools.queue.waiting():
            await asyncio.sleep(0.005)
    server.answer("call 1")
    assert (await server.has(len(server.came) + 1))[-1] == "waits"  # not a line
    server.answer(*names, "waits")
    assert [(await call)[0] for call in calls.values()] == [200] * 5
    batch = await server_answers(server, ended(stack, batch_id))
    await check_each_line_once(stack, batch, calls=3)  # two are another account's
    assert await queue_waits(stack) == {"tier1": 1}
    assert len(server.cut) == stack.app.pools.spare.displaced == PLACES
    assert Counter(server.answered) == Counter({*(f"Line {number}" for number in range(30)), *calls})


@pytest.mark.parametrize("with_batch", [False, True])
async def test_under_load_as_many_calls_wait_with_a_batch_as_without_one(tmp_path, with_batch):
    """As many customers as there are places call without a pause, each after its last answer: nobody waits."""
    async with SimulatedCluster(Options(tokens_per_second=0)) as cluster, before(cluster.url, tmp_path) as stack:
        urgent = await stack.add_account("urgent", "monthly")
        if with_batch:
            lines = [chat_line(number, f"{SLOW} {number}", max_tokens=2) for number in range(300)]
            batch_id = await create(stack, lines)
            await until(stack, batch_id, lambda batch: batch.completed > PLACES)

        async def customer(number, key):
            for turn in range(25):
                status, _, _ = await stack.ask(chat(f"{SLOW} {number}/{turn}", max_tokens=2), key=key)
                assert status == 200

        await asyncio.gather(*(customer(number, urgent.token if number % 2 else None) for number in range(PLACES)))
        assert await queue_waits(stack) == {}
        if with_batch:
            batch = await ended(stack, batch_id)
            assert stack.app.batch_work.running.displaced == stack.app.pools.spare.displaced >= PLACES
            await check_each_line_once(stack, batch, calls=PLACES // 2 * 25)


async def test_the_next_block_is_at_hand_when_all_lines_of_one_have_begun(tmp_path, server):
    more = f"block_lines_max: {LINES_IN_FLIGHT}\n  poll_s: 60"
    async with before(server.url, tmp_path, more) as stack:
        batch_id = await create(stack, [chat_line(number) for number in range(3 * LINES_IN_FLIGHT)])
        await server.has(PLACES)
        async with asyncio.timeout(20):  # though nothing has been answered
            while len(stack.app.batch_work.worker.blocks) < 2:
                await asyncio.sleep(0.005)
        assert len(server.came) == PLACES
        batch = await server_answers(server, ended(stack, batch_id))
        assert batch.completed == 3 * LINES_IN_FLIGHT


async def test_an_account_with_few_lines_is_not_kept_waiting_by_one_with_many(held, server):
    stack = held
    few = await stack.add_account("few", "tier1")
    await create(stack, [chat_line(number, f"many {number}") for number in range(1000)])
    await server.has(PLACES)
    lines = [chat_line(number, f"few {number}") for number in range(20)]
    batch_id = await create(stack, lines, key=few.token, account=few.key.account_id)
    await until(stack, batch_id, lambda batch: batch.status is BatchStatus.IN_PROGRESS)
    while sum(name.startswith("few") for name in server.came) < 20:
        server.answer(server.holds[0])
        await server.has(len(server.came) + 1)
    # Every second place, once those have run to which the other account had permits: 16 lines run at once.
    first = next(place for place, name in enumerate(server.came) if name.startswith("few"))
    assert len(server.came) - first <= 2 * 20 + LINES_IN_FLIGHT
    batch = await server_answers(server, ended(stack, batch_id))
    assert (batch.status, batch.completed) == (BatchStatus.COMPLETED, 20)
