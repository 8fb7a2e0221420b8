"""A block is one worker's at a time; accounts take turns; what a dead worker held is another's."""

import asyncio

import pytest
from sqlalchemy import event, select, text

from proxy.core.batches.objects import ENDED, BatchStatus
from proxy.core.batches.turns import NEAR
from proxy.ledger.batch_schema import batch_blocks, batches
from proxy.ledger.batches.leasing import Leases
from tests.ledger.batches.support import ANY, DAY_MS, add_account, add_batch, blocks_of, kept, set_status
from tests.ledger.support import NOON_MS, rows_of

LEASE_MS = 30_000
END_MS = NOON_MS + LEASE_MS


async def test_a_block_is_one_workers_until_its_lease_ends(database):
    leases = Leases(database)
    batch = await add_batch(database, await add_account(database, "a"), blocks=2)
    both = [(batch.id, 0), (batch.id, 1)]
    assert blocks_of(await leases.claim_blocks("one", [], ANY, 99, NOON_MS, END_MS)) == both
    assert await leases.claim_blocks("two", [], ANY, 99, END_MS - 1, END_MS + LEASE_MS) == []
    taken = await leases.claim_blocks("two", [], ANY, 99, END_MS, END_MS + LEASE_MS)
    assert blocks_of(taken) == both
    assert [each.attempts for each in taken] == [2, 2]
    assert await leases.renew_blocks("one", both, END_MS + DAY_MS) == {}


async def test_who_renews_keeps_its_blocks_and_is_told_how_the_batch_is(database):
    leases = Leases(database)
    batch = await add_batch(database, await add_account(database, "a"), blocks=2)
    await leases.claim_blocks("one", [], ANY, 99, NOON_MS, END_MS)
    renewed = await leases.renew_blocks("one", [(batch.id, 0), (batch.id, 1)], END_MS + LEASE_MS)
    assert renewed == {(batch.id, 0): batch, (batch.id, 1): batch}
    assert await leases.claim_blocks("two", [], ANY, 99, END_MS, END_MS + LEASE_MS) == []


async def test_what_is_given_back_is_anybodys_at_once_but_not_what_is_anothers(database):
    leases = Leases(database)
    batch = await add_batch(database, await add_account(database, "a"), blocks=2)
    await leases.claim_blocks("one", [], ANY, 99, NOON_MS, END_MS)
    await leases.give_back("two", [(batch.id, 0)])
    assert await leases.claim_blocks("two", [], ANY, 99, NOON_MS, END_MS) == []
    await leases.give_back("one", [(batch.id, 0)])
    assert blocks_of(await leases.claim_blocks("two", [], ANY, 99, NOON_MS, END_MS)) == [(batch.id, 0)]


async def test_accounts_take_turns_and_of_one_the_oldest_batch_is_first(database):
    leases = Leases(database)
    first, second = await add_account(database, "a"), await add_account(database, "b")
    newer = await add_batch(database, first, created_ms=NOON_MS - 1)
    older = await add_batch(database, first, created_ms=NOON_MS - 2)
    other = await add_batch(database, second, created_ms=NOON_MS)
    taken = await leases.claim_blocks("one", [], ANY, 4, NOON_MS, END_MS)
    assert sorted(blocks_of(taken)) == sorted([(older.id, 0), (older.id, 1), (other.id, 0), (other.id, 1)])
    more = await leases.claim_blocks("two", [], ANY, 4, NOON_MS, END_MS)
    assert sorted(blocks_of(more)) == sorted([(older.id, 2), (newer.id, 0), (newer.id, 1), (other.id, 2)])


async def test_only_batches_in_progress_are_run_and_only_in_their_time(database):
    leases = Leases(database)
    account = await add_account(database, "a")
    for status in BatchStatus:
        if status is not BatchStatus.IN_PROGRESS:
            await add_batch(database, account, status=status)
    late = await add_batch(database, account, expires_ms=NOON_MS)
    assert await leases.claim_blocks("one", [], ANY, 99, NOON_MS, END_MS) == []
    assert await leases.claim_blocks("one", [], ANY, 99, NOON_MS - 1, END_MS) != []
    assert (await kept(database, late)).status is BatchStatus.IN_PROGRESS


async def test_a_look_tells_whether_there_is_any_batch_that_has_not_ended(database):
    leases = Leases(database)
    assert await leases.is_idle()
    batch = await add_batch(database, await add_account(database, "a"))
    for status in BatchStatus:
        await set_status(database, batch, status)
        assert await leases.is_idle() is (status in ENDED)


async def test_workers_that_claim_at_once_share_the_blocks(database):
    leases = Leases(database)
    batch = await add_batch(database, await add_account(database, "a"), blocks=40)
    claims = [leases.claim_blocks(f"w{n}", [], ANY, 5, NOON_MS, END_MS) for n in range(4)]
    taken = [block for claimed in await asyncio.gather(*claims) for block in blocks_of(claimed)]
    assert len(set(taken)) == len(taken), "a block was given to two"
    holders = {row["number"]: row["holder"] for row in await rows_of(database, batch_blocks) if row["holder"]}
    assert sorted(holders) == sorted(number for _, number in taken)
    assert {batch.id} == {batch_id for batch_id, _ in taken}


async def test_behind_many_batches_whose_blocks_are_all_run_a_worker_finds_the_next(database):
    leases = Leases(database)
    account = await add_account(database, "a")
    small = [await add_batch(database, account, blocks=1, created_ms=NOON_MS - 99 + n) for n in range(NEAR + 10)]
    for number in range(0, len(small), 46):
        await leases.claim_blocks(f"w{number}", [], ANY, 46, NOON_MS, END_MS)
    held = {row["batch_id"] for row in await rows_of(database, batch_blocks) if row["holder"]}
    assert held == {batch.id for batch in small}, "each of them is run"
    assert await leases.claim_blocks("idle", [], ANY, 8, NOON_MS, END_MS) == []
    last = await add_batch(database, account, blocks=2)
    taken = await leases.claim_blocks("next", [], ANY, 8, NOON_MS, END_MS)
    assert blocks_of(taken) == [(last.id, 0), (last.id, 1)]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # PostgreSQL reads a small table whole
@pytest.mark.parametrize("are_known", [False, True], ids=["without statistics", "with statistics"])
async def test_no_claim_reads_every_block(database, are_known):
    leases = Leases(database)
    account = await add_account(database, "a")
    for _ in range(20):
        await add_batch(database, account, blocks=20)
    async with database.write() as connection:
        if are_known:
            await connection.execute(text("ANALYZE"))
    asked = []
    event.listen(database._engine.sync_engine, "before_cursor_execute", lambda *each: asked.append(each[2:4]))
    blocks = blocks_of(await leases.claim_blocks("one", [], ANY, 8, NOON_MS, END_MS))
    await leases.renew_blocks("one", blocks, END_MS)
    await leases.give_back("one", blocks)
    plans = []
    async with database.read() as connection:
        for sql, values in [each for each in asked if "batch_blocks" in each[0]]:
            found = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
            plans += [row[-1] for row in found if "batch_blocks" in row[-1]]
    assert len(plans) >= 6
    by_key = "SEARCH batch_blocks USING INDEX sqlite_autoindex_batch_blocks_1 (batch_id=?"
    leased = "SEARCH batch_blocks USING INDEX ix_batch_blocks_done_ms (done_ms=? AND until_ms>?)"
    assert [plan for plan in plans if not plan.startswith(by_key) and plan != leased] == []


async def test_a_batch_is_validated_by_one_and_by_another_after_its_lease(database):
    leases = Leases(database)
    account = await add_account(database, "a")
    batch = await add_batch(database, account, blocks=0, status=BatchStatus.VALIDATING)
    assert await leases.claim_to_validate("one", NOON_MS, END_MS) == batch
    assert await leases.claim_to_validate("two", END_MS - 1, END_MS + LEASE_MS) is None
    assert await leases.renew_batch("one", batch.id, END_MS + LEASE_MS)
    assert await leases.claim_to_validate("two", END_MS, END_MS + LEASE_MS) is None
    assert await leases.claim_to_validate("two", END_MS + LEASE_MS, END_MS + DAY_MS) == batch
    assert not await leases.renew_batch("one", batch.id, END_MS + DAY_MS)
    await leases.give_back_batch("one", batch.id)
    assert await leases.claim_to_validate("three", END_MS + LEASE_MS, END_MS + DAY_MS) is None
    await leases.give_back_batch("two", batch.id)
    assert await leases.claim_to_validate("three", NOON_MS, END_MS) == batch


async def waiting_files(database, account, count):
    """Batches of an account whose files are to be checked, oldest first."""
    made = [
        await add_batch(
            database, account, blocks=0, status=BatchStatus.VALIDATING, created_ms=NOON_MS - 1000 * count + number
        )
        for number in range(count)
    ]
    return [batch.id for batch in made]


async def sorted_accounts(database, count):
    return sorted([await add_account(database, f"account-{number}") for number in range(count)])


async def test_an_account_with_many_files_holds_up_no_other_at_a_worker_that_checks_one_after_another(database):
    leases = Leases(database)
    first, flood, last = await sorted_accounts(database, 3)
    many = await waiting_files(database, flood, 100)
    held = await leases.claim_to_validate("one", NOON_MS, END_MS)
    assert held.id == many[0], "the oldest, while nobody else waits"
    late = await waiting_files(database, first, 1) + await waiting_files(database, last, 1)
    order, after = [], held.account_id
    for _ in range(5):
        await set_status(database, held, BatchStatus.FAILED)  # it has been checked
        held = await leases.claim_to_validate("one", NOON_MS, END_MS, after)
        order.append(held.id)
        after = held.account_id
    assert order == [late[1], late[0], *many[1:4]], "each has its turn, then the flood goes on, oldest first"


async def test_of_accounts_with_many_files_each_has_its_turn(database):
    leases = Leases(database)
    accounts = await sorted_accounts(database, 3)
    files = {account: await waiting_files(database, account, 4) for account in accounts}
    order, after = [], ""
    for _ in range(12):
        held = await leases.claim_to_validate("one", NOON_MS, END_MS, after)
        await set_status(database, held, BatchStatus.IN_PROGRESS)
        order.append(held.id)
        after = held.account_id
    assert order == [files[account][number] for number in range(4) for account in accounts]
    assert await leases.claim_to_validate("one", NOON_MS, END_MS, after) is None


async def test_the_account_with_the_fewest_files_being_checked_is_next(database):
    leases = Leases(database)
    flood, small = await sorted_accounts(database, 2)
    many = await waiting_files(database, flood, 5)
    assert (await leases.claim_to_validate("one", NOON_MS, END_MS)).id == many[0]
    assert (await leases.claim_to_validate("two", NOON_MS, END_MS)).id == many[1]
    few = await waiting_files(database, small, 2)
    # Nobody remembers a turn of this account, and its ids come last: what counts is what is being checked.
    claims = [await leases.claim_to_validate(f"w{n}", NOON_MS, END_MS, small) for n in range(3)]
    assert [each.id for each in claims] == [few[0], few[1], many[2]]
    # When the leases have ended, nobody checks any.
    assert (await leases.claim_to_validate("w4", END_MS, END_MS + 1, small)).id == many[0]


async def test_a_file_whose_worker_died_has_no_turn_before_other_accounts(database):
    leases = Leases(database)
    flood, small = await sorted_accounts(database, 2)
    many = await waiting_files(database, flood, 3)
    assert (await leases.claim_to_validate("dies", NOON_MS, NOON_MS + 1)).id == many[0]
    assert (await leases.claim_to_validate("two", NOON_MS, END_MS)).id == many[1]
    (late,) = await waiting_files(database, small, 1)
    claims = [await leases.claim_to_validate(f"w{n}", NOON_MS + 1, END_MS, small) for n in range(2)]
    assert [each.id for each in claims] == [late, many[0]]


async def test_workers_that_claim_files_at_once_take_those_of_different_accounts(database):
    leases = Leases(database)
    flood, *others = await sorted_accounts(database, 4)
    many = await waiting_files(database, flood, 100)
    late = [batch_id for other in others for batch_id in await waiting_files(database, other, 1)]
    claims = [leases.claim_to_validate(f"w{n}", NOON_MS, END_MS) for n in range(5)]
    taken = [batch.id for batch in await asyncio.gather(*claims)]
    assert sorted(taken) == sorted([*many[:2], *late])


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite's writer is alone
async def test_a_worker_passes_over_what_another_takes_at_this_moment_to_another_account(database):
    leases = Leases(database)
    flood, other = await sorted_accounts(database, 2)
    many, (late,) = await waiting_files(database, flood, 3), await waiting_files(database, other, 1)
    async with database.write() as connection:
        await connection.execute(select(batches.c.id).where(batches.c.id == many[0]).with_for_update())
        async with asyncio.timeout(10):
            assert (await leases.claim_to_validate("two", NOON_MS, END_MS)).id == late
            assert (await leases.claim_to_validate("three", NOON_MS, END_MS)).id == many[1]


async def test_a_cancelled_batch_is_finished_when_nobody_runs_its_blocks(database):
    leases = Leases(database)
    batch = await add_batch(database, await add_account(database, "a"), status=BatchStatus.IN_PROGRESS)
    (held,) = blocks_of(await leases.claim_blocks("one", [], ANY, 1, NOON_MS, END_MS))
    assert await leases.claim_to_finish("two", NOON_MS, END_MS) is None, "it goes on"
    await set_status(database, batch, BatchStatus.CANCELLING)
    assert await leases.claim_to_finish("two", END_MS - 1, END_MS) is None, "one of its blocks is run"
    await leases.give_back("one", [held])
    assert (await leases.claim_to_finish("two", NOON_MS, END_MS)).id == batch.id
    assert await leases.claim_to_finish("three", NOON_MS, END_MS) is None
    assert await leases.renew_blocks("one", [held], END_MS) == {}


async def test_a_batch_that_is_not_ready_holds_up_no_other(database):
    leases = Leases(database)
    account = await add_account(database, "a")
    older = await add_batch(database, account, created_ms=NOON_MS - 1)
    await leases.claim_blocks("one", [], ANY, 99, NOON_MS, END_MS)
    newer = await add_batch(database, account)
    for batch in (older, newer):
        await set_status(database, batch, BatchStatus.CANCELLING)
    assert (await leases.claim_to_finish("two", NOON_MS, END_MS)).id == newer.id


async def test_a_batch_past_its_time_is_finished(database):
    leases = Leases(database)
    account = await add_account(database, "a")
    late = await add_batch(database, account, expires_ms=NOON_MS)
    unchecked = await add_batch(database, account, blocks=0, status=BatchStatus.VALIDATING, expires_ms=NOON_MS + 1)
    assert await leases.claim_to_finish("one", NOON_MS - 1, END_MS) is None
    assert (await leases.claim_to_finish("one", NOON_MS, END_MS)).id == late.id
    assert await leases.claim_to_finish("one", NOON_MS, END_MS) is None
    assert (await leases.claim_to_finish("one", NOON_MS + 1, END_MS)).id == unchecked.id
    assert await leases.claim_blocks("two", [], ANY, 99, NOON_MS - 1, END_MS) == [], "its blocks are closed"
