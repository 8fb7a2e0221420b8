"""Answers whose bodies are too large for memory, sent piece by piece.

What belongs here: back-pressure, and what becomes of an answer that breaks off. What does not: where the pieces come
from (views/), and streams of upstreams (upstream/relay.py).
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from proxy.incoming import Answer
from proxy.telemetry.logs import log_failure
from proxy.web.exchange import Exchange


class _Gate:
    """Open while the client keeps up (``proxy.web.exchange.Pausable``)."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def pause(self) -> None:
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    async def passed(self, stall_s: float) -> None:
        """Wait until the client has taken enough. Raises TimeoutError."""
        if not self._open.is_set():
            async with asyncio.timeout(stall_s):
                await self._open.wait()


async def send(exchange: Exchange, answer: Answer, pieces: AsyncGenerator[bytes, None], stall_s: float) -> None:
    """Send an answer; the next piece is read when the client has taken enough of those before.

    A client that takes nothing for ``stall_s`` is left. When the pieces end too early the connection is cut, so that
    what the client has cannot be taken for whole.

    Raises:
        CancelledError: the client has left.
    """
    gate = _Gate()
    left = answer.size_bytes
    async with contextlib.aclosing(pieces):
        if not exchange.begin(answer.status, answer.content_type, answer.lines, left):
            return
        exchange.attach(gate)
        try:
            async for piece in pieces:
                left -= len(piece)
                if left < 0 or not exchange.write(piece):
                    break
                await gate.passed(stall_s)
        except TimeoutError:
            exchange.abort()
        except Exception as exc:  # noqa: BLE001 - the head has been sent: there is no other answer any more
            log_failure("sending", exc)
            exchange.abort()
        else:
            if left:
                exchange.abort()
        finally:
            exchange.attach(None)
