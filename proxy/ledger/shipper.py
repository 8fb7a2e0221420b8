"""The shipper: moves entries from the outbox to the ledger.

What belongs here: when to try, how much at once, and what to do when the ledger does not answer or refuses.
What does not: the two ends (outbox.py, store.py).

An entry leaves the outbox only after the ledger has committed it; a crash in between sends it again, and the
ledger takes it once. While the ledger is away entries stay where they are, durable; only an entry that the
ledger can *never* take is set aside inside the outbox, so that it does not hold up everyone else's.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import structlog

from proxy.core.entries import Entry
from proxy.ledger.errors import LedgerRefusedError, LedgerUnavailableError, OutboxError
from proxy.ledger.outbox_file import Group

_log = structlog.get_logger(__name__)

_BACKOFF_FIRST_S: Final = 0.1


class Taker(Protocol):
    """Where entries go: ``store.Ledger``."""

    async def insert(self, new: Sequence[Entry]) -> int:
        """Take entries, each once, all or none."""
        ...


class Waiting(Protocol):
    """Where entries wait: ``outbox.Outbox``, or ``followed_outbox.FollowedOutbox`` in a process beside it."""

    @property
    def depth(self) -> int:
        """Entries that wait."""
        ...

    async def filled(self) -> None:
        """Wait until there is one."""
        ...

    async def oldest(self, entries_max: int) -> list[Group]:
        """Return the oldest groups."""
        ...

    def remove(self, groups: Iterable[Group], refused: Sequence[tuple[Entry, str]] = ()) -> Awaitable[None]:
        """Remove groups that the ledger has."""
        ...


class Shipper:
    """A background task between one outbox and the ledger.

    Args:
        outbox: where entries wait.
        ledger: where they go.
        batch_max: entries in one transaction; at some 10 us of this process's time each, it bounds how long
            whatever else the process does waits for the loop.
        linger_s: how long less than a batch waits for company: a transaction costs much, an entry in it little.
        backoff_max_s: longest wait between two attempts while the ledger is away.
        tried: called after each attempt.
    """

    def __init__(
        self,
        outbox: Waiting,
        ledger: Taker,
        *,
        batch_max: int = 500,
        linger_s: float = 0.2,
        backoff_max_s: float = 15.0,
        tried: Callable[[], None] = lambda: None,
    ) -> None:
        self._outbox = outbox
        self._ledger = ledger
        self._batch_max = batch_max
        self._linger_s = linger_s
        self._backoff_max_s = backoff_max_s
        self._tried = tried
        self._task: asyncio.Task[None] | None = None
        self._draining = asyncio.Event()
        self.is_failing = False
        """Whether the last attempt failed."""
        self.shipped = 0
        """Entries that were new to the ledger, since the start."""
        self.refused = 0
        """Entries that were set aside, since the start."""

    def start(self) -> None:
        """Begin shipping."""
        self._task = asyncio.create_task(self._run(), name="shipper")

    async def drain(self, timeout_s: float) -> bool:
        """Ship what waits, then stop; return whether the outbox is empty. The rest waits for the next start.

        To be called when no more calls are committed, and before the outbox and the database are closed.
        """
        self._draining.set()
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await asyncio.shield(self._task)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        return self._outbox.depth == 0

    async def _run(self) -> None:
        backoff_s = _BACKOFF_FIRST_S
        while not self._draining.is_set() or self._outbox.depth:
            if self._outbox.depth < self._batch_max and not await self._await_entry():
                continue
            try:
                await self._ship_once()
            except Exception as exc:  # noqa: BLE001 - the one task that brings entries home must not end
                self._note_failure(exc)
                self._tried()
                await self._pause(backoff_s)
                backoff_s = min(backoff_s * 2, self._backoff_max_s)
            else:
                self._note_success()
                self._tried()
                backoff_s = _BACKOFF_FIRST_S

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than moments once time is short."""
        if self._draining.is_set():
            await asyncio.sleep(min(seconds, 0.25))
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):  # wait_for would lose a cancellation that comes with the event
                    await self._draining.wait()

    async def _await_entry(self) -> bool:
        """Wait for an entry, and a little for others to join it; False when there is none and we drain."""
        waits = [asyncio.ensure_future(self._outbox.filled()), asyncio.ensure_future(self._draining.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._outbox.depth and self._outbox.depth < self._batch_max:
                await asyncio.wait(waits[1:], timeout=self._linger_s)
        finally:
            for wait in waits:
                wait.cancel()
        return self._outbox.depth > 0

    async def _ship_once(self) -> None:
        groups = await self._outbox.oldest(self._batch_max)
        entries = [entry for group in groups for entry in group.entries]
        try:
            new = await self._insert(entries)
            refused: list[tuple[Entry, str]] = []
        except LedgerRefusedError:
            new, refused = await self._ship_apart(entries)
        await self._outbox.remove(groups, refused)
        self.shipped += new
        self.refused += len(refused)

    async def _insert(self, entries: Sequence[Entry]) -> int:
        """Insert to the end, also when cancelled: a transaction that is cut leaves SQLite locked for a while."""
        work = asyncio.ensure_future(self._ledger.insert(entries))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    async def _ship_apart(self, entries: Sequence[Entry]) -> tuple[int, list[tuple[Entry, str]]]:
        """Ship one at a time: whoever the ledger refuses is set aside, the others arrive."""
        new = 0
        refused: list[tuple[Entry, str]] = []
        for entry in entries:
            try:
                new += await self._insert([entry])
            except LedgerRefusedError as exc:
                refused.append((entry, str(exc)))
                _log.error("ledger_refused_entry", call_id=entry.call_id, account_id=entry.account_id, error=str(exc))
        return new, refused

    def _note_failure(self, exc: Exception) -> None:
        if not self.is_failing:
            self.is_failing = True
            expected = isinstance(exc, (LedgerUnavailableError, OutboxError))
            _log.error(
                "shipping_fails",
                error=str(exc),
                waiting=self._outbox.depth,
                exc_info=None if expected else exc,
            )

    def _note_success(self) -> None:
        if self.is_failing:
            self.is_failing = False
            _log.warning("shipping_resumed", waiting=self._outbox.depth)
