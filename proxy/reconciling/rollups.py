"""Entries against rollups and counts of calls: equal, to the pico-euro and whatever goes on.

What belongs here: comparing an account's month twice counted. What does not: counting (ledger/recount.py), and putting
it right (repairing.py).
"""

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Final

import msgspec

from proxy.ledger.recount import CALLS, NAMES, ROLLUPS, AccountMonth, Key, Values
from proxy.reconciling.findings import Difference, Finding, Gathering, Source, Span, Subject, Threshold, Unit

_UNITS: Final = {
    **{NAMES[table]: (Unit.UNITS, Unit.PICO, Unit.CALLS) for table in ROLLUPS},
    **{NAMES[table]: (Unit.CALLS,) for table in CALLS},
}

Told = Callable[[int, int], None]
"""Is told how many entries of how many have been counted."""


class Compared(msgspec.Struct, frozen=True):
    """What was found, and in which (account id, month) anything differs at all, below the threshold too."""

    finding: Finding
    drifted: tuple[tuple[str, str], ...]


async def compare_rollups(
    months: AsyncGenerator[AccountMonth, None],
    names: Mapping[str, str],
    threshold: Threshold,
    told: Callable[[int], None],
) -> Compared:
    """Compare what follows from the entries with what is kept.

    Args:
        months: every account's month, twice counted.
        names: of accounts, by id.
        threshold: up to which difference nothing is said.
        told: is told how many entries have been counted.
    """
    gathering = Gathering(Source.ROLLUPS, threshold)
    drifted = []
    entries = 0
    async with contextlib.aclosing(months):
        async for month in months:
            entries += month.calls
            told(entries)
            gathering.rows += month.rows
            if month.counted != month.kept:
                drifted.append((month.account_id, month.month))
                for difference in _differences(month, names.get(month.account_id, month.account_id)):
                    gathering.keep(difference)
    gathering.notes.append(f"{entries:,} entries, summed by the database in one snapshot with the rows")
    return Compared(gathering.finding(), tuple(drifted))


def _differences(month: AccountMonth, account: str) -> Iterator[Difference]:
    for name in NAMES.values():
        counted, kept = month.counted[name], month.kept[name]
        for key in sorted(counted.keys() | kept.keys()):
            if counted.get(key) != kept.get(key):
                subject = _subject(name, account, month.account_id, key)
                yield from _numbers(subject, _UNITS[name], counted.get(key), kept.get(key))


def _subject(table: str, account: str, account_id: str, key: Key) -> Subject:
    if len(key) == 3:  # noqa: PLR2004 - calls: period, model, class
        period, model, tariff_class = key
        return Subject(
            account=account, account_id=account_id, period=period, place=table, model=model, tariff_class=tariff_class
        )
    period, model, usage_type, tariff_class, version = key
    return Subject(
        account=account,
        account_id=account_id,
        period=period,
        place=table,
        model=model,
        usage_type=usage_type,
        tariff_class=tariff_class,
        price_version=version,
    )


def _numbers(
    subject: Subject, units: tuple[Unit, ...], counted: Values | None, kept: Values | None
) -> Iterator[Difference]:
    """Yield each number of a row that differs; a row that is missing or should not be there differs in itself, too."""
    nothing = (0,) * len(units)
    why = "the row is missing" if kept is None else "no entry makes this row" if counted is None else ""
    if why:
        yield Difference(
            subject, Unit.ROWS, Span.exactly(int(counted is not None)), Span.exactly(int(kept is not None)), why
        )
    for unit, expected, found in zip(units, counted or nothing, kept or nothing, strict=True):
        if expected != found:
            yield Difference(subject, unit, Span.exactly(expected), Span.exactly(found), why)
