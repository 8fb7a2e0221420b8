"""The phases of the calls that generate no text: each with an engine and a gateway of its own, one after the other.

A call's charge has up to four witnesses: the arithmetic of others.py, what the client was shown, the ledger, and the
engine's own counter of prompt tokens. Audio is charged by the minute, of which the engine has no counter: there the
arithmetic knows how long each sound is.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from random import Random

import httpx
from others import EMBEDDER, EMBEDDINGS, HEARINGS, RERANKER, RERANKS, WHISPER, Answered, Ask, Other, plan, read_answer
from processes import POOLING, ROOT, Engine, Gateway, Ledger, running_engine, running_gateway
from report import Check, equal

SETTLE_S = 30.0
CALL_S = 180.0
SERVED = (
    ("embed", EMBEDDER, POOLING, EMBEDDINGS),
    ("rerank", RERANKER, POOLING, RERANKS),
    ("are heard", WHISPER, (), HEARINGS),
)
"""Title of the phase, model, options of its engine, kinds of call."""


@dataclass(frozen=True, slots=True)
class OtherRow:
    """All calls of one kind, and what the ledger holds of them."""

    other: Other
    answers: list[Answered]
    ledger: Ledger

    @property
    def due(self) -> int:
        """What they must be charged for, by arithmetic."""
        return sum(answer.ask.units for answer in self.answers)

    @property
    def shown(self) -> int | None:
        """What clients were shown; None where an answer shows nothing."""
        found = [answer.shown for answer in self.answers]
        return None if None in found else sum(found)

    @property
    def held(self) -> int:
        """What the ledger holds."""
        return getattr(self.ledger, self.other.usage_type)


@dataclass(frozen=True, slots=True)
class OtherPhase:
    """Calls between two moments at which the engine was idle; ``engine`` None: it counts no such thing."""

    title: str
    rows: list[OtherRow]
    engine: int | None

    @property
    def calls(self) -> int:
        """How many calls were made."""
        return sum(len(row.answers) for row in self.rows)


def checks_of(phase: OtherPhase) -> Iterable[Check]:
    """Every witness agrees, and each call is in the ledger once, at its exact price."""
    for row in phase.rows:
        name = row.other.name
        for fault in (answer.fault for answer in row.answers if answer.fault):
            yield Check(phase.title, f"{name}: {fault}", holds=False)
        yield equal(phase.title, f"{name}, calls in ledger and made", row.ledger.calls, len(row.answers))
        yield equal(phase.title, f"{name}, {row.other.usage_type} in ledger and by arithmetic", row.held, row.due)
        if row.shown is not None:
            yield equal(phase.title, f"{name}, {row.other.usage_type} in ledger and shown", row.held, row.shown)
        due = row.due * row.other.unit_eur
        what = f"{name}, euros in ledger and due: {row.ledger.cost_eur} and {due}"
        yield Check(phase.title, what, holds=Decimal(row.ledger.cost_eur) == due)
    if phase.engine is not None:
        held = sum(row.held for row in phase.rows)
        yield equal(phase.title, "tokens, ledger and engine", held, phase.engine)


def table(phases: list[OtherPhase], checks: list[Check]) -> str:
    """One line a kind, and one for each engine's counter."""
    lines = [
        "| calls that … | kind | calls | due | client was shown | ledger | engine | euros | checks |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for phase in phases:
        own = [check for check in checks if check.phase == phase.title]
        failed = sum(not check.holds for check in own)
        verdict = f"**{failed} of {len(own)} fail**" if failed else f"{len(own)} hold"
        for row in phase.rows:
            shown = "" if row.shown is None else f"{row.shown:,}"
            lines.append(
                f"| {phase.title} | {row.other.name} | {len(row.answers)} | {row.due:,} | {shown} | {row.held:,} | "
                f"| {row.ledger.cost_eur} | |"
            )
        held = sum(row.held for row in phase.rows)
        engine = "" if phase.engine is None else f"{phase.engine:,}"
        due = sum(row.due for row in phase.rows)
        lines.append(f"| {phase.title} | all | {phase.calls} | {due:,} | | {held:,} | {engine} | | {verdict} |")
    return "\n".join(lines)


async def make_call(http: httpx.AsyncClient, key: str, other: Other, ask: Ask) -> Answered:
    """One call and what was seen of it."""
    headers = {"Authorization": f"Bearer {key}"}
    if ask.file is None:
        answer = await http.post(ask.path, json=ask.body, headers=headers)
    else:
        files = {"file": (ask.file.name, ask.file.read_bytes())}
        answer = await http.post(ask.path, data=ask.body, files=files, headers=headers)
    return read_answer(other, ask, answer.status_code, answer.content)


async def phase(
    title: str, others: tuple[Other, ...], engine: Engine, gateway: Gateway, count: int, random: Random
) -> OtherPhase:
    """Make the calls, some at a time."""
    keys = {other.name: await asyncio.to_thread(gateway.open_account, other.name) for other in others}
    calls = plan(others, count, random, ROOT / "models")
    at_once = asyncio.Semaphore(8)
    before = await engine.idle()
    async with httpx.AsyncClient(base_url=gateway.base_url, timeout=CALL_S) as http:

        async def one(other: Other, ask: Ask) -> Answered:
            async with at_once:
                return await make_call(http, keys[other.name], other, ask)

        answers = await asyncio.gather(*(one(other, ask) for other, ask in calls))
    after = await engine.idle()
    by_name: dict[str, list[Answered]] = {other.name: [] for other in others}
    for (other, _), answer in zip(calls, answers, strict=True):
        by_name[other.name].append(answer)
    rows = [
        OtherRow(other, by_name[other.name], await gateway.settled(other.name, count, SETTLE_S)) for other in others
    ]
    counted = None if others[0].usage_type == "audio_minutes" else after.since(before).prompt
    return OtherPhase(title, rows, counted)


def run_others(folder: Path, logs: Path, count: int, random: Random) -> tuple[list[OtherPhase], list[Check]]:
    """Run the phases; at the end of each the gateway is stopped, and its ledger must still say the same."""
    phases: list[OtherPhase] = []
    checks: list[Check] = []
    for title, model, options, others in SERVED:
        place = folder / model
        place.mkdir()
        with running_engine(logs, model, options) as engine, running_gateway(engine, place, logs) as gateway:
            done = asyncio.run(phase(title, others, engine, gateway, count, random))
        phases.append(done)
        checks += checks_of(done)
        for row in done.rows:
            last = gateway.ledger(row.other.name)
            checks.append(Check(title, f"{row.other.name}, after the stop {last}", holds=last == row.ledger))
    return phases, checks
