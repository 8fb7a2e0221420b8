"""What ``tollgate simulate`` prints: a table for people, or a document for programs.

What belongs here: numbers as text. What does not: finding them (replay/).
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Column, Table

from proxy.core.calendar import zone
from proxy.core.limit_names import BUDGET_NAMES
from proxy.core.money import PICO_PER_NANO, euros_text
from proxy.replay.report import AccountReport, Peak, Simulation, Sums

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Asked(msgspec.Struct, frozen=True):
    """What was asked for, as it was typed; see the command's options."""

    tiers: Path | None
    prices: Path | None
    tier: str | None
    price_version: str | None
    cap: int | None
    retries: int


def simulation_document(simulation: Simulation, asked: Asked) -> dict[str, object]:
    """Return the documented JSON document: amounts of money are exact decimal strings."""
    return {
        "month": simulation.month,
        "tiers": None if asked.tiers is None else str(asked.tiers),
        "prices": None if asked.prices is None else str(asked.prices),
        "tier": asked.tier,
        "price_version": asked.price_version,
        "hold": "used" if asked.cap is None else f"cap={asked.cap}",
        "retries": asked.retries,
        "price_versions": simulation.price_versions,
        "totals": _sums_document(simulation.totals),
        "accounts": [_account_document(report) for report in simulation.accounts],
    }


def _account_document(report: AccountReport) -> dict[str, object]:
    at_ms = report.first_refused_ms
    return {
        "account": report.name,
        "id": report.account_id,
        "tiers": report.tiers,
        "proposed_tier": report.proposed_tier,
        **_sums_document(report.sums),
        "first_refusal": None if at_ms is None else _instant(at_ms, report.timezone).isoformat(timespec="milliseconds"),
        "worst": {name: _peak_document(name, peak) for name, peak in report.peaks.items()},
    }


def _sums_document(sums: Sums) -> dict[str, object]:
    return {
        "calls": sums.calls,
        "refused_calls": sums.refused_calls,
        "refused": sums.refused,
        "delayed_calls": sums.delayed,
        "shadow": sums.shadowed,
        "lost_output_tokens": sums.lost_tokens,
        "lost_eur": euros_text(sums.lost_pico),
        "charged_eur": euros_text(sums.charged_pico),
        "proposed_eur": euros_text(sums.proposed_pico),
        "difference_eur": euros_text(sums.difference_pico),
    }


def _peak_document(name: str, peak: Peak) -> dict[str, object]:
    amounts: tuple[int, int] | tuple[str, str] = (peak.amount, peak.capacity)
    if name in BUDGET_NAMES:
        amounts = (euros_text(peak.amount * PICO_PER_NANO), euros_text(peak.capacity * PICO_PER_NANO))
    return {"used": amounts[0], "limit": amounts[1], "percent": _percent(peak)}


def print_simulation(console: Console, simulation: Simulation, asked: Asked, rows: int) -> None:
    """Print the table, the accounts that matter most first, and under what assumptions it was made."""
    right = [Column(name, justify="right") for name in ("calls", "refused")]
    euros = [Column(name, justify="right") for name in ("charged €", "proposed €", "difference €")]
    table = Table(
        "account", "tier", *right, "first refusal", "worst use", *euros, title=simulation.month, show_footer=True
    )
    shown = simulation.accounts[: rows or None]
    for report in shown:
        table.add_row(*_row(report))
    totals = simulation.totals
    footers = ["total", "", f"{totals.calls:,}", _refused_text(totals), "", "", *_euros(totals)]
    for column, footer in zip(table.columns, footers, strict=True):
        column.footer = footer
    console.print(table)
    if len(shown) < len(simulation.accounts):
        console.print(f"and {len(simulation.accounts) - len(shown)} more accounts (--rows 0 shows all)")
    for line in _notes(simulation, asked):
        console.print(line, highlight=False, markup=False)


def _row(report: AccountReport) -> tuple[str, ...]:
    sums, at_ms = report.sums, report.first_refused_ms
    tier = ", ".join(report.tiers)
    if report.proposed_tier is not None:
        tier += f" → {report.proposed_tier}"
    first = "" if at_ms is None else _instant(at_ms, report.timezone).isoformat(sep=" ", timespec="seconds")
    worst = "\n".join(f"{name} {_percent(peak)} %" for name, peak in report.peaks.items())
    return report.name, tier, f"{sums.calls:,}", _refused_text(sums), first, worst, *_euros(sums)


def _refused_text(sums: Sums) -> str:
    lines = [f"{sums.refused_calls:,}"]
    lines += [f"{name} {count:,}" for name, count in sums.refused.items()]
    lines += [f"delayed {sums.delayed:,}"] if sums.delayed else []
    lines += [f"{name} in shadow {count:,}" for name, count in sums.shadowed.items()]
    return "\n".join(lines)


def _euros(sums: Sums) -> tuple[str, str, str]:
    sign = "+" if sums.difference_pico > 0 else ""
    return euros_text(sums.charged_pico), euros_text(sums.proposed_pico), f"{sign}{euros_text(sums.difference_pico)}"


def _notes(simulation: Simulation, asked: Asked) -> list[str]:
    totals = simulation.totals
    hold = "what it used" if asked.cap is None else f"{asked.cap:,} output tokens, or what it used if that was more"
    again = f"comes again {asked.retries} times at most" if asked.retries else "does not come again"
    notes = [f"Price versions: {', '.join(simulation.price_versions) or 'none'}."]
    if totals.refused_calls:
        notes.append(f"Refused calls: {totals.lost_tokens:,} output tokens, {euros_text(totals.lost_pico)} €.")
    notes.append(f"Each call holds {hold}; a refused one {again}. Nothing was written. See docs/simulate.md.")
    return notes


def _percent(peak: Peak) -> str:
    whole, tenths = divmod(peak.permille, 10)
    return f"{whole}.{tenths}"


def _instant(at_ms: int, timezone: str) -> datetime:
    return (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(zone(timezone))
