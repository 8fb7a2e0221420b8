"""Requests that are forms.

What belongs here: a form's bounds as a request, and when its files end. What does not: its parts (forms.py).
"""

import contextlib
from collections.abc import AsyncGenerator, Callable

from proxy.core.calls import Form
from proxy.core.errors import invalid_request
from proxy.web.exchange import Exchange
from proxy.web.forms import COMPRESSED, OVERHEAD_BYTES_MAX, FormReader, Meter
from proxy.web.spool import Spool


class _Unmeasured:
    """Measures nothing: not every file is audio."""

    def feed(self, piece: bytes | memoryview) -> None:
        """Pass over it."""

    def duration_ms(self) -> int | None:
        """Return that nothing is known."""
        return None


def reader_of(exchange: Exchange, spool: Spool, new_meter: Callable[[], Meter]) -> FormReader:
    """Return what reads a request as a form; to be closed. Raises ApiError (400)."""
    if exchange.noted.get(b"content-encoding", b"identity").lower() != b"identity":
        raise invalid_request(COMPRESSED)
    content_type = next((value for name, value in exchange.headers if name == b"content-type"), b"")
    return FormReader(content_type, spool, new_meter)


@contextlib.asynccontextmanager
async def read_form(
    exchange: Exchange, spool: Spool, timeout_s: float, file_bytes_max: int
) -> AsyncGenerator[Form, None]:
    """Read a request as a form with a file; its files end with the block.

    Args:
        exchange: the request.
        spool: where its files wait.
        timeout_s: for each started 8 MiB.
        file_bytes_max: how large the file may be.

    Raises:
        ApiError: 400, 408, 413 or 503.
    """
    reader = reader_of(exchange, spool, _Unmeasured)
    try:
        yield await reader.read(exchange.pieces(file_bytes_max + OVERHEAD_BYTES_MAX, timeout_s))
    finally:
        reader.close()
