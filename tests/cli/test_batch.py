"""What operators see of batches, and how they cancel one."""

import asyncio
import json
import re
import shutil
import threading
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from proxy.cli.batch import batch as command
from proxy.cli.batch_text import Pace
from proxy.core.batches.ids import call_id_of
from proxy.core.batches.objects import Batch, BatchStatus, LineMistake, LineStatus
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.batch_schema import batches
from proxy.ledger.batches.ends import Ends
from proxy.ledger.batches.leasing import Leases
from proxy.ledger.batches.overview import Overview
from proxy.ledger.batches.rows import json_text
from proxy.ledger.database import Database
from proxy.ledger.migrations import migrate
from proxy.ledger.store import Ledger
from tests.ledger.batches.support import ANY, add_account, add_batch, block, entries_for, line_end, set_status
from tests.ledger.support import NOON_MS, entry

CONFIG = Path(__file__).parents[2] / "config"
LINE_PICO = 363_000_000


@pytest.fixture
def url(tmp_path, monkeypatch, database_url) -> str:
    """A ledger, on each database, that the commands find."""
    for name in ("TOLLGATE_REDIS_URL", "TOLLGATE_UPSTREAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOLLGATE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "220")
    shutil.copytree(CONFIG, tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    return database_url


def on(url, work):
    """Do something to the ledger."""

    async def run():
        await migrate(url)
        database = Database.open(url)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def run(line: str):
    return CliRunner().invoke(command, line.split())


def out(line: str) -> str:
    result = run(line)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(line: str):
    return json.loads(out(f"{line} --json"))


async def half_done(database) -> Batch:
    """A batch of six lines, two of which have ended, one of them badly; another batch was made in the same instant."""
    account_id = await add_account(database, "acme")
    leases, ends = Leases(database), Ends(database, Ledger(database))
    began = {BatchStatus.IN_PROGRESS: NOON_MS}
    twin = await add_batch(database, account_id)
    first = await add_batch(database, account_id, stamps=began, metadata={"for": "test"})
    await leases.claim_blocks("one", [], ANY, 99, NOON_MS, NOON_MS + 30_000)
    await ends.commit("one", block(first, 0), [line_end(first, 0)], entries_for(first, [0], admitted_ms=NOON_MS))
    await ends.commit("one", block(first, 1), [line_end(first, 2, "s2", status=LineStatus.FAILED)], {})
    await ends.commit("one", block(twin, 0), [line_end(twin, 0)], entries_for(twin, [0], admitted_ms=NOON_MS))
    return first


def test_batches_of_all_accounts_are_listed_the_latest_first(url, monkeypatch):
    async def make(database):
        acme, globex = await add_account(database, "acme"), await add_account(database, "globex")
        old = await add_batch(database, acme, created_ms=NOON_MS - 5, status=BatchStatus.COMPLETED)
        new = await add_batch(database, globex)
        failed = await add_batch(database, acme, created_ms=NOON_MS - 9, status=BatchStatus.FAILED, total=0, model="")
        return [new.id, old.id, failed.id]

    new, old, failed = on(url, make)
    assert [(each["id"], each["account"]) for each in as_json("list")] == [
        (new, "globex"),
        (old, "acme"),
        (failed, "acme"),
    ]
    assert [each["id"] for each in as_json("list --account acme")] == [old, failed]
    assert [each["id"] for each in as_json("list --status failed --status in_progress")] == [new, failed]
    assert [each["id"] for each in as_json("list --last 1")] == [new]
    for width in (220, 80):  # what is looked up is never cut short
        monkeypatch.setenv("COLUMNS", str(width))
        words = out("list").split()
        assert {new, old, failed, "globex", "in_progress"} <= set(words)
        assert ("lines/s" in words) is (width > 80)
        assert max(map(len, out("list").splitlines())) <= width
    assert run("list --account nobody").exit_code == 1
    assert run("list --status lost").exit_code == 2


def test_one_is_shown_with_counts_pace_and_what_its_own_lines_have_cost(url):
    batch = on(url, half_done)
    shown = as_json(f"show {batch.id}")
    assert (shown["total"], shown["completed"], shown["failed"]) == (6, 1, 1)
    assert (shown["status"], shown["account"], shown["cost_eur"]) == ("in_progress", "acme", "0.000363")
    text = " ".join(out(f"show {batch.id}").split())
    assert "lines 2 of 6 (33 %) failed 1" in text
    assert "euros 0.000363" in text
    assert f"tokens {shown['usage']['input_tokens']} of input, {shown['usage']['output_tokens']} of output" in text
    assert shown["usage"]["input_tokens"] + shown["usage"]["output_tokens"] > 0


def test_the_pace_is_that_of_the_lines_since_they_began_and_what_is_left_follows():
    batch = Batch("b", "a", "k", "/v1/rerank", "m", "t", "2026-11", "2026-11-24", "f", BatchStatus.IN_PROGRESS, 0, 1)
    running = msgspec.structs.replace(batch, total=100, completed=9, failed=1, stamps={BatchStatus.IN_PROGRESS: 5_000})
    pace = Pace(running, 25_000)
    assert (pace.lines_per_1000_s, pace.text, pace.left_s) == (500, "0.5", 180)
    assert Pace(msgspec.structs.replace(running, completed=13, failed=0), 25_000).left_s == 134  # 133.8
    done = {**running.stamps, BatchStatus.FINALIZING: 10_000, BatchStatus.COMPLETED: 90_000}
    over = Pace(msgspec.structs.replace(running, status=BatchStatus.COMPLETED, stamps=done, completed=99), 10**9)
    assert (over.lines_per_1000_s, over.left_s) == (20_000, None)
    for unknown in (batch, msgspec.structs.replace(running, completed=0, failed=0)):
        assert (Pace(unknown, 25_000).text, Pace(unknown, 25_000).left_s) == ("", None)
    assert Pace(running, 5_000).text == ""


def test_what_is_wrong_with_a_file_is_shown_with_its_lines(url):
    async def make(database):
        batch = await add_batch(database, await add_account(database, "acme"), status=BatchStatus.FAILED)
        errors = tuple(LineMistake("invalid_json_line", f"mistake [{line}]", line) for line in range(1, 31))
        async with database.write() as connection:
            await connection.execute(batches.update().values(errors=json_text(errors)))
        return batch

    batch = on(url, make)
    text = out(f"show {batch.id}")
    assert "line 7: mistake [7] (invalid_json_line)" in text
    assert "and 10 more" in text
    assert len(as_json(f"show {batch.id}")["errors"]) == 30


def test_a_batch_is_cancelled_once_and_not_when_it_is_over(url):
    batch = on(url, half_done)
    assert out(f"cancel {batch.id}") == f"Batch {batch.id} of account acme is cancelling.\n"
    assert as_json(f"cancel {batch.id}")["status"] == "cancelling"

    async def end(database):
        await set_status(database, batch, BatchStatus.COMPLETED)

    on(url, end)
    result = run(f"cancel {batch.id}")
    assert (result.exit_code, result.stderr) == (1, f"Error: too late: batch {batch.id} is completed\n")


def test_a_batch_that_is_not_there_is_told(url):
    for line in ("show batch_x", "cancel batch_x"):
        result = run(line)
        assert (result.exit_code, result.stderr) == (1, "Error: there is no batch batch_x\n")


def test_watching_goes_on_until_the_batch_has_ended(url):
    batch = on(url, half_done)

    async def end(database):
        await set_status(database, batch, BatchStatus.CANCELLED)

    over = threading.Timer(0.5, on, (url, end))
    over.start()
    shown = as_json(f"show {batch.id} --watch --every 0.1")
    over.join()
    assert shown["status"] == "cancelled"


def test_watching_on_a_terminal_shows_a_bar_with_rate_and_what_is_left(url, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    batch = on(url, half_done)

    async def go_on(database):
        ends = Ends(database, Ledger(database))
        await asyncio.sleep(0.5)
        await ends.commit("one", block(batch, 0), [line_end(batch, 1, "s3")], entries_for(batch, [1]))
        await asyncio.sleep(0.5)
        await set_status(database, batch, BatchStatus.COMPLETED)

    going_on = threading.Thread(target=on, args=(url, go_on))
    going_on.start()
    result = run(f"show {batch.id} --watch --every 0.1")
    going_on.join()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", result.stderr)
    assert "2/6" in plain
    assert re.search(r"in_progress .* 3/6 +[\d,.]+ lines/s \d:\d\d:\d\d", plain)


async def test_how_much_there_is_to_do_is_told_by_status_and_model(database):
    overview = Overview(database)
    nothing = {"validating": 0, "in_progress": 0, "finalizing": 0, "cancelling": 0}
    depth = await overview.depth()
    assert (depth.batches, depth.lines, depth.oldest_ms) == (nothing, {}, None)
    account_id = await add_account(database, "acme")
    await add_batch(database, account_id, status=BatchStatus.FINALIZING, created_ms=NOON_MS - 9)
    await add_batch(database, account_id, status=BatchStatus.COMPLETED, created_ms=NOON_MS - 99)
    await add_batch(database, account_id, status=BatchStatus.VALIDATING, created_ms=NOON_MS - 5, total=0, model="")
    await add_batch(database, account_id, completed=1, failed=2)
    await add_batch(database, account_id)
    await add_batch(database, account_id, model="other", created_ms=NOON_MS - 1)
    depth = await overview.depth()
    assert depth.batches == nothing | {"validating": 1, "in_progress": 3, "finalizing": 1}
    assert depth.lines == {"gpt-oss:120b": 9, "other": 6}
    assert depth.oldest_ms == NOON_MS - 5


async def test_what_a_batch_has_cost_is_told_after_its_lines_are_forgotten(database):
    batch = await half_done(database)
    call = entry(account_id=batch.account_id, admitted_ms=batch.created_ms)
    later = entry(
        call_id_of("batch_other", batch.created_ms, 0),
        account_id=batch.account_id,
        admitted_ms=batch.created_ms,
        tariff_class=TariffClass.BATCH,
        used=[(UsageType.INPUT, 1)],
    )
    await Ledger(database).insert([call, later])
    assert await Overview(database).cost_pico(batch) == LINE_PICO
    async with database.write() as connection:
        await connection.execute(batches.update().values(holder="one"))
    await Ends(database, Ledger(database)).clear("one", batch.id)
    assert await Overview(database).cost_pico(batch) == LINE_PICO
