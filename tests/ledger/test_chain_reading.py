"""Whatever somebody does to the ledger beside Tollgate is found in its chains, and named."""

import asyncio
import json
import subprocess
import uuid

import pytest
from sqlalchemy import text

from proxy.core import chain
from proxy.core.chain_audit import MonthReport, PrintedHead, Wrong
from proxy.ledger import chain_reading, migrations
from proxy.ledger.chain_reading import ChainReading
from proxy.ledger.database import Database
from proxy.ledger.errors import UnknownAccountError
from proxy.ledger.invoice_schema import chain_heads, chain_links, invoices
from proxy.ledger.rows import values_of
from proxy.ledger.schema import accounts, entries
from proxy.ledger.store import Ledger
from tests.ledger.support import NOON_MS, entry, rows_of
from tests.support.tampering import unguard

CHANGED, MISSING, INSERTED, UNSEALED = Wrong.CHANGED, Wrong.MISSING, Wrong.INSERTED, Wrong.UNSEALED
LINK_MISSING, LINK_ALTERED, HEAD_BROKEN = Wrong.LINK_MISSING, Wrong.LINK_ALTERED, Wrong.HEAD_BROKEN
LAST_HEAD, PRINTED_HEAD, UNREADABLE = Wrong.LAST_HEAD, Wrong.PRINTED_HEAD, Wrong.UNREADABLE
GUARDED = ("entries", "chain_links", "chain_heads", "invoices")
A, B = ("acc_a", "2026-11"), ("acc_b", "2026-11")
DECEMBER = ("acc_a", "2026-12")
KEYS = {"account_id", "month", "call_id"}


@pytest.fixture
async def sealed(database, ledger):
    """A ledger of three links, one and one, whose guards are gone."""
    await ledger.insert([entry("a1"), entry("a2"), entry("b1", account_id="acc_b"), entry("b2", account_id="acc_b")])
    await ledger.insert([entry("a3"), entry("a4"), entry("d1", month="2026-12")])
    await ledger.insert([entry("a5")])
    await unguard(database, *GUARDED)
    return database


async def change(database, *statements):
    async with database.write() as connection:
        for statement in statements:
            done = await connection.execute(text(statement))
            assert done.rowcount > 0, statement


async def reports(database, month=None, account=None):
    reading = ChainReading(database)
    chained = await reading.chained(month, account)
    return {key: await reading.audit(key, chained.printed.get(key, ())) for key in chained.months}


async def wrong(database):
    return {
        key: [(found.wrong, found.link, found.call_id or found.document) for found in report.findings]
        for key, report in (await reports(database)).items()
        if report.findings
    }


async def heads(database, key=A):
    rows = [row for row in await rows_of(database, chain_links) if (row["account_id"], row["month"]) == key]
    return {row["link"]: row["head"] for row in rows}


async def issued(database, number, marks, document=None):
    """Keep a document of acc_a that prints heads, whose row says the rest is empty."""
    said = {"chain": [{"month": month, "after_link": 0, "link": link, "head": head} for month, link, head in marks]}
    values = {column.name: 0 if column.type.python_type in (int, bool) else "" for column in invoices.columns}
    values |= {"id": number, "number": number, "sequence": len(number), "account_id": "acc_a", "month": "2026-11"}
    values |= {"document": document or json.dumps(said), "xml": b"", "pdf": b""}
    async with database.write() as connection:
        row = {"id": "acc_a", "name": "acme", "tier": "tier1", "timezone": "UTC", "created_ms": NOON_MS}
        await connection.execute(database.insert(accounts).values(row))
        await connection.execute(invoices.insert().values(values))


async def test_of_a_sound_ledger_everything_is_told_and_nothing_is_wrong(sealed):
    at = await heads(sealed)
    found = await reports(sealed)
    assert found[A] == MonthReport(3, 5, at[3], (), 0)
    assert [(key, report.links, report.entries) for key, report in found.items()] == [
        (A, 3, 5),
        (DECEMBER, 1, 1),
        (B, 1, 2),
    ]
    assert not any(report.findings for report in found.values())


async def test_one_month_or_one_account_can_be_asked_for(sealed):
    await issued(sealed, "I1", [("2026-11", 1, "x"), ("2026-12", 1, "y")])
    assert list(await reports(sealed, "2026-12")) == [DECEMBER]
    assert list(await reports(sealed, None, "acme")) == [A, DECEMBER]
    assert list(await reports(sealed, "2026-11", "acc_a")) == [A]
    with pytest.raises(UnknownAccountError):
        await reports(sealed, None, "nobody")


async def test_a_change_of_any_column_of_an_entry_is_found(sealed):
    for column in chain.FIELDS:
        if column in KEYS:
            continue
        if column in chain.FLAGS:
            there = back = f"NOT {column}"
        elif entries.c[column].type.python_type is int:
            there, back = f"{column} + 1", f"{column} - 1"
        else:
            there, back = f"{column} || 'x'", f"substr({column}, 1, length({column}) - 1)"
        await change(sealed, f"UPDATE entries SET {column} = {there} WHERE call_id = 'a3'")
        assert await wrong(sealed) == {A: [(CHANGED, 2, "a3")]}, column
        await change(sealed, f"UPDATE entries SET {column} = {back} WHERE call_id = 'a3'")
    assert await wrong(sealed) == {}


COPY = f"INSERT INTO entries SELECT account_id, month, 'new', {', '.join(chain.FIELDS[3:])}, link FROM entries"
OF_A = "account_id = 'acc_a' AND month = '2026-11'"


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (["DELETE FROM entries WHERE call_id = 'a2'"], {A: [(MISSING, 1, "a2")]}),
        ([f"{COPY} WHERE call_id = 'a3'"], {A: [(INSERTED, 2, "new")]}),
        (["UPDATE entries SET call_id = 'a9' WHERE call_id = 'a1'"], {A: [(INSERTED, 1, "a9"), (MISSING, 1, "a1")]}),
        (["UPDATE entries SET link = 0 WHERE call_id = 'a1'"], {A: [(UNSEALED, 0, "a1"), (MISSING, 1, "a1")]}),
        (["UPDATE entries SET link = 2 WHERE call_id = 'a1'"], {A: [(MISSING, 1, "a1"), (INSERTED, 2, "a1")]}),
        (["UPDATE entries SET link = 9 WHERE call_id = 'a5'"], {A: [(MISSING, 3, "a5"), (INSERTED, 9, "a5")]}),
        (
            ["UPDATE entries SET month = '2026-12' WHERE call_id = 'a1'"],
            {A: [(MISSING, 1, "a1")], DECEMBER: [(INSERTED, 1, "a1")]},
        ),
        (
            [
                "UPDATE entries SET account_id = 'acc_c' WHERE call_id = 'a1'",
                "UPDATE entries SET account_id = 'acc_a' WHERE call_id = 'b1'",
                "UPDATE entries SET account_id = 'acc_b' WHERE call_id = 'a1'",
            ],
            {
                A: [(INSERTED, 1, "b1"), (MISSING, 1, "a1")],
                B: [(INSERTED, 1, "a1"), (MISSING, 1, "b1")],
            },
        ),
        (
            [f"INSERT INTO entries SELECT 'acc_z', {', '.join(chain.FIELDS[1:])}, 1 FROM entries WHERE call_id = 'a1'"],
            {("acc_z", "2026-11"): [(INSERTED, 1, "a1")]},
        ),
    ],
    ids=["removed", "added", "renamed", "unsealed", "other link", "no such link", "other month", "swapped", "no chain"],
)
async def test_an_entry_that_is_not_where_it_was_sealed_is_named(sealed, statements, expected):
    await change(sealed, *statements)
    assert await wrong(sealed) == expected


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([f"DELETE FROM chain_links WHERE {OF_A} AND link = 2"], [(LINK_MISSING, 2, "a3")]),
        ([f"DELETE FROM chain_links WHERE {OF_A} AND link = 1"], [(LINK_MISSING, 1, "a1")]),
        (
            [f"DELETE FROM chain_links WHERE {OF_A} AND link = 3", "DELETE FROM entries WHERE call_id = 'a5'"],
            [(LINK_MISSING, 3, "")],
        ),
        (
            [f"UPDATE chain_links SET link = 0 WHERE {OF_A} AND link = 3"],
            [(LINK_ALTERED, 0, ""), (LINK_MISSING, 3, "a5")],
        ),
        ([f"UPDATE chain_links SET entries = 3 WHERE {OF_A} AND link = 2"], [(LINK_ALTERED, 2, "")]),
        ([f"UPDATE chain_links SET leaves = :other WHERE {OF_A} AND link = 2"], [(LINK_ALTERED, 2, "")]),
        ([f"UPDATE chain_links SET leaves = :none WHERE {OF_A} AND link = 2"], [(LINK_ALTERED, 2, "")]),
        ([f"UPDATE chain_links SET sealed_ms = sealed_ms + 1 WHERE {OF_A} AND link = 2"], [(HEAD_BROKEN, 2, "")]),
        ([f"UPDATE chain_links SET head = 'x' WHERE {OF_A} AND link = 2"], [(HEAD_BROKEN, 2, "")]),
        ([f"UPDATE chain_links SET head = 'x' WHERE {OF_A} AND link = 3"], [(HEAD_BROKEN, 3, ""), (LAST_HEAD, 3, "")]),
        ([f"UPDATE chain_heads SET head = 'x' WHERE {OF_A}"], [(LAST_HEAD, 3, "")]),
        ([f"UPDATE chain_heads SET link = 2 WHERE {OF_A}"], [(LAST_HEAD, 2, "")]),
        ([f"UPDATE chain_heads SET link = 5 WHERE {OF_A}"], [(LINK_MISSING, 4, "")]),
        ([f"DELETE FROM chain_heads WHERE {OF_A}"], [(LAST_HEAD, 0, "")]),
        (
            [f"DELETE FROM chain_links WHERE {OF_A}", "DELETE FROM entries WHERE account_id = 'acc_a'"],
            [(LINK_MISSING, 1, "")],
        ),
    ],
)
async def test_a_link_that_is_not_as_it_was_is_named(sealed, statements, expected):
    leaves = {"other": chain.pack_leaves([("a1", bytes(32))]), "none": b"?"}
    async with sealed.write() as connection:
        for statement in statements:
            names = [name for name in leaves if f":{name}" in statement]
            await connection.execute(text(statement), {name: leaves[name] for name in names})
    assert (await wrong(sealed))[A] == expected


async def test_links_that_are_missing_in_a_row_are_told_together_with_what_they_left(sealed):
    await change(sealed, f"DELETE FROM chain_links WHERE {OF_A} AND link IN (1, 2)")
    (finding,) = (await reports(sealed))[A].findings
    assert (finding.link, finding.last_link, finding.call_id, finding.entries) == (1, 2, "a1", 4)


def digest(row):
    values = [bool(row[name]) if name in chain.FLAGS else row[name] for name in chain.FIELDS]
    return chain.entry_digest(chain.entry_bytes(values))


async def rewritten(database, first_link, *, heads_too):
    """Seal the month of acc_a anew from a link on, as somebody may who has read core/chain.py."""
    rows = sorted(await rows_of(database, entries), key=lambda row: row["call_id"])
    stored = [row for row in await rows_of(database, chain_links) if (row["account_id"], row["month"]) == A]
    stored.sort(key=lambda row: row["link"])
    head = stored[first_link - 2]["head"] if first_link > 1 else ""
    for row in stored[first_link - 1 :]:
        leaves = [
            (each["call_id"], digest(each))
            for each in rows
            if (each["account_id"], each["month"], each["link"]) == (*A, row["link"])
        ]
        batch = chain.batch_digest(leaves)
        head = chain.next_head(head, *A, row["link"], len(leaves), row["sealed_ms"], batch)
        changed = {"leaves": chain.pack_leaves(leaves)} | ({"head": head} if heads_too else {})
        table = chain_links.c
        where = (table.account_id == A[0]) & (table.month == A[1]) & (table.link == row["link"])
        async with database.write() as connection:
            await connection.execute(chain_links.update().where(where).values(changed))
    if heads_too:
        await change(database, f"UPDATE chain_heads SET head = '{head}' WHERE {OF_A}")


async def test_an_entry_that_was_changed_with_its_leaf_breaks_the_head(sealed):
    await change(sealed, "UPDATE entries SET cost_pico = 1 WHERE call_id = 'a3'")
    await rewritten(sealed, 2, heads_too=False)
    assert await wrong(sealed) == {A: [(HEAD_BROKEN, 2, "")]}


async def test_a_chain_that_was_made_anew_as_a_whole_differs_from_the_head_that_a_document_has_printed(sealed):
    at = await heads(sealed)
    await issued(sealed, "I1", [("2026-11", 1, at[1]), ("2026-12", 1, (await heads(sealed, DECEMBER))[1])])
    await issued(sealed, "I-2", [("2026-11", 2, at[2])])
    assert await wrong(sealed) == {}
    await change(sealed, "UPDATE entries SET cost_pico = 1 WHERE call_id = 'a3'")
    await rewritten(sealed, 2, heads_too=True)
    assert await wrong(sealed) == {A: [(PRINTED_HEAD, 2, "I-2")]}


@pytest.mark.parametrize("from_link", [2, 1])
async def test_newest_links_that_were_removed_without_a_trace_are_missed_by_the_documents_that_cover_them(
    sealed, from_link
):
    at = await heads(sealed)
    await issued(sealed, "I1", [("2026-11", 3, at[3])])
    await change(
        sealed,
        f"DELETE FROM chain_links WHERE {OF_A} AND link >= {from_link}",
        f"DELETE FROM entries WHERE {OF_A} AND link >= {from_link}",
        f"UPDATE chain_heads SET link = 1, head = '{at[1]}' WHERE {OF_A}"
        if from_link > 1
        else f"DELETE FROM chain_heads WHERE {OF_A}",
    )
    assert await wrong(sealed) == {A: [(PRINTED_HEAD, 3, "I1")]}


async def test_a_document_that_cannot_be_read_any_more_is_named(sealed):
    await issued(sealed, "I1", [], document="{")
    assert await wrong(sealed) == {A: [(UNREADABLE, 0, "I1")]}


async def test_a_month_is_read_piece_by_piece(ledger, database, monkeypatch):
    monkeypatch.setattr(chain_reading, "ROWS", 3)
    monkeypatch.setattr(chain_reading, "LINKS", 2)
    for size in (1, 7, 2, 2, 5):
        await ledger.insert([entry() for _ in range(size)])
    pieces = []
    report = await ChainReading(database).audit(A, (), pieces.append)
    assert (report.links, report.entries, report.findings) == (5, 17, ())
    assert pieces == [3, 3, 3, 3, 3, 2]


MIXED = ("a", "B", "é", "z", "_", "-", "Z", "ä", "b", "\uffee", "\U0001f600")


async def test_call_ids_are_in_the_order_of_their_bytes(ledger, database):
    await ledger.insert([entry(call_id) for call_id in MIXED])
    assert not (await ChainReading(database).audit(A)).findings


async def test_a_postgresql_that_was_made_for_a_language_orders_them_by_their_bytes_too(postgres_url, monkeypatch):
    name = f"t_{uuid.uuid4().hex}"
    made = f'CREATE DATABASE "{name}" TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE "fr"'
    words = ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-c", made, postgres_url]
    await asyncio.to_thread(subprocess.run, words, check=True, capture_output=True)
    url = postgres_url.rsplit("/", 1)[0] + f"/{name}"
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "HEAD", "0004")
        await migrations.migrate(url)
    database = Database.open(url)
    columns = [column.name for column in entries.columns]
    calls = [entry(f"{call_id}{number}") for call_id in MIXED for number in range(100)]  # more than a page
    rows = [dict(zip(columns, (*values_of(call), 0), strict=True)) for call in calls]
    async with database.write() as connection:
        await connection.execute(entries.insert(), rows)
    await migrations.migrate(url)
    await Ledger(database).insert([entry(call_id) for call_id in MIXED])
    report = await ChainReading(database).audit(A)
    await database.close()
    assert (report.links, report.entries, report.findings) == (3, 1111, ())


async def test_what_is_brought_meanwhile_is_not_taken_for_a_fault(database):
    ledger, reading = Ledger(database), ChainReading(database)

    async def ship():
        for _ in range(20):
            await ledger.insert([entry() for _ in range(3)])

    async def verify():
        found = [await reading.audit(A) for _ in range(20)]
        assert not any(report.findings for report in found)

    await asyncio.gather(ship(), verify())
    last = await reading.audit(A)
    assert (last.links, last.entries) == (20, 60)
    assert [row["head"] for row in await rows_of(database, chain_heads)] == [last.head]


async def test_heads_that_are_told_from_elsewhere_can_be_held_against_the_chain(sealed):
    at = await heads(sealed)
    report = await ChainReading(sealed).audit(
        A, [PrintedHead("note of 3 December", 2, at[2]), PrintedHead("other", 2, at[1])]
    )
    assert [found.document for found in report.findings] == ["other"]
