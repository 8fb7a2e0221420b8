"""What is over is removed, by one replica for all; what somebody still needs is not."""

import pytest

from proxy.batching.names import output_name, segments_of
from proxy.batching.retention import ORPHAN_MS, SWEEP_MS, Retention
from proxy.clock import unix_ms
from proxy.core.batches.objects import BatchStatus, Purpose
from proxy.files.contract import FileStoreError
from proxy.ledger.batch_schema import batch_files
from proxy.ledger.batches.files import BatchFiles, Deleted
from tests.files.test_contract import chunks_of, names
from tests.ledger.batches.support import add_account, add_batch
from tests.ledger.support import rows_of
from tests.ledger.test_batch_files import MANY, new_file

HOUR_MS = 3_600_000


class Clock:
    """A wall clock that tests turn."""

    def __init__(self):
        self.now_ms = unix_ms()

    def __call__(self):
        return self.now_ms


class Failures(list):
    """What should not have happened."""

    def __call__(self, name, exc):
        self.append((name, exc))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def files(database):
    return BatchFiles(database)


@pytest.fixture
async def account(database):
    return await add_account(database, "acme")


def retention_of(files, store, clock, holder="a"):
    return Retention(files, store, holder, clock, Failures())


async def keep(files, store, account, **changes):
    file = new_file(account, **changes)
    await store.write(file.stored_as, chunks_of(b"0123456789"))
    assert await files.add(file, MANY, MANY)
    return file


async def test_deleted_and_expired_files_lose_bytes_and_rows_and_others_do_not(files, store, clock, account, database):
    kept = await keep(files, store, account)
    expiring = await keep(files, store, account, expires_ms=clock() + HOUR_MS)
    deleted = await keep(files, store, account)
    assert await files.delete(account, deleted.id, clock()) is Deleted.DELETED
    retention = retention_of(files, store, clock)
    assert await retention.turn()
    assert await names(store, "") == sorted([kept.stored_as, expiring.stored_as])
    clock.now_ms += HOUR_MS
    assert await retention.turn()
    assert await names(store, "") == [kept.stored_as]
    assert [row["id"] for row in await rows_of(database, batch_files)] == [kept.id]
    assert retention.removed == 2


async def test_bytes_that_nobody_knows_are_removed_after_a_day(files, store, clock, account, database):
    running = await add_batch(database, account, status=BatchStatus.IN_PROGRESS)
    ended = await add_batch(database, account, status=BatchStatus.COMPLETED)
    file = await keep(files, store, account)
    result = await keep(files, store, account, purpose=Purpose.BATCH_OUTPUT, stored_as=output_name(ended.id))
    needed = [file.stored_as, result.stored_as, f"{segments_of(running.id)}000000-a", output_name(running.id)]
    orphans = ["files/file-0", f"{segments_of(ended.id)}000000-a", f"{segments_of('batch_0')}1", output_name("batch_0")]
    for name in (*needed[2:], *orphans, "others/1"):
        await store.write(name, chunks_of(b"x"))
    retention = retention_of(files, store, clock)
    clock.now_ms += ORPHAN_MS - HOUR_MS
    await retention.turn()
    assert retention.orphans == 0
    clock.now_ms += 2 * HOUR_MS
    await retention.turn()
    assert await names(store, "") == sorted([*needed, "others/1"])
    assert retention.orphans == len(orphans)


async def test_one_replica_does_it_and_another_takes_over(files, store, clock, account):
    first, second = (retention_of(files, store, clock, holder) for holder in "ab")
    assert await first.turn()
    assert not await second.turn()
    await first.close()
    assert await second.turn()


async def test_a_store_that_is_away_leaves_the_row_for_the_next_turn(
    files, store, clock, account, database, monkeypatch
):
    file = await keep(files, store, account)
    await files.delete(account, file.id, clock())
    retention = retention_of(files, store, clock)

    async def away(name):
        raise FileStoreError("away")

    monkeypatch.setattr(store, "delete", away)
    with pytest.raises(FileStoreError):
        await retention.turn()
    assert len(await rows_of(database, batch_files)) == 1
    monkeypatch.undo()
    await retention.turn()
    assert (await names(store, ""), await rows_of(database, batch_files)) == ([], [])


async def test_who_dies_between_bytes_and_row_is_followed_by_who_removes_the_row(
    files, store, clock, account, database
):
    file = await keep(files, store, account)
    await files.delete(account, file.id, clock())
    await store.delete(file.stored_as)
    await retention_of(files, store, clock).turn()
    assert await rows_of(database, batch_files) == []


async def test_everything_is_looked_at_once_in_a_while(files, store, clock, account, monkeypatch):
    looks = []
    stored = store.stored

    def counting(prefix):
        looks.append(prefix)
        return stored(prefix)

    monkeypatch.setattr(store, "stored", counting)
    retention = retention_of(files, store, clock)
    for _ in range(3):
        await retention.turn()
    clock.now_ms += SWEEP_MS
    await retention.turn()
    assert looks == ["", ""]
