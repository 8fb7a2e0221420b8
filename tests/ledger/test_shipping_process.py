"""Shipping from a process of its own: whichever of the two dies, entries arrive once, and nobody is left behind."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.core.pricing import PriceBook, PriceVersion
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger import schema
from proxy.ledger.database import Database
from proxy.ledger.errors import OutboxError
from proxy.ledger.location import Location
from proxy.ledger.migrations import migrate
from proxy.ledger.outbox import Outbox
from proxy.ledger.shipping_messages import Begin
from proxy.ledger.shipping_process import NICER, ShippingProcess
from tests.ledger.support import entry, rows_of
from tests.support.process import is_running

START_S = 20.0


def book(*ids: str) -> PriceBook:
    return PriceBook(tuple(PriceVersion(name, 0, {(UsageType.INPUT, TariffClass.STANDARD): 7}) for name in ids))


@pytest.fixture
async def shipping(outbox, database, database_url):
    made = ShippingProcess(outbox, Location(database_url, outbox.path.parent), book("2026-01"))
    made.start()
    yield made
    await made.drain(10)


async def committed(outbox, count, **changes):
    calls = [entry(**changes) for _ in range(count)]
    await asyncio.gather(*(outbox.commit(call) for call in calls))
    return calls


async def until(condition, seconds=START_S):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def process_of(shipping) -> int:
    await until(lambda: shipping.pid is not None)
    return shipping.pid


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


@contextlib.contextmanager
def locked(ledger_file: Path):
    """Somebody else's transaction, which keeps everyone from writing."""
    with contextlib.closing(sqlite3.connect(ledger_file, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        yield
        blocker.execute("ROLLBACK")


async def test_entries_reach_the_ledger_and_leave_the_outbox(shipping, outbox, ledger, database):
    calls = await committed(outbox, 1200)
    await until(lambda: outbox.depth == 0)
    calls += await committed(outbox, 1)
    await until(lambda: outbox.depth == 0)
    assert sorted(await ledger.entries_of("acc_a", "2026-11"), key=lambda kept: kept.call_id) == calls
    await until(lambda: shipping.shipped == 1201, 1)
    assert (shipping.refused, shipping.is_failing, shipping.restarts) == (0, False, 0)
    assert [row["id"] for row in await rows_of(database, schema.price_versions)] == ["2026-01"]


async def test_it_yields_to_the_process_that_serves(shipping):
    pid = await process_of(shipping)
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICER)


async def test_a_new_price_book_is_passed_on(shipping, outbox, database):
    await committed(outbox, 1)
    await until(lambda: outbox.depth == 0)
    shipping.use_prices(book("2026-01", "2026-02"))
    await committed(outbox, 1, version="2026-02")
    await until(lambda: outbox.depth == 0)
    assert sorted(row["id"] for row in await rows_of(database, schema.price_versions)) == ["2026-01", "2026-02"]


async def test_a_process_that_is_killed_again_and_again_loses_nothing_and_doubles_nothing(shipping, outbox, ledger):
    calls = []
    with capture_logs() as logs:
        for wait_s in (0.0, 0.7, 1.3):
            pid = await process_of(shipping)
            calls += await committed(outbox, 700)
            await asyncio.sleep(wait_s)
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: shipping.pid not in (None, pid))
        await until(lambda: outbox.depth == 0)
    assert sorted(await ledger.entries_of("acc_a", "2026-11"), key=lambda kept: kept.call_id) == calls
    assert (await ledger.usage("acc_a", "2026-11")).calls == len(calls)
    assert shipping.restarts == 3
    assert [line["code"] for line in logs if line["event"] == "shipping_died"] == [-signal.SIGKILL] * 3
    await until(lambda: not shipping.is_failing, 5)


async def test_a_process_that_never_starts_is_tried_less_and_less_often(outbox, tmp_path):
    starts = tmp_path / "starts"
    command = (sys.executable, "-c", f"open({str(starts)!r}, 'a').write('x')")
    shipping = ShippingProcess(outbox, Location("sqlite:///unused", tmp_path), book(), command=command)
    await committed(outbox, 1)
    shipping.start()
    await until(lambda: starts.exists() and shipping.is_failing)
    await asyncio.sleep(1.0)  # waits of 0.1, 0.2, 0.4, 0.8 s
    assert 2 <= len(starts.read_text()) <= 5
    started = time.monotonic()
    assert not await shipping.drain(0.3)
    assert time.monotonic() - started < 3
    assert outbox.depth == 1


async def test_a_command_that_does_not_exist_is_a_failure_like_any_other(outbox, tmp_path):
    shipping = ShippingProcess(outbox, Location("sqlite:///unused", tmp_path), book(), command=("/no/such/program",))
    await committed(outbox, 1)
    shipping.start()
    await until(lambda: shipping.restarts == 2)
    assert not await shipping.drain(0)


async def test_draining_ships_everything_even_if_the_process_dies_meanwhile(shipping, outbox, ledger):
    pid = await process_of(shipping)
    await committed(outbox, 3000)
    os.kill(pid, signal.SIGKILL)
    assert await shipping.drain(START_S)
    assert (await ledger.usage("acc_a", "2026-11")).calls == 3000
    assert shipping.pid is None


async def test_signals_for_the_whole_group_do_not_end_it(shipping, outbox):
    pid = await process_of(shipping)
    await committed(outbox, 1)
    await until(lambda: outbox.depth == 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    await committed(outbox, 1)
    await until(lambda: outbox.depth == 0)
    assert shipping.pid == pid
    assert await shipping.drain(10)
    assert not is_running(pid)


async def test_what_cannot_be_removed_is_sent_again(shipping, outbox, ledger, monkeypatch):
    remove, faults = outbox.remove_numbers, [OutboxError("disk full")]

    def faulty(seqs, refused=()):
        if faults:
            raise faults.pop()
        return remove(seqs, refused)

    monkeypatch.setattr(outbox, "remove_numbers", faulty)
    await committed(outbox, 5)
    await until(lambda: outbox.depth == 0)
    assert not faults
    assert (await ledger.usage("acc_a", "2026-11")).calls == 5


@pytest.fixture
async def sqlite_ledger(tmp_path) -> Path:
    path = tmp_path / "state" / "ledger.db"
    await migrate(f"sqlite:///{path}")
    return path


async def test_while_the_ledger_is_away_it_fails_and_nothing_is_lost(outbox, sqlite_ledger):
    shipping = ShippingProcess(outbox, Location(f"sqlite:///{sqlite_ledger}", outbox.path.parent), book())
    with locked(sqlite_ledger):
        shipping.start()
        await committed(outbox, 20)
        await until(lambda: shipping.is_failing)  # SQLite waits five seconds for a lock
        assert outbox.depth == 20
        assert shipping.restarts == 0
    await until(lambda: outbox.depth == 0)
    await until(lambda: not shipping.is_failing, 1)
    assert await shipping.drain(10)


async def test_an_entry_that_the_ledger_refuses_is_set_aside(outbox, sqlite_ledger):
    with contextlib.closing(sqlite3.connect(sqlite_ledger)) as connection:
        connection.execute(
            "CREATE TRIGGER poison BEFORE INSERT ON entries WHEN NEW.call_id = 'poison' "
            "BEGIN SELECT RAISE(ABORT, 'never'); END"
        )
        connection.commit()
    shipping = ShippingProcess(outbox, Location(f"sqlite:///{sqlite_ledger}", outbox.path.parent), book())
    await asyncio.gather(*(outbox.commit(entry(call_id)) for call_id in ("a", "poison", "b")))
    shipping.start()
    await until(lambda: outbox.depth == 0)
    await until(lambda: (shipping.shipped, shipping.refused) == (2, 1), 1)
    assert outbox._file._writer.execute("SELECT call_id FROM refused").fetchall() == [("poison",)]
    assert await shipping.drain(10)


async def test_outboxes_that_were_left_behind_are_shipped_too(outbox, ledger, database, database_url):
    location = Location(database_url, outbox.path.parent)
    for worker in (1, 2):
        left = Outbox(location.outbox(worker))
        await left.commit(entry(f"call-{worker}"))
        await left.close()
    shipping = ShippingProcess(outbox, location, book(), workers=2)
    shipping.start()
    async with asyncio.timeout(START_S):
        while not await ledger.entries_of("acc_a", "2026-11"):
            await asyncio.sleep(0.05)
    assert [kept.call_id for kept in await ledger.entries_of("acc_a", "2026-11")] == ["call-2"]
    assert await shipping.drain(10)


@pytest.mark.parametrize("is_locked", [False, True])
async def test_a_process_without_a_parent_ends_by_itself(sqlite_ledger, is_locked):
    """Also while it waits for a lock, which takes seconds."""
    folder, url = sqlite_ledger.parent, f"sqlite:///{sqlite_ledger}"
    with locked(sqlite_ledger) if is_locked else contextlib.nullcontext():
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.ledger.parent", str(folder), url, stdout=subprocess.PIPE
        )
        child = int(await parent.stdout.readline())
        await asyncio.sleep(1.5)
        assert is_running(child)
        parent.kill()
        await parent.wait()
        await until(lambda: not is_running(child), 4)  # the lock is waited for longer than that
    database = Database.open(url)
    outbox = Outbox(folder / "outbox-0.db")
    shipping = ShippingProcess(outbox, Location(url, folder), book())
    shipping.start()
    assert await shipping.drain(START_S)
    assert len(await rows_of(database, schema.entries)) == 100
    await outbox.close()
    await database.close()


async def test_a_password_is_neither_in_the_arguments_nor_in_the_logs(outbox, tmp_path, capfd):
    url = "postgresql://tollgate:secret-word@127.0.0.1:1/nothing"
    shipping = ShippingProcess(outbox, Location(url, tmp_path), book())
    await committed(outbox, 1)
    shipping.start()
    pid = await process_of(shipping)
    await until(lambda: shipping.is_failing)
    assert "proxy.shipping" in command_line(pid)
    assert "secret-word" not in command_line(pid)
    assert not await shipping.drain(0)
    told = capfd.readouterr().err
    assert '"event":"shipping_fails"' in told
    assert "secret-word" not in told


def test_an_order_does_not_show_its_password():
    order = Begin("outbox", "postgresql://u:secret-word@h/d", (), "state", None, "INFO")
    assert "secret-word" not in repr(order)
