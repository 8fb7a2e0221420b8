"""Strip: cutting usage out of a chunk's bytes, with everything else untouched.

What belongs here: the two ways to cut, and why neither can be led astray by what a customer's text holds. What does
not: whether to cut (chat_stream).

Why text cannot look like usage: inside a JSON string every quote is escaped, so the bytes ``],"usage":{`` stand in no
string, nor over the end of one (after a closing quote comes a structural character, never ``u``). In valid JSON they
are a key with an object behind it, after the end of an array. That it is the chunk's own key, at depth 1, follows from
the brackets: what ``CONTINUOUS`` takes for the usage is balanced, and from there to the line's end there is one
bracket, the one that closes the chunk. (Usage is the engine's own and holds numbers: no text, so no bracket in a text.)
"""

import re
from typing import Final

USAGE_MARK: Final = b'completion_tokens"'
"""In every usage object that can be billed, and as good as never elsewhere: a line without it need not be read."""

_NUMBERS: Final = rb'[a-z_0-9":,]*+'
CONTINUOUS: Final = re.compile(
    rb'\}\],"usage":\{"prompt_tokens":\d++,(?:"total_tokens":\d++,)?+"completion_tokens":'
    rb"%(numbers)b(?:\{%(numbers)b\}%(numbers)b)*+\}(?=(?:,[^{}\[\]\n]*+)?+\}\r?\n)" % {b"numbers": _NUMBERS}
)
"""Usage in a chunk with choices, as vLLM, SGLang and Ollama write it (it follows the choices, its numbers in this
order).

To be replaced by ``CHOICES_END``; what it matches always holds ``USAGE_MARK``. A chunk in another shape is no match,
and takes the slow way through ``without_usage``.
"""

CHOICES_END: Final = b"}]"

_MEMBER: Final = re.compile(rb'([{,])\s*("usage")\s*:\s*\{')
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]]')
_COMMA: Final = re.compile(rb"\s*,")


def without_continuous(line: bytes) -> bytes:
    """Return a line (without LF) less its usage, if that has the common shape: what is left then holds no mark."""
    bare = CONTINUOUS.sub(CHOICES_END, line + b"\n")[:-1]
    return line if USAGE_MARK in bare else bare


def without_usage(line: bytes) -> bytes:
    """Return a line that holds a JSON object, less the object's own members ``"usage": {…}`` and a comma each.

    The line must hold valid JSON. A usage that is no object (``null``) stays.
    """
    bare = without_continuous(line)
    if len(bare) < len(line):
        return bare
    start, end = _find(line)
    while start < end:
        line = line[:start] + line[end:]
        start, end = _find(line)
    return line


def _find(line: bytes) -> tuple[int, int]:
    """Return where to cut a usage member out; an empty range when there is none.

    In valid JSON what ``_MEMBER`` finds is a key (see above), so every bracket from there on that stands in no string
    counts.
    """
    for member in _MEMBER.finditer(line):
        end, depth = _rest(line, member.end())
        if depth == 1:
            if member[1] == b",":
                return member.start(), end
            comma = _COMMA.match(line, end)
            return member.start(2), comma.end() if comma else end
    return 0, 0


def _rest(line: bytes, inside: int) -> tuple[int, int]:
    """Return where the object ends into which ``inside`` points, and how many brackets are still open there."""
    level, end = 1, 0
    for token in _TOKEN.finditer(line, inside):
        text = token.group()
        if text in (b"{", b"["):
            level += 1
        elif text in (b"}", b"]"):
            level -= 1
        if level == 0 and not end:
            end = token.end()
    return end, -level
