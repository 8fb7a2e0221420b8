"""Running one line: from a request of a file to its result and what it costs.

What belongs here: the way of a line, and what each failure means for it. What does not: which line is run when
(worker.py), how its result is kept (block.py), and where it finds a place (upstream/spare_exchange.py).

A line is run until it has a result:

- answered, whole: it goes to the output file, and is billed at the batch price;
- cut because a call took its place: it begins again, at once;
- any other failure: it is tried again, after longer and longer pauses, until its patience is over (patience.py); then
  it goes to the error file with the documented error;
- the limiter is away: it waits; nothing is run that nobody counts;
- the budget has no room for its worst case: if that is because others hold it, it waits; else its batch is stopped.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

from proxy.answering import OK, Answering, read, shown
from proxy.batching.budgets import Budgets, Payer, PayerUnknownError
from proxy.batching.patience import PATIENCE, Failure, failure_of, not_sent, refused_by_us, unexpected
from proxy.core.batches.ids import call_id_of
from proxy.core.batches.lines import BATCH_ENDPOINTS, parse_line, prepare_line
from proxy.core.batches.objects import Batch, LineMistake, LineStatus
from proxy.core.batches.results import answered_line, unanswered_line
from proxy.core.calls import PreparedCall
from proxy.core.calls.priority import BATCH_PRIORITY
from proxy.core.entries import Entry, Outcome
from proxy.core.errors import ApiError
from proxy.core.headers import upstream_lines
from proxy.core.quotas import Allowance, cost_bound_pico
from proxy.core.usage import TariffClass
from proxy.limiter import Limiter, LimiterUnavailableError
from proxy.settings.types import Settings
from proxy.settlement import Flight, Settlement, entry_of
from proxy.upstream.connection import Headers
from proxy.upstream.exchange import Request
from proxy.upstream.failures import FailureKind, UpstreamError
from proxy.upstream.pool import UpstreamPool, UpstreamPools
from proxy.upstream.relay import Relay
from proxy.upstream.spare import DisplacedError
from proxy.upstream.spare_exchange import spare_exchange

PAUSE_FIRST_S: Final = 0.5
PAUSE_MAX_S: Final = 60.0
KNOWN_S: Final = 0.5
"""How long what is known of who pays serves the lines of his batch."""
PAYERS_MAX: Final = 1024


class InsufficientBudgetError(Exception):
    """The worst case of a line does not fit what is left, whatever becomes of the calls in flight."""


class LineResult(msgspec.Struct, frozen=True):
    """What came of a line.

    Args:
        line: which, from 0.
        status: in which file it goes.
        call_id: of its call.
        data: what stands there, its newline included.
        entry: what is billed; None: nothing.
        flight: the call that is settled with it; None: there is none.
    """

    line: int
    status: LineStatus
    call_id: str
    data: bytes
    entry: Entry | None = None
    flight: Flight | None = None


class Line:
    """A line on its way.

    Attributes:
        has_begun: whether an upstream works on it.
    """

    __slots__ = ("data", "has_begun", "number")

    def __init__(self, number: int, data: bytes) -> None:
        self.number = number
        self.data = data
        self.has_begun = False


class _Collects:
    """Nobody reads along: the answer is collected whole."""

    chunked = False
    lines = b""

    def write(self, data: bytes) -> bool:  # noqa: ARG002
        """Take nothing."""
        return False

    def abort(self) -> None:
        """There is nobody to be cut."""

    def attach(self, relay: Relay | None) -> None:
        """There is nobody to be slow."""


_NOBODY: Final = _Collects()


def _no_head(headers: Headers, *, whole: bool, length: int | None) -> bytes:  # noqa: ARG001
    return b""


class Running:
    """Runs lines.

    Args:
        settings: returns the settings in force.
        pools: connections to the upstreams.
        limiter: knows what has room.
        settlement: keeps holds alive, and prices.
        answering: reads answers.
        budgets: knows what a batch is paid from.
        on_upstream_failure: told of each failed attempt.
        on_error: told of what should not have happened.
        is_degraded: whether limits are kept without the store that replicas share: then no line begins.
        clock_ms: Unix milliseconds.
        clock: monotonic seconds.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        pools: UpstreamPools,
        limiter: Limiter,
        settlement: Settlement,
        answering: Answering,
        budgets: Budgets,
        on_upstream_failure: Callable[[UpstreamPool, FailureKind], None],
        on_error: Callable[[str, BaseException], None],
        is_degraded: Callable[[], bool],
        clock_ms: Callable[[], int],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._pools = pools
        self._limiter = limiter
        self._settlement = settlement
        self._answering = answering
        self._budgets = budgets
        self._on_upstream_failure = on_upstream_failure
        self._on_error = on_error
        self._is_degraded = is_degraded
        self._clock_ms = clock_ms
        self._clock = clock
        self._sleep = sleep
        self._payers: dict[str, tuple[float, Payer, Allowance]] = {}
        self.displaced = 0

    async def run(self, batch: Batch, line: Line) -> LineResult:
        """Run a line to its result.

        Cancelled, it has no result, and what it holds expires by itself: whoever runs it next has the same call id.

        Raises:
            InsufficientBudgetError: its batch is to be stopped.
        """
        call_id = call_id_of(batch.id, batch.created_ms, line.number)
        request = parse_line(line.data, line.number + 1, batch.endpoint)
        if isinstance(request, LineMistake):
            return _unanswered(line, call_id, "", request)
        endpoint = BATCH_ENDPOINTS[batch.endpoint]
        call = prepare_line(request, line.number + 1, endpoint, self._settings().terms)
        if isinstance(call, LineMistake):  # the settings have changed since its file was validated
            return _unanswered(line, call_id, request.custom_id, call)
        pause_s, patience = PAUSE_FIRST_S, PATIENCE
        while True:
            result = await self._attempt(batch, line, call, call_id, request.custom_id)
            if isinstance(result, LineResult):
                return result
            patience -= result.cost
            if patience <= 0:
                return _answered(line, call_id, request.custom_id, result.error)
            line.has_begun = False
            await self._sleep(pause_s * random.uniform(0.75, 1))  # noqa: S311 - so that not all come back at once
            pause_s = min(PAUSE_MAX_S, 2 * pause_s)

    async def _attempt(
        self, batch: Batch, line: Line, call: PreparedCall, call_id: str, custom_id: str
    ) -> LineResult | Failure:
        flight = await self._admit(batch, call, call_id)
        try:
            relay = await self._exchange(flight, line)
            if flight.endpoint.count is not None:
                await self._answering.count(flight, relay)
            reading = read(flight, relay)
            if reading is not None:
                charge = self._settlement.rate(flight, reading.usage, Outcome.FINISHED)
                data = answered_line(call_id, custom_id, OK, shown(flight, relay).body)
                entry = entry_of(flight, charge, Outcome.FINISHED, self._clock_ms())
                flight.relay = None  # its answer is in the result
                return LineResult(line.number, LineStatus.COMPLETED, call_id, data, entry, flight)
            failure = failure_of(relay)
        except asyncio.CancelledError:
            self._settlement.ended(flight)
            raise
        except UpstreamError as exc:
            failure = not_sent(exc)
        except ApiError as error:
            failure = refused_by_us(error)
        except Exception as exc:  # noqa: BLE001 - a bug must not stop the other lines
            self._on_error("batch line", exc)
            failure = unexpected()
        await self._let_go(flight)
        return failure

    # Room

    async def _admit(self, batch: Batch, call: PreparedCall, call_id: str) -> Flight:
        """Wait until the budgets have room for the worst case, and hold it.

        Raises:
            InsufficientBudgetError: they never will.
        """
        pause_s = PAUSE_FIRST_S
        while True:
            flight = await self._ask(batch, call, call_id)
            if flight is not None:
                self._settlement.began(flight)
                return flight
            await self._sleep(pause_s)
            pause_s = min(PAUSE_MAX_S, 2 * pause_s)

    async def _ask(self, batch: Batch, call: PreparedCall, call_id: str) -> Flight | None:
        if self._is_degraded():
            return None
        try:
            payer, allowance = await self._payer(batch)
        except (PayerUnknownError, ApiError):  # of whom nothing is known now
            return None
        flight = self._flight(batch, call, call_id, payer, allowance)
        try:
            answer = await self._limiter.admit(batch.account_id, call_id, allowance.limits, flight.needs)
        except LimiterUnavailableError:
            return None
        if answer.admitted:
            return flight
        for state, need in zip(answer.states, flight.needs, strict=True):
            if state.used + need > state.capacity:
                raise InsufficientBudgetError(state.name)
        return None

    def _flight(self, batch: Batch, call: PreparedCall, call_id: str, payer: Payer, allowance: Allowance) -> Flight:
        prices = self._settings().prices.version_at(batch.created_ms)
        return Flight(
            call_id,
            payer.principal,
            payer.tier,
            BATCH_ENDPOINTS[batch.endpoint],
            call,
            allowance,
            allowance.needs(0, cost_bound_pico(call, prices, TariffClass.BATCH)),
            prices,
            batch.month,
            batch.day,
            batch.created_ms,
            TariffClass.BATCH,
        )

    async def _payer(self, batch: Batch) -> tuple[Payer, Allowance]:
        """Return who pays for a batch, and from what, as it was a moment ago.

        Raises:
            PayerUnknownError: nothing is known of him.
            ApiError: 503: nothing is known of his credit.
        """
        now_s = self._clock()
        known = self._payers.get(batch.id)
        if known is None or not now_s - known[0] < KNOWN_S:
            now_ms = self._clock_ms()
            payer = self._budgets.payer(batch, now_ms)
            limits = await self._budgets.of(batch, now_ms)
            if len(self._payers) >= PAYERS_MAX:
                self._payers.clear()
            known = self._payers[batch.id] = (now_s, payer, Allowance.of(limits))
        return known[1], known[2]

    async def _let_go(self, flight: Flight) -> None:
        """Give back what a line holds that used nothing; where that cannot be said, it expires."""
        self._settlement.ended(flight)
        try:
            await self._limiter.release(flight.principal.account.id, flight.call_id, flight.allowance.limits)
        except LimiterUnavailableError:
            return

    async def record(self, batch: Batch, costs_pico: Mapping[str, int]) -> None:
        """Tell the limiter what lines have cost, by call id, whoever ran them: it counts a call once.

        Raises:
            LimiterUnavailableError, PayerUnknownError, ApiError: it cannot be told now.
        """
        _, allowance = await self._payer(batch)
        amounts = {call_id: allowance.amounts(0, cost_pico) for call_id, cost_pico in costs_pico.items()}
        await self._limiter.record_all(batch.account_id, allowance.limits, amounts)

    # There and back

    async def _exchange(self, flight: Flight, line: Line) -> Relay:
        """Send, as often as calls take the place away; return the relay of the answer.

        Raises:
            UpstreamError: no upstream could begin.
            ApiError: it cannot be sent as it is.
        """
        sizes = self._settings().proxy.sizes

        def new_relay(pool: UpstreamPool, on_over: Callable[[], None]) -> Relay:
            line.has_begun = True
            flight.upstream = pool.upstream
            relay = flight.relay = Relay(
                _NOBODY,
                None,
                _no_head,
                sizes.answer_bytes_max,
                sizes.collect_bytes_max,
                None,
                self._settings().proxy.timeouts.client_stall_s,
                self._clock,
                on_over,
            )
            return relay

        while True:
            lines = upstream_lines((), flight.call_id)
            request = Request(flight.endpoint, flight.call, lines, flight.principal.account.id, BATCH_PRIORITY)
            try:
                return await spare_exchange(
                    self._pools, flight.call.model.upstreams, request, new_relay, self._on_upstream_failure
                )
            except DisplacedError:
                line.has_begun = False
                self.displaced += 1


def _answered(line: Line, call_id: str, custom_id: str, error: ApiError) -> LineResult:
    data = answered_line(call_id, custom_id, error.status, error.body)
    return LineResult(line.number, LineStatus.FAILED, call_id, data)


def _unanswered(line: Line, call_id: str, custom_id: str, mistake: LineMistake) -> LineResult:
    return LineResult(line.number, LineStatus.FAILED, call_id, unanswered_line(call_id, custom_id, mistake))
