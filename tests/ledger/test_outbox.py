"""A settled call is durable before anyone is told so; what the outbox knows survives its process."""

import asyncio
import sqlite3
import subprocess
import sys

import pytest

from proxy.core.entries import Outcome
from proxy.ledger.errors import OutboxError, OutboxLockedError
from proxy.ledger.outbox import Outbox
from proxy.ledger.outbox_file import read_pending
from tests.ledger.support import NOON_MS, entry


async def everything(outbox):
    return [kept for group in await outbox.oldest(10**9) for kept in group.entries]


async def reopened(outbox):
    await outbox.close()
    return Outbox(outbox.path)


async def settled(outbox):
    """Wait until the writer has done all that was asked of it."""
    await outbox.remove([])


async def test_a_committed_entry_comes_back_as_it_was(outbox):
    call = entry(streamed=True, outcome=Outcome.DISCONNECTED)
    await outbox.commit(call)
    again = await reopened(outbox)
    assert await everything(again) == [call]
    assert (again.depth, again.oldest_ms) == (1, call.settled_ms)
    await again.close()


async def test_calls_that_wait_together_share_a_transaction(outbox):
    calls = [entry() for _ in range(100)]
    await asyncio.gather(*(outbox.commit(call) for call in calls))
    groups = await outbox.oldest(10**9)
    assert [kept for group in groups for kept in group.entries] == calls
    assert len(groups) < 50
    assert outbox.depth == 100


async def test_depth_and_age_follow_what_is_removed(outbox):
    await outbox.commit(entry(settled_ms=NOON_MS + 5))
    await outbox.commit(entry(settled_ms=NOON_MS + 9))
    first, second = await outbox.oldest(10)
    assert (outbox.depth, outbox.oldest_ms) == (2, NOON_MS + 5)
    await outbox.remove([first])
    assert (outbox.depth, outbox.oldest_ms) == (1, NOON_MS + 9)
    await outbox.remove([second, second])
    assert (outbox.depth, outbox.oldest_ms) == (0, None)
    assert await everything(outbox) == []


async def test_the_oldest_come_first_and_no_more_than_asked_for(outbox):
    for _ in range(3):
        await outbox.commit(entry())
    assert len(await outbox.oldest(2)) == 2
    assert len(await outbox.oldest(0)) == 1  # one always: a group larger than a batch must not be stuck


async def test_a_checkpoint_of_a_process_that_died_becomes_an_entry(outbox):
    outbox.checkpoint(entry("call-1", outcome=Outcome.INTERRUPTED, settled_ms=NOON_MS + 1))
    outbox.checkpoint(entry("call-1", outcome=Outcome.INTERRUPTED, settled_ms=NOON_MS + 2))
    await settled(outbox)
    outbox.checkpoint(entry("call-1", outcome=Outcome.INTERRUPTED, settled_ms=NOON_MS + 3))
    await settled(outbox)
    assert outbox.depth == 0
    again = await reopened(outbox)
    assert [(kept.call_id, kept.outcome, kept.settled_ms) for kept in await everything(again)] == [
        ("call-1", Outcome.INTERRUPTED, NOON_MS + 3)
    ]
    assert (again.depth, again.oldest_ms) == (1, NOON_MS + 3)
    once_more = await reopened(again)
    assert once_more.depth == 1
    await once_more.close()


@pytest.mark.parametrize("apart", [True, False])
async def test_a_commit_ends_its_calls_checkpoint(outbox, apart):
    outbox.checkpoint(entry("call-1", outcome=Outcome.INTERRUPTED))
    outbox.checkpoint(entry("call-2", outcome=Outcome.INTERRUPTED))
    if apart:
        await settled(outbox)
    await outbox.commit(entry("call-1"))
    again = await reopened(outbox)
    assert sorted((kept.call_id, kept.outcome) for kept in await everything(again)) == [
        ("call-1", Outcome.FINISHED),
        ("call-2", Outcome.INTERRUPTED),
    ]
    await again.close()


@pytest.mark.parametrize("apart", [True, False])
async def test_a_forgotten_checkpoint_leaves_nothing(outbox, apart):
    outbox.checkpoint(entry("call-1"))
    if apart:
        await settled(outbox)
    outbox.forget("call-1")
    outbox.forget("call-unknown")
    again = await reopened(outbox)
    assert again.depth == 0
    await again.close()


async def test_closing_writes_what_waits(outbox):
    futures = [outbox.commit(entry()) for _ in range(2000)]
    await outbox.close()
    await outbox.close()
    await asyncio.gather(*futures)
    again = Outbox(outbox.path)
    assert again.depth == 2000
    await again.close()


async def test_after_closing_nothing_is_promised(outbox):
    await outbox.close()
    with pytest.raises(OutboxError, match="closed"):
        await outbox.commit(entry())
    outbox.checkpoint(entry())
    outbox.forget("call-1")


async def test_a_full_disk_fails_the_calls_and_leaves_nothing_half_written(outbox):
    await outbox.commit(entry("before"))
    outbox.checkpoint(entry("stream", outcome=Outcome.INTERRUPTED))
    await settled(outbox)
    writer = outbox._file._writer
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages}")
    futures = [outbox.commit(entry("stream")), *(outbox.commit(entry()) for _ in range(400))]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert {type(result) for result in results} == {OutboxError}
    assert outbox.depth == 1
    writer.execute("PRAGMA max_page_count = 1000000")
    await outbox.commit(entry("after"))
    again = await reopened(outbox)
    # The checkpoint of the call whose commit failed still stands for it.
    assert [kept.call_id for kept in await everything(again)] == ["before", "after", "stream"]
    await again.close()


async def test_a_transaction_that_fails_half_way_is_undone_and_the_next_one_works(outbox):
    writer = outbox._file._writer
    await outbox.commit(entry("a"))
    groups = await outbox.oldest(1)
    writer.execute("CREATE TRIGGER fault BEFORE DELETE ON groups BEGIN SELECT RAISE(FAIL, 'fault'); END")
    with pytest.raises(OutboxError, match="fault"):
        await outbox.remove(groups, [(entry("a"), "set aside before the fault")])
    writer.execute("DROP TRIGGER fault")
    await outbox.commit(entry("b"))
    assert [kept.call_id for kept in await everything(outbox)] == ["a", "b"]
    assert writer.execute("SELECT count(*) FROM refused").fetchone() == (0,)
    assert outbox.depth == 2


async def test_an_outbox_that_cannot_keep_up_says_so(tmp_path):
    outbox = Outbox(tmp_path / "outbox-0.db", queue_max=0)
    with pytest.raises(OutboxError, match="cannot keep up"):
        await outbox.commit(entry())
    outbox.checkpoint(entry())
    await outbox.close()


async def test_who_stopped_waiting_does_not_disturb_the_others(outbox):
    left, stayed = outbox.commit(entry()), outbox.commit(entry())
    left.cancel()
    await stayed
    assert outbox.depth == 2


async def test_the_entries_of_one_account_can_be_read_here_and_from_outside(outbox):
    mine = [entry(account_id="acc_a") for _ in range(3)]
    await asyncio.gather(*(outbox.commit(call) for call in [mine[0], entry(account_id="acc_b"), *mine[1:]]))
    assert await outbox.pending_of("acc_a") == mine
    assert await outbox.pending_of("acc_c") == []
    assert read_pending(outbox.path, "acc_a") == mine
    await outbox.close()
    before = sorted(outbox.path.parent.iterdir())
    assert read_pending(outbox.path, "acc_a") == mine
    assert sorted(outbox.path.parent.iterdir()) == before


async def test_two_never_share_an_outbox(outbox):
    with pytest.raises(OutboxLockedError):
        Outbox(outbox.path)
    code = "import sys; from pathlib import Path; from proxy.ledger.outbox import Outbox; Outbox(Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, outbox.path]
    other = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False, timeout=30)
    assert b"OutboxLockedError" in other.stderr
    await outbox.commit(entry())


async def test_what_is_no_outbox_is_not_opened(tmp_path):
    (tmp_path / "outbox-0.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(OutboxError, match="cannot be opened"):
        Outbox(tmp_path / "outbox-0.db")
    with pytest.raises(OutboxError, match="cannot be read"):
        read_pending(tmp_path / "outbox-0.db", "acc_a")
    (tmp_path / "outbox-0.db").unlink()
    again = Outbox(tmp_path / "outbox-0.db")  # the failed attempt holds no lock
    await again.close()


async def test_what_is_refused_is_set_aside_and_kept(outbox):
    call = entry("call-1")
    await outbox.commit(call)
    await outbox.remove(await outbox.oldest(1), [(call, "no room")])
    assert outbox.depth == 0
    await outbox.close()
    with sqlite3.connect(outbox.path) as connection:
        assert connection.execute("SELECT call_id, reason FROM refused").fetchall() == [("call-1", "no room")]
    connection.close()


async def test_every_transaction_is_flushed_to_the_disk(outbox):
    writer = outbox._file._writer
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert writer.execute("PRAGMA synchronous").fetchone() == (2,)
