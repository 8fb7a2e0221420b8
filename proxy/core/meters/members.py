"""Members: top-level members of a JSON body that is cut anywhere, and whether the body is whole. Nothing is parsed.

What belongs here: where a body begins, where it ends, and the texts of a few small members. What does not: what they
mean (large.py).

A body is passed over in stretches. Of each only quotes and brackets are kept; what is between quotes is cut out, and
the brackets that are left are counted. Every step is one pass in C, so that a megabyte of numbers costs 0.7 ms. Only
around a name that is looked for is it known where exactly one is. What is between brackets is not checked.
"""

import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

VALUE_BYTES_MAX: Final = 8192
"""A longer member than this is not kept: a usage object has some hundred bytes."""

BLANKS: Final = b" \t\r\n"
_BLANK: Final = re.compile(rb"[ \t\r\n]*+")
_OTHERS: Final = bytes(sorted(set(range(256)) - set(b'"{}[]')))
_STEPS: Final = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|(?P<open>\\?\Z))|[{}\[\]]', re.DOTALL)
"""A string, one that is not over (``open``), or a bracket."""
_SCALAR: Final = re.compile(rb"[^ \t\r\n,}\]]++")

_SEARCH, _COLON, _START, _VALUE = range(4)


class Members:
    """Reads one body.

    Args:
        names: of the members to find. Their JSON texts are put into ``found``, the last one where a name comes twice:
            of an array only its ``[``, and ``b""`` for a text of more than ``VALUE_BYTES_MAX`` bytes. A name that is
            spelled with escapes is not found.

    Attributes:
        found: what has been found so far.
        broken: whether it is certain by now that this is no JSON.
        is_object: whether the body is an object, and not a bare array.
    """

    __slots__ = (
        "_begun",
        "_braces",
        "_carry",
        "_depth",
        "_ended",
        "_escaped",
        "_in_string",
        "_mode",
        "_name",
        "_names",
        "_reach",
        "_starts",
        "broken",
        "found",
        "is_object",
    )

    def __init__(self, names: "Names") -> None:
        self._names = names.pattern
        self._starts = names.starts
        self._reach = names.reach
        self._carry = b""
        self._mode = _SEARCH
        self._name = b""
        self._begun = False
        self._ended = False
        self._depth = 0
        self._braces = 0
        self._in_string = False
        self._escaped = False
        self.found: dict[bytes, bytes] = {}
        self.broken = False
        self.is_object = False

    @property
    def is_whole(self) -> bool:
        """Whether the body has been seen to its end: every bracket is closed, and nothing but blanks came after."""
        return self._ended and not self.broken and not self._carry and not self._braces

    def feed(self, piece: bytes) -> None:
        """Read on; a body may be cut anywhere."""
        buffer = self._carry + piece if self._carry else piece
        self._carry = b""
        at = 0
        while at < len(buffer) and not self.broken:
            if self._mode == _SEARCH:
                at = self._search(buffer, at)
            elif self._mode == _VALUE:
                at = self._value(buffer, at)
            else:
                at = self._between(buffer, at)

    def _search(self, buffer: bytes, at: int) -> int:
        """Go on to the next name, or to the end."""
        name = self._names.search(buffer, at)
        if name is None:
            end = len(buffer) - self._unsure_bytes(buffer, at)
            self._pass(buffer[at:end] if at or end < len(buffer) else buffer)
            self._carry = buffer[end:]
            return len(buffer)
        self._pass(buffer[at : name.start()])
        if self._depth == 1 and self.is_object and not (self._in_string or self._escaped):
            self._name = name.group()[1:-1]
            self._mode = _COLON
        else:
            self._pass(name.group())
        return name.end()

    def _unsure_bytes(self, buffer: bytes, at: int) -> int:
        """Return how many bytes at the end may be the beginning of a name."""
        quote = buffer.rfind(b'"', max(at, len(buffer) - self._reach))
        return len(buffer) - quote if quote >= 0 and buffer[quote:] in self._starts else 0

    def _between(self, buffer: bytes, at: int) -> int:
        """Go from a name over its colon to its value; a string that no colon follows was no name."""
        blank = _BLANK.match(buffer, at)
        assert blank is not None
        at = blank.end()
        if at == len(buffer):
            return at
        if self._mode == _START:
            self._mode = _VALUE
        elif buffer[at] == ord(":"):
            self._mode = _START
            at += 1
        else:
            self._mode = _SEARCH
        return at

    def _value(self, buffer: bytes, at: int) -> int:
        """Keep the value that begins there, unless it is large or has not come whole."""
        self._mode = _SEARCH
        if buffer[at] == ord("["):
            self.found[self._name] = b"["
            return at
        end = _value_end(buffer, at, min(at + VALUE_BYTES_MAX, len(buffer)))
        if end:
            self.found[self._name] = buffer[at:end]
            return end
        if len(buffer) - at < VALUE_BYTES_MAX:
            self._mode = _VALUE
            self._carry = buffer[at:]
            return len(buffer)
        self.found[self._name] = b""
        return at

    def _pass(self, span: bytes) -> None:
        """Count the brackets of a stretch that holds no name."""
        if not self._begun or self._ended:
            span = span.lstrip(BLANKS)
            if not span:
                return
            if self._ended or span[0] not in b"{[":
                self.broken = True
                return
            self.is_object = span[0] == ord("{")
            self._begun = True
        span = self._unescaped(span)
        parts = span.translate(None, _OTHERS).split(b'"')
        brackets = b"".join(parts[1 if self._in_string else 0 :: 2])
        self._in_string ^= len(parts) % 2 == 0
        if brackets:
            self._count(brackets, span)

    def _unescaped(self, span: bytes) -> bytes:
        """Return a stretch without what backslashes make of backslashes and quotes."""
        if self._escaped and span:
            self._escaped = False
            if span[0] in b'\\"':
                span = span[1:]
        if b"\\" in span:
            if (len(span) - len(span.rstrip(b"\\"))) % 2:
                self._escaped = True
                span = span[:-1]
            span = span.replace(b"\\\\", b"").replace(b'\\"', b"")
        return span

    def _count(self, brackets: bytes, span: bytes) -> None:
        """Move to another depth; the body ends with the bracket that closes its first."""
        closing = brackets.count(b"}")
        self._braces += brackets.count(b"{") - closing
        closing += brackets.count(b"]")
        if closing < self._depth:
            self._depth += len(brackets) - 2 * closing
            return
        depths = list(accumulate(map(_STEPS.__getitem__, brackets), initial=self._depth))
        self._depth = depths[-1]
        if 0 in depths[1:]:
            self._ended = True
            is_last = depths.index(0, 1) == len(brackets) and span.rstrip(BLANKS).endswith(brackets[-1:])
            is_pair = brackets.endswith(b"}" if self.is_object else b"]")
            self.broken |= not (is_last and is_pair) or self._in_string or self._escaped


class Names:
    """The names of members, made ready to be looked for."""

    def __init__(self, names: Iterable[bytes]) -> None:
        tokens = [b'"%b"' % name for name in names]
        self.pattern: Final = re.compile(b"|".join(map(re.escape, tokens)))
        self.starts: Final = frozenset(token[:end] for token in tokens for end in range(1, len(token)))
        self.reach: Final = max(map(len, tokens)) - 1


def _value_end(buffer: bytes, start: int, stop: int) -> int:
    """Return where a value ends, 0 where it does not before ``stop``."""
    if buffer[start] not in b'{"':
        scalar = _SCALAR.match(buffer, start, stop)
        end = scalar.end() if scalar is not None else start
        return end if start < end < stop else 0
    depth = 0
    for token in _TOKEN.finditer(buffer, start, stop):
        if token.lastgroup is not None:
            return 0
        depth += _STEPS.get(buffer[token.start()], 0)
        if not depth:
            return token.end()
    return 0
