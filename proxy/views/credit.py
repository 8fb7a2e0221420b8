"""What an account is told of its credit, in the answer to GET /v1/usage.

What belongs here: the shape of it. What does not: drawing down (core/credit.py) and reading (ledger/reading.py).
"""

import msgspec

from proxy.billing.statement import is_active, statement_of
from proxy.core.accounts import Account
from proxy.core.catalogue import Tier
from proxy.core.money import euros_text
from proxy.ledger.credit import CreditFacts


class ShownCredit(msgspec.Struct, frozen=True):
    """Exact amounts of euros as text: ``balance`` is ``paid`` less ``drawn`` less ``lapsed``.

    ``prepaid_only``: calls stop where the balance does. ``tier_active``: the tier's purchase credit has been paid.
    """

    balance: str
    paid: str
    drawn: str
    lapsed: str
    prepaid_only: bool
    tier_active: bool


def credit_shown(account: Account, tier: Tier, facts: CreditFacts, now_ms: int) -> ShownCredit:
    """Return what is shown."""
    statement = statement_of(account, facts, now_ms)
    return ShownCredit(
        euros_text(statement.balance_pico),
        euros_text(statement.drawdown.paid_pico),
        euros_text(statement.drawdown.drawn_pico),
        euros_text(statement.lapsed_pico),
        account.prepaid_only,
        is_active(tier, account),
    )
