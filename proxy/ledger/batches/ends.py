"""How lines, blocks and batches end: exactly once.

What belongs here: the transactions that say so. What does not: results (they lie in segments, written before), the
limiter (it is told afterwards), and leases (leasing.py).

A block's holder ends lines in this order. Their results are durable in a segment; then one transaction makes their
rows, takes their entries, counts them and what they have used, and notes the segment as *unsettled*; then the limiter
is told of each; then the note is removed. Whoever takes over a block with the note tells the limiter again, which
counts a call once.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, and_, delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.batches.objects import Batch, BatchFile, BatchStatus, Block, LineEnd, LineMistake, LineStatus
from proxy.core.batches.usage import usage_of
from proxy.core.entries import Entry
from proxy.ledger.batch_schema import batch_blocks, batch_files, batch_lines, batches
from proxy.ledger.batches.rows import batch_of, file_values, json_text
from proxy.ledger.database import Database
from proxy.ledger.rows import entry_of
from proxy.ledger.schema import entries as entries_table
from proxy.ledger.statements import BulkInsert, found
from proxy.ledger.store import Ledger

PAGE_LINES: Final = 1000
"""How many lines are read at once."""


class LeaseLostError(Exception):
    """Another has taken it, or it has been closed: nothing was done."""


class Ends:
    """Ends lines, blocks and batches.

    Every method raises ``LedgerUnavailableError`` when the database does not answer; then nothing is known, and the
    same may be said again.

    Args:
        database: migrated.
        ledger: takes the entries.
    """

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._add_lines = BulkInsert(
            batch_lines, "ON CONFLICT DO NOTHING", postgresql=database.is_postgresql, returning="line"
        )
        self._find_lines = found("line", batch_lines, 2, postgresql=database.is_postgresql)

    # Lines and blocks

    async def commit(
        self, holder: str, block: Block, lines: Sequence[LineEnd], entries: Mapping[str, Entry]
    ) -> frozenset[int]:
        """End lines of a block, each once: rows, entries and counts, all or none.

        Args:
            holder: who runs the block.
            block: which.
            lines: of it, all in one segment; at least one.
            entries: by call id, of those lines that are billed.

        Returns:
            Which lines really ended here: one that had ended before changes nothing, and its entry is not taken.

        Raises:
            LeaseLostError: the block is another's.
            LedgerRefusedError: an entry can never be taken, and nothing was done.
        """
        (segment,) = {line.segment for line in lines}
        async with self._database.write() as connection:
            await self._change_held(connection, holder, block, unsettled=segment)
            ended = await self._end_lines(connection, block.batch_id, lines)
            new = [line for line in lines if line.line in ended]
            taken = [entries[line.call_id] for line in new if line.call_id in entries]
            if taken:
                await self._ledger.insert_in(connection, taken)
            if new:
                await self._count(connection, block.batch_id, new, taken)
        self._ledger.committed(taken)
        return ended

    @staticmethod
    async def _change_held(connection: AsyncConnection, owner: str, block: Block, **values: object) -> None:
        """Change and lock the row of a block. Raises LeaseLostError: it is another's, or closed."""
        is_held = and_(_is_block(block), batch_blocks.c.holder == owner, batch_blocks.c.done_ms.is_(None))
        if not (await connection.execute(update(batch_blocks).where(is_held).values(values))).rowcount:
            raise LeaseLostError(f"block {block.number} of {block.batch_id}")

    async def _end_lines(self, connection: AsyncConnection, batch_id: str, lines: Sequence[LineEnd]) -> frozenset[int]:
        rows = [
            (batch_id, each.line, each.status._value_, each.call_id, each.segment, each.first_byte, each.size_bytes)
            for each in lines
        ]
        if self._database.is_postgresql:
            returned = await self._add_lines.returned(connection, json_text(rows))
            return frozenset(line for (line,) in returned)
        there = await connection.execute(self._find_lines, {"rows": json_text([row[:2] for row in rows])})
        new = frozenset(each.line for each in lines) - frozenset(there.scalars())
        await self._add_lines.run(connection, [row for row in rows if row[1] in new])
        return new

    @staticmethod
    async def _count(
        connection: AsyncConnection, batch_id: str, new: Sequence[LineEnd], taken: Sequence[Entry]
    ) -> None:
        completed = sum(each.status is LineStatus.COMPLETED for each in new)
        more = {"completed": completed, "failed": len(new) - completed, **msgspec.structs.asdict(usage_of(taken))}
        await connection.execute(
            update(batches)
            .where(batches.c.id == batch_id)
            .values({name: batches.c[name] + amount for name, amount in more.items()})
        )

    async def settled(self, block: Block, segment: str) -> None:
        """The limiter knows of every line of a segment."""
        async with self._database.write() as connection:
            await connection.execute(
                update(batch_blocks).where(_is_block(block), batch_blocks.c.unsettled == segment).values(unsettled=None)
            )

    async def finish_block(self, holder: str, block: Block, now_ms: int) -> bool:
        """Every line of a block has ended, and is settled; return whether it was the last block of its batch.

        Then the batch is finalizing, unless it was being cancelled.

        Raises:
            LeaseLostError: the block is another's.
        """
        async with self._database.write() as connection:
            await self._change_held(
                connection, holder, block, done_ms=now_ms, holder=None, until_ms=None, unsettled=None
            )
            # Who finishes a block waits here for who finishes another: the last sees that it is.
            batch = await self._lock(connection, block.batch_id)
            open_block = exists().where(batch_blocks.c.batch_id == block.batch_id, batch_blocks.c.done_ms.is_(None))
            if (await connection.execute(select(open_block))).scalar_one():
                return False
            await self._move(connection, batch, {BatchStatus.IN_PROGRESS}, BatchStatus.FINALIZING, now_ms)
        return True

    async def ended_lines(self, block: Block) -> frozenset[int]:
        """Return which lines of a block have ended."""
        async with self._database.read() as connection:
            there = await connection.execute(
                select(batch_lines.c.line).where(
                    batch_lines.c.batch_id == block.batch_id,
                    batch_lines.c.line.between(block.first_line, block.first_line + block.lines - 1),
                )
            )
            return frozenset(there.scalars())

    async def entries_in(self, batch: Batch, segment: str) -> list[Entry]:
        """Return the entries of the lines in a segment of a batch, in the order of lines."""
        query = (
            select(entries_table)
            .join(batch_lines, batch_lines.c.call_id == entries_table.c.call_id)
            .where(
                batch_lines.c.batch_id == batch.id,
                batch_lines.c.segment == segment,
                entries_table.c.account_id == batch.account_id,
                entries_table.c.month == batch.month,
            )
            .order_by(batch_lines.c.line)
        )
        async with self._database.read() as connection:
            return [entry_of(dict(row)) for row in (await connection.execute(query)).mappings()]

    # Batches

    async def stop(self, batch_id: str, reason: LineMistake, now_ms: int) -> bool:
        """Begin no more lines of a batch in progress: it is finalizing, for a reason; False: it was not in progress."""
        async with self._database.write() as connection:
            batch = await self._lock(connection, batch_id)
            return await self._move(
                connection, batch, {BatchStatus.IN_PROGRESS}, BatchStatus.FINALIZING, now_ms, errors=(reason,)
            )

    async def unsettled(self, batch_id: str) -> list[tuple[Block, str]]:
        """Return the segments of a batch whose lines the limiter may not know of, with their blocks."""
        names = [batch_blocks.c[name] for name in Block.__struct_fields__]
        query = select(*names, batch_blocks.c.unsettled).where(
            batch_blocks.c.batch_id == batch_id, batch_blocks.c.unsettled.is_not(None)
        )
        async with self._database.read() as connection:
            return [(Block(*row[:-1]), row[-1]) for row in await connection.execute(query)]

    async def page_of_lines(self, batch_id: str, after: int) -> list[LineEnd]:
        """Return lines of a batch that have ended, in their order, from the one after ``after`` on."""
        names = [batch_lines.c[name] for name in LineEnd.__struct_fields__]
        query = (
            select(*names)
            .where(batch_lines.c.batch_id == batch_id, batch_lines.c.line > after)
            .order_by(batch_lines.c.line)
            .limit(PAGE_LINES)
        )
        async with self._database.read() as connection:
            rows = await connection.execute(query)
            return [LineEnd(row.line, LineStatus(row.status), *row[2:]) for row in rows]

    async def finish_batch(
        self,
        holder: str,
        batch: Batch,
        status: BatchStatus,
        files: Sequence[BatchFile],
        counts: tuple[int, int],
        now_ms: int,
    ) -> None:
        """End a batch: its files are known, and its status is the last. It stays leased until it has been cleared.

        Args:
            holder: who makes its files.
            batch: which.
            status: one of ``ENDED``.
            files: its output and its error file, each if there is one, in this order of ids as ``batch`` names them.
            counts: lines in the output file, and lines in the error file.
            now_ms: Unix milliseconds.

        Raises:
            LeaseLostError: another makes its files.
        """
        async with self._database.write() as connection:
            kept = await self._lock(connection, batch.id, holder)
            if kept is None:
                raise LeaseLostError(batch.id)
            for file in files:
                await connection.execute(self._database.insert(batch_files).values(file_values(file)))
            completed, failed = counts
            await self._move(
                connection,
                kept,
                set(BatchStatus),
                status,
                now_ms,
                output_file_id=batch.output_file_id,
                error_file_id=batch.error_file_id,
                completed=completed,
                failed=failed,
            )

    async def clear(self, holder: str, batch_id: str) -> None:
        """Forget the lines and blocks of a batch that has ended, and let go of it: its segments are gone."""
        async with self._database.write() as connection:
            mine = select(batches.c.id).where(batches.c.id == batch_id, batches.c.holder == holder)
            if (await connection.execute(mine)).first() is None:
                return
            await connection.execute(delete(batch_blocks).where(batch_blocks.c.batch_id == batch_id))
            await connection.execute(delete(batch_lines).where(batch_lines.c.batch_id == batch_id))
            await connection.execute(update(batches).where(batches.c.id == batch_id).values(holder=None, until_ms=None))

    @staticmethod
    async def _lock(connection: AsyncConnection, batch_id: str, holder: str | None = None) -> Batch | None:
        query = select(batches).where(batches.c.id == batch_id)
        if holder is not None:
            query = query.where(batches.c.holder == holder)
        row = (await connection.execute(query.with_for_update())).mappings().one_or_none()
        return None if row is None else batch_of(dict(row))

    @staticmethod
    async def _move(
        connection: AsyncConnection,
        batch: Batch | None,
        of: set[BatchStatus],
        to: BatchStatus,
        now_ms: int,
        **values: object,
    ) -> bool:
        """Move a batch, which is locked, to a status; False: it is not in one of those that it may leave."""
        if batch is None or batch.status not in of:
            return False
        changed = msgspec.structs.replace(batch, status=to, stamps={**batch.stamps, to: now_ms}, **values)
        names = {"status", "stamps", *values}
        row = {name: _column(name, getattr(changed, name)) for name in names}
        await connection.execute(update(batches).where(batches.c.id == batch.id).values(row))
        return True


def _column(name: str, value: object) -> object:
    if isinstance(value, BatchStatus):
        return value.value
    return json_text(value) if name in ("stamps", "errors") else value


def _is_block(block: Block) -> ColumnElement[bool]:
    return and_(batch_blocks.c.batch_id == block.batch_id, batch_blocks.c.number == block.number)
