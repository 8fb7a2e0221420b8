"""Foreign errors made ours: what an upstream says in its own shape, as the documented error.

What belongs here: the mapping. Each engine has its own error shape (``{"error": {…}}`` with a number as code,
``{"detail": …}``, ``{"object": "error", …}``, plain text); a customer gets one. Faults of the upstream, or of our way
of using it, are never shown in its words; faults of the request are, since only the engine knows them.
"""

from typing import Any, Final

import msgspec

from proxy.core.entries import Outcome
from proxy.core.errors import ApiError, internal, invalid_request, unavailable
from proxy.core.meters import Reading
from proxy.upstream.failures import FailureKind, UpstreamError

_REQUEST_FAULTS: Final = frozenset({400, 405, 413, 415, 422})
_INTERNAL_FAULT: Final = 500
_OURS: Final = frozenset({FailureKind.TOO_LARGE, FailureKind.INTERNAL})
MESSAGE_CHARS_MAX: Final = 1000


def failure_error(kind: FailureKind) -> ApiError:
    """Return what a client is told of a failed exchange."""
    return internal() if kind in _OURS else unavailable()


def no_place_lines(retry_after_s: int) -> bytes:
    """Return what the 503 of a call says that was never sent: nothing was begun, so it may be sent again."""
    return b"Retry-After: %d\r\nx-should-retry: true\r\n" % retry_after_s


def error_event(kind: FailureKind) -> bytes:
    """Return a failure in the middle of a stream, as SDKs expect it; the line before it may lack its blank line."""
    return b"\n\ndata: %b\n\n" % failure_error(kind).body


def how_ended(error: UpstreamError | None, reading: Reading, *, is_event_stream: bool = False) -> Outcome:
    """Return how an answer has ended. One that is not complete broke off, whatever its framing says.

    A stream of events has an end of its own, or none: there the framing is believed.
    """
    if error is None:
        return Outcome.FINISHED if reading.complete or is_event_stream else Outcome.UPSTREAM_FAILED
    return Outcome.DISCONNECTED if error.kind is FailureKind.CLIENT_STALLED else Outcome.UPSTREAM_FAILED


def documented_error(status: int, body: bytes) -> ApiError:
    """Return the documented error for an upstream's answer other than 200."""
    if status in _REQUEST_FAULTS:
        message, param = _fault(body)
        return invalid_request(message or "The request was refused by the model server", param)
    if status == _INTERNAL_FAULT:
        return internal()
    # 401, 403, 404: our key or our catalogue is wrong; 408, 429, 5xx: it is busy or away; 3xx: it moved.
    return unavailable()


def _fault(body: bytes) -> tuple[str | None, str | None]:
    """Find message and parameter in any engine's error body."""
    try:
        answer: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None
    if not isinstance(answer, dict):
        return None, None
    error = answer.get("error", answer)
    if isinstance(error, str):
        return _text(error), None
    if not isinstance(error, dict):
        return None, None
    detail = error.get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):  # FastAPI's validation errors
        location = [part for part in detail[0].get("loc", ()) if isinstance(part, str)]
        return _text(detail[0].get("msg")), _text(location[-1] if location else None)
    return _text(error.get("message", detail)), _text(error.get("param"))


def _text(value: object) -> str | None:
    return value[:MESSAGE_CHARS_MAX] if isinstance(value, str) and value else None
