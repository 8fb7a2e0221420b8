"""Files: uploaded, looked at, handed out and deleted by their owner (/v1/files).

What belongs here: which statement and which bytes answer which request. What does not: parameters (core/batches/),
forms and answers as bytes (web/), and the removal of what is over (batching/retention.py).

An upload has come whole, and has been checked, before the store hears of it; its row is made when its bytes are
durable. Whoever dies in between leaves bytes that no row names, which are removed later. What has been handed out in
part cannot be taken back: the first piece is read before the answer begins, and a later one that cannot be read cuts
it.
"""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from proxy.core.batches.creating import no_such_cursor
from proxy.core.batches.expiry import expiry_ms
from proxy.core.batches.objects import BatchFile, Purpose
from proxy.core.batches.pages import page_of
from proxy.core.batches.shown import deletion_shown, file_shown, files_shown
from proxy.core.batches.uploading import (
    LIMIT_MAX,
    WantedFile,
    file_in_use,
    file_not_found,
    no_room_for_files,
    wanted_file,
)
from proxy.core.calls import Source
from proxy.core.errors import ApiError, body_too_large, unavailable
from proxy.files.contract import FileMissingError, FileStore, FileStoreError
from proxy.ledger.batches.files import BatchFiles, Deleted
from proxy.ledger.errors import LedgerError
from proxy.tasks import Tasks
from proxy.views.contract import DELETE, POST, Asked, Caller, Content, View
from proxy.views.queries import parameters_of

TRANSFERS_MAX: Final = 64
"""Uploads and downloads of a process at once: each holds some megabytes, and a thread at times."""
_RANDOM_BYTES: Final = 16
_PIECES_PER_TURN: Final = 4
_NAMES: Final = "files"

T = TypeVar("T")


class FileDesk:
    """Answers views of files (``proxy.views.contract.Desk``).

    Args:
        files: of every account.
        store: has their bytes.
        tasks: where an upload ends whose client has left.
        failed: told of a store that does not do what it should.
        clock_ms: Unix milliseconds.

    Attributes:
        transfers: uploads and downloads at this moment.
    """

    def __init__(
        self,
        files: BatchFiles,
        store: FileStore,
        tasks: Tasks,
        failed: Callable[[str, BaseException], None],
        clock_ms: Callable[[], int],
    ) -> None:
        self._files = files
        self._store = store
        self._tasks = tasks
        self._failed = failed
        self._clock_ms = clock_ms
        self.transfers = 0

    async def answer(self, asked: Asked, caller: Caller, body: bytes) -> bytes | Content:  # noqa: ARG002 - a form
        """Answer; see the contract."""
        if asked.view is View.FILE_CONTENT:
            return await self._content(caller, asked.name)
        if asked.view is View.FILES:
            return await self._upload(asked, caller) if asked.method == POST else await self._page(caller, asked.query)
        if asked.method == DELETE:
            return await self._delete(caller, asked.name)
        return file_shown(await self._one(caller, asked.name))

    async def _one(self, caller: Caller, file_id: str) -> BatchFile:
        file = await self._files.get(caller.account.id, file_id, caller.now_ms)
        if file is None:
            raise file_not_found()
        return file

    async def _page(self, caller: Caller, query: bytes) -> bytes:
        parameters = parameters_of(query)
        page = page_of(parameters, limit_max=LIMIT_MAX, limit_default=LIMIT_MAX, has_order=True)
        found = await self._files.page(caller.account.id, page, parameters.get("purpose") or None, caller.now_ms)
        if found is None:
            raise no_such_cursor()
        files, has_more = found
        return files_shown(files, has_more=has_more)

    async def _delete(self, caller: Caller, file_id: str) -> bytes:
        deleted = await self._files.delete(caller.account.id, file_id, caller.now_ms)
        if deleted is Deleted.NO_FILE:
            raise file_not_found()
        if deleted is Deleted.IN_USE:
            raise file_in_use()
        return deletion_shown(file_id)

    # Up

    async def _upload(self, asked: Asked, caller: Caller) -> bytes:
        with self._transfer():
            settings = caller.settings.proxy.batch
            room = settings.account_files_max, settings.account_file_bytes_max
            if not await self._to_its_end(self._files.has_room(caller.account.id, 0, *room)):
                raise no_room_for_files(*room)
            async with asked.form(settings.file_bytes_max) as form:
                wanted = wanted_file(form)
                if wanted.content.size > settings.file_bytes_max:
                    raise body_too_large(settings.file_bytes_max)
                return file_shown(await self._to_its_end(self._keep(wanted, caller, room)))

    async def _keep(self, wanted: WantedFile, caller: Caller, room: tuple[int, int]) -> BatchFile:
        """Bring a file to the store, then to the ledger. A client that leaves closes the form: then nothing is kept."""
        file_id = f"file-{secrets.token_hex(_RANDOM_BYTES)}"
        name = f"{_NAMES}/{file_id}"
        try:
            written = await self._store.write(name, _whole(wanted.content))
            created_ms = self._clock_ms()
            file = BatchFile(
                file_id,
                caller.account.id,
                Purpose.BATCH,
                wanted.filename,
                written.size_bytes,
                written.sha256,
                name,
                created_ms,
                expiry_ms(created_ms, caller.settings.proxy.batch.input_days, wanted.expires_after_s),
            )
            if await self._files.add(file, *room):
                return file
        except (FileStoreError, OSError) as exc:
            self._failed("upload", exc)
            raise unavailable() from exc
        with contextlib.suppress(FileStoreError):  # then it is an orphan, and removed later
            await self._store.delete(name)
        raise no_room_for_files(*room)

    # Down

    async def _content(self, caller: Caller, file_id: str) -> Content:
        file = await self._to_its_end(self._one(caller, file_id))
        if self.transfers >= TRANSFERS_MAX:
            raise unavailable()
        pieces = self._pieces(file)
        try:
            first = await anext(pieces, b"")
        except FileStoreError as exc:
            if isinstance(exc, FileMissingError) and await self._is_gone(caller, file_id):
                raise file_not_found() from exc  # deleted at this moment
            self._failed("download", exc)
            raise unavailable() from exc
        return Content(file.size_bytes, _after(first, pieces))

    async def _is_gone(self, caller: Caller, file_id: str) -> bool:
        return await self._to_its_end(self._files.get(caller.account.id, file_id, self._clock_ms())) is None

    async def _pieces(self, file: BatchFile) -> AsyncGenerator[bytes, None]:
        with self._transfer():
            async for piece in self._store.read(file.stored_as, 0, file.size_bytes):
                yield piece

    @contextlib.contextmanager
    def _transfer(self) -> Iterator[None]:
        if self.transfers >= TRANSFERS_MAX:
            raise unavailable()
        self.transfers += 1
        try:
            yield
        finally:
            self.transfers -= 1

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work on the ledger that its client's leaving does not cut: a statement that is cut stays open."""

        async def outcome() -> T | ApiError:
            try:
                return await work
            except ApiError as refusal:
                return refusal
            except LedgerError:
                return unavailable()

        found: T | ApiError = await asyncio.shield(self._tasks.spawn(outcome(), "files"))
        if isinstance(found, ApiError):
            raise found
        return found


async def _whole(source: Source) -> AsyncIterator[bytes]:
    """Yield the bytes of an upload: a thread reads a few pieces at a time. Raises OSError, also when it is over."""
    pieces = source.pieces()
    left = source.size
    while some := await asyncio.to_thread(_some, pieces):
        left -= len(some)
        yield some
    if left:
        raise OSError("an upload is over")


def _some(pieces: Iterator[bytes]) -> bytes:
    return b"".join(itertools.islice(pieces, _PIECES_PER_TURN))


async def _after(first: bytes, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(pieces):
        if first:
            yield first
        async for piece in pieces:
            yield piece
