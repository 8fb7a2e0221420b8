"""Metrics: what the proxy counts about itself, cheaply, and hands over on scrape.

What belongs here: the counting that rooms call. What does not: names and help (catalogue.py), how a family is
written (families.py), the admin listener (proxy.web.admin).

Everything is counted on the event loop's thread into plain integers: a call finds its cells by one look-up of a
tuple, and no lock is taken. Labels are bounded by vocabularies (vocabulary.py). Metrics are derived: the ledger is
the truth, so these numbers start at zero with the process and are for watching, not for billing.
"""

import platform
from collections.abc import Collection, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from proxy import __version__
from proxy.clock import unix_ms
from proxy.core.endpoints import ROUTE_USAGE_TYPES
from proxy.core.entries import Charge
from proxy.core.money import PICO_PER_EURO
from proxy.core.usage import Source, TariffClass, UsageType
from proxy.telemetry import catalogue, families
from proxy.telemetry.accounts import AccountSums
from proxy.telemetry.exposition import merge
from proxy.telemetry.histogram import Histogram
from proxy.telemetry.looplag import LoopLag, sample_loop_lag
from proxy.telemetry.vocabulary import UNKNOWN, Vocabulary
from proxy.telemetry.watched import Read, ReadEach, Watched

__all__ = ["Metrics", "merge", "sample_loop_lag"]

_STATUSES: Final = {**{status.value: str(status.value) for status in HTTPStatus}, 499: "499"}
"""Label by status; 499 is what nginx made the custom for a client that left before its answer began."""


DOCUMENTED_ROUTES: Final = (*ROUTE_USAGE_TYPES, "/v1/models")
"""The routes of the API documentation."""


class _CallCells:
    """Where the calls of one endpoint, model, tier, status and outcome are counted."""

    __slots__ = ("count", "duration", "first_token", "overhead")

    def __init__(self, duration: Histogram, first_token: Histogram, overhead: Histogram) -> None:
        self.count = 0
        self.duration = duration
        self.first_token = first_token
        self.overhead = overhead


class _Used:
    """What was charged of one usage type."""

    __slots__ = ("amount", "amount_estimated", "cost_pico")

    def __init__(self) -> None:
        self.amount = 0
        self.amount_estimated = 0
        self.cost_pico = 0


class _ChargeCells:
    """Where the charges of one endpoint, model, tier and price class are counted."""

    __slots__ = ("count", "used")

    def __init__(self, used: dict[UsageType, _Used]) -> None:
        self.count = 0
        self.used = used


class Metrics:
    """Everything that ``/metrics`` shows.

    Args:
        models: canonical model ids; any other name is counted as ``unknown``.
        endpoints: documented routes; any other path is counted as ``unknown``.
        accounts: accounts that get a series of their own; None: the ``accounts_top`` with the largest sums.
        accounts_top: see ``accounts``.
        upstreams: names of the upstreams, whose failures are shown from zero on.
        failure_kinds: the kinds of failure that are shown from zero on.
        limits: names of the limits, whose refusals are shown from zero on.
        tiers: tier ids, likewise.
        views: names of the views, likewise.

    Attributes:
        calls_in_flight: how many calls there are.
    """

    def __init__(
        self,
        models: Iterable[str] = (),
        endpoints: Iterable[str] = DOCUMENTED_ROUTES,
        *,
        accounts: Collection[str] | None = None,
        accounts_top: int = 20,
        upstreams: Iterable[str] = (),
        failure_kinds: Iterable[str] = (),
        limits: Iterable[str] = (),
        tiers: Iterable[str] = (),
        views: Iterable[str] = (),
    ) -> None:
        self.registry: Final = CollectorRegistry()
        self._since_ms = unix_ms()
        self.loop_lag: Final = LoopLag()
        self._models = Vocabulary(models)
        self._endpoints = Vocabulary(endpoints)
        self._tiers, self._outcomes, self._limits = Vocabulary(), Vocabulary(), Vocabulary()
        self._error_types, self._upstreams, self._failure_kinds = Vocabulary(), Vocabulary(), Vocabulary()
        self.calls_in_flight = 0
        self._calls: dict[tuple[str, str, str, int, str], _CallCells] = {}
        self._durations: dict[families.Labels, Histogram] = {}
        self._first_tokens: dict[families.Labels, Histogram] = {}
        self._overheads: dict[families.Labels, Histogram] = {}
        self._charges: dict[tuple[str, str, str, TariffClass], _ChargeCells] = {}
        self._used: dict[tuple[str, str, TariffClass], dict[UsageType, _Used]] = {}
        self._refusals: dict[families.Labels, int] = {}
        self._shadow_refusals: dict[families.Labels, int] = {}
        self._errors: dict[families.Labels, int] = {}
        self._failures: dict[families.Labels, int] = {}
        self._queue_waits: dict[families.Labels, Histogram] = {}
        self._queue_refusals: dict[families.Labels, int] = {}
        self._views: dict[families.Labels, int] = {(view, "200"): 0 for view in views}
        self._accounts = AccountSums(accounts, accounts_top)
        self._watched = Watched()
        tiers, failure_kinds = tuple(tiers), tuple(failure_kinds)
        for name in limits:
            zeros: dict[families.Labels, int] = {
                (self._limits.bound(name), self._tiers.bound(tier)): 0 for tier in tiers
            }
            self._refusals.update(zeros)
            self._shadow_refusals.update(zeros)
        for name in upstreams:
            for kind in failure_kinds:
                self._failures[self._upstreams.bound(name), self._failure_kinds.bound(kind)] = 0
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

    def learn_models(self, models: Iterable[str]) -> None:
        """Let more model ids be labels (reloaded settings)."""
        self._models.learn(models)

    def call_began(self) -> None:
        """Count a call in flight; every one is followed by ``call_ended``."""
        self.calls_in_flight += 1

    def call_ended(
        self,
        endpoint: str,
        model: str,
        tier: str,
        status: int,
        outcome: str,
        duration_s: float,
        first_byte_s: float | None = None,
        overhead_s: float | None = None,
    ) -> None:
        """Count a call that ended, whatever the answer was.

        Args:
            endpoint: documented route.
            model: canonical model id.
            tier: tier id of the account.
            status: HTTP status of the answer.
            outcome: how it ended.
            duration_s: from its head to the end of the answer.
            first_byte_s: from its head to the first piece of a stream; None: not streamed.
            overhead_s: the proxy's own time; None: it never went to an upstream.
        """
        self.calls_in_flight -= 1
        cells = self._calls.get((endpoint, model, tier, status, outcome))
        if cells is None:
            cells = self._call_cells(endpoint, model, tier, status, outcome)
        cells.count += 1
        cells.duration.observe(duration_s)
        if first_byte_s is not None:
            cells.first_token.observe(first_byte_s)
        if overhead_s is not None:
            cells.overhead.observe(overhead_s)

    def charged(
        self,
        endpoint: str,
        model: str,
        tier: str,
        charge: Charge,
        tariff_class: TariffClass,
        account: str | None = None,
    ) -> None:
        """Count what a call was charged; ``account`` is the account's name, as the operator chose it."""
        cells = self._charges.get((endpoint, model, tier, tariff_class))
        if cells is None:
            cells = self._charge_cells(endpoint, model, tier, tariff_class)
        cells.count += 1
        for line in charge.lines:
            used = cells.used[line.usage_type]
            used.amount += line.amount
            used.cost_pico += line.cost_pico
            if line.source is Source.ESTIMATED:
                used.amount_estimated += line.amount
        if account is not None:
            self._accounts.add(account, charge.total_pico)

    def refused(self, limit_name: str, tier: str) -> None:
        """Count a 429 by the limit that bound."""
        _count(self._refusals, (self._limits.bound(limit_name), self._tiers.bound(tier)))

    def would_refuse(self, limit_name: str, tier: str) -> None:
        """Count a call that a limit in shadow would have refused."""
        _count(self._shadow_refusals, (self._limits.bound(limit_name), self._tiers.bound(tier)))

    def error(self, status: int, type: str) -> None:  # noqa: A002
        """Count a documented error."""
        _count(self._errors, (_STATUSES.get(status, UNKNOWN), self._error_types.bound(type)))

    def viewed(self, view: str, status: int) -> None:
        """Count a view, by its name in code."""
        _count(self._views, (view, _STATUSES.get(status, UNKNOWN)))

    def upstream_failed(self, upstream: str, kind: str) -> None:
        """Count an attempt that an upstream failed."""
        _count(self._failures, (self._upstreams.bound(upstream), self._failure_kinds.bound(kind)))

    def queued(self, tier: str, waited_s: float, refusal: str | None) -> None:
        """Count a call that found every upstream full: how long it waited for a place, or why it got none."""
        tier = self._tiers.bound(tier)
        if refusal is None:
            _histogram(self._queue_waits, (tier,), catalogue.QUEUE_BUCKETS_S).observe(waited_s)
        else:
            _count(self._queue_refusals, (tier, refusal))

    def watch(self, name: str, help: str, read: Read, labels: Mapping[str, str] = {}) -> None:  # noqa: A002
        """Show a value that is read on scrape: a counter when its name ends in ``_total``, else a gauge.

        Args:
            name: with the prefix ``tollgate_`` and a unit; the same name may be watched with several labels.
            help: one sentence; empty: the catalogue's.
            read: called on the event loop, must not block; when it raises, the value is left out, and that is
                counted.
            labels: bounded by being written in code or settings.

        Raises:
            ValueError: the name has no prefix, or is watched already with these labels, or with other label names.
        """
        self._watched.add(name, help, read, labels)

    def watch_each(self, name: str, help: str, label: str, read: ReadEach) -> None:  # noqa: A002
        """Show a value for each value of one label, all read on scrape; otherwise as ``watch``."""
        self._watched.add_each(name, help, label, read)

    def render(self) -> bytes:
        """Return the text that a scrape gets; to be called on the event loop's thread, for about a millisecond."""
        return "".join(self._text()).encode() + generate_latest(self.registry)

    def _text(self) -> Iterator[str]:
        yield from self._call_text()
        yield from self._charge_text()
        accounts = (((account,), pico / PICO_PER_EURO) for account, pico in self._accounts.shown())
        yield from families.values(catalogue.ACCOUNT_EUROS, accounts)
        yield from families.values(catalogue.REFUSALS, self._refusals.items())
        yield from families.values(catalogue.SHADOW_REFUSALS, self._shadow_refusals.items())
        yield from families.values(catalogue.ERRORS, self._errors.items())
        yield from families.values(catalogue.VIEWS, self._views.items())
        yield from families.values(catalogue.UPSTREAM_FAILURES, self._failures.items())
        yield from families.histograms(catalogue.QUEUE_WAIT, self._queue_waits.items())
        yield from families.values(catalogue.QUEUE_REFUSALS, self._queue_refusals.items())
        yield from families.values(catalogue.BUILD_INFO, [((__version__, platform.python_version()), 1)])
        yield from families.values(catalogue.COUNTING_SINCE, [((), self._since_ms / 1000)])
        yield from families.values(catalogue.LOOP_LAG, [((), self.loop_lag.longest_s())])
        yield from self._watched.text()

    def _call_text(self) -> Iterator[str]:
        yield from families.values(
            catalogue.CALLS,
            (
                ((endpoint, model, tier, _STATUSES.get(status, UNKNOWN), outcome), cells.count)
                for (endpoint, model, tier, status, outcome), cells in self._calls.items()
            ),
        )
        yield from families.values(catalogue.IN_FLIGHT, [((), self.calls_in_flight)])
        yield from families.histograms(catalogue.DURATION, self._durations.items())
        yield from families.histograms(catalogue.FIRST_TOKEN, self._first_tokens.items())
        yield from families.histograms(catalogue.OVERHEAD, self._overheads.items())

    def _charge_text(self) -> Iterator[str]:
        yield from families.values(
            catalogue.CHARGED_CALLS, ((key, cells.count) for key, cells in self._charges.items())
        )
        used = [
            (usage_type, (tariff_class, model, tier), cell)
            for (model, tier, tariff_class), cells in self._used.items()
            for usage_type, cell in cells.items()
            if cell.amount
        ]
        tokens = [((usage, *key), cell) for usage, key, cell in used if usage is not UsageType.AUDIO_MINUTES]
        audio = [(key, cell) for usage, key, cell in used if usage is UsageType.AUDIO_MINUTES]
        yield from families.values(catalogue.TOKENS, ((key, cell.amount) for key, cell in tokens))
        yield from families.values(
            catalogue.EUROS, (((usage, *key), cell.cost_pico / PICO_PER_EURO) for usage, key, cell in used)
        )
        yield from families.values(catalogue.AUDIO_MINUTES, ((key, cell.amount) for key, cell in audio))
        yield from families.values(catalogue.ESTIMATED_TOKENS, ((key, cell.amount_estimated) for key, cell in tokens))
        yield from families.values(
            catalogue.ESTIMATED_AUDIO_MINUTES, ((key, cell.amount_estimated) for key, cell in audio)
        )

    def _call_cells(self, endpoint: str, model: str, tier: str, status: int, outcome: str) -> _CallCells:
        """Find the cells by bounded labels; only these are kept, so a strange name comes this way each time."""
        endpoint, model, tier = (
            self._endpoints.bound(endpoint),
            self._models.bound(model),
            self._tiers.bound(tier),
        )
        key = (endpoint, model, tier, status if status in _STATUSES else 0, self._outcomes.bound(outcome))
        cells = self._calls.get(key)
        if cells is None:
            cells = self._calls[key] = _CallCells(
                _histogram(self._durations, (endpoint, model), catalogue.DURATION_BUCKETS_S),
                _histogram(self._first_tokens, (model, tier), catalogue.FIRST_TOKEN_BUCKETS_S),
                _histogram(self._overheads, (endpoint,), catalogue.OVERHEAD_BUCKETS_S),
            )
        return cells

    def _charge_cells(self, endpoint: str, model: str, tier: str, tariff_class: TariffClass) -> _ChargeCells:
        endpoint, model, tier = (
            self._endpoints.bound(endpoint),
            self._models.bound(model),
            self._tiers.bound(tier),
        )
        cells = self._charges.get((endpoint, model, tier, tariff_class))
        if cells is None:
            used = self._used.get((model, tier, tariff_class))
            if used is None:
                used = self._used[model, tier, tariff_class] = {usage_type: _Used() for usage_type in UsageType}
            cells = self._charges[endpoint, model, tier, tariff_class] = _ChargeCells(used)
        return cells


def _histogram(
    known: dict[families.Labels, Histogram], labels: families.Labels, bounds_s: tuple[float, ...]
) -> Histogram:
    histogram = known.get(labels)
    if histogram is None:
        histogram = known[labels] = Histogram(bounds_s)
    return histogram


def _count(counts: dict[families.Labels, int], labels: families.Labels) -> None:
    counts[labels] = counts.get(labels, 0) + 1
