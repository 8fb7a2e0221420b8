"""Holds the ledger against the counters of a real vLLM, to the token.

Usage: campaign.py [--direct] [--write-docs] (run.sh installs the engine first). Exits 1 on any mismatch.

Each phase lies between two moments at which the engine is idle, so that the difference of its /metrics is what the
phase cost: calls that finish; calls with several choices (the engine's prompt counter takes the prompt once for
each); streams that their clients leave, many at once and then one by one, which bounds each of them alone; and calls
without a stream whose clients leave, which run to their end. Random choices come from a seed.
"""

import argparse
import asyncio
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from random import Random

import httpx
from calls import (
    COMPLETED,
    FINISHED,
    LEFT,
    LEFT_ALONE,
    LEFT_WAITING,
    SEVERAL_CHOICES,
    TEXT_CHOICES,
    Kind,
    Outcome,
    call,
)
from openai import AsyncOpenAI
from other_phases import OtherPhase, run_others, table
from processes import PROJECT, ROOT, CampaignError, Engine, Gateway, Ledger, running_engine, running_gateway
from report import (
    SEEN_TO_GENERATED,
    Check,
    Phase,
    Row,
    client_checks,
    finished_checks,
    kinds_table,
    left_checks,
    price_checks,
    shown_usage,
    summary_table,
    waiting_checks,
    within,
    write_docs,
)

SETTLE_S = 30.0
COMMANDS = 3  # of the gateway's command line, at once
WAITING_CALLS = 8


class Direct:
    """The books when there is no gateway: what clients were shown stands in for the ledger."""

    headers = False

    def __init__(self, engine: Engine) -> None:
        self.base_url = engine.base_url

    async def open(self, kinds: Iterable[Kind]) -> None:
        """Nothing to open."""

    def key(self, kind: Kind) -> str:
        """Any key will do."""
        return "unused"

    async def settled(self, kind: Kind, outcomes: list[Outcome]) -> Ledger:
        """The sum of what was shown."""
        return shown_usage(outcomes)


class Through:
    """The books of a gateway: one account for each kind of call."""

    headers = True

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.base_url = gateway.base_url
        self.keys: dict[str, str] = {}

    async def open(self, kinds: Iterable[Kind]) -> None:
        """Create the accounts."""
        names = [kind.name for kind in kinds]
        at_once = asyncio.Semaphore(COMMANDS)

        async def one(name: str) -> str:
            async with at_once:
                return await asyncio.to_thread(self.gateway.open_account, name)

        self.keys.update(zip(names, await asyncio.gather(*map(one, names)), strict=True))

    def key(self, kind: Kind) -> str:
        """The key of the kind's account."""
        return self.keys[kind.name]

    async def settled(self, kind: Kind, outcomes: list[Outcome]) -> Ledger:
        """What the ledger holds once all those calls have reached it."""
        return await self.gateway.settled(kind.name, len(outcomes), SETTLE_S)


class Campaign:
    """The phases, run one after the other."""

    def __init__(self, engine: Engine, books: Direct | Through, options: argparse.Namespace) -> None:
        self.engine = engine
        self.books = books
        self.random = Random(options.seed)
        self.concurrency = asyncio.Semaphore(options.concurrency)
        self.http = httpx.AsyncClient(limits=httpx.Limits(max_connections=64), timeout=180.0)

    def client(self, kind: Kind) -> AsyncOpenAI:
        """The SDK as a customer sets it up, but without retries, which would be calls that nobody counted."""
        url, key = f"{self.books.base_url}/v1", self.books.key(kind)
        return AsyncOpenAI(base_url=url, api_key=key, max_retries=0, http_client=self.http)

    def plan(self, kinds: Iterable[Kind], count: int) -> list[Kind]:
        """About that many calls, each kind at least once and by its weight, in random order."""
        weighted = [kind for kind in kinds for _ in range(kind.weight)]
        plan = (weighted * (count // len(weighted) + 1))[: max(count, len(weighted))]
        self.random.shuffle(plan)
        return plan

    async def one(self, kind: Kind, body: dict, leave_after: int | None) -> Outcome:
        """One call, when its turn comes."""
        async with self.concurrency:
            return await call(self.client(kind), kind, body, headers=self.books.headers, leave_after=leave_after)

    async def rows(self, outcomes: list[Outcome]) -> list[Row]:
        """The outcomes by kind, with what the books hold of each."""
        by_kind: dict[str, list[Outcome]] = {}
        for outcome in sorted(outcomes, key=lambda outcome: outcome.kind.name):
            by_kind.setdefault(outcome.kind.name, []).append(outcome)
        at_once = asyncio.Semaphore(COMMANDS)

        async def row(own: list[Outcome]) -> Row:
            async with at_once:
                return Row(own[0].kind, own, await self.books.settled(own[0].kind, own))

        return await asyncio.gather(*map(row, by_kind.values()))

    async def phase(self, title: str, plan: list[Kind], *, leave: bool = False) -> Phase:
        """Make the planned calls, as many at a time as allowed."""
        before = await self.engine.idle()
        bodies = [kind.body(self.random) for kind in plan]
        leave_after = [self.random.randint(1, 200) if leave else None for _ in plan]
        outcomes = await asyncio.gather(*map(self.one, plan, bodies, leave_after))
        after = await self.engine.idle()
        return Phase(title, await self.rows(outcomes), after.since(before))

    async def left_alone(self, title: str, count: int) -> tuple[Phase, list[Check]]:
        """Leave streams one by one: the engine's counters and the ledger then speak of a single call."""
        kind, outcomes, checks = LEFT_ALONE, [], []
        readings = [await self.engine.idle()]
        held = [Ledger(0, 0, 0, 0, 0, "")]
        for number in range(count):
            leave_after = 1 if number == 0 else self.random.randint(1, 400)
            outcomes.append(await self.one(kind, kind.body(self.random), leave_after))
            readings.append(await self.engine.idle())
            held.append(await self.books.settled(kind, outcomes))
        for outcome, engines, ledgers in zip(outcomes, pairwise(readings), pairwise(held), strict=True):
            generated = engines[1].since(engines[0]).generated
            billed = ledgers[1].generated - ledgers[0].generated
            checks.append(within(title, f"one stream, {SEEN_TO_GENERATED}", outcome.seen, billed, generated))
        return Phase(title, [Row(kind, outcomes, held[-1])], readings[-1].since(readings[0])), checks

    async def left_waiting(self, title: str) -> Phase:
        """Leave calls without a stream while the engine works on all of them."""
        kind, before = LEFT_WAITING, await self.engine.idle()
        bodies = [kind.body(self.random) for _ in range(WAITING_CALLS)]
        tasks = [asyncio.create_task(self.client(kind).chat.completions.create(**body)) for body in bodies]
        await self.engine.busy(len(tasks))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        after = await self.engine.idle()
        outcomes = [Outcome(kind, body["max_tokens"]) for body in bodies]
        return Phase(title, await self.rows(outcomes), after.since(before))

    async def direct(self, options: argparse.Namespace) -> tuple[list[Phase], list[Check]]:
        """The engine against itself, where it shows usage; of streams that are left it shows none."""
        shown = [kind for kind in FINISHED if kind.usage], [kind for kind in SEVERAL_CHOICES if kind.usage]
        finish = await self.phase("finish", self.plan(shown[0], options.calls))
        several = await self.phase("have several choices", self.plan(shown[1], options.calls // 10))
        left = await self.phase("are left in mid-stream", self.plan(LEFT, options.left), leave=True)
        stopped = within(left.title, "seen, generated, asked", left.seen, left.engine.generated, left.asked)
        checks = [*finished_checks(finish), *finished_checks(several), *client_checks(left), stopped]
        return [finish, several, left], checks

    async def through(self, options: argparse.Namespace) -> tuple[list[Phase], list[Check]]:
        """Everything, through the gateway."""
        several_kinds = [*SEVERAL_CHOICES, *TEXT_CHOICES]
        await self.books.open([*FINISHED, *COMPLETED, *several_kinds, *LEFT, LEFT_ALONE, LEFT_WAITING])
        finish = await self.phase("finish", self.plan(FINISHED, options.calls))
        texts = await self.phase("complete texts", self.plan(COMPLETED, options.calls // 5))
        several = await self.phase("have several choices", self.plan(several_kinds, options.calls // 10))
        left = await self.phase("are left in mid-stream", self.plan(LEFT, options.left), leave=True)
        alone, one_by_one = await self.left_alone("are left in mid-stream, one by one", options.left // 4)
        waiting = await self.left_waiting("are left without a stream")
        checks = [
            *(*finished_checks(finish), *finished_checks(texts), *finished_checks(several)),
            *(*left_checks(left), *left_checks(alone), *one_by_one),
            *waiting_checks(waiting),
        ]
        phases = [finish, texts, several, left, alone, waiting]
        return phases, [*checks, *(check for phase in phases for check in price_checks(phase))]


def final_checks(phases: list[Phase], gateway: Gateway) -> Iterable[Check]:
    """With the gateway stopped, the ledger still holds the same."""
    for phase in phases:
        for row in phase.rows:
            name, last = row.kind.name, gateway.ledger(row.kind.name)
            yield Check(phase.title, f"{name}, {row.ledger} and after the stop {last}", holds=last == row.ledger)


def run(options: argparse.Namespace) -> tuple[list[Phase], list[OtherPhase], list[Check]]:
    """Start what is needed, run the phases, stop everything."""
    logs = ROOT / "logs"
    with ExitStack() as outer:
        folder = Path(outer.enter_context(tempfile.TemporaryDirectory(prefix="tollgate-real-")))
        with ExitStack() as servers:
            engine = servers.enter_context(running_engine(logs))
            if options.direct:
                phases, checks = asyncio.run(Campaign(engine, Direct(engine), options).direct(options))
                return phases, [], checks
            gateway = servers.enter_context(running_gateway(engine, folder, logs))
            phases, checks = asyncio.run(Campaign(engine, Through(gateway), options).through(options))
        checks += final_checks(phases, gateway)
        others, more = run_others(folder, logs, max(options.calls // 15, 1), Random(options.seed))
        return phases, others, [*checks, *more]


def show(phases: list[Phase], others: list[OtherPhase], checks: list[Check], options: argparse.Namespace) -> bool:
    """Print the tables and what failed; whether everything held."""
    failed = [check for check in checks if not check.holds]
    tables = "\n\n".join([summary_table(phases, checks), table(others, checks), kinds_table(phases)])
    print(tables, end="\n\n")
    for check in failed[:60]:
        print(f"MISMATCH  calls that {check.phase}: {check.statement}")
    print(f"{len(checks)} checks, {len(failed)} failed")
    if options.write_docs and not options.direct:
        heading = (
            f"{datetime.now(UTC):%Y-%m-%d}, `{options.command}`, vLLM {engine_version()}: "
            f"{len(checks)} checks, {len(failed)} failed."
        )
        write_docs(PROJECT / "docs/real-engines.md", f"{heading}\n\n{tables}")
    return not failed


def engine_version() -> str:
    """The version of the installed engine."""
    folder = next((ROOT / "venv").glob("lib/python*/site-packages/vllm-*.dist-info"))
    return folder.name.removeprefix("vllm-").removesuffix(".dist-info")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, and the command that they make."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--direct", action="store_true", help="no gateway: the engine against its own counters")
    parser.add_argument("--calls", type=int, default=300, help="finished calls")
    parser.add_argument("--left", type=int, default=60, help="streams that are left")
    parser.add_argument("--concurrency", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write-docs", action="store_true", help="put the result into docs/real-engines.md")
    options = parser.parse_args(arguments)
    options.command = " ".join(["bash tests/real/run.sh", *map(shlex.quote, arguments)])
    return options


def main() -> int:
    """The exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children are ended too
    options = parse(sys.argv[1:])
    try:
        phases, others, checks = run(options)
    except CampaignError as exc:
        print(f"the campaign broke off: {exc}", file=sys.stderr)
        return 1
    return 0 if show(phases, others, checks, options) else 1


if __name__ == "__main__":
    sys.exit(main())
