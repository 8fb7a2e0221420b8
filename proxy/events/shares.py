"""How much of a month's credit has been drawn, for many accounts and often.

What belongs here: remembering how an account's lots stood when the month began, so that a look costs no query. What
does not: the rules of drawing (core/credit.py).
"""

from collections.abc import Callable
from typing import Final

import msgspec

from proxy.core.accounts import Account
from proxy.core.calendar import day_of, month_bounds_ms
from proxy.core.credit import Lot, draw_down
from proxy.ledger.credit import Credit
from proxy.ledger.watching import Watching

REMEMBERED_MAX: Final = 65_536
RENEW_MS: Final = 3_600_000
"""After so long the beginning of a month is worked out anew: a call of the month before may have come late."""


class _Opening(msgspec.Struct, frozen=True):
    """An account's lots that can pay for a month, with what each of them held as it began."""

    read_ms: int
    paid_pico: int
    lots: tuple[Lot, ...]


class CreditShares:
    """Works out shares.

    Args:
        credit: reads lots and usage of an account.
        watching: reads the usage of a month by day.
        clock_ms: Unix milliseconds.
    """

    def __init__(self, credit: Credit, watching: Watching, clock_ms: Callable[[], int]) -> None:
        self._credit = credit
        self._watching = watching
        self._clock_ms = clock_ms
        self._openings: dict[tuple[str, str], _Opening] = {}

    async def of(self, account: Account, month: str, spent_pico: int) -> tuple[int, int]:
        """Return what was drawn in a month, and what is left of the credit that there was for it, pico-euros.

        Raises:
            LedgerUnavailableError: the database does not answer.
        """
        now_ms, zone = self._clock_ms(), account.timezone
        last_day = day_of(month_bounds_ms(month, zone)[1] - 1, zone)
        today = min(day_of(now_ms, zone), last_day)
        lots = (await self._opening(account, month, now_ms)).lots
        if all(lot.last_day >= last_day for lot in lots):  # on which day it was used makes no difference
            used = {today: spent_pico}
        else:
            used = await self._watching.used_in(account.id, month)
        drawdown = draw_down(lots, used)
        return drawdown.drawn_pico, drawdown.balance_pico(today)

    def knows(self, account: Account, month: str) -> bool:
        """Whether how the month began is known: then ``of`` costs next to nothing."""
        opening = self._openings.get((account.id, month))
        if opening is None or opening.paid_pico < account.credit_paid_pico:
            return False
        return self._clock_ms() - opening.read_ms < RENEW_MS

    async def _opening(self, account: Account, month: str, now_ms: int) -> _Opening:
        if self.knows(account, month):
            return self._openings[account.id, month]
        facts = await self._credit.facts(account.id)
        first_day = f"{month}-01"
        before = {day: amount for day, amount in facts.used_by_day.items() if day < first_day}
        drawdown = draw_down([lot.drawable(account.timezone) for lot in facts.lots], before)
        lots = tuple(
            msgspec.structs.replace(lot, amount_pico=left)
            for lot, left in zip(drawdown.lots, drawdown.left, strict=True)
            if left and lot.last_day >= first_day and lot.first_day <= first_day
        )
        if len(self._openings) >= REMEMBERED_MAX:
            self._openings.clear()
        opening = self._openings[account.id, month] = _Opening(now_ms, facts.paid_pico, lots)
        return opening
