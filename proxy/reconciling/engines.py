"""Entries against the inference servers' own token counters, since each server began.

What belongs here: which counters servers have, which entries they should agree with, and by how much they may not. What
does not: asking (scraping.py).

A server's counters are never below what was charged: entries above them are drift. They may be above: a stream that is
left goes on for some tokens until the server notices, a prompt with several choices is counted once for each, what an
upstream failed is not charged, nor what was made of a line of a batch before it gave its place up, and others may ask
the server directly. How much of that is too much is a tolerance.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from proxy.core.catalogue import Engine, Model, Upstream
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.totals import Served
from proxy.ledger.totals import Source as ServedBy
from proxy.reconciling.findings import (
    Difference,
    Finding,
    Gathering,
    Source,
    Span,
    Subject,
    Threshold,
    Unit,
    not_compared,
    together,
)
from proxy.reconciling.metrics import ServedSince
from proxy.reconciling.scraping import Scrape, UnreachableError

UNHEARD_TOKENS_MAX: Final = 64
"""What a server generates of a stream that was left before it notices, at most: some 20 tokens were measured."""

_FAMILIES: Final = {Engine.VLLM: "vllm", Engine.SGLANG: "sglang"}
_RUNNING: Final = {Engine.VLLM: "vllm:num_requests_running", Engine.SGLANG: "sglang:num_running_reqs"}
_PROMPT, _GENERATION = "prompt", "generation"
_AUDIO: Final = "/v1/audio/"
_PLACES: Final = {usage_type: place for place, usage_type in enumerate(UsageType)}
_KINDS: Final = {
    _PROMPT: (UsageType.INPUT, UsageType.CACHED_INPUT, UsageType.RERANK),
    _GENERATION: (UsageType.OUTPUT, UsageType.REASONING),
}


class EngineCounts(msgspec.Struct, frozen=True):
    """What a server has counted.

    Args:
        since_ms: when it began, Unix milliseconds.
        running: calls that it is answering.
        tokens: by kind (prompt, generation) and by its name for the model.
    """

    since_ms: int
    running: int
    tokens: dict[str, dict[str, int]]


def read_engine(url: str, engine: Engine, found: Scrape) -> EngineCounts:
    """Read what a server has counted.

    Raises:
        UnreachableError: it does not say, or not since when.
    """
    family = _FAMILIES[engine]
    tokens: dict[str, dict[str, int]] = {}
    for kind in _KINDS:
        name = f"{family}:{kind}_tokens_total"
        if not found.has(name):
            raise UnreachableError(f"{url} has no {name}")
        counts: defaultdict[str, int] = defaultdict(int)
        for labels, amount in found.counted(name):
            counts[labels.get("model_name", "")] += amount
        tokens[kind] = dict(counts)
    since_ms = found.least_ms("process_start_time_seconds")
    if since_ms is None:
        since_ms = found.least_ms(f"{family}:{_PROMPT}_tokens_created")
    if since_ms is None:
        raise UnreachableError(f"{url} does not say since when it counts")
    return EngineCounts(since_ms, found.total(_RUNNING[engine]), tokens)


class Server(msgspec.Struct, frozen=True):
    """One server, as upstreams name it.

    Args:
        url: its base URL.
        engine: what runs there.
        upstreams: names under which entries know it.
        labels: its name for each of our models that it serves.
        unheard: its names of models whose calls are not charged by the token.
    """

    url: str
    engine: Engine
    upstreams: frozenset[str]
    labels: dict[str, str]
    unheard: frozenset[str]


def servers_of(upstreams: Iterable[Upstream], models: Iterable[Model]) -> list[Server]:
    """Return the servers behind upstreams, of which several may be one, by URL."""
    by_url: defaultdict[str, list[Upstream]] = defaultdict(list)
    for upstream in upstreams:
        by_url[upstream.url].append(upstream)
    every = {model.id: model for model in models}.values()
    servers = []
    for url, named in sorted(by_url.items()):
        names = frozenset(upstream.name for upstream in named)
        served = [model for model in every if names & {upstream.name for upstream in model.upstreams}]
        labels = {model.id: model.upstream_model for model in served}
        unheard = frozenset(
            model.upstream_model for model in served if any(route.startswith(_AUDIO) for route in model.endpoints)
        )
        servers.append(Server(url, named[0].engine, names, labels, unheard))
    return servers


def is_counting(server: Server) -> bool:
    """Whether a server of this kind has token counters that are known here."""
    return server.engine in _FAMILIES


Ask = Callable[[], Awaitable[EngineCounts]]
"""Asks a server; raises ``UnreachableError`` when it does not answer."""


async def compare_engine(
    server: Server, ask: Ask, served_since: ServedSince, threshold: Threshold, tolerance_percent: int
) -> Finding:
    """Compare a server's counters with the entries that it has served.

    Args:
        server: which.
        ask: asks it.
        served_since: asks the ledger.
        threshold: up to which difference nothing is said.
        tolerance_percent: of its counters, how much it may have done that was not charged.
    """
    try:
        before = await ask()
        served = (await served_since({before.since_ms}))[before.since_ms]
        after = await ask()
    except UnreachableError as exc:
        return not_compared(Source.ENGINES, str(exc))
    if before.since_ms != after.since_ms:
        return not_compared(Source.ENGINES, f"{server.url} has begun again meanwhile")
    gathering = Gathering(Source.ENGINES, threshold)
    by_label = _by_label(server, served)
    in_batches = {label for by, label in _ours(server, served) if by.tariff_class is TariffClass.BATCH}
    running = before.running + after.running > 0
    for kind, types in _KINDS.items():
        for label in sorted(by_label.keys() | after.tokens[kind].keys()):
            sums = by_label.get(label, Served())
            if label in server.unheard or sums.quantities[_PLACES[UsageType.AUDIO_MINUTES]]:
                continue
            counted = Span(before.tokens[kind].get(label, 0), after.tokens[kind].get(label, 0))
            charged, estimated = (
                sum(amounts[_PLACES[each]] for each in types) for amounts in (sums.quantities, sums.estimated)
            )
            allowed = counted.high * tolerance_percent // 100
            if kind == _GENERATION:
                allowed += UNHEARD_TOKENS_MAX * sums.unfinished
            subject = Subject(place=server.url, model=label, usage_type=kind)
            difference = Difference(subject, Unit.UNITS, Span(charged, charged + allowed), counted)
            why, unclear = _judged(
                kind, difference.drift, estimated, sums, running=running, in_batches=label in in_batches
            )
            gathering.compare(msgspec.structs.replace(difference, why=why), unclear=unclear)
    gathering.notes.append(f"{server.url}: tokens since it began against the entries that it has served since")
    if server.unheard:
        gathering.notes.append(f"{server.url}: audio is charged by the minute, which it does not count")
    return gathering.finding()


def _by_label(server: Server, served: Mapping[ServedBy, Served]) -> dict[str, Served]:
    found: defaultdict[str, Served] = defaultdict(Served)
    for by, label in _ours(server, served):
        found[label].add(served[by])
    return dict(found)


def _ours(server: Server, served: Iterable[ServedBy]) -> Iterator[tuple[ServedBy, str]]:
    """Yield what a server has served, each with its name for the model."""
    return ((by, server.labels.get(by.model, by.model)) for by in served if by.upstream in server.upstreams)


def _judged(
    kind: str, drift: int, estimated: int, sums: Served, *, running: bool, in_batches: bool
) -> tuple[str, bool]:
    """Return why a server may have counted more (+) or less (-) than was charged, and whether that is unclear."""
    if drift < 0:
        if -drift <= estimated:
            return "estimates are charged", True
        return "more is charged than the server has counted", False
    if running:
        return "calls are running", True
    if kind == _PROMPT:
        return "several choices count a prompt each; calls that were not charged; or who asks the server directly", True
    if sums.unbilled:
        return "calls that the server failed are not charged", True
    why = "calls that were not charged, or who asks the server directly"
    return "lines of batches that gave their place up were run again" if in_batches else why, in_batches


def all_servers(findings: Iterable[Finding], skipped: Iterable[Server]) -> Finding:
    """Return the comparisons with every server as one."""
    notes = [f"{server.url} ({server.engine.value}): no token counters that are known here" for server in skipped]
    return together(Source.ENGINES, list(findings), notes)
