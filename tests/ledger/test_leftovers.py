"""Fewer workers than before: what the others left is shipped all the same."""

from proxy.ledger.leftovers import ship_leftovers
from proxy.ledger.location import Location
from proxy.ledger.outbox import Outbox
from tests.ledger.support import entry


async def test_the_outboxes_of_workers_past_are_emptied_and_those_in_use_left_alone(tmp_path, ledger):
    location = Location("sqlite:///unused", tmp_path)
    for worker in range(4):
        outbox = Outbox(location.outbox(worker))
        await outbox.commit(entry(f"call-{worker}"))
        await outbox.close()
    held = Outbox(location.outbox(3))
    assert await ship_leftovers(location, 1, ledger) == 2
    assert [kept.call_id for kept in await ledger.entries_of("acc_a", "2026-11")] == ["call-1", "call-2"]
    assert await ship_leftovers(location, 1, ledger) == 0
    await held.close()
