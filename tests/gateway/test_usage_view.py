"""What a customer is told of what he has used: at once, exactly, and of nobody else."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace
from uuid_utils import uuid7

from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerUnavailableError
from proxy.ledger.keys import Keys
from proxy.ledger.outbox import Outbox
from proxy.simulator import Options
from proxy.views import desk
from proxy.views.pace import ACCOUNTS_KEPT_MAX, BURST, PER_S, Pace
from tests.gateway.test_refusals import LIMITED, UNAVAILABLE
from tests.support.ports import free_port
from tests.support.process import Tollgate, eventually, serving, simulator
from tests.support.services import redis_server
from tests.support.stack import ROUTE, Stack, chat, running, write_config

NOT_FOUND = {
    "error": {
        "message": "No settled call of yours has this id. A call gets its receipt when it has been answered",
        "type": "invalid_request_error",
        "param": "id",
        "code": "call_not_found",
    }
}


@pytest.fixture
async def stack(stores, tmp_path) -> AsyncIterator[Stack]:
    """A proxy, once with each kind of stores."""
    async with running(tmp_path, environ=stores) as stack:
        yield stack


@pytest.fixture
async def embedded(tmp_path) -> AsyncIterator[Stack]:
    """A proxy with embedded stores."""
    async with running(tmp_path) as stack:
        yield stack


def no_float(text):
    raise AssertionError(f"a float: {text}")


async def view(stack, path, *, key=None):
    async with stack.session.get(stack.url + path, headers=stack.auth(key)) as answer:
        return answer.status, json.loads(await answer.read(), parse_float=no_float), answer.headers


def by_name(usage):
    return {limit["name"]: limit for limit in usage["limits"]}


@contextlib.contextmanager
def ledger_that_takes_nothing(stack):
    """Entries stay in the outbox: the ledger can be read, but does not take any."""
    taking = stack.app.ledger.insert

    async def refuse(_entries):
        raise LedgerUnavailableError("not now")

    stack.app.ledger.insert = refuse
    try:
        yield
    finally:
        stack.app.ledger.insert = taking


async def test_a_call_shows_right_after_its_answer_and_the_same_when_it_is_in_the_ledger(stack):
    with ledger_that_takes_nothing(stack):
        _, body, headers = await stack.ask(chat(max_tokens=20))
        _, waiting, _ = await view(stack, "/v1/usage")
        _, receipt, _ = await view(stack, f"/v1/usage/calls/{headers['x-request-id']}")
        assert stack.app.outbox.depth == 1
    entries = await stack.entries()
    _, shipped, _ = await view(stack, "/v1/usage")
    assert waiting["today"] == shipped["today"]
    assert waiting["month"] == shipped["month"]
    assert [entry.call_id for entry in entries] == [headers["x-request-id"]]
    assert (await view(stack, f"/v1/usage/calls/{headers['x-request-id']}"))[1] == receipt
    assert {line["type"]: line["quantity"] for line in receipt["lines"]} == {
        "input": body["usage"]["prompt_tokens"],
        "output": body["usage"]["completion_tokens"],
    }


async def test_the_sums_are_those_of_the_ledger_to_the_last_decimal(stack):
    for index in range(4):
        async with stack.post(chat(f"call {index}", max_tokens=7 + index, stream=index % 2 == 0)) as answer:
            await answer.read()
    used = await stack.usage()
    status, usage, headers = await view(stack, "/v1/usage")
    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    month = usage["month"]
    assert (month["calls"], Decimal(month["total"])) == (4, Decimal(used.cost_pico) / 10**12)
    assert sum(Decimal(line["amount"]) for line in month["lines"]) == Decimal(month["total"])
    assert [(line["model"], line["type"], line["class"], line["quantity"]) for line in month["lines"]] == [
        (line.model, line.usage_type, line.tariff_class, line.quantity) for line in used.lines
    ]
    assert usage["today"]["lines"] == month["lines"]
    assert month["starts"] <= usage["today"]["starts"] <= usage["as_of"] < usage["today"]["ends"] <= month["ends"]
    assert usage["today"]["period"].startswith(month["period"])
    assert (usage["account"], usage["tier"], usage["timezone"], usage["currency"], usage["degraded"]) == (
        "acme",
        {"id": "tier1", "title": "Tier 1"},
        "Europe/Paris",
        "EUR",
        False,
    )


async def test_the_limits_are_those_that_the_headers_show(stack):
    _, body, _ = await stack.ask(chat(max_tokens=20))
    _, usage, headers = await view(stack, "/v1/usage")
    limits = by_name(usage)
    assert list(limits) == ["requests", "output_tokens_hour", "output_tokens_day", "budget_month"]
    for name, title in (
        ("requests", "Requests"),
        ("output_tokens_hour", "Output-Tokens-Hour"),
        ("output_tokens_day", "Output-Tokens-Day"),
    ):
        shown = [str(limits[name][part]) for part in ("limit", "remaining", "reset")]
        assert shown == [headers[f"X-RateLimit-{part}-{title}"] for part in ("Limit", "Remaining", "Reset")]
    assert [limits[name]["used"] for name in list(limits)[:2]] == [1, body["usage"]["completion_tokens"]]
    budget = limits["budget_month"]
    assert (budget["limit"], budget["used"], budget["held"]) == ("1000.00", usage["month"]["total"], "0.00")
    assert Decimal(budget["remaining"]) + Decimal(budget["used"]) == 1000
    assert budget["period"] == usage["month"]["period"]
    assert budget["reset"] == usage["month"]["ends"]
    assert budget["reset_at"] == usage["month"]["ends_at"]


async def test_what_a_call_in_flight_holds_is_told_and_it_has_no_receipt_yet(tmp_path):
    async with running(tmp_path, options=Options(tokens_per_second=100)) as stack:
        async with stack.post(chat("SIM:tokens=200", max_tokens=200, stream=True)) as answer:
            await answer.content.readany()
            call_id = answer.headers["x-request-id"]
            usage = (await view(stack, "/v1/usage"))[1]
            hour = by_name(usage)["output_tokens_hour"]
            assert (hour["used"], hour["held"], hour["remaining"]) == (0, 200, 150_000 - 200)
            assert Decimal(by_name(usage)["budget_month"]["held"]) >= Decimal("0.0016")
            assert usage["month"]["calls"] == 0
            assert (await view(stack, f"/v1/usage/calls/{call_id}"))[:2] == (404, NOT_FOUND)
            await answer.read()
        usage = (await view(stack, "/v1/usage"))[1]
        assert by_name(usage)["output_tokens_hour"]["held"] == 0
        assert (await view(stack, f"/v1/usage/calls/{call_id}"))[0] == 200


async def test_a_receipt_says_everything_and_every_line_can_be_checked(stack):
    _, _, headers = await stack.ask(chat("THINK about it", max_tokens=60))
    _, receipt, got = await view(stack, f"/v1/usage/calls/{headers['x-request-id']}")
    (entry,) = await stack.entries()
    assert got["x-request-id"] != headers["x-request-id"]
    assert got["Cache-Control"] == "no-store"
    lines = receipt.pop("lines")
    assert receipt.pop("admitted_at").endswith("Z")
    assert receipt.pop("settled_at").endswith("Z")
    assert receipt == {
        "object": "usage.receipt",
        "id": entry.call_id,
        "created": entry.admitted_ms // 1000,
        "day": entry.day,
        "month": entry.month,
        "endpoint": "/v1/chat/completions",
        "model": "gpt-oss:120b",
        "tier": {"id": "tier1", "title": "Tier 1"},
        "key_id": stack.key_id,
        "class": "standard",
        "streamed": False,
        "outcome": "finished",
        "disconnected": False,
        "estimated": False,
        "price_version": "2025-01",
        "currency": "EUR",
        "total": str(Decimal(entry.charge.total_pico).scaleb(-12)).rstrip("0"),
    }
    assert [line["type"] for line in lines] == ["input", "output", "reasoning"]
    assert {line["unit_price"] for line in lines} == {"1.80", "8.00"}
    for line in lines:
        assert (line["source"], line["unit"], line["unit_price_per"]) == ("reported", "token", 1_000_000)
        product = line["quantity"] * Decimal(line["unit_price"]) / line["unit_price_per"]
        assert Decimal(line["amount"]) == product
    assert sum(Decimal(line["amount"]) for line in lines) == Decimal(receipt["total"])


async def test_a_receipt_says_what_is_estimated(embedded):
    _, _, headers = await embedded.ask(chat("SIM:no-usage SIM:tokens=20", max_tokens=30))
    _, receipt, _ = await view(embedded, f"/v1/usage/calls/{headers['x-request-id']}")
    assert receipt["estimated"]
    assert {line["source"] for line in receipt["lines"]} == {"estimated"}


async def test_a_receipt_says_that_the_client_left(tmp_path):
    async with running(tmp_path, options=Options(tokens_per_second=100)) as stack:
        async with stack.post(chat("SIM:tokens=500", max_tokens=500, stream=True)) as answer:
            await answer.content.readany()
            call_id = answer.headers["x-request-id"]
            answer.close()
        await stack.settled()
        _, receipt, _ = await view(stack, f"/v1/usage/calls/{call_id}")
    assert (receipt["streamed"], receipt["disconnected"], receipt["outcome"]) == (True, True, "disconnected")


async def test_a_call_of_somebody_else_is_as_unknown_as_one_that_never_was(stack):
    other = await stack.add_account("globex", "tier2")
    _, _, headers = await stack.ask(chat(max_tokens=5))
    theirs = headers["x-request-id"]
    for ship in (False, True):
        if ship:
            await stack.settled()
        assert (await view(stack, f"/v1/usage/calls/{theirs}"))[0] == 200
        answers = [await view(stack, f"/v1/usage/calls/{id_}", key=other.token) for id_ in (theirs, str(uuid7()))]
        assert [answer[:2] for answer in answers] == [(404, NOT_FOUND)] * 2
        assert set(answers[0][2]) == set(answers[1][2])
    _, usage, _ = await view(stack, "/v1/usage", key=other.token)
    assert (usage["account"], usage["month"]["calls"], usage["month"]["total"]) == ("globex", 0, "0.00")


@pytest.mark.parametrize(
    "id_",
    ["x", "%20", "a/b", "..%2F..", "%00", "1' OR '1'='1", "01a20ef9-6d3c-4645-84d9-6b31d8f0e83d", "0" * 36, "é" * 99],
)
async def test_what_is_no_call_id_is_as_unknown_as_any_other(embedded, id_):
    assert (await view(embedded, f"/v1/usage/calls/{id_}"))[:2] == (404, NOT_FOUND)


async def test_nobody_is_told_anything_without_a_key(embedded):
    for path in ("/v1/usage", f"/v1/usage/calls/{uuid7()}"):
        status, body, headers = await view(embedded, path, key="tg-nonsense")
        assert (status, body["error"]["type"]) == (401, "authentication_error")
        assert "Cache-Control" not in headers


async def test_the_key_of_an_account_shows_the_calls_of_its_other_keys_by_their_id(embedded):
    second = await Keys(embedded.app.database).create("acme")
    await embedded.app.directory.refresh()
    _, _, headers = await embedded.ask(chat(max_tokens=5), key=second.token)
    _, receipt, _ = await view(embedded, f"/v1/usage/calls/{headers['x-request-id']}")
    assert receipt["key_id"] == second.key.id
    assert second.token not in json.dumps(receipt)


async def test_where_there_is_no_limit_none_is_shown(tmp_path):
    async with running(tmp_path, tier="monthly") as stack:
        await stack.ask(chat(max_tokens=5))
        _, usage, _ = await view(stack, "/v1/usage")
        limits = by_name(usage)
        assert list(limits) == ["requests", "budget_month"]
        budget = limits["budget_month"]
        assert (budget["limit"], budget["remaining"], budget["used"]) == (None, None, usage["month"]["total"])


async def test_what_another_worker_of_this_machine_has_just_settled_shows_too(embedded, tmp_path):
    await embedded.ask(chat(max_tokens=5))
    (entry,) = await embedded.entries()
    other_worker = Outbox(tmp_path / "state" / "outbox-1.db")
    theirs = replace(entry, call_id=str(uuid7()))
    await other_worker.commit(theirs)
    assert (await view(embedded, "/v1/usage"))[1]["month"]["calls"] == 2
    assert (await view(embedded, f"/v1/usage/calls/{theirs.call_id}"))[0] == 200
    await other_worker.close()


def test_every_worker_shows_what_another_has_settled_a_moment_ago(tmp_path, redis_url):
    environ = {"TOLLGATE_REDIS_URL": redis_url}
    with simulator(tmp_path) as cluster:
        tollgate = Tollgate(tmp_path / "two", cluster, environ=environ, arguments=("--workers", "2"))
        with serving(tollgate):
            auth = {"Authorization": f"Bearer {tollgate.create_account('acme', 'tier1')}"}

            def get(path):  # over a connection of its own: either worker may answer
                return httpx.get(tollgate.url + path, headers=auth, timeout=30)

            def is_known():
                return {get("/v1/models").status_code for _ in range(8)} == {200}

            eventually(is_known)
            for calls in range(1, 16):
                answer = httpx.post(tollgate.url + ROUTE, json=chat(max_tokens=1), headers=auth, timeout=30)
                receipt = get(f"/v1/usage/calls/{answer.headers['x-request-id']}")
                assert (receipt.status_code, receipt.json()["id"]) == (200, answer.headers["x-request-id"])
                assert get("/v1/usage").json()["month"]["calls"] == calls
            assert tollgate.metrics().total("tollgate_views_total") >= 30


# Stores that are away


async def test_while_redis_is_away_the_share_is_shown_as_such_and_the_euros_are_still_the_ledgers(tmp_path):
    redis_folder = tmp_path / "redis"
    redis_folder.mkdir()
    with contextlib.ExitStack() as redis:
        environ = {"TOLLGATE_REDIS_URL": redis.enter_context(redis_server(redis_folder, free_port()))}
        config = write_config(tmp_path, proxy=("redis_timeout_ms: 1000", "redis_timeout_ms: 200"))
        async with running(tmp_path, config=config, environ=environ) as stack:
            await stack.ask(chat(max_tokens=5))
            before = (await view(stack, "/v1/usage"))[1]
            redis.close()
            _, usage, headers = await view(stack, "/v1/usage")
            assert headers["X-RateLimit-Degraded"] == "true"
            assert usage["degraded"]
            assert by_name(usage)["requests"]["limit"] == 250
            assert usage["month"] == before["month"]


async def test_while_the_database_is_away_the_answer_is_the_documented_503_and_calls_go_on(embedded):
    away = Database.open(f"postgresql://nobody@127.0.0.1:{free_port()}/nothing")
    embedded.app.views._reader._database = away
    with ledger_that_takes_nothing(embedded):
        _, _, headers = await embedded.ask(chat(max_tokens=5))
        status, body, got = await view(embedded, "/v1/usage")
        assert (status, body) == (503, UNAVAILABLE)
        assert got["X-RateLimit-Remaining-Requests"] == "999"
        assert (await view(embedded, f"/v1/usage/calls/{uuid7()}"))[:2] == (503, UNAVAILABLE)
        # What has not been shipped yet needs no database.
        assert (await view(embedded, f"/v1/usage/calls/{headers['x-request-id']}"))[0] == 200
    assert (await embedded.ask(chat(max_tokens=5)))[0] == 200
    await away.close()


class Gate:
    """A reader whose every look waits until it is let go."""

    def __init__(self):
        self.open = asyncio.Event()
        self.waiting = 0

    async def entry(self, _account_id, _call_id):
        self.waiting += 1
        try:
            await self.open.wait()
        finally:
            self.waiting -= 1

    async def sums(self, account_id, _day, _month):
        await self.entry(account_id, "")


async def test_a_database_that_does_not_answer_costs_a_bounded_wait_and_no_call_waits_for_it(embedded):
    gate = embedded.app.views._reader = Gate()
    embedded.app.views._read_s = 0.3
    look = asyncio.create_task(view(embedded, "/v1/usage"))
    while not gate.waiting:
        await asyncio.sleep(0)
    assert (await embedded.ask(chat(max_tokens=5)))[0] == 200
    assert not look.done()
    assert (await look)[:2] == (503, UNAVAILABLE)
    gate.open.set()


async def test_a_look_whose_client_has_left_ends_by_itself_and_is_not_cut(embedded):
    gate = embedded.app.views._reader = Gate()
    look = asyncio.create_task(view(embedded, "/v1/usage"))
    while not gate.waiting:
        await asyncio.sleep(0)
    look.cancel()
    with pytest.raises(asyncio.CancelledError):
        await look
    await asyncio.sleep(0.05)
    assert (gate.waiting, embedded.app.views._reading) == (1, 1)
    gate.open.set()
    await embedded.settled()
    assert (gate.waiting, embedded.app.views._reading) == (0, 0)


async def test_looks_are_bounded_for_all_accounts_together(embedded):
    gate = embedded.app.views._reader = Gate()
    looks = [asyncio.create_task(view(embedded, f"/v1/usage/calls/{uuid7()}")) for _ in range(desk.READS_MAX)]
    while gate.waiting < desk.READS_MAX:
        await asyncio.sleep(0.001)
    assert (await view(embedded, "/v1/usage"))[:2] == (503, UNAVAILABLE)
    gate.open.set()
    assert {answer[0] for answer in await asyncio.gather(*looks)} == {404}


# An account that looks too often


async def test_an_account_that_looks_too_often_is_told_when_to_come_again_and_nobody_else_is(embedded):
    now = [1000.0]
    embedded.app.views._pace._clock = lambda: now[0]
    other = await embedded.add_account("globex", "tier2")
    statuses = [(await view(embedded, "/v1/usage/calls/x"))[0] for _ in range(BURST)]
    assert statuses == [404] * BURST
    for path in ("/v1/usage", "/v1/usage/calls/x"):
        status, body, headers = await view(embedded, path)
        assert (status, body) == (429, {"error": LIMITED})
        assert headers["X-RateLimit-Bound"] == "views"
        assert headers["retry-after-ms"] == str(1000 // PER_S)
        assert (headers["Retry-After"], headers["x-should-retry"]) == ("1", "true")
        assert headers["X-RateLimit-Remaining-Requests"] == "1000"
    assert (await view(embedded, "/v1/usage", key=other.token))[0] == 200
    assert (await view(embedded, "/v1/models"))[0] == 200
    assert (await embedded.ask(chat(max_tokens=5)))[0] == 200
    now[0] += 1 / PER_S
    assert [(await view(embedded, "/v1/usage"))[0] for _ in range(2)] == [200, 429]
    now[0] += 1e6
    statuses = [(await view(embedded, "/v1/usage/calls/x"))[0] for _ in range(BURST + 1)]
    assert statuses == [404] * BURST + [429]


def test_the_pace_of_many_accounts_takes_bounded_memory():
    now = [time.monotonic()]
    pace = Pace(lambda: now[0])
    for number in range(3 * ACCOUNTS_KEPT_MAX):
        now[0] += 0.001
        assert pace.take(f"acc_{number}") == 0
        assert len(pace._spent) <= ACCOUNTS_KEPT_MAX


# What the documentation says of it


def shape(value):
    """The names and kinds of everything in a document; of a list, of all that is in it."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(shape(inner), sort_keys=True) for inner in value})
    return type(value).__name__


async def test_the_documented_examples_have_the_shape_of_the_answers(embedded):
    text = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()
    blocks = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    documented = [json.loads(block) for block in blocks if '"object": "usage' in block]
    _, _, headers = await embedded.ask(chat(max_tokens=20))
    answers = [(await view(embedded, path))[1] for path in ("/v1/usage", f"/v1/usage/calls/{headers['x-request-id']}")]
    shown = {answer["object"]: shape(answer) for answer in answers}
    assert {example["object"]: shape(example) for example in documented} == shown
