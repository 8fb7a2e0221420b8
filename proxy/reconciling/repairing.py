"""Putting right what is derived, from the entries: rollups, counts of calls, and the limiter's budgets.

What belongs here: what is done about what was found. What does not: finding it. Entries are never changed, nor are
documents that were issued; counters of processes and servers cannot be.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Final

import msgspec

from proxy.core.money import PICO_PER_NANO, euros_text
from proxy.ledger.rebuild import Rebuilding
from proxy.reconciling.findings import Source
from proxy.reconciling.limits import Drifted, Store

_SIGNS: Final = {True: "+", False: ""}


class Repaired(msgspec.Struct, frozen=True):
    """One thing that was put right.

    Args:
        source: what kind of thing.
        account: the account's name.
        period: the month; empty: it has none.
        what: what was done.
    """

    source: Source
    account: str
    period: str
    what: str


async def repair_rollups(
    rebuilding: Rebuilding, months: Iterable[tuple[str, str]], names: Mapping[str, str]
) -> AsyncGenerator[Repaired, None]:
    """Make the rollups of some (account id, month) what the entries say, each in one transaction; yield what was done.

    Raises:
        LedgerUnavailableError: the database does not answer; what was done before stays done.
    """
    for account_id, month in months:
        done = await rebuilding.account_month(account_id, month)
        if done.rows:
            what = f"{done.added} rows added, {done.changed} put right, {done.removed} removed"
            yield Repaired(Source.ROLLUPS, names.get(account_id, account_id), month, what)


async def repair_limits(store: Store, drifted: Iterable[Drifted]) -> AsyncGenerator[Repaired, None]:
    """Take from budgets what they have too much, and add what they lack, as far as both are certain; yield each.

    A difference is added to what is spent, so settlements that come meanwhile are kept, and so is what calls in flight
    hold. It is the least by which a budget is off: afterwards the entries lie within its bounds, and doing it again
    does nothing.

    Raises:
        LimiterUnavailableError: the store does not answer; what was done before stays done.
    """
    for each in drifted:
        budget = each.budget
        if await store.correct(budget.account.id, budget.limit, -each.nano):
            sign, amount = _SIGNS[each.nano < 0], euros_text(-each.nano * PICO_PER_NANO)
            what = f"{budget.limit.stored_name}: {sign}{amount} € spent"
            yield Repaired(Source.LIMITER, budget.account.name, budget.limit.period, what)
