"""Running a block: all its lines, and keeping what came of them.

What belongs here: which lines of a block are still to be run, and the group commit of their results. What does not:
the way of one line (running.py), and leases (worker.py).

Results are kept in groups: a segment is written, one transaction ends its lines, the limiter is told, and that is
noted (ledger/batches/ends.py). A group is kept when the last lines have ended, when its first result has waited long
enough, or when it is large. Whatever fails on the way is done again: until then no line of the group has ended.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from proxy.batching.budgets import PayerUnknownError
from proxy.batching.names import segment_name
from proxy.batching.permits import Permits
from proxy.batching.running import InsufficientBudgetError, Line, LineResult, Running
from proxy.batching.turnstile import Turnstile
from proxy.core.batches.ids import call_id_of
from proxy.core.batches.objects import Block, LineEnd, LineStatus
from proxy.core.batches.results import FILE_MISSING, unanswered_line
from proxy.core.errors import ApiError
from proxy.files.contract import FileMissingError, FileStore, FileStoreError
from proxy.ledger.batches.batches import Batches
from proxy.ledger.batches.ends import Ends
from proxy.ledger.batches.leasing import Claimed
from proxy.ledger.errors import LedgerUnavailableError
from proxy.limiter import LimiterUnavailableError
from proxy.settings.batch import BatchSettings
from proxy.settlement import Settlement
from proxy.tasks import Tasks

GROUP_BYTES: Final = 4_194_304
"""Size from which on a group is kept at once: results wait in memory."""
RETRY_FIRST_S: Final = 0.2
RETRY_MAX_S: Final = 10.0

TRANSIENT: Final = (FileStoreError, LedgerUnavailableError, LimiterUnavailableError, PayerUnknownError, ApiError)
"""A store that does not answer, or of which nothing is known: the same is done again."""


class Tools(msgspec.Struct, frozen=True):
    """What blocks are run with.

    Args:
        settings: returns the settings in force.
        store: has the files.
        batches: knows input files.
        ends: ends lines.
        running: runs lines.
        permits: how many lines run at once.
        turnstile: how fast they begin.
        settlement: keeps holds alive.
        tasks: where lines run.
        clock_ms: Unix milliseconds.
        clock: monotonic seconds.
        on_ended: told of each group of lines that has ended: their model, and the lines.
    """

    settings: Callable[[], BatchSettings]
    store: FileStore
    batches: Batches
    ends: Ends
    running: Running
    permits: Permits
    turnstile: Turnstile
    settlement: Settlement
    tasks: Tasks
    clock_ms: Callable[[], int]
    clock: Callable[[], float]
    on_ended: Callable[[str, Sequence[LineResult]], None]


class BlockRun:
    """One block in hand.

    Args:
        holder: who has leased it.
        claimed: what.
        tools: with what.
        on_begun: called when all its lines have begun: there is room for another block.

    Attributes:
        remaining: lines that have not ended.
        to_begin: those of them that have not begun.
        budget_is_over: a line has been refused for good.
        is_stopped: no more lines begin.
        was_last: it is done, and with it every block of its batch.
    """

    def __init__(self, holder: str, claimed: Claimed, tools: Tools, on_begun: Callable[[], None]) -> None:
        self._holder = holder
        self.claimed = claimed
        self._tools = tools
        self._on_begun = on_begun
        self._news = asyncio.Event()
        self._lines: dict[asyncio.Task[None], Line] = {}
        self._results: list[LineResult] = []
        self._results_bytes = 0
        self._oldest_s = 0.0
        self.is_stopped = False
        self.remaining = self.to_begin = claimed.block.lines
        self.budget_is_over = False
        self.was_last = False

    @property
    def in_flight(self) -> int:
        """How many of its lines are on their way."""
        return len(self._lines)

    def stop(self) -> None:
        """Begin no more lines: those on which no upstream works end here, without a result."""
        self.is_stopped = True
        for task, line in self._lines.items():
            if not line.has_begun:
                task.cancel()
        self._news.set()

    def abort(self) -> None:
        """End all lines that have no result."""
        self.is_stopped = True
        for task in self._lines:
            task.cancel()
        self._news.set()

    async def run(self) -> bool:
        """Run it to its end, or to where it was stopped; return whether it is done.

        Raises:
            LeaseLostError: another has taken it.
            LedgerRefusedError: the ledger takes no such entry: a bug.
        """
        starting: asyncio.Task[None] | None = None
        try:
            await self._settle_what_was_left()
            lines = await again(self._lines_to_run, lambda: self.is_stopped)
            if lines is None:
                return False
            self.remaining, self.to_begin = len(lines) + len(self._results), len(lines)
            starting = self._tools.tasks.spawn(self._start(lines), "batch block")
            await self._keep_until_over(starting)
            if self.remaining:
                return False
            await again(self._finish)
            return True
        finally:
            if starting is not None:
                starting.cancel()
            self.abort()
            self._let_go(self._results)

    # Its lines

    async def _lines_to_run(self) -> list[Line]:
        """Read the lines that have not ended. Of an input file that is gone they end at once."""
        claimed, tools = self.claimed, self._tools
        block = claimed.block
        # Whoever is the first to have it finds nothing that has ended.
        ended = await tools.ends.ended_lines(block) if claimed.attempts > 1 else frozenset()
        try:
            data = await self._read()
        except FileMissingError:
            self._give_up(ended)
            return []
        return [
            Line(block.first_line + place, line)
            for place, line in enumerate(data.split(b"\n")[: block.lines])
            if block.first_line + place not in ended
        ]

    async def _read(self) -> bytes:
        block = self.claimed.block
        file = await self._tools.batches.input_file(self.claimed.batch)
        if file is None:
            raise FileMissingError(self.claimed.batch.input_file_id)
        pieces = self._tools.store.read(file.stored_as, block.first_byte, block.size_bytes)
        return b"".join([piece async for piece in pieces])

    def _give_up(self, ended: frozenset[int]) -> None:
        batch, block = self.claimed.batch, self.claimed.block
        for number in range(block.first_line, block.first_line + block.lines):
            if number not in ended:
                call_id = call_id_of(batch.id, batch.created_ms, number)
                self._add(LineResult(number, LineStatus.FAILED, call_id, unanswered_line(call_id, "", FILE_MISSING)))

    async def _start(self, lines: Sequence[Line]) -> None:
        """Begin the lines, each as soon as it has a permit."""
        tools, batch = self._tools, self.claimed.batch
        permits = tools.permits
        for line in lines:
            await tools.turnstile.enter()
            await permits.take(batch.account_id, batch.model)
            if tools.clock_ms() >= batch.expires_ms:
                self.stop()
            if self.is_stopped:
                permits.give_back(batch.account_id, batch.model)
                return
            task = tools.tasks.spawn(self._run_line(line), "batch line")
            self._lines[task] = line
            task.add_done_callback(self._line_over)
            self.to_begin -= 1
        self._on_begun()

    async def _run_line(self, line: Line) -> None:
        try:
            self._add(await self._tools.running.run(self.claimed.batch, line))
        except InsufficientBudgetError:
            self.budget_is_over = True
            self.stop()

    def _line_over(self, task: "asyncio.Task[None]") -> None:
        del self._lines[task]
        self._tools.permits.give_back(self.claimed.batch.account_id, self.claimed.batch.model)
        if not self._lines:
            self._news.set()

    def _add(self, result: LineResult) -> None:
        if not self._results:
            self._oldest_s = self._tools.clock()
            self._news.set()
        self._results.append(result)
        self._results_bytes += len(result.data)
        if self._results_bytes >= GROUP_BYTES:
            self._news.set()

    # What came of them

    async def _keep_until_over(self, starting: "asyncio.Task[None]") -> None:
        starting.add_done_callback(lambda _: self._news.set())
        while True:
            self._news.clear()
            is_over = not self._lines and (starting.done() or self.is_stopped)
            if self._results and (is_over or self._is_due()):
                await self._keep()
                continue
            if is_over:
                return
            await self._wait()

    def _is_due(self) -> bool:
        return self._results_bytes >= GROUP_BYTES or self._left_s() <= 0

    def _left_s(self) -> float:
        return self._oldest_s + self._tools.settings().commit_interval_ms / 1000 - self._tools.clock()

    async def _wait(self) -> None:
        """Wait for news, or until the oldest result has waited long enough."""
        try:
            async with asyncio.timeout(self._left_s() if self._results else None):
                await self._news.wait()
        except TimeoutError:
            return

    async def _keep(self) -> None:
        """Keep a group of results: their lines have ended."""
        results, self._results, self._results_bytes = self._results, [], 0
        try:
            await self._keep_group(results)
        finally:
            self._let_go(results)

    async def _keep_group(self, results: Sequence[LineResult]) -> None:
        block, ends = self.claimed.block, self._tools.ends
        name = segment_name(block)
        await again(lambda: self._tools.store.write(name, _pieces(results)))
        lines = _ends_of(results, name)
        entries = {each.call_id: each.entry for each in results if each.entry is not None}
        await again(lambda: ends.commit(self._holder, block, lines, entries))
        self.remaining -= len(results)
        self._tools.on_ended(self.claimed.batch.model, results)
        costs_pico = {call_id: entry.charge.total_pico for call_id, entry in entries.items()}
        await again(lambda: self._tools.running.record(self.claimed.batch, costs_pico))
        if self.remaining:  # else it is noted with the end of the block
            await again(lambda: ends.settled(block, name))

    def _let_go(self, results: Sequence[LineResult]) -> None:
        """Keep no hold alive any more: what was not recorded expires, and is run again."""
        for each in results:
            if each.flight is not None:
                self._tools.settlement.ended(each.flight)

    async def _settle_what_was_left(self) -> None:
        """Tell the limiter of lines that whoever had the block before may not have told it of."""
        claimed = self.claimed
        segment = claimed.unsettled
        if segment is not None:
            await again(lambda: settle_segment(self._tools, claimed.batch, claimed.block, segment))

    async def _finish(self) -> None:
        self.was_last = await self._tools.ends.finish_block(self._holder, self.claimed.block, self._tools.clock_ms())


async def settle_segment(tools: Tools, batch: Any, block: Block, segment: str) -> None:  # noqa: ANN401
    """Tell the limiter of every line in a segment, and note that it knows."""
    entries = await tools.ends.entries_in(batch, segment)
    await tools.running.record(batch, {entry.call_id: entry.charge.total_pico for entry in entries})
    await tools.ends.settled(block, segment)


async def again(do: Callable[[], Awaitable[Any]], is_over: Callable[[], bool] = lambda: False) -> Any:  # noqa: ANN401
    """Do it until the stores answer; None: it was over before."""
    pause_s = RETRY_FIRST_S
    while True:
        try:
            return await do()
        except TRANSIENT:
            if is_over():
                return None
            await asyncio.sleep(pause_s)
            pause_s = min(RETRY_MAX_S, 2 * pause_s)


async def _pieces(results: Sequence[LineResult]) -> AsyncIterator[bytes]:
    yield b"".join([each.data for each in results])


def _ends_of(results: Sequence[LineResult], segment: str) -> list[LineEnd]:
    ends, at = [], 0
    for each in results:
        ends.append(LineEnd(each.line, each.status, each.call_id, segment, at, len(each.data)))
        at += len(each.data)
    return ends
