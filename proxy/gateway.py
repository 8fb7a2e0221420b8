"""The gateway: the way of one call, from a bearer token to a settled entry.

What belongs here: the order of the steps, and what each failure means for the client and for the hold. What does not:
HTTP on the client's side (incoming.py, web/), bytes (upstream/), counting (core/), keeping (limiter/, ledger/).
"""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Final

from uuid_utils import uuid7

from proxy.admitting import Admitting
from proxy.allowances import Allowances
from proxy.answering import OK, Answering, error_of, read, shown
from proxy.billing.room import CreditRoom
from proxy.billing.statement import is_active
from proxy.clock import unix_ms
from proxy.core.accounts import Principal
from proxy.core.entries import Outcome
from proxy.core.errors import ApiError, internal, unauthorized, unavailable
from proxy.core.headers import answer_lines, shadow_line, upstream_lines
from proxy.core.meters import Reading
from proxy.core.quotas import cost_bound_pico
from proxy.core.usage import TariffClass
from proxy.counting import Counting
from proxy.growth import Holds
from proxy.incoming import Answer, AnswerHead, Incoming
from proxy.ledger.directory import Directory
from proxy.ledger.errors import OutboxError
from proxy.limiter import Limiter, LimiterUnavailableError
from proxy.months import Months
from proxy.observer import Observer, Report
from proxy.settings.types import Settings
from proxy.settlement import Flight, Settlement
from proxy.tasks import Tasks
from proxy.upstream.connection import Headers
from proxy.upstream.documented import error_event, failure_error, how_ended, no_place_lines
from proxy.upstream.exchange import Request, exchange
from proxy.upstream.failures import FailureKind, UpstreamError
from proxy.upstream.pool import UpstreamPool, UpstreamPools
from proxy.upstream.queue import NoPlaceError
from proxy.upstream.relay import Relay

CLIENT_GONE: Final = 499
"""Status in log and metrics of a call whose client left before its answer began (nginx's number for it)."""


class Gateway:
    """Serves calls.

    Args:
        settings: returns the settings in force; a call uses one and the same from its beginning to its end.
        directory: knows the keys.
        limiter: knows what has room.
        pools: connections to the upstreams.
        settlement: commits what was used.
        holds: knows what calls are to hold, and lets streams hold more.
        observer: is told of every call.
        tasks: where calls go on whose client has left.
        counting: where tokens are counted that no upstream told.
        credit_room: knows what prepaid accounts have left.
        clock: monotonic seconds.
        stream_head: makes the head of an answer that is relayed as it comes.
        is_degraded: whether limits are kept without the store that replicas share; answers then say so.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        directory: Directory,
        limiter: Limiter,
        pools: UpstreamPools,
        settlement: Settlement,
        holds: Holds,
        observer: Observer,
        tasks: Tasks,
        counting: Counting,
        credit_room: CreditRoom,
        clock: Callable[[], float],
        stream_head: AnswerHead,
        is_degraded: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._limiter = limiter
        self._pools = pools
        self._settlement = settlement
        self._holds = holds
        self._observer = observer
        self._tasks = tasks
        self._answering = Answering(counting, observer.failed)
        self._credit_room = credit_room
        self._clock = clock
        self._stream_head = stream_head
        self._is_degraded = is_degraded
        self._admitting = Admitting(settings, limiter, settlement)
        self._months = Months()
        self._allowances = Allowances()
        self.draining = False

    async def serve(self, incoming: Incoming) -> Answer | None:
        """Serve one call; None: the answer has been streamed. Raises only CancelledError: the client has left."""
        report = Report(str(uuid7()), incoming.endpoint.route, incoming.started_s, incoming.client_request_id)
        self._observer.began()
        try:
            return await self._call(incoming, report)
        except ApiError as error:
            return await self._refuse(error, report)
        except asyncio.CancelledError:
            report.status = report.status or CLIENT_GONE
            raise
        except Exception as exc:  # noqa: BLE001 - the last line: a bug must not leave a client without an answer
            self._observer.failed("call", exc)
            self._settlement.drop(report.call_id)
            return await self._refuse(internal(), report)
        finally:
            if not report.abandoned:
                incoming.close()
                self._observer.ended(report, self._clock())

    async def _call(self, incoming: Incoming, report: Report) -> Answer | None:
        flight = await self._prepare(incoming, report)
        report.admission = await self._admitting.admit(incoming, flight, report)
        try:
            relay = await self._forward(incoming, flight, report)
            report.answered_s = self._clock()
            if flight.endpoint.count is not None:
                await self._answering.count(flight, relay)
        except UpstreamError as exc:
            self._settlement.release(flight)
            if isinstance(exc, NoPlaceError):
                report.said += no_place_lines(exc.retry_after_s)
            raise failure_error(exc.kind) from exc
        except ApiError:  # it could not be sent as it is
            self._settlement.release(flight)
            raise
        except asyncio.CancelledError:
            report.abandoned = True
            self._tasks.spawn(self._abandon(incoming, flight, report), "abandoned")
            raise
        if relay.error is not None and relay.error.kind is FailureKind.INTERNAL:
            self._observer.failed("relay", relay.error)
        if relay.streaming:
            await self._end_stream(incoming, flight, relay, report)
            return None
        return await self._end_body(flight, relay, report)

    # Who calls, what for, and whether there is room

    async def _prepare(self, incoming: Incoming, report: Report) -> Flight:
        settings = self._settings()
        now_ms = unix_ms()
        principal = self._authenticate(incoming.token(), now_ms)
        tier = settings.tiers.get(principal.account.tier)
        if tier is None:  # a reload took away a tier that an account still holds
            self._observer.failed("tier", LookupError(f"no tier {principal.account.tier!r} in the settings"))
            raise unavailable()
        month = self._months.at(now_ms, principal.account.timezone)
        allowance = self._allowances.of(principal, None, tier, month, now_ms)
        report.principal, report.tier, report.allowance = principal, tier, allowance
        if tier.purchase_required and not is_active(tier, principal.account):
            await self._admitting.refuse_unpaid(report)
        endpoint = incoming.endpoint
        received = await (incoming.form() if endpoint.takes_form else incoming.body())
        call = endpoint.prepare(received, endpoint.route, settings.terms)
        report.call = call
        if call.model.limits is not None:
            allowance = report.allowance = self._allowances.of(principal, call.model, tier, month, now_ms)
        if principal.account.prepaid_only:
            allowance = report.allowance = await self._credit_room.within(allowance, principal.account, now_ms)
        prices = settings.prices.version_at(now_ms)
        held = self._holds.expected(principal.account.id, tier, allowance, call)
        needs = allowance.needs(held, cost_bound_pico(call, prices, TariffClass.STANDARD))
        return Flight(
            report.call_id,
            principal,
            tier,
            endpoint,
            call,
            allowance,
            needs,
            prices,
            month.name,
            month.day,
            now_ms,
        )

    def _authenticate(self, token: str | None, now_ms: int) -> Principal:
        principal = self._directory.authenticate(token, now_ms) if token is not None else None
        if principal is None:
            raise unauthorized()
        return principal

    # There and back

    async def _forward(self, incoming: Incoming, flight: Flight, report: Report) -> Relay:
        """Send the call and wait for the end of its answer.

        Raises:
            ApiError: it cannot be sent as it is.
            UpstreamError: no upstream could begin.
        """
        settings = self._settings().proxy
        call, endpoint = flight.call, flight.endpoint
        lines = upstream_lines(incoming.raw_headers(), flight.call_id)
        request = Request(endpoint, call, lines, flight.principal.account.id, flight.tier.priority)
        report.request = request

        def head(headers: Headers, *, whole: bool, length: int | None) -> bytes:
            report.status = OK
            lines = answer_lines(headers) + self._lines(report)
            return self._stream_head(incoming.port, lines, whole=whole, length=length)

        def new_relay(pool: UpstreamPool) -> Relay:
            flight.upstream = pool.upstream
            report.upstream = pool.upstream.name
            engine = pool.upstream.engine
            streams = call.stream and endpoint.stream_meter is not None
            meter = endpoint.stream_meter(engine, call) if streams else None  # type: ignore[misc]
            relay = flight.relay = Relay(
                incoming.port,
                meter,
                head,
                settings.sizes.answer_bytes_max,
                settings.sizes.collect_bytes_max,
                None if call.stream or endpoint.body_meter is None else partial(endpoint.body_meter, engine, call),
                settings.timeouts.client_stall_s,
                self._clock,
                pool.ended,
            )
            if meter is not None and flight.allowance.output_place is not None:
                self._holds.follow(flight, relay, meter)
            return relay

        report.sent_s = self._clock()
        return await exchange(self._pools, call.model.upstreams, request, new_relay, self._observer.upstream_failed)

    async def _abandon(self, incoming: Incoming, flight: Flight, report: Report) -> None:
        """The client left before the end: a stream is cut and billed so far, any other call runs to its end."""
        try:
            await self._end_abandoned(flight, report)
        except ApiError:
            pass  # reported; nobody is left to be told
        finally:
            report.status = report.status or CLIENT_GONE
            incoming.close()
            self._observer.ended(report, self._clock())

    async def _end_abandoned(self, flight: Flight, report: Report) -> None:
        relay = flight.relay
        if relay is None or (relay.connection is None and not (relay.is_over or relay.streaming)):
            self._settlement.release(flight)  # it had not been sent yet
        elif flight.call.stream:
            relay.abort()
            reading = relay.meter.finish() if relay.streaming and relay.meter is not None else None
            if reading is None or (reading.usage.is_estimated and not reading.usage.output_tokens):
                self._settlement.release(flight)  # engines count a prompt with its first token, and none was seen
            else:
                await self._settle(flight, reading, self._why_cut(relay), report)
        else:
            relay.leave()
            await relay.over()
            await self._answering.count(flight, relay)
            reading = read(flight, relay)
            if reading is not None:
                await self._settle(flight, reading, how_ended(relay.error, reading), report)
            else:
                self._settlement.release(flight)

    def _why_cut(self, relay: Relay) -> Outcome:
        if relay.error is not None:
            return Outcome.UPSTREAM_FAILED
        return Outcome.INTERRUPTED if self.draining else Outcome.DISCONNECTED

    # How it ends

    async def _end_body(self, flight: Flight, relay: Relay, report: Report) -> Answer:
        """Settle and return a whole answer, or the documented error for what came instead of one."""
        reading = read(flight, relay)
        if reading is None:  # an error, or not what was asked for: not passed on, and not billed
            self._settlement.release(flight)
            raise error_of(relay)
        await self._settle(flight, reading, Outcome.FINISHED, report)
        report.status = OK
        answer = shown(flight, relay)
        return Answer(OK, answer_lines(relay.headers) + self._lines(report), answer.body, answer.content_type)

    async def _end_stream(self, incoming: Incoming, flight: Flight, relay: Relay, report: Report) -> None:
        """Settle what was relayed as it came, and only then let the client see its end."""
        assert relay.meter is not None
        report.first_byte_s = relay.first_byte_at
        error = relay.error
        if relay.ending is not None:
            tail, reading, outcome = relay.ending, relay.meter.finish(), Outcome.CUT
        else:
            tail = relay.meter.tail() if error is None else error_event(error.kind)
            reading = relay.meter.finish()
            outcome = how_ended(error, reading, is_event_stream=not relay.whole)
        try:
            await self._settle(flight, reading, outcome, report)
        except ApiError:
            incoming.port.abort()  # a client must not take for whole what is not recorded
            return
        if outcome is Outcome.DISCONNECTED or (relay.whole and outcome is not Outcome.FINISHED):
            incoming.port.abort()  # it has stalled, or would take for whole what has no place for an error
        else:
            relay.finish(tail)

    async def _settle(self, flight: Flight, reading: Reading, outcome: Outcome, report: Report) -> None:
        """Price and commit. Raises ApiError (503) when the entry cannot be made durable."""
        if outcome is Outcome.DISCONNECTED and reading.complete:
            outcome = Outcome.FINISHED  # all there was to say had been said
        report.outcome = outcome
        charge = self._settlement.rate(flight, reading.usage, outcome)
        self._holds.learn(flight, reading.usage, outcome)
        self._observer.charged(report, charge)
        try:
            await self._settlement.commit(flight, reading.usage, charge, outcome)
        except OutboxError as exc:
            self._observer.failed("commit", exc)
            raise unavailable() from exc

    # What is said

    async def _refuse(self, error: ApiError, report: Report) -> Answer:
        report.status = error.status
        report.error_type = error.type
        if report.principal is not None and report.allowance is not None and report.admission is None:
            with contextlib.suppress(LimiterUnavailableError):  # then without limit headers
                report.admission = await self._limiter.peek(report.principal.account.id, report.allowance.limits)
        return Answer(error.status, self._lines(report), error.body)

    def _lines(self, report: Report) -> bytes:
        """Return the headers that every answer carries: the request id and, once we know who calls, the limits."""
        lines = b"x-request-id: %b\r\n" % report.call_id.encode()
        if report.admission is not None and report.allowance is not None:
            lines += report.allowance.headers.lines(report.admission) + report.said
        if report.shadowed:
            lines += shadow_line(report.shadowed)
        if self._is_degraded():
            lines += b"X-RateLimit-Degraded: true\r\n"
        return lines
