"""What was issued is corrected by credit notes alone, and what they lay open is invoiced anew."""

import pytest

from proxy.billing.invoices.outcomes import IssueError
from proxy.core.invoicing.checking import mistakes_against
from proxy.core.invoicing.crediting import Part
from proxy.core.invoicing.document import LineKind
from proxy.core.invoicing.terms import DrawnCredit, InvoicingTerms
from proxy.core.usage import UsageType
from proxy.ledger.invoices import UnknownDocumentError
from tests.billing.invoices.support import Desk

OUTPUT = UsageType.OUTPUT
EURO = 125_000
"""Output tokens for one euro."""


async def test_a_cancelled_month_is_invoiced_anew(desk):
    account = await desk.account("acme")
    await desk.use(account, "2026-11-05", (OUTPUT, EURO))
    await desk.issue("2026-11")
    note = await desk.notes.issue("F-2026-000001", None, "wrong address")
    assert (note.number, note.cancels, note.net_cents) == ("A-2026-000001", True, 100)
    first, correction = await desk.invoices.find()
    assert (first.stands, correction.corrects) == (False, "F-2026-000001")
    assert await desk.issue("2026-11") == {"acme": ("issued", "F-2026-000002")}
    document = await desk.document("F-2026-000002")
    assert mistakes_against(document, await desk.covered_entries(document)) == []
    with pytest.raises(IssueError, match="has been cancelled by A-2026-000001"):
        await desk.notes.issue("F-2026-000001", None, "again")
    with pytest.raises(UnknownDocumentError):
        await desk.notes.issue("F-2026-000009", None, "x")


async def test_what_a_later_invoice_carries_is_not_invoiced_again(desk):
    """Links 1 and 2 of October are on its invoice, 3 on November's: cancelling October lays 1 and 2 open."""
    account = await desk.account("acme")
    await desk.use(account, "2026-10-05", (OUTPUT, 1))
    await desk.use(account, "2026-10-06", (OUTPUT, 2))
    await desk.issue("2026-10")
    await desk.use(account, "2026-10-07", (OUTPUT, 4))
    await desk.use(account, "2026-11-01", (OUTPUT, 8))
    await desk.issue("2026-11")
    await desk.use(account, "2026-10-08", (OUTPUT, 16))
    await desk.notes.issue("F-2026-000001", None, "x")
    await desk.issue("2026-10")
    again = await desk.document("F-2026-000003")
    assert [(line.kind.value, line.quantity) for line in again.lines] == [("usage", 3)]
    assert [(mark.after_link, mark.link) for mark in again.chain] == [(0, 2)]
    assert mistakes_against(again, await desk.covered_entries(again)) == []
    desk.today("2027-01-03")
    await desk.issue("2026-12")
    last = await desk.document("F-2027-000001")
    assert [(line.kind.value, line.first_day, line.quantity) for line in last.lines] == [("late", "2026-10-08", 16)]


async def test_a_cancelled_invoice_of_late_entries_gives_them_back(desk):
    account = await desk.account("acme")
    await desk.use(account, "2026-10-05", (OUTPUT, 1))
    await desk.issue("2026-10")
    await desk.use(account, "2026-10-07", (OUTPUT, 4))
    await desk.use(account, "2026-11-01", (OUTPUT, 8))
    await desk.issue("2026-11")
    await desk.notes.issue("F-2026-000002", None, "x")
    await desk.use(account, "2026-10-09", (OUTPUT, 32))
    await desk.issue("2026-11")
    document = await desk.document("F-2026-000003")
    assert [(line.kind.value, line.quantity) for line in document.lines] == [("usage", 8), ("late", 4), ("late", 32)]


async def test_lines_are_taken_back_in_part_and_never_more_than_there_is(desk):
    account = await desk.account("acme")
    await desk.use(account, "2026-11-05", (OUTPUT, EURO), (UsageType.INPUT, 10**6))
    await desk.issue("2026-11")
    await desk.notes.issue("F-2026-000001", [Part(2, EURO // 2)], "slow answers")
    await desk.notes.issue("F-2026-000001", [Part(2, EURO // 4)], "slow answers")
    with pytest.raises(IssueError, match="31250 are left of line 2"):
        await desk.notes.issue("F-2026-000001", [Part(2, EURO // 2)], "slow answers")
    rest = await desk.notes.issue("F-2026-000001", None, "all of it")
    assert (rest.number, rest.net_cents) == ("A-2026-000003", 25 + 180)
    assert [info.stands for info in await desk.invoices.find()] == [False, True, True, True]


async def test_drawn_credit_gets_its_deposit_invoice_first(desk):
    account = await desk.account("acme")
    await desk.buy(account, 1000, "first")
    await desk.buy(account, 500, "second")
    await desk.use(account, "2026-12-05", (OUTPUT, 4 * EURO))
    desk.today("2027-01-03")
    (outcome,) = await desk.months.issue("2026-12")
    assert [each.number for each in outcome.deposits] == ["D-2027-000001"]
    drawn = [line for line in outcome.document.lines if line.kind is LineKind.DRAWN]
    assert [(line.reference, line.net_cents, line.deposit.number) for line in drawn] == [
        ("first", -400, "D-2027-000001")
    ]
    assert outcome.document.due_cents == 0
    assert await desk.deposits.issue("acme", "first") == ("D-2027-000001", None)
    number, document = await desk.deposits.issue("acme", "second")
    assert (number, document.net_cents, document.due_cents) == ("D-2027-000002", 500, 0)
    with pytest.raises(IssueError, match="no credit with the reference 'third'"):
        await desk.deposits.issue("acme", "third")


async def test_a_lot_is_never_drawn_beyond_what_was_bought(desk):
    account = await desk.account("acme")
    await desk.buy(account, 250, "lot")
    for month, due_net in (("2026-12", 0), ("2027-01", 50), ("2027-02", 100)):
        await desk.use(account, f"{month}-05", (OUTPUT, EURO))
        if month == "2027-01":
            await desk.use(account, f"{month}-06", (OUTPUT, EURO))
        desk.today(f"{month[:5]}{int(month[5:]) + 1:02d}-10" if month != "2026-12" else "2027-01-10")
        (outcome,) = await desk.months.issue(month)
        assert outcome.document.net_cents == due_net
    drawn = [sum((await desk.document(number)).drawn_cents.values()) for number in await desk.numbers()]
    assert sum(drawn) == 250


async def test_a_cancelled_invoice_gives_its_credit_back(desk):
    account = await desk.account("acme")
    await desk.buy(account, 1000, "lot")
    await desk.use(account, "2026-12-05", (OUTPUT, 4 * EURO))
    desk.today("2027-01-03")
    await desk.issue("2026-12")
    await desk.notes.issue("F-2027-000001", None, "x")
    await desk.issue("2026-12")
    again = await desk.document("F-2027-000002")
    assert list(again.drawn_cents.values()) == [400]
    assert await desk.numbers() == ["D-2027-000001", "F-2027-000001", "A-2027-000001", "F-2027-000002"]


async def test_credit_that_counts_as_paid_needs_no_deposit_invoice(database):
    desk = Desk(database, InvoicingTerms(drawn_credit=DrawnCredit.PAID_AMOUNT))
    account = await desk.account("acme")
    await desk.buy(account, 1000, "lot")
    await desk.use(account, "2026-12-05", (OUTPUT, 4 * EURO))
    desk.today("2027-01-03")
    (outcome,) = await desk.months.issue("2026-12")
    document = outcome.document
    assert outcome.deposits == ()
    assert (document.net_cents, document.gross_cents, document.paid_cents, document.due_cents) == (400, 480, 480, 0)


async def test_of_a_deposit_no_more_is_taken_back_than_was_not_used(desk):
    account = await desk.account("acme")
    await desk.buy(account, 1000, "lot")
    number, _ = await desk.deposits.issue("acme", "lot")
    await desk.use(account, "2026-12-05", (OUTPUT, 4 * EURO))
    with pytest.raises(IssueError, match=r"6\.00 € can be taken back, not 10\.00 €"):
        await desk.notes.issue(number, None, "does not want it any more")
    note = await desk.notes.issue(number, [Part(1, 600)], "does not want it any more")
    assert note.net_cents == 600
    await desk.use(account, "2026-12-06", (OUTPUT, 4 * EURO))
    desk.today("2027-01-03")
    (outcome,) = await desk.months.issue("2026-12")
    assert sum(outcome.document.drawn_cents.values()) == 400
    assert outcome.document.net_cents == 400


async def test_credit_that_is_not_whole_cents_is_told_when_it_is_drawn(desk):
    account = await desk.account("acme")
    await desk.credit.add(account, 10**12 + 1, "odd")
    await desk.use(account, "2026-12-05", (OUTPUT, EURO))
    desk.today("2027-01-03")
    assert "not whole cents" in (await desk.issue("2026-12"))["acme"][1]
    assert await desk.numbers() == []


async def test_what_is_not_invoiced_yet_draws_no_credit(desk):
    """The lot pays from October on. What came late to October is on no invoice when September is invoiced anew."""
    account = await desk.account("acme")
    await desk.use(account, "2026-09-05", (OUTPUT, 4 * EURO))
    desk.today("2026-10-20")
    await desk.buy(account, 1000, "lot")
    await desk.use(account, "2026-10-20", (OUTPUT, EURO))
    await desk.issue("2026-09")
    desk.today("2026-12-03")
    await desk.issue("2026-10")
    await desk.use(account, "2026-10-21", (OUTPUT, 3 * EURO))
    await desk.notes.issue("F-2026-000001", None, "x")
    await desk.issue("2026-09")
    again = await desk.document("F-2026-000003")
    assert (again.month, again.net_cents, again.drawn_cents) == ("2026-09", 400, {})
