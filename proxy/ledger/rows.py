"""Entries as rows, and what rows add to the rollups.

What belongs here: pure conversions between ``Entry`` and the columns of schema.py. What does not: statements.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from proxy.core.entries import Charge, ChargeLine, Entry, Outcome
from proxy.core.usage import Source, TariffClass, UsageType
from proxy.ledger import schema

_LETTERS: Final = {Source.REPORTED: "r", Source.MEASURED: "m", Source.ESTIMATED: "e"}
SOURCES: Final = {letter: source for source, letter in _LETTERS.items()}
"""Where a quantity comes from, by its letter in ``entries.sources``."""
_TYPES: Final = tuple(UsageType)
_PLACE: Final = {usage_type: place for place, usage_type in enumerate(_TYPES)}

EntryId = tuple[str, str, str]
"""Account id, month, call id."""

RollupKey = tuple[str, str, str, str, str, str]
"""Account id, day or month, model, usage type, tariff class, price version."""

CallsKey = tuple[str, str, str, str]
"""Account id, day or month, model, tariff class."""

_Item = tuple[str, str, str, str]
"""Model, usage type, tariff class, price version."""


def entry_id(entry: Entry) -> EntryId:
    """Return what an entry is known by."""
    return entry.account_id, entry.month, entry.call_id


def values_of(entry: Entry) -> tuple[str | int | bool, ...]:
    """Return the values of ``schema.entries``, in the order of its columns, all but the last: its link."""
    quantities, costs, letters = [0] * len(_TYPES), [0] * len(_TYPES), ["-"] * len(_TYPES)
    for line in entry.charge.lines:
        place = _PLACE[line.usage_type]
        quantities[place] = line.amount
        costs[place] = line.cost_pico
        letters[place] = _LETTERS[line.source]
    return (
        entry.account_id,
        entry.month,
        entry.call_id,
        entry.day,
        entry.key_id,
        entry.tier,
        entry.endpoint,
        entry.model,
        entry.tariff_class._value_,  # ``value`` costs two calls
        entry.outcome._value_,
        entry.admitted_ms,
        entry.settled_ms,
        entry.upstream,
        entry.streamed,
        "e" in letters,
        "".join(letters),
        entry.charge.price_version,
        entry.charge.total_pico,
        *quantities,
        *costs,
    )


def entry_of(row: Mapping[str, Any]) -> Entry:
    """Return the entry that a row of ``schema.entries`` came from.

    The unit price is what the cost says of it; of a line with an amount of 0 it is not kept and comes back as
    0.
    """
    lines = []
    for usage_type, letter in zip(_TYPES, row["sources"], strict=True):
        if letter != "-":
            amount = row[schema.quantity_column(usage_type)]
            cost = row[schema.cost_column(usage_type)]
            lines.append(ChargeLine(usage_type, amount, SOURCES[letter], cost // amount if amount else 0, cost))
    return Entry(
        call_id=row["call_id"],
        account_id=row["account_id"],
        month=row["month"],
        day=row["day"],
        key_id=row["key_id"],
        tier=row["tier"],
        endpoint=row["endpoint"],
        model=row["model"],
        tariff_class=TariffClass(row["tariff_class"]),
        outcome=Outcome(row["outcome"]),
        admitted_ms=row["admitted_ms"],
        settled_ms=row["settled_ms"],
        charge=Charge(tuple(lines), row["cost_pico"], row["price_version"]),
        upstream=row["upstream"],
        streamed=bool(row["streamed"]),
    )


def output_tokens(entry: Entry) -> int:
    """Return the tokens of a call that count in the output windows: output and reasoning."""
    return sum(
        line.amount
        for line in entry.charge.lines
        if line.usage_type is UsageType.OUTPUT or line.usage_type is UsageType.REASONING
    )


class Sums:
    """What some entries add to the rollups of one kind of period, and to its call counts."""

    def __init__(self) -> None:
        self.rollups: dict[RollupKey, list[int]] = {}
        self.calls: dict[CallsKey, int] = {}

    def add(self, account_id: str, period: str, item: _Item, amount: int, cost_pico: int, calls: int) -> None:
        """Count what calls have used of one item in a day or a month."""
        row = self.rollups.setdefault((account_id, period, *item), [0, 0, 0])
        row[0] += amount
        row[1] += cost_pico
        row[2] += calls

    def rollup_rows(self) -> Sequence[tuple[str | int, ...]]:
        """Return the rows, in the order of their keys: who locks rows in one order never deadlocks."""
        return [(*key, *self.rollups[key]) for key in sorted(self.rollups)]

    def calls_rows(self) -> Sequence[tuple[str | int, ...]]:
        """Return the rows, in the order of their keys."""
        return [(*key, self.calls[key]) for key in sorted(self.calls)]


def sums_of(entries: Iterable[Entry]) -> tuple[Sums, Sums]:
    """Return what entries add by day and by month."""
    items: dict[tuple[str, str, str, _Item], list[int]] = {}
    calls: dict[tuple[str, str, str, str, str], int] = {}
    for entry in entries:
        account_id, day, month, model = entry.account_id, entry.day, entry.month, entry.model
        tariff_class, charge = entry.tariff_class._value_, entry.charge  # ``value`` costs two calls
        call_key = (account_id, day, month, model, tariff_class)
        calls[call_key] = calls.get(call_key, 0) + 1
        for line in charge.lines:
            key = (account_id, day, month, (model, line.usage_type._value_, tariff_class, charge.price_version))
            row = items.get(key)
            if row is None:
                items[key] = [line.amount, line.cost_pico, 1]
            else:
                row[0] += line.amount
                row[1] += line.cost_pico
                row[2] += 1
    daily, monthly = Sums(), Sums()
    for (account_id, day, month, item), (amount, cost_pico, used) in items.items():
        daily.add(account_id, day, item, amount, cost_pico, used)
        monthly.add(account_id, month, item, amount, cost_pico, used)
    for (account_id, day, month, model, tariff_class), count in calls.items():
        for sums, period in ((daily, day), (monthly, month)):
            calls_key = (account_id, period, model, tariff_class)
            sums.calls[calls_key] = sums.calls.get(calls_key, 0) + count
    return daily, monthly
