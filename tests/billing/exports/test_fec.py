"""The sales journal is a FEC, and says of each document what the document says."""

import io
from decimal import Decimal

import msgspec
import pytest
from sqlalchemy import update

from proxy.billing.exports.fec import record_of, write_fec
from proxy.billing.exports.formats import FORMATS, file_name
from proxy.billing.exports.request import ExportRefusedError
from proxy.core.invoicing.terms import DrawnCredit
from proxy.core.usage import UsageType
from proxy.ledger.errors import DamagedError
from proxy.ledger.invoice_schema import invoices
from tests.billing.exports.company import BUYER, GERMAN, SELLER, Company
from tests.billing.exports.fec_checker import FecError, checked, credits_of, debits
from tests.support.tampering import unguard

OUTPUT = UsageType.OUTPUT


@pytest.fixture
def company(database):
    made = Company(database)
    made.it_is("2026-10-02")
    return made


async def journal(company, month, first_number=1):
    return checked(await company.export(write_fec, month), first_number)


def told(records):
    return [
        (each["EcritureNum"], each["PieceRef"], each["CompteNum"], each["Debit"], each["Credit"]) for each in records
    ]


async def test_a_deposit_and_the_invoice_that_draws_it(company):
    acme = await company.account("acme")
    await company.buys(acme, 1_000, "PO 1")
    await company.deposit(acme, "PO 1")
    await company.uses(acme, "2026-10-10", (OUTPUT, 3_000_000))
    assert told(await journal(company, "2026-10")) == [
        ("1", "D-2026-000001", "411000", "12,00", "0,00"),
        ("1", "D-2026-000001", "419100", "0,00", "10,00"),
        ("1", "D-2026-000001", "445710", "0,00", "2,00"),
    ]
    company.it_is("2026-11-05")
    await company.invoice(acme, "2026-10")
    records = await journal(company, "2026-11", 2)
    assert told(records) == [
        ("2", "F-2026-000001", "411000", "16,80", "0,00"),
        ("2", "F-2026-000001", "419100", "10,00", "0,00"),
        ("2", "F-2026-000001", "706000", "0,00", "24,00"),
        ("2", "F-2026-000001", "445710", "0,00", "2,80"),
    ]
    assert records[0] == {
        "JournalCode": "VE",
        "JournalLib": "Ventes",
        "EcritureNum": "2",
        "EcritureDate": "20261105",
        "CompteNum": "411000",
        "CompteLib": "Clients",
        "CompAuxNum": acme.id,
        "CompAuxLib": BUYER.name,
        "PieceRef": "F-2026-000001",
        "PieceDate": "20261105",
        "EcritureLib": f"F-2026-000001 {BUYER.name}",
        "Debit": "16,80",
        "Credit": "0,00",
        "EcritureLet": "",
        "DateLet": "",
        "ValidDate": "20261105",
        "Montantdevise": "",
        "Idevise": "",
    }


async def test_credit_that_counts_as_paid_comes_to_the_same(database):
    company = Company(database, DrawnCredit.PAID_AMOUNT)
    company.it_is("2026-10-02")
    acme = await company.account("acme")
    await company.buys(acme, 1_000, "PO 1")
    await company.deposit(acme, "PO 1")
    await company.uses(acme, "2026-10-10", (OUTPUT, 3_000_000))
    company.it_is("2026-11-05")
    await company.invoice(acme, "2026-10")
    records = await journal(company, "2026-11", 2)
    assert debits(records) == credits_of(records) == Decimal("28.80")
    vat = [record for record in records if record["CompteNum"] == "445710"]
    assert credits_of(vat) - debits(vat) == Decimal("2.80")


async def test_a_document_is_in_the_month_of_its_issue_and_numbers_go_on_through_the_year(company):
    acme, german = await company.account("acme"), await company.account("müller", GERMAN)
    for account in (acme, german):
        await company.uses(account, "2026-10-10", (OUTPUT, 3_000_000))
    company.it_is("2026-11-05")
    first = await company.invoice(acme, "2026-10")
    await company.invoice(german, "2026-10")
    company.it_is("2026-12-31")
    await company.credit_note(first.number)
    company.it_is("2027-01-02")
    await company.invoice(acme, "2026-10")
    assert [
        len(told(await journal(company, *wanted))) for wanted in (("2026-11", 1), ("2026-12", 3), ("2027-01", 1))
    ] == [
        5,
        3,
        3,
    ]
    november, december = await journal(company, "2026-11"), await journal(company, "2026-12", 3)
    own = [record for record in november if record["PieceRef"] == first.number]
    sides = [(record["CompteNum"], record["Debit"], record["Credit"]) for record in own]
    assert [(each["CompteNum"], each["Credit"], each["Debit"]) for each in december] == sides


async def test_a_document_of_nothing_moves_nothing_and_takes_no_number(company):
    acme = await company.account("acme")
    await company.uses(acme, "2026-10-10", (OUTPUT, 1))
    company.it_is("2026-11-05")
    await company.invoice(acme, "2026-10")
    with pytest.raises(ExportRefusedError, match="no document"):
        await company.export(write_fec, "2026-11")
    await company.uses(acme, "2026-11-10", (OUTPUT, 1_000_000))
    company.it_is("2026-12-05")
    await company.invoice(acme, "2026-11")
    assert len(await journal(company, "2026-12", 1)) == 3


def test_what_would_break_a_record_is_a_blank():
    assert record_of(["A\tB\r\nC", "é\u2028\x00|", ""]) == "A B  C\té  |\t\r\n".encode()


async def test_it_says_how_much_it_holds(company):
    acme = await company.account("acme")
    await company.uses(acme, "2026-10-10", (OUTPUT, 1_000_000))
    company.it_is("2026-11-05")
    await company.invoice(acme, "2026-10")
    written = await write_fec(company.request("2026-11"), io.BytesIO())
    assert (written.rows, written.total_pico) == (3, 9_600_000_000_000)


def test_its_name_is_the_prescribed_one():
    form = FORMATS["fec"]
    assert file_name(form, "2028-02", None, SELLER) == "123456782FEC20280229.txt"
    assert file_name(form, "2028-02", None) == "tollgate-2028-02.fec.txt"
    assert file_name(FORMATS["csv"], "2028-02", None, SELLER) == "tollgate-2028-02.csv"


async def test_there_is_no_journal_of_nothing_of_nobody_or_of_one_account(company):
    acme = await company.account("acme")
    for request, why in (
        (company.request("2026-11"), "no document was issued in 2026-11"),
        (msgspec.structs.replace(company.request("2026-11"), seller=None), r"seller\.yaml"),
        (company.request("2026-11", acme), "every account"),
    ):
        out = io.BytesIO()
        with pytest.raises(ExportRefusedError, match=why):
            await write_fec(request, out)
        assert out.getvalue() == b""


async def test_a_document_that_was_changed_makes_no_journal(company, database):
    acme = await company.account("acme")
    await company.uses(acme, "2026-10-10", (OUTPUT, 1_000_000))
    company.it_is("2026-11-05")
    await company.invoice(acme, "2026-10")
    await unguard(database, "invoices")
    async with database.write() as connection:
        await connection.execute(update(invoices).values(document=invoices.c.document + " "))
    with pytest.raises(DamagedError):
        await company.export(write_fec, "2026-11")


GOOD = [
    *["VE", "Ventes", "1", "20261105", "411000", "Clients", "acc", "Acme", "F-1", "20261105", "F-1 Acme"],
    *["12,00", "0,00", "", "", "20261105", "", ""],
]
OTHER = [*GOOD[:4], "706000", "Ventes", "", "", *GOOD[8:11], "0,00", "12,00", *GOOD[13:]]
HEADER = (
    "JournalCode\tJournalLib\tEcritureNum\tEcritureDate\tCompteNum\tCompteLib\tCompAuxNum\tCompAuxLib\tPieceRef\t"
    "PieceDate\tEcritureLib\tDebit\tCredit\tEcritureLet\tDateLet\tValidDate\tMontantdevise\tIdevise"
)


def content(*records, header=HEADER, end="\r\n"):
    return (end.join([header, *("\t".join(record) for record in records)]) + end).encode()


def changed(place, value, record=GOOD):
    return [*record[:place], value, *record[place + 1 :]]


@pytest.mark.parametrize(
    "broken",
    [
        content(GOOD, OTHER, header=HEADER.replace("Debit\tCredit", "Credit\tDebit")),
        content(GOOD, OTHER, end="\n"),
        content(GOOD, OTHER[:-1]),
        content(GOOD, changed(11, "0.00", OTHER)),
        content(GOOD, changed(12, "11,99", OTHER)),
        content(GOOD, changed(3, "2026-11-05", OTHER)),
        content(GOOD, changed(3, "20261104", OTHER)),
        content(GOOD, changed(4, "", OTHER)),
        content(GOOD, changed(10, "two\x0blines", OTHER)),
        content(GOOD, OTHER, changed(2, "3"), changed(2, "3", OTHER)),
        content(changed(2, "2"), changed(2, "2", OTHER)),
        content(GOOD),
        content(),
    ],
)
def test_the_checker_sees_what_is_wrong(broken):
    checked(content(GOOD, OTHER))
    with pytest.raises(FecError):
        checked(broken)
