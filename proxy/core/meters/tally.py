"""Tally: what a chat stream has generated and reported so far.

What belongs here: counting deltas, remembering usage, telling how the stream ended. What does not: lines and bytes to
pass (chat_stream).

Two ways of counting. With one choice nothing is decoded while it passes: chunks are counted by a byte string that
each of them holds, the first 4 KiB and the last event are kept, and read only when somebody asks. What fits into the
sample is counted exactly; beyond it, every chunk is a delta but for those like the sample's empty ones (role only)
and a last one that only says why it ends; the mean text of a delta is the sample's. With several choices, each chunk
is decoded and counted.
"""

from typing import Final

from proxy.core import estimate
from proxy.core.catalogue import Engine
from proxy.core.meters.chunks import DATA, Chunk, index_of, is_finished, parse_chunk, text_bytes
from proxy.core.meters.reported import Reported, merge, read_usage

SAMPLE_BYTES: Final = 4096
"""How much of a stream's beginning is kept."""


class Tally:
    """Counts deltas.

    ``chunk_mark`` is what to count, empty as long as no chunk has been seen; ``last_line`` is the last ``data:`` line.
    """

    __slots__ = ("_bytes", "_chunks", "_deltas", "_finished", "_sample", "_text_bytes", "chunk_mark", "last_line")

    def __init__(self) -> None:
        self.chunk_mark = b""
        self._chunks = 0
        self._bytes = 0
        self._sample = bytearray()
        self.last_line = b""
        self._deltas = 0
        self._text_bytes = 0
        self._finished: set[int] = set()

    def note_lines(self, block: bytes) -> None:
        """Count whole lines among which no usage-only chunk and no end of the stream is."""
        if not block:
            return
        if self.chunk_mark:
            self._chunks += block.count(self.chunk_mark)
        if self._bytes < SAMPLE_BYTES:
            self._sample += block[: SAMPLE_BYTES - self._bytes]
        self._bytes += len(block)
        start = block.rfind(b"\n", 0, -2) + 1  # as a rule the last line but for a blank one
        if not block.startswith(DATA, start):
            start = block.rfind(b"\ndata:") + 1
        if block.startswith(DATA, start):
            self.last_line = block[start : block.find(b"\n", start)]

    def note_chunk(self, chunk: Chunk) -> None:
        """Count one chunk of several choices."""
        for choice in chunk.choice_list:
            length = text_bytes(choice)
            self._deltas += length > 0
            self._text_bytes += length
            if is_finished(choice):
                self._finished.add(index_of(choice))

    def tokens(self, choices: int) -> int:
        """Return an estimate of the tokens generated so far."""
        if choices > 1:
            return estimate.delta_tokens(self._deltas, self._text_bytes)
        chunks, deltas, sample_text_bytes = self._read_sample()
        if self._bytes <= SAMPLE_BYTES:
            return estimate.delta_tokens(deltas, sample_text_bytes)
        last = parse_chunk(self.last_line)
        finish_only = last is not None and any(map(is_finished, last.choice_list)) and not _text_bytes_of(last)
        total = max(deltas, self._chunks - (chunks - deltas) - finish_only)
        return estimate.delta_tokens(total, total * sample_text_bytes // max(1, deltas))

    def is_failed(self) -> bool:
        """Whether the last event, usage aside, is an error."""
        last = parse_chunk(self.last_line)
        return last is not None and last.is_error

    def is_finished(self, choices: int) -> bool:
        """Whether every choice has had its finish_reason."""
        if choices > 1:
            return len(self._finished) >= choices
        last = parse_chunk(self.last_line)
        return last is not None and any(map(is_finished, last.choice_list))

    def unfinished(self, choices: int) -> list[int]:
        """Return the indices of the choices that have had no finish_reason."""
        if choices > 1:
            return [index for index in range(choices) if index not in self._finished]
        return [] if self.is_finished(choices) else [0]

    def _read_sample(self) -> tuple[int, int, int]:
        """Return chunks, deltas that hold text, and bytes of their text, of the sample's whole lines."""
        chunks = deltas = total = 0
        for line in bytes(self._sample).split(b"\n")[:-1]:
            chunk = parse_chunk(line)
            if chunk is not None and chunk.choice_list:
                length = _text_bytes_of(chunk)
                chunks += 1
                deltas += length > 0
                total += length
        return chunks, deltas, total


class Reports:
    """Remembers usage: the last one, or with several choices the last of each."""

    __slots__ = ("_last", "_last_line", "_of_choice", "_totals")

    def __init__(self) -> None:
        self._last: Reported | None = None
        self._last_line = b""
        self._of_choice: dict[int, Reported] = {}
        self._totals: list[Reported] = []

    def note_line(self, line: bytes) -> None:
        """Remember a line that holds usage, to be decoded when somebody asks."""
        self._last_line = line

    def note_chunk(self, chunk: Chunk) -> None:
        """Remember a decoded chunk's usage, if it has any."""
        usage = read_usage(chunk.usage)
        if usage is None:
            return
        self._last, self._last_line = usage, b""
        if chunk.is_usage_only:
            self._totals.append(usage)
        else:
            for choice in chunk.choice_list[:1]:
                self._of_choice[index_of(choice)] = usage

    def read(self, engine: Engine, choices: int) -> Reported | None:
        """Return what was reported for the whole call; None when nothing was."""
        if self._last_line:
            chunk = parse_chunk(self._last_line)
            self._last, self._last_line = read_usage(chunk.usage) if chunk else None, b""
        if choices == 1:
            return self._last
        if self._totals:
            return merge(self._totals) if engine is Engine.LLAMA_CPP else self._totals[-1]
        return merge(list(self._of_choice.values())) if self._of_choice else None


def _text_bytes_of(chunk: Chunk) -> int:
    return sum(map(text_bytes, chunk.choice_list))
