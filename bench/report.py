"""How results are shown: a table, JSON, and a section of docs/performance.md."""

import datetime as dt
import json
import os
import platform
import re
import sys
from pathlib import Path

from bench.batch import BatchResult
from bench.ingest import IngestResult
from bench.limiter import LimiterResult
from bench.memory import MemoryResult
from bench.processes import PINNED, ROOT
from bench.scenarios import Result

_DOCS = ROOT / "docs" / "performance.md"
_COLUMNS = ("load", "figure", "baseline", "tollgate", "ratio", "floor")


def machine(*, is_pinned: bool = PINNED) -> str:
    """Say what this ran on."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    name = found[1].strip() if found else platform.machine()
    cores = os.cpu_count() or 1
    pin = "proxy under test on core 0, everything else on core 1" if is_pinned else "nothing pinned"
    return f"{name}, {cores} cores ({pin}), Linux {platform.release()}, Python {platform.python_version()}"


def rows(result: Result) -> list[tuple[str, ...]]:
    """Return the table rows of a scenario: the judged figure first."""
    scenario = result.scenario
    floor = f">= {scenario.floor_ratio}x" if scenario.floor_ratio else ""
    if scenario.ceiling_ms:
        floor = f"< {scenario.ceiling_ms} ms"
    latency = "call_ms" if scenario.unit == "calls" else "chunk_ms"
    figures = [
        (f"{scenario.unit}/s", f"{scenario.unit}_per_s", "{:,.0f}"),
        ("p50 ms", f"{latency}.p50", "{:,.2f}"),
        ("p95 ms", f"{latency}.p95", "{:,.2f}"),
        ("p99 ms", f"{latency}.p99", "{:,.2f}"),
        (f"CPU us a {scenario.unit[:-1]}", "cpu_us", "{:,.2f}"),
        ("of it the event loop", "loop_us", "{:,.2f}"),
    ]
    if scenario.deltas:
        figures.insert(4, ("first delta p50 ms", "first_ms.p50", "{:,.2f}"))
    return [
        (
            scenario.title if index == 0 else "",
            label,
            form.format(result.median("baseline", path)),
            form.format(result.median("tollgate", path)),
            f"{result.ratio(path):.2f}x",
            floor if path == scenario.judged_by else "",
        )
        for index, (label, path, form) in enumerate(figures)
    ]


def markdown(results: list[Result], memory: list[MemoryResult]) -> str:
    """Return the table as Markdown, aligned for reading in a terminal too."""
    table = [_COLUMNS, *(row for result in results for row in rows(result))]
    table += [row for result in memory for row in result.rows()]
    widths = [max(len(row[column]) for row in table) for column in range(len(_COLUMNS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def as_json(
    results: list[Result],
    memory: list[MemoryResult],
    limiter: LimiterResult | None,
    ingest: IngestResult | None,
    batch: BatchResult | None,
) -> str:
    """Return everything that was measured."""
    body = {
        "date": _today(),
        "machine": machine(),
        "results": [
            {
                "scenario": result.scenario.name,
                "ratio": result.ratio(result.scenario.judged_by),
                "cpu_ratio": result.ratio("cpu_us"),
                "problem": result.problem(),
                "baseline": result.baseline,
                "tollgate": result.tollgate,
            }
            for result in results
        ],
        "memory": [result.as_dict() for result in memory],
        "limiter": limiter.as_dict() if limiter is not None else None,
        "ingest": ingest.as_dict() if ingest is not None else None,
        "batch": batch.as_dict() if batch is not None else None,
    }
    return json.dumps(body, indent=1)


def write_docs(results: list[Result], memory: list[MemoryResult], rounds: int, seconds: float) -> None:
    """Replace the measured section of docs/performance.md."""
    how = f"medians of {rounds} rounds of {seconds:g} s, baseline and Tollgate in turn."
    _replace("bench", f"{how}\n{machine()}", markdown(results, memory))


def write_limiter_docs(table: str, rounds: int) -> None:
    """Replace what docs/performance.md says of the limiter."""
    _replace("limiter", f"the best of {rounds} rounds.\n{machine(is_pinned=False)}", table)


def write_ingest_docs(table: str, rounds: int) -> None:
    """Replace what docs/performance.md says of the ledger."""
    _replace("ingest", f"{rounds} rounds.\n{machine(is_pinned=False)}", table)


def write_batch_docs(table: str, rounds: int) -> None:
    """Replace what docs/performance.md says of batches."""
    _replace("batch", f"medians of {rounds} rounds.\n{machine()}", table)


def _replace(name: str, how: str, table: str) -> None:
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = _DOCS.read_text()
    said = f"{_today()}, `python -m bench.run {' '.join(sys.argv[1:])}`: {how}."
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{_DOCS.name} has lost its markers {begin} and {end}")
    _DOCS.write_text(f"{before}{begin}\n{said}\n\n{table}\n{end}{after}")


def _today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()
