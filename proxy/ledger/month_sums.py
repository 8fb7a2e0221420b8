"""Sums of months as documents need them: by item and by day, of many accounts at once.

What belongs here: one statement a question, and sums as ``Used``. What does not: which of them a document is made of
(month_facts.py).
"""

import calendar
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.invoicing.document import UsageItem
from proxy.core.invoicing.facts import Used
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.errors import DamagedError
from proxy.ledger.invoice_schema import chain_heads, chain_links
from proxy.ledger.linked_sums import LinkedSum
from proxy.ledger.schema import account_tiers, rollups_daily, rollups_monthly
from proxy.ledger.tiers import standing_changes

_PAIRS_MAX: Final = 1000
_CLASSES: Final = list(TariffClass)
_TYPES: Final = list(UsageType)


async def read_monthly(
    connection: AsyncConnection, month: str, account_ids: Sequence[str]
) -> dict[str, tuple[Used, ...]]:
    """Return what accounts used in a month by item, by account id. Raises ``DamagedError`` as ``used``."""
    table = rollups_monthly.c
    query = select(
        table.account_id,
        table.model,
        table.usage_type,
        table.tariff_class,
        table.price_version,
        table.quantity,
        table.cost_pico,
    ).where(table.account_id.in_(account_ids), table.month == month, table.quantity > 0)
    found: defaultdict[str, list[Used]] = defaultdict(list)
    for account_id, model, usage_type, tariff_class, version, quantity, cost_pico in await connection.execute(query):
        key = (model, UsageType(usage_type), TariffClass(tariff_class), version)
        found[account_id].append(used(*key, "", quantity, cost_pico))
    return {account_id: tuple(sorted(lines, key=_order)) for account_id, lines in found.items()}


async def read_daily(
    connection: AsyncConnection, account_ids: Sequence[str], month: str | None = None
) -> dict[str, dict[str, int]]:
    """Return what accounts used in pico-euros by day, of a month or of all time, by account id."""
    table = rollups_daily.c
    # A day's sum of one account stays far below 64 bits: the monthly limit does.
    query: Any = select(table.account_id, table.day, func.sum(table.cost_pico)).where(table.account_id.in_(account_ids))
    if month is not None:
        query = query.where(table.day.between(f"{month}-01", f"{month}-31"))
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for account_id, day, cost_pico in await connection.execute(query.group_by(table.account_id, table.day)):
        found[account_id][day] = int(cost_pico)
    return found


async def read_heads(
    connection: AsyncConnection, links: Iterable[tuple[str, str, int]]
) -> dict[tuple[str, str, int], str]:
    """Return the head of the chain at links, by (account id, month, link)."""
    wanted = list(links)
    found: dict[tuple[str, str, int], str] = {}
    for start in range(0, len(wanted), _PAIRS_MAX):
        some = wanted[start : start + _PAIRS_MAX]
        for table in (chain_heads.c, chain_links.c):
            key = tuple_(table.account_id, table.month, table.link)
            query = select(table.account_id, table.month, table.link, table.head).where(key.in_(some))
            found |= {
                (account_id, month, link): head for account_id, month, link, head in await connection.execute(query)
            }
    return found


async def read_tiers(
    connection: AsyncConnection, account_ids: Sequence[str], before_ms: Mapping[str, int]
) -> dict[str, str]:
    """Return the tier that accounts held just before an instant of their own (Unix milliseconds), by account id."""
    changes = await standing_changes(connection, account_tiers.c.account_id.in_(account_ids))
    return {id_: tier for id_, held in changes.items() for since_ms, tier in held if since_ms < before_ms[id_]}


async def used_months(connection: AsyncConnection, months: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return those of some (account id, month) in which anything was used."""
    table = rollups_monthly.c
    found: set[tuple[str, str]] = set()
    for start in range(0, len(months), _PAIRS_MAX):
        key = tuple_(table.account_id, table.month)
        query = select(table.account_id, table.month).where(
            key.in_(months[start : start + _PAIRS_MAX]), table.quantity > 0
        )
        found |= {(account_id, month) for account_id, month in await connection.execute(query.distinct())}
    return found


def used_of(sums: Iterable[LinkedSum], *, by_day: bool) -> tuple[Used, ...]:
    """Return sums of entries as ``Used``, by item or by item and day, in order. Raises ``DamagedError`` as ``used``."""
    found: defaultdict[tuple[str, UsageType, TariffClass, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for each in sums:
        day = each.day if by_day else ""
        total = found[each.model, each.usage_type, TariffClass(each.tariff_class), each.price_version, day]
        total[0] += each.quantity
        total[1] += each.cost_pico
    return tuple(sorted((used(*key, *total) for key, total in found.items()), key=_order))


def used(
    model: str,
    usage_type: UsageType,
    tariff_class: TariffClass,
    price_version: str,
    day: str,
    quantity: int,
    cost_pico: int,
) -> Used:
    """Return a sum with the unit price that its cost tells.

    Raises:
        DamagedError: it tells none: entries of one price version would have had several prices.
    """
    unit_price_pico, rest = divmod(cost_pico, quantity)
    if rest:
        raise DamagedError(
            f"{quantity} of {usage_type.value} with {model} cost {cost_pico} pico-euros by the ledger, "
            f"which is no price of version {price_version}"
        )
    return Used(UsageItem(model, usage_type, tariff_class, price_version, unit_price_pico), day, quantity, cost_pico)


def days_of(month: str) -> list[str]:
    """Return each day of a month."""
    _, count = calendar.monthrange(int(month[:4]), int(month[5:]))
    return [f"{month}-{day:02d}" for day in range(1, count + 1)]


def _order(line: Used) -> tuple[str, str, int, int, str]:
    item = line.item
    return line.day, item.model, _CLASSES.index(item.tariff_class), _TYPES.index(item.usage_type), item.price_version
