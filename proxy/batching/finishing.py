"""Finishing: a batch's files, put together from segments, and its last status.

What belongs here: the order of lines in the files, what is said of those that were not run, and the order of steps that
may break off anywhere. What does not: running lines (running.py), and leases (worker.py).

The files are written under names that stay the same, one transaction names them and ends the batch, and only then are
its segments deleted. Whoever finds a batch that has not ended makes the files again; whoever finds one that has ended
and is still leased, deletes the segments that are left.

Memory: of each file, the segments of one block.
"""

import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Final

import msgspec

from proxy.batching.block import Tools, settle_segment
from proxy.batching.names import error_name, output_name, segments_of
from proxy.batching.splitting import lines_of
from proxy.core.batches.expiry import expiry_ms
from proxy.core.batches.ids import call_id_of
from proxy.core.batches.lines import parse_line
from proxy.core.batches.objects import Batch, BatchFile, BatchStatus, LineEnd, LineMistake, LineStatus, Purpose
from proxy.core.batches.results import CANCELLED, EXPIRED, INSUFFICIENT_BUDGET, unanswered_line
from proxy.files.contract import FileMissingError, Written

SPAN_BYTES_MAX: Final = 16_777_216
"""Of a segment, so much is read at once; what is longer, line by line."""

_ID_BYTES: Final = 16


class Finishing:
    """Finishes batches.

    Args:
        tools: stores and clocks.
        line_bytes_max: returns the longest line of an input file.
    """

    def __init__(self, tools: Tools, line_bytes_max: Callable[[], int]) -> None:
        self._tools = tools
        self._line_bytes_max = line_bytes_max

    async def finish(self, holder: str, batch: Batch) -> None:
        """Make the files of a batch whose lines nobody runs any more, and end it.

        Raises:
            LeaseLostError: another does it.
            FileStoreError, LedgerUnavailableError, LimiterUnavailableError, PayerUnknownError, ApiError: it is to be
                done again.
        """
        tools = self._tools
        for block, segment in await tools.ends.unsettled(batch.id):
            await settle_segment(tools, batch, block, segment)
        now_ms = tools.clock_ms()
        status, reason = _last_status(batch, now_ms)
        not_run = batch.total - batch.completed - batch.failed
        output = error = None
        if batch.completed:
            name = output_name(batch.id)
            written = await tools.store.write(name, self._of_status(batch, LineStatus.COMPLETED))
            output = self._file(batch, "output", name, written, now_ms)
        if batch.failed or not_run:
            name = error_name(batch.id)
            lines = self._errors(batch, reason) if not_run else self._of_status(batch, LineStatus.FAILED)
            written = await tools.store.write(name, lines)
            error = self._file(batch, "error", name, written, now_ms)
        named = msgspec.structs.replace(
            batch,
            output_file_id=None if output is None else output.id,
            error_file_id=None if error is None else error.id,
        )
        files = [file for file in (output, error) if file is not None]
        counts = (batch.completed, batch.failed + not_run)
        await tools.ends.finish_batch(holder, named, status, files, counts, tools.clock_ms())

    async def clear(self, holder: str, batch: Batch) -> None:
        """Delete the segments of a batch that has ended, and let go of it.

        Raises:
            FileStoreError, LedgerUnavailableError: it is to be done again.
        """
        store = self._tools.store
        for name in [name async for name in store.names(segments_of(batch.id))]:
            await store.delete(name)
        await self._tools.ends.clear(holder, batch.id)

    def _file(self, batch: Batch, kind: str, name: str, written: Written, now_ms: int) -> BatchFile:
        days = self._tools.settings().result_days
        return BatchFile(
            f"file-{secrets.token_hex(_ID_BYTES)}",
            batch.account_id,
            Purpose.BATCH_OUTPUT,
            f"{batch.id}_{kind}.jsonl",
            written.size_bytes,
            written.sha256,
            name,
            now_ms,
            expiry_ms(now_ms, days, batch.output_expires_after_s),
        )

    # What stands in the files

    async def _of_status(self, batch: Batch, status: LineStatus) -> AsyncGenerator[bytes, None]:
        """Yield the results of a status, in the order of their lines."""
        async for page in self._pages(batch):
            wanted = [line for line in page if line.status is status]
            async for data in self._results(wanted):
                yield data

    async def _errors(self, batch: Batch, reason: LineMistake) -> AsyncGenerator[bytes, None]:
        """Yield the errors of lines that failed, and the reason for each that was not run, in the order of lines."""
        next_line = 0
        async with contextlib.aclosing(self._custom_ids(batch)) as custom_ids:
            async for page in self._pages(batch):
                failed = self._results([line for line in page if line.status is LineStatus.FAILED])
                for line in page:
                    for number in range(next_line, line.line):
                        yield _not_run(batch, number, await anext(custom_ids), reason)
                    await anext(custom_ids)
                    next_line = line.line + 1
                    if line.status is LineStatus.FAILED:
                        yield await anext(failed)
            for number in range(next_line, batch.total):
                yield _not_run(batch, number, await anext(custom_ids), reason)

    async def _pages(self, batch: Batch) -> AsyncIterator[list[LineEnd]]:
        after = -1
        while page := await self._tools.ends.page_of_lines(batch.id, after):
            yield page
            after = page[-1].line

    async def _results(self, lines: Sequence[LineEnd]) -> AsyncGenerator[bytes, None]:
        """Yield results, reading each segment once: it holds lines of one block, and blocks follow each other."""
        spans: dict[str, tuple[int, int, int]] = {}  # of each segment: first byte, end, lines to come
        for line in lines:
            first, end, count = spans.get(line.segment, (line.first_byte, 0, 0))
            end = max(end, line.first_byte + line.size_bytes)
            spans[line.segment] = (min(first, line.first_byte), end, count + 1)
        read: dict[str, bytes] = {}
        for line in lines:
            first, end, count = spans[line.segment]
            if end - first > SPAN_BYTES_MAX:
                yield await self._read(line.segment, line.first_byte, line.size_bytes)
                continue
            if line.segment not in read:
                read[line.segment] = await self._read(line.segment, first, end - first)
            at = line.first_byte - first
            yield read[line.segment][at : at + line.size_bytes]
            spans[line.segment] = (first, end, count - 1)
            if count == 1:
                del read[line.segment]

    async def _read(self, name: str, first_byte: int, size_bytes: int) -> bytes:
        return b"".join([piece async for piece in self._tools.store.read(name, first_byte, size_bytes)])

    async def _custom_ids(self, batch: Batch) -> AsyncGenerator[str, None]:
        """Yield what its owner calls each line; nothing is known of a file that has been deleted."""
        file = await self._tools.batches.input_file(batch)
        if file is not None:
            with contextlib.suppress(FileMissingError):
                async with contextlib.aclosing(
                    lines_of(self._tools.store.read(file.stored_as), self._line_bytes_max())
                ) as lines:
                    async for line in lines:
                        request = parse_line(line, 0, batch.endpoint) if isinstance(line, bytes) else None
                        yield "" if request is None or isinstance(request, LineMistake) else request.custom_id
        while True:
            yield ""


def _last_status(batch: Batch, now_ms: int) -> tuple[BatchStatus, LineMistake]:
    """Return how a batch ends, and why those of its lines were not run that were not."""
    if batch.status is BatchStatus.CANCELLING:
        return BatchStatus.CANCELLED, CANCELLED
    if batch.status is BatchStatus.FINALIZING:
        return BatchStatus.COMPLETED, INSUFFICIENT_BUDGET
    assert now_ms >= batch.expires_ms
    return BatchStatus.EXPIRED, EXPIRED


def _not_run(batch: Batch, number: int, custom_id: str, reason: LineMistake) -> bytes:
    return unanswered_line(call_id_of(batch.id, batch.created_ms, number), custom_id, reason)
