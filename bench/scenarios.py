"""What is measured: three loads, the figure that each is judged by, and the floor under it."""

import json
import statistics
import subprocess
from dataclasses import dataclass
from typing import Any

from bench.processes import OTHER_CORE, WORK, Server, pinned

Run = dict[str, Any]
"""One measurement: the client's JSON line, and the processor seconds of the proxy under test."""


@dataclass(frozen=True)
class Scenario:
    """A load.

    Args:
        name: as the report calls it.
        title: what it does, for readers.
        connections: calls in flight.
        deltas: of each stream; 0: plain calls.
        interval_us: between two deltas of a stream; 0: a burst.
        unit: what is counted: calls or chunks.
        judged_by: field of the client's line that is reported; a dotted path.
        floor_ratio: least ratio of Tollgate's figure to the baseline's; None: not judged by ratio.
        usage: "final": the upstream sends usage at the end only, as most engines do; None: as vLLM, in every chunk for
            whoever asks for it, as Tollgate does, so that a stream that breaks off is metered to the token.
        ceiling_ms: judged by Tollgate's own figure instead, in milliseconds.
    """

    name: str
    title: str
    connections: int
    deltas: int
    interval_us: int
    unit: str
    judged_by: str
    floor_ratio: float | None = None
    ceiling_ms: float | None = None
    usage: str | None = None


SCENARIOS = (
    Scenario("plain", "plain calls, 64 connections", 64, 0, 0, "calls", "calls_per_s", floor_ratio=1.2),
    Scenario(
        "burst",
        "streams of 1,000 deltas at once, 32 connections",
        32,
        1000,
        0,
        "chunks",
        "chunks_per_s",
        floor_ratio=1.5,
        usage="final",
    ),
    Scenario(
        "burst-vllm",
        "the same, with usage in every chunk for Tollgate, which cuts it out again",
        32,
        1000,
        0,
        "chunks",
        "chunks_per_s",
    ),
    Scenario(
        "paced",
        "400 streams of 50 tokens/s, added latency",
        400,
        100,
        20_000,
        "chunks",
        "chunk_ms.p50",
        ceiling_ms=2.0,
    ),
)


def measure(
    scenario: Scenario, proxy: Server, token: str, seconds: float, warmup_seconds: float, *, wait: bool = True
) -> Run:
    """Load a proxy once, and wait until it has finished what the load left it to do (or not, where it has more to do).

    Processor seconds cover the warm-up and the work after the load; the counts they are divided by, the warm-up too.
    """
    words = [WORK / "client", "127.0.0.1", proxy.port, token, scenario.connections, seconds, warmup_seconds]
    words += [scenario.deltas, scenario.interval_us, *([scenario.usage] if scenario.usage else [])]
    command = [*pinned(OTHER_CORE), *map(str, words)]
    before, loop_before = proxy.cpu_seconds(), proxy.loop_seconds()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"client failed against {proxy.name}: {done.stderr}\n{proxy.log_tail()}")
    run: Run = json.loads(done.stdout)
    run["afterwards_s"] = proxy.wait_until_idle() if wait else 0.0
    counted = run[scenario.unit] * (seconds + warmup_seconds) / seconds
    run["cpu_us"] = (proxy.cpu_seconds() - before) * 1e6 / counted if counted else float("inf")
    run["loop_us"] = (proxy.loop_seconds() - loop_before) * 1e6 / counted if counted else float("inf")
    return run


def figure(run: Run, path: str) -> float:
    """Return the number at a dotted path."""
    value: Any = run
    for name in path.split("."):
        value = value[name]
    return float(value)


@dataclass(frozen=True)
class Result:
    """A scenario after all rounds: the runs of both proxies, pairwise."""

    scenario: Scenario
    baseline: list[Run]
    tollgate: list[Run]

    def median(self, who: str, path: str) -> float:
        """Return the median figure of one proxy."""
        return statistics.median(figure(run, path) for run in getattr(self, who))

    def ratio(self, path: str) -> float:
        """Return the median of each round's ratio, tollgate to baseline: neighbours disturb both alike."""
        pairs = zip(self.tollgate, self.baseline, strict=True)
        return statistics.median(figure(a, path) / max(figure(b, path), 1e-9) for a, b in pairs)

    def failed(self) -> int:
        """Return how many of Tollgate's answers were not whole 200s."""
        return sum(run["errors"] + run["not_200"] for run in self.tollgate)

    def problem(self) -> str | None:
        """Say what is not good enough, or None."""
        scenario, ratio = self.scenario, self.ratio(self.scenario.judged_by)
        own = self.median("tollgate", scenario.judged_by)
        if self.failed():
            return f"{scenario.name}: {self.failed()} answers were broken or refused"
        if scenario.floor_ratio is not None and ratio < scenario.floor_ratio:
            return f"{scenario.name}: {ratio:.2f}x is under {scenario.floor_ratio}x"
        if scenario.ceiling_ms is not None and own >= scenario.ceiling_ms:
            return f"{scenario.name}: {own:.2f} ms is not under {scenario.ceiling_ms} ms"
        return None
