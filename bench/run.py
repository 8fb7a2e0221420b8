"""``make bench``: Tollgate with everything on against a bare passthrough, round by round on the same cores.

Each round measures the baseline and then Tollgate with the same load, so a noisy neighbour disturbs both; the
verdict is the median of the rounds' ratios. The exit code is 1 when a floor is not held or an answer was broken.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from bench.batch import BatchResult, measure_batch
from bench.ingest import IngestResult, measure_ingest
from bench.limiter import LimiterResult, measure_limiter
from bench.memory import BODY_BYTES, MemoryResult, measure_memory
from bench.processes import (
    Server,
    compile_tools,
    running,
    start_baseline,
    start_giant,
    start_redis,
    start_tollgate,
    start_upstream,
)
from bench.report import as_json, machine, markdown, write_batch_docs, write_docs, write_ingest_docs, write_limiter_docs
from bench.scenarios import SCENARIOS, Result, Scenario, measure

MEMORY = "memory"
"""Stands for all loads of bench/memory.py."""

LIMITER = "limiter"
"""Stands for all loads of bench/limiter.py."""

INGEST = "ingest"
"""Stands for all loads of bench/ingest.py."""

BATCH = "batch"
"""Stands for bench/batch.py."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement, after a warm-up")
    parser.add_argument("--quick", action="store_true", help="two rounds of 1.5 s: a look, not a measurement")
    parser.add_argument(
        "--only", choices=[*(scenario.name for scenario in SCENARIOS), MEMORY, LIMITER, INGEST, BATCH], help="one load"
    )
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    parser.add_argument("--write-docs", action="store_true", help="update docs/performance.md")
    parser.add_argument("--no-redis", action="store_true", help="limits in memory: what Redis costs is the difference")
    parser.add_argument("--self-test", action="store_true", help="baseline against itself: the ratios must be near 1")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 2, 1.5
    return arguments


def _measure_in_turn(
    scenario: Scenario, baseline: Server, tollgate: Server, key: str, arguments: argparse.Namespace
) -> Result:
    result = Result(scenario, [], [])
    seconds = arguments.seconds
    warmup = 1.5 if scenario.interval_us else 0.5  # paced: until every stream has begun
    for number in range(arguments.rounds):
        print(f"{scenario.name}: round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
        result.baseline.append(measure(scenario, baseline, "none", seconds, warmup))
        result.tollgate.append(measure(scenario, tollgate, key, seconds, warmup))
    return result


def _measure_loads(arguments: argparse.Namespace) -> list[Result]:
    if arguments.only in (MEMORY, LIMITER, INGEST, BATCH):
        return []
    with ExitStack() as stack:
        upstream = stack.enter_context(running(start_upstream()))
        baseline = stack.enter_context(running(start_baseline(upstream)))
        if arguments.self_test:
            tollgate, key = stack.enter_context(running(start_baseline(upstream, "baseline-2"))), "none"
        else:
            redis = None if arguments.no_redis else stack.enter_context(running(start_redis()))
            server, key = start_tollgate(upstream, redis)
            tollgate = stack.enter_context(running(server))
        return [
            _measure_in_turn(scenario, baseline, tollgate, key, arguments)
            for scenario in SCENARIOS
            if arguments.only in (None, scenario.name)
        ]


def _measure_memory(arguments: argparse.Namespace) -> list[MemoryResult]:
    """A proxy and an upstream of their own: what others have left in the memory is none of a large body's."""
    if arguments.self_test or arguments.only not in (None, MEMORY):
        return []
    print(f"{MEMORY}: {arguments.rounds} rounds", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        giant = stack.enter_context(running(start_giant(BODY_BYTES)))
        server, key = start_tollgate(giant, None, "tollgate-memory")
        return measure_memory(stack.enter_context(running(server)), key, arguments.rounds)


def _measure_limiter(arguments: argparse.Namespace) -> LimiterResult | None:
    if arguments.self_test or arguments.no_redis or arguments.only not in (None, LIMITER):
        return None
    print(f"{LIMITER}: {arguments.rounds} rounds", file=sys.stderr, flush=True)
    return measure_limiter(arguments.rounds, quick=arguments.quick)


def _measure_ingest(arguments: argparse.Namespace) -> IngestResult | None:
    if arguments.self_test or arguments.only not in (None, INGEST):
        return None
    print(f"{INGEST}: {arguments.rounds} rounds", file=sys.stderr, flush=True)
    return measure_ingest(arguments.rounds, *([20_000] if arguments.quick else []))


def _measure_batch(arguments: argparse.Namespace) -> BatchResult | None:
    """A proxy of its own: what a batch leaves in its ledger is none of the other loads'."""
    if arguments.self_test or arguments.only not in (None, BATCH):
        return None
    print(f"{BATCH}: {arguments.rounds} rounds", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        upstream = stack.enter_context(running(start_upstream()))
        redis = None if arguments.no_redis else stack.enter_context(running(start_redis()))
        server, key = start_tollgate(upstream, redis, "tollgate-batch")
        proxy = stack.enter_context(running(server))
        return measure_batch(proxy, key, arguments.rounds, arguments.seconds, *([10_000] if arguments.quick else []))


def main() -> int:
    """Run, report, judge."""
    arguments = _arguments()
    if arguments.only not in (LIMITER, INGEST):
        compile_tools()
    results, memory = _measure_loads(arguments), _measure_memory(arguments)
    limiter, ingest, batch = _measure_limiter(arguments), _measure_ingest(arguments), _measure_batch(arguments)
    print(f"\n{machine()}")
    if results or memory:
        print(f"\n{markdown(results, memory)}")
        if arguments.write_docs:
            write_docs(results, memory, arguments.rounds, arguments.seconds)
    problems = [problem for result in (*results, *memory) if (problem := result.problem())]
    for measured, write in ((limiter, write_limiter_docs), (ingest, write_ingest_docs), (batch, write_batch_docs)):
        if measured is not None:
            print(f"\n{measured.markdown()}")
            problems += measured.problems()
            if arguments.write_docs:
                write(measured.markdown(), arguments.rounds)
    if arguments.json:
        arguments.json.write_text(as_json(results, memory, limiter, ingest, batch))
    for problem in problems:
        print(f"not good enough: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
