"""What must be equal, whether it is, and how that is shown: pure functions of what the campaign gathered.

No I/O but write_docs, which replaces the marked section of one file.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from calls import Kind, Outcome
from processes import Counters, Ledger

INPUT_EUR, OUTPUT_EUR = Decimal("1.80"), Decimal("8.00")  # a million tokens, as documented
SEEN_TO_GENERATED = "output seen, in ledger, generated"
BEGIN, FINISH = "<!-- results: begin -->", "<!-- results: end -->"


@dataclass(frozen=True, slots=True)
class Row:
    """All calls of one kind in one phase, and what the ledger holds of them."""

    kind: Kind
    outcomes: list[Outcome]
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class Phase:
    """Calls between two moments at which the engine was idle, and what it did in between."""

    title: str
    rows: list[Row]
    engine: Counters

    @property
    def calls(self) -> int:
        """How many calls were made."""
        return sum(len(row.outcomes) for row in self.rows)

    @property
    def prompt(self) -> int:
        """The ledger's input tokens, all types."""
        return sum(row.ledger.prompt for row in self.rows)

    @property
    def prompt_as_engine(self) -> int:
        """The same as the engine counts it: its counter takes the prompt once for each choice."""
        return sum(row.ledger.prompt * row.kind.choices for row in self.rows)

    @property
    def generated(self) -> int:
        """The ledger's output tokens, reasoning included."""
        return sum(row.ledger.generated for row in self.rows)

    @property
    def seen(self) -> int:
        """The tokens that reached clients and can be counted in the text."""
        return sum(outcome.seen for row in self.rows for outcome in row.outcomes)

    @property
    def countable(self) -> bool:
        """Whether every token that reached a client can be counted in its text."""
        outcomes = [outcome for row in self.rows for outcome in row.outcomes]
        return all(outcome.kind.word == "LONG" and outcome.texts for outcome in outcomes)

    @property
    def asked(self) -> int:
        """The most that the engine could have generated."""
        return sum(outcome.tokens_max * row.kind.answers for row in self.rows for outcome in row.outcomes)


@dataclass(frozen=True, slots=True)
class Check:
    """One statement about the numbers, and whether it holds."""

    phase: str
    statement: str
    holds: bool


def equal(phase: str, what: str, left: int, right: int) -> Check:
    """The two numbers are the same."""
    return Check(phase, f"{what}: {left} and {right}", holds=left == right)


def within(phase: str, what: str, low: int, value: int, high: int) -> Check:
    """The middle number lies between the other two."""
    return Check(phase, f"{what}: {low}, {value}, {high}", holds=low <= value <= high)


def client_checks(phase: Phase) -> Iterable[Check]:
    """No client has anything to complain about."""
    for row in phase.rows:
        for outcome in row.outcomes:
            for fault in outcome.faults:
                yield Check(phase.title, f"{row.kind.name}: {fault}", holds=False)


def count_checks(phase: Phase) -> Iterable[Check]:
    """The ledger holds each call once."""
    for row in phase.rows:
        made = len(row.outcomes)
        yield equal(phase.title, f"{row.kind.name}, calls in ledger and made", row.ledger.calls, made)


def finished_checks(phase: Phase) -> Iterable[Check]:
    """Calls that ran to their end: ledger, engine, script and shown usage agree to the token."""
    yield from client_checks(phase)
    yield from count_checks(phase)
    yield equal(phase.title, "input, ledger and engine", phase.prompt_as_engine, phase.engine.prompt)
    yield equal(phase.title, "output, ledger and engine", phase.generated, phase.engine.generated)
    if all(row.kind.choices == 1 for row in phase.rows):
        cached = sum(row.ledger.cached_input for row in phase.rows)
        yield equal(phase.title, "cached input, ledger and engine", cached, phase.engine.cached)
    for row in phase.rows:
        name, ledger = row.kind.name, row.ledger
        scripted = sum(outcome.scripted for outcome in row.outcomes)
        yield equal(phase.title, f"{name}, output in ledger and script", ledger.generated, scripted)
        if row.kind.usage:
            shown = shown_usage(row.outcomes)
            for of in ("input", "cached_input", "output", "reasoning"):
                held = getattr(ledger, of)
                yield equal(phase.title, f"{name}, {of} in ledger and shown", held, getattr(shown, of))


def left_checks(phase: Phase) -> Iterable[Check]:
    """Streams that the client left: billed at least what it saw, at most what the engine generated."""
    yield from client_checks(phase)
    yield from count_checks(phase)
    yield equal(phase.title, "input, ledger and engine", phase.prompt_as_engine, phase.engine.prompt)
    yield within(phase.title, SEEN_TO_GENERATED, phase.seen, phase.generated, phase.engine.generated)
    for row in phase.rows:
        seen, what = sum(outcome.seen for outcome in row.outcomes), f"{row.kind.name}, {SEEN_TO_GENERATED}"
        yield within(phase.title, what, max(seen, 1), row.ledger.generated, phase.engine.generated)


def waiting_checks(phase: Phase) -> Iterable[Check]:
    """Calls without a stream whose client left: they run to their end, and are billed to the token."""
    yield from count_checks(phase)
    yield equal(phase.title, "input, ledger and engine", phase.prompt_as_engine, phase.engine.prompt)
    yield equal(phase.title, "output, ledger and engine", phase.generated, phase.engine.generated)
    yield equal(phase.title, "output, ledger and max_tokens", phase.generated, phase.asked)


def price_checks(phase: Phase) -> Iterable[Check]:
    """The month of each account costs what its tokens cost at the documented prices, exactly."""
    for row in phase.rows:
        ledger = row.ledger
        due = (ledger.prompt * INPUT_EUR + ledger.generated * OUTPUT_EUR) / 1_000_000
        what = f"{row.kind.name}, euros in ledger and due: {ledger.cost_eur} and {due}"
        yield Check(phase.title, what, holds=Decimal(ledger.cost_eur) == due)


def shown_usage(outcomes: list[Outcome]) -> Ledger:
    """The usage that clients were shown, summed as the ledger would hold it."""
    usages = [outcome.usage for outcome in outcomes if outcome.usage is not None]
    prompt = sum(usage.prompt_tokens for usage in usages)
    completion = sum(usage.completion_tokens for usage in usages)
    prompt_details = [usage.prompt_tokens_details for usage in usages]
    completion_details = [usage.completion_tokens_details for usage in usages]
    cached = sum(details.cached_tokens or 0 for details in prompt_details if details)
    reasoning = sum(details.reasoning_tokens or 0 for details in completion_details if details)
    return Ledger(len(usages), prompt - cached, cached, completion - reasoning, reasoning, "")


def summary_table(phases: list[Phase], checks: list[Check]) -> str:
    """One line a phase."""
    lines = [
        "| calls that … | calls | input: ledger | engine | output: client saw | ledger | engine | checks |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for phase in phases:
        own = [check for check in checks if check.phase == phase.title]
        failed = sum(not check.holds for check in own)
        verdict = f"**{failed} of {len(own)} fail**" if failed else f"{len(own)} hold"
        seen = f"{phase.seen:,}" if phase.countable else ""
        lines.append(
            f"| {phase.title} | {phase.calls} | {phase.prompt_as_engine:,} | {phase.engine.prompt:,} "
            f"| {seen} | {phase.generated:,} | {phase.engine.generated:,} | {verdict} |"
        )
    return "\n".join(lines)


def kinds_table(phases: list[Phase]) -> str:
    """One line a kind of call."""
    lines = [
        "| kind | calls | input | cached input | output | reasoning | client was shown (in, out) | euros |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for phase in phases:
        for row in phase.rows:
            shown, ledger = shown_usage(row.outcomes), row.ledger
            visible = f"{shown.prompt:,}, {shown.generated:,}" if shown.calls else ""
            lines.append(
                f"| {row.kind.name} | {ledger.calls} | {ledger.input:,} | {ledger.cached_input:,} "
                f"| {ledger.output:,} | {ledger.reasoning:,} | {visible} | {ledger.cost_eur} |"
            )
    return "\n".join(lines)


def write_docs(path: Path, text: str) -> None:
    """Put the text between the two markers of the file."""
    before, rest = path.read_text().split(BEGIN, 1)
    after = rest.split(FINISH, 1)[1]
    path.write_text(f"{before}{BEGIN}\n{text.strip()}\n{FINISH}{after}")
