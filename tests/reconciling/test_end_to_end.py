"""A proxy that has served some hundred calls, aborted ones too: all five sources agree, and what is broken is told."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from proxy.clock import unix_ms
from proxy.core.calendar import day_of, month_of
from proxy.core.usage import UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.buyers import Buyers
from proxy.ledger.database import Database
from proxy.ledger.store import Ledger
from proxy.limiter.redis import RedisLimiter
from proxy.reconciling.limits import budgets_of
from tests.billing.invoices.support import Desk, buyer
from tests.ledger.support import entry
from tests.reconciling.support import execute, settings_of
from tests.support.process import Tollgate, eventually, serving, simulator
from tests.support.services import create_database, redis_server
from tests.support.stack import MODEL, write_config

TIERS = """
tiers:
  wide:
    {title: Wide, purchase_credit: none, monthly_limit: 1000, output_tokens_hour: 10000000,
      output_tokens_day: 100000000, requests: 100000}
"""
FINISHED = 240
LEFT = 24
UNHEARD = 6
SOURCES = ("rollups", "limiter", "metrics", "invoices", "engines")


class Place:
    """A proxy with its stores, and the command beside it."""

    def __init__(self, tollgate: Tollgate, database_url: str, redis_url: str) -> None:
        self.tollgate = tollgate
        self.database_url = database_url
        self.redis_url = redis_url
        self.keys: dict[str, str] = {}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.tollgate.run("reconcile", *words)

    def report(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Return what the command finds, by source; it must end with this code."""
        done = self.run("--json", *words)
        assert done.returncode == code, done.stdout + done.stderr
        document = json.loads(done.stdout)
        return {each["source"]: each for each in document["sources"]} | {"repaired": document["repaired"]}

    @property
    def all_sources(self) -> tuple[str, ...]:
        """The words that ask for every source, and for all of it."""
        words = [word for source in SOURCES for word in ("--source", source)]
        return (*words, "--metrics", f"http://127.0.0.1:{self.tollgate.admin_port}")

    async def change(self, statement: str) -> None:
        database = Database.open(self.database_url)
        await execute(database, statement)
        await database.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("reconciled")
    create_database(postgres_url, "reconciled")
    database_url = postgres_url.rsplit("/", 1)[0] + "/reconciled"
    config = write_config(folder)
    (config / "tiers.yaml").write_text(TIERS)
    with redis_server(folder) as redis_url, simulator(folder, tokens_per_second=400) as cluster:
        environ = {"TOLLGATE_REDIS_URL": redis_url, "TOLLGATE_DATABASE_URL": database_url}
        with serving(Tollgate(folder / "proxy", cluster, config=config, environ=environ)) as tollgate:
            made = Place(tollgate, database_url, redis_url)
            tollgate.command("accounts", "create", "acme", "--tier", "wide")
            tollgate.command("accounts", "create", "beta", "--tier", "wide", "--credit", "50", "--prepaid-only")
            made.keys["acme"] = tollgate.create_key("acme")["key"]
            made.keys["limited"] = tollgate.create_key("acme", "--monthly-limit", "100")["key"]
            made.keys["beta"] = tollgate.create_key("beta")["key"]
            assert all(eventually(partial(tollgate.knows, key)) for key in made.keys.values())
            asyncio.run(_serve(made))
            asyncio.run(_invoice_last_month(made))
            yield made


async def _serve(place: Place) -> None:
    keys = list(place.keys.values())
    async with httpx.AsyncClient(base_url=f"{place.tollgate.url}/v1", timeout=60) as client:

        async def chat(number: int, **more: Any) -> httpx.Response:
            body = {"model": MODEL, "messages": [{"role": "user", "content": f"Bonjour {number}"}], "max_tokens": 20}
            headers = {"Authorization": f"Bearer {keys[number % len(keys)]}"}
            return await client.post("/chat/completions", json=body | more, headers=headers)

        async def embed(number: int) -> httpx.Response:
            body = {"model": "granite-embedding:278m", "input": f"Bonjour {number}"}
            return await client.post("/embeddings", json=body, headers={"Authorization": f"Bearer {keys[number % 3]}"})

        async def leave(number: int, *, plain: bool) -> None:
            """Leave in the middle: a stream after some pieces, a plain call while it is answered."""
            words = {"role": "user", "content": "SIM:tokens=400"}
            body = {"model": MODEL, "messages": [words], "max_tokens": 400, "stream": not plain}
            headers = {"Authorization": f"Bearer {keys[number % len(keys)]}"}
            with contextlib.suppress(TimeoutError):
                async with (
                    asyncio.timeout(0.4),
                    client.stream("POST", "/chat/completions", json=body, headers=headers) as answer,
                ):
                    async for _ in answer.aiter_bytes():
                        pass

        for start in range(0, FINISHED, 24):
            numbers = range(start, start + 24)
            answers = await asyncio.gather(
                *(embed(number) if number % 6 == 0 else chat(number, stream=number % 2 == 1) for number in numbers)
            )
            assert {answer.status_code for answer in answers} == {200}
        await asyncio.gather(*(leave(number, plain=False) for number in range(LEFT)))
        await asyncio.gather(*(leave(number, plain=True) for number in range(UNHEARD)))

    def is_quiet() -> bool:
        """Every call has ended and every entry has arrived."""
        metrics = place.tollgate.metrics()
        return not (metrics.total("tollgate_calls_in_flight") or metrics.total("tollgate_outbox_entries"))

    await asyncio.to_thread(eventually, is_quiet, 30)


async def _invoice_last_month(place: Place) -> None:
    """What acme used a month ago is invoiced."""
    database = Database.open(place.database_url)
    account = await Accounts(database).named("acme")
    desk = Desk(database)
    desk.clock.now_ms = unix_ms()
    first = f"{month_of(unix_ms(), account.timezone)}-01"
    last_month = month_of(unix_ms() - 32 * 86_400_000, account.timezone)
    assert last_month < first
    await Buyers(database, desk.clock).set(account.id, buyer())
    for day in (3, 4):
        await desk.use(account.id, f"{last_month}-{day:02d}", settled_ms=1, admitted_ms=1)
    assert (await desk.issue(last_month, "acme"))["acme"][0] == "issued"
    await database.close()


def test_every_source_agrees_with_what_was_served(place: Place):
    report = place.report(*place.all_sources)

    assert {source: report[source]["status"] for source in SOURCES} == dict.fromkeys(SOURCES, "agrees")
    assert not [each for source in SOURCES for each in (*report[source]["drifts"], *report[source]["unclear"])]
    assert report["limiter"]["rows"] == 4  # two accounts, a key, a credit
    assert report["engines"]["rows"] >= 4  # a chat model and an embedder, prompts and generated tokens
    assert report["metrics"]["rows"] >= 6


def test_what_was_served_has_calls_that_were_left(place: Place):
    """Otherwise the test above says little."""
    outcomes = asyncio.run(_outcomes(place.database_url))

    assert outcomes["disconnected"] >= LEFT // 2
    assert outcomes["finished"] >= FINISHED + UNHEARD


async def _outcomes(database_url: str) -> dict[str, int]:
    database = Database.open(database_url)
    async with database.read() as connection:
        rows = await connection.execute(text("SELECT outcome, count(*) FROM entries GROUP BY outcome"))
        found = {outcome: int(count) for outcome, count in rows}
    await database.close()
    return found


def test_people_read_a_line_for_each_source(place: Place):
    done = place.run(*place.all_sources)

    assert done.returncode == 0, done.stdout
    for source in SOURCES:
        assert any(source in line and "agrees" in line for line in done.stdout.splitlines()), source


def test_broken_rollups_and_budgets_are_told_and_put_right(place: Place):
    asyncio.run(place.change("UPDATE rollups_monthly SET cost_pico = cost_pico + 1000000 WHERE usage_type = 'output'"))
    asyncio.run(_spend_by_hand(place, 77))

    report = place.report("--source", "rollups", "--source", "limiter", code=1)
    assert {each["place"] for each in report["rollups"]["drifts"]} == {"rollups_monthly"}
    assert [(each["place"], each["drift"]) for each in report["limiter"]["drifts"]] == [("budget_month", "0.000000077")]
    table = place.run("--source", "rollups")
    assert table.returncode == 1
    assert "drifts" in table.stdout

    repaired = place.report("--repair", "--source", "rollups", "--source", "limiter")
    assert {each["source"] for each in repaired["repaired"]} == {"rollups", "limiter"}
    again = place.report("--repair", *place.all_sources)
    assert again["repaired"] == []


async def _spend_by_hand(place: Place, nano: int) -> None:
    database = Database.open(place.database_url)
    account = await Accounts(database).named("acme")
    limiter = RedisLimiter(place.redis_url, 60_000, 5000, Ledger(database).seed)
    tiers = settings_of(place.tollgate.folder).tiers
    (budget,) = budgets_of([account], [], {"wide": tiers["tier1"]}, unix_ms())[0]
    assert await limiter.correct(account.id, budget.limit, nano)
    await limiter.close()
    await database.close()


def test_an_entry_that_no_process_has_counted_is_told_by_counters_and_engines(place: Place):
    asyncio.run(_add_an_entry(place))

    report = place.report(*place.all_sources, code=1)

    assert {(each["unit"], each.get("usage_type", ""), each["drift"]) for each in report["metrics"]["drifts"]} == {
        ("calls", "", -1),
        ("units", "rerank", -5_000_000),
        ("euros", "rerank", "-20.00"),
    }
    (prompt,) = report["engines"]["drifts"]
    assert (prompt["usage_type"], prompt["why"]) == ("prompt", "more is charged than the server has counted")
    (budget,) = (each for each in report["limiter"]["drifts"] if each["place"] == "budget_month")
    assert (budget["account"], budget["drift"]) == ("acme", "-20.00")

    without = place.report("--source", "metrics")["metrics"]  # nobody says that these are all processes
    assert without["status"] == "unclear"
    assert place.report("--repair", "--source", "limiter")["repaired"] != []


async def _add_an_entry(place: Place) -> None:
    database = Database.open(place.database_url)
    account = await Accounts(database).named("acme")
    now = unix_ms()
    await Ledger(database).insert(
        [
            entry(
                account_id=account.id,
                used=[(UsageType.RERANK, 5_000_000)],
                model="nvidia/llama-nemotron-rerank-vl-1b-v2",
                upstream="upstream",
                settled_ms=now,
                month=month_of(now, account.timezone),
                day=day_of(now, account.timezone),
            )
        ]
    )
    await database.close()


def test_what_cannot_be_reached_is_said_and_fails_only_who_asked_for_it(place: Place):
    gone = "http://127.0.0.1:1"

    assert place.report("--source", "metrics", "--metrics", gone, code=1)["metrics"]["status"] == "not compared"
    of_one = place.report("--account", "acme")
    assert of_one["engines"]["notes"] == ["counters do not tell accounts apart"]
    assert of_one["engines"]["status"] == "not compared"


@pytest.mark.parametrize(
    "words", [("--month", "2026-13"), ("--account", "nobody"), ("--threshold", "-1"), ("--metrics", "admin")]
)
def test_what_cannot_be_meant_ends_with_two(place: Place, words: tuple[str, str]):
    done = place.run(*words)

    assert done.returncode == 2, done.stdout + done.stderr
