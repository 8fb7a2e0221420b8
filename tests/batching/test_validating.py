"""A file is read once, in small steps; its batch is in progress, or failed with every mistake and its line."""

import asyncio
import itertools
import threading
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proxy.batching.budgets import Budgets, PayerUnknownError
from proxy.batching.splitting import lines_of
from proxy.batching.validating import LARGE_BYTES, Validating
from proxy.billing.room import CreditRoom
from proxy.core.batches.checking import FileCheck
from proxy.core.batches.objects import Batch, BatchFile, BatchStatus, Purpose
from proxy.core.batches.pages import Page
from proxy.core.limits import LimitKind
from proxy.core.money import PICO_PER_EURO
from proxy.files.contract import FileMissingError, FileStoreError
from proxy.files.folder import FolderStore
from proxy.ledger.accounts import Accounts
from proxy.ledger.batch_schema import batch_blocks, batch_files
from proxy.ledger.batches.batches import Batches, Created
from proxy.ledger.batches.leasing import Leases
from proxy.ledger.batches.rows import file_values
from proxy.ledger.credit import Credit
from proxy.ledger.directory import Directory
from proxy.ledger.keys import Keys
from proxy.limiter.memory import MemoryLimiter
from proxy.tasks import Tasks
from tests.core.batches.support import chat_body, line, shipped
from tests.ledger.support import NOON_MS, Clock, rows_of

DAY_MS = 86_400_000


class World:
    """A ledger, a folder of files, and one account with a key."""

    def __init__(self, database, folder):
        def fail(name, failure):
            raise AssertionError(name) from failure

        self.clock = Clock()
        self.database = database
        self.settings = shipped()
        self.store = FolderStore(folder)
        self.batches = Batches(database)
        self.directory = Directory(database)
        self.tasks = Tasks(fail)
        self.credit = Credit(database, self.clock)
        self.limiter = MemoryLimiter(self.clock, 60_000)
        self.budgets = Budgets(lambda: self.settings, self.directory, CreditRoom(self.credit, self.tasks, self.clock))
        self.validating = self.validating_with(self.store)
        self.numbers = itertools.count(1)

    def validating_with(self, store, **options):
        return Validating(lambda: self.settings, store, self.batches, self.budgets, self.limiter, self.clock, **options)

    async def open(self, *, prepaid_only=False):
        accounts = Accounts(self.database, self.clock)
        self.account = await accounts.create("acme", "tier1", prepaid_only=prepaid_only)
        self.key = (await Keys(self.database, self.clock).create("acme")).key
        await self.directory.refresh()
        return self

    def with_batch(self, **changes):
        self.settings = replace(
            self.settings, proxy=replace(self.settings.proxy, batch=replace(self.settings.proxy.batch, **changes))
        )

    def with_tier(self, **changes):
        tiers = {**self.settings.tiers, "tier1": replace(self.settings.tiers["tier1"], **changes)}
        self.settings = replace(self.settings, tiers=tiers)

    async def create(self, lines, **changes):
        """Upload a file, create a batch of it, and lease it for validation."""
        number = next(self.numbers)
        name = f"{self.account.id}/file-{number}"

        async def chunks() -> AsyncIterator[bytes]:
            for each in lines:
                yield each

        written = await self.store.write(name, chunks())
        file_id = f"file-{number}"
        file = BatchFile(
            file_id, self.account.id, Purpose.BATCH, "in.jsonl", written.size_bytes, written.sha256, name, NOON_MS
        )
        async with self.database.write() as connection:
            await connection.execute(batch_files.insert().values(file_values(file)))
        values = {
            "id": f"batch_{number:032x}",
            "account_id": self.account.id,
            "key_id": self.key.id,
            "endpoint": "/v1/chat/completions",
            "model": "",
            "tier": "tier1",
            "month": "2026-11",
            "day": "2026-11-24",
            "input_file_id": file_id,
            "status": BatchStatus.VALIDATING,
            "created_ms": NOON_MS + number,
            "expires_ms": NOON_MS + DAY_MS,
        }
        batch = Batch(**values | changes)
        assert await self.batches.create(batch, None, 1000) is Created.CREATED
        claimed = await Leases(self.database).claim_to_validate(f"v{number}", NOON_MS, NOON_MS + DAY_MS)
        assert claimed == batch
        return batch, f"v{number}"

    async def validated(self, lines, **changes):
        """Return a batch of these lines as it is when it has been validated."""
        batch, holder = await self.create(lines, **changes)
        await self.validating.validate(holder, batch)
        return await self.batches.get(self.account.id, batch.id)

    async def refused(self, lines, **changes):
        """Return why a batch of these lines has failed."""
        batch = await self.validated(lines, **changes)
        assert batch.status is BatchStatus.FAILED
        assert await rows_of(self.database, batch_blocks) == []
        return [(each.line, each.code, each.param) for each in batch.errors]


@pytest.fixture
async def world(database, tmp_path: Path):
    return await World(database, tmp_path / "files").open()


async def test_a_sound_file_is_in_progress_in_blocks_that_hold_every_byte(world):
    world.with_batch(block_lines_max=3)
    lines = [line(f"é-{number}") for number in range(8)]
    batch = await world.validated(lines)
    assert (batch.status, batch.total, batch.model) == (BatchStatus.IN_PROGRESS, 8, "gpt-oss:120b")
    assert batch.stamps == {BatchStatus.IN_PROGRESS: NOON_MS}
    assert batch.enqueued_tokens > 8 * 1024
    rows = sorted(await rows_of(world.database, batch_blocks), key=lambda row: row["number"])
    assert [(row["first_line"], row["lines"]) for row in rows] == [(0, 3), (3, 3), (6, 2)]
    for row in rows:
        pieces = world.store.read(f"{world.account.id}/file-1", row["first_byte"], row["size_bytes"])
        assert b"".join([piece async for piece in pieces]) == b"".join(
            lines[row["first_line"] : row["first_line"] + row["lines"]]
        )


async def test_each_mistake_is_told_with_its_line(world):
    lines = [
        line("a"),
        b"{\n",
        line(...),
        line("a"),
        line("b", method="GET"),
        line("c", url="/v1/completions"),
        line("d", body=[]),
        line("e", body=chat_body(stream=True)),
        line("f", body=chat_body() | {"model": "none"}),
        line("g", body=chat_body(temperature=9)),
        b"\n",
        line("h"),
    ]
    assert await world.refused(lines) == [
        (2, "invalid_json_line", None),
        (3, "missing_required_parameter", "custom_id"),
        (4, "duplicate_custom_id", "custom_id"),
        (5, "invalid_request", "method"),
        (6, "url_mismatch", "url"),
        (7, "invalid_request", "body"),
        (8, "invalid_request", "body.stream"),
        (9, "model_not_found", "body.model"),
        (10, "invalid_request", "body.temperature"),
        (11, "invalid_json_line", None),
    ]


@pytest.mark.parametrize("lines", [[], [b"\n\n"]], ids=["nothing", "blank lines"])
async def test_an_empty_file_is_refused(world, lines):
    assert await world.refused(lines) == [(None, "empty_file", None)]


async def test_a_file_of_too_many_lines_is_refused(world):
    world.with_batch(lines_max=3)
    assert await world.refused([line(str(number)) for number in range(4)]) == [(None, "too_many_tasks", None)]


async def test_a_line_longer_than_any_call_is_refused_and_none_of_it_kept(world):
    sizes = replace(world.settings.proxy.sizes, body_bytes_max=1000)
    world.settings = replace(world.settings, proxy=replace(world.settings.proxy, sizes=sizes))
    lines = [line("a"), line("b", body=chat_body("x" * 5000)), line("c")]
    assert await world.refused(lines) == [(2, "invalid_request", None)]


async def test_a_file_that_has_been_deleted_is_told(world, monkeypatch):
    batch, holder = await world.create([line("a")])
    async with world.database.write() as connection:
        await connection.execute(batch_files.update().values(deleted_ms=NOON_MS))
    await world.validating.validate(holder, batch)
    (mistake,) = (await world.batches.get(world.account.id, batch.id)).errors
    assert (mistake.code, mistake.param) == ("file_not_found", "input_file_id")


class Broken:
    """A store that fails in the middle of a file."""

    def __init__(self, failure):
        self.failure = failure
        self.is_closed = False

    async def read(self, name, first_byte=0, size_bytes=None):
        try:
            yield line("a")
            raise self.failure
        finally:
            self.is_closed = True


async def test_bytes_that_are_gone_are_told_and_a_store_that_is_away_is_waited_for(world):
    batch, holder = await world.create([line("a")])
    with pytest.raises(FileStoreError):
        await world.validating_with(Broken(FileStoreError("away"))).validate(holder, batch)
    assert await world.batches.get(world.account.id, batch.id) == batch
    await world.validating_with(Broken(FileMissingError("gone"))).validate(holder, batch)
    (mistake,) = (await world.batches.get(world.account.id, batch.id)).errors
    assert mistake.code == "file_not_found"


async def test_a_batch_that_is_cancelled_meanwhile_is_left_alone(world):
    batch, holder = await world.create([line("a")])
    cancelled = await world.batches.cancel(world.account.id, batch.id, NOON_MS)
    await world.validating.validate(holder, batch)
    assert await world.batches.get(world.account.id, batch.id) == cancelled


# Room


async def test_the_worst_case_fits_what_is_left_of_the_month(world):
    fits = await world.validated([line("a", body=chat_body(max_tokens=1000))])
    assert fits.status is BatchStatus.IN_PROGRESS
    (budget,) = await world.budgets.of(fits, NOON_MS)
    await world.limiter.admit(world.account.id, "call", [budget], [budget.capacity - 4_000_000])
    # 1,000 tokens of output alone cost 0.004 euros, which is all that is left.
    batch = await world.validated([line("a", body=chat_body(max_tokens=1000))])
    assert batch.status is BatchStatus.FAILED
    (mistake,) = batch.errors
    assert mistake.code == "insufficient_budget"
    assert mistake.message.endswith("euros; 0.004 euros are left for 2026-11.")


async def test_a_batch_is_paid_from_the_budgets_of_its_creation_and_from_no_window(world):
    batch = await world.validated([line("a")], month="2026-10", day="2026-10-31")
    (budget,) = await world.budgets.of(batch, NOON_MS)
    assert (budget.name, budget.kind, budget.period) == ("budget_month", LimitKind.BUDGET, "2026-10")
    assert budget.capacity == 1000 * 10**9


async def test_the_budget_of_the_key_counts_too(world):
    made = await Keys(world.database, world.clock).create("acme", limits={"monthly_limit": PICO_PER_EURO // 1000})
    await world.directory.refresh()
    world.key = made.key
    assert await world.refused([line("a", body=chat_body(max_tokens=1000))]) == [(None, "insufficient_budget", None)]


async def test_a_prepaid_account_spends_its_credit_only(database, tmp_path):
    world = await World(database, tmp_path / "files").open(prepaid_only=True)
    lines = [line("a", body=chat_body(max_tokens=1000))]
    assert await world.refused(lines) == [(None, "insufficient_budget", None)]
    await world.credit.add("acme", PICO_PER_EURO, "order-1")
    await world.directory.refresh()
    assert (await world.validated(lines)).status is BatchStatus.IN_PROGRESS


async def test_a_key_that_has_ended_has_created_a_batch_all_the_same(world):
    await Keys(world.database, world.clock).revoke(world.key.id)
    await world.directory.refresh()
    assert (await world.validated([line("a")])).status is BatchStatus.IN_PROGRESS


async def test_who_is_not_known_is_waited_for(world):
    batch, holder = await world.create([line("a")], tier="gone")
    with pytest.raises(PayerUnknownError):
        await world.validating.validate(holder, batch)
    assert await world.batches.get(world.account.id, batch.id) == batch


async def test_the_allowance_is_taken_once_however_many_are_validated_at_once(world):
    one = await world.validated([line("a")])
    world.with_tier(batch_enqueued_tokens=4 * one.enqueued_tokens - 1)
    made = [await world.create([line("a")]) for _ in range(6)]
    await asyncio.gather(*(world.validating.validate(holder, batch) for batch, holder in made))
    now, _ = await world.batches.page(world.account.id, Page(limit=100))
    admitted = [batch for batch in now if batch.status is BatchStatus.IN_PROGRESS]
    refused = [batch for batch in now if batch.status is BatchStatus.FAILED]
    assert (len(admitted), len(refused)) == (3, 4)
    assert {batch.errors[0].code for batch in refused} == {"token_limit_exceeded"}
    assert str(4 * one.enqueued_tokens - 1) in refused[0].errors[0].message


# How it is read


class Generated:
    """A store of one file that is never whole anywhere: so many lines of 4 KB."""

    def __init__(self, count):
        self.count = count

    async def read(self, name, first_byte=0, size_bytes=None):
        text = "x" * 3900
        for number in range(0, self.count, 64):
            yield b"".join(
                line(str(each), body=chat_body(text)) for each in range(number, min(self.count, number + 64))
            )


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_fifty_thousand_lines_of_4_kb_are_never_in_memory(world, monkeypatch):
    world.with_tier(batch_enqueued_tokens=None)
    monkeypatch.setattr("proxy.batching.validating.PAUSE_S", 0)
    batch, holder = await world.create([line("a")])
    validating = world.validating_with(Generated(50_000))
    tracemalloc.start()
    try:
        await validating.validate(holder, batch)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (await world.batches.get(world.account.id, batch.id)).total == 50_000
    assert peak < 16_000_000


async def test_the_loop_gets_its_turn_after_each_small_step(world, monkeypatch):
    ticks = itertools.count()
    turns = []

    async def pause(seconds):
        turns.append(seconds)

    monkeypatch.setattr("proxy.batching.validating.asyncio.sleep", pause)
    monkeypatch.setattr("proxy.batching.validating.STEP_S", 1.0)
    # Each look at the clock takes an eighth of a step: so does each line.
    validating = world.validating_with(world.store, clock=lambda: next(ticks) / 8)
    batch, holder = await world.create([line(str(number)) for number in range(84)])
    await validating.validate(holder, batch)
    assert len([each for each in turns if each > 0]) == 10
    assert validating.longest_step_s == 1.0


async def test_a_large_line_is_checked_beside_the_loop(world, monkeypatch):
    main = threading.get_ident()
    threads = []
    checked_line = FileCheck.line

    def noted(check, data):
        threads.append(threading.get_ident() == main)
        checked_line(check, data)

    monkeypatch.setattr(FileCheck, "line", noted)
    batch = await world.validated([line("a"), line("b", body=chat_body("x" * LARGE_BYTES)), line("c")])
    assert (batch.total, threads) == (3, [True, False, True])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_lines_are_the_same_however_a_file_comes(size):
    data = b"ab\n\ncdefgh\n\r\nlonger-than-that\ni"

    async def pieces():
        for at in range(0, len(data), size):
            yield data[at : at + size]

    assert [each async for each in lines_of(pieces(), 8)] == [b"ab\n", b"\n", b"cdefgh\n", b"\r\n", 17, b"i"]


async def test_who_reads_no_further_lets_go_of_the_file(world):
    store = Broken(FileStoreError("not reached"))
    lines = lines_of(store.read("x"), 10_000)
    assert await anext(lines) == line("a")
    await lines.aclose()
    assert store.is_closed
