"""Header lines, as bytes: what goes to upstreams, what goes to clients, and what limits say about themselves. Pure.

What belongs here: which headers pass a proxy and which end at it (RFC 9110 section 7.6.1), and the limit headers.
Lines end with CRLF. Values come from a parser that refuses CR and LF, or are made here.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from proxy.core.limit_names import (
    BUDGET_NAMES,
    IN_FLIGHT_NAMES,
    OUTPUT_TOKENS_DAY,
    OUTPUT_TOKENS_HOUR,
    REQUESTS,
)
from proxy.core.limits import NEVER_MS, UNLIMITED, Admission, Limit, LimitKind, LimitState, Measure

RETRY_SOON_MS: Final = 60_000
"""Up to here a client is told to wait and retry; SDKs sleep no longer, or sleep anything (see docs/wire.md)."""
RETRY_IN_FLIGHT_MS: Final = 1000
"""When to come back when too many calls are in flight: one may end at any moment, and a late look costs the client."""

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_ENDS_HERE: Final = _HOP_BY_HOP | {
    # ours to set for the upstream
    b"host",
    b"authorization",
    b"content-length",
    b"accept-encoding",
    b"x-request-id",
    b"traceparent",
    b"content-encoding",
    b"content-type",
    # not the upstream's business: who the customer is, and what only this proxy may claim
    b"cookie",
    b"expect",
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-real-ip",
    b"x-api-key",
    b"api-key",
    b"x-ratelimit-fit",
    # which page a browser calls from is ours to judge: some engines refuse what they do not know
    b"origin",
    b"referer",
}
_LOOKED_AT: Final = _ENDS_HERE | {b"tracestate"}
_ANSWER_ENDS_HERE: Final = _HOP_BY_HOP | {
    b"content-length",
    b"date",
    b"server",
    b"set-cookie",
    b"x-request-id",
    b"retry-after",
    b"retry-after-ms",
    b"x-should-retry",
    b"ratelimit",
    b"ratelimit-policy",
    b"alt-svc",
    b"strict-transport-security",
    b"content-type",
    b"cache-control",
    b"vary",  # neither origin nor codings that a client takes reach an upstream
}
_OURS_TO_SAY: Final = (b"x-ratelimit-", b"access-control-")
_TITLES: Final = {
    REQUESTS: "Requests",
    OUTPUT_TOKENS_HOUR: "Output-Tokens-Hour",
    OUTPUT_TOKENS_DAY: "Output-Tokens-Day",
}
_TRACEPARENT: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def _connection_listed(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Names that the Connection header declares hop-by-hop."""
    listed = [
        part.strip().lower() for name, value in headers if name.lower() == b"connection" for part in value.split(b",")
    ]
    return frozenset(listed) - {b"close", b"keep-alive"}


def upstream_lines(headers: Iterable[tuple[bytes, bytes]], call_id: str) -> bytes:
    """Return the header lines that a request keeps on its way to an upstream, with our request id and trace context.

    Names are in lower case. A valid ``traceparent`` keeps its trace and gets our span as parent; otherwise a trace
    begins here, named by the call id.
    """
    lines = []
    trace = state = b""
    hops: frozenset[bytes] | None = None
    for name, value in headers:
        if name not in _LOOKED_AT:
            lines.append(b"%b: %b\r\n" % (name, value))
        elif name == b"traceparent":
            trace = value.strip()
        elif name == b"tracestate":
            state = value
        elif name == b"connection":
            hops = _connection_listed(headers)
    if hops:
        lines = [line for line in lines if line.partition(b":")[0] not in hops]
    identity = call_id.encode()
    compact = identity.replace(b"-", b"")
    if trace and _TRACEPARENT.fullmatch(trace):
        parent = b"%b-%b-%b" % (trace[:35], compact[16:], trace[53:])
        if state:
            lines.append(b"tracestate: %b\r\n" % state)
    else:
        parent = b"00-%b-%b-00" % (compact, compact[16:])
    lines.append(b"x-request-id: %b\r\ntraceparent: %b\r\n" % (identity, parent))
    return b"".join(lines)


def answer_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the header lines of an upstream's answer that a client gets, but for those the proxy sets itself."""
    kept = []
    hops: frozenset[bytes] | None = None
    for line in headers:
        name = line[0]
        if name not in _ANSWER_ENDS_HERE:
            if not name.startswith(_OURS_TO_SAY):
                kept.append(line)
        elif name == b"connection":
            hops = _connection_listed(headers)
    if hops:
        kept = [line for line in kept if line[0] not in hops]
    return b"".join([b"%b: %b\r\n" % line for line in kept])


class LimitHeaders:
    """The limit headers of the answers to accounts with certain limits: everything constant is made once.

    The documented trios: ``X-RateLimit-Reset-…`` is Unix seconds, rounded up, at which the limit is whole again. Only
    the account's own limits of requests and tokens have one. The IETF pair follows
    draft-ietf-httpapi-ratelimit-headers, and shows those of its key, of the model and of calls in flight too; first
    comes the limit that bound, or else the one with the least room. Budgets, and what refuses nothing, are not shown.
    """

    def __init__(self, limits: Sequence[Limit]) -> None:
        shown = [(i, limit) for i, limit in enumerate(limits) if limit.kind is LimitKind.WINDOW and _refuses(limit)]
        titled = [(index, limit) for index, limit in shown if limit.name in _TITLES]
        further = [(index, limit) for index, limit in shown if limit.name not in _TITLES]
        self._shown = titled + further
        self._usual = [(index, limit.name, limit.capacity) for index, limit in titled]
        self._further = [(index, limit.name) for index, limit in further]
        self._trios = "".join(
            f"X-RateLimit-Limit-{title}: %d\r\nX-RateLimit-Remaining-{title}: %d\r\nX-RateLimit-Reset-{title}: %d\r\n"
            for title in [_TITLES[limit.name] for _, limit in titled]
        )
        self._forms: dict[tuple[int, ...], bytes] = {}

    def lines(self, answer: Admission) -> bytes:
        """Return the header lines for an admission, or a look at the limits."""
        now_ms, bound, states = answer.now_ms, answer.bound, answer.states
        trios: list[int] = []
        rates: list[tuple[int, int, int, int, int]] = []  # room in millionths, place, capacity, remaining, wait in s
        for index, name, capacity in self._usual:
            state = states[index]
            reset_ms = state.reset_ms
            if state.capacity != capacity:  # only a share of it can be granted now
                capacity = state.capacity  # noqa: PLW2901
            remaining = capacity - state.used - state.held
            remaining = max(remaining, 0)
            trios += (capacity, remaining, -(-reset_ms // 1000))
            if name == bound:
                room, wait_ms = -1, _wait_of_bound(answer, state)
            else:
                room, wait_ms = remaining * 1_000_000 // (capacity or 1), reset_ms - now_ms
            rates.append((room, len(rates), capacity, remaining, -(-wait_ms // 1000) if wait_ms > 0 else 0))
        for index, name in self._further:
            state = states[index]
            capacity, remaining = state.capacity, state.remaining
            if name == bound:
                room, wait_ms = -1, _wait_of_bound(answer, state)
            else:
                room, wait_ms = remaining * 1_000_000 // (capacity or 1), state.reset_ms - now_ms
            rates.append((room, len(rates), capacity, remaining, -(-wait_ms // 1000) if wait_ms > 0 else 0))
        rates.sort()
        order = tuple([rate[1] for rate in rates])
        for rate in rates:
            trios.append(rate[2])
        for rate in rates:
            trios += rate[3:]
        return (self._forms.get(order) or self._form(order)) % tuple(trios)

    def _form(self, order: tuple[int, ...]) -> bytes:
        """Return the lines with places for the numbers, the limits of the IETF pair in this order."""
        limits = [self._shown[place][1] for place in order]
        policies = ", ".join(f'"{limit.name}";q=%d;{_policy(limit)}' for limit in limits)
        rates = ", ".join(f'"{limit.name}";r=%d;t=%d' for limit in limits)
        pair = f"RateLimit-Policy: {policies}\r\nRateLimit: {rates}\r\n" if limits else ""
        form = f"{self._trios}{pair}".encode()
        self._forms[order] = form
        return form


def _refuses(limit: Limit) -> bool:
    return limit.shadow is None and limit.capacity < UNLIMITED


def _policy(limit: Limit) -> str:
    return 'qu="concurrent-requests"' if limit.counts is Measure.CALLS_IN_FLIGHT else f"w={limit.window_s}"


def _wait_of_bound(answer: Admission, state: LimitState) -> int:
    is_endless = answer.retry_after_ms == NEVER_MS
    return state.reset_ms - answer.now_ms if is_endless else wait_of(answer)


def wait_of(answer: Admission) -> int:
    """Return how long a refused client should wait, in milliseconds."""
    assert answer.retry_after_ms is not None
    return RETRY_IN_FLIGHT_MS if answer.bound in IN_FLIGHT_NAMES else answer.retry_after_ms


def shadow_line(names: Sequence[str]) -> bytes:
    """Return what an answer says of the limits in shadow that would have refused the call."""
    return f"X-RateLimit-Shadow: {', '.join(names)}\r\n".encode()


def refusal_lines(answer: Admission) -> bytes:
    """Return what a 429 says beyond its body: which limit bound, when to come back, and whether to try at all.

    ``Retry-After`` is a whole number of seconds, at least 1. A spent budget has none: no client should sleep that long.
    """
    assert answer.bound is not None
    assert answer.retry_after_ms is not None
    lines = [f"X-RateLimit-Bound: {answer.bound}\r\n"]
    if answer.bound in BUDGET_NAMES:
        return f"{lines[0]}x-should-retry: false\r\n".encode()
    wait_ms = max(1, wait_of(answer))
    lines.append(f"Retry-After: {-(-wait_ms // 1000)}\r\n")
    if wait_ms <= RETRY_SOON_MS:
        lines.append(f"retry-after-ms: {wait_ms}\r\nx-should-retry: true\r\n")
    else:
        lines.append("x-should-retry: false\r\n")
    return "".join(lines).encode()
