"""Lines: a byte stream that is cut anywhere, made whole lines again.

What belongs here: the carry of an unfinished line and its bound. What does not: what a line means.

A line ends with LF; a CR before it stays part of the line. (The standard's lone CR as a line end is sent by no known
engine; such a stream counts as one line.)
"""

from typing import Final

LINE_BYTES_MAX: Final = 1 << 20
"""A longer line is let through as it comes, unread, so that no upstream can make the proxy hold more than this."""


class Lines:
    """Collects pieces into spans of whole lines.

    ``is_idle`` says that no unfinished line is held: then a piece of at most ``LINE_BYTES_MAX`` bytes that ends with LF
    may be used as it is, without ``take``.
    """

    __slots__ = ("_carry", "_passing", "is_idle")

    def __init__(self) -> None:
        self._carry = bytearray()
        self._passing = False
        self.is_idle = True

    def take(self, piece: bytes) -> list[tuple[bytes, bool]]:
        """Return spans in the order of the stream: (whole lines, True), or (part of a line too long to read, False)."""
        spans: list[tuple[bytes, bool]] = []
        if self._passing:
            end = piece.find(b"\n") + 1
            if not end:
                return [(piece, False)]
            self._passing = False
            spans.append((piece[:end], False))
            piece = piece[end:]
        end = piece.rfind(b"\n") + 1
        if end:
            spans += _readable(bytes(self._carry) + piece[:end])
            self._carry.clear()
        self._carry += piece[end:]
        if len(self._carry) > LINE_BYTES_MAX:
            self._passing = True
            spans.append((self.rest(), False))
        self.is_idle = not (self._carry or self._passing)
        return spans

    def rest(self) -> bytes:
        """Hand over the unfinished line."""
        rest = bytes(self._carry)
        self._carry.clear()
        self.is_idle = not self._passing
        return rest


def _readable(block: bytes) -> list[tuple[bytes, bool]]:
    """Set lines that are too long apart, so that a line is read or not however its stream was cut."""
    if len(block) <= LINE_BYTES_MAX:
        return [(block, True)]
    spans: list[tuple[bytes, bool]] = []
    start = 0
    for line in block.split(b"\n")[:-1]:
        end = start + len(line) + 1
        spans.append((block[start:end], len(line) <= LINE_BYTES_MAX))
        start = end
    return spans
