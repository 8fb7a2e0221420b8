"""What a batch has used is what the entries of its lines say, each counted once."""

import asyncio

import pytest
from sqlalchemy import text

from proxy.core.batches.objects import LineStatus
from proxy.core.batches.usage import BatchUsage, usage_of
from proxy.core.entries import Charge
from proxy.core.usage import UsageType
from proxy.ledger import migrations
from proxy.ledger.batches.ends import Ends, LeaseLostError
from proxy.ledger.batches.leasing import Leases
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerRefusedError
from proxy.ledger.store import Ledger
from tests.ledger.batches.support import ANY, add_account, add_batch, block, entries_for, kept, line_end
from tests.ledger.support import NOON_MS, charge

END_MS = NOON_MS + 30_000
EVERYTHING = charge(
    (UsageType.INPUT, 100), (UsageType.CACHED_INPUT, 20), (UsageType.OUTPUT, 3), (UsageType.REASONING, 4000)
)


@pytest.fixture
def ends(database, ledger) -> Ends:
    return Ends(database, ledger)


async def begin(database, holder="one", **options):
    batch = await add_batch(database, await add_account(database, "a"), **options)
    await Leases(database).claim_blocks(holder, [], ANY, 99, NOON_MS, END_MS)
    return batch


async def used(database, batch):
    return (await kept(database, batch)).usage


async def test_lines_add_what_they_have_used_and_those_that_are_not_billed_add_nothing(database, ends, ledger):
    batch = await begin(database)
    assert await used(database, batch) == BatchUsage()
    lines = [line_end(batch, 0), line_end(batch, 1, status=LineStatus.FAILED)]
    await ends.commit("one", block(batch, 0), lines, entries_for(batch, [0], charge=EVERYTHING))
    assert await used(database, batch) == BatchUsage(120, 20, 4003, 4000)
    await ends.commit("one", block(batch, 1), [line_end(batch, 2)], entries_for(batch, [2]))
    assert await used(database, batch) == BatchUsage(135, 20, 4045, 4000)
    assert await used(database, batch) == usage_of(await ledger.entries_of(batch.account_id, "2026-11"))


async def test_what_is_said_again_is_counted_once(database, ends):
    batch = await begin(database)
    first = entries_for(batch, [0], charge=EVERYTHING)
    await ends.commit("one", block(batch, 0), [line_end(batch, 0)], first)
    await ends.commit("one", block(batch, 0), [line_end(batch, 0)], first)
    assert await used(database, batch) == BatchUsage(120, 20, 4003, 4000)
    both = [line_end(batch, 0, "s2"), line_end(batch, 1, "s2")]
    await ends.commit("one", block(batch, 0), both, first | entries_for(batch, [1]))
    assert await used(database, batch) == BatchUsage(135, 20, 4045, 4000)


async def test_who_takes_a_block_over_adds_only_the_lines_that_had_not_ended(database, ends, ledger):
    batch = await begin(database)
    await ends.commit("one", block(batch, 0), [line_end(batch, 0)], entries_for(batch, [0]))
    await Leases(database).claim_blocks("two", [], ANY, 99, END_MS, END_MS + 30_000)
    with pytest.raises(LeaseLostError):
        await ends.commit("one", block(batch, 0), [line_end(batch, 1)], entries_for(batch, [1]))
    again = [line_end(batch, 0, "s2"), line_end(batch, 1, "s2")]
    assert await ends.commit("two", block(batch, 0), again, entries_for(batch, [0, 1], charge=EVERYTHING)) == {1}
    assert await used(database, batch) == BatchUsage(135, 20, 4045, 4000)
    assert await used(database, batch) == usage_of(await ledger.entries_of(batch.account_id, "2026-11"))


async def test_what_breaks_off_has_added_nothing(database, ends):
    batch = await begin(database)
    too_large = Charge((), 2**63, "2026-01")
    with pytest.raises(LedgerRefusedError):
        await ends.commit("one", block(batch, 0), [line_end(batch, 0)], entries_for(batch, [0], charge=too_large))
    assert await used(database, batch) == BatchUsage()


async def test_blocks_that_end_at_once_all_add(database, ends):
    batch = await begin(database, blocks=8)
    await asyncio.gather(
        *(
            ends.commit("one", block(batch, number), [line_end(batch, 2 * number)], entries_for(batch, [2 * number]))
            for number in range(8)
        )
    )
    assert await used(database, batch) == BatchUsage(8 * 15, 0, 8 * 42, 0)


async def test_of_a_batch_whose_first_lines_were_not_counted_nothing_is_said(database_url, monkeypatch):
    monkeypatch.setattr(migrations, "HEAD", "0007")
    await migrations.migrate(database_url)
    database = Database.open(database_url)
    account = await add_account(database, "before")
    columns = (
        "id, account_id, key_id, endpoint, model, tier, month, day, input_file_id, status, created_ms, expires_ms, "
        "total, completed, failed, enqueued_tokens, metadata, errors, stamps"
    )
    values = (
        f"'batch_old', '{account}', 'key_1', '/v1/rerank', 'm', 'tier1', '2026-11', '2026-11-24', 'file-1', "
        f"'in_progress', {NOON_MS}, {END_MS}, 2, 1, 0, 10, 'null', '[]', '{{}}'"
    )
    blocks = "batch_id, number, first_line, lines, first_byte, size_bytes, attempts"
    async with database.write() as connection:
        await connection.execute(text(f"INSERT INTO batches ({columns}) VALUES ({values})"))
        await connection.execute(text(f"INSERT INTO batch_blocks ({blocks}) VALUES ('batch_old', 0, 0, 2, 0, 200, 0)"))
    await database.close()

    monkeypatch.setattr(migrations, "HEAD", "0008")
    await migrations.migrate(database_url)
    database = Database.open(database_url)
    try:
        (claimed,) = await Leases(database).claim_blocks("one", [], ANY, 99, NOON_MS, END_MS)
        batch = claimed.batch
        assert (batch.usage, batch.output_expires_after_s) == (None, None)
        ends = Ends(database, Ledger(database))
        assert await ends.commit("one", claimed.block, [line_end(batch, 1)], entries_for(batch, [1])) == {1}
        now = await kept(database, batch)
        assert (now.completed, now.usage) == (2, None)
    finally:
        await database.close()
