"""A month as a stream: every entry once, in one order, of one instant, in blocks."""

import uuid
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import delete

from proxy.core.entries import Entry
from proxy.ledger import streaming
from proxy.ledger.database import Database
from proxy.ledger.migrations import migrate
from proxy.ledger.outbox import Outbox
from proxy.ledger.rows import sums_of, values_of
from proxy.ledger.schema import calls_monthly, entries
from proxy.ledger.store import Ledger
from proxy.ledger.streaming import DAILY_COLUMNS, ENTRY_COLUMNS, MONTHLY_COLUMNS, month_stream, not_shipped
from tests.billing.exports.month import MONTH, fill
from tests.ledger.support import entry
from tests.support.tampering import unguard

COLUMNS = [column.name for column in entries.columns if column.name != "link"]


def row(one: Entry) -> dict[str, object]:
    """Return what the stream says of an entry; the link is the chain's."""
    return {name: value for name, value in zip(COLUMNS, values_of(one), strict=True) if name != "estimated"}


async def rows(blocks, names=ENTRY_COLUMNS) -> list[dict[str, object]]:
    found = []
    async for block in blocks:
        found += [
            dict(zip(names, values, strict=True)) for values in zip(*(block[name] for name in names), strict=True)
        ]
    return found


def without_link(found):
    return [{name: value for name, value in one.items() if name != "link"} for one in found]


@pytest.mark.parametrize("size", [1, 3, 5, 7, 10_000])
async def test_every_entry_comes_once_in_the_order_of_account_and_call_whatever_the_blocks_are(database, size):
    names, made = await fill(database)
    async with month_stream(database, MONTH, rows=size) as month:
        found = await rows(month.entries())
    assert without_link(found) == [row(one) for one in made]
    assert all(one["link"] >= 1 for one in found)
    assert dict(month.accounts) == dict(sorted(names.items()))
    assert sum(month.calls.values()) == len(made)


async def test_blocks_are_bounded_and_carry_the_names(database):
    names, _ = await fill(database)
    async with month_stream(database, MONTH, rows=5) as month:
        async for block in month.entries():
            assert 0 < len(block["call_id"]) <= 5
            assert block["account"] == tuple(names[account_id] for account_id in block["account_id"])


async def test_one_account_is_streamed_alone(database):
    _, made = await fill(database)
    account_id = made[0].account_id
    async with month_stream(database, MONTH, account_id) as month:
        found = await rows(month.entries())
        used = await rows(month.daily(), DAILY_COLUMNS)
    assert without_link(found) == [row(one) for one in made if one.account_id == account_id]
    assert list(month.accounts) == [account_id]
    assert {one["account_id"] for one in used} == {account_id}


async def test_accounts_are_in_the_order_of_their_bytes(database):
    await bytes_order(database)


async def test_a_database_that_was_made_for_a_language_gives_the_same_order(postgres_url):
    name = f"t_{uuid.uuid4().hex}"
    server = await asyncpg.connect(postgres_url)
    await server.execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'fr'")
    assert await server.fetchval("SELECT 'acc_a' < 'acc_B' COLLATE \"fr-x-icu\"")  # 'B' is the smaller byte
    await server.close()
    url = postgres_url.rsplit("/", 1)[0] + f"/{name}"
    await migrate(url)
    database = Database.open(url)
    try:
        await bytes_order(database)
    finally:
        await database.close()


async def bytes_order(database):
    ids = ["acc_B", "acc_a", "acc_é", "acc-", "acc_10", "acc_9"]
    made = [entry(account_id=account_id) for account_id in ids for _ in range(2)]
    await Ledger(database).insert(made)
    daily, _ = sums_of(made)
    for size in (1, 4, 10_000):
        async with month_stream(database, MONTH, rows=size) as month:
            found = await rows(month.entries())
            of_days = await rows(month.daily(), DAILY_COLUMNS)
        assert [one["account_id"] for one in found] == sorted(ids * 2)
        assert [tuple(one.values()) for one in of_days] == list(daily.rollup_rows())


async def test_what_comes_while_it_is_read_is_not_in_it(database):
    _, made = await fill(database)
    async with month_stream(database, MONTH, rows=4) as month:
        found = []
        async for block in month.entries():
            if not found:
                await Ledger(database).insert([entry(account_id=one.account_id) for one in made])
            found += block["call_id"]
        monthly = await rows(month.monthly(), MONTHLY_COLUMNS)
    assert found == [one.call_id for one in made]
    assert sum(one["cost_pico"] for one in monthly) == sum(one.charge.total_pico for one in made)


async def test_rollups_are_streamed_in_one_order(database):
    _, made = await fill(database)
    daily, monthly = sums_of(made)
    async with month_stream(database, MONTH, rows=3) as month:
        of_days = await rows(month.daily(), DAILY_COLUMNS)
        of_month = await rows(month.monthly(), MONTHLY_COLUMNS)
    assert [tuple(one.values()) for one in of_days] == list(daily.rollup_rows())
    assert [tuple(one.values()) for one in of_month] == list(monthly.rollup_rows())


async def test_an_account_that_the_sums_have_lost_is_in_it_all_the_same(database):
    _, made = await fill(database)
    await unguard(database, "calls_monthly")
    async with database.write() as connection:
        await connection.execute(delete(calls_monthly))
    async with month_stream(database, MONTH) as month:
        found = await rows(month.entries())
    assert without_link(found) == [row(one) for one in made]


async def test_of_a_month_without_entries_nothing_comes(database):
    await fill(database)
    async with month_stream(database, "2026-12") as month:
        assert [block async for block in month.entries()] == []
        assert [block async for block in month.daily()] == []
    assert month.accounts == {}


@pytest.fixture
async def outbox(tmp_path: Path):
    opened = Outbox(tmp_path / "outbox-0.db")
    yield opened
    await opened.close()


async def test_what_waits_in_an_outbox_is_counted_unless_the_ledger_has_it(database, outbox, monkeypatch):
    both, waiting, other = entry(), entry(), entry(account_id="acc_b")
    before = entry(month="2026-10", day="2026-10-31")
    await Ledger(database).insert([both])
    for one in (both, waiting, other, before):
        await outbox.commit(one)
    assert await not_shipped(database, [outbox.path], MONTH) == 2
    assert await not_shipped(database, [outbox.path], MONTH, "acc_b") == 1
    assert await not_shipped(database, [outbox.path], "2026-12") == 0
    assert await not_shipped(database, [], MONTH) == 0
    monkeypatch.setattr(streaming, "PENDING_MAX", 2)  # too many to look each up
    assert await not_shipped(database, [outbox.path], MONTH) == 3
