"""Deposit invoices: for credit that was bought.

What belongs here: which lots get one, and issuing them. What does not: what they say (core/invoicing/drafting.py).
"""

from collections.abc import Collection, Sequence

from proxy.billing.invoices.office import Office
from proxy.billing.invoices.outcomes import IssueError
from proxy.billing.invoices.press import Drafts, Press
from proxy.core.calendar import day_of
from proxy.core.invoicing.document import Invoice
from proxy.core.invoicing.drafting import deposit_invoice
from proxy.core.invoicing.errors import InvoicingError
from proxy.core.invoicing.facts import DepositFacts, LotFact
from proxy.ledger.accounts import Accounts
from proxy.ledger.lot_states import LotState, LotStateReader


class Deposits:
    """Issues deposit invoices."""

    def __init__(self, office: Office, press: Press) -> None:
        self._office = office
        self._press = press
        self._reader = LotStateReader(office.database)

    async def issue(self, account: str, reference: str) -> tuple[str, Invoice | None]:
        """Issue the deposit invoice of a purchase, once.

        Args:
            account: name or id.
            reference: of the purchase.

        Returns:
            Its number, and the document; None: it had been issued before.

        Raises:
            UnknownAccountError: there is no such account.
            IssueError: there is no such purchase, or no invoice can be made of it; or as ``Press.issue``.
        """
        known = await Accounts(self._office.database).named(account)
        (state,) = await self._reader.read([known.id])
        found = [fact for fact in state.lots if fact.reference == reference]
        if not found:
            raise IssueError(f"{known.name} has bought no credit with the reference {reference!r}")
        if found[0].deposit is not None:
            return found[0].deposit.number, None
        issued, refused = await self.issue_lots([known.id], {found[0].lot.id})
        if refused:
            raise IssueError(refused[known.id])
        if not issued:  # somebody else has, in between
            return await self.issue(account, reference)
        return issued[0].number, issued[0]

    async def issue_lots(
        self, account_ids: Sequence[str], lot_ids: Collection[str]
    ) -> tuple[tuple[Invoice, ...], dict[str, str]]:
        """Issue the deposit invoices of lots that have none yet, in one transaction.

        Returns:
            What was issued, and why not, by account id.

        Raises:
            WrongDocumentError, IssueError: as ``Press.issue``.
        """
        refused: dict[str, str] = {}

        async def draw(today: str) -> Drafts:
            refused.clear()
            drafts = []
            states = await self._reader.read(account_ids)
            for state in states:
                try:
                    drafts += [
                        self._draft(state, fact, today)
                        for fact in state.lots
                        if fact.lot.id in lot_ids and fact.deposit is None
                    ]
                except InvoicingError as exc:
                    refused[state.account.id] = f"{state.account.name}: {exc}"
            return Drafts(tuple(drafts), {state.account.id: state.documents for state in states})

        return await self._press.issue(self._office.terms.deposit_series, draw), refused

    def _draft(self, state: LotState, fact: LotFact, today: str) -> Invoice:
        account = state.account
        if state.buyer is None:
            raise InvoicingError(no_buyer(account.name))
        facts = DepositFacts(
            account_id=account.id,
            account_name=account.name,
            tier=self._office.title(account.tier),
            lot=fact.lot,
            reference=fact.reference,
            bought_day=day_of(state.bought_ms[fact.lot.id], account.timezone),
        )
        return deposit_invoice(facts, self._office.seller, state.buyer, today)


def no_buyer(account: str) -> str:
    """Return what is said of an account that nobody is invoiced for."""
    return f"{account} has no buyer: set one with tollgate accounts buyer set"
