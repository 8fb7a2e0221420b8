"""What the lines of a batch are paid from.

What belongs here: finding the budgets of a batch: the month of its creation, of its account and of its key, and the
credit of a prepaid account. What does not: keeping them (limiter/).

A line counts in no window: the hour and the day are for interactive calls.
"""

from collections.abc import Callable

from proxy.allowances import Allowances
from proxy.billing.room import CreditRoom
from proxy.core.accounts import Principal
from proxy.core.batches.objects import Batch
from proxy.core.calendar import day_bounds_ms, month_bounds_ms
from proxy.core.catalogue import Tier
from proxy.core.limits import Limit, LimitKind
from proxy.ledger.directory import Directory
from proxy.months import Month
from proxy.settings.types import Settings


class PayerUnknownError(LookupError):
    """Nothing is known of who pays for a batch, or of the tier that it was created under: it has to wait."""


class Payer:
    """Who pays for a batch.

    Args:
        principal: the account as it is now, and the key that created the batch.
        tier: under which it was created.
        month: of its creation.
    """

    __slots__ = ("month", "principal", "tier")

    def __init__(self, principal: Principal, tier: Tier, month: Month) -> None:
        self.principal = principal
        self.tier = tier
        self.month = month


class Budgets:
    """Finds the budgets of batches.

    Args:
        settings: returns the settings in force.
        directory: knows accounts and keys.
        credit_room: knows what is left of prepaid credit.
    """

    def __init__(self, settings: Callable[[], Settings], directory: Directory, credit_room: CreditRoom) -> None:
        self._settings = settings
        self._directory = directory
        self._credit_room = credit_room
        self._allowances = Allowances()

    def payer(self, batch: Batch, now_ms: int) -> Payer:
        """Return who pays. Raises PayerUnknownError."""
        principal = self._directory.principal(batch.key_id, now_ms)
        tier = self._settings().tiers.get(batch.tier)
        if principal is None or tier is None:
            raise PayerUnknownError(batch.id)
        timezone = principal.account.timezone
        day_starts_ms, day_ends_ms = day_bounds_ms(batch.day, timezone)
        _, ends_ms = month_bounds_ms(batch.month, timezone)
        return Payer(principal, tier, Month(batch.month, batch.day, ends_ms, day_starts_ms, day_ends_ms))

    async def of(self, batch: Batch, now_ms: int) -> tuple[Limit, ...]:
        """Return what every line of a batch must fit into: each counts euros, a need of one is a need of all.

        Raises:
            PayerUnknownError: it cannot be said.
            ApiError: 503: nothing is known of the credit of a prepaid account.
        """
        payer = self.payer(batch, now_ms)
        principal = payer.principal
        allowance = self._allowances.of(principal, None, payer.tier, payer.month, now_ms)
        if principal.account.prepaid_only:
            allowance = await self._credit_room.within(allowance, principal.account, now_ms)
        return tuple(limit for limit in allowance.limits if limit.kind is LimitKind.BUDGET)
