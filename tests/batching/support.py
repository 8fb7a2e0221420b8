"""Batches for tests: files put in place, batches created over HTTP, results read back from the store."""

import asyncio
import json
import secrets
from fractions import Fraction

import yaml
from sqlalchemy import select

from proxy.clock import unix_ms
from proxy.core.batches.objects import ENDED, BatchFile, Purpose
from proxy.ledger.batch_schema import batch_files, batches
from proxy.ledger.batches.rows import batch_of, file_of, file_values
from tests.support.stack import CONFIG, MODEL

CHAT = "/v1/chat/completions"
EMBEDDER = "granite-embedding:278m"
AT_ONCE = 4
"""How many lines ``few_at_once`` (conftest.py) runs."""


def chat_line(number, content=None, url=CHAT, model=MODEL, **more):
    """Return a line of an input file."""
    body = {"model": model, "messages": [{"role": "user", "content": content or f"Line {number}"}], **more}
    return line(number, body, url)


def slow_lines(count):
    """Return lines that take a fifth of a second each."""
    return [chat_line(number, f"SIM:tokens=20 SIM:rate=100 {number}", max_tokens=20) for number in range(count)]


def line(number, body, url=CHAT):
    return {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": body}


def jsonl(lines):
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


async def pieces(data):
    yield data


async def put_file(stack, data, account=None):
    """Put an input file where an upload puts it, and return its id."""
    account = account or stack.account
    name = f"uploads/{secrets.token_hex(16)}"
    written = await stack.app.batch_work.store.write(name, pieces(data))
    file = BatchFile(
        f"file-{secrets.token_hex(16)}",
        account,
        Purpose.BATCH,
        "input.jsonl",
        written.size_bytes,
        written.sha256,
        name,
        unix_ms(),
    )
    async with stack.app.database.write() as connection:
        await connection.execute(batch_files.insert().values(file_values(file)))
    return file.id


async def create(stack, lines, endpoint=CHAT, *, key=None, account=None, **more):
    """Create a batch of some lines, with more parameters than the three that it needs, and return its id."""
    file_id = await put_file(stack, jsonl(lines), account)
    body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h", **more}
    status, made, _ = await stack.ask(body, route="/v1/batches", key=key)
    assert status == 200, made
    return made["id"]


async def batch_now(stack, batch_id):
    async with stack.app.database.read() as connection:
        row = (await connection.execute(select(batches).where(batches.c.id == batch_id))).mappings().one()
    return batch_of(dict(row))


async def until(stack, batch_id, holds, seconds=60):
    """Wait until something holds of a batch, and return it."""
    async with asyncio.timeout(seconds):
        while True:
            batch = await batch_now(stack, batch_id)
            if holds(batch):
                return batch
            await asyncio.sleep(0.02)


async def ended(stack, batch_id, seconds=60):
    """Wait until a batch has ended, and return it."""
    return await until(stack, batch_id, lambda batch: batch.status in ENDED, seconds)


async def read_file(database, store, file_id):
    """Return the lines of a file; none, when there is no file."""
    if file_id is None:
        return []
    async with database.read() as connection:
        row = (await connection.execute(select(batch_files).where(batch_files.c.id == file_id))).mappings().one()
    file = file_of(dict(row))
    data = b"".join([piece async for piece in store.read(file.stored_as)])
    assert len(data) == file.size_bytes
    return [json.loads(each) for each in data.splitlines()]


async def results(stack, batch):
    """Return the lines of a batch's output and error files."""
    store, database = stack.app.batch_work.store, stack.app.database
    return (
        await read_file(database, store, batch.output_file_id),
        await read_file(database, store, batch.error_file_id),
    )


def prices():
    """Return the batch prices of the shipped configuration, pico-euros per unit by type, read here by itself."""
    version = yaml.safe_load((CONFIG / "prices.yaml").read_text())["versions"][-1]
    euros = version["standard"] | version["batch"]
    return {name: Fraction(str(price)) * 1_000_000 for name, price in euros.items()}


def price_of(usage):
    """Return what the usage of a chat answer costs in a batch, pico-euros."""
    each = prices()
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return (
        (usage["prompt_tokens"] - cached) * each["input"]
        + cached * each["cached_input"]
        + (usage["completion_tokens"] - reasoning) * each["output"]
        + reasoning * each["reasoning"]
    )


async def used_nano(stack, batch):
    """Return what the limiter says of the budget of a batch's month: nano-euros used and held."""
    work = stack.app.batch_work
    limits = await work.budgets.of(batch, unix_ms())
    states = (await stack.app.limiter.peek(batch.account_id, limits)).states
    return states[0].used, states[0].held
