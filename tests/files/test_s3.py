"""The object store: what is its own. A network that fails, answers that get lost, credentials that are wrong."""

import asyncio
import contextlib
import logging
import traceback
from collections.abc import AsyncIterator

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from msgspec.structs import replace

from proxy.clock import unix_ms
from proxy.files import s3
from proxy.files.contract import FileStoreError
from proxy.files.s3 import PART_BYTES, PIECE_BYTES, S3Store
from tests.files.conftest import place_at
from tests.files.test_contract import DAY_MS, MIB, chunks_of, names, read, some_bytes
from tests.support.ports import free_port
from tests.support.services import S3_KEY_ID, S3_SECRET


@pytest.fixture
def place(s3_url):
    return place_at(s3_url)


@pytest.fixture
async def store(place) -> AsyncIterator[S3Store]:
    opened = await S3Store.open(place)
    await opened.write("first/made", chunks_of(b"x"))
    await opened.delete("first/made")
    yield opened
    await opened.close()


@contextlib.asynccontextmanager
async def cutting(target_port: int, cut_after: list[int]) -> AsyncIterator[str]:
    """A way to a server: the first connections are cut after so many bytes of answers, later ones are not."""

    async def pass_on(reader, writer, most):
        with contextlib.suppress(OSError):
            while most and (data := await reader.read(min(65_536, most))):
                writer.write(data)
                await writer.drain()
                most -= len(data)
        writer.close()

    async def accept(reader, writer):
        most = cut_after.pop(0) if cut_after else 1 << 40
        there, back = await asyncio.open_connection("127.0.0.1", target_port)
        await asyncio.gather(pass_on(reader, back, 1 << 40), pass_on(there, writer, most), return_exceptions=True)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_a_piece_that_breaks_off_is_asked_for_again(store, place):
    data = some_bytes(9 * MIB)
    await store.write("files/file-1", chunks_of(data))
    target = int(place.endpoint.rpartition(":")[2])
    async with cutting(target, [100_000, 2 * MIB]) as url:
        cut = await S3Store.open(replace(place, endpoint=url))
        assert await read(cut, "files/file-1", 0, len(data)) == data
        await cut.close()


async def test_a_file_that_breaks_off_again_and_again_is_an_error(store, place):
    await store.write("files/file-1", chunks_of(bytes(2 * MIB)))
    target = int(place.endpoint.rpartition(":")[2])
    async with cutting(target, [100_000] * s3.ATTEMPTS) as url:
        cut = await S3Store.open(replace(place, endpoint=url))
        with pytest.raises(FileStoreError, match="breaks off"):
            await read(cut, "files/file-1", 0, 2 * MIB)
        await cut.close()


async def test_a_store_that_is_away_is_an_error_soon_and_nothing_is_left(place):
    store = await S3Store.open(replace(place, endpoint=f"http://127.0.0.1:{free_port()}"))
    async with asyncio.timeout(60):
        for attempt in (
            store.write("files/file-1", chunks_of(b"x")),
            read(store, "files/file-1"),
            store.delete("files/file-1"),
            names(store, ""),
        ):
            with pytest.raises(FileStoreError, match="does not answer"):
                await attempt
    await store.close()


@pytest.mark.parametrize("wrong", [{"secret_access_key": "another-secret"}, {"access_key_id": "ANOTHERKEYID"}])
async def test_wrong_credentials_are_an_error_that_names_none(place, wrong, caplog):
    caplog.set_level(logging.DEBUG)
    place = replace(place, **wrong)
    store = await S3Store.open(place)
    with pytest.raises(FileStoreError, match="refuses tests") as refused:
        await store.write("files/file-1", chunks_of(b"x"))
    told = "".join(traceback.format_exception(refused.value)) + caplog.text + repr(place)
    for secret in (place.access_key_id, place.secret_access_key, S3_KEY_ID, S3_SECRET):
        assert secret not in told
    await store.close()


async def test_nothing_is_logged_of_requests(store, caplog):
    caplog.set_level(logging.DEBUG)
    await store.write("files/file-1", chunks_of(b"a customer's words"))
    await read(store, "files/file-1")
    for secret in (S3_KEY_ID, S3_SECRET, "Signature", "customer"):
        assert secret not in caplog.text


async def test_parts_of_a_killed_writer_are_taken_back_later(store):
    key = {"Bucket": store._bucket, "Key": store._key("files/file-1")}
    began = await store._client.create_multipart_upload(**key)
    await store._client.upload_part(**key, UploadId=began["UploadId"], PartNumber=1, Body=bytes(5 * MIB))
    assert await store.tidy(unix_ms() - DAY_MS) == 0
    assert await store.tidy(unix_ms() + DAY_MS) == 1
    assert await store.tidy(unix_ms() + DAY_MS) == 0


async def test_an_upload_whose_last_answer_got_lost_is_there(store, monkeypatch):
    complete = store._client.complete_multipart_upload

    async def lost(**request):
        await complete(**request)
        # What a second attempt is told of an upload that the first one has ended.
        raise ClientError({"Error": {"Code": "NoSuchUpload"}}, "CompleteMultipartUpload")

    monkeypatch.setattr(store._client, "complete_multipart_upload", lost)
    data = some_bytes(PART_BYTES + 1)
    assert (await store.write("files/file-1", chunks_of(data))).size_bytes == len(data)
    assert await read(store, "files/file-1") == data


async def test_an_upload_that_never_ended_is_not_taken_for_one_that_did(store, monkeypatch):
    async def refused(**request):
        raise EndpointConnectionError(endpoint_url="x")

    old = some_bytes(PART_BYTES + 1, 1)
    await store.write("files/file-1", chunks_of(old))
    monkeypatch.setattr(store._client, "complete_multipart_upload", refused)
    with pytest.raises(FileStoreError):
        await store.write("files/file-1", chunks_of(some_bytes(PART_BYTES + 1, 2)))
    assert await read(store, "files/file-1") == old
    assert await store.tidy(unix_ms() + DAY_MS) == 0


async def test_a_file_that_is_replaced_while_it_is_read_is_an_error_and_no_mixture(store):
    await store.write("files/file-1", chunks_of(some_bytes(2 * PIECE_BYTES, 1)))
    reading = store.read("files/file-1", 0, 2 * PIECE_BYTES)
    await anext(reading)
    await store.write("files/file-1", chunks_of(some_bytes(2 * PIECE_BYTES, 2)))
    with pytest.raises(FileStoreError):
        await anext(reading)


async def test_what_came_otherwise_than_it_left_is_refused(store, monkeypatch):
    body = s3._body

    async def bent(part, digest):
        sent = await body(part, digest)
        return {**sent, "Body": sent["Body"][:-1] + b"?"}

    monkeypatch.setattr(s3, "_body", bent)
    with pytest.raises(FileStoreError, match="BadDigest"):
        await store.write("files/file-1", chunks_of(b"some bytes"))
    assert await names(store, "") == []
