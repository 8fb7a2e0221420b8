"""What files there are and what was removed is on /metrics, of all processes and of each; a scrape asks no database."""

import asyncio

import aiohttp

from proxy.batching import kept as kept_module
from proxy.batching.kept import KeptWatch
from proxy.ledger.batches.files import BatchFiles
from proxy.ledger.errors import LedgerUnavailableError
from proxy.telemetry.metrics import Metrics, merge
from tests.batching.support import chat_line, create, ended, jsonl
from tests.support.stack import Stack
from tests.telemetry.scraped import samples, value

FILES = "tollgate_batch_files"
BYTES = "tollgate_batch_files_bytes"


async def scrape(stack: Stack) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(f"{stack.admin_url}/metrics") as answer:
        return await answer.read()


def by_purpose(text: bytes, name: str) -> dict[str, float]:
    return {each.labels["purpose"]: each.value for each in samples(text) if each.name == name}


async def test_files_are_shown_by_purpose_and_what_was_removed_is_counted(stack):
    work = stack.app.batch_work
    await work.kept.look()
    assert by_purpose(await scrape(stack), FILES) == {"batch": 0, "batch_output": 0}
    lines = [chat_line(number, max_tokens=3) for number in range(5)]
    batch = await ended(stack, await create(stack, lines))
    results = [size async for size in sizes(work.store, "results/")]
    await work.kept.look()
    text = await scrape(stack)
    assert by_purpose(text, FILES) == {"batch": 1, "batch_output": 1}
    assert by_purpose(text, BYTES) == {"batch": len(jsonl(lines)), "batch_output": sum(results)}
    path = f"{stack.url}/v1/files/{batch.input_file_id}"
    async with stack.session.delete(path, headers=stack.auth()) as answer:
        assert answer.status == 200
    await work.kept.look()
    assert by_purpose(await scrape(stack), FILES) == {"batch": 1, "batch_output": 1}, "its bytes are there still"
    assert await work.retention.turn()
    work.retention.orphans += 2
    await work.kept.look()
    text = await scrape(stack)
    assert by_purpose(text, FILES) == {"batch": 0, "batch_output": 1}
    assert by_purpose(text, BYTES) == {"batch": 0, "batch_output": sum(results)}
    assert value(text, "tollgate_batch_files_removed_total") == 1
    assert value(text, "tollgate_batch_orphans_removed_total") == 2


async def sizes(store, prefix):
    async for each in store.stored(prefix):
        yield sum([len(piece) async for piece in store.read(each.name)])


async def test_a_scrape_shows_the_last_look_and_nothing_while_nothing_is_known(stack, monkeypatch):
    kept = stack.app.batch_work.kept
    await kept.look()
    asked = []

    async def away():
        asked.append(True)
        raise LedgerUnavailableError("away")

    monkeypatch.setattr(kept, "_ask", away)
    assert by_purpose(await scrape(stack), FILES) == {"batch": 0, "batch_output": 0}
    assert asked == []
    await kept.look()
    text = await scrape(stack)
    assert (asked, by_purpose(text, FILES), by_purpose(text, BYTES)) == ([True], {}, {})


async def test_it_is_looked_at_again_and_again(monkeypatch):
    monkeypatch.setattr(kept_module, "LOOK_S", 0.001)
    failures = []

    class Files(BatchFiles):
        def __init__(self) -> None:
            self.looks = 0

        async def totals(self) -> dict[str, tuple[int, int]]:
            self.looks += 1
            if self.looks == 1:
                raise RuntimeError("a bug")
            return {"batch": (self.looks, 10)}

    files = Files()
    kept = KeptWatch(files, lambda name, exc: failures.append((name, str(exc))))
    looking = asyncio.create_task(kept.run())
    async with asyncio.timeout(10):
        while files.looks < 3:
            await asyncio.sleep(0.001)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert failures == [("kept files", "a bug")]
    assert kept.files()["batch"] >= 2
    assert kept.size_bytes() == {"batch": 10, "batch_output": 0}


def test_workers_of_one_replica_say_the_same_of_files_and_each_its_own_of_what_it_removed():
    texts = []
    for removed in (2, 3):
        metrics = Metrics(["m"])
        metrics.watch_each(FILES, "", "purpose", lambda: {"batch": 7})
        metrics.watch("tollgate_batch_files_removed_total", "", lambda count=removed: count)
        texts.append(metrics.render())
    merged = merge(texts)
    assert value(merged, FILES, purpose="batch") == 7
    assert value(merged, "tollgate_batch_files_removed_total") == 5
