"""The ledger takes each call once, and everything derived from entries agrees with them."""

import asyncio
import random
from collections import Counter, defaultdict
from pathlib import Path

import msgspec
import pytest

from proxy.core.entries import Outcome
from proxy.core.limits import Limit, LimitKind, Stamp
from proxy.core.pricing import PriceBook, PriceVersion
from proxy.core.usage import Quantity, Source, TariffClass, Usage, UsageType
from proxy.ledger import prices, schema
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerRefusedError, PriceVersionConflictError
from proxy.ledger.migrations import migrate
from proxy.ledger.store import Ledger, MonthUsage, UsageLine
from proxy.limiter import Seed
from proxy.settings.loader import load_settings
from tests.ledger.support import NOON_MS, charge, entry, rows_of

STANDARD, BATCH = TariffClass.STANDARD, TariffClass.BATCH


async def test_an_entry_comes_back_as_it_was(ledger):
    calls = [
        entry("a", used=[(usage_type, 3 + place) for place, usage_type in enumerate(UsageType)]),
        entry("b", used=[], outcome=Outcome.UPSTREAM_FAILED),
        entry("c", charge=charge((UsageType.OUTPUT, 7), source=Source.ESTIMATED), streamed=True),
        entry("d", charge=charge((UsageType.INPUT, 7), source=Source.MEASURED), tariff_class=BATCH),
        entry("é\"'\\", model="nvidia/llama:β"),
    ]
    assert await ledger.insert(calls) == 5
    assert await ledger.entries_of("acc_a", "2026-11") == calls


async def test_each_call_is_taken_once(ledger):
    one, two, three = entry(), entry(), entry()
    assert await ledger.insert([one, two]) == 2
    assert await ledger.insert([two, three, three, one]) == 1
    assert await ledger.insert([]) == 0
    used = await ledger.usage("acc_a", "2026-11")
    assert (used.calls, used.cost_pico) == (3, 3 * 363_000_000)


async def test_of_two_entries_of_one_call_the_first_counts(ledger):
    await ledger.insert([entry("a", used=[(UsageType.INPUT, 1)]), entry("a", used=[(UsageType.INPUT, 100)])])
    await ledger.insert([entry("a", used=[(UsageType.INPUT, 1000)])])
    assert (await ledger.usage("acc_a", "2026-11")).lines[0].quantity == 1


async def test_usage_is_told_by_model_class_type_and_price_version(ledger):
    await ledger.insert(
        [
            entry(used=[(UsageType.INPUT, 10), (UsageType.REASONING, 1)]),
            entry(used=[(UsageType.INPUT, 5)], version="2026-02"),
            entry(used=[(UsageType.INPUT, 7)], tariff_class=BATCH),
            entry(used=[(UsageType.AUDIO_MINUTES, 2)], model="whisper"),
            entry(used=[]),
            entry(month="2026-12"),
            entry(account_id="acc_b"),
        ]
    )
    assert await ledger.usage("acc_a", "2026-11") == MonthUsage(
        calls=5,
        cost_pico=22 * 1_800_000 + 8_000_000 + 20_000_000_000,
        lines=(
            UsageLine(UsageType.INPUT, STANDARD, "gpt-oss:120b", 10, 18_000_000, "2026-01"),
            UsageLine(UsageType.INPUT, STANDARD, "gpt-oss:120b", 5, 9_000_000, "2026-02"),
            UsageLine(UsageType.REASONING, STANDARD, "gpt-oss:120b", 1, 8_000_000, "2026-01"),
            UsageLine(UsageType.INPUT, BATCH, "gpt-oss:120b", 7, 12_600_000, "2026-01"),
            UsageLine(UsageType.AUDIO_MINUTES, STANDARD, "whisper", 2, 20_000_000_000, "2026-01"),
        ),
    )


async def test_a_month_with_nothing_is_nothing(ledger):
    assert await ledger.usage("acc_a", "2026-11") == MonthUsage(0, 0, ())


async def test_what_waits_in_an_outbox_is_counted_once(ledger):
    shipped, waiting = entry(), entry()
    await ledger.insert([shipped])
    used = await ledger.usage("acc_a", "2026-11", [shipped, waiting, waiting, entry(account_id="acc_b")])
    assert (used.calls, used.cost_pico) == (2, 2 * 363_000_000)


async def test_sums_beyond_64_bits_are_exact(ledger):
    most = charge((UsageType.AUDIO_MINUTES, 9 * 10**8))  # 9 million euros a model
    await ledger.insert([entry(charge=most, model=f"m{number}") for number in range(3)])
    assert (await ledger.usage("acc_a", "2026-11")).cost_pico == 27 * 10**18


async def test_a_sum_that_no_row_can_hold_is_refused_whole(ledger, database):
    most = charge((UsageType.AUDIO_MINUTES, 9 * 10**8))
    await ledger.insert([entry("a", charge=most)])
    with pytest.raises(LedgerRefusedError):
        await ledger.insert([entry("b"), entry("c", charge=most)])
    assert [row["call_id"] for row in await rows_of(database, schema.entries)] == ["a"]
    assert (await ledger.usage("acc_a", "2026-11")).calls == 1


def some_calls(count: int) -> list:
    chance = random.Random(20261124)
    calls = []
    for number in range(count):
        types = chance.sample(list(UsageType), chance.randint(0, 4))
        month, day = chance.choice([("2026-11", "2026-11-30"), ("2026-12", "2026-12-01"), ("2026-12", "2026-12-02")])
        calls.append(
            entry(
                f"call-{number}",
                account_id=chance.choice(["acc_a", "acc_b", "acc_c"]),
                used=[(usage_type, chance.randint(0, 5000)) for usage_type in types],
                version=chance.choice(["2026-01", "2026-02"]),
                month=month,
                day=day,
                model=chance.choice(["m1", "m2"]),
                tariff_class=chance.choice([STANDARD, BATCH]),
            )
        )
    chance.shuffle(calls)
    return calls


def expected(calls, period):
    sums, counts = defaultdict(lambda: [0, 0, 0]), Counter()
    for call in calls:
        key = (call.account_id, getattr(call, period), call.model)
        counts[*key, call.tariff_class.value] += 1
        for line in call.charge.lines:
            row = sums[*key, line.usage_type.value, call.tariff_class.value, call.charge.price_version]
            row[0] += line.amount
            row[1] += line.cost_pico
            row[2] += 1
    return dict(sums), dict(counts)


async def rollups(database, table):
    keys = [column.name for column in table.primary_key]
    values = [column.name for column in table.columns if not column.primary_key]
    return {tuple(row[key] for key in keys): [row[value] for value in values] for row in await rows_of(database, table)}


async def assert_rollups_agree(database, calls):
    for period, sums_table, calls_table in (
        ("day", schema.rollups_daily, schema.calls_daily),
        ("month", schema.rollups_monthly, schema.calls_monthly),
    ):
        sums, counts = expected(calls, period)
        assert await rollups(database, sums_table) == sums
        assert await rollups(database, calls_table) == {key: [count] for key, count in counts.items()}


async def test_rollups_agree_with_the_entries_however_they_arrive(ledger, database):
    calls = some_calls(400)
    chance = random.Random(1)
    for _ in range(12):
        await ledger.insert(chance.sample(calls, 80))
    await ledger.insert(calls)
    await assert_rollups_agree(database, calls)


async def test_several_shippers_at_once_neither_deadlock_nor_count_twice(postgres_database):
    await migrate(postgres_database)
    calls = some_calls(600)
    databases = [Database.open(postgres_database, pool_size=2) for _ in range(6)]

    async def ship(number, database):
        chance = random.Random(number)
        inserted = 0
        for _ in range(15):
            inserted += await Ledger(database).insert(chance.sample(calls, 60))
        return inserted + await Ledger(database).insert(chance.sample(calls, 600))

    inserted = await asyncio.gather(*(ship(number, database) for number, database in enumerate(databases)))
    assert sum(inserted) == 600
    await assert_rollups_agree(databases[0], calls)
    for database in databases:
        await database.close()


async def test_shippers_of_different_calls_wait_for_one_another_on_the_rollups_and_never_deadlock(postgres_database):
    await migrate(postgres_database)
    databases = [Database.open(postgres_database, pool_size=1) for _ in range(6)]
    calls = some_calls(6 * 25 * 12)

    async def ship(mine, database):
        ledger = Ledger(database)
        return [await ledger.insert(mine[start : start + 12]) for start in range(0, len(mine), 12)]

    shipped = await asyncio.gather(*(ship(calls[number::6], database) for number, database in enumerate(databases)))
    assert sum(map(sum, shipped)) == len(calls)
    await assert_rollups_agree(databases[0], calls)
    for database in databases:
        await database.close()


# --- seeds ---

HOUR = Limit("output_tokens_hour", LimitKind.WINDOW, 150_000, window_s=3600, bucket_s=10)
REQUESTS = Limit("requests", LimitKind.WINDOW, 1000, window_s=60, bucket_s=1, stamp=Stamp.ADMISSION)
MONTH = Limit("month", LimitKind.BUDGET, 10**12, period="2026-11")


def at(seconds_ago: float, tokens: int = 10, **changes):
    stamp_ms = NOON_MS - int(seconds_ago * 1000)
    changes = {"admitted_ms": stamp_ms, "settled_ms": stamp_ms, **changes}
    return entry(used=[(UsageType.INPUT, 1), (UsageType.OUTPUT, tokens), (UsageType.REASONING, 1)], **changes)


async def test_a_budget_is_seeded_with_the_months_cost_rounded_up_once(ledger):
    await ledger.insert([entry(used=[(UsageType.INPUT, 1)]) for _ in range(3)])  # 1,800,000 pico each
    await ledger.insert([entry(charge=charge_of_pico(1)), entry(month="2026-12")])
    assert (await ledger.seed("acc_a", [MONTH])).spent == {("month", "2026-11"): 5_401}


def charge_of_pico(total):
    made = charge((UsageType.INPUT, 1))
    return type(made)((type(made.lines[0])(UsageType.INPUT, 1, Source.REPORTED, total, total),), total, "2026-01")


async def test_an_unknown_account_has_used_nothing(ledger):
    assert await ledger.seed("acc_a", [MONTH, HOUR]) == Seed({("month", "2026-11"): 0}, {"output_tokens_hour": ()})


async def test_a_window_counts_output_and_reasoning_since_it_began(ledger):
    await ledger.insert([at(3600), at(3599.999, 7), at(1800, 20), at(0, 30)])
    seed = await ledger.seed("acc_a", [HOUR])
    # A stamp s counts for every t < s + w: what was settled exactly a window ago counts no more.
    assert seed.windows["output_tokens_hour"] == (
        (NOON_MS - 3_599_999, 8),
        (NOON_MS - 1_800_000, 21),
        (NOON_MS, 31),
    )


async def test_amounts_of_a_bucket_become_one_at_its_newest_stamp(ledger):
    await ledger.insert([at(9.999), at(5), at(0.001), at(10.001)])  # noon is a bucket's beginning
    assert (await ledger.seed("acc_a", [HOUR])).windows["output_tokens_hour"] == (
        (NOON_MS - 10_001, 11),
        (NOON_MS - 1, 33),
    )


async def test_requests_are_counted_where_they_were_admitted(ledger):
    await ledger.insert(
        [
            at(0, admitted_ms=NOON_MS - 60_000),  # a long stream that was admitted before the window
            at(0, admitted_ms=NOON_MS - 59_999),
            at(30, admitted_ms=NOON_MS - 30_000),
            at(30, admitted_ms=NOON_MS - 30_000),
        ]
    )
    assert (await ledger.seed("acc_a", [REQUESTS])).windows["requests"] == (
        (NOON_MS - 59_999, 1),
        (NOON_MS - 30_000, 2),
    )


async def test_lines_of_batches_are_seeded_into_budgets_and_into_no_window(database, outbox, clock):
    ledger = Ledger(database, outbox, clock_ms=clock)
    await ledger.insert([entry(), entry(tariff_class=BATCH)])
    await outbox.commit(entry(tariff_class=BATCH))
    one = await Ledger(database, clock_ms=clock).seed("acc_a", [HOUR, REQUESTS])
    seed = await ledger.seed("acc_a", [MONTH, HOUR, REQUESTS])
    assert seed.windows == one.windows
    assert [len(amounts) for amounts in seed.windows.values()] == [1, 1]
    assert [amount for amounts in seed.windows.values() for _, amount in amounts] == [42, 1]
    assert seed.spent == {("month", "2026-11"): 3 * 363_000}


async def test_a_busy_day_is_a_bounded_seed(ledger):
    await ledger.insert([at(number / 10) for number in range(2000)])
    seed = await ledger.seed("acc_a", [HOUR])
    assert len(seed.windows["output_tokens_hour"]) == 21
    assert sum(amount for _, amount in seed.windows["output_tokens_hour"]) == 22_000


async def test_the_local_outbox_is_part_of_a_seed_and_counted_once(database, outbox, clock):
    ledger = Ledger(database, outbox, clock_ms=clock)
    shipped, waiting, old = at(4), at(2), at(7200)
    for call in (shipped, waiting, old, at(1, account_id="acc_b")):
        await outbox.commit(call)
    await ledger.insert([shipped])
    seed = await ledger.seed("acc_a", [MONTH, HOUR, REQUESTS])
    each = 1_800_000 + 11 * 8_000_000
    assert seed.spent == {("month", "2026-11"): 3 * each // 1000}
    assert seed.windows == {
        "output_tokens_hour": ((NOON_MS - 2000, 22),),
        "requests": ((NOON_MS - 4000, 1), (NOON_MS - 2000, 1)),
    }


async def test_a_seed_names_the_calls_of_the_last_ten_minutes(database, outbox, clock):
    ledger = Ledger(database, outbox, clock_ms=clock)
    older, first, second, waiting = at(600), at(599.999), at(5), at(3)
    await ledger.insert([second, first, older, at(1, account_id="acc_b")])
    for call in (waiting, second):
        await outbox.commit(call)
    assert (await ledger.seed("acc_a", [])).calls == (first.call_id, second.call_id, waiting.call_id)


async def test_of_very_many_calls_a_seed_names_the_latest(database, outbox, clock):
    ledger = Ledger(database, outbox, clock_ms=clock)
    calls = [at(500 - number / 10) for number in range(4200)]
    await ledger.insert(calls)
    latest = at(0)
    await outbox.commit(latest)
    named = (await ledger.seed("acc_a", [])).calls
    assert named == (*(call.call_id for call in calls[-4095:]), latest.call_id)


# --- price versions ---


def version(version_id="2026-01", price=1_800_000, effective_from_ms=0):
    return PriceVersion(
        version_id,
        effective_from_ms,
        {(UsageType.INPUT, STANDARD): price, (UsageType.OUTPUT, STANDARD): 8},
        {("m1", UsageType.INPUT, BATCH): 5},
    )


async def test_the_prices_that_entries_were_rated_with_are_kept(database, clock):
    book = PriceBook((version(), version("2026-02"), version("2026-03")))
    ledger = Ledger(database, book=book, clock_ms=clock)
    await ledger.insert([entry(version="2026-01")])
    await ledger.insert([entry(version="2026-02"), entry(version="2026-01"), entry(version="unknown")])
    kept = {row["id"]: row for row in await rows_of(database, schema.price_versions)}
    assert set(kept) == {"2026-01", "2026-02"}
    assert kept["2026-01"]["prices"] == (
        '{"unit_prices_pico":[["input","standard",1800000],["output","standard",8]],'
        '"model_prices_pico":[["m1","input","batch",5]]}'
    )


async def test_a_version_that_the_book_does_not_know_yet_is_kept_once_it_does(database, clock):
    ledger = Ledger(database, book=PriceBook((version(),)), clock_ms=clock)
    await ledger.insert([entry(version="2026-02")])
    ledger.use_prices(PriceBook((version(), version("2026-02"))))
    await ledger.insert([entry(version="2026-02")])
    assert [row["id"] for row in await rows_of(database, schema.price_versions)] == ["2026-02"]


def test_a_price_version_is_the_same_after_it_was_kept():
    kept = version(effective_from_ms=5)
    assert prices.version_of(kept.id, kept.effective_from_ms, prices.document_of(kept)) == kept


@pytest.mark.parametrize("changed", [version(price=1), version(effective_from_ms=5)])
async def test_a_version_that_was_used_cannot_change(database, clock, changed):
    await Ledger(database, book=PriceBook((version(),)), clock_ms=clock).insert([entry()])
    again = Ledger(database)
    await again.check_prices(PriceBook((version(), version("2026-02", price=2))))
    with pytest.raises(PriceVersionConflictError, match="2026-01"):
        await again.check_prices(PriceBook((changed,)))


async def test_a_ledger_that_keeps_the_shipped_prices_from_before_batches_takes_lines_of_batches(database, clock):
    kept = (
        '{"unit_prices_pico":[["audio_minutes","standard",10000000000],["cached_input","batch",900000],'
        '["cached_input","standard",1800000],["input","batch",900000],["input","standard",1800000],'
        '["output","batch",4000000],["output","standard",8000000],["reasoning","batch",4000000],'
        '["reasoning","standard",8000000],["rerank","standard",4000000]],"model_prices_pico":[]}'
    )
    row = {"id": "2025-01", "effective_from_ms": 1_735_686_000_000, "prices": kept, "recorded_ms": 0}
    async with database.write() as connection:
        await connection.execute(database.insert(schema.price_versions), [row])
    book = load_settings(Path("config"), {}).prices
    ledger = Ledger(database, book=book, clock_ms=clock)
    await ledger.check_prices(book)
    charge = book.versions[0].rate("any", Usage((Quantity(UsageType.RERANK, 5),)), BATCH)
    line = msgspec.structs.replace(entry(version="2025-01"), tariff_class=BATCH, charge=charge)
    assert await ledger.insert([line])
    assert [row["prices"] for row in await rows_of(database, schema.price_versions)] == [kept]
    assert [row["rerank_cost_pico"] for row in await rows_of(database, schema.entries)] == [20_000_000]
