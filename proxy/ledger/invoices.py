"""Documents as they were issued: numbers without a gap, bytes that never change.

What belongs here: taking numbers and storing documents in one transaction, and reading them back. What does not: what
a document says (core/invoicing/), and making it (billing/invoices/).

A document shows its number, so it is made before the number is taken. Who issues reads where the series stands, makes
the documents with the numbers that come next, and hands them over with what it saw. The transaction locks the series
and the accounts and stores the documents only if all is still as it was seen. Otherwise nothing is stored, no number is
taken, and they are made again. So a number is taken exactly when its document is there.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.clock import unix_ms
from proxy.core.invoicing.document import DocumentKind, Invoice
from proxy.ledger.accounts import new_id
from proxy.ledger.coverage import standing
from proxy.ledger.database import Database
from proxy.ledger.errors import DamagedError, LedgerError, RefusedChangeError
from proxy.ledger.invoice_schema import invoice_covers, invoice_draws, invoice_series, invoices
from proxy.ledger.schema import accounts


class OutrunError(LedgerError):
    """Others have issued documents since the numbers were read: nothing was stored."""


class UnknownDocumentError(RefusedChangeError):
    """No document has this number."""


class Position(msgspec.Struct, frozen=True):
    """Where a series stands in a year.

    Args:
        series: what its numbers begin with.
        year: of the date of issue.
        last: the last number that was taken; 0: none was.
        last_date: of the series' last document in any year, ``YYYY-MM-DD``; empty: there is none.
    """

    series: str
    year: int
    last: int
    last_date: str


class Ready(msgspec.Struct, frozen=True):
    """A document that is ready to be stored: what it says, and its files."""

    document: Invoice
    xml: bytes
    pdf: bytes


class DocumentInfo(msgspec.Struct, frozen=True):
    """A document, told in a line.

    Args:
        number, kind, account_id, month, issue_date: as in ``Invoice``.
        account: the account's name now.
        net_cents, vat_cents, gross_cents, due_cents: as in ``Invoice``.
        corrects: number of the document that a credit note corrects; empty otherwise.
        cancels: whether it takes all of it back.
        lot_id: of a deposit invoice; empty otherwise.
        stands: whether no credit note cancels it.
        issued_ms: when it was stored, Unix milliseconds.
        issued_by: who issued it.
    """

    number: str
    kind: DocumentKind
    account_id: str
    account: str
    month: str
    issue_date: str
    net_cents: int
    vat_cents: int
    gross_cents: int
    due_cents: int
    corrects: str
    cancels: bool
    lot_id: str
    stands: bool
    issued_ms: int
    issued_by: str


class StoredDocument(msgspec.Struct, frozen=True):
    """A document as it was issued: what it says, its files, and their SHA-256 in hex."""

    info: DocumentInfo
    document: Invoice
    xml: bytes
    xml_sha256: str
    pdf: bytes
    pdf_sha256: str


class Invoices:
    """The documents of all accounts.

    Every method raises ``LedgerUnavailableError`` when the database does not answer.
    """

    def __init__(self, database: Database, clock_ms: Callable[[], int] = unix_ms) -> None:
        self._database = database
        self._clock_ms = clock_ms

    async def position(self, series: str, year: int) -> Position:
        """Return where a series stands."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(invoice_series).where(invoice_series.c.series == series))
            return _position(series, year, rows.all())

    async def store(
        self, ready: Sequence[Ready], position: Position, documents: Mapping[str, int], *, by: str = ""
    ) -> None:
        """Store documents of one series and take their numbers: all of them, or none.

        Args:
            ready: in the order of their numbers, the first of which follows the position.
            position: as it was read before they were made.
            documents: how many documents each of their accounts had when what they say was read, by account id.
            by: who issues them.

        Raises:
            OutrunError: the series or an account has another document since.
        """
        async with self._database.write() as connection:
            await self._lock(connection, position, documents)
            ids = [new_id("inv") for _ in ready]
            rows = [
                self._row(id_, each, position, place, by)
                for place, (id_, each) in enumerate(zip(ids, ready, strict=True), start=1)
            ]
            await connection.execute(invoices.insert(), rows)
            for table, more in (
                (invoice_covers, [row for id_, each in zip(ids, ready, strict=True) for row in _covers(id_, each)]),
                (invoice_draws, [row for id_, each in zip(ids, ready, strict=True) for row in _draws(id_, each)]),
            ):
                if more:
                    await connection.execute(table.insert(), more)
            table = invoice_series
            moved = update(table).where(table.c.series == position.series, table.c.year == position.year)
            last_date = ready[-1].document.issue_date
            await connection.execute(moved.values(last=position.last + len(ready), last_date=last_date))

    async def _lock(self, connection: AsyncConnection, position: Position, documents: Mapping[str, int]) -> None:
        """Keep others from issuing until the transaction ends, and check that none has. Raises ``OutrunError``."""
        series, year = position.series, position.year
        first = {"series": series, "year": year, "last": 0, "last_date": ""}
        await connection.execute(self._database.insert(invoice_series).values(first))
        query = select(invoice_series).where(invoice_series.c.series == series).order_by(invoice_series.c.year)
        if _position(series, year, (await connection.execute(query.with_for_update())).all()) != position:
            raise OutrunError(f"series {series} has moved on")
        # FOR NO KEY UPDATE: keys may still be made for these accounts meanwhile.
        locked = select(accounts.c.id).where(accounts.c.id.in_(documents)).order_by(accounts.c.id)
        await connection.execute(locked.with_for_update(key_share=True))
        table = invoices.c
        counted = select(table.account_id, func.count()).where(table.account_id.in_(documents))
        rows = await connection.execute(counted.group_by(table.account_id))
        found = {account_id: int(count) for account_id, count in rows}
        if any(found.get(account_id, 0) != count for account_id, count in documents.items()):
            raise OutrunError("an account has another document")

    def _row(self, id_: str, ready: Ready, position: Position, place: int, by: str) -> dict[str, Any]:
        document = ready.document
        text = msgspec.json.encode(document)
        return {
            "id": id_,
            "number": document.number,
            "series": position.series,
            "year": position.year,
            "sequence": position.last + place,
            "kind": document.kind.value,
            "account_id": document.account_id,
            "month": document.month,
            "lot_id": document.lot_id,
            "corrects": document.corrects.number if document.corrects is not None else "",
            "cancels": document.cancels,
            "issue_date": document.issue_date,
            "issued_ms": self._clock_ms(),
            "issued_by": by,
            "net_cents": document.net_cents,
            "vat_cents": document.vat.vat_cents,
            "gross_cents": document.gross_cents,
            "due_cents": document.due_cents,
            "document": text.decode(),
            "document_sha256": _sha256(text),
            "xml": ready.xml,
            "xml_sha256": _sha256(ready.xml),
            "pdf": ready.pdf,
            "pdf_sha256": _sha256(ready.pdf),
        }

    async def read(self, number: str) -> StoredDocument:
        """Return a document, after checking that it is what was stored.

        Raises:
            UnknownDocumentError: there is none of this number.
            DamagedError: it is not what was stored.
        """
        async with self._database.read() as connection:
            query = _INFO.add_columns(*(invoices.c[name] for name in _CONTENT)).where(invoices.c.number == number)
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise UnknownDocumentError(f"there is no document {number!r}")
        document = document_of(row)
        for name, content in (("XML", row.xml), ("PDF", row.pdf)):
            if _sha256(content) != getattr(row, f"{name.lower()}_sha256"):
                raise DamagedError(f"the {name} of {number} is not what was issued: its SHA-256 is another")
        info = _info(row)
        return StoredDocument(info, document, bytes(row.xml), row.xml_sha256, bytes(row.pdf), row.pdf_sha256)

    async def find(
        self,
        *,
        account_id: str | None = None,
        month: str | None = None,
        kind: DocumentKind | None = None,
        corrects: str | None = None,
    ) -> list[DocumentInfo]:
        """Return documents in the order in which they were issued: those of all that is given."""
        table = invoices.c
        query = _INFO.order_by(table.issued_ms, table.id)  # ids rise, in a millisecond too
        wanted = {table.account_id: account_id, table.month: month, table.kind: kind, table.corrects: corrects}
        for column, value in wanted.items():
            if value is not None:
                query = query.where(column == value)
        async with self._database.read() as connection:
            return [_info(row) for row in await connection.execute(query)]

    async def with_corrections(self, number: str) -> tuple[Invoice, tuple[Invoice, ...], int]:
        """Return a document, the credit notes that correct it, and how many documents its account has.

        Raises:
            UnknownDocumentError, DamagedError: as ``read``.
        """
        table = invoices.c
        async with self._database.read() as connection:
            query = select(table.number, table.account_id, table.document, table.document_sha256)
            wanted = query.where((table.number == number) | (table.corrects == number))
            rows = (await connection.execute(wanted.order_by(table.issued_ms, table.id))).all()
            found = {row.number: document_of(row) for row in rows}
            if number not in found:
                raise UnknownDocumentError(f"there is no document {number!r}")
            counted = select(func.count()).where(table.account_id == found[number].account_id)
            count: int = (await connection.execute(counted)).scalar_one()
        document = found.pop(number)
        return document, tuple(found.values()), count


_CONTENT = ("document", "document_sha256", "xml", "xml_sha256", "pdf", "pdf_sha256")
_INFO: Select[Any] = select(
    invoices.c.number,
    invoices.c.kind,
    invoices.c.account_id,
    accounts.c.name,
    invoices.c.month,
    invoices.c.issue_date,
    invoices.c.net_cents,
    invoices.c.vat_cents,
    invoices.c.gross_cents,
    invoices.c.due_cents,
    invoices.c.corrects,
    invoices.c.cancels,
    invoices.c.lot_id,
    standing().label("stands"),
    invoices.c.issued_ms,
    invoices.c.issued_by,
).join(accounts, accounts.c.id == invoices.c.account_id)


def _info(row: Row[*tuple[Any, ...]]) -> DocumentInfo:
    return DocumentInfo(
        row.number,
        DocumentKind(row.kind),
        row.account_id,
        row.name,
        row.month,
        row.issue_date,
        row.net_cents,
        row.vat_cents,
        row.gross_cents,
        row.due_cents,
        row.corrects,
        bool(row.cancels),
        row.lot_id,
        bool(row.stands),
        row.issued_ms,
        row.issued_by,
    )


def document_of(row: Row[*tuple[Any, ...]]) -> Invoice:
    """Return what a document says, of a row with its number, text and SHA-256.

    Raises:
        DamagedError: it is not what was stored.
    """
    if _sha256(row.document.encode()) != row.document_sha256:
        raise DamagedError(f"the document {row.number} is not what was issued: its SHA-256 is another")
    return msgspec.json.decode(row.document, type=Invoice)


def _position(series: str, year: int, rows: Sequence[Row[*tuple[Any, ...]]]) -> Position:
    last = next((row.last for row in rows if row.year == year), 0)
    return Position(series, year, last, max((row.last_date for row in rows), default=""))


def _covers(id_: str, ready: Ready) -> Iterable[dict[str, Any]]:
    if ready.document.kind is not DocumentKind.INVOICE:  # what a credit note says of links is another document's
        return
    for mark in ready.document.chain:
        yield {
            "invoice_id": id_,
            "account_id": ready.document.account_id,
            "month": mark.month,
            "after_link": mark.after_link,
            "link": mark.link,
        }


def _draws(id_: str, ready: Ready) -> Iterable[dict[str, Any]]:
    # A credit note's amounts have the signs of the document that it corrects, and give back.
    sign = -1 if ready.document.kind is DocumentKind.CREDIT_NOTE else 1
    for lot_id, cents in ready.document.drawn_cents.items():
        drawn_cents = sign * cents
        yield {
            "invoice_id": id_,
            "account_id": ready.document.account_id,
            "lot_id": lot_id,
            "drawn_cents": drawn_cents,
        }


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
