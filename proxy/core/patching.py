"""Patching JSON objects: request bodies are changed in place, byte for byte elsewhere, never re-serialised.

What belongs here: finding strings and top-level members of a JSON object that is known to be valid, and replacing
spans of it. Re-serialising would change what the customer wrote (number formats, key order, escapes, duplicate keys)
and costs far more.

Everything goes from string to string, by searches at C speed: megabytes in one string cost next to nothing.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

AFTER_KEY: Final = re.compile(rb"\s*+:\s*+")
"""What makes a string a key: matches from its end to its value."""

# Possessive, so no input makes them backtrack.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]]', re.DOTALL)
_SCALAR: Final = re.compile(rb"[^\s,}\]]++")
_EMPTY: Final = re.compile(rb"\s*+\}")
_ESCAPED_LETTER: Final = re.compile(rb"\\u00(?:[46][1-9a-fA-F]|[57][0-9aA]|5[fF])")
_PLAIN_KEY: Final = re.compile("[A-Za-z_]+")
_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")
_BRACKETS: Final = b"{}[]"
_OTHERS: Final = bytes(byte for byte in range(256) if byte not in _BRACKETS)
_STEP: Final = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}


def patch_object(body: bytes, changes: Mapping[str, bytes]) -> bytes:
    """Return ``body`` with top-level members set to new values (JSON text); every occurrence of a key is replaced.

    Members that are absent are put first. The body must be a valid JSON object; an escaped spelling of a key counts as
    that key, as it does for every parser.
    """
    spans = _member_spans(body, changes)
    edits = [(start, end, changes[key]) for key, start, end in spans]
    found = {key for key, _, _ in spans}
    absent = [key for key in changes if key not in found]
    if absent:
        inside = body.index(b"{") + 1
        members = b",".join(b'"%b":%b' % (key.encode(), changes[key]) for key in absent)
        edits.insert(0, (inside, inside, members + (b"" if _EMPTY.match(body, inside) else b",")))
    return replace_spans(body, edits)


def replace_spans(body: bytes, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Return ``body`` with spans (start, end, new bytes) replaced; they are in order and do not overlap."""
    pieces: list[bytes] = []
    passed = 0
    for start, end, new in edits:
        pieces += (body[passed:start], new)
        passed = end
    pieces.append(body[passed:])
    return b"".join(pieces)


def strings(body: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield every string: its start, its end, its depth, and the lowest depth since the string before it.

    Start and end are those of the quotes; a depth is how many brackets are open. The body must be valid JSON.
    """
    find, usual = body.find, _USUAL.get
    end = depth = 0
    while (start := find(b'"', end)) >= 0:
        between = body[end:start]
        change, fall = usual(between) or _change(between)
        lowest = depth - fall
        depth += change
        end = string_end(body, start)
        yield start, end, depth, lowest


def _change(between: bytes) -> tuple[int, int]:
    """Return how the depth changes from one string to the next, and how far it falls meanwhile."""
    opened = between.count(b"{") + between.count(b"[")
    closed = between.count(b"}") + between.count(b"]")
    if opened and closed:
        steps = map(_STEP.__getitem__, between.translate(None, _OTHERS))
        return opened - closed, -min(accumulate(steps, initial=0))
    return opened - closed, closed


_USUAL: Final = {
    between: _change(between)
    for tight in (b":", b",", b"{", b"[", b":{", b":[", b":[{", b"},{", b"},", b"],", b"}],", b"}]},{", b"}},")
    for between in (tight, tight.replace(b":", b": ").replace(b",", b", "))
}
"""What stands between most strings, for speed."""


def string_end(body: bytes, start: int) -> int:
    """Return where the string ends whose opening quote stands at ``start``."""
    end = body.find(b'"', start + 1)
    if body[end - 1] != _BACKSLASH:
        return end + 1
    match = _STRING.match(body, start)
    assert match is not None
    return match.end()


def _member_spans(body: bytes, wanted: Mapping[str, bytes]) -> list[tuple[str, int, int]]:
    """Return (key, start, end) of the values of wanted top-level members, in order."""
    # Many bodies hold none of the keys: a search is cheaper than a walk.
    if not any(b'"%b"' % key.encode() in body for key in wanted) and not _may_hide(body, wanted):
        return []
    spans = []
    for start, end, depth, _ in strings(body):
        if depth == 1 and (colon := AFTER_KEY.match(body, end)) is not None:
            key = _key_text(body[start:end])
            if key in wanted:
                spans.append((key, colon.end(), _value_end(body, colon.end())))
    return spans


def has_escaped_letter(body: bytes) -> bool:
    """Whether letters of ASCII, or underscores, are written with escapes; every parser takes both for the same.

    A word that is looked for may then be missed. Nobody needs to write so: libraries escape quotes, controls, what
    HTML gives a meaning, and all beyond ASCII.
    """
    return b"\\u00" in body and _ESCAPED_LETTER.search(body) is not None


def _may_hide(body: bytes, wanted: Iterable[str]) -> bool:
    if all(_PLAIN_KEY.fullmatch(key) for key in wanted):
        return has_escaped_letter(body)
    return b"\\u" in body


def _key_text(token: bytes) -> str:
    if b"\\" in token:
        text = json.loads(token)
        assert isinstance(text, str)
        return text
    return token[1:-1].decode("utf-8", "surrogatepass")


def _value_end(body: bytes, start: int) -> int:
    first = body[start]
    if first == _QUOTE:
        return string_end(body, start)
    if first not in b"{[":
        match = _SCALAR.match(body, start)
        assert match is not None
        return match.end()
    depth = 0
    for token in _TOKEN.finditer(body, start):
        opening = body[token.start()]
        if opening != _QUOTE:
            depth += _STEP[opening]
            if not depth:
                return token.end()
    raise AssertionError("the body is no valid JSON")
