"""How an exchange with an upstream can fail, in words that the gateway maps to documented errors."""

from enum import StrEnum


class FailureKind(StrEnum):
    """What went wrong; also a metric label."""

    UNREACHABLE = "unreachable"
    """No connection could be opened."""
    SATURATED = "saturated"
    """Its bound of calls in flight is reached."""
    CLOSED = "closed"
    """It closed the connection before the first byte of an answer."""
    BROKEN = "broken"
    """It broke off in the middle of an answer."""
    INVALID = "invalid"
    """What it sent is no HTTP answer."""
    TIMEOUT = "timeout"
    """It was silent for too long."""
    TOO_LARGE = "too_large"
    """Its answer exceeds what is kept in memory."""
    INTERNAL = "internal"
    """Not its fault: ours."""
    CLIENT_STALLED = "client_stalled"
    """Not its fault: the client stopped reading for too long."""


class UpstreamError(Exception):
    """An exchange failed.

    Args:
        kind: what went wrong.
        detail: for the log only; never shown to a customer.
    """

    def __init__(self, kind: FailureKind, detail: str = "") -> None:
        super().__init__(f"{kind.value}: {detail}" if detail else kind.value)
        self.kind = kind
