"""A file store in a folder of this machine.

What belongs here: files, their folders, and what makes them durable. What does not: what is in them.

A file is written under a temporary name, brought to disk, and renamed: who reads sees all of it or nothing. Files lie
in 256 folders, by a hash of the first two parts of their name, so that no folder holds all of them and what belongs
together lies together.

Disks block: whatever touches one runs in a thread, in large pieces. A writer that is cancelled leaves its thread to
finish what it does; what it was writing is removed after that, in the order of one lock.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import itertools
import os
import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from proxy.files.contract import FileMissingError, FileStoreError, Stored, Written, checked_name, checked_prefix

PIECE_BYTES: Final = 524_288
"""What is written or read at a time."""
LISTED_MAX: Final = 1000
"""How many names a thread brings at a time."""
TEMPORARY: Final = ".writing"
"""Folder of what is being written; no name begins with a dot."""
SHARDS: Final = 256
_SHARDED_PARTS: Final = 2
_RENAMES_MAX: Final = 10
_NS_PER_MS: Final = 1_000_000


class FolderStore:
    """Keeps files in a folder (``proxy.files.contract.FileStore``). Processes of one machine may share it.

    Args:
        folder: made when the first file is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> Written:
        """Keep a file; see the contract."""
        path = self._path(checked_name(name))
        writing = _Writing(self._folder / TEMPORARY)
        try:
            with _translated(name):
                await asyncio.to_thread(writing.begin)
            pending: list[bytes] = []
            size = 0
            async for chunk in chunks:
                pending.append(chunk)
                size += len(chunk)
                if size >= PIECE_BYTES:
                    with _translated(name):
                        await asyncio.to_thread(writing.add, pending)
                    pending, size = [], 0
            with _translated(name):
                return await asyncio.to_thread(writing.finish, pending, path)
        finally:
            writing.abandon()

    async def read(self, name: str, first_byte: int = 0, size_bytes: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes of a file; see the contract."""
        path = self._path(checked_name(name))
        file = _Reading(path)
        try:
            with _translated(name):
                await asyncio.to_thread(file.open)
            end = file.size_bytes if size_bytes is None else first_byte + size_bytes
            if not 0 <= first_byte <= end <= file.size_bytes:
                raise FileStoreError(f"{name} has no bytes {first_byte} to {end}")
            while first_byte < end:
                with _translated(name):
                    piece = await asyncio.to_thread(file.read, first_byte, min(PIECE_BYTES, end - first_byte))
                first_byte += len(piece)
                yield piece
        finally:
            file.close()

    async def delete(self, name: str) -> None:
        """Delete a file; see the contract."""
        path = self._path(checked_name(name))
        with contextlib.suppress(FileMissingError), _translated(name):
            await asyncio.to_thread(self._delete, path)

    async def names(self, prefix: str) -> AsyncIterator[str]:
        """Yield names; see the contract."""
        async for each in self.stored(prefix):
            yield each.name

    async def stored(self, prefix: str) -> AsyncIterator[Stored]:
        """Yield what is there; see the contract."""
        found = self._walk(checked_prefix(prefix))
        while True:
            with _translated(prefix):
                some = await asyncio.to_thread(_some, found)
            for each in some:
                yield each
            if len(some) < LISTED_MAX:
                return

    async def tidy(self, before_ms: int) -> int:
        """Remove what killed writers have left behind; see the contract."""
        with _translated(TEMPORARY):
            return await asyncio.to_thread(_tidy, self._folder / TEMPORARY, before_ms)

    async def close(self) -> None:
        """Nothing is kept open."""

    # In threads

    def _path(self, name: str) -> Path:
        return self._folder / _shard(name) / name

    def _delete(self, path: Path) -> None:
        path.unlink()
        _sync_folder(path.parent)
        shard_depth = len(self._folder.parts) + 1
        for parent in path.parents:  # a folder that is empty is nobody's
            if len(parent.parts) <= shard_depth or not _remove_empty(parent):
                break

    def _walk(self, prefix: str) -> Iterator[Stored]:
        parts = prefix.split("/")
        everywhere = [f"{number:02x}" for number in range(SHARDS)]
        shards = [_shard(prefix)] if len(parts) > _SHARDED_PARTS else everywhere
        beginning = prefix.rpartition("/")[0]
        for shard in shards:
            root = self._folder / shard
            for folder, _, files in os.walk(root / beginning, onerror=_raise_unless_missing):
                for file in files:
                    path = Path(folder, file)
                    name = path.relative_to(root).as_posix()
                    if not name.startswith(prefix):
                        continue
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        found = path.stat()
                        yield Stored(name, found.st_size, found.st_mtime_ns // _NS_PER_MS)


class _Writing:
    """A file that is being written, in threads, one step at a time.

    A lock on it says that its writer lives. Steps that come after its end do nothing, or fail.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / secrets.token_hex(16)
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._is_over = False

    def begin(self) -> None:
        with self._lock:
            if self._is_over:
                return
            _make_folders(self._path.parent)
            self._file = self._path.open("xb", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def add(self, pieces: list[bytes]) -> None:
        with self._lock:
            if self._is_over:
                return
            assert self._file is not None
            for piece in pieces:
                self._digest.update(piece)
                self._size_bytes += len(piece)
                rest = memoryview(piece)
                while rest:
                    rest = rest[self._file.write(rest) :]

    def finish(self, pieces: list[bytes], path: Path) -> Written:
        """Bring it to disk under its name. Raises OSError."""
        self.add(pieces)
        with self._lock:
            os.fsync(self._open_file().fileno())
        with self._lock:  # taken anew: its writer may have left while the disk was busy
            file = self._open_file()
            _rename(self._path, path)
            self._is_over = True
            file.close()
        _sync_folder(path.parent)
        return Written(self._size_bytes, self._digest.hexdigest())

    def _open_file(self) -> BinaryIO:
        if self._is_over or self._is_abandoned or self._file is None:
            raise OSError("its writer has left")
        return self._file

    def abandon(self) -> None:
        """Remove it, unless it has its name: in a thread, after whatever is being done with it."""
        if not self._is_over:
            self._is_abandoned = True  # at once: whoever waits for the disk must not give it its name after that
            asyncio.get_running_loop().run_in_executor(None, self._remove)

    def _remove(self) -> None:
        with self._lock:
            if not self._is_over and self._file is not None:
                with contextlib.suppress(OSError):  # then tidying removes it
                    self._path.unlink()
                self._file.close()
            self._is_over = True


class _Reading:
    """A file that is being read, in threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()
        self._is_over = False
        self.size_bytes = 0

    def open(self) -> None:
        with self._lock:
            if not self._is_over:
                self._file = self._path.open("rb", buffering=0)
                self.size_bytes = os.fstat(self._file.fileno()).st_size

    def read(self, first_byte: int, size_bytes: int) -> bytes:
        with self._lock:
            piece = b"" if self._file is None else os.pread(self._file.fileno(), size_bytes, first_byte)
        if not piece:
            raise OSError("the file is shorter than it was")
        return piece

    def close(self) -> None:
        """Close it after whatever is being read; in a thread."""
        asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        with self._lock:
            self._is_over = True
            if self._file is not None:
                self._file.close()
                self._file = None


def _shard(name: str) -> str:
    key = "/".join(name.split("/")[:_SHARDED_PARTS])
    return hashlib.sha256(key.encode()).hexdigest()[:2]


def _make_folders(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    _sync_folder(folder.parent)


def _rename(source: Path, target: Path) -> None:
    for last in (*(False,) * _RENAMES_MAX, True):
        _make_folders(target.parent)
        try:
            source.rename(target)
        except FileNotFoundError:
            if last or not source.exists():  # else its folder was empty at this moment, and removed
                raise
        else:
            return


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # it was empty, and removed: then nothing of it must last
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _some(found: Iterator[Stored]) -> list[Stored]:
    return list(itertools.islice(found, LISTED_MAX))


def _tidy(folder: Path, before_ms: int) -> int:
    """Remove temporary files that nobody holds: the lock of a writer ends with its process."""
    removed = 0
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            if os.fstat(file.fileno()).st_mtime_ns // _NS_PER_MS < before_ms:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                removed += 1
    return removed


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        raise FileMissingError(f"there is no file {name}") from exc
    except OSError as exc:
        raise FileStoreError(f"the folder of files does not do what it should: {exc.strerror or exc}") from exc
