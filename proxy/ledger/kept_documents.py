"""Documents as they are kept, beside the entries of the links that they cover: to be held against each other.

What belongs here: reading both in one snapshot, account by account. What does not: judging (reconciling/invoices.py),
and issuing (invoices.py).
"""

import hashlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.invoicing.document import DocumentKind, Invoice
from proxy.ledger.coverage import Coverage, read_coverage, standing
from proxy.ledger.database import Database
from proxy.ledger.invoice_schema import invoice_covers, invoice_draws, invoices
from proxy.ledger.linked_sums import LinkedSum, linked_sums
from proxy.ledger.lots import read_lots
from proxy.ledger.schema import rollups_monthly

Cover = tuple[str, int, int]
"""Month, after one link, up to another."""

_AMOUNTS: Final = ("net_cents", "vat_cents", "gross_cents", "due_cents")


class KeptDocument(msgspec.Struct, frozen=True):
    """One row of ``invoices``, and what else is kept of it.

    Args:
        number: its number.
        kind: what it is.
        month: its billing month; empty on a deposit invoice.
        stands: whether no credit note has cancelled it.
        invoice: what it says; None: the text that is kept is not what was stored.
        amounts: net, VAT, gross and due cents, as columns.
        covers: the links that it covers, as they are kept.
        draws: cents by lot id, as they are kept; given back: negative.
    """

    number: str
    kind: DocumentKind
    month: str
    stands: bool
    invoice: Invoice | None
    amounts: tuple[int, int, int, int]
    covers: tuple[Cover, ...]
    draws: dict[str, int]


class OpenSpan(msgspec.Struct, frozen=True):
    """What no document covers of a month.

    Args:
        month: ``YYYY-MM``.
        is_late: whether an invoice stands for the month: it came afterwards.
        cost_pico: what it costs.
    """

    month: str
    is_late: bool
    cost_pico: int


class KeptOfAccount(msgspec.Struct, frozen=True):
    """Everything that is kept of an account.

    Args:
        account_id: whose.
        documents: in the order of issue.
        sums: what the entries of the links say that each standing invoice says it covers, by its number.
        lots_pico: what was bought, by lot id.
        open: what no document covers, by month.
    """

    account_id: str
    documents: tuple[KeptDocument, ...]
    sums: Mapping[str, tuple[LinkedSum, ...]]
    lots_pico: Mapping[str, int]
    open: tuple[OpenSpan, ...]


class KeptDocuments:
    """Reads what is kept.

    Args:
        database: migrated. Summing the entries of a document counts as one statement: give it time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def accounts(
        self, account_id: str | None = None, month: str | None = None
    ) -> AsyncGenerator[KeptOfAccount, None]:
        """Yield what is kept of every account that has entries or documents, or of one; sums of one month or of all.

        Raises:
            LedgerUnavailableError: the database does not answer.
        """
        async with self._database.read() as connection:
            known = await read_coverage(connection, None if account_id is None else [account_id])
            for each in sorted(known):
                yield await self._of_account(connection, known[each], month)

    async def _of_account(self, connection: AsyncConnection, coverage: Coverage, month: str | None) -> KeptOfAccount:
        account_id = coverage.account_id
        documents = await _read_documents(connection, account_id) if coverage.documents else ()
        sums = {}
        for kept in documents:
            invoice = kept.invoice
            of_month = month in (None, kept.month)
            if of_month and kept.stands and kept.kind is DocumentKind.INVOICE and invoice is not None:
                covers = [(mark.month, mark.after_link, mark.link) for mark in invoice.chain]
                sums[kept.number] = await self._sums(connection, account_id, covers)
        lots = {lot.id: lot.amount_pico for lot in await read_lots(connection, account_id)} if documents else {}
        return KeptOfAccount(account_id, documents, sums, lots, tuple(await self._open(connection, coverage, month)))

    async def _open(self, connection: AsyncConnection, coverage: Coverage, month: str | None) -> list[OpenSpan]:
        months = [each for each in sorted(coverage.heads) if month in (None, each)]
        spans = {each: found for each in months if (found := coverage.open_spans(each))}
        whole = {each for each, found in spans.items() if found == [(0, coverage.head(each))]}
        costs: defaultdict[str, int] = defaultdict(int)
        if whole:  # the rollups know whole months
            table = rollups_monthly.c
            query = select(table.month, table.cost_pico).where(table.account_id == coverage.account_id)
            for each, cost_pico in await connection.execute(query):
                costs[each] += cost_pico
        for each in spans.keys() - whole:
            sums = await self._sums(connection, coverage.account_id, [(each, *span) for span in spans[each]])
            costs[each] = sum(line.cost_pico for line in sums)
        return [OpenSpan(each, each in coverage.invoiced, costs[each]) for each in spans]

    async def _sums(
        self, connection: AsyncConnection, account_id: str, spans: Iterable[Cover]
    ) -> tuple[LinkedSum, ...]:
        asked = [(account_id, *span) for span in spans]
        return tuple(await linked_sums(connection, asked, postgresql=self._database.is_postgresql))


async def _read_documents(connection: AsyncConnection, account_id: str) -> tuple[KeptDocument, ...]:
    table, cover, draw = invoices.c, invoice_covers.c, invoice_draws.c
    covers: defaultdict[str, list[Cover]] = defaultdict(list)
    query = select(cover.invoice_id, cover.month, cover.after_link, cover.link).where(cover.account_id == account_id)
    for invoice_id, *span in await connection.execute(query.order_by(cover.month)):
        covers[invoice_id].append((span[0], span[1], span[2]))
    draws: defaultdict[str, dict[str, int]] = defaultdict(dict)
    drawn = select(draw.invoice_id, draw.lot_id, draw.drawn_cents).where(draw.account_id == account_id)
    for invoice_id, lot_id, cents in await connection.execute(drawn):
        draws[invoice_id][lot_id] = cents
    columns = (table.id, table.number, table.kind, table.month, table.document, table.document_sha256)
    documents = select(*columns, *(table[name] for name in _AMOUNTS), standing().label("stands"))
    documents = documents.where(table.account_id == account_id)
    rows = await connection.execute(documents.order_by(table.issued_ms, table.series, table.year, table.sequence))
    return tuple(_kept(row, covers[row.id], draws[row.id]) for row in rows)


def _kept(row: Any, covers: Iterable[Cover], draws: dict[str, int]) -> KeptDocument:  # noqa: ANN401 - a row of a join
    amounts = (row.net_cents, row.vat_cents, row.gross_cents, row.due_cents)
    kind = DocumentKind(row.kind)
    return KeptDocument(row.number, kind, row.month, bool(row.stands), _said(row), amounts, tuple(covers), draws)


def _said(row: Any) -> Invoice | None:  # noqa: ANN401 - as above
    if hashlib.sha256(row.document.encode()).hexdigest() != row.document_sha256:
        return None
    try:
        return msgspec.json.decode(row.document, type=Invoice)
    except msgspec.MsgspecError:
        return None
