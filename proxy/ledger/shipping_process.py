"""Shipping in a process of its own, from the serving process's side.

What belongs here: starting it, starting it again, what is said to it and what it reports. What does not: shipping
(shipper.py, in shipping_child.py).

Bringing entries home can wait, calls cannot: the process yields to the one that serves, and shares no interpreter
lock with it. Whatever becomes of it, entries are durable in the outbox, which only the serving process writes.
"""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from proxy.core.pricing import PriceBook
from proxy.ledger import prices
from proxy.ledger.errors import OutboxError
from proxy.ledger.location import Location
from proxy.ledger.outbox import Outbox
from proxy.ledger.shipping_messages import (
    LINE_BYTES_MAX,
    Begin,
    Drain,
    KeptVersion,
    Prices,
    Progress,
    Remove,
    Removed,
    ToChild,
    decode_from_child,
    line_of,
)

_log = structlog.get_logger(__name__)

COMMAND: Final = (sys.executable, "-m", "proxy.shipping")
NICER: Final = 15
"""So much nicer than the serving process: in contention it gets about a thirtieth of its share."""
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 15.0
_BACKOFF_AT_END_S: Final = 0.25
_END_S: Final = 5.0
"""For the process to end once it has nothing more to say, and beyond the time to drain."""


class ShippingProcess:
    """Keeps a process that ships one outbox to the ledger. ``Shipper`` has the same verbs.

    Args:
        outbox: whose entries to ship.
        location: where the ledger is.
        book: the prices, so that each version is kept with the entries that name it.
        workers: ship the outboxes beyond those of this many workers, too; None: leave them alone.
        command: what to run.
    """

    def __init__(
        self,
        outbox: Outbox,
        location: Location,
        book: PriceBook,
        *,
        workers: int | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._outbox = outbox
        self._location = location
        self._book = book
        self._workers = workers
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._draining = asyncio.Event()
        self._drain_until_s = 0.0
        self._before = Progress(0, 0, is_failing=False)
        self._now = Progress(0, 0, is_failing=False)
        self.restarts = 0
        """How often the process has died."""

    @property
    def shipped(self) -> int:
        """Entries that were new to the ledger, since the start."""
        return self._before.shipped + self._now.shipped

    @property
    def refused(self) -> int:
        """Entries that were set aside, since the start."""
        return self._before.refused + self._now.refused

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt failed, or the process has died and is not up again."""
        return self._now.is_failing

    @property
    def pid(self) -> int | None:
        """The process id; None while there is no process."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def start(self) -> None:
        """Begin shipping."""
        self._task = asyncio.create_task(self._run(), name="shipping")

    def use_prices(self, book: PriceBook) -> None:
        """Keep the price versions of another book from now on (reloaded settings)."""
        self._book = book
        self._say(Prices(_versions(book)))

    async def drain(self, timeout_s: float) -> bool:
        """Ship what waits, then stop; return whether the outbox is empty. The rest waits for the next start.

        To be called when no more calls are committed, and before the outbox is closed.
        """
        self._drain_until_s = time.monotonic() + timeout_s
        self._draining.set()
        self._say(Drain(timeout_s))
        if self._task is not None:
            await asyncio.wait([self._task], timeout=timeout_s + _END_S)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        return self._outbox.depth == 0

    async def _run(self) -> None:
        backoff_s = _BACKOFF_FIRST_S
        while not self._is_over():
            shipped = self.shipped
            code: int | str
            try:
                code = await self._run_process()
            except Exception as exc:  # noqa: BLE001 - whatever it is, entries must come home
                _log.error("failed", where="shipping", exc_info=exc)
                code = type(exc).__name__
            if self._is_over():
                break
            self.restarts += 1
            self._note_death(code, backoff_s)
            if self.shipped > shipped:
                backoff_s = _BACKOFF_FIRST_S
            await self._pause(backoff_s)
            backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)

    def _is_over(self) -> bool:
        if not self._draining.is_set():
            return False
        return self._outbox.depth == 0 or time.monotonic() >= self._drain_until_s

    async def _pause(self, seconds: float) -> None:
        if self._draining.is_set():
            await asyncio.sleep(min(seconds, _BACKOFF_AT_END_S))
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):  # wait_for would lose a cancellation that comes with the event
                    await self._draining.wait()

    async def _run_process(self) -> int | str:
        """Run one process to its end; return its exit code, or what kept it from starting."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE_BYTES_MAX
            )
        except OSError as exc:
            return str(exc)
        self._process = process
        try:
            step_back(process.pid)
            self._say(self._order())
            if self._draining.is_set():
                self._say(Drain(max(0.0, self._drain_until_s - time.monotonic())))
            await self._listen(process)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _END_S)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()
            self._process = None
        return process.returncode or 0

    def _order(self) -> Begin:
        return Begin(
            outbox=str(self._outbox.path),
            database_url=self._location.database_url,
            versions=_versions(self._book),
            state_dir=str(self._location.state_dir),
            workers=self._workers,
            log_level=logging.getLevelName(logging.getLogger().getEffectiveLevel()),
        )

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                match decode_from_child(line):
                    case Remove() as report:
                        self._say(await self._remove(report))
                    case Progress() as progress:
                        self._now = progress
        except (ValueError, msgspec.MsgspecError) as exc:  # half a line of a process that died, or worse
            _log.warning("shipping_garbled", error=type(exc).__name__)

    async def _remove(self, report: Remove) -> Removed:
        try:
            await self._outbox.remove_numbers(report.seqs, report.refused)
        except OutboxError as exc:
            return Removed(str(exc))
        return Removed()

    def _say(self, message: ToChild) -> None:
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            # Without drain(): answers are short, and there is one for each report.
            self._process.stdin.write(line_of(message))

    def _note_death(self, code: int | str, backoff_s: float) -> None:
        self._before = Progress(self.shipped, self.refused, is_failing=True)
        self._now = Progress(0, 0, is_failing=True)
        _log.error("shipping_died", code=code, waiting=self._outbox.depth, again_in_s=backoff_s)


def _versions(book: PriceBook) -> tuple[KeptVersion, ...]:
    return tuple(
        KeptVersion(version.id, version.effective_from_ms, prices.document_of(version)) for version in book.versions
    )


def step_back(pid: int) -> None:
    """Let a process yield to this one: from its first moment on, imports too."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICER))
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
