"""Files over HTTP: uploaded, looked at, handed out and deleted by their owner, and by nobody else."""

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.clock import unix_ms
from proxy.core.batches.objects import BatchStatus
from proxy.files.contract import FileStoreError
from proxy.ledger.batch_schema import batch_files, batches
from proxy.views.files import TRANSFERS_MAX
from proxy.views.pace import BURST
from tests.core.batches.support import line
from tests.ledger.batches.support import add_batch
from tests.support.stack import Stack, running, write_config

ROUTE = "/v1/files"
LINES = b"".join(line(f"c{number}") + b"\n" for number in range(3))
NO_FILE = {
    "error": {
        "message": "No file of yours has this id",
        "type": "invalid_request_error",
        "param": "file_id",
        "code": "file_not_found",
    }
}
NO_KEY = {"error": {"message": "Invalid API key provided", "type": "authentication_error"}}
DAY_S = 86_400
SMALL = ("batch:", "batch:\n  file_bytes_max: 1000\n  account_files_max: 3\n  account_file_bytes_max: 2500")


@pytest.fixture
async def stack(stores, tmp_path) -> AsyncIterator[Stack]:
    """A proxy, once with each kind of stores, in which nobody works on batches."""
    async with running(tmp_path, environ=stores) as stack:
        await stack.app.batch_work.drain(0)
        stack.app.views._pace.take = lambda _account_id: 0
        yield stack


@pytest.fixture
async def embedded(tmp_path) -> AsyncIterator[Stack]:
    """A proxy with embedded stores."""
    async with running(tmp_path) as stack:
        await stack.app.batch_work.drain(0)
        yield stack


@pytest.fixture
async def small(tmp_path) -> AsyncIterator[Stack]:
    """A proxy that takes little."""
    async with running(tmp_path, config=write_config(tmp_path, proxy=SMALL)) as stack:
        await stack.app.batch_work.drain(0)
        stack.app.views._pace.take = lambda _account_id: 0
        yield stack


def form(content=LINES, *, purpose="batch", filename="in é.jsonl", file_first=False, **more):
    """Return a form as an SDK sends it."""
    made = aiohttp.FormData(quote_fields=False)
    content = io.BytesIO(content) if isinstance(content, bytes) else content
    fields = [("purpose", purpose, {}), *((name, value, {}) for name, value in more.items())]
    if purpose is None:
        fields = fields[1:]
    file = ("file", content, {"filename": filename, "content_type": "application/octet-stream"})
    for name, value, options in [file, *fields] if file_first else [*fields, file]:
        made.add_field(name, value, **options)
    return made


async def ask(stack, method, path, *, key=None, **options):
    """Ask; return status, body (decoded, where it is JSON) and headers."""
    headers = {**stack.auth(key), **options.pop("headers", {})}
    async with stack.session.request(method, stack.url + path, headers=headers, **options) as answer:
        body = await answer.read()
        if answer.content_type == "application/json" and body:
            body = json.loads(body)
        return answer.status, body, answer.headers


async def upload(stack, content=LINES, *, key=None, **more):
    status, body, _ = await ask(stack, "POST", ROUTE, key=key, data=form(content, **more))
    assert status == 200, body
    return body


async def rows(stack):
    async with stack.app.database.read() as connection:
        return [dict(row) for row in (await connection.execute(batch_files.select())).mappings()]


async def stored(stack):
    return [each.name async for each in stack.app.batch_work.store.stored("")]


@pytest.mark.parametrize("file_first", [False, True])
async def test_a_file_is_uploaded_seen_listed_read_and_deleted(stack, file_first):
    before_s = unix_ms() // 1000
    status, file, headers = await ask(stack, "POST", ROUTE, data=form(file_first=file_first))
    assert status == 200
    assert before_s <= file["created_at"] <= unix_ms() // 1000
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(LINES),
        "created_at": file["created_at"],
        "expires_at": file["created_at"] + 30 * DAY_S,
        "filename": "in é.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    assert file["id"].startswith("file-")
    assert len(file["id"]) == 37
    assert headers["Cache-Control"] == "no-store"
    assert "x-request-id" in headers
    assert "X-RateLimit-Limit-Requests" in headers or any(name.lower().startswith("x-ratelimit") for name in headers)

    path = f"{ROUTE}/{file['id']}"
    assert (await ask(stack, "GET", path))[:2] == (200, file)
    listed = {"object": "list", "data": [file], "first_id": file["id"], "last_id": file["id"], "has_more": False}
    assert (await ask(stack, "GET", ROUTE))[:2] == (200, listed)

    status, content, headers = await ask(stack, "GET", f"{path}/content")
    assert (status, content) == (200, LINES)
    assert headers["Content-Length"] == str(len(LINES))
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "x-request-id" in headers

    assert (await ask(stack, "DELETE", path))[:2] == (200, {"id": file["id"], "object": "file", "deleted": True})
    for method, gone in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
        assert (await ask(stack, method, gone))[:2] == (404, NO_FILE)
    assert (await ask(stack, "GET", ROUTE))[1]["data"] == []
    await stack.app.batch_work.retention.turn()
    assert (await rows(stack), await stored(stack)) == ([], [])


async def test_another_accounts_file_is_answered_like_one_that_does_not_exist(stack):
    other = await stack.add_account("other", "tier1")
    file = await upload(stack)
    unknown = f"file-{0:032x}"
    for method, end in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        theirs, nobodys = [
            await ask(stack, method, f"{ROUTE}/{name}{end}", key=other.token) for name in (file["id"], unknown)
        ]
        assert theirs[:2] == nobodys[:2] == (404, NO_FILE)
        assert theirs[2].keys() == nobodys[2].keys()
    assert (await ask(stack, "GET", ROUTE, key=other.token))[1]["data"] == []
    for name in (file["id"], unknown):
        status, body, _ = await ask(stack, "GET", f"{ROUTE}?after={name}", key=other.token)
        assert (status, body["error"]["param"]) == (400, "after")
    assert (await ask(stack, "GET", f"{ROUTE}/{file['id']}/content"))[1] == LINES


@pytest.mark.parametrize(
    "name", ["..", ".", "%2e%2e", "..%2f..%2fledger.db", "file-%00", "a%2fb", "%ff", "x" * 3000, "file-1%0d%0ax:%20y"]
)
async def test_an_id_is_no_path(embedded, name):
    for end in ("", "/content"):
        path = aiohttp.client.URL(f"{embedded.url}{ROUTE}/{name}{end}", encoded=True)
        async with embedded.session.get(path, headers=embedded.auth()) as answer:
            assert answer.status == 404


@pytest.mark.parametrize(("method", "end"), [("POST", ""), ("GET", ""), ("GET", "/x"), ("GET", "/x/content")])
async def test_nobody_without_a_key_sees_anything(embedded, method, end):
    data = form() if method == "POST" else None
    async with embedded.session.request(method, f"{embedded.url}{ROUTE}{end}", data=data) as answer:
        assert (answer.status, await answer.json()) == (401, NO_KEY)
    assert await stored(embedded) == []


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        (lambda: form(purpose="fine-tune"), "purpose"),
        (lambda: form(purpose=None), "purpose"),
        (lambda: aiohttp.FormData({"purpose": "batch", "file": "text"}), "purpose"),
        (lambda: form(**{"expires_after[anchor]": "created_at"}), "expires_after[seconds]"),
        (
            lambda: form(**{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"}),
            "expires_after[seconds]",
        ),
        (
            lambda: form(**{"expires_after[anchor]": "created_at", "expires_after[seconds]": "1e5"}),
            "expires_after[seconds]",
        ),
        (lambda: form(**{"expires_after[anchor]": "now", "expires_after[seconds]": "7200"}), "expires_after[anchor]"),
    ],
)
async def test_what_is_no_upload_is_refused_and_leaves_nothing(embedded, sent, param):
    data = sent()
    if not data.is_multipart:
        data = aiohttp.FormData()
        data.add_field("purpose", "batch", content_type="text/plain")
        data.add_field("files", "x", filename="x")
        param = "file"
    status, body, _ = await ask(embedded, "POST", ROUTE, data=data)
    assert (status, body["error"]["type"], body["error"]["param"]) == (400, "invalid_request_error", param)
    assert (await rows(embedded), await stored(embedded)) == ([], [])
    assert embedded.app.public.spool.files == 0


async def test_a_body_that_is_no_form_is_refused(embedded):
    status, body, _ = await ask(embedded, "POST", ROUTE, json={"purpose": "batch"})
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(("seconds", "expires_s"), [(3600, 3600), (2_592_000, 30 * DAY_S)])
async def test_an_owner_may_have_a_file_deleted_earlier(embedded, seconds, expires_s):
    wanted = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(seconds)}
    file = await upload(embedded, **wanted)
    assert file["expires_at"] == file["created_at"] + expires_s


async def test_a_filename_is_its_owners_word_and_no_path(embedded):
    file = await upload(embedded, filename="../../a.jsonl" + "x" * 300)
    assert file["filename"] == "x" * 255
    assert [name.partition("/")[0] for name in await stored(embedded)] == ["files"]


async def test_an_empty_file_is_a_file(embedded):
    file = await upload(embedded, b"")
    assert file["bytes"] == 0
    assert (await ask(embedded, "GET", f"{ROUTE}/{file['id']}/content"))[1] == b""


@pytest.mark.parametrize("chunked", [False, True])
async def test_what_is_too_large_is_refused_and_leaves_nothing(small, chunked):
    for size, expected in ((1000, 200), (1001, 413), (400_000, 413)):
        data = form(bytes(size))()
        if chunked:

            async def pieces(payload=data):
                writer = _Collected()
                await payload.write(writer)
                yield bytes(writer.data)

            status, body, _ = await ask(
                small, "POST", ROUTE, data=pieces(), headers={"Content-Type": data.headers["Content-Type"]}
            )
        else:
            status, body, _ = await ask(small, "POST", ROUTE, data=data)
        assert status == expected, body
        if expected == 413:
            assert body["error"]["type"] == "invalid_request_error"
    assert len(await rows(small)) == len(await stored(small)) == 1
    assert small.app.public.spool.files == 0


class _Collected:
    """Takes what a form writes."""

    def __init__(self):
        self.data = bytearray()

    async def write(self, piece):
        self.data += piece


async def test_an_account_keeps_so_much_and_no_more(small):
    first = await upload(small, bytes(1000))
    await upload(small, bytes(1000))
    status, body, _ = await ask(small, "POST", ROUTE, data=form(bytes(501)))
    assert (status, body["error"]["code"]) == (400, "file_storage_exceeded")
    await upload(small, bytes(500))
    status, body, _ = await ask(small, "POST", ROUTE, data=form(b""))
    assert (status, body["error"]["code"]) == (400, "file_storage_exceeded")
    other = await small.add_account("other", "tier1")
    await upload(small, bytes(1000), key=other.token)
    assert len(await stored(small)) == 4
    await ask(small, "DELETE", f"{ROUTE}/{first['id']}")
    await small.app.batch_work.retention.turn()
    await upload(small, b"")


async def test_a_file_that_an_unfinished_batch_reads_cannot_be_deleted(stack):
    file = await upload(stack)
    await add_batch(stack.app.database, stack.account, input_file_id=file["id"], status=BatchStatus.VALIDATING)
    status, body, _ = await ask(stack, "DELETE", f"{ROUTE}/{file['id']}")
    assert (status, body["error"]["code"]) == (400, "file_in_use")
    async with stack.app.database.write() as connection:
        await connection.execute(batches.update().values(status=BatchStatus.CANCELLED.value))
    assert (await ask(stack, "DELETE", f"{ROUTE}/{file['id']}"))[0] == 200


async def test_a_list_is_read_page_by_page(stack):
    made = [(await upload(stack, bytes(number)))["id"] for number in range(5)]
    for order, wanted in (("desc", made[::-1]), ("asc", made)):
        found, after, more = [], "", True
        while more:
            status, body, _ = await ask(stack, "GET", f"{ROUTE}?limit=2&order={order}&purpose=batch{after}")
            assert status == 200
            found += [each["id"] for each in body["data"]]
            more, after = body["has_more"], f"&after={body['last_id']}"
        assert found == wanted
    assert (await ask(stack, "GET", f"{ROUTE}?purpose=batch_output"))[1]["data"] == []


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "order=up", "after=file-unknown"])
async def test_a_page_that_cannot_be_is_refused(embedded, query):
    status, body, _ = await ask(embedded, "GET", f"{ROUTE}?{query}")
    assert (status, body["error"]["param"]) == (400, query.partition("=")[0])


async def test_methods_and_origins_are_those_of_every_route(tmp_path):
    config = write_config(tmp_path, proxy=('cors_origins: ["*"]', "cors_origins: [https://app.example]"))
    async with running(tmp_path, config=config) as stack:
        for path, allow in (
            (ROUTE, "GET, HEAD, POST, OPTIONS"),
            (f"{ROUTE}/x", "GET, HEAD, DELETE, OPTIONS"),
            (f"{ROUTE}/x/content", "GET, OPTIONS"),
        ):
            status, _, headers = await ask(stack, "PUT", path)
            assert (status, headers["Allow"]) == (405, allow)
            asks = {"Origin": "https://app.example", "Access-Control-Request-Method": allow.split(", ")[-2]}
            async with stack.session.options(stack.url + path, headers=asks) as answer:
                assert answer.status == 204
                assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
        file = await upload(stack)
        origin = {"Origin": "https://app.example"}
        for path in (ROUTE, f"{ROUTE}/{file['id']}", f"{ROUTE}/{file['id']}/content"):
            _, _, headers = await ask(stack, "GET", path, headers=origin)
            assert headers["Access-Control-Allow-Origin"] == "https://app.example"


async def test_looking_too_often_is_paced(embedded):
    statuses = [(await ask(embedded, "GET", ROUTE))[0] for _ in range(BURST + 3)]
    assert statuses[:BURST] == [200] * BURST
    assert 429 in statuses[BURST:]


async def test_a_store_that_is_away_is_503_and_told(embedded, monkeypatch):
    file = await upload(embedded)
    store = embedded.app.batch_work.store

    async def away(*_):
        raise FileStoreError("away")
        yield b""

    async def refuse(*_):
        raise FileStoreError("away")

    monkeypatch.setattr(store, "read", away)
    monkeypatch.setattr(store, "write", refuse)
    assert (await ask(embedded, "GET", f"{ROUTE}/{file['id']}/content"))[0] == 503
    assert (await ask(embedded, "POST", ROUTE, data=form()))[0] == 503
    assert len(await rows(embedded)) == 1


async def test_transfers_are_bounded(embedded):
    file = await upload(embedded)
    embedded.app.views._desks  # noqa: B018 - there is one
    (desk,) = {each for view, each in embedded.app.views._desks.items() if view == "file_content"}
    desk.transfers = TRANSFERS_MAX
    assert (await ask(embedded, "GET", f"{ROUTE}/{file['id']}/content"))[0] == 503
    assert (await ask(embedded, "POST", ROUTE, data=form()))[0] == 503
    assert (await ask(embedded, "GET", ROUTE))[0] == 200
    desk.transfers = 0
    assert (await ask(embedded, "GET", f"{ROUTE}/{file['id']}/content"))[0] == 200
    assert desk.transfers == 0


async def test_a_file_that_has_lost_its_bytes_is_an_error_and_no_empty_file(embedded, tmp_path: Path):
    file = await upload(embedded)
    (path,) = tmp_path.rglob(file["id"])
    path.unlink()
    assert (await ask(embedded, "GET", f"{ROUTE}/{file['id']}/content"))[0] == 503
