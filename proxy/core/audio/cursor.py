"""The cursor: how readers see bytes that come in pieces.

What belongs here: the one way from pieces cut anywhere to steps that never see a cut. What does not: any format.

A reader is a generator. It yields how many bytes it wants to see from ``cursor.at`` on, and is told whether they are
there; False: the file ends before. It moves ``at`` on by itself, also beyond what is there: that skips. What it returns
is the duration. A step must depend on nothing but bytes that it has asked for, so that cuts make no difference.
"""

from collections.abc import Generator
from typing import Final

Steps = Generator[int, bool, int | None]
"""A reader: bytes wanted -> whether they are there; returns milliseconds, None: not its format."""

WINDOW_BYTES_MAX: Final = 1 << 17
"""Most bytes that a reader may ask for at once."""

SAMPLE_RATE_MIN: Final = 2000
SAMPLE_RATE_MAX: Final = 1_000_000

TRIM_MS: Final = 250

EVERYTHING: Final = 1 << 62
"""More bytes than any file has."""

STEPS_MAX: Final = 20_000
BYTES_A_STEP: Final = 16
"""A file may have this many elements, and one more for each so many bytes: more are not made to be played."""


class Cursor:
    """Where a reader is.

    Attributes:
        data: the bytes in sight.
        at: where in ``data`` the next unread byte is; it may lie beyond.
        base: how many bytes of the file came before ``data``.
        steps: how many elements there have been.
    """

    __slots__ = ("at", "base", "data", "steps")

    def __init__(self) -> None:
        self.data = b""
        self.at = 0
        self.base = 0
        self.steps = 0

    @property
    def offset(self) -> int:
        """Where in the file the next unread byte is."""
        return self.base + self.at

    @property
    def length(self) -> int:
        """How long the file is as far as it is known: once it has ended, its length."""
        return self.base + len(self.data)

    def step(self) -> bool:
        """Count an element; False: there are too many of them."""
        self.steps += 1
        return self.steps <= STEPS_MAX + self.offset // BYTES_A_STEP

    def take(self, size: int) -> bytes:
        """Return the next bytes, which are there, and move on."""
        start = self.at
        self.at += size
        return self.data[start : self.at]


class Feeder:
    """Drives one reader."""

    __slots__ = ("_cursor", "_held", "_reader", "_result", "_wanted")

    def __init__(self, cursor: Cursor, reader: Steps) -> None:
        self._cursor = cursor
        self._held = bytearray()
        self._reader: Steps | None = reader
        self._result: int | None = None
        self._wanted = next(reader)

    def feed(self, piece: bytes | memoryview) -> None:
        """Hand the next bytes over, as soon as there are as many as the reader wants."""
        if self._reader is None:
            return
        cursor = self._cursor
        beyond = cursor.at - len(cursor.data)
        if beyond >= 0:  # nothing in sight: what comes is skipped as far as the reader has moved on
            cursor.base += len(cursor.data)
            cursor.data = b""
            skipped = min(beyond, len(piece))
            cursor.base += skipped
            cursor.at = beyond - skipped
            if skipped == len(piece):
                return
            cursor.data, piece = bytes(piece[skipped:]), b""
        self._held += piece
        if len(cursor.data) - cursor.at + len(self._held) >= self._wanted:
            self._look(cursor)
            self._run(cursor)

    def result(self) -> int | None:
        """Return what the reader makes of the file, which has ended."""
        cursor = self._cursor
        self._look(cursor)
        while self._reader is not None:
            self._send(is_there=len(cursor.data) - cursor.at >= self._wanted)
        return self._result

    def _look(self, cursor: Cursor) -> None:
        """Bring what is held into sight, and what has been read out of it."""
        if self._held:
            read = min(cursor.at, len(cursor.data))
            cursor.data = cursor.data[read:] + bytes(self._held)
            cursor.base += read
            cursor.at -= read
            self._held.clear()

    def _run(self, cursor: Cursor) -> None:
        while self._reader is not None and len(cursor.data) - cursor.at >= self._wanted:
            self._send(is_there=True)

    def _send(self, *, is_there: bool) -> None:
        assert self._reader is not None
        try:
            self._wanted = self._reader.send(is_there)
            assert self._wanted <= WINDOW_BYTES_MAX
        except StopIteration as stop:
            self._result, self._reader = stop.value, None


def skip(cursor: Cursor, size: int) -> Generator[int, bool, int]:
    """Move on by ``size`` bytes; return how many of them the file really has."""
    start = cursor.offset
    cursor.at += size
    yield 1
    return max(0, min(size, cursor.length - start))


def is_sample_rate(rate: int) -> bool:
    """Whether sound is recorded at this rate."""
    return SAMPLE_RATE_MIN <= rate <= SAMPLE_RATE_MAX


def trimmed(samples: int, said: int, rate: int) -> int:
    """Return what a file says of its length in place of what it holds, where that is a little less.

    Encoders add some silence at either end, and containers say how much: that is believed up to ``TRIM_MS``.
    """
    return said if 0 <= samples - said <= TRIM_MS * rate // 1000 else samples


def milliseconds(samples: int, rate: int) -> int | None:
    """Return how long samples play, in whole milliseconds, at least 1; None: there are none."""
    return max(1, samples * 1000 // rate) if samples > 0 else None
