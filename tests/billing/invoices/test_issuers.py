"""Numbers have no gap and no double, whoever issues at once and whenever an issuer dies."""

import asyncio
import random
import subprocess
import sys
from pathlib import Path

from sqlalchemy import func, select

from proxy.billing.invoices.months import Months
from proxy.core.invoicing.crediting import Part
from proxy.ledger.invoice_schema import invoice_covers, invoice_series, invoices
from tests.billing.invoices.support import Desk
from tests.ledger.support import entry

ROOT = Path(__file__).parents[3]
MONTH = "2026-11"
ACCOUNTS = 36


async def fill(desk: Desk) -> None:
    ids = [await desk.account(f"account-{number:02d}") for number in range(ACCOUNTS)]
    await desk.ledger.insert([entry(account_id=id_, month=MONTH, day=f"{MONTH}-05") for id_ in ids])


def start(url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.billing.invoices.issuing_child", url, MONTH]
    child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


async def end(child: subprocess.Popen[str]) -> int:
    code = await asyncio.to_thread(child.wait)
    for pipe in (child.stdin, child.stdout):
        assert pipe is not None
        pipe.close()
    return code


async def stored(desk: Desk) -> int:
    """Return how many invoices there are, after checking that they are whole and numbered from 1 without a gap."""
    table = invoices.c
    async with desk.database.read() as connection:
        rows = (await connection.execute(select(table.sequence, table.account_id).order_by(table.sequence))).all()
        covers = (await connection.execute(select(func.count()).select_from(invoice_covers))).scalar_one()
        last = (await connection.execute(select(invoice_series.c.last))).scalar() or 0
    assert [row.sequence for row in rows] == list(range(1, len(rows) + 1))
    assert len({row.account_id for row in rows}) == len(rows) == covers == last
    return len(rows)


async def test_two_who_issue_the_same_month_leave_no_gap_and_no_double(database, database_url):
    desk = Desk(database)
    await fill(desk)
    children = [start(database_url), start(database_url)]
    for child in children:
        go(child)
    assert [await end(child) for child in children] == [0, 0]
    assert await stored(desk) == ACCOUNTS
    for number in await desk.numbers():
        assert (await desk.document(number)).number == number


async def test_an_issuer_that_is_killed_leaves_whole_documents_and_no_gap(database, database_url):
    desk, rng = Desk(database), random.Random(5)
    await fill(desk)
    found = 0
    for _ in range(3):
        child = start(database_url)
        go(child)
        while await stored(desk) <= found and child.poll() is None:
            await asyncio.sleep(0.005)
        await asyncio.sleep(rng.uniform(0, 0.03))
        child.kill()
        await end(child)
        found = await stored(desk)
        assert found > 0
    assert {result for result, _ in (await desk.issue(MONTH)).values()} <= {"issued", "already"}
    assert await stored(desk) == ACCOUNTS


async def test_what_changed_while_documents_were_made_is_seen(desk):
    """A credit note of another series, an invoice of the same one: each moves what a draft follows from."""
    account = await desk.account("acme")
    await desk.use(account, "2026-10-05")
    await desk.issue("2026-10")
    await desk.use(account, "2026-11-05")
    await desk.use(await desk.account("other"), "2026-11-05")
    interrupted = Desk(desk.database)
    press, made = interrupted.press, []
    make = press._workshop.make

    async def make_slowly(documents):
        made.append([document.number for document in documents])
        if len(made) == 1:
            await desk.notes.issue("F-2026-000001", None, "x")
            await desk.issue("2026-11", "other")
        return await make(documents)

    press._workshop.make = make_slowly
    (outcome,) = await Months(interrupted.office, press).issue("2026-11", "acme")
    assert made == [["F-2026-000002"]]
    assert outcome.why.startswith("2026-10 has no invoice yet")
    assert await desk.numbers() == ["F-2026-000001", "A-2026-000001", "F-2026-000002"]
    assert await desk.issue("2026-10") == {"acme": ("issued", "F-2026-000003")}


async def test_a_credit_note_alone_makes_a_draft_be_made_again(desk):
    """No number of the series is taken meanwhile: only the account tells that its draft is out of date."""
    account = await desk.account("acme")
    await desk.buy(account, 1000, "lot")
    await desk.use(account, "2026-12-05")
    desk.today("2027-01-03")
    number, _ = await desk.deposits.issue("acme", "lot")
    interrupted = Desk(desk.database)
    interrupted.today("2027-01-03")
    press, made = interrupted.press, []
    make = press._workshop.make

    async def make_slowly(documents):
        made.append([document.number for document in documents])
        if len(made) == 1:
            await desk.notes.issue(number, [Part(1, 600)], "x")
        return await make(documents)

    press._workshop.make = make_slowly
    await Months(interrupted.office, press).issue("2026-12", "acme")
    assert made == [["F-2027-000001"], ["F-2027-000001"]]
    assert await desk.numbers() == ["D-2027-000001", "A-2027-000001", "F-2027-000001"]


async def test_a_number_that_others_have_taken_makes_a_document_be_made_again(desk):
    for name in ("acme", "other"):
        await desk.use(await desk.account(name), "2026-11-05")
    interrupted = Desk(desk.database)
    press, made = interrupted.press, []
    make = press._workshop.make

    async def make_slowly(documents):
        made.append([document.number for document in documents])
        if len(made) == 1:
            await desk.issue("2026-11", "other")
        return await make(documents)

    press._workshop.make = make_slowly
    await Months(interrupted.office, press).issue("2026-11", "acme")
    assert made == [["F-2026-000001"], ["F-2026-000002"]]
    assert (await desk.document("F-2026-000002")).account_name == "acme"
