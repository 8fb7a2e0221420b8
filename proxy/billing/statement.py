"""An account's credit as it stands: bought, drawn, lapsed, left.

What belongs here: putting lots and usage together for one account. What does not: the rules (core/credit.py), the
tables (ledger/credit.py), and what a call may still spend (room.py).
"""

import msgspec

from proxy.core.accounts import Account
from proxy.core.calendar import day_of
from proxy.core.catalogue import Tier
from proxy.core.credit import Drawdown, draw_down
from proxy.ledger.credit import CreditFacts
from proxy.ledger.lots import CreditLot


class Statement(msgspec.Struct, frozen=True):
    """What became of an account's credit, as of a day of its own.

    Args:
        today: ``YYYY-MM-DD`` in the account's time zone.
        lots: in the order in which they were bought.
        drawdown: what was drawn from them, in the same order.
    """

    today: str
    lots: tuple[CreditLot, ...]
    drawdown: Drawdown

    @property
    def balance_pico(self) -> int:
        """What can still be drawn: paid, less drawn, less lapsed."""
        return self.drawdown.balance_pico(self.today)

    @property
    def lapsed_pico(self) -> int:
        """What has lapsed."""
        return self.drawdown.lapsed_pico(self.today)

    def references(self) -> dict[str, str]:
        """Return the reference of each lot by its id."""
        return {lot.id: lot.reference for lot in self.lots}


def statement_of(account: Account, facts: CreditFacts, now_ms: int) -> Statement:
    """Return an account's credit from its lots and usage."""
    zone = account.timezone
    drawdown = draw_down([lot.drawable(zone) for lot in facts.lots], facts.used_by_day)
    return Statement(day_of(now_ms, zone), facts.lots, drawdown)


def is_active(tier: Tier, account: Account) -> bool:
    """Whether the purchase credit of a tier has been paid: everything ever bought counts, expired or drawn too."""
    return tier.purchase_credit_pico is None or account.credit_paid_pico >= tier.purchase_credit_pico
