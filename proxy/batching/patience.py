"""Patience: what a failed attempt means for a line, and how long it goes on trying.

What belongs here: which failures say something about the request, and which about the upstream. What does not: the way
of a line (running.py).

- Refused for what it asks, or an answer too large to be kept: there is no use in trying again.
- Busy, away, or our key or our catalogue is wrong: it waits as long as its batch may, a minute at most between two
  attempts.
- Closed without a word, as what stands before an upstream that is away may do: ``PATIENCE`` attempts, a quarter of an
  hour. It may also be a request that breaks its upstream, and that is not sent for a day.
- Anything else (500, broken off, no answer in time, no answer of ours): four attempts.
"""

from typing import Final

import msgspec

from proxy.answering import error_of
from proxy.core.errors import ApiError, internal
from proxy.upstream.documented import failure_error
from proxy.upstream.failures import FailureKind, UpstreamError
from proxy.upstream.relay import Relay

PATIENCE: Final = 20

_WAITS: Final = frozenset({401, 403, 404, 408, 429, 502, 503, 504})
_REFUSED: Final = frozenset({400, 405, 413, 415, 422})
_COST: Final = 5
_COSTS: Final = {FailureKind.UNREACHABLE: 0, FailureKind.SATURATED: 0, FailureKind.CLOSED: 1}


class Failure(msgspec.Struct, frozen=True):
    """A failed attempt.

    Args:
        error: what its owner is told, if it was the last.
        cost: what it takes of the line's patience.
    """

    error: ApiError
    cost: int


def failure_of(relay: Relay) -> Failure:
    """Return what came instead of an answer."""
    error = error_of(relay)
    if relay.error is not None:
        return Failure(error, PATIENCE if relay.error.kind is FailureKind.TOO_LARGE else _cost(relay.error))
    if relay.status in _REFUSED:
        return Failure(error, PATIENCE)
    return Failure(error, 0 if relay.status in _WAITS else _COST)


def not_sent(error: UpstreamError) -> Failure:
    """Return that no upstream could begin."""
    return Failure(failure_error(error.kind), _cost(error))


def refused_by_us(error: ApiError) -> Failure:
    """Return that it cannot be sent as it is."""
    return Failure(error, PATIENCE)


def unexpected() -> Failure:
    """Return that something failed here that should not."""
    return Failure(internal(), _COST)


def _cost(error: UpstreamError) -> int:
    return _COSTS.get(error.kind, _COST)
