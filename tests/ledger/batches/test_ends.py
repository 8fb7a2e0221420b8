"""A line ends once, with its entry and its count, whoever runs it and whatever dies."""

import asyncio
import contextlib
import itertools

import msgspec
import pytest

from proxy.core.batches.objects import BatchFile, BatchStatus, LineMistake, LineStatus, Purpose
from proxy.core.batches.usage import BatchUsage
from proxy.core.usage import UsageType
from proxy.ledger.batch_schema import batch_blocks, batch_files, batch_lines, batches
from proxy.ledger.batches.ends import Ends, LeaseLostError
from proxy.ledger.batches.leasing import Leases
from proxy.ledger.batches.rows import file_of
from proxy.ledger.errors import LedgerRefusedError
from proxy.ledger.invoice_schema import chain_heads
from tests.ledger.batches.support import (
    ANY,
    add_account,
    add_batch,
    block,
    entries_for,
    kept,
    line_end,
    line_entry,
    set_status,
)
from tests.ledger.support import NOON_MS, rows_of

END_MS = NOON_MS + 30_000
LINE_PICO = 363_000_000


@pytest.fixture
def ends(database, ledger) -> Ends:
    return Ends(database, ledger)


@pytest.fixture
def leases(database) -> Leases:
    return Leases(database)


async def begin(database, leases, holder="one", **options):
    batch = await add_batch(database, await add_account(database, "a"), **options)
    await leases.claim_blocks(holder, [], ANY, 99, NOON_MS, END_MS)
    return batch


async def test_lines_end_with_their_entries_and_are_counted(database, leases, ends, ledger):
    batch = await begin(database, leases)
    done, failed = line_end(batch, 2), line_end(batch, 3, status=LineStatus.FAILED)
    assert await ends.commit("one", block(batch, 1), [done, failed], entries_for(batch, [2])) == {2, 3}
    assert await ledger.entries_of(batch.account_id, "2026-11") == [line_entry(batch, 2)]
    assert await ends.ended_lines(block(batch, 1)) == {2, 3}
    assert await ends.ended_lines(block(batch, 0)) == frozenset()
    now = await kept(database, batch)
    assert (now.completed, now.failed, now.status) == (1, 1, BatchStatus.IN_PROGRESS)
    assert await ends.page_of_lines(batch.id, -1) == [done, failed]
    assert await ends.page_of_lines(batch.id, 2) == [failed]


async def test_a_line_that_ends_twice_has_one_result_and_one_entry(database, leases, ends, ledger):
    batch = await begin(database, leases)
    first, second = line_end(batch, 0, "s1"), line_end(batch, 0, "s2")
    assert await ends.commit("one", block(batch, 0), [first], entries_for(batch, [0])) == {0}
    dearer = entries_for(batch, [0], charge=line_entry(batch, 0, used=[]).charge)
    assert await ends.commit("one", block(batch, 0), [second], dearer) == frozenset()
    assert await ledger.entries_of(batch.account_id, "2026-11") == [line_entry(batch, 0)]
    assert await ends.page_of_lines(batch.id, -1) == [first]
    assert (await kept(database, batch)).completed == 1
    both = [line_end(batch, 0, "s3"), line_end(batch, 1, "s3")]
    assert await ends.commit("one", block(batch, 0), both, entries_for(batch, [0, 1])) == {1}
    assert (await kept(database, batch)).completed == 2
    assert (await ledger.usage(batch.account_id, "2026-11")).calls == 2


async def test_two_workers_that_end_the_same_line_at_once_end_it_once(database, leases, ends, ledger):
    batch = await begin(database, leases)
    commits = [
        ends.commit("one", block(batch, 0), [line_end(batch, 0, name), line_end(batch, 1, name)], entries)
        for name, entries in (("s1", entries_for(batch, [0, 1])), ("s2", entries_for(batch, [0, 1])))
    ]
    ended = await asyncio.gather(*commits)
    assert sorted(ended, key=len) == [frozenset(), {0, 1}]
    assert (await ledger.usage(batch.account_id, "2026-11")).cost_pico == 2 * LINE_PICO
    assert (await kept(database, batch)).completed == 2


async def test_who_has_lost_its_block_ends_nothing(database, leases, ends, ledger):
    batch = await begin(database, leases)
    await leases.claim_blocks("two", [], ANY, 99, END_MS, END_MS + 30_000)
    with pytest.raises(LeaseLostError):
        await ends.commit("one", block(batch, 0), [line_end(batch, 0)], entries_for(batch, [0]))
    with pytest.raises(LeaseLostError):
        await ends.finish_block("one", block(batch, 0), NOON_MS)
    assert await rows_of(database, batch_lines) == []
    assert await ledger.entries_of(batch.account_id, "2026-11") == []
    assert await ends.commit("two", block(batch, 0), [line_end(batch, 0)], entries_for(batch, [0])) == {0}


async def test_what_breaks_off_in_the_middle_has_done_nothing(database, leases, ends, ledger):
    batch = await begin(database, leases)
    refused = entries_for(batch, [1], charge=msgspec.structs.replace(line_entry(batch, 1).charge, total_pico=2**63))
    with pytest.raises(LedgerRefusedError):
        await ends.commit(
            "one", block(batch, 0), [line_end(batch, 0), line_end(batch, 1)], entries_for(batch, [0]) | refused
        )
    assert await rows_of(database, batch_lines) == []
    assert await ledger.entries_of(batch.account_id, "2026-11") == []
    assert (await kept(database, batch)).completed == 0
    assert [row for row in await rows_of(database, batch_blocks) if row["unsettled"]] == []


async def test_whoever_takes_over_is_told_which_segment_may_not_be_settled(database, leases, ends):
    batch = await begin(database, leases, blocks=1, lines=4)
    whole = block(batch, 0, 4)
    await ends.commit("one", whole, [line_end(batch, 0, "s1")], entries_for(batch, [0]))
    await ends.settled(whole, "s1")
    await ends.commit("one", whole, [line_end(batch, 1, "s2"), line_end(batch, 2, "s2")], entries_for(batch, [1, 2]))
    await ends.settled(whole, "s1")  # late: it is not that one
    (taken,) = await leases.claim_blocks("two", [], ANY, 99, END_MS, END_MS + 30_000)
    assert taken.unsettled == "s2"
    assert await ends.entries_in(batch, "s2") == [line_entry(batch, 1), line_entry(batch, 2)]
    assert await ends.unsettled(batch.id) == [(whole, "s2")]
    await ends.settled(whole, "s2")
    assert await ends.unsettled(batch.id) == []


async def test_the_last_block_makes_the_batch_finalizing(database, leases, ends):
    batch = await begin(database, leases, blocks=2)
    assert not await ends.finish_block("one", block(batch, 0), NOON_MS)
    assert (await kept(database, batch)).status is BatchStatus.IN_PROGRESS
    assert await ends.finish_block("one", block(batch, 1), NOON_MS + 5)
    now = await kept(database, batch)
    assert (now.status, now.stamps) == (BatchStatus.FINALIZING, {BatchStatus.FINALIZING: NOON_MS + 5})


async def test_two_that_finish_the_last_two_blocks_at_once_agree_that_it_is_over(database, leases, ends):
    for _ in range(5):
        batch = await add_batch(database, await add_account(database, f"acc{_}"), blocks=2)
        await leases.claim_blocks("one", [], ANY, 99, NOON_MS, END_MS)
        both = [ends.finish_block("one", block(batch, number), NOON_MS) for number in (0, 1)]
        assert sorted(await asyncio.gather(*both)) == [False, True]
        assert (await kept(database, batch)).status is BatchStatus.FINALIZING


async def test_a_batch_that_is_being_cancelled_stays_so(database, leases, ends):
    batch = await begin(database, leases, blocks=1)
    await set_status(database, batch, BatchStatus.CANCELLING)
    assert await ends.finish_block("one", block(batch, 0), NOON_MS)
    assert (await kept(database, batch)).status is BatchStatus.CANCELLING
    assert not await ends.stop(batch.id, LineMistake("x", "y"), NOON_MS)


async def test_a_batch_is_stopped_once_and_says_why(database, leases, ends):
    batch = await begin(database, leases)
    assert await ends.stop(batch.id, LineMistake("insufficient_budget", "no room"), NOON_MS)
    assert not await ends.stop(batch.id, LineMistake("other", "no"), NOON_MS + 1)
    now = await kept(database, batch)
    assert (now.status, now.errors) == (BatchStatus.FINALIZING, (LineMistake("insufficient_budget", "no room"),))
    assert await leases.claim_blocks("two", [], ANY, 99, END_MS, END_MS + 1) == []


async def test_a_batch_ends_with_its_files_once_and_is_cleared(database, leases, ends):
    batch = await begin(database, leases, blocks=1)
    await ends.commit("one", block(batch, 0), [line_end(batch, 0), line_end(batch, 1)], entries_for(batch, [0, 1]))
    await ends.finish_block("one", block(batch, 0), NOON_MS)
    assert (await leases.claim_to_finish("one", NOON_MS, END_MS)).id == batch.id
    file = BatchFile(
        "file-out", batch.account_id, Purpose.BATCH_OUTPUT, "out.jsonl", 5, "0" * 64, "x/out", NOON_MS, None
    )
    named = msgspec.structs.replace(batch, output_file_id=file.id)
    with pytest.raises(LeaseLostError):
        await ends.finish_batch("two", named, BatchStatus.COMPLETED, [file], (2, 0), NOON_MS + 1)
    await ends.finish_batch("one", named, BatchStatus.COMPLETED, [file], (2, 0), NOON_MS + 1)
    now = await kept(database, batch)
    assert (now.status, now.output_file_id, now.error_file_id) == (BatchStatus.COMPLETED, file.id, None)
    assert now.stamps == {BatchStatus.FINALIZING: NOON_MS, BatchStatus.COMPLETED: NOON_MS + 1}
    assert [file_of(row) for row in await rows_of(database, batch_files)] == [file]
    assert await leases.claim_to_finish("two", END_MS, END_MS + 1) is None

    assert await leases.claim_to_clear("two", NOON_MS, END_MS) is None, "who finished it is at it"
    assert (await leases.claim_to_clear("two", END_MS, END_MS + 1)).id == batch.id
    await ends.clear("one", batch.id)
    assert len(await rows_of(database, batch_lines)) == 2
    await ends.clear("two", batch.id)
    assert await rows_of(database, batch_lines) == await rows_of(database, batch_blocks) == []
    assert await leases.claim_to_clear("two", END_MS + 1, END_MS + 2) is None
    assert [row["holder"] for row in await rows_of(database, batches)] == [None]


class Worker:
    """A worker as a list of steps: each does one thing that could be its last."""

    def __init__(self, name, leases, ends, batch, clock):
        self.name, self._leases, self._ends, self._batch, self._clock = name, leases, ends, batch, clock
        self._group = None

    async def step(self, what):
        if what == "claim":
            until_ms = self._clock.now_ms + 30_000
            await self._leases.claim_blocks(self.name, [], ANY, 99, self._clock.now_ms, until_ms)
        elif what == "run":  # a group of results is in a segment: what is not committed yet
            ended = await self._ends.ended_lines(block(self._batch, 0))
            self._group = [line_end(self._batch, line, f"s-{self.name}") for line in (0, 1) if line not in ended]
        elif what == "commit" and self._group:
            entries = entries_for(self._batch, [end.line for end in self._group])
            await self._quietly(self._ends.commit(self.name, block(self._batch, 0), self._group, entries))
        elif what == "finish":
            ended = await self._ends.ended_lines(block(self._batch, 0))
            if len(ended) == 2:
                await self._quietly(self._ends.finish_block(self.name, block(self._batch, 0), self._clock.now_ms))
        elif what == "die":
            self._group = None
        elif what == "wait":
            self._clock.now_ms += 30_000

    async def _quietly(self, coroutine):
        with contextlib.suppress(LeaseLostError):
            await coroutine


STEPS = ("claim", "run", "commit", "finish")


async def test_in_any_order_of_two_workers_steps_each_line_ends_once(database, leases, ends, ledger, clock):
    """Every merge of two workers' ways, each with a wait or a death at every place in it that could matter."""
    account = await add_account(database, "a")
    ways = [STEPS, ("claim", "run", "die", "run", "commit"), ("claim", "run", "wait", "commit", "finish")]
    cases = 0
    for first, second in itertools.product(ways, ways):
        for places in itertools.islice(itertools.combinations(range(len(first) + len(second)), len(first)), 0, None, 7):
            batch = await add_batch(database, account, blocks=1, created_ms=clock.now_ms, expires_ms=2**62)
            workers = [Worker("one", leases, ends, batch, clock), Worker("two", leases, ends, batch, clock)]
            steps = [iter(first), iter(second)]
            for place in range(len(first) + len(second)):
                who = 0 if place in places else 1
                await workers[who].step(next(steps[who]))
            clock.now_ms += 30_000
            third = Worker("three", leases, ends, batch, clock)  # whatever has happened, it brings it to its end
            for step in STEPS:
                await third.step(step)
            assert [end.line for end in await ends.page_of_lines(batch.id, -1)] == [0, 1]
            now = await kept(database, batch)
            assert (now.completed, now.failed, now.status) == (2, 0, BatchStatus.FINALIZING)
            assert now.usage == BatchUsage(2 * 15, 0, 2 * 42, 0)
            cases += 1
    usage = await ledger.usage(account, "2026-11")
    assert (usage.calls, usage.cost_pico) == (2 * cases, 2 * cases * LINE_PICO)
    heads = {row["account_id"]: row["link"] for row in await rows_of(database, chain_heads)}
    assert 0 < heads[account] <= 2 * cases
    assert [line.usage_type for line in usage.lines] == [UsageType.INPUT, UsageType.OUTPUT]
