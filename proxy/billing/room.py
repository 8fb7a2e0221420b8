"""What a prepaid account may still spend, as a limit beside the others of a call.

What belongs here: the limit ``credit``, remembered between calls and renewed as purchases and usage become known. What
does not: drawing down (core/credit.py), and keeping the limit (limiter/).

The limit is one budget that never ends. It counts everything that the account ever used, so neither the end of a month
nor calls that are in flight then open a gap; its capacity is what was used plus what is left. Both are read from one
snapshot of the ledger, which knows less than has been used: entries are on their way to it. That errs on the safe side
only. Each further pico-euro of usage adds one to what was used and takes at most one from what is left, so the capacity
never shrinks as the ledger catches up; and when a lot ends, what is left of it by the ledger's knowledge is at least
what is really left. Holds are full bounds, rounded up to nano-euros, and the capacity is rounded down: a prepaid
account never spends a pico-euro more than it has.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from proxy.core.accounts import Account
from proxy.core.calendar import day_bounds_ms
from proxy.core.credit import NO_END, draw_down
from proxy.core.errors import unavailable
from proxy.core.levels import FOR_EVER_MS
from proxy.core.limit_names import CREDIT
from proxy.core.limits import UNLIMITED, Limit, LimitKind, Measure
from proxy.core.money import PICO_PER_NANO
from proxy.core.quotas import Allowance
from proxy.ledger.credit import Credit
from proxy.ledger.errors import LedgerError
from proxy.tasks import Tasks

REMEMBERED_MAX: Final = 16_384
"""How many prepaid accounts, and how many of their allowances, are remembered; beyond it the memory begins again."""
RENEW_MS: Final = 300_000
"""After so long the ledger is asked again, beside the calls."""
RENEW_SOON_MS: Final = 15_000
"""The same after the end of a lot: what the ledger did not know yet of its last day seems to have lapsed."""
SOON_MS: Final = 3_600_000
"""How long after it."""
READ_S: Final = 5.0
"""How long the ledger may take to answer while a call waits."""


class _Known(msgspec.Struct, frozen=True):
    """What the ledger knew of an account.

    Args:
        read_ms: when, Unix milliseconds.
        paid_pico: all that had been bought.
        used_pico: all that had been used.
        left: of each lot that had something left and had not ended long ago, the end in Unix milliseconds and the
            pico-euros.
    """

    read_ms: int
    paid_pico: int
    used_pico: int
    left: tuple[tuple[int, int], ...]

    def limit(self, now_ms: int) -> Limit:
        """Return the limit as it is at a time."""
        left_pico = sum(amount for ends_ms, amount in self.left if now_ms < ends_ms)
        capacity = (self.used_pico + left_pico) // PICO_PER_NANO
        base = min(self.used_pico // PICO_PER_NANO, capacity)
        kept = min(capacity, UNLIMITED - 1)
        return Limit(CREDIT, LimitKind.BUDGET, kept, counts=Measure.EUROS, base=min(base, kept))

    def is_due(self, now_ms: int) -> bool:
        """Whether the ledger should be asked again."""
        ended = any(0 <= now_ms - ends_ms < SOON_MS for ends_ms, _ in self.left)
        return now_ms - self.read_ms >= (RENEW_SOON_MS if ended else RENEW_MS)


class CreditRoom:
    """Adds what is left of its credit to what a prepaid account must fit into.

    Args:
        credit: reads lots and usage.
        tasks: where the ledger is asked while calls go on.
        clock_ms: Unix milliseconds.
    """

    def __init__(self, credit: Credit, tasks: Tasks, clock_ms: Callable[[], int]) -> None:
        self._credit = credit
        self._tasks = tasks
        self._clock_ms = clock_ms
        self._known: dict[str, _Known] = {}
        self._reading: dict[str, asyncio.Task[_Known | None]] = {}
        self._made: dict[tuple[str, int], tuple[Allowance, Limit, Allowance]] = {}

    async def within(self, allowance: Allowance, account: Account, now_ms: int) -> Allowance:
        """Return the limits of a prepaid account's call, its credit at their end.

        Args:
            allowance: its other limits.
            account: as the directory has it.
            now_ms: Unix milliseconds.

        Raises:
            ApiError: 503 when nothing is known of its credit and the ledger does not say.
        """
        known = self._known.get(account.id)
        if known is None or known.paid_pico < account.credit_paid_pico:
            # What was known before a purchase grants less than there is: it serves when the ledger is away.
            known = await self._read_now(account) or known
            if known is None:
                raise unavailable()
        elif known.is_due(now_ms):
            self._read(account)
        limit = known.limit(now_ms)
        place = (account.id, id(allowance))
        made = self._made.get(place)
        if made is None or made[0] is not allowance or made[1] != limit:
            if len(self._made) >= REMEMBERED_MAX:
                self._made.clear()
            made = self._made[place] = (allowance, limit, Allowance.of((*allowance.limits, limit)))
        return made[2]

    async def _read_now(self, account: Account) -> _Known | None:
        try:
            async with asyncio.timeout(READ_S):
                return await asyncio.shield(self._read(account))
        except TimeoutError:
            return None

    def _read(self, account: Account) -> asyncio.Task[_Known | None]:
        """Ask the ledger, once however many wait; the answer is None when it is away."""
        reading = self._reading.get(account.id)
        if reading is None:
            reading = self._reading[account.id] = self._tasks.spawn(self._look(account), "credit")
        return reading

    async def _look(self, account: Account) -> _Known | None:
        try:
            now_ms = self._clock_ms()
            facts = await self._credit.facts(account.id)
        except LedgerError:
            return None
        finally:
            self._reading.pop(account.id, None)
        zone = account.timezone
        drawdown = draw_down([lot.drawable(zone) for lot in facts.lots], facts.used_by_day)
        ends = ((lot.last_day, amount) for lot, amount in zip(drawdown.lots, drawdown.left, strict=True) if amount)
        left = [(FOR_EVER_MS if day == NO_END else day_bounds_ms(day, zone)[1], amount) for day, amount in ends]
        kept = tuple((ends_ms, amount) for ends_ms, amount in left if now_ms - ends_ms < SOON_MS)
        if len(self._known) >= REMEMBERED_MAX:
            self._known.clear()
        known = self._known[account.id] = _Known(now_ms, facts.paid_pico, drawdown.used_pico, kept)
        return known
