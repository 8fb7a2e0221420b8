"""Admitting: whether a call may go on, what it holds while it does, and what a refusal says.

What belongs here: asking the limiter, lowering a call to what remains where its client wants that, and the errors and
headers of a refusal. What does not: the numbers (core/fitting.py, core/quotas.py), and the call's way (gateway.py).

A call with ``X-RateLimit-Fit: true`` that has no room is asked for again with less: the largest ``max_tokens`` that the
refusal left room for, but no less than the floor. Each time the limiter takes the whole need or nothing. Where not even
the floor has room, it is the floor that is refused: so ``Retry-After`` is the time at which the same call is served.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, NoReturn

import msgspec

from proxy.core.errors import invalid_parameter, invalid_request, rate_limited, unavailable
from proxy.core.fitting import CostLine, asked_of, cost_line, largest_fit, least_of, lowered, whole
from proxy.core.limit_names import CREDIT, PURCHASE_CREDIT
from proxy.core.limits import NEVER_MS, Admission
from proxy.core.quotas import cost_bound_pico
from proxy.core.refusals import FIT_UNTOUCHED, fit_lines, refused_lines, too_large_lines, unpaid_lines
from proxy.core.usage import TariffClass
from proxy.incoming import Incoming
from proxy.limiter import Limiter, LimiterUnavailableError
from proxy.observer import Report
from proxy.settings.types import Settings
from proxy.settlement import Flight, Settlement

LOWERED_MAX: Final = 2
"""How often a call is lowered: once to what was left, and once more if others were faster."""


class Admitting:
    """Asks for room.

    Args:
        settings: returns the settings in force.
        limiter: knows what has room.
        settlement: keeps what has been admitted.
    """

    def __init__(self, settings: Callable[[], Settings], limiter: Limiter, settlement: Settlement) -> None:
        self._settings = settings
        self._limiter = limiter
        self._settlement = settlement

    async def admit(self, incoming: Incoming, flight: Flight, report: Report) -> Admission:
        """Admit a call, lowered if it has to be and wants to be.

        Raises:
            ApiError: 429; 400 when it can never be admitted; 503 when nothing is known.
        """
        admission = await self._ask(flight)
        if incoming.wants_fit() and flight.call.output_tokens_max:
            report.said = FIT_UNTOUCHED
            if not admission.admitted:
                admission = await self._fit(flight, report, admission)
        if flight.allowance.in_shadow:
            report.shadowed = flight.allowance.would_refuse(admission, flight.needs)
        if not admission.admitted:
            self._refuse(flight, report, admission)
        self._settlement.began(flight)
        return admission

    async def refuse_unpaid(self, report: Report) -> NoReturn:
        """Refuse a call of an account whose tier waits for its purchase credit.

        Raises:
            ApiError: 429.
        """
        assert report.principal is not None
        assert report.allowance is not None
        report.said = unpaid_lines(PURCHASE_CREDIT, None)
        with contextlib.suppress(LimiterUnavailableError):  # then without limit headers
            looked = await self._limiter.peek(report.principal.account.id, report.allowance.limits)
            report.admission = msgspec.structs.replace(
                looked, admitted=False, bound=PURCHASE_CREDIT, retry_after_ms=NEVER_MS
            )
        raise rate_limited()

    async def _ask(self, flight: Flight) -> Admission:
        try:
            return await self._limiter.admit(
                flight.principal.account.id, flight.call_id, flight.allowance.limits, flight.needs
            )
        except LimiterUnavailableError as exc:
            self._settlement.release(flight)  # nothing is known about what the store did
            raise unavailable() from exc
        except asyncio.CancelledError:
            self._settlement.release(flight)
            raise

    async def _fit(self, flight: Flight, report: Report, refusal: Admission) -> Admission:
        """Ask for less, until it is granted or there is nothing less to ask for; return the last answer."""
        wanted = flight.call
        asked = asked_of(wanted)
        least = least_of(wanted, self._settings().proxy.limiter.fit_tokens_min)
        answer = refusal
        for _ in range(LOWERED_MAX):
            fit = max(_largest(flight, answer), least)
            if fit >= asked:
                break
            asked = fit
            report.call = flight.call = lowered(wanted, fit)
            cost = cost_bound_pico(flight.call, flight.prices, TariffClass.STANDARD)
            flight.needs = flight.allowance.needs(flight.call.output_tokens_max, cost)
            answer = await self._ask(flight)
            if answer.admitted:
                report.fit_max_tokens = fit
                report.said = fit_lines(fit)
                break
        return answer

    def _refuse(self, flight: Flight, report: Report, refusal: Admission) -> None:
        report.admission = refusal
        limits = flight.allowance.limits
        is_text = bool(flight.call.output_tokens_max)
        fit = _largest(flight, refusal) if is_text else None
        if refusal.bound == CREDIT:
            report.said = unpaid_lines(CREDIT, fit)
            raise rate_limited()
        if all(need <= limit.capacity for limit, need in zip(limits, flight.needs, strict=True)):
            report.said = refused_lines(refusal, fit)
            raise rate_limited()
        report.said = too_large_lines(refusal, fit)
        largest = largest_fit(limits, whole(limits), flight.call, _cost(flight)) if is_text else 0
        if not largest:
            raise invalid_request("The request may cost more than your tier's whole limit")
        raise invalid_parameter(
            "max_tokens", f"may use more than the whole limit {refusal.bound}; at most {largest} can ever fit"
        )


def _cost(flight: Flight) -> CostLine:
    return cost_line(flight.call, flight.prices, TariffClass.STANDARD)


def _largest(flight: Flight, answer: Admission) -> int:
    return largest_fit(flight.allowance.limits, answer.states, flight.call, _cost(flight))
