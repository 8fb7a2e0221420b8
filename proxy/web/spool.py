"""The spool: where uploads wait on disk for their upstream.

What belongs here: bytes in an unlinked file, written and read in threads, bounded over all uploads of a process. What
does not: what the bytes are (forms.py).

A file has no name from the beginning, so that nothing is left behind whatever happens to the process. Up to
``MEMORY_BYTES_MAX`` it is no file at all.
"""

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from proxy.core.errors import unavailable

MEMORY_BYTES_MAX: Final = 262_144
"""Up to here an upload stays in memory."""
PIECE_BYTES: Final = 262_144
"""What is read at a time."""


class Spool:
    """The uploads of one process.

    Args:
        folder: where their files are; made when the first of them needs it.
        bytes_max: returns the most bytes that all of them may take on disk.
        failed: told of a disk that does not do what it should.
    """

    def __init__(
        self, folder: Path, bytes_max: Callable[[], int], failed: Callable[[str, BaseException], None]
    ) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self.failed = failed
        self.bytes_on_disk = 0
        self.files = 0

    def new(self) -> "SpooledFile":
        """Return an empty upload; whoever asks for it closes it."""
        return SpooledFile(self)

    def reserve(self, size: int) -> None:
        """Count bytes that will be on disk. Raises ApiError (503) when there is no room for them."""
        if self.bytes_on_disk + size > self._bytes_max():
            raise unavailable()
        self.bytes_on_disk += size

    def open(self) -> BinaryIO:
        """Open a file without a name. Blocks; raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self._folder, buffering=0)


class SpooledFile:
    """Bytes that are too many for memory (``proxy.core.calls.Source``): written once, read as often as needed.

    Threads write and read it; ``close`` waits for none of them: the last one out closes the file, so that no file
    descriptor is closed (and maybe given to somebody else) while a thread still uses it.
    """

    __slots__ = ("_file", "_is_closed", "_lock", "_pending", "_reserved", "_spool", "_users", "size")

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._pending: list[bytes] = []
        self._file: BinaryIO | None = None
        self._reserved = 0
        self._lock = threading.Lock()
        self._users = 0
        self._is_closed = False
        self.size = 0
        spool.files += 1

    def add(self, data: bytes) -> None:
        """Take a piece. Raises ApiError (503) when the disk has no room for it."""
        self._pending.append(data)
        self.size += len(data)
        if self.size > MEMORY_BYTES_MAX:
            missing = self.size - self._reserved
            self._spool.reserve(missing)
            self._reserved += missing

    async def flush(self) -> None:
        """Bring to disk what should not stay in memory; to be awaited before more than a few pieces are added.

        Raises:
            ApiError: 503 when the disk does not take it.
        """
        if self.size <= MEMORY_BYTES_MAX or not self._pending:
            return
        pending, self._pending = self._pending, []
        try:
            await asyncio.to_thread(self._write, pending)
        except OSError as exc:
            self._spool.failed("spool", exc)
            raise unavailable() from exc

    def pieces(self) -> Iterator[bytes]:
        """Return the bytes from the beginning. Blocks: a thread should ask. Raises OSError, also once it is closed."""
        if self.size <= MEMORY_BYTES_MAX:
            if self._pending:
                yield b"".join(self._pending)
            return
        at = 0
        while at < self.size:
            piece = self._read(at)
            at += len(piece)
            yield piece

    def close(self) -> None:
        """Let go of everything; to be called once or more often."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            file = None if self._users else self._file
        self._pending.clear()
        self._spool.files -= 1
        self._spool.bytes_on_disk -= self._reserved
        if file is not None:
            _close_aside(file)

    def _write(self, pieces: list[bytes]) -> None:
        file = self._enter()
        try:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]
        finally:
            self._leave()

    def _read(self, at: int) -> bytes:
        file = self._enter()
        try:
            piece = os.pread(file.fileno(), PIECE_BYTES, at)
        finally:
            self._leave()
        if not piece:
            raise OSError("an upload's file is shorter than it was")
        return piece

    def _enter(self) -> BinaryIO:
        with self._lock:
            if self._is_closed:
                raise OSError("an upload is over")
            self._users += 1
        try:
            if self._file is None:
                self._file = self._spool.open()
        except BaseException:
            self._leave()
            raise
        return self._file

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            is_last = self._is_closed and not self._users
        if is_last and self._file is not None:
            self._file.close()


def _close_aside(file: BinaryIO) -> None:
    """Close in a thread: giving back the pages and blocks of a large file takes milliseconds."""
    asyncio.get_running_loop().run_in_executor(None, file.close)
