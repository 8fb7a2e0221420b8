"""A file is its owner's until it is over; what is over is removed, and not before a batch has read it."""

import asyncio
import itertools

import pytest
from msgspec.structs import replace

from proxy.core.batches.objects import ENDED, BatchFile, BatchStatus, Purpose
from proxy.core.batches.pages import Order, Page
from proxy.ledger.batch_schema import batch_files
from proxy.ledger.batches.batches import Batches, Created
from proxy.ledger.batches.files import BatchFiles, Deleted
from tests.ledger.batches.support import add_account, add_batch, set_status
from tests.ledger.batches.test_batches import new_batch
from tests.ledger.support import NOON_MS, rows_of

MANY = 1_000_000
_numbers = itertools.count(1)


@pytest.fixture
def files(database):
    return BatchFiles(database)


@pytest.fixture
async def account(database):
    return await add_account(database, "acme")


def new_file(account_id, **changes):
    number = next(_numbers)
    values = {
        "id": f"file-{number:032x}",
        "account_id": account_id,
        "purpose": Purpose.BATCH,
        "filename": "in é.jsonl",
        "size_bytes": 10,
        "sha256": "ab",
        "stored_as": f"files/file-{number:032x}",
        "created_ms": NOON_MS,
    }
    return BatchFile(**values | changes)


async def add(files, account_id, **changes):
    file = new_file(account_id, **changes)
    assert await files.add(file, MANY, MANY)
    return file


async def test_a_file_is_its_owners_alone(database, files, account):
    other = await add_account(database, "other")
    file = await add(files, account)
    assert await files.get(account, file.id, NOON_MS) == file
    assert await files.get(other, file.id, NOON_MS) is None
    assert await files.delete(other, file.id, NOON_MS) is Deleted.NO_FILE
    assert await files.page(other, Page(), None, NOON_MS) == ([], False)
    assert await files.page(other, Page(after=file.id), None, NOON_MS) is None
    assert await files.get(account, file.id, NOON_MS) == file


async def test_pages_hold_every_file_once_in_either_order(files, account):
    made = [await add(files, account, created_ms=NOON_MS + number // 2) for number in range(7)]
    for order, wanted in ((Order.ASCENDING, made), (Order.DESCENDING, made[::-1])):
        found, after, more = [], None, True
        while more:
            page = Page(3, after, order)
            items, more = await files.page(account, page, None, NOON_MS)
            assert len(items) == 3 or not more
            found += items
            after = items[-1].id
        assert found == wanted


async def test_a_list_may_be_of_one_purpose(files, account):
    await add(files, account)
    result = await add(files, account, purpose=Purpose.BATCH_OUTPUT)
    assert await files.page(account, Page(), "batch_output", NOON_MS) == ([result], False)
    assert await files.page(account, Page(), "fine-tune", NOON_MS) == ([], False)


async def test_a_deleted_file_is_seen_no_more_and_its_bytes_and_row_go_later(database, files, account):
    kept, file = await add(files, account), await add(files, account)
    assert await files.delete(account, file.id, NOON_MS) is Deleted.DELETED
    assert await files.delete(account, file.id, NOON_MS) is Deleted.NO_FILE
    assert await files.get(account, file.id, NOON_MS) is None
    assert await files.page(account, Page(), None, NOON_MS) == ([kept], False)
    assert await files.over(10) == [file]
    await files.forget([file.id, kept.id])  # one that is not deleted stays, whoever asks
    assert await files.over(10) == []
    assert [row["id"] for row in await rows_of(database, batch_files)] == [kept.id]


async def test_a_file_whose_time_has_come_is_over(files, account):
    file = await add(files, account, expires_ms=NOON_MS + 1000)
    assert await files.end(NOON_MS + 999) == 0
    assert await files.get(account, file.id, NOON_MS + 999) == file
    assert await files.get(account, file.id, NOON_MS + 1000) is None
    assert await files.page(account, Page(), None, NOON_MS + 1000) == ([], False)
    assert await files.over(10) == []
    assert await files.end(NOON_MS + 1000) == 1
    assert await files.over(10) == [file]


@pytest.mark.parametrize("status", list(BatchStatus))
async def test_a_file_is_not_deleted_while_an_unfinished_batch_reads_it(database, files, account, status):
    file, free = [await add(files, account, expires_ms=NOON_MS + 1000) for _ in range(2)]
    batch = await add_batch(database, account, input_file_id=file.id, status=status)
    expected = Deleted.DELETED if status in ENDED else Deleted.IN_USE
    assert await files.delete(account, file.id, NOON_MS) is expected
    await files.end(NOON_MS + 1000)
    assert {each.id for each in await files.over(10)} == {free.id, *([file.id] if status in ENDED else [])}
    await set_status(database, batch, BatchStatus.COMPLETED)
    await files.end(NOON_MS + 1000)
    assert {each.id for each in await files.over(10)} == {file.id, free.id}


async def test_deleting_a_file_and_making_a_batch_of_it_at_once_is_one_of_both(database, files, account):
    batches = Batches(database)
    outcomes = set()
    for number in range(10):
        file = await add(files, account)
        batch = replace(new_batch(account, number), input_file_id=file.id)
        created, deleted = await asyncio.gather(
            batches.create(batch, None, MANY), files.delete(account, file.id, NOON_MS)
        )
        assert (created, deleted) in {(Created.CREATED, Deleted.IN_USE), (Created.NO_FILE, Deleted.DELETED)}
        outcomes.add(created)
    assert outcomes


async def test_an_account_keeps_so_many_files_and_bytes_and_others_are_not_counted(database, files, account):
    other = await add_account(database, "other")
    await add(files, other)
    await add(files, account, purpose=Purpose.BATCH_OUTPUT, size_bytes=1000)
    assert await files.add(new_file(account), 2, 30)
    assert not await files.add(new_file(account), 1, 30)  # files
    assert not await files.add(new_file(account, size_bytes=21), 2, 30)  # bytes
    assert await files.has_room(account, 20, 2, 30)
    assert await files.add(new_file(account, size_bytes=20), 2, 30)
    assert not await files.has_room(account, 0, 2, 30)


async def test_many_at_once_do_not_keep_more_than_they_may(database, files, account):
    added = await asyncio.gather(*(files.add(new_file(account), 3, MANY) for _ in range(8)))
    assert sorted(added) == [False] * 5 + [True] * 3
    assert len(await rows_of(database, batch_files)) == 3


async def test_it_is_known_which_names_and_batches_still_mean_something(database, files, account):
    file = await add(files, account)
    running = await add_batch(database, account, status=BatchStatus.IN_PROGRESS)
    ended = await add_batch(database, account, status=BatchStatus.COMPLETED)
    assert await files.kept([file.stored_as, "files/unknown"]) == {file.stored_as}
    assert await files.unfinished([running.id, ended.id, "batch_unknown"]) == {running.id}
    assert await files.totals() == {"batch": (1, 10)}


async def test_one_replica_removes_for_all(files):
    assert await files.lease.take("a", NOON_MS, NOON_MS + 100)
    assert not await files.lease.take("b", NOON_MS + 99, NOON_MS + 200)
    assert await files.lease.take("a", NOON_MS + 99, NOON_MS + 200)
    await files.lease.drop("b")
    assert not await files.lease.take("b", NOON_MS + 199, NOON_MS + 300)
    await files.lease.drop("a")
    assert await files.lease.take("b", NOON_MS + 1, NOON_MS + 300)
