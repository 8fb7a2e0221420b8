"""Documents that were really issued, then changed by hand: the reconciler says which line, and that it needs a note."""

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import update

from proxy.core.invoicing.document import Invoice
from proxy.core.usage import UsageType
from proxy.ledger.database import Database
from proxy.ledger.invoice_schema import invoices
from proxy.reconciling.findings import Difference, Finding, Source, Status
from proxy.reconciling.reconciling import Reconciler
from tests.billing.invoices.support import Desk, noon_ms
from tests.reconciling.support import asked, execute, reconciler, repaired
from tests.support.tampering import unguard

OCTOBER = "2026-10"


@pytest.fixture
async def issuing(database: Database) -> Desk:
    """October is invoiced, for two accounts, one of which has bought credit."""
    desk = Desk(database)
    acme = await desk.account("acme")
    beta = await desk.account("beta")
    await desk.use(acme, "2026-10-05")
    await desk.use(acme, "2026-10-06", (UsageType.OUTPUT, 7), (UsageType.REASONING, 1))
    await desk.use(beta, "2026-10-31", (UsageType.AUDIO_MINUTES, 3), model="whisper")
    desk.today("2026-10-02")
    await desk.buy(acme, 100, "order 1")
    await desk.deposits.issue("acme", "order 1")
    desk.today("2026-12-03")
    assert {result for result, _ in (await desk.issue(OCTOBER)).values()} == {"issued"}
    return desk


@pytest.fixture
async def desk(database: Database, issuing: Desk, tmp_path: Path) -> AsyncIterator[Reconciler]:
    async with reconciler(database, tmp_path, now_ms=noon_ms("2026-12-03")) as made:
        yield made


async def compare(desk: Reconciler, **more: object) -> Finding:
    (finding,) = await desk.compare(asked(Source.INVOICES, **more))
    return finding


async def number_of(issuing: Desk, account: str, kind: str = "invoice") -> str:
    account_id = (await issuing.accounts.named(account)).id
    return next(info.number for info in await issuing.invoices.find(account_id=account_id) if info.kind == kind)


async def rewrite(issuing: Desk, number: str, change: Callable[[Invoice], Invoice]) -> None:
    """Change what a document says, and the SHA-256 beside it: as whoever owns the database can."""
    changed = msgspec.json.encode(change(await issuing.document(number))).decode()
    digest = hashlib.sha256(changed.encode()).hexdigest()
    await unguard(issuing.database, "invoices")
    async with issuing.database.write() as connection:
        values = {"document": changed, "document_sha256": digest}
        await connection.execute(update(invoices).where(invoices.c.number == number).values(values))


def with_line(invoice: Invoice, number: int, **changes: object) -> Invoice:
    lines = [msgspec.structs.replace(line, **changes) if line.number == number else line for line in invoice.lines]
    return msgspec.structs.replace(invoice, lines=tuple(lines))


def asks_for_a_cent_more(invoice: Invoice) -> Invoice:
    return msgspec.structs.replace(invoice, due_cents=invoice.due_cents + 1)


def lines_that_differ(finding: Finding) -> list[Difference]:
    return [each for each in finding.drifts if each.subject.model]


async def test_what_was_issued_agrees_with_its_entries(desk: Reconciler):
    finding = await compare(desk)

    assert (finding.status, finding.drifts) == (Status.AGREES, ())
    assert finding.notes[0].startswith("3 documents")
    assert not [note for note in finding.notes if "not invoiced" in note]


async def test_a_line_that_says_more_than_its_entries_is_named(desk: Reconciler, issuing: Desk):
    number = await number_of(issuing, "acme")
    line = (await issuing.document(number)).lines[0]
    more = msgspec.structs.replace(line, quantity=line.quantity + 1)
    await rewrite(issuing, number, lambda made: with_line(made, 1, quantity=more.quantity))

    finding = await compare(desk)

    assert finding.status is Status.DRIFTS
    (difference,) = lines_that_differ(finding)
    assert line.usage is not None
    subject = difference.subject
    assert (subject.account, subject.place, subject.period) == ("acme", number, OCTOBER)
    assert (subject.model, subject.usage_type) == (line.usage.model, line.usage.usage_type.value)
    assert (difference.unit.value, difference.drift, difference.why) == ("units", 1, "needs a credit note")


async def test_a_document_that_contradicts_itself_is_named(desk: Reconciler, issuing: Desk):
    """A cent more VAT, in the text and in its column alike, is no usage: the arithmetic finds it."""
    number = await number_of(issuing, "beta")
    await rewrite(issuing, number, asks_for_a_cent_more)

    finding = await compare(desk)

    (difference,) = finding.drifts
    assert (difference.subject.place, difference.unit.value) == (number, "mistakes")
    assert "due" in difference.why
    assert "are kept as" in difference.why


async def test_a_text_that_is_not_what_was_issued_is_named(desk: Reconciler, issuing: Desk):
    number = await number_of(issuing, "beta")
    await unguard(issuing.database, "invoices")
    await execute(
        issuing.database, "UPDATE invoices SET document = document || ' ' WHERE number = :number", number=number
    )

    (difference,) = (await compare(desk)).drifts

    assert (difference.subject.place, difference.why) == (number, "its text is not what was issued")


async def test_an_entry_that_came_into_invoiced_links_by_hand_is_named(desk: Reconciler, issuing: Desk):
    """Someone writes an entry into a link that is sealed: the invoice lacks it."""
    number = await number_of(issuing, "beta")
    await unguard(issuing.database, "entries")
    await execute(issuing.database, "UPDATE entries SET audio_minutes_quantity = 4 WHERE model = 'whisper'")

    finding = await compare(desk)

    assert [(each.subject.place, each.unit.value, each.drift) for each in finding.drifts] == [(number, "units", -1)]


async def test_links_and_drawn_credit_are_held_against_what_is_kept_beside(desk: Reconciler, issuing: Desk):
    number = await number_of(issuing, "acme")
    await unguard(issuing.database, "invoice_covers")
    await execute(issuing.database, "UPDATE invoice_covers SET link = link + 1")

    finding = await compare(desk)

    assert number in {each.subject.place for each in finding.drifts}
    assert all("is kept as covering" in each.why for each in finding.drifts)


async def test_what_two_standing_invoices_cover_is_named(desk: Reconciler, issuing: Desk):
    """November's invoice would charge October's links once more."""
    acme = (await issuing.accounts.named("acme")).id
    await issuing.use(acme, "2026-11-01")
    await issuing.issue("2026-11")
    await unguard(issuing.database, "invoice_covers")
    await execute(
        issuing.database,
        "INSERT INTO invoice_covers SELECT id, account_id, '2026-10', 0, 1 FROM invoices "
        "WHERE month = '2026-11' AND account_id = :account",
        account=acme,
    )

    finding = await compare(desk)

    twice = [each for each in finding.drifts if each.unit.value == "links"]
    assert [(each.subject.account, each.subject.period, each.drift) for each in twice] == [("acme", OCTOBER, 1)]


async def test_more_credit_drawn_than_bought_is_named(desk: Reconciler, issuing: Desk):
    await unguard(issuing.database, "invoice_draws")
    await execute(issuing.database, "UPDATE invoice_draws SET drawn_cents = 10001")

    finding = await compare(desk)

    assert any("more is drawn than was bought" in each.why for each in finding.drifts)


async def test_a_month_that_was_cancelled_and_invoiced_anew_agrees(desk: Reconciler, issuing: Desk):
    number = await number_of(issuing, "acme")
    await issuing.notes.issue(number, None, "wrong address")
    assert (await issuing.issue(OCTOBER, "acme"))["acme"][0] == "issued"

    finding = await compare(desk)

    assert (finding.status, finding.drifts) == (Status.AGREES, ())
    assert finding.notes[0].startswith("5 documents")


async def test_late_usage_agrees_once_it_is_invoiced_and_is_told_before(desk: Reconciler, issuing: Desk):
    acme = (await issuing.accounts.named("acme")).id
    await issuing.use(acme, "2026-10-30", (UsageType.OUTPUT, 500))
    await issuing.use(acme, "2026-11-02", (UsageType.OUTPUT, 500))

    finding = await compare(desk)
    assert finding.status is Status.AGREES
    assert "acme, 2026-10: 0.004 € came after the invoice" in finding.notes
    assert "2026-11: 0.004 € of usage are not invoiced (accounts: 1)" in finding.notes

    await issuing.issue("2026-11")
    finding = await compare(desk)
    assert (finding.status, finding.drifts) == (Status.AGREES, ())
    assert not [note for note in finding.notes if "0.004" in note]


async def test_documents_are_never_put_right(desk: Reconciler, issuing: Desk):
    number = await number_of(issuing, "beta")
    await rewrite(issuing, number, lambda made: with_line(made, 1, quantity=9))

    assert await repaired(desk, asked(Source.INVOICES)) == []
    assert (await compare(desk)).status is Status.DRIFTS
