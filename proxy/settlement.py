"""Settlement: from what a call used to what is owed, durably.

What belongs here: pricing a reading, committing the entry to the outbox and telling the limiter, in that order; and the
heartbeats and checkpoints of calls in flight. What does not: the call's way (gateway.py).
"""

import asyncio
from collections.abc import Callable

from proxy.clock import unix_ms
from proxy.core.accounts import Principal
from proxy.core.calls import PreparedCall
from proxy.core.catalogue import Tier, Upstream
from proxy.core.endpoints import Endpoint
from proxy.core.entries import Charge, Entry, Outcome
from proxy.core.pricing import PriceVersion
from proxy.core.quotas import Allowance
from proxy.core.usage import NOTHING, TariffClass, Usage
from proxy.ledger.outbox import Outbox
from proxy.limiter import Limiter, LimiterUnavailableError
from proxy.tasks import Tasks
from proxy.upstream.relay import Relay


class Flight:
    """A call that has been admitted and is not settled yet: everything that its settlement needs."""

    __slots__ = (
        "admitted_ms",
        "allowance",
        "call",
        "call_id",
        "day",
        "endpoint",
        "is_settling",
        "month",
        "needs",
        "prices",
        "principal",
        "relay",
        "tariff_class",
        "tier",
        "upstream",
    )

    def __init__(
        self,
        call_id: str,
        principal: Principal,
        tier: Tier,
        endpoint: Endpoint,
        call: PreparedCall,
        allowance: Allowance,
        needs: tuple[int, ...],
        prices: PriceVersion,
        month: str,
        day: str,
        admitted_ms: int,
        tariff_class: TariffClass = TariffClass.STANDARD,
    ) -> None:
        self.call_id = call_id
        self.principal = principal
        self.tier = tier
        self.endpoint = endpoint
        self.call = call
        self.allowance = allowance
        self.needs = needs
        self.prices = prices
        self.month = month
        self.day = day
        self.admitted_ms = admitted_ms
        self.tariff_class = tariff_class
        self.upstream: Upstream | None = None
        self.relay: Relay | None = None
        self.is_settling = False

    def known(self) -> Usage:
        """Return what the call is known to have used so far."""
        if self.relay is None or not self.relay.streaming or self.relay.meter is None:
            return NOTHING
        return self.relay.meter.known()


class Settlement:
    """Settles calls and keeps those in flight alive.

    Args:
        outbox: the durable file.
        limiter: where holds are.
        tasks: where settlements run that nobody waits for.
        heartbeat_s: interval of heartbeats and checkpoints, seconds.
        on_error: told of a heartbeat that failed.
    """

    def __init__(
        self,
        outbox: Outbox,
        limiter: Limiter,
        tasks: Tasks,
        heartbeat_s: float,
        on_error: Callable[[str, Exception], None],
    ) -> None:
        self._outbox = outbox
        self._limiter = limiter
        self._tasks = tasks
        self._heartbeat_s = heartbeat_s
        self._on_error = on_error
        self.in_flight: dict[str, Flight] = {}

    def began(self, flight: Flight) -> None:
        """A call has been admitted."""
        self.in_flight[flight.call_id] = flight

    def ended(self, flight: Flight) -> None:
        """A call is over whose entry goes another way: its hold is no longer kept alive here."""
        self.in_flight.pop(flight.call_id, None)

    def rate(self, flight: Flight, usage: Usage, outcome: Outcome) -> Charge:
        """Price what a call used; what a failing upstream had produced is free unless the tier says otherwise."""
        if outcome is Outcome.UPSTREAM_FAILED and not flight.tier.bill_failed_upstream:
            usage = NOTHING
        return flight.prices.rate(flight.call.model.id, usage, flight.tariff_class)

    async def commit(self, flight: Flight, usage: Usage, charge: Charge, outcome: Outcome) -> None:
        """Make the entry durable and replace the hold by the truth. ``usage`` is what was delivered, billed or not.

        Raises:
            OutboxError: the entry could not be written; the limiter is told all the same.
        """
        flight.is_settling = True
        try:
            await self._outbox.commit(entry_of(flight, charge, outcome, unix_ms()))
        finally:
            self.in_flight.pop(flight.call_id, None)
            used = flight.allowance.amounts(usage.output_tokens, charge.total_pico)
            rest = self._limiter.settle_soon(flight.principal.account.id, flight.call_id, flight.allowance.limits, used)
            if rest is not None:
                self._tasks.spawn(rest, "settle")

    def release(self, flight: Flight) -> None:
        """Give back the hold of a call that used nothing."""
        self.in_flight.pop(flight.call_id, None)
        self._outbox.forget(flight.call_id)
        self._tasks.spawn(self._release_limits(flight), "release")

    def drop(self, call_id: str) -> None:
        """Give back the hold of a call that came to grief, if it still has one."""
        flight = self.in_flight.get(call_id)
        if flight is not None:
            if flight.relay is not None:
                flight.relay.abort()
            self.release(flight)

    async def _release_limits(self, flight: Flight) -> None:
        await self._limiter.release(flight.principal.account.id, flight.call_id, flight.allowance.limits)

    async def beat(self) -> None:
        """Renew holds and leave checkpoints until cancelled."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            await self.beat_once(unix_ms())

    async def beat_once(self, now_ms: int) -> None:
        """Renew the hold of every call that is older than an interval; checkpoint what its stream has produced."""
        oldest = now_ms - int(self._heartbeat_s * 1000)
        renewals = [self._renew(flight) for flight in list(self.in_flight.values()) if flight.admitted_ms <= oldest]
        for result in await asyncio.gather(*renewals, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, LimiterUnavailableError):
                self._on_error("heartbeat", result)

    async def _renew(self, flight: Flight) -> None:
        if flight.is_settling or flight.call_id not in self.in_flight:
            return
        usage = flight.known()
        charge = flight.prices.rate(flight.call.model.id, usage, flight.tariff_class)
        if usage.quantities:
            self._outbox.checkpoint(entry_of(flight, charge, Outcome.INTERRUPTED, unix_ms()))
        used = flight.allowance.amounts(usage.output_tokens, charge.total_pico)
        await self._limiter.extend(flight.principal.account.id, flight.call_id, flight.allowance.limits, used)


def entry_of(flight: Flight, charge: Charge, outcome: Outcome, settled_ms: int) -> Entry:
    """Return the entry of a call that has ended, or of as much of it as is known."""
    return Entry(
        call_id=flight.call_id,
        account_id=flight.principal.account.id,
        month=flight.month,
        day=flight.day,
        key_id=flight.principal.key.id,
        tier=flight.tier.id,
        endpoint=flight.endpoint.route,
        model=flight.call.model.id,
        tariff_class=flight.tariff_class,
        outcome=outcome,
        admitted_ms=flight.admitted_ms,
        settled_ms=settled_ms,
        charge=charge,
        upstream=flight.upstream.name if flight.upstream is not None else "",
        streamed=flight.call.stream,
    )
