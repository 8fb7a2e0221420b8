"""Events: what operators want to be told of an account, once. Pure.

What belongs here: the kinds, when a share of a whole counts as reached, and what is written down. What does not:
finding them (events/watcher.py) and sending them (events/delivery.py).
"""

from enum import StrEnum
from typing import Any, Final

import msgspec

_PER_MILLE: Final = {50: 500, 80: 800, 100: 995}
"""By threshold in per cent of a month's budget, or of its credit: what has to be used."""


class EventKind(StrEnum):
    """What can have happened."""

    BUDGET_REACHED = "budget.reached"
    """A share of the month's budget has been spent: once for each account, month and threshold."""
    CREDIT_REACHED = "credit.reached"
    """A share of the credit that there was for a month has been drawn: likewise."""
    CREDIT_EXPIRING = "credit.expiring"
    """A lot that holds something ends within seven days: once for each lot."""
    TIER_ACTIVATED = "tier.activated"
    """The purchase credit of the tier that an account holds has been paid: once for each account and tier."""


class Event(msgspec.Struct, frozen=True):
    """Something that has happened to an account; it happens once for all that stands before ``data``.

    Args:
        account_id: whose.
        kind: what.
        subject: the month, the lot or the tier that it is about.
        threshold: per cent; 0 where there is none.
        data: what is told of it, for JSON: amounts of euros as exact decimal texts.
    """

    account_id: str
    kind: EventKind
    subject: str
    threshold: int
    data: dict[str, Any]

    @property
    def identity(self) -> tuple[str, str, str, int]:
        """What it is known by."""
        return self.account_id, self.kind.value, self.subject, self.threshold

    def body(self, at: str) -> str:
        """Return what is sent, in the shape that Standard Webhooks recommends; ``at`` is RFC 3339."""
        return msgspec.json.encode({"type": self.kind.value, "timestamp": at, "data": self.data}).decode()


def thresholds_reached(used: int, whole: int) -> tuple[int, ...]:
    """Return the thresholds that have been reached, in order.

    The last one is reached when less than half a per cent is left: a call that does not fit into the rest is refused,
    so the very last of a budget is hardly ever spent.
    """
    if whole <= 0 or used <= 0:
        return ()
    return tuple(threshold for threshold, per_mille in _PER_MILLE.items() if used * 1000 >= whole * per_mille)
