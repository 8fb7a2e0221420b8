"""Files on their way: slow clients, clients that leave, and memory that stays flat with 200 MB in either direction."""

import asyncio
import contextlib
import hashlib
import os
import socket
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import uvloop

from tests.gateway.test_files import ROUTE, ask, form, rows, stored, upload
from tests.support.process import Tollgate
from tests.support.services import S3_KEY_ID, S3_SECRET
from tests.support.stack import Stack, running, write_config

LOOPS = {"uvloop": uvloop.new_event_loop}
"""Run on the loop that serves customers: it tells of back-pressure, and of who leaves, in its own way."""

MEBIBYTE = 1 << 20
LARGE = 200 * MEBIBYTE
FLAT = 64 * MEBIBYTE
"""What 200 MB may add to what a process has taken at most: buffers of a few pieces, and what was loaded for them."""


@pytest.fixture
async def stack(tmp_path) -> AsyncIterator[Stack]:
    """A proxy in which nobody works on batches, and that soon leaves who takes nothing."""
    config = write_config(tmp_path, proxy=("client_stall_s: 120", "client_stall_s: 2"))
    async with running(tmp_path, config=config) as stack:
        await stack.app.batch_work.drain(0)
        yield stack


def desk_of(stack):
    (desk,) = {each for view, each in stack.app.views._desks.items() if view == "file_content"}
    return desk


async def eventually(holds):
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def connected(stack):
    """A client that reads only what it is told to."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.connect(("127.0.0.1", stack.app.port))
        client.setblocking(False)
        yield client


async def asked_content(stack, client, file_id):
    loop = asyncio.get_running_loop()
    head = f"GET {ROUTE}/{file_id}/content HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.key}\r\n\r\n"
    await loop.sock_sendall(client, head.encode())


def counted_reads(stack, monkeypatch):
    """Let the store count what is read."""
    store, counts = stack.app.batch_work.store, {"bytes": 0, "closed": 0}
    read = store.read

    async def counting(*arguments):
        try:
            async with contextlib.aclosing(read(*arguments)) as pieces:
                async for piece in pieces:
                    counts["bytes"] += len(piece)
                    yield piece
        finally:
            counts["closed"] += 1

    monkeypatch.setattr(store, "read", counting)
    return counts


async def test_who_reads_slowly_is_waited_for_and_gets_every_byte(stack, monkeypatch):
    data = os.urandom(24 * MEBIBYTE)
    file = await upload(stack, data)
    counts = counted_reads(stack, monkeypatch)
    loop = asyncio.get_running_loop()
    with connected(stack) as client:
        await asked_content(stack, client, file["id"])
        got = await loop.sock_recv(client, 65_536)
        await asyncio.sleep(0.5)  # nothing more is read than fits on the way
        assert counts["bytes"] < 12 * MEBIBYTE
        while not got.endswith(data[-100:]):
            got += await loop.sock_recv(client, 1 << 20)
    head, _, body = got.partition(b"\r\n\r\n")
    assert f"content-length: {len(data)}".encode() in head.lower()
    assert body == data
    assert counts["closed"] == 1


async def test_who_takes_nothing_for_long_is_left(stack, monkeypatch):
    file = await upload(stack, bytes(24 * MEBIBYTE))
    counts = counted_reads(stack, monkeypatch)
    loop = asyncio.get_running_loop()
    with connected(stack) as client:
        await asked_content(stack, client, file["id"])

        async def left():
            return counts["closed"] == 1

        await eventually(left)
        assert counts["bytes"] < 12 * MEBIBYTE
        assert desk_of(stack).transfers == 0
        with contextlib.suppress(ConnectionResetError):
            got = 1
            while got:
                got = len(await loop.sock_recv(client, 1 << 20))


async def test_a_client_that_leaves_is_read_for_no_longer(stack, monkeypatch):
    file = await upload(stack, bytes(24 * MEBIBYTE))
    counts = counted_reads(stack, monkeypatch)
    loop = asyncio.get_running_loop()
    with connected(stack) as client:
        await asked_content(stack, client, file["id"])
        await loop.sock_recv(client, 65_536)

    async def left():
        return counts["closed"] == 1 and desk_of(stack).transfers == 0

    await eventually(left)
    assert counts["bytes"] < 12 * MEBIBYTE


async def test_what_breaks_off_cannot_be_taken_for_whole(stack, tmp_path: Path):
    file = await upload(stack, bytes(24 * MEBIBYTE))
    (path,) = tmp_path.rglob(file["id"])
    loop = asyncio.get_running_loop()
    with connected(stack) as client:
        await asked_content(stack, client, file["id"])
        await loop.sock_recv(client, 65_536)
        os.truncate(path, MEBIBYTE)
        got = 65_536
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(20):  # long before a connection that waits for the next request is closed
                while piece := await loop.sock_recv(client, 1 << 20):
                    got += len(piece)
        assert got < 24 * MEBIBYTE
    assert desk_of(stack).transfers == 0


async def test_a_connection_goes_on_after_a_file(stack):
    data = os.urandom(3 * MEBIBYTE)
    file = await upload(stack, data)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        addresses = set()
        for _ in range(3):
            async with session.get(f"{stack.url}{ROUTE}/{file['id']}/content", headers=stack.auth()) as answer:
                assert answer.connection is not None
                addresses.add(answer.connection.transport.get_extra_info("sockname"))
                assert await answer.read() == data
    assert len(addresses) == 1


@pytest.mark.parametrize("sent", [100_000, 3 * MEBIBYTE])
async def test_a_client_that_leaves_its_upload_leaves_nothing(stack, sent):
    loop = asyncio.get_running_loop()
    with connected(stack) as client:
        head = (
            f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.key}\r\n"
            f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {sent + 1000}\r\n\r\n"
            '--x\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        )
        await loop.sock_sendall(client, head.encode())
        await loop.sock_sendall(client, bytes(sent))

        async def under_way():
            return desk_of(stack).transfers == 1

        await eventually(under_way)

    async def left():
        return desk_of(stack).transfers == 0 and stack.app.public.spool.files == 0

    await eventually(left)
    assert (await rows(stack), await stored(stack)) == ([], [])


async def test_an_upload_whose_client_leaves_while_it_is_stored_is_whole_or_nothing(stack, monkeypatch):
    store = stack.app.batch_work.store
    write, under_way, may_go_on = store.write, asyncio.Event(), asyncio.Event()

    async def slow(name, chunks):
        async def waiting():
            under_way.set()
            await may_go_on.wait()
            async for chunk in chunks:
                yield chunk

        return await write(name, waiting())

    monkeypatch.setattr(store, "write", slow)
    uploading = asyncio.ensure_future(ask(stack, "POST", ROUTE, data=form(b"some" * 10)))
    await under_way.wait()
    uploading.cancel()

    async def left():
        return desk_of(stack).transfers == 0

    await eventually(left)
    may_go_on.set()

    async def ended():
        return not len(stack.app.tasks)

    await eventually(ended)
    assert (await rows(stack), await stored(stack)) == ([], [])


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had (VmHWM)."""
    for entry in Path(f"/proc/{pid}/status").read_text().splitlines():
        if entry.startswith("VmHWM:"):
            return int(entry.split()[1]) * 1024
    raise AssertionError(pid)


@pytest.fixture(params=["folder", "s3"])
def kept_in(request, tmp_path) -> dict[str, object]:
    """How a proxy keeps its files, once per kind of store."""
    if request.param == "folder":
        return {}
    url = request.getfixturevalue("s3_url")
    place = f"batch:\n  store: s3://tollgate/tests/{uuid.uuid4().hex}\n  s3_endpoint: {url}"
    return {
        "config": write_config(tmp_path, proxy=("batch:", place)),
        "environ": {"TOLLGATE_S3_ACCESS_KEY_ID": S3_KEY_ID, "TOLLGATE_S3_SECRET_ACCESS_KEY": S3_SECRET},
    }


async def test_memory_is_flat_with_200_mb_up_and_down(tmp_path, kept_in):
    proxy = Tollgate(tmp_path / "proxy", "http://127.0.0.1:9", **kept_in)
    key = proxy.create_account("acme")
    proxy.start()
    try:
        assert proxy.process is not None
        pid, block = proxy.process.pid, os.urandom(MEBIBYTE)
        headers = {"Authorization": f"Bearer {key}"}
        async with aiohttp.ClientSession(headers=headers) as session:

            async def there_and_back(blocks: int) -> None:
                async def pieces():
                    for _ in range(blocks):
                        yield block

                wanted = hashlib.sha256()
                for _ in range(blocks):
                    wanted.update(block)
                async with session.post(proxy.url + ROUTE, data=form(pieces())) as answer:
                    assert answer.status == 200, await answer.text()
                    file = await answer.json()
                assert file["bytes"] == blocks * MEBIBYTE
                got = hashlib.sha256()
                async with session.get(f"{proxy.url}{ROUTE}/{file['id']}/content") as answer:
                    assert answer.status == 200
                    async for piece in answer.content.iter_any():
                        got.update(piece)
                assert got.digest() == wanted.digest()

            await there_and_back(1)
            before = peak_bytes(pid)
            await there_and_back(LARGE // MEBIBYTE)
            grown = peak_bytes(pid) - before
        print(f"200 MB up and down: {grown / MEBIBYTE:.0f} MiB more than before")
        assert grown < FLAT
    finally:
        proxy.terminate()
