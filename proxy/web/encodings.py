"""Compressed request bodies, made plain.

What belongs here: the content codings that a customer may use. What does not: receiving a body (exchange.py).
"""

import asyncio
import zlib

from proxy.core.errors import body_too_large, invalid_request

_EITHER_HEADER = 32 + zlib.MAX_WBITS
"""zlib's way to say: gzip or zlib, whichever it is."""
_DEFLATE = 8


async def decoded(body: bytes, coding: bytes, bytes_max: int) -> bytes:
    """Return a body without its content coding (``gzip``, ``deflate``); done in a thread, for it can take a while.

    Raises:
        ApiError: 400 when the coding is unknown or the body is not in it, 413 when there is more than ``bytes_max``.
    """
    name = coding.strip().lower()
    if name in {b"", b"identity"}:
        return body
    if name not in {b"gzip", b"x-gzip", b"deflate"}:
        raise invalid_request("Unsupported Content-Encoding: use gzip, deflate or none")
    return await asyncio.to_thread(_inflated, body, bytes_max)


def _inflated(body: bytes, bytes_max: int) -> bytes:
    headless = bool(body) and body[0] & 0x0F != _DEFLATE and not body.startswith(b"\x1f\x8b")
    inflate = zlib.decompressobj(-zlib.MAX_WBITS if headless else _EITHER_HEADER)  # "deflate" is sent both ways
    try:
        plain = inflate.decompress(body, bytes_max + 1)
    except zlib.error as exc:
        raise invalid_request("The request body is broken") from exc
    if len(plain) > bytes_max:
        raise body_too_large(bytes_max)
    if not inflate.eof or inflate.unused_data:  # cut short, or several in one, which no client sends
        raise invalid_request("The request body is broken")
    return plain
