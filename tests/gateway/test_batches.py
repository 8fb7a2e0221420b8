"""Batches over HTTP: made, looked at and cancelled by their owner, and by nobody else."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from proxy.clock import unix_ms
from proxy.core.batches.objects import BatchFile, BatchStatus, Purpose
from proxy.ledger.batch_schema import batch_files, batches
from proxy.ledger.batches.rows import file_values
from proxy.views.batches import UNFINISHED_MAX
from proxy.views.contract import BODY_BYTES_MAX
from proxy.views.pace import BURST
from tests.core.batches.support import line
from tests.support.stack import Stack, running, write_config

ROUTE = "/v1/batches"
NO_BATCH = {
    "error": {
        "message": "No batch of yours has this id",
        "type": "invalid_request_error",
        "param": "batch_id",
        "code": "batch_not_found",
    }
}
NO_KEY = {"error": {"message": "Invalid API key provided", "type": "authentication_error"}}


@pytest.fixture
async def stack(stores, tmp_path) -> AsyncIterator[Stack]:
    """A proxy, once with each kind of stores, in which nobody works on batches."""
    async with running(tmp_path, environ=stores) as stack:
        await stack.app.batch_work.drain(0)
        stack.app.views._pace.take = lambda _account_id: 0
        yield stack


@pytest.fixture
async def embedded(tmp_path) -> AsyncIterator[Stack]:
    """A proxy with embedded stores, in which nobody works on batches."""
    async with running(tmp_path) as stack:
        await stack.app.batch_work.drain(0)
        yield stack


async def upload(stack, lines=(), *, account=None, purpose=Purpose.BATCH, file_id=None):
    """Keep a file as an upload does; return its id."""

    async def pieces():
        for each in lines or [line()]:
            yield each

    account = account or stack.account
    file_id = file_id or f"file-{unix_ms():032x}"
    written = await stack.app.batch_work.store.write(f"{account}/{file_id}", pieces())
    file = BatchFile(
        file_id, account, purpose, "in.jsonl", written.size_bytes, written.sha256, f"{account}/{file_id}", unix_ms()
    )
    async with stack.app.database.write() as connection:
        await connection.execute(batch_files.insert().values(file_values(file)))
    return file_id


def wanted(file_id, **more):
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
    return {name: value for name, value in body.items() if value is not ...}


async def create(stack, file_id, *, key=None, **more):
    return await stack.ask(wanted(file_id, **more), route=ROUTE, key=key)


async def look(stack, path="", *, key=None, method="GET"):
    async with stack.session.request(method, stack.url + ROUTE + path, headers=stack.auth(key)) as answer:
        return answer.status, await answer.json(content_type=None), answer.headers


async def set_status(stack, batch_id, status):
    async with stack.app.database.write() as connection:
        await connection.execute(batches.update().where(batches.c.id == batch_id).values(status=status.value))


async def test_a_batch_is_made_and_shown_as_it_was_made(stack):
    file_id = await upload(stack)
    before = unix_ms() // 1000
    status, made, headers = await create(stack, file_id, metadata={"run": "nightly"})
    assert status == 200
    assert made["id"].startswith("batch_")
    assert (made["object"], made["status"], made["endpoint"]) == ("batch", "validating", "/v1/chat/completions")
    assert (made["input_file_id"], made["completion_window"]) == (file_id, "24h")
    assert made["metadata"] == {"run": "nightly"}
    assert before <= made["created_at"] <= unix_ms() // 1000
    assert made["expires_at"] == made["created_at"] + 86_400
    assert made["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert made["usage"] is None
    assert headers["cache-control"] == "no-store"
    assert headers["x-request-id"]
    assert headers["X-RateLimit-Limit-Requests"] == "1000"
    status, shown, _ = await look(stack, f"/{made['id']}")
    assert (status, shown) == (200, made)


async def test_it_counts_in_no_limit(stack):
    _, made, headers = await create(stack, await upload(stack))
    assert headers["X-RateLimit-Remaining-Requests"] == "1000"
    _, _, headers = await look(stack, f"/{made['id']}")
    assert headers["X-RateLimit-Remaining-Requests"] == "1000"
    assert await stack.entries() == []


async def test_pages_go_back_in_time(stack):
    file_id = await upload(stack)
    ids = []
    for _ in range(3):
        _, made, _ = await create(stack, file_id)
        ids.insert(0, made["id"])
        await asyncio.sleep(0.002)  # no two in one millisecond
    _, page, _ = await look(stack, "?limit=2")
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (ids[:2], True)
    assert (page["object"], page["first_id"], page["last_id"]) == ("list", ids[0], ids[1])
    _, page, _ = await look(stack, f"?limit=2&after={ids[1]}")
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (ids[2:], False)
    status, error, _ = await look(stack, "?limit=101")
    assert (status, error["error"]["param"]) == (400, "limit")


async def test_another_accounts_batches_and_files_are_as_if_there_were_none(stack):
    stranger = await stack.add_account("stranger", "tier1")
    file_id = await upload(stack)
    _, made, _ = await create(stack, file_id)
    for batch_id in (made["id"], "batch_" + "0" * 32, "batch_", "x" * 300, "%20", "a%00b", "a/b", "%ff"):
        for key in (stranger.token,) if batch_id == made["id"] else (stack.key, stranger.token):
            assert (await look(stack, f"/{batch_id}", key=key))[:2] == (404, NO_BATCH), batch_id
            assert (await look(stack, f"/{batch_id}/cancel", key=key, method="POST"))[:2] == (404, NO_BATCH), batch_id
    assert (await look(stack, key=stranger.token))[1]["data"] == []
    guessed = [await look(stack, f"?after={each}", key=stranger.token) for each in (made["id"], "batch_none")]
    assert guessed[0][:2] == guessed[1][:2]
    assert (guessed[0][0], guessed[0][1]["error"]["param"]) == (400, "after")
    taken = [await create(stack, each, key=stranger.token) for each in (file_id, "file-none")]
    assert taken[0][:2] == taken[1][:2]
    assert (taken[0][0], taken[0][1]["error"]["param"]) == (400, "input_file_id")
    for odd in ("", "a\0b", "é", "x" * 300, "../file"):
        assert (await create(stack, odd))[:2] == taken[0][:2]
    assert (await look(stack, "?after=a%00b"))[1]["error"]["param"] == "after"
    assert (await look(stack, f"/{made['id']}"))[1] == made


async def test_without_a_key_nothing_is_told(embedded):
    _, made, _ = await create(embedded, await upload(embedded))
    for path, method in (("", "GET"), ("", "POST"), (f"/{made['id']}", "GET"), (f"/{made['id']}/cancel", "POST")):
        async with embedded.session.request(method, embedded.url + ROUTE + path) as answer:
            assert (answer.status, await answer.json()) == (401, NO_KEY)


async def test_a_file_has_to_be_one_for_batches(embedded):
    file_id = await upload(embedded, purpose=Purpose.BATCH_OUTPUT)
    status, error, _ = await create(embedded, file_id)
    assert (status, error["error"]["param"]) == (400, "input_file_id")
    assert "purpose 'batch'" in error["error"]["message"]


async def test_a_file_whose_time_has_come_makes_no_batch(stack):
    file_id = await upload(stack)
    async with stack.app.database.write() as connection:
        await connection.execute(batch_files.update().values(expires_ms=unix_ms()))
    gone, unknown = await create(stack, file_id), await create(stack, "file-none")
    assert gone[:2] == unknown[:2]
    assert (gone[0], gone[1]["error"]["param"]) == (400, "input_file_id")
    async with stack.app.database.write() as connection:
        await connection.execute(batch_files.update().values(expires_ms=unix_ms() + 60_000))
    assert (await create(stack, file_id))[0] == 200


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("endpoint", "/v1/responses"),
        ("endpoint", ...),
        ("completion_window", "1h"),
        ("completion_window", ...),
        ("input_file_id", ...),
        ("metadata", {str(number): "" for number in range(17)}),
        ("output_expires_after", {"anchor": "created_at", "seconds": 3599}),
        ("output_expires_after", {"anchor": "created_at"}),
    ],
)
async def test_a_wrong_parameter_is_named(embedded, param, value):
    body = wanted("file-1") | {param: value}
    status, error, _ = await embedded.ask({name: each for name, each in body.items() if each is not ...}, route=ROUTE)
    assert (status, error["error"]["type"], error["error"]["param"]) == (400, "invalid_request_error", param)
    assert (await look(embedded))[1]["data"] == []


async def test_a_body_is_bounded_and_json(embedded):
    for data, expected in ((b"{", 400), (b"x" * (BODY_BYTES_MAX + 1), 413)):
        async with embedded.session.post(embedded.url + ROUTE, data=data, headers=embedded.auth()) as answer:
            assert answer.status == expected
    largest = {str(number).ljust(64, "k"): "\u0001" * 512 for number in range(16)}
    assert (await create(embedded, await upload(embedded), metadata=largest))[0] == 200


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("", "DELETE", "GET, HEAD, POST, OPTIONS"),
        ("/batch_1", "POST", "GET, HEAD, OPTIONS"),
        ("/batch_1/cancel", "GET", "POST, OPTIONS"),
    ],
)
async def test_other_methods_are_told_which_there_are(embedded, path, method, allow):
    status, error, headers = await look(embedded, path, method=method)
    assert (status, error["error"]["code"], headers["allow"]) == (405, "method_not_allowed", allow)


async def test_cancelling_is_said_once_or_more(stack):
    _, made, _ = await create(stack, await upload(stack))
    status, first, _ = await look(stack, f"/{made['id']}/cancel", method="POST")
    assert (status, first["status"]) == (200, "cancelling")
    assert first["cancelling_at"] >= made["created_at"]
    assert (await look(stack, f"/{made['id']}/cancel", method="POST"))[:2] == (200, first)
    await set_status(stack, made["id"], BatchStatus.CANCELLED)
    assert (await look(stack, f"/{made['id']}/cancel", method="POST"))[:2] == (200, first | {"status": "cancelled"})


@pytest.mark.parametrize(
    "status", [BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.FINALIZING]
)
async def test_what_is_over_is_not_cancelled(embedded, status):
    _, made, _ = await create(embedded, await upload(embedded))
    await set_status(embedded, made["id"], status)
    code, error, _ = await look(embedded, f"/{made['id']}/cancel", method="POST")
    assert (code, error["error"]["message"]) == (400, f"A batch with status '{status.value}' cannot be cancelled")
    assert (await look(embedded, f"/{made['id']}"))[1]["status"] == status.value


async def test_an_allowance_that_is_used_up_is_told_at_once_and_no_sdk_insists(embedded):
    file_id = await upload(embedded)
    _, made, _ = await create(embedded, file_id)
    async with embedded.app.database.write() as connection:
        await connection.execute(batches.update().values(enqueued_tokens=200_000_000))
    status, error, headers = await create(embedded, file_id)
    assert (status, error["error"]["code"]) == (429, "token_limit_exceeded")
    assert error["error"]["message"].startswith("The limit of 200000000 enqueued tokens has been reached.")
    assert (headers["X-RateLimit-Bound"], headers["x-should-retry"]) == ("batch_enqueued_tokens", "false")
    await set_status(embedded, made["id"], BatchStatus.COMPLETED)
    assert (await create(embedded, file_id))[0] == 200


async def test_a_tier_can_have_no_batches_at_all(tmp_path):
    config = write_config(tmp_path, tiers=("batch_enqueued_tokens: 200_000_000", "batch_enqueued_tokens: 0"))
    async with running(tmp_path, config=config) as stack:
        assert (await create(stack, await upload(stack)))[0] == 429


async def test_so_many_batches_are_unfinished_and_no_more(embedded):
    embedded.app.views._pace.take = lambda _account_id: 0
    file_id = await upload(embedded)
    for _ in range(UNFINISHED_MAX):
        assert (await create(embedded, file_id))[0] == 200
    status, error, headers = await create(embedded, file_id)
    assert (status, error["error"]["code"]) == (429, "batch_limit_exceeded")
    assert (headers["X-RateLimit-Bound"], headers["x-should-retry"]) == ("batches", "false")


async def test_a_tier_that_has_to_be_bought_first_has_no_batches_before(tmp_path):
    config = write_config(
        tmp_path, tiers=("purchase_credit: 200\n", "purchase_credit: 200\n    purchase_required: true\n")
    )
    async with running(tmp_path, config=config) as stack:
        status, _, headers = await create(stack, await upload(stack))
        assert (status, headers["X-RateLimit-Bound"]) == (429, "purchase_credit")


async def test_who_asks_too_often_waits_and_nobody_else_does(embedded):
    answers = [await look(embedded) for _ in range(BURST + 5)]
    refused = [headers for status, _, headers in answers if status == 429]
    assert refused
    assert refused[0]["X-RateLimit-Bound"] == "views"
    other = await embedded.add_account("other", "tier1")
    assert (await look(embedded, key=other.token))[0] == 200


async def test_a_file_with_mistakes_fails_with_their_lines(stores, tmp_path):
    async with running(tmp_path, environ=stores) as stack:
        file_id = await upload(stack, [line("a"), b"{\n", line("a")])
        _, made, _ = await create(stack, file_id)
        async with asyncio.timeout(20):
            while (shown := (await look(stack, f"/{made['id']}"))[1])["status"] == "validating":
                await asyncio.sleep(0.25)
    assert (shown["status"], shown["failed_at"] >= shown["created_at"]) == ("failed", True)
    told = [(each["line"], each["code"], each["param"]) for each in shown["errors"]["data"]]
    assert told == [(2, "invalid_json_line", None), (3, "duplicate_custom_id", "custom_id")]
    assert json.dumps(shown["errors"]["object"]) == '"list"'
