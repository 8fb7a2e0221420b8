"""Batches in a database, made as validating makes them."""

import itertools

from proxy.core.batches.ids import call_id_of
from proxy.core.batches.objects import Batch, BatchStatus, Block, LineEnd, LineStatus
from proxy.core.batches.turns import Bounds
from proxy.core.batches.usage import BatchUsage
from proxy.core.usage import TariffClass
from proxy.ledger.accounts import Accounts
from proxy.ledger.batch_schema import batch_blocks, batches
from proxy.ledger.batches.rows import batch_of, batch_values
from tests.ledger.support import NOON_MS, entry, rows_of

DAY_MS = 86_400_000
ANY = Bounds(1000, 1000, 1000)
_numbers = itertools.count(1)


async def add_account(database, name):
    return (await Accounts(database).create(name, "tier1")).id


async def add_batch(database, account_id, *, blocks=3, lines=2, status=BatchStatus.IN_PROGRESS, **changes):
    """Make a batch of blocks of so many lines each."""
    values = {
        "id": f"batch_{next(_numbers):032x}",
        "account_id": account_id,
        "key_id": "key_1",
        "endpoint": "/v1/chat/completions",
        "model": "gpt-oss:120b",
        "tier": "tier1",
        "month": "2026-11",
        "day": "2026-11-24",
        "input_file_id": "file-1",
        "status": status,
        "created_ms": NOON_MS,
        "expires_ms": NOON_MS + DAY_MS,
        "total": blocks * lines,
        "usage": BatchUsage(),
    }
    batch = Batch(**values | changes)
    async with database.write() as connection:
        await connection.execute(batches.insert().values(batch_values(batch)))
        for number in range(blocks):
            block = {
                "batch_id": batch.id,
                "number": number,
                "first_line": number * lines,
                "lines": lines,
                "first_byte": number * lines * 100,
                "size_bytes": lines * 100,
                "attempts": 0,
            }
            await connection.execute(batch_blocks.insert().values(block))
    return batch


def blocks_of(claimed):
    return [(each.batch.id, each.block.number) for each in claimed]


def line_end(batch, line, segment="s1", status=LineStatus.COMPLETED):
    call_id = call_id_of(batch.id, batch.created_ms, line)
    return LineEnd(line, status, call_id, segment, 0, 10)


def line_entry(batch, line, **changes):
    call_id = call_id_of(batch.id, batch.created_ms, line)
    return entry(call_id, account_id=batch.account_id, tariff_class=TariffClass.BATCH, **changes)


def entries_for(batch, lines, **changes):
    return {each.call_id: each for each in (line_entry(batch, line, **changes) for line in lines)}


async def kept(database, batch):
    """Return a batch as it is now."""
    (row,) = [row for row in await rows_of(database, batches) if row["id"] == batch.id]
    return batch_of(row)


def block(batch, number, lines=2):
    return Block(batch.id, number, number * lines, lines, number * lines * 100, lines * 100)


async def set_status(database, batch, status):
    async with database.write() as connection:
        await connection.execute(batches.update().where(batches.c.id == batch.id).values(status=status.value))
