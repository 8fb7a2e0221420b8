"""A batch is its owner's; what an account has enqueued never exceeds its allowance, whoever comes at once."""

import asyncio

import pytest
from msgspec.structs import replace

from proxy.core.batches.checking import Checked
from proxy.core.batches.objects import ENDED, Batch, BatchFile, BatchStatus, Block, LineMistake, Purpose
from proxy.core.batches.pages import Order, Page
from proxy.core.batches.usage import BatchUsage
from proxy.ledger.batch_schema import batch_blocks, batch_files
from proxy.ledger.batches.batches import Admitted, Batches, Created
from proxy.ledger.batches.leasing import Leases
from proxy.ledger.batches.rows import file_values
from tests.ledger.batches.support import ANY, DAY_MS, add_account, add_batch, blocks_of, kept
from tests.ledger.support import NOON_MS, rows_of

LEASE_END_MS = NOON_MS + 30_000
MANY = 1000


async def add_file(database, account_id, file_id="file-1", *, purpose=Purpose.BATCH, deleted_ms=None, expires_ms=None):
    file = BatchFile(file_id, account_id, purpose, "in.jsonl", 10, "ab", f"{account_id}/{file_id}", NOON_MS, expires_ms)
    async with database.write() as connection:
        await connection.execute(batch_files.insert().values(file_values(file) | {"deleted_ms": deleted_ms}))
    return file


def new_batch(account_id, number=1, **changes):
    values = {
        "id": f"batch_new_{number:03d}",
        "account_id": account_id,
        "key_id": "key_1",
        "endpoint": "/v1/chat/completions",
        "model": "",
        "tier": "tier1",
        "month": "2026-11",
        "day": "2026-11-24",
        "input_file_id": "file-1",
        "status": BatchStatus.VALIDATING,
        "created_ms": NOON_MS + number,
        "expires_ms": NOON_MS + DAY_MS,
        "metadata": {"é": "ü"},
    }
    return Batch(**values | changes)


def checked(batch, *, tokens=100, lines=5):
    first = Block(batch.id, 0, 0, 3, 0, 300)
    return Checked("gpt-oss:120b", lines, tokens, 10, (first, Block(batch.id, 1, 3, lines - 3, 300, 200)))


async def validating(database, batches, account_id, number=1, *, enqueued_max=None):
    """Make a batch that ``v`` validates."""
    batch = new_batch(account_id, number)
    assert await batches.create(batch, enqueued_max, MANY) is Created.CREATED
    claimed = await Leases(database).claim_to_validate(f"v{number}", NOON_MS, LEASE_END_MS)
    assert claimed == batch
    return batch


@pytest.fixture
async def account(database):
    account_id = await add_account(database, "a")
    await add_file(database, account_id)
    return account_id


async def test_a_batch_is_kept_as_it_was_made_and_shown_to_its_owner_only(database, account):
    batches = Batches(database)
    batch = new_batch(account, output_expires_after_s=3600)
    assert await batches.create(batch, None, MANY) is Created.CREATED
    assert await batches.get(account, batch.id) == batch
    stranger = await add_account(database, "b")
    assert await batches.get(stranger, batch.id) is None
    assert await batches.cancel(stranger, batch.id, NOON_MS) is None
    assert await batches.page(stranger, Page()) == ([], False)
    assert await batches.page(stranger, Page(after=batch.id)) is None
    assert await batches.get(account, batch.id) == batch


async def test_its_file_is_its_owners_and_for_a_batch(database, account):
    batches = Batches(database)
    stranger = await add_account(database, "b")
    await add_file(database, account, "file-out", purpose=Purpose.BATCH_OUTPUT)
    await add_file(database, account, "file-gone", deleted_ms=NOON_MS)
    assert await batches.create(new_batch(stranger), None, MANY) is Created.NO_FILE
    assert await batches.create(new_batch(account, input_file_id="file-none"), None, MANY) is Created.NO_FILE
    assert await batches.create(new_batch(account, input_file_id="file-gone"), None, MANY) is Created.NO_FILE
    assert await batches.create(new_batch(account, input_file_id="file-out"), None, MANY) is Created.OTHER_PURPOSE
    assert await batches.page(account, Page()) == ([], False)


async def test_a_file_whose_time_has_come_is_as_unknown_though_nobody_has_marked_it_yet(database, account):
    batches = Batches(database)
    await add_file(database, account, "file-short", expires_ms=NOON_MS + 1000)
    late = new_batch(account, 1000, input_file_id="file-short")
    assert await batches.create(late, None, MANY) is Created.NO_FILE
    in_time = new_batch(account, 999, input_file_id="file-short")
    assert await batches.create(in_time, None, MANY) is Created.CREATED
    assert (await batches.input_file(in_time)).id == "file-short", "it is read for as long as its batch needs it"


async def test_the_requests_of_a_batch_are_found_until_they_are_deleted(database, account):
    batches = Batches(database)
    file = (await rows_of(database, batch_files))[0]
    found = await batches.input_file(new_batch(account))
    assert (found.id, found.stored_as) == (file["id"], file["stored_as"])
    await add_file(database, account, "file-gone", deleted_ms=NOON_MS)
    assert await batches.input_file(new_batch(account, input_file_id="file-gone")) is None


async def test_pages_go_from_the_newest_to_the_oldest_and_meet(database, account):
    batches = Batches(database)
    for number in range(5):  # two of one instant
        await batches.create(new_batch(account, number, created_ms=NOON_MS + number // 2), None, MANY)
    await add_batch(database, await add_account(database, "b"), blocks=0)
    everything, has_more = await batches.page(account, Page(limit=5))
    assert not has_more
    assert [each.id[-1] for each in everything] == ["4", "3", "2", "1", "0"]
    walked, after = [], None
    while True:
        items, has_more = await batches.page(account, Page(limit=2, after=after))
        walked += items
        if not has_more:
            break
        after = items[-1].id
    assert walked == everything
    rising, _ = await batches.page(account, Page(limit=5, order=Order.ASCENDING))
    assert rising == everything[::-1]
    assert await batches.page(account, Page(after=everything[-1].id)) == ([], False)


async def test_a_sound_file_puts_its_batch_in_progress_with_all_its_blocks(database, account):
    batches = Batches(database)
    batch = await validating(database, batches, account)
    assert await batches.admit("v1", batch.id, checked(batch), 100, NOON_MS + 5) is Admitted.ADMITTED
    now = await batches.get(account, batch.id)
    assert now == replace(
        batch,
        status=BatchStatus.IN_PROGRESS,
        model="gpt-oss:120b",
        total=5,
        enqueued_tokens=100,
        usage=BatchUsage(),
        stamps={BatchStatus.IN_PROGRESS: NOON_MS + 5},
    )
    claimed = await Leases(database).claim_blocks("w", [], ANY, 99, NOON_MS + 6, LEASE_END_MS)
    assert blocks_of(claimed) == [(batch.id, 0), (batch.id, 1)]
    assert [each.block for each in claimed] == list(checked(batch).blocks)


async def test_a_file_with_mistakes_ends_its_batch(database, account):
    batches = Batches(database)
    batch = await validating(database, batches, account)
    mistakes = (LineMistake("invalid_json_line", "No.", 3), LineMistake("x", "y", None, "body.é"))
    assert await batches.refuse("v1", batch.id, mistakes, NOON_MS + 5)
    now = await batches.get(account, batch.id)
    assert (now.status, now.errors, now.stamps) == (BatchStatus.FAILED, mistakes, {BatchStatus.FAILED: NOON_MS + 5})
    leases = Leases(database)
    assert await leases.claim_to_validate("v2", LEASE_END_MS, LEASE_END_MS + 1) is None
    assert await leases.claim_to_clear("v2", LEASE_END_MS, LEASE_END_MS + 1) is None


async def test_only_who_holds_it_says_what_becomes_of_a_batch(database, account):
    batches = Batches(database)
    batch = await validating(database, batches, account)
    assert await Leases(database).claim_to_validate("late", LEASE_END_MS, LEASE_END_MS + 1) == batch
    assert await batches.admit("v1", batch.id, checked(batch), None, NOON_MS) is Admitted.GONE
    assert not await batches.refuse("v1", batch.id, (LineMistake("a", "b"),), NOON_MS)
    assert await batches.admit("v1", "batch_none", checked(batch), None, NOON_MS) is Admitted.GONE
    assert await rows_of(database, batch_blocks) == []
    assert await batches.admit("late", batch.id, checked(batch), None, NOON_MS) is Admitted.ADMITTED
    assert await batches.admit("late", batch.id, checked(batch), None, NOON_MS) is Admitted.GONE


async def test_a_batch_that_is_cancelled_while_it_is_validated_stays_so(database, account):
    batches = Batches(database)
    batch = await validating(database, batches, account)
    cancelled = await batches.cancel(account, batch.id, NOON_MS + 1)
    assert cancelled.status is BatchStatus.CANCELLING
    assert await batches.admit("v1", batch.id, checked(batch), None, NOON_MS) is Admitted.GONE
    assert not await batches.refuse("v1", batch.id, (LineMistake("a", "b"),), NOON_MS)
    assert await batches.get(account, batch.id) == cancelled


@pytest.mark.parametrize("status", list(BatchStatus))
async def test_a_batch_is_cancelled_once_and_only_in_time(database, status):
    account = await add_account(database, "a")
    batch = await add_batch(database, account, status=status)
    batches = Batches(database)
    now = await batches.cancel(account, batch.id, NOON_MS + 7)
    if status in {BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS}:
        assert now == replace(batch, status=BatchStatus.CANCELLING, stamps={BatchStatus.CANCELLING: NOON_MS + 7})
    else:
        assert now == batch
    assert await batches.cancel(account, batch.id, NOON_MS + 8) == now
    assert await kept(database, batch) == now


# The allowance


async def test_a_batch_needs_room_beside_those_that_are_unfinished(database, account):
    batches = Batches(database)
    for status in BatchStatus:
        await add_batch(database, account, blocks=0, status=status, enqueued_tokens=10, created_ms=NOON_MS + 99)
    taken = 10 * len(set(BatchStatus) - ENDED)
    await add_batch(database, await add_account(database, "b"), blocks=0, enqueued_tokens=1000)
    batch = await validating(database, batches, account)
    assert await batches.admit("v1", batch.id, checked(batch, tokens=100), taken + 99, NOON_MS) is Admitted.NO_ROOM
    assert (await batches.get(account, batch.id)) == batch
    assert await rows_of(database, batch_blocks) == []
    assert await batches.admit("v1", batch.id, checked(batch, tokens=100), taken + 100, NOON_MS) is Admitted.ADMITTED


async def test_batches_that_come_at_once_never_take_the_same_room(database, account):
    batches = Batches(database)
    made = [await validating(database, batches, account, number) for number in range(8)]
    results = await asyncio.gather(
        *(batches.admit(f"v{n}", batch.id, checked(batch, tokens=30), 100, NOON_MS) for n, batch in enumerate(made))
    )
    assert sorted(results) == [Admitted.ADMITTED] * 3 + [Admitted.NO_ROOM] * 5


async def test_where_nothing_is_left_no_batch_begins(database, account):
    batches = Batches(database)
    first = await validating(database, batches, account)
    await batches.admit("v1", first.id, checked(first, tokens=100), 100, NOON_MS)
    assert await batches.create(new_batch(account, 2), 100, MANY) is Created.NO_ROOM
    assert await batches.create(new_batch(account, 2), 101, MANY) is Created.CREATED
    assert await batches.create(new_batch(account, 3), 0, MANY) is Created.NO_ROOM
    assert await batches.create(new_batch(account, 3), None, MANY) is Created.CREATED


async def test_so_many_are_unfinished_at_once_and_no_more_however_many_are_wanted_at_once(database, account):
    batches = Batches(database)
    results = await asyncio.gather(*(batches.create(new_batch(account, number), None, 3) for number in range(8)))
    assert sorted(results) == [Created.CREATED] * 3 + [Created.TOO_MANY] * 5
