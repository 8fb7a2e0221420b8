"""Cross-origin requests: what a browser must be told before a page of another origin may call (the Fetch standard).

What belongs here: the header lines that allow it. What does not: routes (routes.py), and who may call: a key says that.

An answer to a request without an ``Origin`` says nothing of all this. Cookies play no part: what a page may do with an
answer depends on the key that it sends itself, so by default every origin may ask.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

MAX_AGE_S: Final = 7200
"""How long a browser need not ask again; Chrome takes no more."""
ASKED_BYTES_MAX: Final = 2048
"""Longest list of headers that is allowed as it was asked for; SDKs ask for some 300 bytes."""

EXPOSED: Final = (
    *(
        f"X-RateLimit-{part}-{limit}"
        for limit in ("Requests", "Output-Tokens-Hour", "Output-Tokens-Day")
        for part in ("Limit", "Remaining", "Reset")
    ),
    "RateLimit",
    "RateLimit-Policy",
    "X-RateLimit-Bound",
    "X-RateLimit-Retry-At",
    "X-RateLimit-Whole-At",
    "X-RateLimit-Fit",
    "X-RateLimit-Fit-Max-Tokens",
    "X-RateLimit-Shadow",
    "X-RateLimit-Degraded",
    "Retry-After",
    "retry-after-ms",
    "x-should-retry",
    "x-request-id",
)
"""The headers that a page may read beside those that it always may."""

USUAL: Final = b"authorization, content-type, x-ratelimit-fit, x-request-id, traceparent, tracestate"
"""Allowed where a preflight does not say what it wants, or not in a way that can be read."""

_EXPOSE: Final = f"access-control-expose-headers: {', '.join(EXPOSED)}\r\n".encode()
_EVERY: Final = b"access-control-allow-origin: *\r\n" + _EXPOSE
_PREFLIGHT: Final = (
    b"access-control-allow-methods: %b\r\naccess-control-allow-headers: %b\r\naccess-control-max-age: %d\r\n"
)
_VARY: Final = b"vary: Origin\r\n"
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TOKENS: Final = re.compile(_TOKEN + rb"(?:[ \t]*,[ \t]*" + _TOKEN + rb")*")


def is_allowed(allowed: Sequence[str], origin: bytes) -> bool:
    """Whether pages of an origin may call, by the setting ``cors_origins``."""
    return "*" in allowed or origin.decode("latin-1") in allowed


def answer_lines(allowed: Sequence[str], origin: bytes) -> bytes:
    """Return what every answer to a request from this origin says, whatever else it is.

    An origin that is not allowed is told nothing, and its browser keeps the answer from the page. Where answers depend
    on the origin they say so (``Vary``), that no cache takes one for another.
    """
    if "*" in allowed:
        return _EVERY
    if not allowed:
        return b""
    if not is_allowed(allowed, origin):
        return _VARY
    return b"access-control-allow-origin: %b\r\n%b%b" % (origin, _VARY, _EXPOSE)


def preflight_lines(headers: Iterable[tuple[bytes, bytes]], methods: bytes) -> bytes:
    """Return what the answer to an allowed preflight says beside ``answer_lines``.

    Args:
        headers: of the request, names in lower case.
        methods: of the route.
    """
    asked = b""
    is_private = False
    for name, value in headers:
        if name == b"access-control-request-headers":
            asked = value
        elif name == b"access-control-request-private-network":
            is_private = value == b"true"
    if len(asked) > ASKED_BYTES_MAX or not _TOKENS.fullmatch(asked):
        asked = USUAL
    lines = _PREFLIGHT % (methods, asked, MAX_AGE_S)
    return lines + b"access-control-allow-private-network: true\r\n" if is_private else lines
