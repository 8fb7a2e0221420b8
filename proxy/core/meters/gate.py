"""The gate: how far of a stream passes, by the tokens that its call holds.

What belongs here: counting what has passed, cheaply, and keeping back what the hold does not cover. What does not:
usage that is billed (chat_stream.py), holds (proxy/core/growing.py), and asking for more (proxy/growth.py).

The rules:

1. The gate stands before the meter: what it keeps back has not been metered, and is not billed.
2. A token takes at least a byte of an answer: so many bytes as tokens are left pass unread, and cost a comparison.
3. Where the engine says its usage in every chunk (vLLM, SGLang), that is the count, exact at each chunk. Elsewhere each
   chunk counts as a token, and what the engine says in the end is settled as it is.
4. Kept back is the first chunk with text that would leave no token a choice for its end (engines count the one that
   ends a text, and show none), and everything after it. Of an engine that counts as it goes, a chunk without text too,
   if it goes beyond the whole hold.
5. What passes is whole lines, byte for byte as they came. A line of more than 1 MiB passes unread.
"""

from collections.abc import Iterable
from typing import Final

from proxy.core.growing import Growing
from proxy.core.meters.chunks import DATA, Chunk, index_of, parse_chunk, text_bytes
from proxy.core.meters.lines import Lines
from proxy.core.meters.reported import read_usage
from proxy.core.meters.scanning import data_lines
from proxy.core.meters.strip import USAGE_MARK

Span = tuple[bytes, bool]
"""Bytes, and whether they are whole lines."""

_ENDLESS: Final = 2**53


class Gate:
    """Lets a stream pass as far as its hold reaches.

    Args:
        growing: the hold.
        choices: how many answers the stream carries.
        stops: whether anything is kept back; if not, the gate only says when to ask for more.

    Attributes:
        growing: see above.
        has_news: something has to be done: more asked for, or the upstream to be held. Whoever looks sets it back.
        is_asking: more has been asked for, and the answer is not here.
        reached: tokens that have passed, together with those of the first chunk that is kept back.
    """

    __slots__ = (
        "_choices", "_lines", "_of_choice", "_passed", "_stops", "_tells", "_unread", "_waiting", "growing", "has_news",
        "is_asking", "reached",
    )  # fmt: skip

    def __init__(self, growing: Growing, choices: int, *, stops: bool) -> None:
        self.growing = growing
        self.has_news = False
        self.is_asking = False
        self.reached = 0
        self._choices = max(1, choices)
        self._stops = stops
        self._lines = Lines()
        self._of_choice: dict[int, int] = {}
        self._passed = 0
        self._tells = False  # the engine says its usage as it goes
        self._unread = 0  # bytes that may pass unread
        self._waiting: list[Span] = []

    @property
    def is_shut(self) -> bool:
        """Whether something is kept back."""
        return bool(self._waiting)

    def take(self, piece: bytes) -> bytes:
        """Take the next bytes of the body, cut anywhere; return what may pass now."""
        if len(piece) < self._unread and piece.endswith(b"\n") and self._lines.is_idle:
            self._unread -= len(piece)
            return piece
        return self._look(self._lines.take(piece))

    def release(self) -> bytes:
        """Return what may pass now that the hold has been raised, or the asking has ended."""
        waiting, self._waiting = self._waiting, []
        return self._look(waiting)

    def rest(self) -> bytes:
        """Hand over the unfinished line with which a stream has ended."""
        return self._lines.rest()

    def kept(self) -> bytes:
        """Return the lines that are kept back first, for what they say of the stream."""
        return self._waiting[0][0] if self._waiting else b""

    def _look(self, spans: Iterable[Span]) -> bytes:
        out = []
        for span in spans:
            if self._waiting:
                self._waiting.append(span)
            else:
                out.append(self._block(span[0]) if span[1] else span[0])
        growing, passed = self.growing, self._passed
        if not self._waiting:
            self.reached = passed
        wants_more = not self.is_asking and not growing.is_full and self.reached >= growing.ask_at
        self.has_news = wants_more or bool(self._waiting)
        may_skip = self._tells and self._choices == 1 and not self._waiting
        self._unread = (self._limit() if self.is_asking else growing.ask_at) - passed if may_skip else 0
        return out[0] if len(out) == 1 else b"".join(out)

    def _limit(self) -> int:
        """How many tokens may have passed after a chunk with text."""
        growing = self.growing
        return growing.held - self._choices if self._stops and not growing.is_full else _ENDLESS

    def _block(self, block: bytes) -> bytes:
        """Take whole lines; return those that pass."""
        passed = _ENDLESS
        if self._choices == 1:
            at = block.rfind(USAGE_MARK)
            if at >= 0 and self._tells:
                told = _completion(parse_chunk(block[block.rfind(b"\n", 0, at) + 1 : block.find(b"\n", at)]))
                passed = max(self._passed, told) if told else _ENDLESS
            elif at < 0:
                passed = self._passed if self._tells else self._passed + block.count(DATA)
            if passed <= self._limit():
                self._passed = passed
                return block
        return self._walk(block)

    def _walk(self, block: bytes) -> bytes:
        """Look into every chunk, and keep back what the hold does not cover."""
        limit = self._limit()
        for first, last in data_lines(block):
            chunk = parse_chunk(block[first:last])
            if chunk is None or not chunk.choice_list:
                continue  # the usage alone, an error, the end: nothing more is produced
            told = self._tells
            passed = self._after(chunk)
            has_text = any(map(text_bytes, chunk.choice_list))
            if passed > limit and (has_text or (told and passed > self.growing.held)):
                self.reached = passed
                self._waiting.append((block[first:], True))
                return block[:first]
            self._passed = passed
        return block

    def _after(self, chunk: Chunk) -> int:
        """Return how many tokens have passed with this chunk."""
        told = _completion(chunk)
        if not told:
            return self._passed + (not self._tells)
        self._tells = True
        if self._choices == 1:
            return max(self._passed, told)
        self._of_choice[index_of(chunk.choice_list[0])] = told
        return max(self._passed, sum(self._of_choice.values()))


def _completion(chunk: Chunk | None) -> int:
    """Return the output tokens that a chunk reports; 0: it does not say."""
    reported = read_usage(chunk.usage) if chunk is not None else None
    return (reported.completion or 0) if reported is not None else 0
