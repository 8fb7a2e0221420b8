"""Budgets in a real Redis, held against entries in a real ledger."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.core.accounts import Account, Key
from proxy.core.entries import Entry
from proxy.core.levels import Overridable
from proxy.core.limits import Limit
from proxy.core.money import PICO_PER_EURO, nano_from_pico_up
from proxy.core.usage import UsageType
from proxy.ledger import waiting
from proxy.ledger.accounts import Accounts
from proxy.ledger.batches.ends import Ends
from proxy.ledger.batches.leasing import Leases
from proxy.ledger.database import Database
from proxy.ledger.keys import Keys
from proxy.ledger.outbox import Outbox
from proxy.ledger.store import Ledger
from proxy.limiter.redis import RedisLimiter
from proxy.reconciling.findings import Finding, Source, Status
from proxy.reconciling.limits import budgets_of
from proxy.reconciling.reconciling import Reconciler
from tests.ledger.batches.support import ANY, add_batch, block, line_end, line_entry
from tests.ledger.support import NOON_MS, entry
from tests.reconciling.support import asked, drifts, reconciler, repaired, settings_of

LIMITS = asked(Source.LIMITER)
COST = ((UsageType.OUTPUT, 1000),)
COST_PICO = 8_000_000 * 1000
FINE = ((UsageType.INPUT, 1),)


class Served:
    """One account, its keys, and calls that go to the limiter and to the ledger as the proxy would have it."""

    def __init__(self, ledger: Ledger, limiter: RedisLimiter, account: Account, keys: list[Key], folder: Path) -> None:
        self.ledger = ledger
        self.limiter = limiter
        self.account = account
        self.keys = keys
        self.folder = folder

    def limits(self, key: Key | None = None) -> tuple[Limit, ...]:
        """The budgets that a call with a key must fit into."""
        budgets, _ = budgets_of([self.account], self.keys, settings_of(self.folder).tiers, NOON_MS)
        mine = key or self.keys[0]
        return tuple(each.limit for each in budgets if each.key_ids is None or mine.id in each.key_ids)

    def entry(self, key: Key | None = None, used=COST, **changes: object) -> Entry:
        mine = key or self.keys[0]
        return entry(account_id=self.account.id, key_id=mine.id, used=used, **changes)

    async def admit(self, made: Entry, key: Key | None = None) -> None:
        need = nano_from_pico_up(made.charge.total_pico) * 2
        limits = self.limits(key)
        admission = await self.limiter.admit(self.account.id, made.call_id, limits, [need] * len(limits))
        assert admission.admitted

    async def settle(self, made: Entry, key: Key | None = None) -> None:
        limits = self.limits(key)
        amounts = [nano_from_pico_up(made.charge.total_pico)] * len(limits)
        await self.limiter.settle(self.account.id, made.call_id, limits, amounts)

    async def call(self, key: Key | None = None, used=COST) -> None:
        made = self.entry(key, used)
        await self.admit(made, key)
        await self.ledger.insert([made])
        await self.settle(made, key)

    async def spent_nano(self, place: int = 0) -> int:
        (state,) = await self.limiter.look(self.account.id, (self.limits()[place],))
        assert state is not None
        return state.used


@pytest.fixture
async def served(database: Database, redis_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    account = await Accounts(database).create("acme", "tier1", credit_pico=50 * PICO_PER_EURO, prepaid_only=True)
    cap = {Overridable.MONTHLY_LIMIT: 10 * PICO_PER_EURO}
    keys = [
        (await Keys(database).create("acme")).key,
        (await Keys(database).create("acme", limits=cap)).key,
    ]
    ledger = Ledger(database, clock_ms=lambda: NOON_MS)
    limiter = RedisLimiter(redis_url, 60_000, 5000, ledger.seed)
    yield Served(ledger, limiter, account, keys, tmp_path)
    await limiter.close()


@pytest.fixture
async def desk(database: Database, served: Served, tmp_path: Path) -> AsyncIterator[Reconciler]:
    async with reconciler(database, tmp_path, store=served.limiter) as made:
        yield made


async def compare(desk: Reconciler) -> Finding:
    (finding,) = await desk.compare(LIMITS)
    return finding


async def test_a_limiter_that_knows_nothing_is_said_to_learn_it_and_does_not_learn_it_from_the_question(
    desk: Reconciler, served: Served
):
    await served.ledger.insert([served.entry()])

    finding = await compare(desk)

    assert finding.status is Status.AGREES
    assert any("3 budgets are not known to the limiter" in note for note in finding.notes)
    assert await served.limiter.look(served.account.id, served.limits()) == (None, None)


async def test_budget_key_and_credit_agree_to_the_nano_euro(desk: Reconciler, served: Served):
    for key in (*served.keys, served.keys[0]):
        await served.call(key)
        await served.call(key, FINE)

    finding = await compare(desk)

    assert (finding.status, finding.rows, finding.unclear) == (Status.AGREES, 3, ())


async def test_a_budget_that_was_changed_by_hand_is_named_and_put_right(desk: Reconciler, served: Served):
    for key in served.keys:
        await served.call(key)
    await served.limiter.correct(served.account.id, served.limits()[0], 123)

    assert drifts(await compare(desk)) == [("budget_month", "", "euros", 123_000)]
    (done,) = await repaired(desk, LIMITS)
    assert (done.account, done.what) == ("acme", "budget_month: -0.000000123 € spent")
    assert (await compare(desk)).status is Status.AGREES
    assert await repaired(desk, LIMITS) == []
    assert await served.spent_nano() == 2 * nano_from_pico_up(COST_PICO)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_every_kind_of_budget_is_raised_to_what_the_entries_say(desk: Reconciler, served: Served, place: int):
    await served.call(served.keys[1])
    budget = served.limits(served.keys[1])[place]
    await served.limiter.correct(served.account.id, budget, -5_000)

    (drift,) = drifts(await compare(desk))
    assert (drift[0], drift[3]) == (budget.stored_name, -5_000_000)
    assert len(await repaired(desk, LIMITS)) == 1
    assert (await compare(desk)).status is Status.AGREES


async def test_a_call_that_is_committed_and_not_settled_yet_is_no_drift(desk: Reconciler, served: Served):
    """Nor is one that only waits in the outbox: the hold covers it."""
    await served.call()
    shipped, waiting = served.entry(), served.entry()
    for made in (shipped, waiting):
        await served.admit(made)
    await served.ledger.insert([shipped])
    outbox = Outbox(served.folder / "outbox-0.db")
    await outbox.commit(waiting)

    assert (await compare(desk)).status is Status.AGREES
    assert await repaired(desk, LIMITS) == []

    await served.settle(shipped)
    await served.settle(waiting)
    assert (await compare(desk)).status is Status.AGREES
    await outbox.close()


async def test_a_call_that_was_settled_and_is_nowhere_else_is_drift(desk: Reconciler, served: Served):
    lost = served.entry()
    await served.admit(lost)
    await served.settle(lost)

    assert ("budget_month", "", "euros", COST_PICO) in drifts(await compare(desk))


async def test_what_a_call_in_flight_holds_stays_held_when_a_budget_is_put_right(desk: Reconciler, served: Served):
    await served.call()
    flying = served.entry()
    await served.admit(flying)
    hold = 2 * nano_from_pico_up(COST_PICO)
    budget = served.limits()[0]
    await served.limiter.correct(served.account.id, budget, 10 * hold)

    assert len(await repaired(desk, LIMITS)) == 1

    (state,) = await served.limiter.look(served.account.id, (budget,))
    assert state is not None
    assert (state.used, state.held) == (nano_from_pico_up(COST_PICO), hold)
    await served.ledger.insert([flying])
    await served.settle(flying)
    assert (await compare(desk)).status is Status.AGREES
    assert await served.spent_nano() == 2 * nano_from_pico_up(COST_PICO)


async def test_a_budget_that_lacks_less_than_calls_in_flight_hold_is_left_alone(desk: Reconciler, served: Served):
    """Whether the calls have been committed already cannot be told: the bound is never crossed on a guess."""
    await served.call()
    await served.admit(served.entry())
    await served.limiter.correct(served.account.id, served.limits()[0], -1000)

    assert (await compare(desk)).status is Status.AGREES
    assert await repaired(desk, LIMITS) == []


async def test_lines_of_a_batch_whose_process_died_are_entries_before_the_limiter_is_told(
    desk: Reconciler, served: Served, database: Database
):
    """Their holds have expired with nothing. Put right now, the budget would count them twice: they will be told."""
    await served.call()
    batch = await add_batch(database, served.account.id, key_id=served.keys[0].id)
    await Leases(database).claim_blocks("one", [], ANY, 99, NOON_MS, NOON_MS + 30_000)
    ends = Ends(database, served.ledger)
    told, untold = line_entry(batch, 0, key_id=batch.key_id), line_entry(batch, 1, key_id=batch.key_id)
    await ends.commit("one", block(batch, 0), [line_end(batch, 0, "s1")], {told.call_id: told})
    assert (await compare(desk)).status is Status.AGREES
    await served.admit(told)
    await served.settle(told)
    await ends.settled(block(batch, 0), "s1")
    await ends.commit("one", block(batch, 0), [line_end(batch, 1, "s2")], {untold.call_id: untold})

    assert (await compare(desk)).status is Status.AGREES
    assert await repaired(desk, LIMITS) == []
    nano = nano_from_pico_up(told.charge.total_pico)
    await served.limiter.correct(served.account.id, served.limits()[0], -1)
    assert [drift[3] for drift in drifts(await compare(desk))] == [-1000]
    await served.limiter.correct(served.account.id, served.limits()[0], 1)
    await served.limiter.record(served.account.id, untold.call_id, served.limits(), [nano] * len(served.limits()))
    await ends.settled(block(batch, 0), "s2")
    assert (await compare(desk)).status is Status.AGREES
    assert await served.spent_nano() == nano_from_pico_up(COST_PICO) + 2 * nano


async def test_a_stream_whose_process_died_is_charged_before_it_is_an_entry(desk: Reconciler, served: Served):
    """Its hold has expired with what it had noted; the checkpoint becomes an entry with the next start."""
    noted = served.entry()
    outbox = Outbox(served.folder / "outbox-0.db")
    outbox.checkpoint(noted)
    await outbox.close()
    await served.admit(noted)
    await served.settle(noted)

    assert (await compare(desk)).status is Status.AGREES


async def test_calls_that_go_on_meanwhile_are_no_drift(desk: Reconciler, served: Served):
    async def go_on() -> None:
        for _ in range(60):
            await served.call(served.keys[1])

    calls = asyncio.gather(*(go_on() for _ in range(3)))
    looks = 0
    while not calls.done():
        assert (await compare(desk)).status is Status.AGREES
        looks += 1
    await calls
    assert looks > 1
    assert await repaired(desk, LIMITS) == []


async def test_a_month_that_is_over_is_not_compared(desk: Reconciler):
    (finding,) = await desk.compare(asked(Source.LIMITER, month="2026-10"))

    assert finding.status is Status.NOT_COMPARED


async def test_a_limiter_in_the_memory_of_processes_is_not_called_sound(database: Database, tmp_path: Path):
    async with reconciler(database, tmp_path) as desk:
        (finding,) = await desk.compare(LIMITS)

    assert finding.status is Status.NOT_COMPARED
    assert "not reachable" in finding.notes[0]


async def test_a_redis_that_is_away_is_not_called_sound(database: Database, tmp_path: Path):
    await Accounts(database).create("acme", "tier1")
    limiter = RedisLimiter("redis://127.0.0.1:1/0", 60_000, 200, Ledger(database).seed)
    async with reconciler(database, tmp_path, store=limiter) as desk:
        (finding,) = await desk.compare(LIMITS)
    await limiter.close()

    assert finding.status is Status.NOT_COMPARED
    assert "not reachable" in finding.notes[0]


async def test_a_limiter_that_cannot_be_compared_is_left_alone(database: Database, tmp_path: Path):
    """Rollups are put right all the same, and the comparison that follows says why."""
    await Accounts(database).create("acme", "tier1")
    limiter = RedisLimiter("redis://127.0.0.1:1/0", 60_000, 200, Ledger(database).seed)
    async with reconciler(database, tmp_path, store=limiter) as desk:
        assert await repaired(desk, LIMITS) == []
    await limiter.close()


async def test_a_ledger_that_is_far_behind_is_not_compared(
    desk: Reconciler, served: Served, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(waiting, "WAITING_MAX", 1)
    outbox = Outbox(served.folder / "outbox-0.db")
    await asyncio.gather(*(outbox.commit(served.entry()) for _ in range(3)))

    finding = await compare(desk)

    assert finding.status is Status.NOT_COMPARED
    assert "the ledger is behind" in finding.notes[0]
    assert await repaired(desk, LIMITS) == []
    await outbox.close()


async def test_what_the_ledger_can_never_take_was_spent_all_the_same(desk: Reconciler, served: Served):
    refused = served.entry()
    outbox = Outbox(served.folder / "outbox-0.db")
    await outbox.commit(refused)
    await outbox.remove(await outbox.oldest(1), [(refused, "no such month")])
    await served.admit(refused)
    await served.settle(refused)

    finding = await compare(desk)

    assert finding.status is Status.AGREES
    assert any("1 entries were set aside" in note for note in finding.notes)
    await outbox.close()
