"""Every commit seals what it brought, once, whoever brings it and however many at once."""

import asyncio
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.core import chain
from proxy.core.usage import UsageType
from proxy.ledger import schema
from proxy.ledger.chain import NOTHING, Head, head_of
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerRefusedError
from proxy.ledger.invoice_schema import chain_heads, chain_links
from proxy.ledger.migrations import migrate
from proxy.ledger.rows import entry_of, values_of
from proxy.ledger.store import Ledger
from tests.ledger.support import NOON_MS, charge, entry, rows_of
from tests.ledger.test_store import some_calls

DOCS = Path(__file__).parents[2] / "docs" / "audit.md"


def leaves_of(calls):
    rows = sorted(calls, key=lambda call: call.call_id)
    return [(call.call_id, chain.entry_digest(chain.entry_bytes(values_of(call)))) for call in rows]


def followed(account_id, month, batches, sealed_ms=NOON_MS):
    """The heads that a month's batches of entries lead to, worked out from the format alone."""
    heads = [""]
    for number, batch in enumerate(batches, 1):
        digest = chain.batch_digest(leaves_of(batch))
        heads.append(chain.next_head(heads[-1], account_id, month, number, len(batch), sealed_ms, digest))
    return heads[1:]


async def heads_of(database, account_id, month):
    rows = [
        row for row in await rows_of(database, chain_links) if (row["account_id"], row["month"]) == (account_id, month)
    ]
    return [row["head"] for row in sorted(rows, key=lambda row: row["link"])]


async def head(database, account_id="acc_a", month="2026-11"):
    async with database.read() as connection:
        return await head_of(connection, account_id, month)


async def test_each_commit_makes_a_link_of_each_month_that_it_brings_something(ledger, database):
    one, two, three, other, later = (
        entry("3"),
        entry("1"),
        entry("2"),
        entry(account_id="acc_b"),
        entry(month="2026-12"),
    )
    assert await head(database) == NOTHING
    await ledger.insert([one, two, other])
    await ledger.insert([three, later])
    november, *more = followed("acc_a", "2026-11", [[one, two], [three]])
    assert await heads_of(database, "acc_a", "2026-11") == [november, *more]
    assert await heads_of(database, "acc_b", "2026-11") == followed("acc_b", "2026-11", [[other]])
    assert await heads_of(database, "acc_a", "2026-12") == followed("acc_a", "2026-12", [[later]])
    assert await head(database) == Head(2, more[0])
    links = {row["call_id"]: row["link"] for row in await rows_of(database, schema.entries)}
    assert (links["3"], links["1"], links["2"], links[later.call_id]) == (1, 1, 2, 1)
    rows = {(row["account_id"], row["month"], row["link"]): row for row in await rows_of(database, chain_links)}
    first = rows["acc_a", "2026-11", 1]
    assert (first["entries"], first["sealed_ms"], list(chain.unpack_leaves(first["leaves"]))) == (
        2,
        NOON_MS,
        ["1", "3"],
    )


async def test_what_is_there_already_makes_no_link(ledger, database):
    calls = [entry(), entry()]
    await ledger.insert(calls)
    before = await head(database), await rows_of(database, chain_links)
    assert await ledger.insert([*calls, *calls]) == 0
    assert (await head(database), await rows_of(database, chain_links)) == before
    third = entry()
    assert await ledger.insert([third, *calls]) == 1
    assert await heads_of(database, "acc_a", "2026-11") == followed("acc_a", "2026-11", [calls, [third]])


async def test_of_two_entries_of_one_call_the_first_is_sealed(ledger, database):
    first, second = entry("a", model="m1"), entry("a", model="m2")
    await ledger.insert([first, second])
    assert await heads_of(database, "acc_a", "2026-11") == followed("acc_a", "2026-11", [[first]])


async def test_what_is_refused_leaves_no_link(ledger, database):
    with pytest.raises(LedgerRefusedError):
        await ledger.insert([entry("a"), entry("b", admitted_ms=2**63)])
    assert await head(database) == NOTHING
    assert await rows_of(database, chain_links) == []
    assert await rows_of(database, chain_heads) == []


async def test_what_is_read_back_has_the_bytes_that_were_sealed(ledger, database):
    calls = [*some_calls(50), entry("é\"'\\", model="nvidia/llama:β\t\x7f", streamed=True), entry(charge=charge())]
    await ledger.insert(calls)
    stored = {row["call_id"]: row for row in await rows_of(database, schema.entries)}
    for call in calls:
        row = stored[call.call_id]
        values = [bool(row[name]) if name in chain.FLAGS else row[name] for name in chain.FIELDS]
        assert chain.entry_bytes(values) == chain.entry_bytes(values_of(call))
        assert chain.entry_bytes(values_of(entry_of(row))) == chain.entry_bytes(values_of(call))


async def test_shippers_at_once_make_one_chain_of_each_month(postgres_database):
    await migrate(postgres_database)
    databases = [Database.open(postgres_database, pool_size=1) for _ in range(6)]
    calls = some_calls(900)

    async def ship(number, database):
        chance = random.Random(number)
        ledger = Ledger(database, clock_ms=lambda: NOON_MS)
        return [await ledger.insert(chance.sample(calls, 45)) for _ in range(20)]

    shipped = await asyncio.gather(*(ship(number, database) for number, database in enumerate(databases)))
    database = databases[0]
    rows = await rows_of(database, schema.entries)
    assert sum(map(sum, shipped)) == len(rows)
    months = {(row["account_id"], row["month"]) for row in rows}
    assert len(months) == 6
    for account_id, month in months:
        batches: dict[int, list] = {}
        for row in rows:
            if (row["account_id"], row["month"]) == (account_id, month):
                batches.setdefault(row["link"], []).append(entry_of(row))
        heads = followed(account_id, month, [batches[link] for link in range(1, len(batches) + 1)])
        assert await heads_of(database, account_id, month) == heads
        assert await head(database, account_id, month) == Head(len(heads), heads[-1])
    for opened in databases:
        await opened.close()


async def test_the_checker_in_the_docs_comes_to_the_same_heads(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    await migrate(url)
    database = Database.open(url)
    for number in range(5):
        await Ledger(database).insert(some_calls(60)[number * 10 :])
        await Ledger(database).insert([entry(model=f'é"\\\t\x7f{number}', streamed=True)])
    kept = {(row["account_id"], row["month"]): row["head"] for row in await rows_of(database, chain_heads)}
    await database.close()
    program = re.search(r"^```python\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)[1]
    words = [sys.executable, "-c", program, tmp_path / "ledger.db"]
    done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=True, timeout=60)
    assert {(account, month): head for account, month, head in map(str.split, done.stdout.splitlines())} == kept
    assert len(kept) == 6


def test_the_docs_name_the_columns_in_order():
    told = DOCS.read_text().partition("The columns, in order: ")[2].partition("\n\n")[0]
    names = re.findall(r"`([a-z_]+)`", told)
    assert names == [*chain.FIELDS[:18], *(usage_type.value for usage_type in UsageType)]
