"""Chat streams: usage off the chunks of ``/v1/chat/completions`` and ``/v1/completions``, as they pass.

What belongs here: the one meter of all chat engines. What does not: lines (lines.py), the inside of a chunk
(chunks.py), cutting (strip.py), counting (tally.py), judging numbers (reported.py).

The rules:

1. A block of lines in which neither ``USAGE_MARK`` nor the end mark occurs is passed on as the object it came in: a few
   searches at C speed, whatever the number of events. Only lines that hold a mark are looked into.
2. The last usage wins. With several choices, in-chunk usage is each choice's own: the last of every choice is added up,
   until a chunk with usage and no choices says it for all (llama.cpp sends one of those a choice: they are added up).
3. Removed: the usage-only chunk and its blank line, unless the client asked for usage; usage inside other chunks, if
   told so.
4. Held back from ``data: [DONE]`` on. A stream that ends without it is complete if every choice had its finish_reason.
5. What was generated is counted as it passes, should the usage never come (tally.py).
6. A line of more than 1 MiB is passed on unread. Nothing an upstream sends makes the meter raise.
"""

import re
from collections.abc import Iterator
from typing import Final

from proxy.core.catalogue import Engine
from proxy.core.meters.chunks import parse_chunk
from proxy.core.meters.contract import EventMeter, Reading
from proxy.core.meters.ending import ending
from proxy.core.meters.lines import LINE_BYTES_MAX, Lines
from proxy.core.meters.reported import Seen, usage_of
from proxy.core.meters.scanning import (
    CHOICES,
    END,
    blank_length,
    data_lines,
    ends_event,
    first_chunk,
    first_marked,
    is_continuous,
    is_end,
    marked_lines,
)
from proxy.core.meters.strip import CHOICES_END, CONTINUOUS, USAGE_MARK, without_continuous, without_usage
from proxy.core.meters.tally import Reports, Tally
from proxy.core.usage import NOTHING, Usage

_HAVE_CONTINUOUS: Final = frozenset({Engine.VLLM, Engine.SGLANG})

HELD_BYTES_MAX: Final = 1 << 16
"""What is held from ``[DONE]`` on; more is dropped, as it must not pass before the call is committed and nobody reads
it."""

_OBJECT: Final = re.compile(rb'"object"\s*:\s*"[^"\\]{1,64}"')


def stream_meter(
    engine: Engine,
    *,
    forward_usage: bool,
    strip_continuous: bool,
    choices: int,
    prompt_bytes: int,
) -> EventMeter:
    """Return a meter for one chat stream.

    Args:
        engine: the server software that answers.
        forward_usage: whether the client asked for the usage-only chunk.
        strip_continuous: whether usage in chunks with choices is there because the gateway asked for it. Of engines
            that have no such option it is cut only for clients that asked for no usage at all: those that did may find
            it nowhere else (transformers puts it into the chunk with the finish_reason).
        choices: how many answers were asked for (``n``, times the prompts of a list).
        prompt_bytes: size of the request, for estimates.
    """
    return _ChatStreamMeter(
        engine,
        forward_usage=forward_usage,
        strip_continuous=strip_continuous,
        choices=max(1, choices),
        prompt_bytes=prompt_bytes,
    )


class _ChatStreamMeter:
    __slots__ = (
        "_answer_bytes", "_choices", "_end_mark", "_engine", "_forward_usage", "_held", "_lines", "_prompt_bytes",
        "_reports", "_strip", "_swallow", "_tail", "_tally",
    )  # fmt: skip

    def __init__(
        self, engine: Engine, *, forward_usage: bool, strip_continuous: bool, choices: int, prompt_bytes: int
    ) -> None:
        self._engine = engine
        self._forward_usage = forward_usage
        self._strip = strip_continuous and (engine in _HAVE_CONTINUOUS or not forward_usage)
        self._choices = choices
        self._prompt_bytes = prompt_bytes
        self._lines = Lines()
        self._held: bytearray | None = None  # not None: the end was seen
        self._end_mark = END
        self._swallow = False  # a blank line that comes next belongs to a chunk that was removed
        self._tail = b"\n"  # the last bytes of the last block: they tell whether an event begins
        self._answer_bytes = 0
        self._tally = Tally()
        self._reports = Reports()

    def feed(self, piece: bytes) -> bytes:
        """See ``StreamMeter``."""
        self._answer_bytes += len(piece)
        if self._held is not None:
            self._hold(piece)
            return b""
        if self._lines.is_idle and len(piece) <= LINE_BYTES_MAX and piece.endswith(b"\n"):
            return self._block(piece)
        return self._take(piece)

    def known(self) -> Usage:
        """See ``StreamMeter``."""
        reported = self._reports.read(self._engine, self._choices)
        has_output = (reported and reported.completion) or not self._tally.is_failed() or self._count_tokens()
        if not has_output:
            return NOTHING  # nothing but an error was answered
        return usage_of(reported, Seen(self._prompt_bytes, self._answer_bytes, self._choices, self._count_tokens))

    def tail(self) -> bytes:
        """See ``StreamMeter``."""
        rest = self._lines.rest()
        out = self._block(rest + b"\n") if rest else b""
        out += self._release()
        return out[:-1] if rest else out

    def finish(self) -> Reading:
        """See ``StreamMeter``."""
        failed = self._tally.is_failed()
        ended = self._held is not None or self._tally.is_finished(self._choices)
        return Reading(self.known(), ended and not failed, failed)

    def cut(self, kept: bytes) -> bytes:
        """See ``EventMeter``."""
        usage = self.known() if self._forward_usage else None
        lines = (self._tally.last_line, *kept.split(b"\n"))
        return ending(lines, self._tally.unfinished(self._choices), usage)

    def _take(self, piece: bytes) -> bytes:
        """Take a piece that is not just whole lines."""
        out = []
        for span, is_readable in self._lines.take(piece):
            if self._held is not None:
                self._hold(span)
            elif is_readable:
                out.append(self._block(span))
            else:
                self._tail, self._swallow = b".", False
                out.append(span)
        if self._held is not None:
            self._hold(self._lines.rest())
        return b"".join(out)

    def _count_tokens(self) -> int:
        return self._tally.tokens(self._choices)

    def _hold(self, more: bytes) -> None:
        assert self._held is not None
        self._held += more[: HELD_BYTES_MAX - len(self._held)]

    def _release(self) -> bytes:
        if self._held is None:
            return b""
        held = bytes(self._held)
        self._held.clear()
        return held

    def _block(self, block: bytes) -> bytes:
        """Take whole lines; return what of them passes."""
        if self._tally.chunk_mark:
            return self._scan(block)
        first = first_chunk(block)
        if first < 0:
            return self._scan(block)
        before = self._scan(block[:first]) if first else b""
        block = block[first:]
        if self._held is not None:
            self._hold(block)
            return before
        self._learn(block[: block.find(b"\n")])
        return before + self._scan(block)

    def _learn(self, line: bytes) -> None:
        """Learn from the first chunk what to look for: longer byte strings are found several times faster."""
        if line.startswith(b"data: "):
            self._end_mark = b"data: [DONE]"
        kind = _OBJECT.search(line)
        self._tally.chunk_mark = kind.group() if kind else CHOICES

    def _scan(self, block: bytes) -> bytes:
        """Pass a block that holds no mark as it is; look into the lines of another."""
        if self._swallow:
            block = self._swallowed(block)
        usage_at = block.find(USAGE_MARK)
        if usage_at < 0 and self._choices == 1 and block.find(self._end_mark) < 0:
            self._tally.note_lines(block)
            out = block
        elif self._choices == 1:
            out = self._cut(block, usage_at)
        else:
            out = self._walk(block)
        self._tail = block[-3:] or self._tail
        return out

    def _swallowed(self, block: bytes) -> bytes:
        self._swallow = False
        blank = blank_length(block, 0)
        if blank:
            self._tail = b"\n"
        return block[blank:]

    def _cut(self, block: bytes, usage_at: int) -> bytes:
        """Read the chunks in vLLM's shape all at once, and the lines after them one by one.

        Cutting changes a chunk's end in a way (``}]`` for ``}``) that the rest of the cut block is a suffix of the
        block only if nothing was cut from there on: so where the two part is known without a look at each line.
        """
        bare = CONTINUOUS.sub(CHOICES_END, block) if is_continuous(block, usage_at) else block
        first = first_marked(bare, self._end_mark)
        if first < 0:
            first, split = len(bare), len(block)
        elif block.endswith(bare[first:]):
            split = first + len(block) - len(bare)
        else:
            return self._walk(block)
        if not split:
            return self._walk(block)
        bulk = block[:split]
        self._tally.note_lines(bulk)
        if usage_at >= 0:
            self._note_usage(bulk)
        out = bare[:first] if self._strip else bulk
        if split == len(block):
            return out
        self._tail = bulk[-3:]
        return out + self._walk(block[split:])

    def _note_usage(self, block: bytes) -> None:
        """Remember the last line with usage of a block in which each line with a mark has the common shape."""
        at = block.rfind(USAGE_MARK)
        if at >= 0:
            self._reports.note_line(block[block.rfind(b"\n", 0, at) + 1 : block.find(b"\n", at)])

    def _walk(self, block: bytes) -> bytes:
        """Look into every line that holds a mark (with several choices: into every line)."""
        out: list[bytes] = []
        passed = noted = 0  # up to where bytes were passed, and lines counted
        for first, last in self._lines_to_read(block):
            line = block[first:last]
            if is_end(line):
                self._tally.note_lines(block[noted:first])
                self._held = bytearray()
                self._hold(block[first:])
                return b"".join([*out, block[passed:first]])
            kept, is_usage_only = self._read(line)
            if is_usage_only:
                self._tally.note_lines(block[noted:first])
                noted = last + 1
            if kept is not None and len(kept) == len(line):
                continue
            out += [block[passed:first], kept or b""]
            passed = last
            if kept is None:
                passed = noted = self._after_removed(block, first, last + 1)
        self._tally.note_lines(block[noted:])
        out.append(block[passed:])
        return b"".join(out)

    def _after_removed(self, block: bytes, first: int, after: int) -> int:
        """Return where to go on after a removed line: past its blank line, if the line was its event's first.

        If not, the blank line stays and ends what is left, an event without data, which clients ignore (WHATWG HTML).
        """
        before = block[max(0, first - 3) : first] or self._tail
        if not ends_event(before):
            return after
        self._swallow = after == len(block)
        return after + blank_length(block, after)

    def _lines_to_read(self, block: bytes) -> Iterator[tuple[int, int]]:
        return data_lines(block) if self._choices > 1 else marked_lines(block, self._end_mark)

    def _read(self, line: bytes) -> tuple[bytes | None, bool]:
        """Meter a line; return what of it passes (None: nothing), and whether it is a usage-only chunk."""
        if self._choices == 1:
            bare = without_continuous(line)
            if len(bare) < len(line):
                self._reports.note_line(line)
                return bare if self._strip else line, False
        chunk = parse_chunk(line)
        if chunk is None:
            return line, False
        if self._choices > 1:
            self._tally.note_chunk(chunk)
        if not isinstance(chunk.usage, dict) or USAGE_MARK not in line:
            return line, False
        self._reports.note_chunk(chunk)
        if chunk.is_usage_only:
            return line if self._forward_usage else None, True
        return without_usage(line) if self._strip else line, False
