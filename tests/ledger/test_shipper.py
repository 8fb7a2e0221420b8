"""Entries reach the ledger whatever fails on the way, once each, and leave the outbox only then."""

import asyncio
import contextlib
import time

import pytest
from structlog.testing import capture_logs

from proxy.ledger.errors import LedgerRefusedError, LedgerUnavailableError, OutboxError
from proxy.ledger.outbox import Outbox
from proxy.ledger.shipper import Shipper
from tests.ledger.support import entry


class FaultyLedger:
    """A ledger in memory that fails as it is told: the next ``away`` times, and always for the ``poison``."""

    def __init__(self, away: int = 0, poison: frozenset[str] = frozenset(), crash: int = 0):
        self.away, self.poison, self.crash = away, poison, crash
        self.taken: dict[str, object] = {}
        self.batches: list[int] = []

    async def insert(self, new):
        self.batches.append(len(new))
        if self.away:
            self.away -= 1
            raise LedgerUnavailableError("the ledger does not answer: ConnectionRefusedError")
        if self.poison & {call.call_id for call in new}:
            raise LedgerRefusedError("the ledger refused it: DataError")
        before = len(self.taken)
        self.taken |= {call.call_id: call for call in new if call.call_id not in self.taken}
        if self.crash:  # it has committed, but nobody is told
            self.crash -= 1
            raise LedgerUnavailableError("the ledger does not answer: TimeoutError")
        return len(self.taken) - before


async def committed(outbox, count, **changes):
    calls = [entry(**changes) for _ in range(count)]
    await asyncio.gather(*(outbox.commit(call) for call in calls))
    return calls


async def until(condition, seconds=5.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def shipper_of(outbox, ledger, **options):
    return Shipper(outbox, ledger, **{"linger_s": 0.01, "backoff_max_s": 0.02, **options})


async def test_entries_reach_the_ledger_and_leave_the_outbox(outbox, ledger):
    shipper = shipper_of(outbox, ledger)
    shipper.start()
    calls = await committed(outbox, 25)
    await until(lambda: outbox.depth == 0)
    assert await ledger.entries_of("acc_a", "2026-11") == calls
    calls += await committed(outbox, 1)
    await until(lambda: outbox.depth == 0)
    assert (await ledger.usage("acc_a", "2026-11")).calls == 26
    assert shipper.shipped == 26
    assert await shipper.drain(1)


async def test_what_was_left_by_an_earlier_process_is_shipped_first(outbox, ledger):
    calls = await committed(outbox, 3)
    await outbox.close()
    again = Outbox(outbox.path)
    shipper = shipper_of(again, ledger)
    shipper.start()
    assert await shipper.drain(5)
    assert await ledger.entries_of("acc_a", "2026-11") == calls
    await again.close()


async def test_while_the_ledger_is_away_nothing_is_lost_and_one_line_is_logged(outbox):
    ledger = FaultyLedger(away=5)
    shipper = shipper_of(outbox, ledger)
    calls = await committed(outbox, 3)
    with capture_logs() as logs:
        shipper.start()
        await until(lambda: shipper.is_failing)
        assert outbox.depth == 3
        await until(lambda: outbox.depth == 0)
    assert list(ledger.taken.values()) == calls
    assert [line["event"] for line in logs] == ["shipping_fails", "shipping_resumed"]
    assert not shipper.is_failing
    assert await shipper.drain(1)


async def test_a_ledger_that_stays_away_is_asked_less_and_less_often(outbox):
    ledger = FaultyLedger(away=10**6)
    shipper = shipper_of(outbox, ledger, backoff_max_s=10)
    await committed(outbox, 1)
    shipper.start()
    await asyncio.sleep(0.5)  # attempts at 0, 0.1, 0.3 s
    assert 1 <= len(ledger.batches) <= 3
    started = time.monotonic()
    assert not await shipper.drain(0.2)
    assert time.monotonic() - started < 1
    assert outbox.depth == 1


async def test_who_has_no_time_at_all_to_drain_is_not_held_up(outbox):
    shipper = shipper_of(outbox, FaultyLedger(away=10**6), backoff_max_s=10)
    await committed(outbox, 1)
    shipper.start()
    await until(lambda: shipper.is_failing)
    async with asyncio.timeout(1):
        assert not await shipper.drain(0)


async def test_less_than_a_batch_waits_a_while_for_company(outbox):
    ledger = FaultyLedger()
    await committed(outbox, 5)
    shipper = shipper_of(outbox, ledger, linger_s=0.3, batch_max=20)
    shipper.start()
    for _ in range(4):
        await asyncio.sleep(0.03)
        await committed(outbox, 2)
    await until(lambda: outbox.depth == 0)
    assert ledger.batches == [13]
    assert await shipper.drain(1)


async def test_a_crash_between_the_ledgers_commit_and_the_removal_is_harmless(outbox, ledger):
    calls = await committed(outbox, 3)
    await ledger.insert(calls[:2])  # a process committed these and died before it removed them
    shipper = shipper_of(outbox, ledger)
    shipper.start()
    assert await shipper.drain(5)
    assert await ledger.entries_of("acc_a", "2026-11") == calls
    assert (await ledger.usage("acc_a", "2026-11")).calls == 3
    assert shipper.shipped == 1


async def test_an_answer_that_was_lost_is_asked_for_again(outbox):
    ledger = FaultyLedger(crash=1)
    await committed(outbox, 3)
    shipper = shipper_of(outbox, ledger)
    shipper.start()
    await until(lambda: outbox.depth == 0)
    assert ledger.batches == [3, 3]
    assert len(ledger.taken) == 3
    assert await shipper.drain(1)


async def test_an_outbox_that_cannot_remove_is_tried_again(outbox, monkeypatch):
    ledger = FaultyLedger()
    await committed(outbox, 1)
    remove, faults = outbox.remove, [OutboxError("disk full")]

    def faulty(groups, refused=()):
        if faults:
            raise faults.pop()
        return remove(groups, refused)

    monkeypatch.setattr(outbox, "remove", faulty)
    shipper = shipper_of(outbox, ledger)
    shipper.start()
    await until(lambda: outbox.depth == 0)
    assert len(ledger.batches) == 2
    assert await shipper.drain(1)


async def test_a_refused_entry_does_not_hold_up_the_others(outbox):
    ledger = FaultyLedger(poison=frozenset({"poison"}))
    await asyncio.gather(*(outbox.commit(entry(call_id)) for call_id in ("a", "poison", "b")))
    shipper = shipper_of(outbox, ledger)
    with capture_logs() as logs:
        shipper.start()
        await until(lambda: outbox.depth == 0)
    assert set(ledger.taken) == {"a", "b"}
    assert (shipper.shipped, shipper.refused) == (2, 1)
    assert [line["call_id"] for line in logs if line["event"] == "ledger_refused_entry"] == ["poison"]
    assert outbox._file._writer.execute("SELECT call_id FROM refused").fetchall() == [("poison",)]
    assert await shipper.drain(1)


async def test_a_batch_is_bounded(outbox):
    ledger = FaultyLedger()
    for _ in range(5):
        await committed(outbox, 10)
    shipper = shipper_of(outbox, ledger, batch_max=20)
    shipper.start()
    assert await shipper.drain(5)
    assert max(ledger.batches) <= 20
    assert sum(ledger.batches) == 50


async def test_draining_an_empty_outbox_ends_at_once(outbox):
    shipper = shipper_of(outbox, FaultyLedger(), linger_s=60)
    shipper.start()
    await asyncio.sleep(0.01)
    async with asyncio.timeout(1):
        assert await shipper.drain(30)


async def test_draining_does_not_linger(outbox):
    shipper = shipper_of(outbox, FaultyLedger(), linger_s=60)
    shipper.start()
    await committed(outbox, 1)
    async with asyncio.timeout(1):
        assert await shipper.drain(30)
    assert outbox.depth == 0


@pytest.mark.parametrize("cancel_after_s", [0.0, 0.002, 0.005, 0.01, 0.02])
async def test_stopped_anywhere_it_loses_nothing(outbox, ledger, cancel_after_s):
    calls = await committed(outbox, 300)
    shipper = shipper_of(outbox, ledger, batch_max=50)
    shipper.start()
    await asyncio.sleep(cancel_after_s)
    shipper._task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await shipper._task
    again = shipper_of(outbox, ledger)
    again.start()
    assert await again.drain(10)
    assert (await ledger.usage("acc_a", "2026-11")).calls == len(calls)
