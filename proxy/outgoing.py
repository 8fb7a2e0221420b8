"""What is written within one turn of the event loop, gathered and sent at its end, one right after the other.

What belongs here: when. What does not: bytes, and what must not wait (a piece of a stream).

A turn that has twenty answers to send sends them anyway. Sent from within the work on each, every one wakes a reader
that has gone to sleep since the one before, and drives what the next needs out of the caches. Sent together, the first
wakes it, and the rest find it awake. What that is worth: docs/decisions/0030-writes-of-one-turn.md.
"""

import asyncio
from typing import Protocol


class Writer(Protocol):
    """Has something to send."""

    def send_posted(self) -> None:
        """Send it, if it has not been sent or dropped meanwhile. Must not raise."""


class Outgoing:
    """Gathers writers, each of which keeps what it has to send."""

    def __init__(self) -> None:
        self._writers: list[Writer] = []

    def gather(self, writer: Writer) -> None:
        """Have a writer asked to send what it has, once this turn has done what it knows of."""
        if not self._writers:
            asyncio.get_running_loop().call_soon(self._send)
        self._writers.append(writer)

    def _send(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.send_posted()
