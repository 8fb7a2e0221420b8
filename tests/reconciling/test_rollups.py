"""Rollups and counts of calls: whatever differs from the entries is named, and put right from them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.database import Database
from proxy.ledger.migrations import migrate
from proxy.ledger.rebuild import Rebuilding
from proxy.ledger.recount import Recount
from proxy.ledger.schema import calls_daily, calls_monthly, entries, rollups_daily, rollups_monthly
from proxy.ledger.store import Ledger
from proxy.reconciling.findings import Finding, Source, Status, Threshold
from proxy.reconciling.reconciling import Reconciler
from tests.ledger.support import entry, rows_of
from tests.reconciling.support import asked, drifts, execute, reconciler, repaired

ROLLUPS = asked(Source.ROLLUPS)
TABLES = (rollups_daily, rollups_monthly, calls_daily, calls_monthly)


@pytest.fixture
async def ledger(database: Database) -> Ledger:
    """Two accounts, two months, two classes, two price versions, and a call that used none of what it was charged."""
    ledger = Ledger(database)
    await ledger.insert(
        [
            *(entry() for _ in range(3)),
            entry(used=[(UsageType.RERANK, 0)], model="reranker"),
            entry(tariff_class=TariffClass.BATCH, day="2026-11-25"),
            entry(version="2026-12", month="2026-12", day="2026-12-01"),
            entry(account_id="acc_B", used=[(UsageType.AUDIO_MINUTES, 2)], model="whisper"),
        ]
    )
    return ledger


@pytest.fixture
async def desk(database: Database, ledger: Ledger, tmp_path: Path) -> AsyncIterator[Reconciler]:
    async with reconciler(database, tmp_path) as made:
        yield made


async def compare(desk: Reconciler, **more: object) -> Finding:
    (finding,) = await desk.compare(asked(Source.ROLLUPS, **more))
    return finding


async def kept(database: Database) -> list[list[dict[str, object]]]:
    return [sorted(await rows_of(database, table), key=str) for table in TABLES]


async def test_what_was_never_touched_agrees_in_every_row(desk: Reconciler, database: Database):
    finding = await compare(desk)

    assert (finding.status, finding.drifts) == (Status.AGREES, ())
    assert finding.rows == sum(len(rows) for rows in await kept(database))


BROKEN = [
    ("UPDATE rollups_daily SET quantity = quantity + 5 WHERE model = 'whisper'", "rollups_daily", "units", 5),
    ("UPDATE rollups_monthly SET cost_pico = cost_pico - 1 WHERE model = 'whisper'", "rollups_monthly", "euros", -1),
    ("UPDATE rollups_monthly SET calls = 7 WHERE model = 'whisper'", "rollups_monthly", "calls", 6),
    ("UPDATE calls_daily SET calls = 0 WHERE model = 'whisper'", "calls_daily", "calls", -1),
    ("DELETE FROM calls_monthly WHERE model = 'whisper'", "calls_monthly", "rows", -1),
    ("DELETE FROM rollups_daily WHERE model = 'reranker'", "rollups_daily", "rows", -1),
    (
        "INSERT INTO calls_daily VALUES ('acc_C', '2026-10-31', 'm', 'standard', 0)",
        "calls_daily",
        "rows",
        1,
    ),
    (
        "INSERT INTO rollups_monthly VALUES ('acc_C', '2026-11', 'm', 'input', 'standard', 'v', 1, 1, 1)",
        "rollups_monthly",
        "rows",
        1,
    ),
]


@pytest.mark.parametrize(("statement", "table", "unit", "drift"), BROKEN)
async def test_whatever_is_changed_is_named_put_right_and_then_left_alone(
    desk: Reconciler, database: Database, statement: str, table: str, unit: str, drift: int
):
    whole = await kept(database)
    await execute(database, statement)

    finding = await compare(desk)

    assert finding.status is Status.DRIFTS
    assert (table, unit, drift) in [(place, of, by) for place, _, of, by in drifts(finding)]
    assert {each.subject.place for each in finding.drifts} == {table}

    assert await repaired(desk, ROLLUPS) != []
    assert await kept(database) == whole
    assert (await compare(desk)).status is Status.AGREES
    assert await repaired(desk, ROLLUPS) == []


async def test_a_difference_says_in_what_it_lies(desk: Reconciler, database: Database):
    await execute(database, "UPDATE rollups_daily SET quantity = quantity + 5 WHERE model = 'whisper'")

    (difference,) = (await compare(desk)).drifts

    subject = difference.subject
    assert (subject.account_id, subject.period, subject.place) == ("acc_B", "2026-11-24", "rollups_daily")
    assert (subject.model, subject.usage_type) == ("whisper", "audio_minutes")
    assert (subject.tariff_class, subject.price_version) == ("standard", "2026-01")
    assert (difference.expected.low, difference.found.low) == (2, 7)


async def test_only_the_month_that_is_asked_for_is_compared_and_put_right(desk: Reconciler, database: Database):
    await execute(database, "UPDATE rollups_monthly SET quantity = 0")
    await execute(database, "UPDATE rollups_daily SET quantity = 0")

    of_december = await compare(desk, month="2026-12")
    assert {each.subject.period for each in of_december.drifts} == {"2026-12", "2026-12-01"}

    await repaired(desk, asked(Source.ROLLUPS, month="2026-12"))
    assert (await compare(desk, month="2026-12")).status is Status.AGREES
    assert (await compare(desk, month="2026-11")).status is Status.DRIFTS


async def test_what_lies_below_the_threshold_is_let_pass_but_not_left_when_repairing(
    desk: Reconciler, database: Database
):
    await execute(database, "UPDATE rollups_monthly SET cost_pico = cost_pico - 1000 WHERE model = 'whisper'")
    lenient = asked(Source.ROLLUPS, threshold=Threshold(pico=1000))

    assert (await compare(desk, threshold=Threshold(pico=999))).status is Status.DRIFTS
    assert (await desk.compare(lenient))[0].status is Status.AGREES
    assert len(await repaired(desk, lenient)) == 1
    assert (await compare(desk)).status is Status.AGREES


async def test_sums_beyond_64_bits_are_counted(database: Database, ledger: Ledger, desk: Reconciler):
    """What somebody could write into the ledger by hand must not end the comparison; no rollup can hold such a sum."""
    columns = [column.name for column in entries.columns]
    changed = {"call_id": "call_id || '-again'", "output_cost_pico": "9223372036854775000"}
    values = ", ".join(changed.get(column, column) for column in columns)
    await execute(database, f"INSERT INTO entries ({', '.join(columns)}) SELECT {values} FROM entries")

    finding = await compare(desk)

    worst = min(each.drift for each in finding.drifts if each.subject.usage_type == "output")
    assert worst < -(2**63)


# Beside shippers


@pytest.fixture
async def shared(postgres_database: str) -> AsyncIterator[Database]:
    """A PostgreSQL that several shippers write to."""
    await migrate(postgres_database)
    opened = Database.open(postgres_database, pool_size=10)
    yield opened
    await opened.close()


async def _ship(ledger: Ledger, batches: int, accounts: int) -> None:
    for number in range(batches):
        await ledger.insert(
            [entry(account_id=f"acc_{account}", day=f"2026-11-{number % 28 + 1:02d}") for account in range(accounts)]
        )


async def test_repairing_beside_shippers_loses_nothing_and_counts_nothing_twice(shared: Database, tmp_path: Path):
    accounts, batches, shippers = 3, 40, 4
    await _ship(Ledger(shared), 2, accounts)

    async def break_and_rebuild(stop: asyncio.Event) -> int:
        rebuilt = 0
        while not stop.is_set():
            for account in range(accounts):
                await execute(
                    shared,
                    "UPDATE rollups_monthly SET quantity = quantity + 1 WHERE account_id = :account",
                    account=f"acc_{account}",
                )
                rebuilt += (await Rebuilding(shared).account_month(f"acc_{account}", "2026-11")).rows
        return rebuilt

    stop = asyncio.Event()
    breaking = asyncio.ensure_future(break_and_rebuild(stop))
    await asyncio.gather(*(_ship(Ledger(shared), batches, accounts) for _ in range(shippers)))
    stop.set()
    assert await breaking > 0
    for account in range(accounts):
        await Rebuilding(shared).account_month(f"acc_{account}", "2026-11")

    found = [each async for each in Recount(shared).account_months()]
    assert [each.calls for each in found] == [2 + batches * shippers] * accounts
    assert all(each.counted == each.kept for each in found)


async def test_comparing_beside_shippers_finds_no_drift(shared: Database, tmp_path: Path):
    async with reconciler(shared, tmp_path) as desk:
        shipping = asyncio.gather(*(_ship(Ledger(shared), 30, 3) for _ in range(3)))
        looks = 0
        while not shipping.done():
            assert (await compare(desk)).status is Status.AGREES
            looks += 1
        await shipping
    assert looks > 2
