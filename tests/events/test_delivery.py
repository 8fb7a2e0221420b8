"""A receiver hears of each event until it says that it has it: signed, under one id, from one replica at a time."""

import asyncio
import json
import socket
from collections import Counter

import msgspec
import pytest

from proxy.core.events import Event, EventKind
from proxy.core.webhooks import PAUSES_S, Webhook
from proxy.events.delivery import Delivery, Result
from proxy.events.watcher import Watcher
from proxy.events.work import LEASE_MS, EventWork
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerUnavailableError
from proxy.ledger.events import Events
from tests.events.receiver import KEY, receiving
from tests.ledger.support import NOON_MS


class Replica:
    """What one process does about events."""

    def __init__(self, database, clock, url, name="one", *, timeout_s=5.0, give_up_after_ms=3_600_000):
        self.clock = clock
        self.events = Events(database)
        self.delivery = Delivery(self.events, clock)
        self.webhook = Webhook(url, KEY, timeout_s, give_up_after_ms) if url is not None else None
        self.failures = []
        self.work = EventWork(
            self.events,
            Watcher(database, dict, dict, clock),
            self.delivery,
            lambda: self.webhook,
            name,
            clock,
            lambda where, failure: self.failures.append((where, failure)),
            tick_s=0.01,
        )

    async def happen(self, *subjects):
        found = [Event("acc_a", EventKind.BUDGET_REACHED, subject, 50, {"account": subject}) for subject in subjects]
        return await self.events.record(found, self.clock())

    async def kept(self):
        async with self.events._database.read() as connection:
            from proxy.ledger.schema import events

            rows = await connection.execute(events.select().order_by(events.c.subject))
            return [dict(row) for row in rows.mappings()]


@pytest.fixture
async def replica(database, clock, receiver):
    made = Replica(database, clock, receiver.url)
    yield made
    await made.delivery.close()
    assert made.failures == []


async def test_an_event_is_sent_signed_and_then_never_again(replica, receiver):
    await replica.happen("2026-11")
    assert await replica.work.turn()
    assert await replica.work.turn()
    ((message_id, message),) = receiver.messages
    (kept,) = await replica.kept()
    assert (kept["id"], kept["acknowledged_ms"], kept["next_attempt_ms"], kept["attempts"]) == (
        message_id,
        NOON_MS,
        None,
        1,
    )
    assert message == {"type": "budget.reached", "timestamp": "2026-11-24T11:00:00Z", "data": {"account": "2026-11"}}
    assert receiver.attempts[0][1] == NOON_MS // 1000
    assert replica.delivery.results == Counter(acknowledged=1)


async def test_a_receiver_that_fails_is_tried_again_with_growing_pauses_and_the_same_message(replica, receiver, clock):
    receiver.statuses = [500, 429, 302, 204]
    await replica.happen("2026-11")
    await replica.work.turn()
    for pause_s in PAUSES_S[:3]:
        clock.now_ms += (pause_s + 5) * 1000 - 1
        await replica.work.turn()
        sent = len(receiver.attempts)
        clock.now_ms += 1
        await replica.work.turn()
        assert len(receiver.attempts) == sent + 1
    assert len(receiver.attempts) == 4
    assert len({(message_id, body) for message_id, _, body in receiver.attempts}) == 1
    timestamps = [timestamp for _, timestamp, _ in receiver.attempts]
    assert timestamps == sorted(set(timestamps))
    assert len(receiver.messages) == 1
    assert replica.delivery.results == Counter(refused=3, acknowledged=1)


async def test_a_redirection_is_not_followed(replica, receiver):
    async with receiving() as elsewhere:
        receiver.statuses, receiver.headers = [307], {"location": elsewhere.url}
        await replica.happen("2026-11")
        await replica.work.turn()
        assert elsewhere.attempts == []
    assert replica.delivery.results == Counter(refused=1)


async def test_nobody_there_is_no_error_and_ends_the_round(database, clock):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        replica = Replica(database, clock, url)
        await replica.happen("a", "b")
        await replica.work.turn()
    assert [kept["attempts"] for kept in await replica.kept()] == [1, 0]
    assert replica.delivery.results == Counter(unreachable=1)
    await replica.delivery.close()


async def test_a_receiver_that_does_not_answer_in_time_is_left(database, clock, receiver):
    replica = Replica(database, clock, receiver.url, timeout_s=0.1)
    receiver.statuses = [None]
    await replica.happen("2026-11")
    await replica.work.turn()
    assert replica.delivery.results == Counter(unreachable=1)
    clock.now_ms += 10_000
    await replica.work.turn()
    assert len(receiver.messages) == 1
    await replica.delivery.close()


async def test_an_event_that_has_become_too_old_is_given_up(replica, receiver, clock):
    receiver.statuses = [500] * 3
    await replica.happen("2026-11")
    await replica.work.turn()
    clock.now_ms += 3_600_000 - 1
    await replica.work.turn()
    clock.now_ms += 60_000
    await replica.work.turn()
    (kept,) = await replica.kept()
    assert (kept["attempts"], kept["next_attempt_ms"], kept["acknowledged_ms"]) == (3, None, None)
    clock.now_ms += 86_400_000
    await replica.work.turn()
    assert len(receiver.attempts) == 3
    assert replica.delivery.results == Counter(refused=3, given_up=1)


async def test_a_receiver_that_is_gone_is_left_alone_with_that_event(replica, receiver, clock):
    receiver.statuses = [410]
    await replica.happen("2026-11")
    await replica.work.turn()
    clock.now_ms += 86_400_000
    await replica.work.turn()
    assert len(receiver.attempts) == 1
    assert replica.delivery.results == Counter(refused=1, given_up=1)


async def test_a_process_that_dies_between_recording_and_sending_leaves_it_to_another(database, clock, receiver):
    first = Replica(database, clock, receiver.url, "first")
    await first.happen("2026-11")
    assert await first.events.lease.take("first", clock(), clock() + LEASE_MS)
    second = Replica(database, clock, receiver.url, "second")
    assert not await second.work.turn()
    clock.now_ms += LEASE_MS
    assert await second.work.turn()
    assert len(receiver.messages) == 1
    await second.delivery.close()


async def test_a_process_that_dies_between_claiming_and_sending_leaves_it_to_be_tried_again(
    database, clock, receiver, replica
):
    await replica.happen("2026-11")
    (event,) = await replica.events.due(clock(), 10)
    assert await replica.events.claim(event, clock() + 15_000)  # and here it dies
    other = Replica(database, clock, receiver.url, "other")
    await other.work.turn()
    assert receiver.attempts == []
    clock.now_ms += 15_000
    await other.work.turn()
    assert [message_id for message_id, _ in receiver.messages] == [event.id]
    await other.delivery.close()


async def test_a_process_that_dies_before_it_notes_the_answer_sends_the_same_message_again(replica, receiver, clock):
    await replica.happen("2026-11")

    async def die(*_):
        raise LedgerUnavailableError("killed")

    replica.events.acknowledge, acknowledge = die, replica.events.acknowledge
    with pytest.raises(LedgerUnavailableError):
        await replica.work.turn()
    replica.events.acknowledge = acknowledge
    clock.now_ms += 60_000
    await replica.work.turn()
    first, second = receiver.messages
    assert first == second


async def test_of_many_replicas_one_at_a_time_works_and_each_event_is_sent_once(
    database, database_url, clock, receiver
):
    databases = [database, Database.open(database_url), Database.open(database_url)]
    replicas = [Replica(each, clock, receiver.url, f"replica {n}") for n, each in enumerate(databases)]
    await replicas[0].happen(*(f"subject {number:02d}" for number in range(30)))
    turns = await asyncio.gather(*(each.work.turn() for each in replicas))
    assert sorted(turns) == [False, False, True]
    assert len(receiver.messages) == 30
    # Even if all believe to hold the lease:
    await replicas[0].happen(*(f"other {number:02d}" for number in range(30)))
    await asyncio.gather(*(each.delivery.round(each.webhook, 30) for each in replicas))
    assert len(receiver.messages) == 60
    assert len({message_id for message_id, _ in receiver.messages}) == 60
    assert sum(each.delivery.results[Result.ACKNOWLEDGED] for each in replicas) == 60
    for each, opened in zip(replicas, databases, strict=True):
        await each.delivery.close()
        if opened is not database:
            await opened.close()


async def test_a_lease_is_renewed_by_its_holder_and_handed_over_when_it_stops(database, clock):
    events = Events(database)
    assert await events.lease.take("a", clock(), clock() + 100)
    assert not await events.lease.take("b", clock(), clock() + 100)
    clock.now_ms += 99
    assert await events.lease.take("a", clock(), clock() + 100)
    clock.now_ms += 99
    assert not await events.lease.take("b", clock(), clock() + 100)
    await events.lease.drop("b")
    assert not await events.lease.take("b", clock(), clock() + 100)
    await events.lease.drop("a")
    assert await events.lease.take("b", clock(), clock() + 100)


async def test_without_a_receiver_events_are_kept_for_one_to_come(database, clock, receiver):
    replica = Replica(database, clock, None)
    await replica.happen("2026-11")
    await replica.work.turn()
    assert receiver.attempts == []
    replica.webhook = Webhook(receiver.url, KEY, 5.0, 3_600_000)
    await replica.work.turn()
    assert len(receiver.messages) == 1
    await replica.delivery.close()


async def test_the_loop_outlives_a_ledger_that_is_away_and_what_should_not_happen(replica, receiver):
    await replica.happen("2026-11")
    turn, failures = replica.work.turn, [LedgerUnavailableError("away")] * 2 + [RuntimeError("a bug")]

    async def failing():
        if failures:
            raise failures.pop(0)
        return await turn()

    replica.work.turn = failing
    running = asyncio.create_task(replica.work.run())
    async with asyncio.timeout(10):
        while not receiver.messages:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [(where, str(failure)) for where, failure in replica.failures] == [("events", "a bug")]
    replica.failures.clear()


async def test_the_latest_events_are_listed_with_their_accounts_names(database, clock):
    account = await Accounts(database, clock).create("acme", "tier1")
    events = Events(database)
    found = [Event(account.id, EventKind.BUDGET_REACHED, "2026-11", each, {}) for each in (50, 80)]
    await events.record(found, clock())
    clock.now_ms += 1
    await events.record([msgspec.structs.replace(found[0], threshold=100)], clock())
    listed = await events.all()
    assert [(name, event.threshold) for name, event in listed] == [("acme", 100), ("acme", 80), ("acme", 50)]
    assert json.loads(listed[0][1].body)["type"] == "budget.reached"
    assert await events.all("acc_other") == []
