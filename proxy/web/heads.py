"""Heads of requests, judged: how many bytes and lines, and where the body ends.

What belongs here: which heads will be served. What does not: the bytes they were read from (http.py).

Anything that could be read in two ways (RFC 9112, section 6.3) is refused: a proxy that guesses where a request ends
can be made to see another request than its neighbours do.
"""

from typing import Final

HEAD_BYTES_MAX: Final = 65_536
HEADERS_MAX: Final = 128

NOT_HTTP: Final = "The request is not valid HTTP"
TOO_LARGE: Final = "The request head is too large"

_NOTED: Final = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"expect",
        b"origin",
        b"transfer-encoding",
        b"upgrade",
        b"x-ratelimit-fit",
        b"x-request-id",
    }
)
"""Headers that mean something to the server itself."""

_CHUNKED_BY_VERSION: Final = {"1.0": False, "1.1": True}


class RefusedHeadError(ValueError):
    """This head will not be served; raised through the parser, which then takes nothing more."""


def noted_of(headers: list[tuple[bytes, bytes]], target: bytes, bytes_received: int) -> dict[bytes, bytes]:
    """Return the headers that mean something to the server itself, the first of each name.

    Args:
        headers: names in lower case.
        target: request target.
        bytes_received: at most so many bytes the head can have, without counting them.

    Raises:
        RefusedHeadError: it is too large.
    """
    if len(headers) > HEADERS_MAX or (
        bytes_received > HEAD_BYTES_MAX
        and len(target) + sum(len(name) + len(value) for name, value in headers) > HEAD_BYTES_MAX
    ):
        raise RefusedHeadError(TOO_LARGE)
    noted: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _NOTED and name not in noted:
            noted[name] = value
    return noted


def takes_chunks(version: str, noted: dict[bytes, bytes]) -> bool:
    """Return whether the client understands chunked transfer coding (HTTP/1.1).

    Raises:
        RefusedHeadError: another version, or a body whose end can be seen in two places.
    """
    chunked = _CHUNKED_BY_VERSION.get(version)
    if chunked is None:
        raise RefusedHeadError(NOT_HTTP)
    coding = noted.get(b"transfer-encoding")
    if coding is not None and (not chunked or coding.strip().lower() != b"chunked" or b"content-length" in noted):
        raise RefusedHeadError(NOT_HTTP)
    return chunked
