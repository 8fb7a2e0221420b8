"""Entries against the counters of serving processes: tokens, minutes, euros and charged calls since they began.

What belongs here: reading our own counters, and the comparison. What does not: asking (scraping.py), and what the
counters are (telemetry/catalogue.py).

Counters belong to a process, and begin again with it; entries do not say which process made them. So the sum over the
processes given lies between the entries settled since the last of them began and those since the first did. Of one
process the two are the same. Counters that exceed the entries are drift whatever is not known: calls were charged that
the ledger does not have. Counters that lack entries are drift only where every process was given and none has ended.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from proxy.core.money import PICO_PER_EURO
from proxy.core.usage import UsageType
from proxy.ledger.totals import Served
from proxy.ledger.totals import Source as ServedBy
from proxy.reconciling.findings import (
    Difference,
    Finding,
    Gathering,
    Source,
    Span,
    Subject,
    Threshold,
    Unit,
    not_compared,
)
from proxy.reconciling.scraping import Scrape, UnreachableError
from proxy.telemetry.catalogue import AUDIO_MINUTES, CHARGED_CALLS, COUNTING_SINCE, EUROS, TOKENS

_RESTARTS: Final = "tollgate_worker_restarts_total"
_EXACT_BITS: Final = 50
"""Below 2**50 pico-euros (1,125 euros) a series, and the sum of a few workers' series, names each pico-euro."""

Counted = tuple[str, str, str]
"""Model, class, usage type; of calls without the type."""


class Process(msgspec.Struct, frozen=True):
    """What the processes behind one admin listener have counted.

    Args:
        url: where that was asked.
        since_ms: when the first of them began to count, Unix milliseconds.
        restarts: how often one of its workers has begun again since.
        numbers: by unit and by what was counted.
    """

    url: str
    since_ms: int
    restarts: int
    numbers: dict[Unit, dict[Counted, Span]]


def read_process(url: str, found: Scrape) -> Process:
    """Read what a process has counted.

    Raises:
        UnreachableError: these are not the metrics of a serving process, or of one that does not say since when.
    """
    since_ms = found.least_ms(COUNTING_SINCE.name)
    if since_ms is None:
        raise UnreachableError(f"{url} does not say since when it counts: is it a serving process of this version?")
    numbers: dict[Unit, dict[Counted, Span]] = {unit: {} for unit in (Unit.UNITS, Unit.PICO, Unit.CALLS)}
    for labels, amount in found.counted(TOKENS.name):
        _add(numbers[Unit.UNITS], (labels["model"], labels["class"], labels["type"]), Span.exactly(amount))
    for labels, amount in found.counted(AUDIO_MINUTES.name):
        key = (labels["model"], labels["class"], UsageType.AUDIO_MINUTES.value)
        _add(numbers[Unit.UNITS], key, Span.exactly(amount))
    for labels, amount in found.counted(CHARGED_CALLS.name):
        _add(numbers[Unit.CALLS], (labels["model"], labels["class"], ""), Span.exactly(amount))
    for labels, euros in found.rows(EUROS.name):
        _add(numbers[Unit.PICO], (labels["model"], labels["class"], labels["type"]), _pico(euros))
    return Process(url, since_ms, found.total(_RESTARTS), numbers)


def _pico(euros: Decimal) -> Span:
    """Return the pico-euros that a float of euros stands for."""
    pico = int((euros * PICO_PER_EURO).to_integral_value())
    unsure = pico >> _EXACT_BITS
    return Span(pico - unsure, pico + unsure)


def _add(numbers: dict[Counted, Span], key: Counted, more: Span) -> None:
    before = numbers.get(key, Span(0, 0))
    numbers[key] = Span(before.low + more.low, before.high + more.high)


Look = Callable[[], Awaitable[Sequence[Process]]]
"""Asks every process; raises ``UnreachableError`` when one does not answer."""
ServedSince = Callable[[Collection[int]], Awaitable[Mapping[int, Mapping[ServedBy, Served]]]]
"""Sums the entries settled since some instants."""


async def compare_metrics(look: Look, served_since: ServedSince, threshold: Threshold, *, all_given: bool) -> Finding:
    """Compare counters with entries.

    Args:
        look: asks the processes.
        served_since: asks the ledger.
        threshold: up to which difference nothing is said.
        all_given: whether these are all processes that serve: then what they have not counted is drift, too.

    Raises:
        UnreachableError: a process does not answer.
    """
    before = await look()
    first_ms, last_ms = (pick(process.since_ms for process in before) for pick in (min, max))
    served = await served_since({first_ms, last_ms})
    after = await look()
    if [process.since_ms for process in before] != [process.since_ms for process in after]:
        return not_compared(Source.METRICS, "a process has begun again meanwhile: its counters are gone")
    gathering = Gathering(Source.METRICS, threshold)
    counts_all = all_given and not any(process.restarts for process in after)
    least, most = _entries(served[last_ms]), _entries(served[first_ms])
    for unit in (Unit.CALLS, Unit.UNITS, Unit.PICO):
        low, high = _sum(before, unit), _sum(after, unit)
        for key in sorted(low.keys() | high.keys() | most[unit].keys()):
            expected = Span(least[unit].get(key, 0), most[unit].get(key, 0))
            found = Span(low.get(key, _ZERO).low, high.get(key, _ZERO).high)
            difference = Difference(_subject(before, key), unit, expected, found)
            gathering.compare(difference, unclear=difference.drift < 0 and not counts_all)
    gathering.notes += _notes(before, after, all_given=all_given)
    return gathering.finding()


_ZERO: Final = Span(0, 0)


def _entries(served: Mapping[ServedBy, Served]) -> dict[Unit, dict[Counted, int]]:
    numbers: dict[Unit, dict[Counted, int]] = {unit: {} for unit in (Unit.UNITS, Unit.PICO, Unit.CALLS)}

    def add(unit: Unit, key: Counted, amount: int) -> None:
        if amount:
            numbers[unit][key] = numbers[unit].get(key, 0) + amount

    for by, sums in served.items():
        add(Unit.CALLS, (by.model, by.tariff_class.value, ""), sums.calls)
        for usage_type, quantity, cost in zip(UsageType, sums.quantities, sums.costs_pico, strict=True):
            key = (by.model, by.tariff_class.value, usage_type.value)
            add(Unit.UNITS, key, quantity)
            add(Unit.PICO, key, cost)
    return numbers


def _sum(processes: Iterable[Process], unit: Unit) -> dict[Counted, Span]:
    summed: dict[Counted, Span] = {}
    for process in processes:
        for key, number in process.numbers[unit].items():
            _add(summed, key, number)
    return summed


def _subject(processes: Sequence[Process], key: Counted) -> Subject:
    model, tariff_class, usage_type = key
    place = processes[0].url if len(processes) == 1 else f"{len(processes)} processes"
    return Subject(place=place, model=model, usage_type=usage_type, tariff_class=tariff_class)


def _notes(before: Sequence[Process], after: Sequence[Process], *, all_given: bool) -> list[str]:
    notes = []
    if len(before) == 1:
        notes.append(f"counters of {before[0].url} against the entries settled since they began")
    else:
        notes.append(
            f"counters of {len(before)} processes against the entries settled since the first and since the last began"
        )
    if not all_given:
        notes.append("other processes may serve, too: entries that no counter has are unclear (--metrics names all)")
    if any(process.restarts for process in after):
        notes.append("workers have begun again: entries that no counter has are unclear")
    return notes
