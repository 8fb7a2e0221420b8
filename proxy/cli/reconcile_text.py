"""What ``tollgate reconcile`` prints: tables for people, or a document for programs.

What belongs here: numbers as text. What does not: finding them (reconciling/).
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from proxy.cli.ledger_session import time_text
from proxy.core.money import euros_text
from proxy.reconciling.findings import Difference, Finding, Source, Span, Status, Unit
from proxy.reconciling.repairing import Repaired

_STYLES: Final = {
    Status.AGREES: "green",
    Status.DRIFTS: "bold red",
    Status.UNCLEAR: "yellow",
    Status.NOT_COMPARED: "yellow",
}


class Outcome(msgspec.Struct, frozen=True):
    """What the command found and did.

    Args:
        findings: of each source.
        repaired: what was put right before; None: nothing was to be.
        by: who ran it.
        at_ms: when, Unix milliseconds.
    """

    findings: tuple[Finding, ...]
    repaired: tuple[Repaired, ...] | None
    by: str
    at_ms: int


def outcome_document(outcome: Outcome, *, sound: bool) -> dict[str, object]:
    """Return the documented JSON document: amounts of money are exact decimal strings."""
    return {
        "sound": sound,
        "by": outcome.by,
        "at": time_text(outcome.at_ms),
        "sources": [_finding_document(finding) for finding in outcome.findings],
        "repaired": None if outcome.repaired is None else [_repaired_document(each) for each in outcome.repaired],
    }


def _finding_document(finding: Finding) -> dict[str, object]:
    return {
        "source": finding.source.value,
        "status": finding.status.value,
        "rows": finding.rows,
        "drifted": finding.drifted,
        "drifts": [_difference_document(each) for each in finding.drifts],
        "unclear": [_difference_document(each) for each in finding.unclear],
        "notes": finding.notes,
    }


def _difference_document(difference: Difference) -> dict[str, object]:
    subject = {name: text for name, text in msgspec.structs.asdict(difference.subject).items() if text}
    return {
        **subject,
        "unit": difference.unit.value,
        "expected": _span_document(difference.expected, difference.unit),
        "found": _span_document(difference.found, difference.unit),
        "drift": _number(difference.drift, difference.unit),
        "why": difference.why,
    }


def _span_document(span: Span, unit: Unit) -> list[int | str]:
    return [_number(span.low, unit), _number(span.high, unit)]


def _number(number: int, unit: Unit) -> int | str:
    return euros_text(number) if unit is Unit.PICO else number


def _repaired_document(repaired: Repaired) -> dict[str, str]:
    return {
        "source": repaired.source.value,
        "account": repaired.account,
        "period": repaired.period,
        "what": repaired.what,
    }


def print_outcome(console: Console, outcome: Outcome, rows: int) -> None:
    """Print what differs, and a line for each source; what was put right has been printed as it was done."""
    if outcome.repaired is not None and not outcome.repaired:
        console.print("There was nothing to put right.")
    drifts = [(finding, each) for finding in outcome.findings for each in finding.drifts]
    unclear = [(finding, each) for finding in outcome.findings for each in finding.unclear]
    _print_differences(console, "drift", drifts, rows)
    _print_differences(console, "unclear", unclear, rows)
    table = Table(Column("source"), Column("outcome"), Column("compared", justify="right"), "what")
    for finding in outcome.findings:
        status = Text(finding.status.value, _STYLES[finding.status])
        if finding.drifted:
            status.append(f" ({finding.drifted:,})")
        table.add_row(finding.source.value, status, f"{finding.rows:,}", Text("\n".join(finding.notes)))
    console.print(table)
    line = f"Run by {outcome.by} at {time_text(outcome.at_ms)}. See docs/reconcile.md."
    console.print(line, highlight=False, markup=False)


def repaired_text(repaired: Repaired) -> str:
    """Return a line about what was put right."""
    words = ("put right:", repaired.source.value, repaired.account, repaired.period, repaired.what)
    return " ".join(word for word in words if word)


def _print_differences(
    console: Console, title: str, differences: Sequence[tuple[Finding, Difference]], rows: int
) -> None:
    if not differences:
        return
    names = [Column(name, overflow="fold") for name in ("account", "what")]
    numbers = [Column(name, justify="right", no_wrap=True) for name in ("entries say\nfound", "drift")]
    table = Table(*names, *numbers, title=title, show_lines=True)
    for finding, each in differences[: rows or None]:
        table.add_row(*map(Text, _cells(finding.source, each)))
    console.print(table)
    if rows and len(differences) > rows:
        console.print(f"and {len(differences) - rows:,} more (--rows 0 shows all)")


def _cells(source: Source, difference: Difference) -> tuple[str, ...]:
    """Return the cells of a row: several lines each, so that a narrow terminal cuts nothing."""
    subject, unit = difference.subject, difference.unit
    drift = difference.drift
    sign = "+" if drift > 0 else ""
    where = f"{source.value}: {subject.place}" if subject.place else source.value
    item = ", ".join(part for part in (subject.usage_type, subject.tariff_class, subject.price_version) if part)
    return (
        _lines(subject.account, subject.period),
        _lines(where, subject.model, item, difference.why),
        _lines(_span_text(difference.expected, unit), _span_text(difference.found, unit)),
        f"{sign}{_number_text(drift, unit)}",
    )


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def _span_text(span: Span, unit: Unit) -> str:
    low, high = _number_text(span.low, unit), _number_text(span.high, unit)
    return low if span.low == span.high else f"{low} – {high}"


def _number_text(number: int, unit: Unit) -> str:
    return f"{euros_text(number)} €" if unit is Unit.PICO else f"{number:,} {unit.value}"
