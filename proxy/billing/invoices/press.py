"""The steps that every document takes from a draft to the ledger, whatever its kind.

What belongs here: date, number, checks, files, storing, and beginning anew when others were faster. What does not: the
drafts (months.py, deposits.py, credit_notes.py).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from proxy.billing.invoices.outcomes import IssueError, WrongDocumentError
from proxy.billing.invoices.workshop import Workshop
from proxy.clock import unix_ms
from proxy.core.calendar import day_of
from proxy.core.invoicing.checking import mistakes_of
from proxy.core.invoicing.document import Invoice
from proxy.core.invoicing.drafting import numbered
from proxy.core.invoicing.numbers import Number
from proxy.core.invoicing.terms import InvoicingTerms
from proxy.ledger.invoices import Invoices, OutrunError, Ready

ATTEMPTS: Final = 50
"""How often others may be faster before it is given up; each time at least one of them has issued something."""
_PAUSE_S: Final = 0.05


class Drafts(msgspec.Struct, frozen=True):
    """Documents without numbers, in the order in which they get them.

    Args:
        documents: what is to be issued.
        seen: how many documents each of their accounts had when what they follow from was read, by account id.
        check: what is wrong with one of them beside what a check of the document alone can tell.
    """

    documents: tuple[Invoice, ...]
    seen: dict[str, int]
    check: Callable[[Invoice], Sequence[str]] = lambda _: ()


Draw = Callable[[str], Awaitable[Drafts]]
"""Reads what documents follow from and returns their drafts, given the date of issue; called for every attempt."""


class Press:
    """Issues documents of one series at a time.

    Args:
        invoices: where they are kept.
        workshop: where their files are made.
        terms: the seller's.
        by: who issues them.
        clock_ms: Unix milliseconds.
    """

    def __init__(
        self,
        invoices: Invoices,
        workshop: Workshop,
        terms: InvoicingTerms,
        by: str = "",
        clock_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._invoices = invoices
        self._workshop = workshop
        self._terms = terms
        self._by = by
        self._clock_ms = clock_ms

    @property
    def today(self) -> str:
        """The date of issue: today where the seller is."""
        return day_of(self._clock_ms(), self._terms.timezone)

    async def issue(self, series: str, draw: Draw) -> tuple[Invoice, ...]:
        """Issue what ``draw`` drafts: all of it, or nothing.

        Raises:
            WrongDocumentError: a check has found something.
            IssueError: the clock is behind the series, or others were faster all the time.
            Whatever ``draw`` raises, and what the ledger does.
        """
        for _ in range(ATTEMPTS):
            today = self.today
            position = await self._invoices.position(series, int(today[:4]))
            if today < position.last_date:
                raise IssueError(
                    f"the last document of series {series} is of {position.last_date}, and here it is {today}: "
                    "dates of issue never go back"
                )
            drafts = await draw(today)
            documents = [
                numbered(draft, str(Number(series, position.year, position.last + place)))
                for place, draft in enumerate(drafts.documents, start=1)
            ]
            if not documents:
                return ()
            ready = await self._ready(documents, drafts.check)
            try:
                await self._invoices.store(ready, position, drafts.seen, by=self._by)
            except OutrunError:
                await asyncio.sleep(random.uniform(0, _PAUSE_S))  # noqa: S311 - so that two do not keep step
                continue
            return tuple(documents)
        raise IssueError(f"others issue documents of series {series} all the time: nothing was issued; try again")

    async def _ready(self, documents: Sequence[Invoice], check: Callable[[Invoice], Sequence[str]]) -> list[Ready]:
        for document in documents:
            if mistakes := [*mistakes_of(document, self._terms), *check(document)]:
                raise WrongDocumentError(document, mistakes)
        made = await self._workshop.make(documents)
        for document, files in zip(documents, made, strict=True):
            if files.mistakes:
                raise WrongDocumentError(document, files.mistakes)
        return [Ready(document, files.xml, files.pdf) for document, files in zip(documents, made, strict=True)]
