"""Patching JSON objects: request bodies are changed in place, byte for byte elsewhere, never re-serialised.

What belongs here: finding the members of an object and the elements of an array in a body that is known to be valid,
and replacing spans of it. Re-serialising would change what the customer wrote (number formats, key order, escapes,
duplicate keys) and costs far more.

Everything goes from one member to the next, over strings and whole values at C speed: megabytes in one value cost next
to nothing, whatever it holds. What is left to be slow, an object of very many members, is refused.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from proxy.core.errors import invalid_request

MEMBERS_MAX: Final = 1000
"""An object with more is no request that anybody means."""

# Possessive, so no input makes them backtrack.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR: Final = re.compile(rb"[^\s,}\]]++")
_OPENED: Final = re.compile(rb"\s*+\{\s*+")
_COLON: Final = re.compile(rb"\s*+:\s*+")
_BETWEEN: Final = re.compile(rb"\s*+,?+\s*+")
_AFTER_VALUE: Final = re.compile(r"trailing characters \(byte (\d+)\)")
_ESCAPED_LETTER: Final = re.compile(rb"\\u00(?:[46][1-9a-fA-F]|[57][0-9aA]|5[fF])")
_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")
_CLOSING: Final = {ord("{"): b"}", ord("["): b"]"}

_decode_value: Final = msgspec.json.Decoder(msgspec.Raw).decode
_decode_array: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


def patch_object(body: bytes, changes: Mapping[str, bytes]) -> bytes:
    """Return ``body`` with top-level members set to new values (JSON text); every occurrence of a key is replaced.

    Members that are absent are put first. The body must be a valid JSON object; an escaped spelling of a key counts as
    that key, as it does for every parser.

    Raises:
        ApiError: 400 when there are more than ``MEMBERS_MAX`` members.
    """
    spans = _member_spans(body, changes)
    edits = [(start, end, changes[key]) for key, start, end in spans]
    found = {key for key, _, _ in spans}
    absent = [key for key in changes if key not in found]
    if absent:
        added = b",".join(b'"%b":%b' % (key.encode(), changes[key]) for key in absent)
        inside = body.index(b"{") + 1
        is_empty = body.startswith(b"}", _after(_OPENED, body, 0))
        edits.insert(0, (inside, inside, added if is_empty else added + b","))
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


def members(body: bytes, start: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Yield each member of the object that begins at ``start``: start and end of its key, start and end of its value.

    Raises:
        ApiError: 400 when there are more than ``MEMBERS_MAX``.
    """
    at = _after(_OPENED, body, start)
    count = 0
    while body[at] == _QUOTE:
        count += 1
        if count > MEMBERS_MAX:
            raise invalid_request("The request body has too many members")
        key_end = string_end(body, at)
        value = _after(_COLON, body, key_end)
        end = _value_end(body, value)
        yield at, key_end, value, end
        at = _after(_BETWEEN, body, end)


def elements(body: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each element of the array that stands from ``start`` to ``end``."""
    at = start + 1
    for element in _decode_array(memoryview(body)[start:end]):
        at = _after(_BETWEEN, body, at)
        first, at = at, at + memoryview(element).nbytes
        yield first, at


def string_end(body: bytes, start: int) -> int:
    """Return where the string ends whose opening quote stands at ``start``."""
    end = body.find(b'"', start + 1)
    if body[end - 1] != _BACKSLASH:
        return end + 1
    return _after(_STRING, body, start)


def has_escaped_letter(body: bytes) -> bool:
    """Whether letters of ASCII, or underscores, are written with escapes; every parser takes both for the same.

    A word that is looked for may then be missed. Nobody needs to write so: libraries escape quotes, controls, what
    HTML gives a meaning, and all beyond ASCII.
    """
    return b"\\u00" in body and _ESCAPED_LETTER.search(body) is not None


def _member_spans(body: bytes, wanted: Mapping[str, bytes]) -> list[tuple[str, int, int]]:
    """Return (key, start, end) of the values of wanted top-level members, in order."""
    # Many bodies hold none of the keys, and no escapes that could hide one: a search is cheaper than a walk.
    if not any(b'"%b"' % key.encode() in body for key in wanted) and b"\\u" not in body:
        return []
    found = ((_key_text(body[first:after]), value, end) for first, after, value, end in members(body))
    return [span for span in found if span[0] in wanted]


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
    closing = _CLOSING.get(first)
    if closing is None:
        return _after(_SCALAR, body, start)
    # The decoder goes over a value without making anything of it, and then names the byte, from 1, that should not be.
    try:
        _decode_value(memoryview(body)[start:])
    except msgspec.DecodeError as exc:
        after = _AFTER_VALUE.search(str(exc))
        assert after is not None, "the body is no valid JSON"
        return body.rfind(closing, start, start + int(after[1]) - 1) + 1
    return body.rfind(closing, start) + 1


def _after(pattern: re.Pattern[bytes], body: bytes, at: int) -> int:
    match = pattern.match(body, at)
    assert match is not None, "the body is no valid JSON"
    return match.end()
