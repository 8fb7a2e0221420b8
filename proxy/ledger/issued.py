"""Issued documents and the usage behind them, read for files that are made of both.

What belongs here: reading, for some accounts at a time or as a stream, so that memory does not grow with a month. What
does not: issuing (invoices.py), what has been invoiced of a month (coverage.py), and what a file says.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.accounts import Account
from proxy.core.invoicing.document import DocumentKind, Invoice
from proxy.ledger.accounts import ACCOUNTS, account_of
from proxy.ledger.coverage import Coverage, Span, gaps, read_coverage
from proxy.ledger.errors import DamagedError
from proxy.ledger.invoice_schema import invoices
from proxy.ledger.invoices import document_of
from proxy.ledger.linked_sums import linked_sums
from proxy.ledger.schema import accounts, rollups_daily, rollups_monthly

BATCH: Final = 32
"""How many accounts are in memory at a time."""

_OPEN: Final = ""
"""In the place of a number: what no document covers."""

ItemOfDay = tuple[str, str, str, str, str]
"""Day, model, usage type, tariff class, price version."""

_DOCUMENTS: Final = select(
    invoices.c.account_id, invoices.c.number, invoices.c.document, invoices.c.document_sha256
).order_by(invoices.c.issue_date, invoices.c.issued_ms, invoices.c.series, invoices.c.sequence)
"""In the order of issue."""

Sums = dict[ItemOfDay, tuple[int, int]]
"""Units and pico-euros; what was used of nothing is left out."""


class MonthOfAccount(msgspec.Struct, frozen=True):
    """What happened to an account in a month.

    Args:
        account: as it is now.
        documents: invoices of the month, cancelled ones too, and what else was issued in it, in the order of issue.
        invoiced: what each of those invoices covers of its own month, by number.
        open: usage of the month that no document covers.
    """

    account: Account
    documents: tuple[Invoice, ...]
    invoiced: Mapping[str, Sums]
    open: Sums


async def months_of_accounts(
    connection: AsyncConnection, month: str, account_id: str | None, timezone: str, *, postgresql: bool
) -> AsyncIterator[tuple[MonthOfAccount, int]]:
    """Yield what happened to each account in a month, in the order of their ids, and how many there are.

    Args:
        connection: of a snapshot.
        month: ``YYYY-MM``.
        account_id: whose; None: everybody's.
        timezone: of an account that is no longer there.
        postgresql: whether that is the engine.

    Raises:
        DamagedError: a document is not what was issued, or rollups and entries contradict each other.
    """
    ids = await _ids(connection, month, account_id)
    for first in range(0, len(ids), BATCH):
        some = ids[first : first + BATCH]
        rows = await connection.execute(ACCOUNTS.where(accounts.c.id.in_(some)))
        known = {account.id: account for account in map(account_of, rows)}
        used = await _read_days(connection, month, some)
        issued = await _read_documents(connection, month, some)
        coverage = await read_coverage(connection, some)
        wanted = {each: _wanted(month, issued[each], coverage[each]) for each in some}
        heads = {each: coverage[each].head(month) for each in some}
        needed = {
            each: {span for spans in wanted[each].values() for span in _counted(spans, heads[each])[1]} for each in some
        }
        linked = await _read_links(connection, month, needed, postgresql=postgresql)
        for each in some:
            sums = {
                number: _sums_of(spans, heads[each], used[each], linked[each]) for number, spans in wanted[each].items()
            }
            rest = sums.pop(_OPEN)
            account = known.get(each) or Account(each, each, "", timezone)
            yield MonthOfAccount(account, tuple(issued[each]), sums, rest), len(ids)


async def documents_issued(connection: AsyncConnection, first_day: str, last_day: str) -> AsyncIterator[Invoice]:
    """Yield the documents issued between two days, both included, in the order of issue.

    Later documents come last: what has been read once is read again in the same order.

    Raises:
        DamagedError: a document is not what was issued.
    """
    table = invoices.c
    query = _DOCUMENTS.where(table.issue_date >= first_day, table.issue_date <= last_day)
    async for row in await connection.stream(query):
        yield document_of(row)


def _in_month(month: str) -> ColumnElement[bool]:
    """Return the condition that a document belongs to a month: the one it bills, or else the one it was issued in."""
    table = invoices.c
    return or_(
        and_(table.kind == DocumentKind.INVOICE, table.month == month),
        and_(table.kind != DocumentKind.INVOICE, table.issue_date >= f"{month}-01", table.issue_date <= f"{month}-31"),
    )


async def _ids(connection: AsyncConnection, month: str, account_id: str | None) -> list[str]:
    found: set[str] = set()
    used = rollups_monthly.c
    for query in (
        select(used.account_id).where(used.month == month).distinct(),
        select(invoices.c.account_id).where(_in_month(month)).distinct(),
    ):
        found.update((await connection.execute(query)).scalars())
    return sorted(found if account_id is None else found & {account_id})


async def _read_days(connection: AsyncConnection, month: str, ids: Sequence[str]) -> Mapping[str, Sums]:
    table = rollups_daily.c
    query = select(
        table.account_id,
        table.day,
        table.model,
        table.usage_type,
        table.tariff_class,
        table.price_version,
        table.quantity,
        table.cost_pico,
    ).where(table.account_id.in_(ids), table.day >= f"{month}-01", table.day <= f"{month}-31")
    used: defaultdict[str, Sums] = defaultdict(dict)
    for account_id, day, model, usage_type, tariff_class, version, quantity, cost_pico in await connection.execute(
        query
    ):
        if quantity:
            used[account_id][day, model, usage_type, tariff_class, version] = (quantity, cost_pico)
    return used


async def _read_documents(connection: AsyncConnection, month: str, ids: Sequence[str]) -> Mapping[str, list[Invoice]]:
    query = _DOCUMENTS.where(invoices.c.account_id.in_(ids), _in_month(month))
    issued: defaultdict[str, list[Invoice]] = defaultdict(list)
    for row in await connection.execute(query):
        issued[row.account_id].append(document_of(row))
    return issued


def _wanted(month: str, issued: Collection[Invoice], coverage: Coverage) -> dict[str, list[Span]]:
    """Return the spans of a month whose usage is told, by number of the invoice; ``_OPEN``: what none covers."""
    wanted = {_OPEN: coverage.open_spans(month)}
    for document in issued:
        if document.kind is DocumentKind.INVOICE:
            wanted[document.number] = [
                (mark.after_link, mark.link) for mark in document.chain if mark.month == month and mark.link
            ]
    return wanted


def _counted(spans: Sequence[Span], head: int) -> tuple[int, Sequence[Span]]:
    """Return which entries are to be summed, and whether they add up (1) or are taken from the rollups (-1)."""
    if any(after == 0 for after, _ in spans):
        return -1, gaps(spans, head)
    return 1, spans


async def _read_links(
    connection: AsyncConnection, month: str, needed: Mapping[str, Collection[Span]], *, postgresql: bool
) -> Mapping[str, Mapping[Span, Sums]]:
    """Return the sums of the entries of some spans, by account and span."""
    found: defaultdict[str, dict[Span, Sums]] = defaultdict(dict)
    # A statement tells accounts apart, but not spans of one account: so the first span of each, then the second.
    for place in range(max(map(len, needed.values()), default=0)):
        asked = {account_id: sorted(spans)[place] for account_id, spans in needed.items() if place < len(spans)}
        for account_id, span in asked.items():
            found[account_id][span] = {}
        spans = [(account_id, month, after, link) for account_id, (after, link) in asked.items()]
        for each in await linked_sums(connection, spans, postgresql=postgresql):
            item = (each.day, each.model, each.usage_type, each.tariff_class, each.price_version)
            found[each.account_id][asked[each.account_id]][item] = (each.quantity, each.cost_pico)
    return found


def _sums_of(spans: Sequence[Span], head: int, used: Sums, linked: Mapping[Span, Sums]) -> Sums:
    """Return the usage of some spans of a month.

    Args:
        spans: which.
        head: the last link of the month.
        used: the whole month.
        linked: sums of the entries that ``_counted`` names, by span.

    Raises:
        DamagedError: rollups and entries contradict each other.
    """
    sign, counted = _counted(spans, head)
    total: defaultdict[ItemOfDay, list[int]] = defaultdict(lambda: [0, 0])
    for item, (quantity, cost_pico) in used.items() if sign < 0 else ():
        total[item] = [quantity, cost_pico]
    for span in counted:
        for item, (quantity, cost_pico) in linked[span].items():
            total[item][0] += sign * quantity
            total[item][1] += sign * cost_pico
    if any(quantity < 0 or (not quantity and cost_pico) for quantity, cost_pico in total.values()):
        raise DamagedError("the entries of a part of a month were more than the rollups of all of it")
    return {item: (quantity, cost_pico) for item, (quantity, cost_pico) in total.items() if quantity}
