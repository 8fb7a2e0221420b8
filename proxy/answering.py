"""Whole answers: what was used, counted where it was not told, and what the customer gets.

What belongs here: reading an answer that has been collected, of a call or of a line of a batch. What does not: streams
(gateway.py), and what each engine says (core/meters/).
"""

from collections.abc import Callable
from typing import Final

from proxy.core.calls import Shown
from proxy.core.catalogue import TokenizerError, Upstream
from proxy.core.errors import ApiError, unavailable
from proxy.core.meters import BodyMeter, Reading
from proxy.counting import Counting
from proxy.settlement import Flight
from proxy.upstream.documented import documented_error, failure_error
from proxy.upstream.relay import Relay

OK: Final = 200


class Answering:
    """Reads answers.

    Args:
        counting: where tokens are counted that no upstream told.
        on_failure: told of a count that failed.
    """

    def __init__(self, counting: Counting, on_failure: Callable[[str, BaseException], None]) -> None:
        self._counting = counting
        self._on_failure = on_failure

    async def count(self, flight: Flight, relay: Relay) -> None:
        """Count in a thread what an answer did not tell; when that fails, the estimate stands."""
        count = flight.endpoint.count
        if count is None or flight.call.model.tokenizer is None:
            return
        reading = read(flight, relay)
        if reading is not None and reading.usage.is_estimated:
            try:
                flight.call = await self._counting.run(count, flight.call)
            except TokenizerError as exc:
                self._on_failure("count", exc)
            else:
                meter = relay.meter
                if isinstance(meter, BodyMeter):  # it was made before the count
                    assert flight.endpoint.body_meter is not None
                    assert isinstance(flight.upstream, Upstream)
                    meter.judge_like(flight.endpoint.body_meter(flight.upstream.engine, flight.call))


def read(flight: Flight, relay: Relay) -> Reading | None:
    """Read the usage of a whole answer; None: it is none."""
    if relay.whole and relay.meter is not None:
        return relay.meter.finish()
    if relay.error is not None or relay.status != OK:
        return None
    assert isinstance(flight.upstream, Upstream)
    reading = flight.endpoint.read_body(flight.upstream.engine, relay.body, flight.call)
    return reading if reading.complete else None


def error_of(relay: Relay) -> ApiError:
    """Return the documented error for what came instead of an answer."""
    if relay.error is not None:
        return failure_error(relay.error.kind)
    return documented_error(relay.status, relay.body) if relay.status != OK else unavailable()


def shown(flight: Flight, relay: Relay) -> Shown:
    """Return a whole answer as its customer gets it."""
    show = flight.endpoint.show
    if show is None:
        return Shown(relay.body)
    assert isinstance(flight.upstream, Upstream)
    return show(flight.upstream.engine, relay.body, flight.call, flight.call_id)
