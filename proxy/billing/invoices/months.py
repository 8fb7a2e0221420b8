"""The invoices of a month: of one account, or of all.

What belongs here: which accounts are invoiced, in batches, and what is said of the others. What does not: what an
invoice says (core/invoicing/drafting.py), and the way of a draft to the ledger (press.py).

A month opens a few days after its end (``grace_days``), because entries are on their way. An account whose entries of
the month wait in an outbox that can be seen here, or whose batches of the month have not ended, is refused until then.
What comes later still is no loss: the next invoice of the account carries it. Months are invoiced in order: while an
earlier month with usage has no invoice, a later one is refused.

Where drawn credit is shown as lines, those refer to the deposit invoice that has borne the VAT: lots that have none get
it first.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from proxy.billing.invoices.deposits import Deposits, no_buyer
from proxy.billing.invoices.office import Office
from proxy.billing.invoices.outcomes import IssueError, Outcome, Result
from proxy.billing.invoices.press import Drafts, Press
from proxy.core.accounts import Account
from proxy.core.invoicing.document import Invoice, LineKind
from proxy.core.invoicing.drafting import monthly_invoice
from proxy.core.invoicing.errors import InvoicingError
from proxy.core.invoicing.numbers import opens_ms, opens_on
from proxy.core.invoicing.terms import DrawnCredit
from proxy.core.parties import Buyer
from proxy.ledger.accounts import Accounts
from proxy.ledger.batches.overview import Overview
from proxy.ledger.buyers import Buyers
from proxy.ledger.month_facts import MonthFactsReader, MonthState
from proxy.ledger.outbox_file import read_pending_of_month

BATCH: Final = 100
"""Accounts that are issued in one transaction: what is made again when others were faster."""


class Months:
    """Drafts and issues the invoices of months.

    Args:
        office: where they are issued.
        press: brings them to the ledger.
        batch: how many accounts are issued in one transaction.
    """

    def __init__(self, office: Office, press: Press, batch: int = BATCH) -> None:
        self._office = office
        self._press = press
        self._batch = batch
        self._deposits = Deposits(office, press)
        self._reader = MonthFactsReader(office.database, office.tiers)
        self._buyers = Buyers(office.database)

    async def draft(self, account: str, month: str) -> Invoice:
        """Return the invoice of an account's month as it would be today, without a number; nothing is stored.

        Raises:
            UnknownAccountError: there is no such account.
            IssueError: an invoice stands for the month, nothing was used, or there is no buyer.
        """
        known = await Accounts(self._office.database).named(account)
        (state,) = await self._reader.read(month, [known.id])
        if state.number is not None:
            raise IssueError(f"{state.number} stands for {month}")
        found = self._draft_of(state, await self._buyers.current(known.id), self._press.today, in_order=False)
        if isinstance(found, Outcome):
            raise IssueError(found.why or f"{known.name} used nothing in {month}")
        return found

    async def issue(
        self,
        month: str,
        account: str | None = None,
        *,
        despite_waiting: bool = False,
        advanced: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> list[Outcome]:
        """Issue the invoices of a month that do not stand yet.

        Args:
            month: ``YYYY-MM``.
            account: name or id; None: everybody.
            despite_waiting: also where entries of the month are still to come: the next invoice carries them.
            advanced: called with how many accounts are done, and how many there are.

        Returns:
            What became of each account, in the order of their names.

        Raises:
            UnknownAccountError: there is no such account.
            WrongDocumentError: a check has found something; what was issued before stands.
            IssueError: as ``Press.issue``.
        """
        if account is not None:
            wanted = [await Accounts(self._office.database).named(account)]
        else:
            wanted = await self._reader.accounts_of(month)
        outcomes = {
            known.id: Outcome(known.name, Result.REFUSED, why=why) for known, why in self._barred(month, wanted)
        }
        waiting = {} if despite_waiting else await self._waiting(month)
        for known in wanted:
            if known.id in waiting and known.id not in outcomes:
                outcomes[known.id] = Outcome(known.name, Result.REFUSED, why=_waits(known, month, waiting[known.id]))
        free = [known for known in wanted if known.id not in outcomes]
        for start in range(0, len(free), self._batch):
            advanced(len(wanted) - len(free) + start, len(wanted))
            outcomes |= await self._issue_batch(month, free[start : start + self._batch])
        advanced(len(wanted), len(wanted))
        return [outcomes[known.id] for known in wanted]

    def _barred(self, month: str, wanted: Iterable[Account]) -> Iterable[tuple[Account, str]]:
        """Yield the accounts whose month is not over long enough."""
        terms, now_ms = self._office.terms, self._office.clock_ms()
        for known in wanted:
            if now_ms < opens_ms(month, known.timezone, terms):
                yield known, f"{month} can be invoiced from {opens_on(month, terms)} on ({known.timezone})"

    async def _waiting(self, month: str) -> dict[str, str]:
        """Return what is still to come of a month, in words, by account id."""
        unfinished = await Overview(self._office.database).unfinished_of(month)
        entries = Counter(
            entry.account_id for path in self._office.outboxes for entry in read_pending_of_month(path, month)
        )
        return {id_: _unfinished(count) for id_, count in unfinished.items()} | {
            id_: _in_outbox(count) for id_, count in entries.items()
        }

    async def _issue_batch(self, month: str, batch: Sequence[Account]) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        deposits: dict[str, tuple[Invoice, ...]] = {}

        async def draw(today: str) -> Drafts:
            outcomes.clear()
            found = await self._drafts(month, batch, today, outcomes)
            if await self._issue_deposits(found, outcomes, deposits):
                found = await self._drafts(month, batch, today, outcomes)
            return found

        issued = await self._press.issue(self._office.terms.invoice_series, draw)
        for document in issued:
            id_ = document.account_id
            outcomes[id_] = Outcome(
                document.account_name, Result.ISSUED, document.number, document=document, deposits=deposits.get(id_, ())
            )
        return outcomes

    async def _drafts(self, month: str, batch: Sequence[Account], today: str, outcomes: dict[str, Outcome]) -> Drafts:
        """Return the drafts of some accounts; what becomes of the others is added to ``outcomes``."""
        ids = [known.id for known in batch if known.id not in outcomes]
        buyers = await self._buyers.currents(ids)
        states = {state.account.id: state for state in await self._reader.read(month, ids)}
        found, seen = [], {}
        for id_ in ids:
            draft = self._draft_of(states[id_], buyers.get(id_), today)
            if isinstance(draft, Outcome):
                outcomes[id_] = draft
            else:
                found.append(draft)
                seen[id_] = states[id_].documents
        return Drafts(tuple(found), seen)

    def _draft_of(
        self, state: MonthState, buyer: Buyer | None, today: str, *, in_order: bool = True
    ) -> Invoice | Outcome:
        """Return a draft, or why there is none."""
        name = state.account.name
        if state.number is not None:
            return Outcome(name, Result.ALREADY, state.number)
        if not state.has_usage:
            return Outcome(name, Result.NOTHING)
        if state.earlier and in_order:
            return Outcome(name, Result.REFUSED, why=_out_of_order(state))
        if buyer is None:
            return Outcome(name, Result.REFUSED, why=no_buyer(name))
        try:
            draft = monthly_invoice(state.facts, self._office.seller, buyer, self._office.terms, today)
        except InvoicingError as exc:
            return Outcome(name, Result.REFUSED, why=str(exc))
        return draft or Outcome(name, Result.NOTHING)

    async def _issue_deposits(
        self, drafts: Drafts, outcomes: dict[str, Outcome], deposits: dict[str, tuple[Invoice, ...]]
    ) -> bool:
        """Issue the deposit invoices that drafts refer to and that are missing; whether there were any."""
        if self._office.terms.drawn_credit is not DrawnCredit.DEPOSIT_LINE:
            return False
        missing = {draft.account_id: lots for draft in drafts.documents if (lots := _without_deposit(draft))}
        if missing:
            lots = {lot_id for lots in missing.values() for lot_id in lots}
            issued, refused = await self._deposits.issue_lots(list(missing), lots)
            for document in issued:
                deposits[document.account_id] = (*deposits.get(document.account_id, ()), document)
            for draft in drafts.documents:
                if draft.account_id in refused:
                    why = refused[draft.account_id]
                    outcomes[draft.account_id] = Outcome(draft.account_name, Result.REFUSED, why=why)
        return bool(missing)


def _without_deposit(draft: Invoice) -> set[str]:
    """Return the lots that a draft draws as lines and that have no deposit invoice."""
    lines = [line for line in draft.lines if line.kind is LineKind.DRAWN]
    return {lot_id for lot_id, line in zip(draft.drawn_cents, lines, strict=True) if line.deposit is None}


def _out_of_order(state: MonthState) -> str:
    months, name = ", ".join(state.earlier), state.account.name
    first = f"tollgate invoice issue --month {state.earlier[0]} --account {name}"
    return f"{months} has no invoice yet, and months are invoiced in order: {first}"


def _in_outbox(count: int) -> str:
    entries = "entry waits" if count == 1 else "entries wait"
    return f"{count} {entries} for the ledger in an outbox: try again in a moment"


def _unfinished(count: int) -> str:
    batches = "batch of it has" if count == 1 else "batches of it have"
    return f"{count} {batches} not ended (tollgate batch list): try again when they have"


def _waits(account: Account, month: str, what: str) -> str:
    return f"{what}, or let the next invoice of {account.name} carry what comes after this one of {month} (--late-ok)"
