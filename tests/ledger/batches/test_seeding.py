"""A limiter that begins anew while a line has been billed and not been told of: the line counts once."""

from proxy.core.account_state import AccountState
from proxy.core.limits import Limit, LimitKind, Measure
from proxy.ledger.batches.ends import Ends
from proxy.ledger.batches.leasing import Leases
from proxy.ledger.store import Ledger
from tests.ledger.batches.support import (
    ANY,
    DAY_MS,
    add_account,
    add_batch,
    block,
    entries_for,
    line_end,
    line_entry,
)
from tests.ledger.support import NOON_MS, entry

MONTH = Limit("month", LimitKind.BUDGET, 10**15, counts=Measure.EUROS, period="2026-11", ends_ms=NOON_MS + DAY_MS)
LINE_NANO = 363_000


async def begin(database, leases, name):
    batch = await add_batch(database, await add_account(database, name))
    await leases.claim_blocks("one", [], ANY, 99, NOON_MS, NOON_MS + 30_000)
    return batch


async def test_a_seed_names_the_lines_that_no_limiter_may_know_of_however_long_ago_they_ended(database):
    ledger, leases = Ledger(database, clock_ms=lambda: NOON_MS + DAY_MS), Leases(database)
    ends = Ends(database, ledger)
    batch = await begin(database, leases, "a")
    other = await begin(database, leases, "b")
    await ends.commit("one", block(batch, 0), [line_end(batch, 0, "s1")], entries_for(batch, [0]))
    await ends.settled(block(batch, 0), "s1")
    await ends.commit("one", block(batch, 0), [line_end(batch, 1, "s2")], entries_for(batch, [1]))
    await ends.commit("one", block(batch, 1), [line_end(batch, 2, "s3")], entries_for(batch, [2]))
    await ends.commit("one", block(other, 0), [line_end(other, 0, "s1")], entries_for(other, [0]))
    calls = (await ledger.seed(batch.account_id, [MONTH])).calls
    assert set(calls) == {line_entry(batch, line).call_id for line in (1, 2)}
    assert len(calls) == 2


async def test_a_line_that_was_billed_before_the_limiter_began_is_not_counted_again(database):
    ledger, leases = Ledger(database, clock_ms=lambda: NOON_MS + DAY_MS), Leases(database)
    batch = await begin(database, leases, "a")
    await Ends(database, ledger).commit("one", block(batch, 0), [line_end(batch, 0)], entries_for(batch, [0]))
    seed = await ledger.seed(batch.account_id, [MONTH])
    state = AccountState(NOON_MS + DAY_MS, 60_000)
    state.seed([MONTH], seed.spent, seed.windows, NOON_MS + DAY_MS)
    state.seed_calls(seed.calls)
    for call in (line_entry(batch, 0), line_entry(batch, 1)):
        state.record(call.call_id, [MONTH], [LINE_NANO], NOON_MS + DAY_MS)
    assert state.peek([MONTH], NOON_MS + DAY_MS).states[0].used == 2 * LINE_NANO


async def test_very_many_lines_leave_the_calls_of_the_last_minutes_their_names(database):
    ledger = Ledger(database, clock_ms=lambda: NOON_MS)
    batch = await add_batch(database, await add_account(database, "a"))
    call = entry(account_id=batch.account_id, settled_ms=NOON_MS - 2000)
    lines = entries_for(batch, range(4200), settled_ms=NOON_MS - 1000)
    await ledger.insert([call, *lines.values()])
    assert (await ledger.seed(batch.account_id, [MONTH])).calls == (call.call_id,)
