"""The outbox: where a settled call is committed first, durably, before its client sees the end.

What belongs here: the one thread that writes, the futures of those who wait for it, and what is known in
memory. What does not: the file (outbox_file.py), and how entries reach the ledger (shipper.py).

Whatever has gathered while the last fsync ran becomes one transaction, so everyone who waits shares its
price. A checkpoint is an entry with the outcome "interrupted"; the call's own commit removes it in the same
transaction, and what a process that died leaves behind becomes entries at the next start. The same call twice
does no harm: the ledger takes an entry once.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

import msgspec
import structlog

from proxy.core.entries import Entry
from proxy.ledger.errors import OutboxError
from proxy.ledger.outbox_file import GROUP_MAX, Changes, Group, GroupInfo, OutboxFile, Stored, encode_entry

_BUSY_GROUP: Final = 8
_LINGER_S: Final = 0.002
"""Where groups are large already, a moment makes them larger: a transaction costs as much as forty entries."""

_log = structlog.get_logger(__name__)


class _Commit(msgspec.Struct, frozen=True):
    future: asyncio.Future[None]
    stored: Stored


class _Checkpoint(msgspec.Struct, frozen=True):
    stored: Stored


class _Forget(msgspec.Struct, frozen=True):
    call_id: str


class _Remove(msgspec.Struct, frozen=True):
    future: asyncio.Future[None]
    seqs: tuple[int, ...]
    refused: tuple[tuple[str, str, bytes], ...]


class _Stop(msgspec.Struct, frozen=True):
    pass


_Operation = _Commit | _Checkpoint | _Forget | _Remove | _Stop


class Outbox:
    """A durable queue of settled calls. Opening it blocks for some milliseconds; nothing else does.

    Args:
        path: the SQLite file; its folder is made when it is missing.
        queue_max: most operations that may wait for the writer; beyond it commits fail and checkpoints are
            dropped.

    Raises:
        OutboxLockedError: another process has it open.
        OutboxError: the file cannot be opened, or is no outbox.
    """

    def __init__(self, path: Path, *, queue_max: int = 65_536) -> None:
        self.path: Final = path
        self._file = OutboxFile(path)
        self._queue_max = queue_max
        self._queue: queue.SimpleQueue[_Operation] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.is_failing = False
        """Whether the last transaction failed: what is settled now cannot be recorded."""
        self._filled = asyncio.Event()
        self._reading = threading.Lock()
        self._checkpointed: set[str] = set()
        interrupted, groups = self._file.recover()
        if interrupted:
            _log.warning("outbox_recovered", path=str(path), interrupted_calls=interrupted)
        self._groups = {group.seq: group for group in groups}
        self._depth = sum(group.entries for group in groups)
        self._oldest_ms = groups[0].oldest_ms if groups else None
        self._thread = threading.Thread(target=self._write_until_stopped, name="outbox", daemon=True)
        self._thread.start()

    # --- for calls ---

    def commit(self, entry: Entry) -> asyncio.Future[None]:
        """Commit a settled call. The future resolves once the entry would survive a crash.

        It fails with ``OutboxError`` when the entry is not durable: disk full, I/O error, queue full, closed.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = self._loop.create_future()
        if self._closed or self._queue.qsize() >= self._queue_max:
            future.set_exception(OutboxError("the outbox is closed" if self._closed else "the outbox cannot keep up"))
        else:
            self._queue.put(_Commit(future, Stored.of(entry)))
        return future

    def checkpoint(self, entry: Entry) -> None:
        """Note what a call in flight has used so far, in place of what was noted before.

        It becomes an entry if this process dies. Nothing is waited for; a checkpoint that cannot be kept is
        dropped: the next one, or the commit, says more.
        """
        if not self._closed and self._queue.qsize() < self._queue_max:
            self._queue.put(_Checkpoint(Stored.of(entry)))

    def forget(self, call_id: str) -> None:
        """Remove a call's checkpoint: it will have no entry."""
        if not self._closed:
            self._queue.put(_Forget(call_id))

    # --- for whoever watches ---

    @property
    def depth(self) -> int:
        """Entries that are durable here and not known to be in the ledger."""
        return self._depth

    @property
    def oldest_ms(self) -> int | None:
        """When the first of them was settled, Unix milliseconds; None when there is none."""
        return self._oldest_ms

    async def pending_of(self, account_id: str) -> list[Entry]:
        """Return the entries of an account that are not known to be in the ledger; a call may appear twice.

        Raises:
            OutboxError: the file cannot be read.
        """
        return await asyncio.to_thread(self._file.pending_of, account_id)

    # --- for the shipper ---

    async def filled(self) -> None:
        """Wait until there is an entry."""
        while not self._depth:
            self._filled.clear()
            if not self._depth:  # it may have come between the two
                await self._filled.wait()

    async def oldest(self, entries_max: int) -> list[Group]:
        """Return the oldest groups that together hold at most ``entries_max`` entries; one, if it holds more.

        Raises:
            OutboxError: the file cannot be read.
        """
        return await asyncio.to_thread(self._file.oldest, entries_max)

    def remove(self, groups: Iterable[Group], refused: Sequence[tuple[Entry, str]] = ()) -> asyncio.Future[None]:
        """Remove groups that the ledger has; set aside what it can never take, each entry with the reason.

        The future fails with ``OutboxError`` when nothing was removed.
        """
        return self.remove_numbers([group.seq for group in groups], refused)

    def remove_numbers(self, seqs: Sequence[int], refused: Sequence[tuple[Entry, str]] = ()) -> asyncio.Future[None]:
        """Remove groups by their numbers; see ``remove``."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_exception(OutboxError("the outbox is closed"))
        else:
            aside = tuple((entry.call_id, reason, encode_entry(entry)) for entry, reason in refused)
            self._queue.put(_Remove(future, tuple(seqs), aside))
        return future

    async def close(self) -> None:
        """Write what waits, then let go of the file. May be called twice."""
        if not self._closed:
            self._closed = True
            self._queue.put(_Stop())
            await asyncio.to_thread(self._thread.join)
            await asyncio.to_thread(self._file.close)

    # --- the writer thread ---

    def _write_until_stopped(self) -> None:
        stopped = False
        is_busy = False
        while not stopped:
            if is_busy:
                time.sleep(_LINGER_S)
            operations = [self._queue.get()]
            waiting = min(self._queue.qsize(), GROUP_MAX - 1)
            operations += [self._queue.get_nowait() for _ in range(waiting)]
            stopped = isinstance(operations[-1], _Stop)
            is_busy = len(operations) >= _BUSY_GROUP
            self._write(operations)

    def _write(self, operations: list[_Operation]) -> None:
        futures = [operation.future for operation in operations if isinstance(operation, (_Commit, _Remove))]
        error: OutboxError | None = None
        try:
            changes = _changes(operations, self._checkpointed)
            self._remember(changes, self._file.write(changes))
        except OutboxError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001 - whatever it is, someone waits for the answer
            error = OutboxError(f"the outbox {self.path} cannot be written: {exc}")
            error.__cause__ = exc
        self.is_failing = error is not None
        if error is not None:
            _log.error("outbox_write_failed", error=str(error), operations=len(operations))
        if futures:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it everyone who waited
                futures[0].get_loop().call_soon_threadsafe(self._answer, futures, error)

    def _remember(self, changes: Changes, added: GroupInfo | None) -> None:
        self._checkpointed.difference_update(changes.forgotten)
        self._checkpointed.update(stored.call_id for stored in changes.checkpoints)
        depth = self._depth
        if added is not None:
            self._groups[added.seq] = added
            depth += added.entries
        for seq in changes.removed:
            group = self._groups.pop(seq, None)
            depth -= group.entries if group else 0
        self._oldest_ms = next(iter(self._groups.values())).oldest_ms if self._groups else None
        self._depth = depth

    def _answer(self, futures: list[asyncio.Future[None]], error: OutboxError | None) -> None:
        if self._depth:
            self._filled.set()
        for future in futures:
            if future.done():  # whoever waited was cancelled
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)


def _changes(operations: Iterable[_Operation], checkpointed: AbstractSet[str]) -> Changes:
    """Make one transaction of what has gathered: a commit ends a call, and of checkpoints the last counts."""
    commits: list[Stored] = []
    checkpoints: dict[str, Stored] = {}
    ended: set[str] = set()
    removals: list[_Remove] = []
    for operation in operations:
        if type(operation) is _Commit:
            commits.append(operation.stored)
            continue
        match operation:
            case _Checkpoint(stored):
                checkpoints[stored.call_id] = stored
            case _Forget(call_id):
                ended.add(call_id)
            case _Remove():
                removals.append(operation)
    if checkpointed or checkpoints:
        ended.update(stored.call_id for stored in commits)
    return Changes(
        commits=commits,
        checkpoints=[stored for call_id, stored in checkpoints.items() if call_id not in ended],
        forgotten=ended & checkpointed,
        removed=[seq for removal in removals for seq in removal.seqs],
        refused=[row for removal in removals for row in removal.refused],
    )
