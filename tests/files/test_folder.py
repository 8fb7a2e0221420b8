"""The store in a folder: what is its own."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.clock import unix_ms
from proxy.files import folder as folder_module
from proxy.files.contract import FileStoreError
from proxy.files.folder import TEMPORARY, FolderStore
from tests.files.test_contract import DAY_MS, chunks_of, names, read

ROOT = Path(__file__).parents[2]
KILLED = """
import asyncio, sys
from pathlib import Path
from proxy.files.folder import FolderStore

async def endless():
    yield bytes(1_000_000)
    print("wrote", flush=True)
    await asyncio.Event().wait()

asyncio.run(FolderStore(Path(sys.argv[1])).write("files/file-1", endless()))
"""


def temporary(folder: Path) -> list[Path]:
    return list((folder / TEMPORARY).glob("*"))


async def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    processes = [
        subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"wrote\n"
        assert len(temporary(tmp_path)) == 2
        assert await store.tidy(unix_ms() + DAY_MS) == 0
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        assert await store.tidy(unix_ms() - DAY_MS) == 0  # it may be somebody's whose lock is yet to be taken
        assert await store.tidy(unix_ms() + DAY_MS) == 1
        assert len(temporary(tmp_path)) == 1
        assert await names(store, "") == []
    finally:
        for process in processes:
            process.kill()
            process.communicate()


async def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(f"fsync {target.name if is_folder else 'file'}")
        fsync(descriptor)

    def noted_rename(self: Path, target: Path) -> Path:
        done.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    store = FolderStore(tmp_path / "files")
    await store.write("batches/b1/1", chunks_of(b"x"))
    renamed = done.index("rename")
    assert "fsync file" in done[:renamed]
    assert done[renamed + 1 :] == ["fsync b1"]
    for made in (tmp_path.name, "files", "batches"):  # folders that are new are durable too
        assert f"fsync {made}" in done[:renamed]
    done.clear()
    await store.delete("batches/b1/1")
    assert done == ["fsync b1"]


async def test_folders_that_are_empty_are_removed_and_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "files")
    await store.write("batches/b1/1", chunks_of(b"x"))
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (tmp_path / "files").rglob("*") if path.is_dir()}
    assert modes == {0}
    await store.delete("batches/b1/1")
    left = [path for path in (tmp_path / "files").rglob("*") if path.name != TEMPORARY]
    assert [len(path.relative_to(tmp_path / "files").parts) for path in left] == [1]


async def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    store = FolderStore(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileStoreError, match="No space left"):
        await store.write("files/file-1", chunks_of(b"x"))
    monkeypatch.undo()
    assert await names(store, "") == []


async def test_who_leaves_while_the_disk_is_busy_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    busy, may_go_on = asyncio.Event(), threading.Event()
    store = FolderStore(tmp_path)
    await store.write("files/file-1", chunks_of(b"old"))
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            loop.call_soon_threadsafe(busy.set)
            assert may_go_on.wait(30)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    writing = asyncio.ensure_future(store.write("files/file-1", chunks_of(b"new")))
    await busy.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    may_go_on.set()
    for _ in range(500):
        if not temporary(tmp_path):
            break
        await asyncio.sleep(0.01)
    assert await read(store, "files/file-1") == b"old"


async def test_a_file_that_shrinks_is_not_read_for_ever(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    await store.write("files/file-1", chunks_of(bytes(3 * folder_module.PIECE_BYTES)))
    reading: AsyncIterator[bytes] = store.read("files/file-1")
    await anext(reading)
    (path,) = tmp_path.rglob("file-1")
    os.truncate(path, 10)
    with pytest.raises(FileStoreError, match="shorter"):
        await anext(reading)
