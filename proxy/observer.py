"""What is told of a call: to the metrics, and as one line of the log. Never any content.

What belongs here: the report that a call fills in on its way, and how it becomes numbers and a line.
"""

import asyncio

from proxy.core.accounts import Principal
from proxy.core.calls import PreparedCall
from proxy.core.catalogue import Tier
from proxy.core.entries import Charge, Entry, Outcome
from proxy.core.limits import Admission
from proxy.core.money import euros_text
from proxy.core.quotas import Allowance
from proxy.core.usage import Source, TariffClass
from proxy.telemetry.logs import CallLine, CallLog, log_failure
from proxy.telemetry.metrics import Metrics
from proxy.upstream.exchange import Request
from proxy.upstream.failures import FailureKind
from proxy.upstream.pool import UpstreamPool

_REPORTED = Source.REPORTED
NONE = "none"
"""Stands in labels for what was not known when the call ended."""


class Report:
    """What is known of a call so far. Times are monotonic seconds; None: it never got there.

    Attributes:
        said: header lines on how it was admitted or why not, beyond those that show its limits.
        fit_max_tokens: what its ``max_tokens`` was lowered to, None: it was not.
    """

    __slots__ = (
        "abandoned",
        "admission",
        "allowance",
        "answered_s",
        "call",
        "call_id",
        "charge",
        "client_request_id",
        "ended_s",
        "error_type",
        "first_byte_s",
        "fit_max_tokens",
        "outcome",
        "principal",
        "request",
        "route",
        "said",
        "sent_s",
        "shadowed",
        "started_s",
        "status",
        "tier",
        "upstream",
    )

    def __init__(self, call_id: str, route: str, started_s: float, client_request_id: str | None = None) -> None:
        self.call_id = call_id
        self.route = route
        self.started_s = started_s
        self.client_request_id = client_request_id
        self.principal: Principal | None = None
        self.tier: Tier | None = None
        self.allowance: Allowance | None = None
        self.call: PreparedCall | None = None
        self.admission: Admission | None = None
        self.charge: Charge | None = None
        self.outcome: Outcome | None = None
        self.error_type: str | None = None
        self.shadowed: tuple[str, ...] = ()
        self.request: Request | None = None
        self.upstream = ""
        self.said = b""
        self.fit_max_tokens: int | None = None
        self.status = 0
        self.abandoned = False
        self.sent_s: float | None = None
        self.first_byte_s: float | None = None
        self.answered_s: float | None = None
        self.ended_s = 0.0

    @property
    def bound(self) -> str | None:
        """The limit that refused the call."""
        return self.admission.bound if self.admission is not None else None


class Observer:
    """Tells metrics and log.

    Args:
        metrics: counts.
        call_log: one line a call.
    """

    def __init__(self, metrics: Metrics, call_log: CallLog) -> None:
        self._metrics = metrics
        self._call_log = call_log
        self._ended: list[Report] = []  # in this turn of the event loop

    @property
    def calls_in_flight(self) -> int:
        """How many calls there are: not lines of batches."""
        return self._metrics.calls_in_flight

    def began(self) -> None:
        """A call has come in."""
        self._metrics.call_began()

    def upstream_failed(self, pool: UpstreamPool, kind: FailureKind) -> None:
        """An attempt at an upstream failed."""
        self._metrics.upstream_failed(pool.upstream.name, kind.value)

    def failed(self, where: str, failure: BaseException) -> None:
        """Something failed that should not: it is logged with its traceback."""
        log_failure(where, failure)

    def charged(self, report: Report, charge: Charge) -> None:
        """A call has been rated; this may be long after its client has left."""
        report.charge = charge
        assert report.principal is not None
        assert report.call is not None
        assert report.tier is not None
        self._metrics.charged(
            report.route,
            report.call.model.id,
            report.tier.id,
            charge,
            TariffClass.STANDARD,
            report.principal.account.name,
        )

    def line_charged(self, entry: Entry, account_name: str) -> None:
        """A line of a batch has been recorded."""
        self._metrics.charged(entry.endpoint, entry.model, entry.tier, entry.charge, entry.tariff_class, account_name)

    def ended(self, report: Report, now_s: float) -> None:
        """A call is over, as its client sees it. It is counted and logged at the end of this turn of the event loop.

        What ends in one turn is told of in one go: that costs less than when other work comes between.
        """
        report.ended_s = now_s
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._tell)
        self._ended.append(report)

    def _tell(self) -> None:
        reports, self._ended = self._ended, []
        for report in reports:
            try:
                self._tell_of(report)
            except Exception as exc:  # noqa: BLE001 - a bug must not leave the others untold
                self.failed("observer", exc)

    def _tell_of(self, report: Report) -> None:
        metrics = self._metrics
        started_s, sent_s, answered_s = report.started_s, report.sent_s, report.answered_s
        model = report.call.model.id if report.call is not None else NONE
        tier = report.tier.id if report.tier is not None else NONE
        outcome = report.outcome if report.outcome is not None else "refused"
        first_byte_s = report.first_byte_s - started_s if report.first_byte_s is not None else None
        overhead_s: float | None = None  # before the request was sent, and from the end of the answer on
        if sent_s is not None and answered_s is not None:
            overhead_s = (sent_s - started_s) + (report.ended_s - answered_s)
        bound = report.bound
        metrics.call_ended(
            report.route,
            model,
            tier,
            report.status,
            outcome,
            report.ended_s - started_s,
            first_byte_s,
            overhead_s,
        )
        if bound is not None:
            metrics.refused(bound, tier)
        for name in report.shadowed:
            metrics.would_refuse(name, tier)
        request = report.request
        if request is not None and request.queued_s is not None:
            metrics.queued(tier, request.queued_s, request.refusal)
        if report.error_type is not None:
            metrics.error(report.status, report.error_type)
        self._call_log.write(_line(report, model, tier, outcome, bound, first_byte_s, overhead_s))

    def viewed(self, report: Report, view: str, now_s: float) -> None:
        """A view has been answered: it is no call, and is counted apart."""
        report.ended_s = now_s
        self._metrics.viewed(view, report.status)
        if report.error_type is not None:
            self._metrics.error(report.status, report.error_type)
        outcome = "viewed" if report.error_type is None else "refused"
        tier = report.tier.id if report.tier is not None else NONE
        self._call_log.write(_line(report, "", tier, outcome, report.bound))


def _line(
    report: Report,
    model: str,
    tier: str,
    outcome: str,
    bound: str | None,
    first_byte_s: float | None = None,
    overhead_s: float | None = None,
) -> CallLine:
    principal = report.principal
    charge = report.charge
    queued_s = report.request.queued_s if report.request is not None else None
    tokens: dict[str, int] = {}
    is_estimated = False
    if charge is not None:
        for line in charge.lines:
            tokens[line.usage_type] = line.amount
            if line.source is not _REPORTED:
                is_estimated = is_estimated or line.source is Source.ESTIMATED
    return CallLine(
        report.call_id,
        report.route,
        report.status,
        outcome,
        _ms(report.ended_s - report.started_s),
        account=principal.account.name if principal is not None else None,
        key_id=principal.key.id if principal is not None else None,
        model=model,
        tier=tier,
        streamed=report.call is not None and report.call.stream,
        tokens=tokens,
        estimated=is_estimated,
        cost_eur=euros_text(charge.total_pico) if charge is not None else None,
        ttft_ms=None if first_byte_s is None else _ms(first_byte_s),
        overhead_ms=None if overhead_s is None else _ms(overhead_s),
        queued_ms=None if queued_s is None else _ms(queued_s),
        upstream=report.upstream,
        bound=bound,
        shadowed=report.shadowed,
        fit_max_tokens=report.fit_max_tokens,
        client_request_id=report.client_request_id,
    )


def _ms(seconds: float) -> float:
    return int(seconds * 1_000_000) / 1000
