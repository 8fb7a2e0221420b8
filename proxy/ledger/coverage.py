"""Which links of which months documents that stand cover, and which not yet.

What belongs here: reading covers and heads, the arithmetic of spans, and what the next document covers. What does not:
what the entries of a span say (month_facts.py), and storing covers (invoices.py).

A span is what lies between two links of a month's chain: the entries of links ``after_link + 1`` to ``link``. A
document covers one span of a month. The next one takes the first span that none covers: mostly everything after what is
covered, but what a credit note has laid open lies before what later documents cover.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Select, exists, false, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.invoicing.document import DocumentKind
from proxy.ledger.invoice_schema import chain_heads, invoice_covers, invoices

Span = tuple[int, int]
"""After one link, up to another."""
NOTHING: Final = (0, 0)
"""A span that covers nothing."""

Rows = TypeVar("Rows", bound=Select[Any])

_correction: Final = invoices.alias("correction")


class Coverage(msgspec.Struct, frozen=True):
    """How far an account has been invoiced.

    Args:
        account_id: whose.
        heads: the last link of each month that has entries, by month.
        covered: the spans that documents which stand cover, by month.
        invoiced: months that an invoice of their own stands for: its number.
        documents: how many documents the account has, whatever became of them: when there are more, this is no longer
            so.
    """

    account_id: str
    heads: dict[str, int]
    covered: dict[str, tuple[Span, ...]]
    invoiced: dict[str, str]
    documents: int

    def open_spans(self, month: str) -> list[Span]:
        """Return what no document covers of a month, in order."""
        return gaps(self.covered.get(month, ()), self.head(month))

    def head(self, month: str) -> int:
        """Return the last link of a month; 0: it has no entries."""
        return self.heads.get(month, 0)


class Plan(msgspec.Struct, frozen=True):
    """What the next document of a month would cover of an account.

    Args:
        own: the span of the month itself.
        late: spans of earlier months, by month.
        is_whole: whether ``own`` is all that there is of the month.
        left_out: month and span of what stays uncovered of months which are covered in part, this document included.
        months: of which anything is covered, this document included.
        earlier: months before that have entries and no invoice.
    """

    own: Span
    late: dict[str, Span]
    is_whole: bool
    left_out: tuple[tuple[str, int, int], ...]
    months: frozenset[str]
    earlier: tuple[str, ...]

    @classmethod
    def of(cls, coverage: Coverage, month: str) -> "Plan":
        """Plan a month's: the first span of it, and of each earlier month that was invoiced, that none covers.

        Where an invoice stands for the month there is nothing to plan: what comes late waits for a later month.
        """
        own, late = NOTHING, {}
        if month not in coverage.invoiced:
            own = next(iter(coverage.open_spans(month)), NOTHING)
            before = [each for each in sorted(coverage.heads) if each < month and each in coverage.invoiced]
            late = {each: spans[0] for each in before if (spans := coverage.open_spans(each))}
        taken = {**late, month: own} if own != NOTHING else late
        months = frozenset({*coverage.covered, *taken})
        left_out = []
        for each in sorted(months):
            covered = [*coverage.covered.get(each, ()), *([taken[each]] if each in taken else [])]
            left_out += [(each, *gap) for gap in gaps(covered, coverage.head(each))]
        earlier = tuple(each for each in sorted(coverage.heads) if each < month and each not in coverage.invoiced)
        is_whole = own != NOTHING and own == (0, coverage.head(month))
        return cls(own, late, is_whole, tuple(left_out), months, earlier)

    def spans(self, month: str) -> list[tuple[str, int, int]]:
        """Return month and span of what the document covers: its own month first, then earlier ones in order."""
        return [(month, *self.own), *((each, *span) for each, span in sorted(self.late.items()))]

    def to_be_summed(self, month: str) -> list[tuple[str, int, int]]:
        """Return the spans that rollups cannot tell apart from the rest of their months."""
        own_is_rolled_up = self.is_whole or self.own == NOTHING
        return self.spans(month)[1:] if own_is_rolled_up else self.spans(month)


def gaps(covered: Sequence[Span], link: int) -> list[Span]:
    """Return what spans leave free up to a link, in order."""
    found, reached = [], 0
    for after, last in sorted(covered):
        if after > reached:
            found.append((reached, min(after, link)))
        reached = max(reached, last)
    if reached < link:
        found.append((reached, link))
    return found


def standing() -> ColumnElement[bool]:
    """Return the condition that a row of ``invoices`` has not been cancelled by a credit note."""
    correction = _correction.c
    return ~exists().where(correction.corrects == invoices.c.number, correction.cancels == true())


async def read_coverage(connection: AsyncConnection, account_ids: Collection[str] | None = None) -> dict[str, Coverage]:
    """Return how far some accounts, or all, have been invoiced, by account id.

    Who has neither entries nor documents is left out, unless it was asked for.
    """
    heads: defaultdict[str, dict[str, int]] = defaultdict(dict)
    covered: defaultdict[str, defaultdict[str, list[Span]]] = defaultdict(lambda: defaultdict(list))
    invoiced: defaultdict[str, dict[str, str]] = defaultdict(dict)
    documents: defaultdict[str, int] = defaultdict(int)
    chain, cover, invoice = chain_heads.c, invoice_covers.c, invoices.c
    links = select(chain.account_id, chain.month, chain.link)
    for account_id, month, link in await connection.execute(_of(links, chain.account_id, account_ids)):
        heads[account_id][month] = link
    covers = select(cover.account_id, cover.month, cover.after_link, cover.link)
    covers = covers.join(invoices, invoice.id == cover.invoice_id).where(standing(), cover.link > cover.after_link)
    for account_id, month, after, link in await connection.execute(_of(covers, cover.account_id, account_ids)):
        covered[account_id][month].append((after, link))
    issued = select(invoice.account_id, invoice.month, invoice.number, invoice.kind, standing())
    for account_id, month, number, kind, stands in await connection.execute(
        _of(issued, invoice.account_id, account_ids)
    ):
        documents[account_id] += 1
        if stands and kind == DocumentKind.INVOICE:
            invoiced[account_id][month] = number
    known = {*heads, *documents, *(account_ids or ())}
    return {
        account_id: Coverage(
            account_id,
            heads[account_id],
            {month: tuple(sorted(spans)) for month, spans in covered[account_id].items()},
            invoiced[account_id],
            documents[account_id],
        )
        for account_id in known
    }


def _of(query: Rows, column: Any, account_ids: Collection[str] | None) -> Rows:  # noqa: ANN401 - of any table
    if account_ids is None:
        return query
    return query.where(column.in_(account_ids) if account_ids else false())
