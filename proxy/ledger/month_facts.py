"""What the invoices of a month follow from, read in one snapshot.

What belongs here: putting rollups, late entries, credit and covers together into ``MonthFacts``, for any number of
accounts with the same number of statements. What does not: what is made of them (core/invoicing/), and whether a month
may be invoiced by now (billing/invoices/).

Sums come from rollups wherever a document covers the whole of a month that is there. Entries are summed only for what
rollups cannot tell apart: what came late, and a month of which other documents cover a part.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.accounts import Account
from proxy.core.calendar import month_bounds_ms
from proxy.core.catalogue import Tier
from proxy.core.invoicing.document import ChainMark, DayOfUse
from proxy.core.invoicing.facts import LotFact, MonthFacts, Used
from proxy.ledger import month_sums as sums
from proxy.ledger.accounts import ACCOUNTS, account_of
from proxy.ledger.coverage import Coverage, Plan, read_coverage
from proxy.ledger.database import Database
from proxy.ledger.invoiced_credit import read_lot_facts
from proxy.ledger.linked_sums import LinkedSum, linked_sums
from proxy.ledger.schema import accounts


class MonthState(msgspec.Struct, frozen=True):
    """An account in a month that is to be invoiced.

    Args:
        account: as it is now.
        facts: what its invoice follows from; where one stands for the month already: nothing more.
        number: of the invoice that stands for the month; None: none does.
        earlier: months before with usage that no invoice stands for, in order.
        documents: how many the account has, see ``Coverage``.
    """

    account: Account
    facts: MonthFacts
    number: str | None
    earlier: tuple[str, ...]
    documents: int

    @property
    def has_usage(self) -> bool:
        """Whether there is anything to be invoiced."""
        return bool(self.facts.used or self.facts.late)


class _Snapshot(msgspec.Struct, frozen=True):
    """Everything that was read, by account id."""

    coverage: dict[str, Coverage]
    plans: dict[str, Plan]
    linked: dict[str, list[LinkedSum]]
    left_out: dict[str, list[LinkedSum]]
    monthly: dict[str, tuple[Used, ...]]
    daily: dict[str, dict[str, int]]
    history: dict[str, dict[str, int]]
    lots: dict[str, tuple[LotFact, ...]]
    tiers: dict[str, str]
    heads: dict[tuple[str, str, int], str]
    earlier: set[tuple[str, str]]


class MonthFactsReader:
    """Reads months to be invoiced.

    Every method raises ``LedgerUnavailableError`` when the database does not answer.

    Args:
        database: migrated.
        tiers: by id, for their titles.
    """

    def __init__(self, database: Database, tiers: Mapping[str, Tier]) -> None:
        self._database = database
        self._tiers = tiers

    async def accounts_of(self, month: str) -> list[Account]:
        """Return the accounts that have entries of a month or of one before it, by name."""
        async with self._database.read() as connection:
            known = await read_coverage(connection)
            ids = {each.account_id for each in known.values() if any(before <= month for before in each.heads)}
            rows = await connection.execute(ACCOUNTS.order_by(accounts.c.name))
            return [account for account in map(account_of, rows) if account.id in ids]

    async def read(self, month: str, account_ids: Collection[str]) -> list[MonthState]:
        """Return some accounts in a month, in the order of their ids; however many, the statements are as many.

        Raises:
            DamagedError: a sum is not its quantity times a price.
        """
        async with self._database.read() as connection:
            rows = await connection.execute(ACCOUNTS.where(accounts.c.id.in_(account_ids)).order_by(accounts.c.id))
            wanted = [account_of(row) for row in rows]
            snapshot = await self._snapshot(connection, month, wanted)
        return [self._state(account, month, snapshot) for account in wanted]

    async def _snapshot(self, connection: AsyncConnection, month: str, wanted: Collection[Account]) -> _Snapshot:
        postgresql, ids = self._database.is_postgresql, [account.id for account in wanted]
        ends_ms = {account.id: month_bounds_ms(month, account.timezone)[1] for account in wanted}
        coverage = await read_coverage(connection, ids)
        plans = {id_: Plan.of(coverage[id_], month) for id_ in ids}
        lots = await read_lot_facts(connection, wanted)
        spans = [(id_, *span) for id_ in ids for span in plans[id_].to_be_summed(month)]
        holes = [(id_, *span) for id_ in lots for span in plans[id_].left_out]
        whole = [id_ for id_ in ids if plans[id_].is_whole]
        return _Snapshot(
            coverage,
            plans,
            linked=_by_account(await linked_sums(connection, spans, postgresql=postgresql)),
            left_out=_by_account(await linked_sums(connection, holes, postgresql=postgresql)),
            monthly=await sums.read_monthly(connection, month, whole),
            daily=await sums.read_daily(connection, whole, month),
            history=await sums.read_daily(connection, list(lots)),
            lots=lots,
            tiers=await sums.read_tiers(connection, ids, ends_ms),
            heads=await sums.read_heads(
                connection, ((id_, each, link) for id_ in ids for each, _, link in plans[id_].spans(month) if link)
            ),
            earlier=await sums.used_months(connection, [(id_, each) for id_ in ids for each in plans[id_].earlier]),
        )

    def _state(self, account: Account, month: str, snapshot: _Snapshot) -> MonthState:
        id_, plan, coverage = account.id, snapshot.plans[account.id], snapshot.coverage[account.id]
        linked = snapshot.linked.get(id_, [])
        late = [each for each in linked if each.month != month]
        if plan.is_whole:
            used, days = snapshot.monthly.get(id_, ()), snapshot.daily.get(id_, {})
        else:
            own = [each for each in linked if each.month == month]
            used, days = sums.used_of(own, by_day=False), _by_day(own)
        tier = snapshot.tiers.get(id_, account.tier)
        facts = MonthFacts(
            account_id=id_,
            account_name=account.name,
            tier=self._tiers[tier].title if tier in self._tiers else tier,
            month=month,
            used=used,
            late=sums.used_of(late, by_day=True),
            lots=snapshot.lots.get(id_, ()),
            used_by_day=_invoiced_days(plan, snapshot, id_) if id_ in snapshot.lots else _added(days, _by_day(late)),
            days=tuple(DayOfUse(day, days.get(day, 0)) for day in sums.days_of(month)),
            chain=tuple(
                ChainMark(each, after, link, snapshot.heads.get((id_, each, link), ""))
                for each, after, link in plan.spans(month)
            ),
        )
        earlier = tuple(each for each in plan.earlier if (id_, each) in snapshot.earlier)
        return MonthState(account, facts, coverage.invoiced.get(month), earlier, coverage.documents)


def _invoiced_days(plan: Plan, snapshot: _Snapshot, account_id: str) -> dict[str, int]:
    """Return pico-euros by day of what is invoiced, this document included: the rollups less what is left out."""
    days = {day: cost for day, cost in snapshot.history.get(account_id, {}).items() if day[:7] in plan.months}
    left_out = _by_day(snapshot.left_out.get(account_id, []))
    return {day: cost - left_out.get(day, 0) for day, cost in days.items()}


def _by_account(found: Iterable[LinkedSum]) -> dict[str, list[LinkedSum]]:
    by_account: defaultdict[str, list[LinkedSum]] = defaultdict(list)
    for each in found:
        by_account[each.account_id].append(each)
    return by_account


def _by_day(found: Iterable[LinkedSum]) -> dict[str, int]:
    days: defaultdict[str, int] = defaultdict(int)
    for each in found:
        days[each.day] += each.cost_pico
    return dict(days)


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {day: one.get(day, 0) + other.get(day, 0) for day in sorted({*one, *other})}
