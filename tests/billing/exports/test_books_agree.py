"""However a year went, FOCUS files, the journal, the documents and the entries say the same."""

import contextlib
import random
from decimal import Decimal

import pytest

from proxy.billing.exports.fec import write_fec
from proxy.billing.exports.focus import write_focus
from proxy.billing.exports.focus_rows import payable_cents
from proxy.billing.exports.request import ExportRefusedError
from proxy.billing.invoices.outcomes import IssueError
from proxy.core.invoicing.crediting import Part
from proxy.core.invoicing.document import DocumentKind, Invoice, LineKind
from proxy.core.invoicing.terms import DrawnCredit
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.schema import entries
from tests.billing.exports.company import GERMAN, Company
from tests.billing.exports.fec_checker import amount, checked
from tests.billing.exports.focus_reading import by, cents, pico, rows_of, total
from tests.ledger.support import rows_of as rows_of_table

MONTHS = ["2026-08", "2026-09", "2026-10", "2026-11"]
EXPORTED = [*MONTHS, "2026-12"]


class Year:
    """Some months of a company, as chance has them."""

    def __init__(self, company: Company, seed: int) -> None:
        self._company = company
        self._chance = random.Random(seed)

    async def live(self) -> None:
        self._company.it_is("2026-08-01")
        timezones = ["Europe/Paris", "America/New_York"]
        accounts = [
            await self._company.account("acme"),
            await self._company.account("müller", GERMAN, timezones[1]),
            await self._company.account("prepaid"),
        ]
        for place, month in enumerate(MONTHS):
            self._company.it_is(f"{month}-10")
            for account in accounts:
                if account.name != "müller" and self._chance.random() < 0.6:
                    reference = f"{account.name} {month}"
                    await self._company.buys(account, self._chance.randint(1, 3_000), reference)
                    if self._chance.random() < 0.7:
                        await self._company.deposit(account, reference)
                for _ in range(self._chance.randint(0, 4)):
                    # Some of it comes late: of a month that may have been invoiced.
                    await self._use(account, self._chance.choice([*MONTHS[: place + 1][-2:], month]))
            after = EXPORTED[place + 1]
            self._company.it_is(f"{after}-06")
            for account in accounts:
                if self._chance.random() < 0.8:
                    for invoiced in MONTHS[: place + 1]:
                        await self._company.try_to_invoice(account, invoiced)
            self._company.it_is(f"{after}-08")
            for document in await self._company.documents():
                if self._chance.random() < 0.3:
                    await self._take_back(document)

    async def _use(self, account, month: str) -> None:
        types = self._chance.sample(list(UsageType), self._chance.randint(1, 3))
        await self._company.uses(
            account,
            f"{month}-{self._chance.randint(1, 30):02}",
            *((each, self._chance.choice([1, 999, 12_345, 1_234_567])) for each in types),
            model=self._chance.choice(["gpt-oss:120b", "gemma3:27b"]),
            tariff_class=self._chance.choice(list(TariffClass)),
            version=self._chance.choice(["2026-01", "2026-02"]),
        )

    async def _take_back(self, document: Invoice) -> None:
        parts = [
            Part(line.number, self._chance.randint(1, line.quantity))
            for line in document.lines
            if line.kind in (LineKind.USAGE, LineKind.LATE) and self._chance.random() < 0.5
        ]
        with contextlib.suppress(IssueError):  # it has been taken back, or its credit has been used
            await self._company.credit_note(document.number, *parts)


@pytest.fixture(params=[(seed, drawn_credit) for seed in range(3) for drawn_credit in DrawnCredit])
async def company(request, database):
    seed, drawn_credit = request.param
    made = Company(database, drawn_credit)
    await Year(made, seed).live()
    return made


def sign_of(document: Invoice) -> int:
    return -1 if document.kind is DocumentKind.CREDIT_NOTE else 1


async def test_the_books_agree(company, database):
    documents = {document.number: document for document in await company.documents()}
    assert len({document.kind for document in documents.values()}) == 3
    rows = [row for month in EXPORTED for row in rows_of(await company.export(write_focus, month))]
    of_documents = by(rows, "InvoiceId")
    open_rows = of_documents.pop(("",), [])
    assert {number for (number,) in of_documents} == documents.keys()
    journal = await the_journal(company)
    for number, document in documents.items():
        own = of_documents[number,]
        assert total(own) == cents(payable_cents(document)), number
        lines = by(own, "x_InvoiceLine")
        for line in document.lines:
            assert total(lines[str(line.number),]) == sign_of(document) * cents(line.net_cents), (number, line)
        same_as_in_the_journal(own, journal.get(number, []))
    await used_once(database, documents, rows, open_rows)


async def the_journal(company) -> dict[str, list[dict[str, str]]]:
    records: list[dict[str, str]] = []
    for month in EXPORTED:
        number = int(records[-1]["EcritureNum"]) + 1 if records else 1
        try:
            records += checked(await company.export(write_fec, month), number)
        except ExportRefusedError:
            continue
    return {piece: own for (piece,), own in by(records, "PieceRef").items()}


def same_as_in_the_journal(rows, records) -> None:
    """The rows of a document and its entry in the journal: the same owed, sold, taxed and paid in advance."""

    def moved(account: str) -> Decimal:
        own = [record for record in records if record["CompteNum"] == account]
        return sum((amount(record["Debit"]) - amount(record["Credit"]) for record in own), Decimal())

    kinds = by(rows, "ChargeCategory")
    sold = total(kinds.get(("Usage",), [])) + total(kinds.get(("Adjustment",), []))
    advanced = total(kinds.get(("Purchase",), [])) + total(kinds.get(("Credit",), []))
    assert moved("411000") == total(rows)
    assert moved("706000") == -sold
    assert moved("445710") == -total(kinds.get(("Tax",), []))
    assert moved("419100") == -advanced


async def used_once(database, documents, rows, open_rows) -> None:
    """Every entry is in one row, but for what was taken back in part; what is open is what no document covers."""
    used = sum(row["cost_pico"] for row in await rows_of_table(database, entries))
    cancelled = {document.corrects.number for document in documents.values() if document.cancels}
    given_back = sum(
        line.exact_pico
        for document in documents.values()
        if document.corrects is not None and document.corrects.number not in cancelled
        for line in document.lines
        if line.usage is not None
    )
    of_usage = [row for row in rows if row["ChargeCategory"] == "Usage"]
    assert total(of_usage) == total(of_usage, "EffectiveCost") == pico(used - given_back)
    standing = [
        line.exact_pico
        for document in documents.values()
        if document.kind is DocumentKind.INVOICE and document.number not in cancelled
        for line in document.lines
        if line.usage is not None
    ]
    assert total(open_rows) == pico(used - sum(standing))
