"""The sales journal of a month in the layout of the *fichier des écritures comptables*.

What belongs here: article A47 A-1 of the Livre des procédures fiscales, section VII: eighteen fields in their order,
separated by tabs, records ended by CR LF, UTF-8, dates ``AAAAMMJJ``, decimal commas. What does not: which accounts a
document moves (core/journal.py).

A document belongs to the month in which it was issued, whatever month it bills, and makes one entry of the journal.
Entries are in the order of issue and numbered from 1 in each calendar year, without a gap: a month that is written
again has the numbers that it had, and the next one goes on where it ends.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import BinaryIO, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.billing.exports.request import ExportRefusedError, ExportRequest, Written
from proxy.billing.exports.spooling import spooled
from proxy.core.invoicing.document import Invoice
from proxy.core.invoicing.lines import month_days
from proxy.core.invoicing.terms import Bookkeeping
from proxy.core.journal import Posting, postings
from proxy.core.money import PICO_PER_CENT
from proxy.ledger.issued import documents_issued

FIELDS: Final = (
    "JournalCode",
    "JournalLib",
    "EcritureNum",
    "EcritureDate",
    "CompteNum",
    "CompteLib",
    "CompAuxNum",
    "CompAuxLib",
    "PieceRef",
    "PieceDate",
    "EcritureLib",
    "Debit",
    "Credit",
    "EcritureLet",
    "DateLet",
    "ValidDate",
    "Montantdevise",
    "Idevise",
)


async def write_fec(request: ExportRequest, out: BinaryIO) -> Written:
    """Write the entries of the documents that were issued in a month; the sum is that of the debits.

    Raises:
        ExportRefusedError: nobody sells, nothing was issued, or it is asked for one account's entries: a journal has
            all of them.
        DamagedError: a document is not what was issued.
        LedgerUnavailableError: the database does not answer.
    """
    if request.seller is None:
        raise ExportRefusedError("a journal is somebody's: there is no seller.yaml")
    if request.account_id is not None:
        raise ExportRefusedError("a journal has the entries of every account: leave the account out")
    bookkeeping = request.invoicing.bookkeeping
    rows = debit_cents = 0
    with spooled(out) as file:
        file.write(record_of(FIELDS))
        async with request.database.read() as connection:
            async for number, document, lines in _entries(connection, request.month, bookkeeping):
                for fields in _records(number, document, lines, bookkeeping):
                    file.write(record_of(fields))
                rows += len(lines)
                debit_cents += sum(line.debit_cents for line in lines)
        if not rows:
            raise ExportRefusedError(f"no document was issued in {request.month}")
    return Written(rows, debit_cents * PICO_PER_CENT)


def record_of(fields: Iterable[str]) -> bytes:
    """Return a record. What would separate fields or records, or cannot be printed, becomes a blank within a field."""
    clean = ("".join(each if each.isprintable() else " " for each in field) for field in fields)
    return ("\t".join(clean) + "\r\n").encode()


async def _entries(
    connection: AsyncConnection, month: str, bookkeeping: Bookkeeping
) -> AsyncIterator[tuple[int, Invoice, tuple[Posting, ...]]]:
    """Yield the documents of a month that move anything, each with its number in the journal of the year."""
    first_day, last_day = month_days(month)
    number = 0
    async for document in documents_issued(connection, f"{month[:4]}-01-01", last_day):
        lines = postings(document, bookkeeping)
        if lines:
            number += 1
            if document.issue_date >= first_day:
                yield number, document, lines


def _records(
    number: int, document: Invoice, lines: tuple[Posting, ...], bookkeeping: Bookkeeping
) -> Iterator[tuple[str, ...]]:
    """Yield the fields of an entry's lines. What is issued is final: it is validated on the day of its issue."""
    titles = {
        bookkeeping.customers: "Clients",
        bookkeeping.advances: "Clients - Avances et acomptes reçus sur commandes",
        bookkeeping.sales: "Prestations de services",
        bookkeeping.vat: "TVA collectée",
    }
    day = _date(document.issue_date)
    for line in lines:
        yield (
            bookkeeping.journal,
            bookkeeping.journal_title,
            str(number),
            day,
            line.account,
            titles[line.account],
            line.auxiliary,
            document.buyer.name if line.auxiliary else "",
            document.number,
            day,
            line.label,
            _amount(line.debit_cents),
            _amount(line.credit_cents),
            "",
            "",
            day,
            "",
            "",
        )


def _date(day: str) -> str:
    return day.replace("-", "")


def _amount(cents: int) -> str:
    return f"{cents // 100},{cents % 100:02d}"
