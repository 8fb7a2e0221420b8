"""Events as they are told: the words and amounts of each kind. Pure.

What belongs here: from a fact to an ``Event``. What does not: looking for facts (watcher.py).
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from proxy.core.accounts import Account
from proxy.core.catalogue import Tier
from proxy.core.events import Event, EventKind, thresholds_reached
from proxy.core.money import euros_text
from proxy.ledger.lots import CreditLot


def budget_reached(account: Account, month: str, spent_pico: int, limit_pico: int) -> Iterator[Event]:
    """Yield the thresholds of a month's budget that have been reached."""
    for threshold in thresholds_reached(spent_pico, limit_pico):
        amounts = {"spent_eur": euros_text(spent_pico), "limit_eur": euros_text(limit_pico)}
        data = {**_who(account), "month": month, "threshold_percent": threshold, **amounts}
        yield Event(account.id, EventKind.BUDGET_REACHED, month, threshold, data)


def credit_reached(account: Account, month: str, drawn_pico: int, balance_pico: int) -> Iterator[Event]:
    """Yield the thresholds of a month's credit that have been reached: of what was there, how much was drawn."""
    whole_pico = drawn_pico + balance_pico
    for threshold in thresholds_reached(drawn_pico, whole_pico):
        amounts = {
            "drawn_eur": euros_text(drawn_pico),
            "credit_eur": euros_text(whole_pico),
            "balance_eur": euros_text(balance_pico),
        }
        data = {**_who(account), "month": month, "threshold_percent": threshold, **amounts}
        data["prepaid_only"] = account.prepaid_only
        yield Event(account.id, EventKind.CREDIT_REACHED, month, threshold, data)


def credit_expiring(account: Account, lot: CreditLot, left_pico: int) -> Event:
    """Return that a lot which holds something is about to end."""
    assert lot.expires_ms is not None
    data = {
        **_who(account),
        "lot": lot.id,
        "reference": lot.reference,
        "left_eur": euros_text(left_pico),
        "last_day": lot.drawable(account.timezone).last_day,
        "expires_at": datetime.fromtimestamp(lot.expires_ms // 1000, UTC).isoformat().replace("+00:00", "Z"),
    }
    return Event(account.id, EventKind.CREDIT_EXPIRING, lot.id, 0, data)


def tier_activated(account: Account, tier: Tier) -> Event:
    """Return that the purchase credit of an account's tier has been paid."""
    assert tier.purchase_credit_pico is not None
    data = {
        **_who(account),
        "tier": tier.id,
        "purchase_credit_eur": euros_text(tier.purchase_credit_pico),
        "paid_eur": euros_text(account.credit_paid_pico),
    }
    return Event(account.id, EventKind.TIER_ACTIVATED, tier.id, 0, data)


def _who(account: Account) -> dict[str, str | int | bool]:
    return {"account": account.name, "account_id": account.id}
