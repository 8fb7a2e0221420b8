"""Scanning: finding lines in a block of whole lines, by byte searches only.

What belongs here: where lines begin and end, and which of them to look into. What does not: what is done with them
(chat_stream). A block is bytes that end with LF; a line's end is where its LF stands.
"""

from collections.abc import Iterator
from typing import Final

from proxy.core.meters.chunks import DATA
from proxy.core.meters.strip import CONTINUOUS, USAGE_MARK

CHOICES: Final = b'"choices"'
END: Final = b"[DONE]"
"""What the last event of a stream says instead of JSON."""

END_LINE_BYTES_MAX: Final = 64


def first_chunk(block: bytes) -> int:
    """Return where the first ``data:`` line with choices begins, or -1."""
    at = block.find(CHOICES)
    while at >= 0:
        first = block.rfind(b"\n", 0, at) + 1
        if block.startswith(DATA, first):
            return first
        at = block.find(CHOICES, block.find(b"\n", at))
    return -1


def is_continuous(block: bytes, usage_at: int) -> bool:
    """Whether the first line with usage has the common shape; taken for granted of a block that begins with it."""
    if usage_at < 0:
        return False
    first = block.rfind(b"\n", 0, usage_at) + 1
    return not first or CONTINUOUS.search(block, first, block.find(b"\n", usage_at) + 1) is not None


def first_marked(block: bytes, end_mark: bytes) -> int:
    """Return where the first line that holds a mark begins, or -1."""
    if block.find(USAGE_MARK) < 0 and block.find(end_mark) < 0:
        return -1
    for first, _ in marked_lines(block, end_mark):
        return first
    return -1


def marked_lines(block: bytes, end_mark: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end (before LF) of the lines that hold a mark."""
    start = 0
    usage, end = block.find(USAGE_MARK), block.find(end_mark)
    while usage >= 0 or end >= 0:
        at = end if usage < 0 or 0 <= end < usage else usage
        first = block.rfind(b"\n", start, at) + 1 or start
        last = block.find(b"\n", at)
        yield first, last
        start = last + 1
        if 0 <= usage < start:
            usage = block.find(USAGE_MARK, start)
        if 0 <= end < start:
            end = block.find(end_mark, start)


def data_lines(block: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end (before LF) of every ``data:`` line."""
    start = 0
    while start < len(block):
        last = block.find(b"\n", start)
        if block.startswith(DATA, start):
            yield start, last
        start = last + 1


def is_end(line: bytes) -> bool:
    """Whether a line (without LF) ends the stream."""
    return len(line) <= END_LINE_BYTES_MAX and line.startswith(DATA) and line[len(DATA) :].strip() == END


def blank_length(block: bytes, at: int) -> int:
    """Return the length of the blank line that begins there, 0 if none does."""
    if block.startswith(b"\n", at):
        return 1
    return 2 if block.startswith(b"\r\n", at) else 0


def ends_event(before: bytes) -> bool:
    """Whether an event may begin after these bytes: at most the last three before it, which end with LF."""
    return before in (b"\n", b"\r\n") or before.endswith((b"\n\n", b"\n\r\n"))
