"""The contract of a meter.

What belongs here: the values and the protocol that gateway and meters exchange. What does not: any format.
"""

from typing import Protocol

import msgspec

from proxy.core.usage import Usage


class Reading(msgspec.Struct, frozen=True):
    """What a meter has found.

    Args:
        usage: disjoint quantities with their sources; never silently zero.
        complete: whether the answer's own end was seen (``[DONE]``, a finish_reason for every choice, a whole body).
        failed: whether the answer's last word is an error of the upstream; then it is not complete.
    """

    usage: Usage
    complete: bool
    failed: bool = False


class StreamMeter(Protocol):
    """Reads a stream of server-sent events as it is relayed. Pure: bytes in, bytes out."""

    def feed(self, piece: bytes) -> bytes:
        """Take the next bytes of the body, cut anywhere; return what may go to the client now.

        What is returned, joined with ``tail()``, is the upstream's body byte for byte, less what the client did not ask
        for. Held back until ``tail``: an unfinished line, and everything from the line that ends the stream on.
        """
        ...

    def known(self) -> Usage:
        """Return the usage as far as it is known now (for checkpoints, heartbeats and broken streams)."""
        ...

    def tail(self) -> bytes:
        """Return what was held back; to be called once, after the last piece."""
        ...

    def finish(self) -> Reading:
        """Return the final reading; after ``tail``, or instead of it when the stream broke."""
        ...


class EventMeter(StreamMeter, Protocol):
    """Reads a stream of chat chunks, and can end one early."""

    def cut(self, kept: bytes) -> bytes:
        """Return what ends the stream here as if its limit had been reached, in the shape that its client gets.

        To be called once, instead of ``tail``; ``finish`` gives the reading of what has been fed.

        Args:
            kept: lines of the upstream that have not been fed: they show the shape when nothing else has been seen.
        """
        ...
