"""What a comparison with the entries finds: values.

What belongs here: how a difference is described, and what a comparison amounts to. What does not: comparing.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import msgspec

DRIFTS_KEPT_MAX: Final = 10_000
"""Differences that are described one by one; beyond it they are counted only."""


class Source(StrEnum):
    """What is held against the entries."""

    ROLLUPS = "rollups"
    """Daily and monthly sums, and counts of calls."""
    LIMITER = "limiter"
    """Budgets and credit in Redis."""
    METRICS = "metrics"
    """Counters of the serving processes."""
    INVOICES = "invoices"
    """Documents that were issued."""
    ENGINES = "engines"
    """Token counters of the inference servers."""


class Status(StrEnum):
    """What a comparison amounts to."""

    AGREES = "agrees"
    DRIFTS = "drifts"
    UNCLEAR = "unclear"
    """It differs, by what may have a good reason that nobody can count."""
    NOT_COMPARED = "not compared"


class Unit(StrEnum):
    """What a number counts."""

    UNITS = "units"
    """Tokens or started minutes."""
    CALLS = "calls"
    PICO = "euros"
    """Pico-euros."""
    ROWS = "rows"
    LINKS = "links"
    MISTAKES = "mistakes"


class Span(msgspec.Struct, frozen=True):
    """Where a number lies: what goes on meanwhile leaves it uncertain. Both ends included."""

    low: int
    high: int

    @classmethod
    def exactly(cls, number: int) -> "Span":
        """Return the span of one number."""
        return cls(number, number)

    def beyond(self, other: "Span") -> int:
        """Return how far this lies above (+) or below (-) another at least; 0: they have a number in common."""
        if self.low > other.high:
            return self.low - other.high
        return self.high - other.low if self.high < other.low else 0


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What a difference is in; empty: it is in none, or in all.

    Args:
        account: the account's name.
        account_id: its id.
        period: a month, a day, or since when.
        place: the table, limit, process, document or server.
        model: canonical id, or an engine's name for it.
        usage_type: as in ``UsageType``; of engines ``prompt`` and ``generation``.
        tariff_class: standard or batch.
        price_version: its id.
    """

    account: str = ""
    account_id: str = ""
    period: str = ""
    place: str = ""
    model: str = ""
    usage_type: str = ""
    tariff_class: str = ""
    price_version: str = ""


class Difference(msgspec.Struct, frozen=True):
    """One number that is not what the entries say.

    Args:
        subject: what it is in.
        unit: what it counts.
        expected: what the entries say.
        found: what was found.
        why: what may be the reason, or what to do.
    """

    subject: Subject
    unit: Unit
    expected: Span
    found: Span
    why: str = ""

    @property
    def drift(self) -> int:
        """How much more (+) or less (-) was found than the entries say, at least."""
        return self.found.beyond(self.expected)


class Threshold(msgspec.Struct, frozen=True):
    """Up to which difference nothing is said.

    Args:
        pico: of pico-euros.
        units: of tokens, minutes and calls. Rows, links and mistakes are always told.
    """

    pico: int = 0
    units: int = 0

    def is_above(self, difference: Difference) -> bool:
        """Whether a difference is larger."""
        most = {Unit.PICO: self.pico, Unit.UNITS: self.units, Unit.CALLS: self.units}.get(difference.unit, 0)
        return abs(difference.drift) > most


class Finding(msgspec.Struct, frozen=True):
    """What a comparison found.

    Args:
        source: what was compared.
        status: what it amounts to.
        rows: how many numbers or rows were compared.
        drifts: differences that are wrong.
        drifted: how many of them there are, described or not.
        unclear: differences that may have a good reason.
        notes: what was compared with what, what could not be, and why.
    """

    source: Source
    status: Status
    rows: int = 0
    drifts: tuple[Difference, ...] = ()
    drifted: int = 0
    unclear: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()


class Gathering:
    """Gathers what one comparison finds.

    Args:
        source: what is compared.
        threshold: up to which difference nothing is said.
    """

    def __init__(self, source: Source, threshold: Threshold) -> None:
        self._source = source
        self._threshold = threshold
        self._drifts: list[Difference] = []
        self._unclear: list[Difference] = []
        self._drifted = 0
        self.rows = 0
        self.notes: list[str] = []

    def compare(self, difference: Difference, *, unclear: bool = False) -> None:
        """Count a number that was compared, and keep it if it differs."""
        self.rows += 1
        self.keep(difference, unclear=unclear)

    def keep(self, difference: Difference, *, unclear: bool = False) -> None:
        """Keep a number that differs by more than the threshold."""
        if not self._threshold.is_above(difference):
            return
        kept = self._unclear if unclear else self._drifts
        if not unclear:
            self._drifted += 1
        if len(kept) < DRIFTS_KEPT_MAX:
            kept.append(difference)

    def finding(self) -> Finding:
        """Return what was found."""
        status = Status.DRIFTS if self._drifted else Status.UNCLEAR if self._unclear else Status.AGREES
        return Finding(
            self._source,
            status,
            self.rows,
            tuple(self._drifts),
            self._drifted,
            tuple(self._unclear),
            tuple(self.notes),
        )


def not_compared(source: Source, *reasons: str) -> Finding:
    """Return that a source could not be compared, and why."""
    return Finding(source, Status.NOT_COMPARED, notes=reasons)


def together(source: Source, findings: Sequence[Finding], notes: Iterable[str] = ()) -> Finding:
    """Return several comparisons of one source as one; not compared only where none was."""
    compared = [each for each in findings if each.status is not Status.NOT_COMPARED]
    order = (Status.DRIFTS, Status.UNCLEAR, Status.AGREES)
    status = next((each for each in order if each in {found.status for found in compared}), Status.NOT_COMPARED)
    return Finding(
        source,
        status,
        sum(each.rows for each in findings),
        tuple(drift for each in findings for drift in each.drifts),
        sum(each.drifted for each in findings),
        tuple(unclear for each in findings for unclear in each.unclear),
        (*notes, *(note for each in findings for note in each.notes)),
    )
