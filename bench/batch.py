"""What a batch costs: lines a second beside calls a second of the same proxy on the same core, and its memory.

Each round sends plain calls on 64 connections, as the plain load does, then a batch of the same requests against the
same upstream. A batch's rate is of all its lines, from where its file has been checked to where its files can be
downloaded: that its results and entries are kept and put together is part of it. Then both at once: a few calls, one
after the other on each connection, alone and while a batch runs.
"""

import json
import statistics
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from bench.memory import Peak
from bench.processes import Server
from bench.scenarios import SCENARIOS, Scenario, measure

LINES = 50_000
FLOOR = 0.8
"""Least ratio of lines a second to calls a second."""
CEILING_MB = 48.0
"""What a batch may cost above none, in MB, however many lines it has."""
SLOWER_MAX = 2.0
"""Most that the median of a call on four connections may be while a batch runs, in times what it is alone."""
_LOOK_S = 0.25  # an account may look five times a second
_SECONDS_MAX = 600.0
_FEW = Scenario("few", "calls on 4 connections", 4, 0, 0, "calls", "call_ms.p50")
_BOUNDARY = "bench-boundary"


@dataclass(frozen=True)
class BatchRun:
    """One batch.

    Args:
        lines: how many it had.
        seconds: from ``in_progress`` to ``completed``.
        running_seconds: of these, until the last line had ended.
        cpu_us: processor time for a line, with all that is done for it.
        grown_mb: the most memory it needed beyond what there was before.
    """

    lines: int
    seconds: float
    running_seconds: float
    cpu_us: float
    grown_mb: float

    @property
    def lines_per_s(self) -> float:
        """Its rate."""
        return self.lines / self.seconds


@dataclass(frozen=True)
class BatchResult:
    """All rounds.

    Args:
        calls: the plain calls of each round: the client's line.
        batches: the batch of each round.
        alone: few calls, while nothing else runs.
        beside: few calls, while a batch runs.
    """

    calls: list[dict[str, Any]] = field(default_factory=list)
    batches: list[BatchRun] = field(default_factory=list)
    alone: list[dict[str, Any]] = field(default_factory=list)
    beside: list[dict[str, Any]] = field(default_factory=list)

    def ratio(self) -> float:
        """Return the median of the rounds' ratios."""
        pairs = zip(self.batches, self.calls, strict=True)
        return statistics.median(run.lines_per_s / calls["calls_per_s"] for run, calls in pairs)

    def grown_mb(self) -> float:
        """Return the memory of the worst round."""
        return max(run.grown_mb for run in self.batches)

    def slower(self) -> float:
        """Return the median of the rounds' ratios of a call's time, beside a batch to alone."""
        pairs = zip(self.beside, self.alone, strict=True)
        return statistics.median(beside["call_ms"]["p50"] / alone["call_ms"]["p50"] for beside, alone in pairs)

    def problems(self) -> list[str]:
        """Say what is not good enough."""
        problems = []
        if (broken := sum(run["errors"] + run["not_200"] for run in (*self.calls, *self.alone, *self.beside))) > 0:
            problems.append(f"batch: {broken} calls were broken or refused")
        if self.ratio() < FLOOR:
            problems.append(f"batch: {self.ratio():.2f}x the rate of calls is under {FLOOR}x")
        if self.slower() > SLOWER_MAX:
            problems.append(f"batch: a call beside it takes {self.slower():.2f}x its time, over {SLOWER_MAX}x")
        if self.grown_mb() >= CEILING_MB:
            problems.append(f"batch: {self.grown_mb():.1f} MB of memory is not under {CEILING_MB:g} MB")
        return problems

    def markdown(self) -> str:
        """Return what was measured as a table."""

        def middle(runs: list[dict[str, Any]], figure: str) -> float:
            return statistics.median(run["call_ms"][figure] for run in runs)

        calls = statistics.median(run["calls_per_s"] for run in self.calls)
        lines = statistics.median(run.lines_per_s for run in self.batches)
        running = statistics.median(run.lines / run.running_seconds for run in self.batches)
        calls_cpu = statistics.median(run["cpu_us"] for run in self.calls)
        lines_cpu = statistics.median(run.cpu_us for run in self.batches)
        rows = [
            ("figure", "calls", "a batch", "ratio", "held to"),
            ("---",) * 5,
            ("a second", f"{calls:,.0f}", f"{lines:,.0f}", f"{self.ratio():.2f}x", f">= {FLOOR}x"),
            ("while lines run", "", f"{running:,.0f}", f"{running / calls:.2f}x", ""),
            ("CPU us each", f"{calls_cpu:,.0f}", f"{lines_cpu:,.0f}", f"{lines_cpu / calls_cpu:.2f}x", ""),
            ("peak memory, MB", "", f"+{self.grown_mb():,.1f}", "", f"< {CEILING_MB:g} MB"),
        ]
        for name, ratio, held in (("p50", f"{self.slower():.2f}x", f"<= {SLOWER_MAX}x"), ("p99", "", "")):
            alone, beside = middle(self.alone, name), middle(self.beside, name)
            rows.append((f"a call, {name} ms: alone, beside a batch", f"{alone:.2f}", f"{beside:.2f}", ratio, held))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def as_dict(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return {
            "scenario": "batch",
            "problems": self.problems(),
            "calls": self.calls,
            "batches": [vars(run) | {"lines_per_s": run.lines_per_s} for run in self.batches],
            "alone": self.alone,
            "beside": self.beside,
        }


def measure_batch(proxy: Server, key: str, rounds: int, seconds: float, lines: int = LINES) -> BatchResult:
    """Measure some rounds, after one small batch and some calls to warm up."""
    customer = _Customer(proxy, key)
    plain = next(scenario for scenario in SCENARIOS if scenario.name == "plain")
    customer.run(2000)
    measure(plain, proxy, key, 1.0, 0.5)
    result = BatchResult()
    for _ in range(rounds):
        result.calls.append(measure(plain, proxy, key, seconds, 0.5))
        result.batches.append(customer.run(lines))
        result.alone.append(measure(_FEW, proxy, key, seconds, 0.5))
        batch = customer.create(lines)
        customer.until(batch, "in_progress")
        result.beside.append(measure(_FEW, proxy, key, seconds, 0.5, wait=False))
        customer.cancel(batch)
        proxy.wait_until_idle()
    return result


class _Customer:
    """Asks for batches."""

    def __init__(self, proxy: Server, key: str) -> None:
        self._proxy = proxy
        self._key = key

    def run(self, lines: int) -> BatchRun:
        """Run a batch to its end."""
        self._proxy.wait_until_idle()
        peak, used_s = Peak(self._proxy.pid), self._proxy.cpu_seconds()
        batch = self.create(lines)
        began_s = self.until(batch, "in_progress")
        ran_s = self.until(batch, "finalizing", "completed")
        ended_s = self.until(batch, "completed")
        self._proxy.wait_until_idle()
        cpu_us = (self._proxy.cpu_seconds() - used_s) * 1e6 / lines
        counts = self._ask("GET", f"/v1/batches/{batch}")["request_counts"]
        if counts != {"total": lines, "completed": lines, "failed": 0}:
            raise SystemExit(f"a batch of {lines:,} lines ended as {counts}\n{self._proxy.log_tail()}")
        return BatchRun(lines, ended_s - began_s, ran_s - began_s, cpu_us, peak.grown_mb())

    def create(self, lines: int) -> str:
        """Upload requests like those of the plain load, and create their batch."""
        file_id = self._upload(b"".join(map(_line, range(lines))))["id"]
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return str(self._ask("POST", "/v1/batches", json.dumps(body).encode())["id"])

    def cancel(self, batch: str) -> None:
        """Cancel a batch, and wait until that is done."""
        if self._ask("GET", f"/v1/batches/{batch}")["status"] != "completed":
            self._ask("POST", f"/v1/batches/{batch}/cancel", b"{}")
            self.until(batch, "cancelled", "completed")

    def until(self, batch: str, *statuses: str) -> float:
        """Wait until a batch has got to a status, or beyond it; return when that was seen, in monotonic seconds."""
        deadline = time.monotonic() + _SECONDS_MAX
        while time.monotonic() < deadline:
            shown = self._ask("GET", f"/v1/batches/{batch}")
            seen_s = time.monotonic()
            if shown["status"] == "failed":
                raise SystemExit(f"a batch was refused: {shown['errors']}")
            if any(shown[f"{status}_at"] for status in statuses):
                return seen_s
            time.sleep(_LOOK_S)
        raise SystemExit(f"a batch did not get to {statuses[0]}: {shown}\n{self._proxy.log_tail()}")

    def _upload(self, data: bytes) -> dict[str, Any]:
        parts = [
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'.encode(),
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'.encode(),
            data,
            f"\r\n--{_BOUNDARY}--\r\n".encode(),
        ]
        return self._ask("POST", "/v1/files", b"".join(parts), f"multipart/form-data; boundary={_BOUNDARY}")

    def _ask(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": content_type}
        url = f"http://127.0.0.1:{self._proxy.port}{path}"
        request = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            shown: dict[str, Any] = json.load(answer)
            return shown


def _line(number: int) -> bytes:
    body = {
        "model": "gpt-oss:120b",
        "messages": [{"role": "user", "content": "How do plants grow?"}],
        "max_tokens": 100,
        "temperature": 0.7,
    }
    line = {"custom_id": f"r-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"
