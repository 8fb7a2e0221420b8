"""A month is invoiced: each entry once, each number once, in order."""

import random

import pytest
from sqlalchemy import text

from proxy.billing.documents import files_of
from proxy.billing.documents.validating import rule_mistakes
from proxy.billing.invoices.outcomes import IssueError, WrongDocumentError
from proxy.billing.invoices.workshop import Craft
from proxy.core.batches.objects import ENDED, BatchStatus
from proxy.core.invoicing.checking import mistakes_against, mistakes_of
from proxy.core.invoicing.document import LineKind
from proxy.core.usage import UsageType
from proxy.ledger.errors import DamagedError, LedgerRefusedError
from proxy.ledger.invoice_schema import invoices
from proxy.ledger.outbox import Outbox
from tests.billing.invoices.support import Desk, buyer, random_entries
from tests.ledger.batches.support import add_batch
from tests.ledger.support import entry
from tests.support.tampering import unguard


async def test_every_account_gets_its_invoice_and_numbers_have_no_gap(desk):
    for name in ("carol", "alice", "bob"):
        await desk.use(await desk.account(name), "2026-11-05")
    await desk.account("idle")
    assert await desk.issue("2026-11") == {
        "alice": ("issued", "F-2026-000001"),
        "bob": ("issued", "F-2026-000002"),
        "carol": ("issued", "F-2026-000003"),
    }
    info = (await desk.invoices.find())[0]
    assert (info.account, info.month, info.issue_date, info.issued_by) == ("alice", "2026-11", "2026-12-03", "tester")
    document = await desk.document("F-2026-000001")
    assert [line.quantity for line in document.lines] == [1_000_003, 250_001]
    assert document.net_cents == 180 + 200
    assert document.due_date == "2027-01-02"


async def test_issuing_again_does_nothing_and_says_so(desk):
    await desk.use(await desk.account("acme"), "2026-11-05")
    await desk.issue("2026-11")
    before = await desk.invoices.read("F-2026-000001")
    assert await desk.issue("2026-11") == {"acme": ("already", "F-2026-000001")}
    assert await desk.issue("2026-11", "acme") == {"acme": ("already", "F-2026-000001")}
    assert await desk.invoices.read("F-2026-000001") == before
    assert await desk.numbers() == ["F-2026-000001"]


async def test_what_is_issued_is_the_sum_of_the_very_entries_of_the_ledger(database):
    """From random calls to files that pass the official rules: the exact check finds nothing, on either side."""
    rng, desk = random.Random(11), Desk(database, craft=Craft(files_of, rule_mistakes))
    ids = [await desk.account(f"account-{number}") for number in range(3)]
    await desk.buy(ids[0], 100, "top-up")
    for month in ("2026-10", "2026-11"):
        for _ in range(4):
            await desk.ledger.insert([each for id_ in ids for each in random_entries(rng, id_, month, 25)])
    desk.today("2026-12-04")
    await desk.issue("2026-10")
    await desk.ledger.insert([each for id_ in ids for each in random_entries(rng, id_, "2026-10", 5)])
    await desk.issue("2026-11")
    issued = [await desk.document(number) for number in await desk.numbers() if number.startswith("F")]
    assert len(issued) == 6
    entries = 0
    for document in issued:
        covered = await desk.covered_entries(document)
        entries += len(covered)
        assert mistakes_of(document, desk.office.terms) == []
        assert mistakes_against(document, covered) == []
    assert entries == 3 * (2 * 100 + 5)
    assert [line.kind for line in issued[-1].lines].count(LineKind.LATE) > 0
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT COUNT(*) FROM entries"))).scalar() == entries


async def test_what_comes_late_is_on_the_next_invoice_by_day(desk):
    account = await desk.account("acme")
    await desk.use(account, "2026-10-05")
    await desk.issue("2026-10")
    await desk.use(account, "2026-10-31", (UsageType.OUTPUT, 3))
    await desk.use(account, "2026-10-30", (UsageType.OUTPUT, 5))
    await desk.use(account, "2026-10-31", (UsageType.OUTPUT, 4))
    assert await desk.issue("2026-10") == {"acme": ("already", "F-2026-000001")}
    await desk.use(account, "2026-11-01", (UsageType.OUTPUT, 9))
    await desk.issue("2026-11")
    document = await desk.document("F-2026-000002")
    assert [(line.kind.value, line.first_day, line.quantity) for line in document.lines] == [
        ("usage", "2026-11-01", 9),
        ("late", "2026-10-30", 5),
        ("late", "2026-10-31", 7),
    ]
    marks = [(mark.month, mark.after_link, mark.link) for mark in document.chain]
    assert marks == [("2026-11", 0, 1), ("2026-10", 1, 4)]
    assert mistakes_against(document, await desk.covered_entries(document)) == []


async def test_a_month_that_has_late_entries_only_is_invoiced(desk):
    account = await desk.account("acme")
    await desk.use(account, "2026-10-05")
    await desk.issue("2026-10")
    await desk.use(account, "2026-10-06")
    assert await desk.issue("2026-11") == {"acme": ("issued", "F-2026-000002")}
    document = await desk.document("F-2026-000002")
    assert {line.kind for line in document.lines} == {LineKind.LATE}
    assert mistakes_of(document) == []
    desk.today("2027-01-05")
    assert await desk.issue("2026-12") == {"acme": ("nothing", "")}


async def test_months_are_invoiced_in_order(desk):
    account = await desk.account("acme")
    await desk.use(account, "2026-09-05")
    await desk.use(account, "2026-10-05")
    await desk.use(account, "2026-11-05")
    result, why = (await desk.issue("2026-11"))["acme"]
    assert result == "refused"
    assert why == (
        "2026-09, 2026-10 has no invoice yet, and months are invoiced in order: "
        "tollgate invoice issue --month 2026-09 --account acme"
    )
    for month, number in (("2026-09", 1), ("2026-10", 2), ("2026-11", 3)):
        assert await desk.issue(month) == {"acme": ("issued", f"F-2026-00000{number}")}


async def test_a_month_opens_when_its_days_of_grace_are_over(desk):
    account = await desk.account("acme")
    await desk.use(account, "2026-11-05")
    desk.today("2026-12-02")
    too_early = {"acme": ("refused", "2026-11 can be invoiced from 2026-12-03 on (Europe/Paris)")}
    assert await desk.issue("2026-11") == too_early
    assert await desk.numbers() == []
    desk.today("2026-12-03")
    assert await desk.issue("2026-11") == {"acme": ("issued", "F-2026-000001")}


async def test_an_account_whose_entries_wait_in_an_outbox_is_refused(desk, tmp_path):
    waiting, other = await desk.account("acme"), await desk.account("other")
    await desk.use(waiting, "2026-11-05")
    await desk.use(other, "2026-11-05")
    outbox = Outbox(tmp_path / "outbox-0.db")
    await outbox.commit(entry(account_id=waiting, day="2026-11-30", month="2026-11"))
    await outbox.commit(entry(account_id=other, day="2026-12-01", month="2026-12"))
    await outbox.close()
    desk.waiting_in(tmp_path / "outbox-0.db")
    outcomes = await desk.issue("2026-11")
    assert outcomes["other"] == ("issued", "F-2026-000001")
    assert outcomes["acme"][0] == "refused"
    assert outcomes["acme"][1].startswith("1 entry waits for the ledger in an outbox")
    outcomes = await desk.issue("2026-11", despite_waiting=True)
    assert outcomes["acme"] == ("issued", "F-2026-000002")


@pytest.mark.parametrize("status", [status for status in BatchStatus if status not in ENDED])
async def test_an_account_whose_batches_of_the_month_have_not_ended_is_refused(desk, database, status):
    waiting, other = await desk.account("acme"), await desk.account("other")
    for account in (waiting, other):
        await desk.use(account, "2026-11-05")
    await add_batch(database, waiting, status=status)
    await add_batch(database, waiting, status=BatchStatus.COMPLETED)
    await add_batch(database, other, status=status, month="2026-12", day="2026-12-01")
    await add_batch(database, other, status=BatchStatus.EXPIRED)
    outcomes = await desk.issue("2026-11")
    assert outcomes["other"] == ("issued", "F-2026-000001")
    assert outcomes["acme"][0] == "refused"
    assert outcomes["acme"][1].startswith("1 batch of it has not ended")
    assert (await desk.issue("2026-11", despite_waiting=True))["acme"] == ("issued", "F-2026-000002")


async def test_who_has_no_buyer_is_told_and_holds_nobody_up(desk):
    await desk.use(await desk.account("acme", has_buyer=False), "2026-11-05")
    await desk.use(await desk.account("other"), "2026-11-05")
    outcomes = await desk.issue("2026-11")
    assert outcomes["acme"] == ("refused", "acme has no buyer: set one with tollgate accounts buyer set")
    assert outcomes["other"] == ("issued", "F-2026-000001")


async def test_a_draft_takes_no_number_and_stores_nothing(desk):
    account = await desk.account("acme")
    await desk.use(account, "2026-12-01")
    draft = await desk.months.draft("acme", "2026-12")
    assert (draft.number, draft.net_cents, await desk.numbers()) == ("", 380, [])
    desk.today("2027-01-05")
    await desk.issue("2026-12")
    with pytest.raises(IssueError, match="F-2027-000001 stands for 2026-12"):
        await desk.months.draft("acme", "2026-12")
    with pytest.raises(IssueError, match="used nothing"):
        await desk.months.draft("acme", "2027-01")


async def test_numbers_begin_anew_each_year_and_dates_never_go_back(desk):
    first, second = await desk.account("acme"), await desk.account("other")
    await desk.use(first, "2026-11-05")
    await desk.use(second, "2026-11-05")
    desk.today("2026-12-31")
    await desk.issue("2026-11", "acme")
    desk.today("2026-12-30")
    with pytest.raises(IssueError, match="dates of issue never go back"):
        await desk.issue("2026-11", "other")
    desk.today("2027-01-01")
    assert await desk.issue("2026-11", "other") == {"other": ("issued", "F-2027-000001")}
    desk.today("2026-12-31")
    with pytest.raises(IssueError, match="issued on 2027-01-01, after 2026-12-31"):
        await desk.notes.issue("F-2027-000001", None, "x")


async def test_a_wrong_document_stops_everything_and_takes_no_number(desk, monkeypatch):
    for name in ("alice", "bob"):
        await desk.use(await desk.account(name), "2026-11-05")
    desk.craft = Craft(desk.craft.make, complains)
    with pytest.raises(WrongDocumentError, match="BR-FR-1"):
        await desk.issue("2026-11")
    desk.craft = Craft(desk.craft.make, lambda _: [])
    from proxy.billing.invoices import months

    right = months.monthly_invoice

    def wrong(*arguments):
        from msgspec.structs import replace

        made = right(*arguments)
        return replace(made, gross_cents=made.gross_cents + 1) if made.account_name == "bob" else made

    with monkeypatch.context() as patched:
        patched.setattr(months, "monthly_invoice", wrong)
        with pytest.raises(WrongDocumentError, match="document for bob is wrong"):
            await desk.issue("2026-11")
    assert await desk.numbers() == []
    assert (await desk.issue("2026-11"))["bob"] == ("issued", "F-2026-000002")


def complains(_xml: bytes) -> list[str]:
    return ["BR-FR-1: not so"]


async def test_stored_documents_cannot_be_changed_and_bytes_that_differ_are_told(desk, database):
    await desk.use(await desk.account("acme"), "2026-11-05")
    await desk.issue("2026-11")
    for statement in ("UPDATE invoices SET net_cents = 1", "DELETE FROM invoices", "DELETE FROM invoice_covers"):
        with pytest.raises(LedgerRefusedError):
            async with database.write() as connection:
                await connection.execute(text(statement))
    await unguard(database, "invoices")
    for column in ("pdf", "xml"):
        stored = getattr(await desk.invoices.read("F-2026-000001"), column)
        await put(database, column, stored + b"!")
        with pytest.raises(DamagedError, match=f"the {column.upper()} of F-2026-000001 is not what was issued"):
            await desk.invoices.read("F-2026-000001")
        await put(database, column, stored)
    async with database.write() as connection:
        await connection.execute(text("UPDATE invoices SET document = REPLACE(document, 'acme', 'evil')"))
    for read in (desk.invoices.read, desk.invoices.with_corrections):
        with pytest.raises(DamagedError, match="the document F-2026-000001 is not what was issued"):
            await read("F-2026-000001")


async def put(database, column, content):
    async with database.write() as connection:
        await connection.execute(invoices.update().values({column: content}))


async def test_the_buyer_of_the_day_of_issue_is_on_the_document(desk):
    from proxy.ledger.buyers import Buyers

    account = await desk.account("acme")
    await desk.use(account, "2026-11-05")
    await desk.issue("2026-11")
    await Buyers(desk.database, desk.clock).set(account, buyer(name="Another"))
    assert (await desk.document("F-2026-000001")).buyer.name != "Another"
