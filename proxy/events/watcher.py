"""The watcher: finds in the ledger what operators want to be told.

What belongs here: one look at all accounts, and what must not be looked at twice. What does not: the words (found.py),
when to look (work.py), and keeping events (ledger/events.py).

Everything is found in settled sums, never on a call's way. A look that is repeated, by another replica or after a
crash, finds the same events, and the ledger keeps each once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from proxy.billing.statement import is_active, statement_of
from proxy.core.accounts import Account
from proxy.core.calendar import month_bounds_ms, month_of
from proxy.core.catalogue import Tier
from proxy.core.events import Event, EventKind
from proxy.core.levels import with_overrides
from proxy.events import found
from proxy.events.shares import CreditShares
from proxy.ledger.credit import Credit
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerError
from proxy.ledger.events import Events
from proxy.ledger.watching import Watching

EXPIRING_MS: Final = 7 * 86_400_000
"""How long before its end a lot is told of."""
LOOK_BACK_MS: Final = 7 * 86_400_000
"""Tiers that were activated longer ago are not told of: neither when events are first watched for."""
REMEMBERED_MS: Final = 45 * 86_400_000
"""How old events may be that are remembered, so that they are not recorded again in vain."""
FORGET_MS: Final = 3_600_000
RECORDED_AT_ONCE: Final = 500
UNKNOWN_AT_ONCE: Final = 200
"""Accounts a look whose credit is worked out from the beginning: some milliseconds each, beside the calls."""
_BEHIND_MS: Final = 36 * 3_600_000
"""A month that ended so long ago is looked at, for calls that settle late; and every time zone is less from UTC."""
_AHEAD_MS: Final = 14 * 3_600_000

Identity = tuple[str, str, str, int]


class Watcher:
    """Looks for events.

    Args:
        database: migrated.
        accounts: returns every account by id, as it is stored (``Account.at``).
        tiers: returns the tiers in force.
        clock_ms: Unix milliseconds.
    """

    def __init__(
        self,
        database: Database,
        accounts: Callable[[], Mapping[str, Account]],
        tiers: Callable[[], Mapping[str, Tier]],
        clock_ms: Callable[[], int],
    ) -> None:
        self._events = Events(database)
        self._credit = Credit(database)
        self._watching = Watching(database)
        self._shares = CreditShares(self._credit, self._watching, clock_ms)
        self._accounts = accounts
        self._tiers = tiers
        self._clock_ms = clock_ms
        self._known: set[Identity] = set()
        self._known_ms = -REMEMBERED_MS
        self._seen: dict[tuple[str, str], tuple[int, int]] = {}
        self._spent_lots: set[str] = set()

    async def look(self) -> list[Event]:
        """Find and record what has happened; return what is new.

        Raises:
            LedgerUnavailableError: the database does not answer; nothing is lost, the next look finds it.
        """
        now_ms = self._clock_ms()
        if now_ms - self._known_ms >= FORGET_MS:
            self._known = await self._events.identities(now_ms - REMEMBERED_MS)
            self._known_ms = now_ms
            self._seen.clear()
            self._spent_lots.clear()
        try:
            events = [*await self._spending(now_ms), *await self._expiring(now_ms), *await self._activated(now_ms)]
            return await self._record([event for event in events if event.identity not in self._known], now_ms)
        except LedgerError:
            self._seen.clear()  # what was seen has not been recorded
            raise

    async def _record(self, events: Sequence[Event], now_ms: int) -> list[Event]:
        new: list[Event] = []
        for start in range(0, len(events), RECORDED_AT_ONCE):
            batch = events[start : start + RECORDED_AT_ONCE]
            new += await self._events.record(batch, now_ms)
            self._known.update(event.identity for event in batch)
        return new

    async def _spending(self, now_ms: int) -> list[Event]:
        months = {month_of(now_ms - _BEHIND_MS, "UTC"), month_of(now_ms + _AHEAD_MS, "UTC")}
        spending = await self._watching.spending(months, now_ms, now_ms - _BEHIND_MS)
        events: list[Event] = []
        unknown = 0
        accounts, tiers = self._accounts(), self._tiers()
        for (account_id, month), spent_pico in spending.pico.items():
            account = accounts.get(account_id)
            if account is None:
                continue
            tier = tiers.get(_held_in(account, month, spending.changes.get(account_id, ()), now_ms))
            if tier is None:
                continue
            if overrides := spending.overrides.get(account_id):
                tier, _ = with_overrides(tier, overrides, now_ms)
            if tier.monthly_limit_pico is not None:
                events += found.budget_reached(account, month, spent_pico, tier.monthly_limit_pico)
            if account.credit_paid_pico and self._has_moved(account, month, spent_pico):
                if not self._shares.knows(account, month):
                    unknown += 1
                    if unknown > UNKNOWN_AT_ONCE:  # a look at very many accounts is made in several
                        del self._seen[account_id, month]
                        continue
                drawn_pico, balance_pico = await self._shares.of(account, month, spent_pico)
                events += found.credit_reached(account, month, drawn_pico, balance_pico)
        return events

    def _has_moved(self, account: Account, month: str, spent_pico: int) -> bool:
        """Whether credit has been drawn or bought since the last look."""
        stand = (spent_pico, account.credit_paid_pico)
        has_moved = self._seen.get((account.id, month)) != stand
        self._seen[account.id, month] = stand
        return has_moved

    async def _expiring(self, now_ms: int) -> list[Event]:
        events, accounts = [], self._accounts()
        for lot in await self._watching.ending(now_ms, now_ms + EXPIRING_MS):
            account = accounts.get(lot.account_id)
            identity = (lot.account_id, EventKind.CREDIT_EXPIRING.value, lot.id, 0)
            if account is None or identity in self._known or lot.id in self._spent_lots:
                continue
            statement = statement_of(account, await self._credit.facts(account.id), now_ms)
            left_pico = sum(
                left for each, left in zip(statement.lots, statement.drawdown.left, strict=True) if each.id == lot.id
            )
            if left_pico:
                events.append(found.credit_expiring(account, lot, left_pico))
            else:
                self._spent_lots.add(lot.id)
        return events

    async def _activated(self, now_ms: int) -> list[Event]:
        events, accounts, tiers = [], self._accounts(), self._tiers()
        for account_id in sorted(await self._watching.changed_between(now_ms - LOOK_BACK_MS, now_ms)):
            account = accounts.get(account_id)
            tier = tiers.get(account.at(now_ms).tier) if account is not None else None
            if account is not None and tier is not None and tier.purchase_credit_pico and is_active(tier, account):
                events.append(found.tier_activated(account, tier))
        return events


def _held_in(account: Account, month: str, changes: Sequence[tuple[int, str]], now_ms: int) -> str:
    """Return the tier that an account holds in a month, or held at its end.

    Args:
        account: as it is stored.
        month: ``YYYY-MM``.
        changes: all its tiers in order, (from when on in Unix ms, id), if one has changed since that end; else none.
        now_ms: the time.
    """
    if not changes:
        return account.at(now_ms).tier
    _, ends_ms = month_bounds_ms(month, account.timezone)
    held = [tier for since_ms, tier in changes if since_ms < min(ends_ms, now_ms + 1)]
    return held[-1] if held else changes[0][1]
