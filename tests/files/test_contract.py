"""What every file store promises."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator

import pytest

from proxy.clock import unix_ms
from proxy.files.contract import FileMissingError, FileStore, FileStoreError, Written
from proxy.files.folder import TEMPORARY, FolderStore
from proxy.files.s3 import S3Store

MIB = 1024 * 1024
DAY_MS = 86_400_000


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def read(store: FileStore, name: str, first_byte: int = 0, size_bytes: int | None = None) -> bytes:
    return b"".join([piece async for piece in store.read(name, first_byte, size_bytes)])


async def names(store: FileStore, prefix: str) -> list[str]:
    return sorted([name async for name in store.names(prefix)])


def some_bytes(size: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, 524_287, 524_288, 524_289, 8 * MIB, 8 * MIB + 1, 20 * MIB + 3])
async def test_what_was_written_is_read(store: FileStore, size: int) -> None:
    data = some_bytes(size)
    cuts = [data[start : start + 300_001] for start in range(0, size, 300_001)]
    written = await store.write("files/file-1", chunks_of(*cuts))
    assert written == Written(size, hashlib.sha256(data).hexdigest())
    assert await read(store, "files/file-1") == data


async def test_a_chunk_may_be_empty_or_larger_than_any_piece(store: FileStore) -> None:
    data = some_bytes(17 * MIB)
    await store.write("files/file-1", chunks_of(b"", data, b"", b"end"))
    assert await read(store, "files/file-1") == data + b"end"


@pytest.mark.parametrize(
    ("first_byte", "size_bytes"),
    [
        (0, 0),
        (0, 1),
        (5, 10),
        (0, None),
        (9 * MIB - 1, None),
        (9 * MIB, None),
        (9 * MIB, 0),
        (MIB, 8 * MIB),
        (17, 5 * MIB),
    ],
)
async def test_a_part_is_read(store: FileStore, first_byte: int, size_bytes: int | None) -> None:
    data = some_bytes(9 * MIB)
    await store.write("files/file-1", chunks_of(data))
    wanted = data[first_byte:] if size_bytes is None else data[first_byte : first_byte + size_bytes]
    assert await read(store, "files/file-1", first_byte, size_bytes) == wanted


@pytest.mark.parametrize(("first_byte", "size_bytes"), [(11, None), (0, 11), (10, 1), (-1, 2), (3, -1)])
async def test_a_part_that_is_not_there_is_not_read(store: FileStore, first_byte: int, size_bytes: int | None) -> None:
    await store.write("files/file-1", chunks_of(b"0123456789"))
    with pytest.raises(FileStoreError):
        await read(store, "files/file-1", first_byte, size_bytes)


@pytest.mark.parametrize("part", [(0, None), (0, 0), (5, 1)])
async def test_a_file_that_is_not_there_is_missing(store: FileStore, part: tuple[int, int | None]) -> None:
    with pytest.raises(FileMissingError):
        await read(store, "files/file-1", *part)


async def test_a_file_of_the_same_name_is_replaced(store: FileStore) -> None:
    await store.write("files/file-1", chunks_of(b"old and long"))
    await store.write("files/file-1", chunks_of(b"new"))
    assert await read(store, "files/file-1") == b"new"
    assert await names(store, "") == ["files/file-1"]


async def test_deleting_twice_is_no_mistake(store: FileStore) -> None:
    await store.write("files/file-1", chunks_of(b"some"))
    await store.write("files/file-2", chunks_of(b"others"))
    await store.delete("files/file-1")
    await store.delete("files/file-1")
    assert await names(store, "") == ["files/file-2"]
    with pytest.raises(FileMissingError):
        await read(store, "files/file-1")


async def test_names_are_found_by_how_they_begin(store: FileStore) -> None:
    made = ["a", "batches/b1/1", "batches/b1/2", "batches/b1/x/3", "batches/b10/1", "batches/b2/1", "files/file-1"]
    for name in made:
        await store.write(name, chunks_of(name.encode()))
    assert await names(store, "") == made
    assert await names(store, "batches/b1/") == ["batches/b1/1", "batches/b1/2", "batches/b1/x/3"]
    assert await names(store, "batches/b1") == ["batches/b1/1", "batches/b1/2", "batches/b1/x/3", "batches/b10/1"]
    assert await names(store, "batches/b1/x") == ["batches/b1/x/3"]
    assert await names(store, "files/file-2") == []
    for name in made:
        await store.delete(name)
    assert await names(store, "") == []


async def test_more_names_than_are_asked_for_at_a_time_are_found(store: FileStore) -> None:
    made = [f"many/{number:04}" for number in range(1203)]
    for start in range(0, len(made), 50):
        await asyncio.gather(*(store.write(name, chunks_of(b"x")) for name in made[start : start + 50]))
    assert await names(store, "many/") == made


async def test_it_is_told_how_long_a_file_is_and_when_it_was_written(store: FileStore) -> None:
    before_ms = unix_ms()
    await store.write("files/file-1", chunks_of(b"12345"))
    (found,) = [each async for each in store.stored("files/")]
    assert (found.name, found.size_bytes) == ("files/file-1", 5)
    # A store of another machine may tell whole seconds.
    assert before_ms - 1000 <= found.written_ms <= unix_ms() + 1000


@pytest.mark.parametrize("sent", [0, 3, 5 * MIB, 20 * MIB])
async def test_an_upload_that_fails_leaves_nothing(store: FileStore, sent: int) -> None:
    async def failing() -> AsyncIterator[bytes]:
        for start in range(0, sent, MIB):
            yield bytes(min(MIB, sent - start))
        raise ConnectionError("the client has left")

    await store.write("files/file-1", chunks_of(b"old"))
    with pytest.raises(ConnectionError):
        await store.write("files/file-1", failing())
    with pytest.raises(ConnectionError):
        await store.write("files/file-2", failing())
    assert await read(store, "files/file-1") == b"old"
    assert await names(store, "") == ["files/file-1"]
    await nothing_is_left(store)


@pytest.mark.parametrize("sent", [0, 3, 5 * MIB, 20 * MIB])
async def test_an_upload_that_is_cancelled_leaves_nothing(store: FileStore, sent: int) -> None:
    waits = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        for start in range(0, sent, MIB):
            yield bytes(min(MIB, sent - start))
        waits.set()
        await asyncio.Event().wait()

    writing = asyncio.ensure_future(store.write("files/file-1", waiting()))
    await waits.wait()
    assert await names(store, "") == []
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await names(store, "") == []
    await nothing_is_left(store)


async def nothing_is_left(store: FileStore) -> None:
    """What the writers had begun is gone, without any tidying."""
    for _ in range(500):  # a thread may still be removing it
        if not await leftovers(store):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("something was left")


async def leftovers(store: FileStore) -> int:
    """Return how many files are being written, or were left by who wrote them."""
    if isinstance(store, FolderStore):
        return len(list((store._folder / TEMPORARY).glob("*")))
    assert isinstance(store, S3Store)
    return len([each async for each in store._pages("list_multipart_uploads", "Uploads", store._prefix)])


async def test_a_writer_that_lives_is_not_tidied_away(store: FileStore) -> None:
    waits, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(10 * MIB)
        waits.set()
        await go_on.wait()
        yield b"end"

    writing = asyncio.ensure_future(store.write("files/file-1", slow()))
    await waits.wait()
    await store.tidy(unix_ms() - DAY_MS)
    go_on.set()
    assert (await writing).size_bytes == 10 * MIB + 3


async def test_many_read_at_once(store: FileStore) -> None:
    data = some_bytes(3 * MIB)
    await store.write("files/file-1", chunks_of(data))
    parts = [(start * 100_000, 100_000 + start) for start in range(20)]
    found = await asyncio.gather(*(read(store, "files/file-1", *part) for part in parts))
    assert found == [data[start : start + size] for start, size in parts]


async def test_many_write_at_once(store: FileStore) -> None:
    async def write_and_read(number: int) -> None:
        data = some_bytes(400_000, number)
        await store.write(f"batches/b{number % 3}/{number}", chunks_of(data))
        assert await read(store, f"batches/b{number % 3}/{number}") == data
        await store.delete(f"batches/b{number % 3}/{number}")

    for _ in range(3):  # folders are made and emptied under each other's hands
        await asyncio.gather(*(write_and_read(number) for number in range(20)))
    assert await names(store, "") == []


async def test_whoever_stops_reading_lets_go_of_the_file(store: FileStore) -> None:
    await store.write("files/file-1", chunks_of(some_bytes(9 * MIB)))
    reading = store.read("files/file-1")
    assert await anext(reading)
    await reading.aclose()  # type: ignore[attr-defined]
    await store.delete("files/file-1")
    assert await names(store, "") == []


LED_ASTRAY = (
    *("", "/etc/passwd", "../up", "files/../../up", "files//x", "files/", "/", ".", "..", ".writing/x", "a/.b", "a b"),
    *("a\n", "a\0b", "é", "a\\b", "a%2fb", "x" * 201, "a/" * 300 + "a"),
)


@pytest.mark.parametrize("name", LED_ASTRAY)
async def test_what_is_no_name_leads_nowhere(store: FileStore, name: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        await store.write(name, chunks_of(b"x"))
    with pytest.raises(ValueError, match="not the name"):
        await read(store, name)
    with pytest.raises(ValueError, match="not the name"):
        await store.delete(name)


@pytest.mark.parametrize("prefix", ["/", "../", "..", "a//", "a/../", ".writing"])
async def test_no_name_begins_in_a_way_that_leads_elsewhere(store: FileStore, prefix: str) -> None:
    with pytest.raises(ValueError, match="begins so"):
        await names(store, prefix)
