"""The outbox's file: an SQLite database in WAL mode.

What belongs here: its tables and every statement on them, blocking. What does not: threads, futures and
queues (outbox.py).

Entries lie in *groups*, one row a transaction: one statement then writes any number of calls, and the
interpreter lock is let go of once. synchronous=FULL makes an acknowledged transaction survive a kill and a
loss of power.
"""

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from proxy.core.entries import Entry
from proxy.ledger.errors import OutboxError, OutboxLockedError

GROUP_MAX: Final = 512
"""Most calls in one group: bounds a row, and what one failure can take with it."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS groups (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    entries INTEGER NOT NULL,
    oldest_ms INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS checkpoints (
    call_id TEXT PRIMARY KEY,
    settled_ms INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS refused (
    call_id TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
"""
_INSERT_GROUP: Final = "INSERT INTO groups (entries, oldest_ms, body) VALUES (?, ?, ?)"

encode_entry: Final = msgspec.json.Encoder().encode
_decode_entries: Final = msgspec.json.Decoder(list[Entry]).decode
_decode_entry: Final = msgspec.json.Decoder(Entry).decode


class Stored(msgspec.Struct, frozen=True, gc=False):
    """An entry as it is written: what the file must know of it, and its JSON."""

    call_id: str
    settled_ms: int
    body: bytes

    @classmethod
    def of(cls, entry: Entry) -> "Stored":
        """Encode an entry."""
        return cls(entry.call_id, entry.settled_ms, encode_entry(entry))


class GroupInfo(msgspec.Struct, frozen=True):
    """What is known of a group without reading it."""

    seq: int
    entries: int
    oldest_ms: int


class Group(msgspec.Struct, frozen=True):
    """Entries that were committed in one transaction, and the number under which they are removed."""

    seq: int
    entries: list[Entry]


class Changes(msgspec.Struct, frozen=True):
    """One transaction's worth.

    Args:
        commits: settled calls.
        checkpoints: of calls in flight; each replaces that call's last one.
        forgotten: call ids whose checkpoint goes.
        removed: numbers of groups that the ledger has.
        refused: call id, reason and JSON of entries that the ledger can never take.
    """

    commits: Sequence[Stored] = ()
    checkpoints: Sequence[Stored] = ()
    forgotten: Iterable[str] = ()
    removed: Sequence[int] = ()
    refused: Sequence[tuple[str, str, bytes]] = ()


class OutboxFile:
    """The open file: one connection to write, for one thread, and one to read, for any.

    Raises:
        OutboxLockedError: another process has it open.
        OutboxError: it cannot be opened, or is no outbox.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._reading = threading.Lock()
        self._lock_fd = _lock(path)
        try:
            self._writer = _connect(f"{path.absolute().as_uri()}?mode=rwc")
            self._writer.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {_SCHEMA}")
            self._reader = open_to_read(path)
        except sqlite3.Error as exc:
            os.close(self._lock_fd)
            raise OutboxError(f"the outbox {path} cannot be opened: {exc}") from exc

    def write(self, changes: Changes) -> GroupInfo | None:
        """Write everything durably, or nothing; return the group that the commits became.

        Raises:
            OutboxError: nothing was written.
        """
        try:
            if changes.commits and not (changes.checkpoints or changes.forgotten or changes.removed or changes.refused):
                return self._add(changes.commits)  # the usual case: one statement is a transaction by itself
            self._writer.execute("BEGIN IMMEDIATE")
            added = self._write(changes)
            self._writer.execute("COMMIT")
        except sqlite3.Error as exc:
            with contextlib.suppress(sqlite3.Error):  # after some errors SQLite has rolled back by itself
                self._writer.execute("ROLLBACK")
            raise OutboxError(f"the outbox {self.path} cannot be written: {exc}") from exc
        return added

    def _write(self, changes: Changes) -> GroupInfo | None:
        many = self._writer.executemany
        added = self._add(changes.commits) if changes.commits else None
        if changes.checkpoints:
            many(
                "INSERT OR REPLACE INTO checkpoints (call_id, settled_ms, body) VALUES (?, ?, ?)",
                [(stored.call_id, stored.settled_ms, stored.body) for stored in changes.checkpoints],
            )
        if changes.forgotten:
            many("DELETE FROM checkpoints WHERE call_id = ?", [(call_id,) for call_id in changes.forgotten])
        if changes.refused:
            many("INSERT OR REPLACE INTO refused (call_id, reason, body) VALUES (?, ?, ?)", changes.refused)
        if changes.removed:
            many("DELETE FROM groups WHERE seq = ?", [(seq,) for seq in changes.removed])
        return added

    def _add(self, commits: Sequence[Stored]) -> GroupInfo:
        oldest_ms = min(stored.settled_ms for stored in commits)
        body = b"[%b]" % b",".join([stored.body for stored in commits])
        seq = self._writer.execute(_INSERT_GROUP, (len(commits), oldest_ms, body)).lastrowid
        return GroupInfo(seq or 0, len(commits), oldest_ms)

    def recover(self) -> tuple[int, list[GroupInfo]]:
        """Make entries of the checkpoints that an earlier process left.

        Returns:
            How many there were, and every group, oldest first.

        Raises:
            OutboxError: the file cannot be read or written.
        """
        try:
            left = [
                Stored(*row)
                for row in self._writer.execute("SELECT call_id, settled_ms, body FROM checkpoints ORDER BY call_id")
            ]
            for start in range(0, len(left), GROUP_MAX):
                some = left[start : start + GROUP_MAX]
                self.write(Changes(commits=some, forgotten=[stored.call_id for stored in some]))
            rows = self._writer.execute("SELECT seq, entries, oldest_ms FROM groups ORDER BY seq")
            return len(left), [GroupInfo(*row) for row in rows]
        except sqlite3.Error as exc:
            raise OutboxError(f"the outbox {self.path} cannot be read: {exc}") from exc

    def oldest(self, entries_max: int) -> list[Group]:
        """Return the oldest groups that together hold at most ``entries_max`` entries; one, if it holds more.

        Raises:
            OutboxError: the file cannot be read.
        """
        with self._reading:
            return read_oldest(self.path, self._reader, entries_max)

    def pending_of(self, account_id: str) -> list[Entry]:
        """Return the entries of an account. Raises ``OutboxError``."""
        with self._reading, _reading(self.path):
            return _pending_of(self._reader, account_id)

    def close(self) -> None:
        """Let go of the file, after everything was written."""
        with self._reading:
            self._reader.close()
        self._writer.close()
        os.close(self._lock_fd)


def open_to_read(path: Path) -> sqlite3.Connection:
    """Return a connection that only reads, beside the one writer, in this process or another.

    Raises:
        OutboxError: the file cannot be opened.
    """
    with _reading(path):
        return _connect(f"{path.absolute().as_uri()}?mode=ro")


def read_oldest(path: Path, reader: sqlite3.Connection, entries_max: int) -> list[Group]:
    """Return the oldest groups that together hold at most ``entries_max`` entries; one, if it holds more.

    Raises:
        OutboxError: the file cannot be read.
    """
    groups: list[Group] = []
    count = 0
    with _reading(path):
        cursor = reader.execute("SELECT seq, entries, body FROM groups ORDER BY seq")
        with contextlib.closing(cursor):  # an open cursor would hold its snapshot, and the WAL would grow
            for seq, entries, body in cursor:
                count += entries
                if groups and count > entries_max:
                    break
                groups.append(Group(seq, _decode_entries(body)))
    return groups


def read_pending(
    path: Path, account_id: str, *, call_id: str | None = None, entries_max: int | None = None
) -> list[Entry]:
    """Return the entries of an account in an outbox that another process may have open; nothing is changed.

    Args:
        path: the SQLite file.
        account_id: whose.
        call_id: of the one call that is looked for; None: of all.
        entries_max: stop when there are more: the last group's are all returned; None: return all.

    Raises:
        OutboxError: the file cannot be read.
    """
    with _read_beside(path) as connection:
        return _pending_of(connection, account_id, call_id, entries_max)


def read_pending_of_month(
    path: Path, month: str, account_id: str | None = None, *, entries_max: int | None = None
) -> list[Entry]:
    """Return the entries of a billing month, of one account or of all; otherwise as ``read_pending``."""
    with _read_beside(path) as connection:
        return _found(
            connection,
            f'"month":"{month}"' if account_id is None else account_id,
            lambda entry: entry.month == month and account_id in {None, entry.account_id},
            entries_max,
        )


@contextlib.contextmanager
def _read_beside(path: Path) -> Iterator[sqlite3.Connection]:
    # Without a WAL there is nothing to recover, and an immutable opening leaves no files of our user behind.
    how = "mode=ro" if Path(f"{path}-wal").exists() else "immutable=1"
    with _reading(path), contextlib.closing(_connect(f"{path.absolute().as_uri()}?{how}")) as connection:
        yield connection


def read_waiting(path: Path, entries_max: int) -> tuple[list[Entry], list[Entry], list[Entry]]:
    """Return what an outbox that another process may have open holds of all accounts; nothing is changed.

    Args:
        path: the SQLite file.
        entries_max: stop when more wait: the last group's are all returned.

    Returns:
        Entries that wait, entries that were set aside, and the checkpoints of calls in flight.

    Raises:
        OutboxError: the file cannot be read.
    """
    with _read_beside(path) as connection:
        connection.execute("BEGIN")  # one snapshot: a call that ends meanwhile is found once
        waiting: list[Entry] = []
        with contextlib.closing(connection.execute("SELECT body FROM groups ORDER BY seq")) as rows:
            for (body,) in rows:
                waiting += _decode_entries(body)
                if len(waiting) > entries_max:
                    break
        set_aside, noted = (
            [_decode_entry(body) for (body,) in connection.execute(f"SELECT body FROM {table}")]  # noqa: S608
            for table in ("refused", "checkpoints")
        )
        return waiting, set_aside, noted


def _pending_of(
    connection: sqlite3.Connection, account_id: str, call_id: str | None = None, entries_max: int | None = None
) -> list[Entry]:
    return _found(
        connection,
        call_id or account_id,
        lambda entry: entry.account_id == account_id and call_id in {None, entry.call_id},
        entries_max,
    )


def _found(
    connection: sqlite3.Connection, text: str, is_wanted: Callable[[Entry], bool], entries_max: int | None
) -> list[Entry]:
    # instr spares decoding the groups in which the account, the call or the month does not occur at all.
    found: list[Entry] = []
    rows = connection.execute("SELECT body FROM groups WHERE instr(body, ?) ORDER BY seq", (text.encode(),))
    with contextlib.closing(rows):
        for (body,) in rows:
            found += [entry for entry in _decode_entries(body) if is_wanted(entry)]
            if entries_max is not None and len(found) > entries_max:
                break
    return found


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, msgspec.MsgspecError) as exc:
        raise OutboxError(f"the outbox {path} cannot be read: {exc}") from exc


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None, check_same_thread=False)


def _lock(path: Path) -> int:
    # A file of its own: SQLite's locks are lost when anyone in the process closes the database file.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise OutboxError(f"the outbox {path} cannot be opened: {exc.strerror}") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(descriptor)
        raise OutboxLockedError(f"the outbox {path} is in use by another process") from exc
    return descriptor
