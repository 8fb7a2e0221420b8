"""Entries against what the limiter counts as spent: budgets of accounts and keys in the present month, and credit.

What belongs here: which budgets there are, and between which bounds the entries must lie. What does not: the limiter's
store (limiter/), sums of entries (ledger/totals.py), and putting it right (repairing.py).

A call is held, then committed, then settled in the limiter. So at any moment what the limiter counts as spent is at
most what has been committed, and with its holds at least that. It is read before the ledger and after it:

    spent before  <=  entries, in the ledger and waiting  <=  spent after + held after

When nothing goes on both ends are the same number. Three things widen the middle: each call is rounded up to a
nano-euro by itself, unless it was seeded with others; a call whose process died is charged with what it had noted,
before it becomes an entry at the next start; and a line of a batch whose process died is an entry before the limiter is
told of it, by whoever takes it over.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from proxy.core.accounts import Account, Key
from proxy.core.catalogue import Tier
from proxy.core.limit_names import CREDIT
from proxy.core.limits import UNLIMITED, Limit, LimitKind, LimitState, Measure
from proxy.core.money import PICO_PER_NANO, nano_from_pico_up
from proxy.core.quotas import key_limits_of, limits_of
from proxy.ledger.totals import Spent, SpentSums
from proxy.months import Months
from proxy.reconciling.findings import Difference, Finding, Gathering, Source, Span, Subject, Threshold, Unit

AT_ONCE: Final = 100
"""How many accounts are asked about at once."""


class Store(Protocol):
    """Where budgets are: ``limiter.redis.RedisLimiter``. Every verb raises ``LimiterUnavailableError``."""

    async def look(self, account_id: str, limits: Sequence[Limit]) -> tuple[LimitState | None, ...]:
        """Return what it knows of limits; None: nothing."""
        ...

    async def correct(self, account_id: str, budget: Limit, difference: int) -> bool:
        """Add nano-euros to what is spent of a budget, or take them from it; return whether it knows the budget."""
        ...


class Budget(msgspec.Struct, frozen=True):
    """One budget of one account.

    Args:
        account: whose.
        limit: as the limiter knows it.
        key_ids: of the keys whose entries it counts; None: it counts all.
    """

    account: Account
    limit: Limit
    key_ids: frozenset[str] | None = None


class Drifted(msgspec.Struct, frozen=True):
    """A budget that is off by so many nano-euros at least: what the limiter has too much (+) or too little (-)."""

    budget: Budget
    nano: int


class Compared(msgspec.Struct, frozen=True):
    """What was found, and every budget that is off at all."""

    finding: Finding
    drifted: tuple[Drifted, ...]


def budgets_of(
    accounts: Iterable[Account], keys: Iterable[Key], tiers: Mapping[str, Tier], now_ms: int
) -> tuple[list[Budget], list[str]]:
    """Return every budget that the limiter may know now, and the ids of tiers that accounts hold and nobody defines."""
    keys_of: dict[str, list[Key]] = {}
    for key in keys:
        keys_of.setdefault(key.account_id, []).append(key)
    months, found, missing = Months(), [], set()
    for account in accounts:
        month = months.at(now_ms, account.timezone)
        tier = tiers.get(account.tier)
        if tier is None:
            missing.add(account.tier)
            continue
        found += [Budget(account, limit) for limit in _budgets(limits_of(tier, month.name, month.ends_ms))]
        scopes: dict[str, list[Key]] = {}
        for key in keys_of.get(account.id, ()):
            if key.limits is not None:
                scopes.setdefault(key.limits.scope, []).append(key)
        for scope, members in scopes.items():
            own = members[-1].limits
            assert own is not None
            ids = frozenset({scope, *(key.id for key in members)})
            found += [Budget(account, limit, ids) for limit in _budgets(key_limits_of(own, month.name, month.ends_ms))]
        if account.prepaid_only:
            found.append(Budget(account, Limit(CREDIT, LimitKind.BUDGET, UNLIMITED, counts=Measure.EUROS)))
    return found, sorted(missing)


def _budgets(limits: Iterable[Limit]) -> list[Limit]:
    return [limit for limit in limits if limit.kind is LimitKind.BUDGET]


SpentIn = Callable[[Collection[str], Collection[str]], Awaitable[SpentSums]]
"""Sums the entries of some months, and all of some accounts."""


async def compare_limits(store: Store, budgets: Sequence[Budget], spent: SpentIn, threshold: Threshold) -> Compared:
    """Compare what the limiter counts as spent with the entries.

    Args:
        store: the limiter's.
        budgets: which.
        spent: asks the ledger.
        threshold: up to which difference nothing is said.

    Raises:
        LimiterUnavailableError: it does not answer.
    """
    gathering = Gathering(Source.LIMITER, threshold)
    before = await _look(store, budgets)
    months = {budget.limit.period for budget in budgets if budget.limit.period}
    ever = {budget.account.id for budget in budgets if not budget.limit.period}
    sums = await spent(months, ever)
    after = await _look(store, budgets)
    drifted, unknown, held = [], 0, 0
    by_account = _by_account(sums)
    for budget, first, last in zip(budgets, before, after, strict=True):
        if first is None or last is None:
            unknown += 1
            continue
        held += last.held > 0
        expected = _expected(budget, sums, by_account)
        found = Span(first.used, last.used + last.held)
        if nano := found.beyond(expected):
            drifted.append(Drifted(budget, nano))
        gathering.compare(Difference(_subject(budget), Unit.PICO, _pico(expected), _pico(found)))
    gathering.notes.append("spent <= entries <= spent + held, read before the ledger and after it")
    if held:
        gathering.notes.append(f"{held:,} budgets are held by calls in flight: what lies within the holds is not seen")
    if unknown:
        gathering.notes.append(f"{unknown:,} budgets are not known to the limiter: it learns them with the next call")
    return Compared(gathering.finding(), tuple(drifted))


async def _look(store: Store, budgets: Sequence[Budget]) -> list[LimitState | None]:
    states: list[LimitState | None] = []
    for start in range(0, len(budgets), AT_ONCE):
        some = budgets[start : start + AT_ONCE]
        for found in await asyncio.gather(*(store.look(each.account.id, (each.limit,)) for each in some)):
            states += found
    return states


_ByAccount = dict[tuple[str, str], dict[str, tuple[Spent, Spent, Spent]]]
"""Settled, noted and untold by (account, month) and key."""


def _by_account(sums: SpentSums) -> _ByAccount:
    found: _ByAccount = {}
    for place, of in enumerate((sums.settled, sums.noted, sums.untold)):
        for (account_id, key_id, month), spent in of.items():
            all_three = found.setdefault((account_id, month), {}).setdefault(key_id, (Spent(), Spent(), Spent()))
            all_three[place].add(spent)
    return found


def _expected(budget: Budget, sums: SpentSums, by_account: _ByAccount) -> Span:
    """Return between which nano-euros a budget must be.

    At least what is settled and told, rounded up once; at most all of it and what is noted, each call by itself.
    """
    account_id, month = budget.account.id, budget.limit.period
    settled, noted, untold = Spent(), Spent(), Spent()
    if not month:
        settled.add(sums.ever.get(account_id, Spent()))
        noted.add(sums.ever_noted.get(account_id, Spent()))
        untold.add(sums.ever_untold.get(account_id, Spent()))
    for key_id, of_key in by_account.get((account_id, month), {}).items():
        if budget.key_ids is None or key_id in budget.key_ids:
            for all_of_them, some in zip((settled, noted, untold), of_key, strict=True):
                all_of_them.add(some)
    return Span(nano_from_pico_up(settled.pico - untold.pico), settled.nano_each_up + noted.nano_each_up)


def _subject(budget: Budget) -> Subject:
    account, limit = budget.account, budget.limit
    return Subject(account=account.name, account_id=account.id, period=limit.period, place=limit.stored_name)


def _pico(nano: Span) -> Span:
    return Span(nano.low * PICO_PER_NANO, nano.high * PICO_PER_NANO)
