"""The meter: recognises a format by its first bytes, and hands the bytes to its reader.

What belongs here: recognition. What does not: any format.
"""


class DurationMeter:
    """Measures how long a file plays, from its bytes in order.

    Cut in any way the same bytes give the same answer. Memory is bounded, whatever comes; nothing is raised.
    """

    __slots__ = ()

    def feed(self, piece: bytes | memoryview) -> None:
        """Take the next bytes."""

    def duration_ms(self) -> int | None:
        """Return how long it plays, in whole milliseconds, after the last piece; None: it cannot be read as audio."""
        return None
