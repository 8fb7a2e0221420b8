"""What customers may ask of the ledger: sums as of now, and one call by its id, wherever its entry is on its way."""

import contextlib
import sqlite3
from pathlib import Path

import msgspec
import pytest
from uuid_utils import uuid7

from proxy.core.calendar import month_of
from proxy.core.usage import UsageType
from proxy.ledger import reading
from proxy.ledger.errors import LedgerUnavailableError, OutboxError
from proxy.ledger.location import Location
from proxy.ledger.migrations import migrate
from proxy.ledger.outbox import Outbox
from proxy.ledger.reading import Reader, months_of_call
from tests.ledger.support import NOON_MS, charge, entry

DAY, MONTH = "2026-11-24", "2026-11"


@pytest.fixture
def reader(database, tmp_path: Path) -> Reader:
    (tmp_path / "state").mkdir(exist_ok=True)
    return Reader(database, Location("", tmp_path / "state"), 0)


def call_id(made_ms: int, tail: str = "7abc-8def-0123456789ab") -> str:
    digits = f"{made_ms:012x}"
    return f"{digits[:8]}-{digits[8:]}-{tail}"


def amounts(used):
    return {(line.model, line.usage_type.value): (line.quantity, line.cost_pico) for line in used.lines}


async def test_of_an_account_that_has_used_nothing_there_is_nothing(reader, ledger):
    await ledger.insert([entry(account_id="acc_b")])
    of_day, of_month = await reader.sums("acc_a", DAY, MONTH)
    assert (of_day.calls, of_day.lines) == (of_month.calls, of_month.lines) == (0, ())


async def test_the_month_is_what_the_ledger_says_and_the_day_is_the_part_of_it(reader, ledger):
    audio = entry(model="whisper-large-v3", used=((UsageType.AUDIO_MINUTES, 3),), day="2026-11-02")
    before = entry(month="2026-10", day="2026-10-31")
    await ledger.insert([entry(), entry(), audio, before])
    of_day, of_month = await reader.sums("acc_a", DAY, MONTH)
    assert of_month == all_versions(await ledger.usage("acc_a", MONTH))
    assert of_day.calls == 2
    assert amounts(of_day) == {
        ("gpt-oss:120b", "input"): (30, 30 * 1_800_000),
        ("gpt-oss:120b", "output"): (84, 84 * 8_000_000),
    }
    assert of_month.cost_pico - of_day.cost_pico == 3 * 10_000_000_000


async def test_what_waits_in_the_outbox_counts_and_what_is_in_both_places_counts_once(reader, ledger, outbox):
    shipped, waiting = entry(), entry()
    for one in (shipped, waiting, entry(account_id="acc_b"), entry(day="2026-11-23")):
        await outbox.commit(one)
    await ledger.insert([shipped])
    of_day, of_month = await reader.sums("acc_a", DAY, MONTH)
    assert (of_day.calls, of_month.calls) == (2, 3)
    assert of_day.cost_pico == shipped.charge.total_pico + waiting.charge.total_pico


async def test_outboxes_of_other_workers_count_too(reader, ledger, outbox, tmp_path):
    other = Outbox(tmp_path / "state" / "outbox-7.db")
    mine, theirs = entry(), entry(call_id(NOON_MS))
    await outbox.commit(mine)
    await other.commit(theirs)
    assert (await reader.sums("acc_a", DAY, MONTH))[0].calls == 2
    assert await reader.entry("acc_a", theirs.call_id) == theirs
    await other.close()
    assert await reader.entry("acc_a", theirs.call_id) == theirs  # nobody has it open any more


async def test_an_outbox_of_another_worker_that_cannot_be_read_is_left_out_but_not_ones_own(reader, outbox, tmp_path):
    (tmp_path / "state" / "outbox-7.db").write_bytes(b"this is no database" * 100)
    await outbox.commit(entry())
    assert (await reader.sums("acc_a", DAY, MONTH))[0].calls == 1
    broken = Reader(reader._database, Location("", tmp_path / "state"), 7)
    with pytest.raises(OutboxError):
        await broken.sums("acc_a", DAY, MONTH)


async def test_a_sum_that_would_need_too_many_entries_is_not_made(reader, outbox, monkeypatch):
    monkeypatch.setattr(reading, "PENDING_MAX", 3)
    for _ in range(3):
        await outbox.commit(entry())
    assert (await reader.sums("acc_a", DAY, MONTH))[0].calls == 3
    await outbox.commit(entry())
    with pytest.raises(LedgerUnavailableError):
        await reader.sums("acc_a", DAY, MONTH)


async def test_a_call_is_found_while_it_waits_and_once_it_is_shipped(reader, ledger, outbox):
    one = entry(call_id(NOON_MS), streamed=True)
    await outbox.commit(one)
    assert await reader.entry("acc_a", one.call_id) == one
    await ledger.insert([one])
    await outbox.remove(await outbox.oldest(10))
    assert await reader.entry("acc_a", one.call_id) == one
    assert await reader.entry("acc_a", one.call_id.upper()) == one


async def test_a_call_that_waits_is_found_while_the_database_is_away(reader, outbox, database):
    one = entry(call_id(NOON_MS))
    await outbox.commit(one)
    reader._database = None
    assert await reader.entry("acc_a", one.call_id) == one


async def test_a_call_of_another_account_is_not_found(reader, ledger, outbox):
    shipped, waiting = entry(call_id(NOON_MS)), entry(call_id(NOON_MS + 1))
    await ledger.insert([shipped])
    await outbox.commit(waiting)
    for one in (shipped, waiting):
        assert await reader.entry("acc_a", one.call_id) == one
        assert await reader.entry("acc_b", one.call_id) is None


async def test_a_call_is_found_at_the_edge_of_a_month_in_every_time_zone(reader, ledger):
    ends_ms = 1_796_079_600_000  # November, in Paris
    for number, timezone in enumerate(("Pacific/Kiritimati", "Europe/Paris", "Pacific/Niue")):
        for past_ms in (-1, 0, 50_000_000):
            admitted_ms = ends_ms + past_ms
            id_ = call_id(admitted_ms - 1, f"7abc-8def-0123456789{number:02d}")
            one = entry(id_, month=month_of(admitted_ms, timezone), admitted_ms=admitted_ms)
            await ledger.insert([one])
            assert await reader.entry("acc_a", one.call_id) == one, (timezone, past_ms)


async def test_what_is_no_call_id_is_no_question_for_the_database(reader):
    reader._database = None
    ids = ["", "x", "a" * 36, call_id(NOON_MS)[:-1], call_id(NOON_MS, "4abc-8def-0123456789ab"), call_id(0)]
    ids += [call_id(2**48 - 1), f"{call_id(NOON_MS)}\n", f"{call_id(NOON_MS)[:-1]}é", "' OR 1=1 --", "%"]
    assert [await reader.entry("acc_a", one) for one in ids] == [None] * len(ids)


def test_a_call_can_be_in_two_months_at_most_and_its_own_id_says_in_which():
    made = str(uuid7())
    assert 1 <= len(months_of_call(made)) <= 2
    assert months_of_call(call_id(NOON_MS)) == ("2026-11",)
    assert months_of_call(call_id(1_796_079_600_000)) == ("2026-11", "2026-12")


async def test_a_call_is_looked_up_by_the_key_of_the_table(tmp_path):
    await migrate(f"sqlite:///{tmp_path / 'ledger.db'}")
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM entries"
            " WHERE account_id = 'a' AND month IN ('2026-11', '2026-12') AND call_id = 'x'"
        ).fetchall()
    assert "(account_id=? AND month=? AND call_id=?)" in str(plan)


async def test_a_charge_of_nothing_comes_back_as_one(reader, ledger):
    one = entry(call_id(NOON_MS), charge=charge((UsageType.INPUT, 0), (UsageType.OUTPUT, 2)))
    await ledger.insert([one])
    found = await reader.entry("acc_a", one.call_id)
    assert [(line.amount, line.cost_pico) for line in found.charge.lines] == [(0, 0), (2, 16_000_000)]


async def test_a_customer_is_told_the_sum_of_what_he_used_at_two_prices(reader, ledger, outbox):
    await ledger.insert([entry(), entry(version="2026-11b")])
    await outbox.commit(entry(version="2026-11c"))
    _, of_month = await reader.sums("acc_a", DAY, MONTH)
    assert [(line.quantity, line.price_version) for line in of_month.lines] == [(45, ""), (126, "")]


def all_versions(used):
    lines = tuple(msgspec.structs.replace(line, price_version="") for line in used.lines)
    return msgspec.structs.replace(used, lines=lines)
