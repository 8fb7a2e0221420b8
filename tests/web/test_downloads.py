"""Exports as downloads: the file of the command, passed on while it is made, and nothing left when a client leaves."""

import asyncio
import csv
import io
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from bench.filling import fill as fill_large
from proxy.core.money import pico_from_euros
from proxy.ledger.location import Location
from proxy.ledger.migrations import migrate
from proxy.ledger.outbox import Outbox
from proxy.settings.loader import load_settings
from proxy.telemetry.metrics import Metrics
from proxy.web import downloads
from proxy.web.admin import AdminServer
from proxy.web.downloads import AT_ONCE_MAX, COMMAND, Downloads
from tests.billing.exports.month import export, fill
from tests.ledger.support import entry
from tests.support.stack import chat, running

CONFIG = Path(__file__).parents[2] / "config"
QUERY = "/export?month=2026-11"
# Answers as the process does, then goes on for ever; or breaks off.
ENDLESS = (
    'import sys; print(\'{"type": "Begun", "waiting": 0}\', flush=True)\nwhile True: sys.stdout.write(\'x\' * 65536)'
)
SILENT = "import time; time.sleep(600)"
BROKEN = 'print(\'{"type": "Begun", "waiting": 0}\'); print(\'half a file\'); raise SystemExit(1)'
DEAD = "raise SystemExit(1)"


class Admin:
    """An admin listener with the routes of finance."""

    def __init__(self, url: str, state: Path) -> None:
        self.state = state
        self.place = Location(url, state)
        self.settings = load_settings(CONFIG, {})

    async def start(self, *code: str) -> None:
        command = (sys.executable, "-c", *code) if code else COMMAND
        self.downloads = Downloads(self.place, lambda: self.settings, 0, command)
        self.server = AdminServer("127.0.0.1:0", Metrics(), dict, routes=self.downloads.routes())
        await self.server.start()
        self.client = aiohttp.ClientSession(f"http://127.0.0.1:{self.server.port}")

    async def close(self) -> None:
        await self.client.close()
        await self.server.close()

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.state.glob("exports-*/*"))


@pytest.fixture
async def admin(database_url, tmp_path: Path, monkeypatch) -> AsyncIterator[Admin]:
    monkeypatch.chdir(CONFIG.parent)
    (tmp_path / "state").mkdir()
    made = Admin(database_url, tmp_path / "state")
    yield made
    await made.close()


@pytest.fixture
async def on_sqlite(tmp_path: Path, monkeypatch) -> AsyncIterator[Admin]:
    monkeypatch.chdir(CONFIG.parent)
    (tmp_path / "state").mkdir()
    made = Admin(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path / "state")
    yield made
    await made.close()


def children() -> set[int]:
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = status.read_text().partition(" (")
        except OSError:  # it has ended meanwhile
            continue
        state, parent = rest.rpartition(")")[2].split()[:2]
        if int(parent) == os.getpid() and state != "Z":
            found.add(int(number))
    return found


async def until(done, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["csv", "csv-fr", "jsonl", "parquet", "xlsx"])
async def test_a_download_is_the_file_of_the_command(admin, database, name, monkeypatch):
    await fill(database)
    await admin.start()
    monkeypatch.setattr(downloads, "unix_ms", lambda: 1_796_110_200_000)
    async with admin.client.get(f"{QUERY}&format={name}") as answer:
        file = await answer.read()
        assert answer.status == 200
    assert file == await export(database, name, tiers=admin.settings.tiers, seller=admin.settings.seller)
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.headers["X-Tollgate-Not-Shipped"] == "0"
    assert "Content-Length" not in answer.headers
    assert admin.kept() == []


async def test_it_has_the_name_and_the_type_of_a_file(admin, database):
    await fill(database)
    await admin.start()
    async with admin.client.get(QUERY, params={"account": "Société d’Été ☀ 株式会社"}) as answer:
        await answer.read()
    assert answer.content_disposition.filename == "tollgate-2026-11-Société-d-Été-株式会社.csv"
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_an_empty_file_is_one_too(admin, database):
    await admin.start()
    async with admin.client.get(f"{QUERY}&format=jsonl") as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_what_waits_for_the_ledger_is_told(admin, database):
    await fill(database)
    outbox = Outbox(admin.state / "outbox-3.db")
    await outbox.commit(entry())
    await admin.start()
    async with admin.client.get(QUERY) as answer:
        await answer.read()
    assert answer.headers["X-Tollgate-Not-Shipped"] == "1"
    await outbox.close()


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("/export", 400, "not a month"),
        ("/export?month=2026-13", 400, "not a month"),
        (f"{QUERY}&format=odt", 400, "'odt' is none of csv, csv-fr, jsonl, parquet, xlsx, focus, fec"),
        (f"{QUERY}&account=nobody", 404, "there is no account named 'nobody'"),
        (f"{QUERY}&format=fec", 409, "no document was issued in 2026-11"),
    ],
)
async def test_what_cannot_be_done_is_said(on_sqlite, query, status, says):
    await migrate(on_sqlite.place.database_url)
    await on_sqlite.start()
    async with on_sqlite.client.get(query) as answer:
        assert answer.status == status
        assert says in (await answer.json())["error"]
    assert on_sqlite.kept() == []


@pytest.mark.parametrize("name", ["csv", "parquet"])
async def test_a_ledger_that_is_none_is_no_file(on_sqlite, name):
    await on_sqlite.start()
    async with on_sqlite.client.get(f"{QUERY}&format={name}") as answer:
        assert (answer.status, (await answer.json())["error"]) == (503, "the ledger is not of this version of tollgate")


async def test_a_database_that_is_away_is_no_file(on_sqlite):
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://tollgate@127.0.0.1:{taken.getsockname()[1]}/none"
        on_sqlite.place = Location(url, on_sqlite.state)
        await on_sqlite.start()
        async with on_sqlite.client.get(QUERY) as answer:
            assert answer.status == 503
            assert "ConnectionRefusedError" in (await answer.json())["error"]


async def test_so_many_at_once_and_no_more(on_sqlite):
    await on_sqlite.start(ENDLESS)
    running = [await on_sqlite.client.get(QUERY) for _ in range(AT_ONCE_MAX)]
    async with on_sqlite.client.get(QUERY) as answer:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
    running.pop().close()
    await until(lambda: len(on_sqlite.kept()) < AT_ONCE_MAX)
    async with on_sqlite.client.get(QUERY) as answer:
        assert answer.status == 200
    for one in running:
        one.close()


@pytest.mark.parametrize("code", [ENDLESS, SILENT])
async def test_a_client_that_leaves_leaves_nothing(on_sqlite, code):
    before, tasks = children(), len(asyncio.all_tasks())
    await on_sqlite.start(code)
    idle = len(asyncio.all_tasks()) - tasks
    _, writer = await asyncio.open_connection("127.0.0.1", on_sqlite.server.port)
    writer.write(f"GET {QUERY} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await until(lambda: len(children()) > len(before))
    await until(lambda: len(on_sqlite.kept()) == 1)
    writer.transport.abort()
    await until(lambda: children() == before and on_sqlite.kept() == [])
    await until(lambda: len(asyncio.all_tasks()) <= tasks + idle)
    assert on_sqlite.downloads._running == 0


async def test_a_client_that_takes_nothing_is_left(on_sqlite, monkeypatch):
    monkeypatch.setattr(downloads, "STALL_S", 0.2)
    await on_sqlite.start(ENDLESS)
    reader, writer = await asyncio.open_connection("127.0.0.1", on_sqlite.server.port, limit=1024)
    writer.write(f"GET {QUERY} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.read(100)  # and no more: the transport pauses
    await until(lambda: on_sqlite.kept() == [])
    writer.transport.abort()


async def test_a_file_that_breaks_off_does_not_look_whole(on_sqlite):
    await on_sqlite.start(BROKEN)
    async with on_sqlite.client.get(QUERY) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    assert on_sqlite.kept() == []


async def test_a_process_that_says_nothing_is_an_error(on_sqlite):
    await on_sqlite.start(DEAD)
    async with on_sqlite.client.get(QUERY) as answer:
        assert answer.status == 500
        assert "the log says why" in (await answer.json())["error"]


async def test_a_ledger_that_fails_in_the_middle_breaks_off(on_sqlite):
    url = on_sqlite.place.database_url
    await fill_large(url, 30_000)
    path = Path(url.removeprefix("sqlite:///"))
    whole = path.read_bytes()
    damaged = whole[: len(whole) // 2] + bytes(len(whole) // 4)
    path.write_bytes(damaged + whole[len(damaged) :])
    await on_sqlite.start()
    async with on_sqlite.client.get(QUERY) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    assert on_sqlite.kept() == []


async def test_the_loop_goes_on_while_a_file_is_made(on_sqlite):
    await fill_large(on_sqlite.place.database_url, 20_000)
    await on_sqlite.start()
    answers = 0
    async with on_sqlite.client.get(QUERY) as answer:
        async for _ in answer.content.iter_chunked(65_536):
            async with on_sqlite.client.get("/healthz") as health:
                answers += health.status == 200
    assert answers > 10


async def test_what_a_killed_proxy_has_left_goes_at_the_next_start(on_sqlite):
    left = on_sqlite.state / "exports-0" / "left"
    others = on_sqlite.state / "exports-1" / "of-another-worker"
    for folder in (left, others):
        folder.mkdir(parents=True)
    await on_sqlite.start()
    assert not left.exists()
    assert others.exists()


async def test_a_proxy_that_ends_ends_its_downloads(on_sqlite):
    before = children()
    await on_sqlite.start(ENDLESS)
    answer = await on_sqlite.client.get(QUERY)
    assert len(children()) == len(before) + 1
    await on_sqlite.server.close()
    await until(lambda: children() == before and on_sqlite.kept() == [])
    with pytest.raises(aiohttp.ClientError):
        await answer.read()


async def test_a_serving_proxy_hands_out_what_it_has_served(tmp_path, monkeypatch):
    monkeypatch.chdir(CONFIG.parent)
    async with running(tmp_path) as stack:
        for text in ("Bonjour", "Au revoir"):
            status, _, _ = await stack.ask(chat(text, max_tokens=8))
            assert status == 200
        entries = await stack.entries()
        async with stack.session.get(f"{stack.admin_url}/export?month={entries[0].month}&account=acme") as answer:
            lines = list(csv.DictReader(io.StringIO(await answer.text(), newline="")))
    assert [line["call_id"] for line in lines] == [one.call_id for one in entries]
    assert [pico_from_euros(line["cost_eur"]) for line in lines] == [one.charge.total_pico for one in entries]
