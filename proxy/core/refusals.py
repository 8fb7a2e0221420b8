"""Refusals: what a refused call is told beyond its documented body, and a call that was lowered to fit. Pure.

What belongs here: the header lines that help a client to do something about it, by instants and amounts. What does not:
how long its SDK is told to sleep (headers.py), and the numbers (fitting.py).
"""

from typing import Final

from proxy.core.headers import refusal_lines, wait_of
from proxy.core.limits import Admission

FIT_UNTOUCHED: Final = b"X-RateLimit-Fit: untouched\r\n"
"""Said to a client that would have taken less, and got what it asked for."""


def fit_lines(max_tokens: int) -> bytes:
    """Return what the answer to a call says that was lowered to this ``max_tokens``."""
    return b"X-RateLimit-Fit: lowered\r\nX-RateLimit-Fit-Max-Tokens: %d\r\n" % max_tokens


def refused_lines(answer: Admission, fit_max_tokens: int | None) -> bytes:
    """Return what a 429 says: which limit bound, when to come back and whether to try at all, and what would do now.

    ``X-RateLimit-Retry-At`` is when this very call has room if nothing else happens, ``X-RateLimit-Whole-At`` when the
    limit that bound is whole again: Unix seconds, rounded up, as the documented ``-Reset-`` is.

    Args:
        answer: a refusal that ends.
        fit_max_tokens: the largest ``max_tokens`` that has room now; None: the call generates no text.
    """
    retry_at_s = -(-(answer.now_ms + max(1, wait_of(answer))) // 1000)
    whole_at_s = next(-(-state.reset_ms // 1000) for state in answer.states if state.name == answer.bound)
    instants = f"X-RateLimit-Retry-At: {retry_at_s}\r\nX-RateLimit-Whole-At: {whole_at_s}\r\n"
    return refusal_lines(answer) + instants.encode() + _largest_line(fit_max_tokens)


def too_large_lines(answer: Admission, fit_max_tokens: int | None) -> bytes:
    """Return what a 400 says to a call that needs more than a whole limit: no wait would help."""
    assert answer.bound is not None
    bound = b"X-RateLimit-Bound: %b\r\nx-should-retry: false\r\n" % answer.bound.encode()
    return bound + _largest_line(fit_max_tokens)


def unpaid_lines(bound: str, fit_max_tokens: int | None) -> bytes:
    """Return what a 429 says that only a purchase of credit ends: there is nothing to wait for.

    Args:
        bound: what has to be paid.
        fit_max_tokens: as for ``refused_lines``.
    """
    return b"X-RateLimit-Bound: %b\r\nx-should-retry: false\r\n" % bound.encode() + _largest_line(fit_max_tokens)


def _largest_line(fit_max_tokens: int | None) -> bytes:
    return b"" if fit_max_tokens is None else b"X-RateLimit-Fit-Max-Tokens: %d\r\n" % fit_max_tokens
