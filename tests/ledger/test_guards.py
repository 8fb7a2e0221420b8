"""The database itself refuses to change what is never changed, and what was there before is sealed."""

import sqlite3
import subprocess

import pytest
from sqlalchemy import text

from proxy.core.chain import pack_leaves
from proxy.core.chain_audit import Wrong
from proxy.ledger import migrations, schema
from proxy.ledger.chain import Head, head_of
from proxy.ledger.chain_reading import ChainReading
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerRefusedError
from proxy.ledger.invoice_schema import chain_heads, chain_links, metadata
from proxy.ledger.rows import values_of
from proxy.ledger.schema import accounts
from proxy.ledger.store import Ledger
from tests.ledger.support import NOON_MS, entry, rows_of
from tests.ledger.test_chain import followed, heads_of, leaves_of
from tests.support.tampering import unguard

GUARDED = {
    "entries": "cost_pico",
    "chain_links": "head",
    "invoices": "gross_cents",
    "invoice_covers": "link",
    "invoice_draws": "drawn_cents",
    "account_buyers": "buyer",
    "price_versions": "prices",
}


def some_value(column):
    return b"x" if str(column.type) == "BLOB" else 1 if column.type.python_type in (int, bool) else "i"


@pytest.fixture
async def filled(database, database_url):
    """The URL of a ledger with a row in every guarded table."""
    async with database.write() as connection:
        await connection.execute(
            accounts.insert().values(id="i", name="i", tier="tier1", timezone="UTC", created_ms=NOON_MS)
        )
        for table in GUARDED:
            columns = metadata.tables[table].columns
            values = {column.name: some_value(column) for column in columns}
            await connection.execute(metadata.tables[table].insert().values(values))
        await connection.execute(chain_heads.insert().values(account_id="i", month="m", link=3, head="h"))
    return database_url


def raw(url, statement):
    """Run a statement as anybody with the password may, and return what the database has against it."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        try:
            connection.execute(statement)
        except sqlite3.Error as exc:
            return str(exc)
        finally:
            connection.close()
        return ""
    done = subprocess.run(
        ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement, url], check=False, capture_output=True, text=True
    )
    return done.stderr


@pytest.mark.parametrize("table", GUARDED)
async def test_a_row_is_neither_changed_nor_removed(filled, database, table):
    before = await rows_of(database, metadata.tables[table])
    expected = f"tollgate: rows of {table} are never changed or removed"
    statements = [f"UPDATE {table} SET {GUARDED[table]} = {GUARDED[table]}", f"DELETE FROM {table}"]
    if database.is_postgresql:
        statements.append(f"TRUNCATE {table} CASCADE")
    for statement in statements:
        assert expected in raw(filled, statement)
        with pytest.raises(LedgerRefusedError):
            await run(database, statement)
    assert await rows_of(database, metadata.tables[table]) == before
    assert len(before) == 1


@pytest.mark.parametrize(
    "change", ["link = 2", "link = 5", "head = 'other'", "link = 4, month = 'n'", "link = 4, account_id = 'j'"]
)
async def test_a_head_only_moves_on(filled, database, change):
    expected = "tollgate: a head in chain_heads only moves on, link by link"
    assert expected in raw(filled, f"UPDATE chain_heads SET {change}")
    assert expected in raw(filled, "DELETE FROM chain_heads")
    if database.is_postgresql:
        assert expected in raw(filled, "TRUNCATE chain_heads")
    assert raw(filled, "UPDATE chain_heads SET link = 4, head = 'next'") == ""
    assert await rows_of(database, chain_heads) == [{"account_id": "i", "month": "m", "link": 4, "head": "next"}]


async def test_whoever_owns_the_database_can_take_the_guards_away(filled, database):
    await unguard(database, *GUARDED, "chain_heads")
    for table in ("invoice_covers", "invoice_draws", *GUARDED, "chain_heads"):
        assert raw(filled, f"DELETE FROM {table}") == ""


async def test_what_sqlite_replaces_past_the_guards_is_found(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    await migrations.migrate(url)
    database = Database.open(url)
    await Ledger(database).insert([entry("a", tier="tier1")])
    columns = ", ".join(column.name if column.name != "tier" else "'tier2'" for column in schema.entries.columns)
    assert raw(url, f"INSERT OR REPLACE INTO entries SELECT {columns} FROM entries") == ""
    report = await ChainReading(database).audit(("acc_a", "2026-11"))
    await database.close()
    assert [(found.wrong, found.call_id) for found in report.findings] == [(Wrong.CHANGED, "a")]


async def test_entries_that_were_there_before_are_sealed(database_url, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "HEAD", "0004")
        await migrations.migrate(database_url)
    database = Database.open(database_url)
    many = [entry(streamed=number % 2 == 0) for number in range(2500)]
    few = [entry("é", account_id="acc_b", model='"β\\\x7f'), entry("", account_id="acc_b"), entry(month="2026-12")]
    async with database.write() as connection:
        columns = [column.name for column in schema.entries.columns][:-1]
        rows = [dict(zip(columns, values_of(call), strict=True)) for call in (*many, *few)]
        await connection.execute(schema.entries.insert(), rows)
    monkeypatch.setattr("time.time_ns", lambda: NOON_MS * 1_000_000)
    await migrations.migrate(database_url)
    assert await heads_of(database, "acc_a", "2026-11") == followed(
        "acc_a", "2026-11", [many[:1000], many[1000:2000], many[2000:]]
    )
    assert await heads_of(database, "acc_b", "2026-11") == followed("acc_b", "2026-11", [few[:2]])
    assert [row["link"] for row in await rows_of(database, schema.entries) if row["account_id"] == "acc_b"] == [1, 1]
    async with database.read() as connection:
        head = await head_of(connection, "acc_a", "2026-12")
    assert head == Head(1, followed("acc_a", "2026-12", [few[2:]])[0])
    await Ledger(database, clock_ms=lambda: NOON_MS).insert([*many, last := entry()])
    assert (await heads_of(database, "acc_a", "2026-11"))[3:] == followed(
        "acc_a", "2026-11", [many[:1000], many[1000:2000], many[2000:], [last]]
    )[3:]
    leaves = {row["account_id"]: row["leaves"] for row in await rows_of(database, chain_links)}
    reading = ChainReading(database)
    months = (await reading.chained()).months
    assert [(await reading.audit(key)).findings for key in months] == [(), (), ()]
    await database.close()
    assert leaves["acc_b"] == pack_leaves(leaves_of(few[:2]))


async def run(database, statement):
    async with database.write() as connection:
        await connection.execute(text(statement))
