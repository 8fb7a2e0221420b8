"""Patching JSON objects: request bodies are changed in place, byte for byte elsewhere, never re-serialised.

What belongs here: finding and replacing top-level members of a JSON object that is known to be valid. Re-serialising
would change what the customer wrote (number formats, key order, escapes, duplicate keys) and costs far more.
"""

import json
import re
from collections.abc import Iterator, Mapping

# A string, or a bracket: all that is needed to know the depth. Possessive, so no input makes it backtrack.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]]', re.DOTALL)
_AFTER_KEY = re.compile(rb"\s*+:\s*+")
_QUOTE = ord('"')
_SCALAR = re.compile(rb"[^\s,}\]]++")


def patch_object(body: bytes, changes: Mapping[str, bytes]) -> bytes:
    """Return ``body`` with top-level members set to new values (JSON text); every occurrence of a key is replaced.

    Members that are absent are put first. The body must be a valid JSON object; an escaped spelling of a key counts as
    that key, as it does for every parser.
    """
    spans = _member_spans(body, changes)
    absent = [key for key in changes if key not in {found for found, _, _ in spans}]
    pieces = []
    end = body.index(b"{") + 1
    if absent:
        members = b",".join(b'"%b":%b' % (key.encode(), changes[key]) for key in absent)
        empty = body[end:].lstrip()[:1] == b"}"
        pieces.append(body[:end] + members + (b"" if empty else b","))
    else:
        pieces.append(body[:end])
    for key, start, stop in spans:
        pieces += (body[end:start], changes[key])
        end = stop
    pieces.append(body[end:])
    return b"".join(pieces)


def _member_spans(body: bytes, wanted: Mapping[str, bytes]) -> list[tuple[str, int, int]]:
    """Return (key, start, end) of the values of wanted top-level members, in order."""
    # Most bodies hold none of the keys: a search is cheaper than a walk. An escaped key has a backslash before its
    # colon.
    if not any(b'"%b"' % key.encode() in body for key in wanted) and not _has_escaped_key(body):
        return []
    spans = []
    for token, depth in _tokens(body, 0):
        if depth == 1 and body[token.start()] == _QUOTE and (colon := _AFTER_KEY.match(body, token.end())) is not None:
            key = _key_text(token.group())
            if key in wanted:
                spans.append((key, colon.end(), _value_end(body, colon.end())))
    return spans


def _tokens(body: bytes, start: int) -> Iterator[tuple[re.Match[bytes], int]]:
    """Yield strings and brackets with the depth that they leave behind."""
    depth = 0
    for token in _TOKEN.finditer(body, start):
        opening = body[token.start()]
        if opening in b"{[":
            depth += 1
        elif opening in b"}]":
            depth -= 1
        yield token, depth


def _has_escaped_key(body: bytes) -> bool:
    return b"\\u00" in body


def _key_text(token: bytes) -> str:
    if b"\\" in token:
        text = json.loads(token)
        assert isinstance(text, str)
        return text
    return token[1:-1].decode("utf-8", "surrogatepass")


def _value_end(body: bytes, start: int) -> int:
    first = body[start]
    if first == _QUOTE:
        match = _TOKEN.match(body, start)
        assert match is not None
        return match.end()
    if first not in b"{[":
        match = _SCALAR.match(body, start)
        assert match is not None
        return match.end()
    return next(token.end() for token, depth in _tokens(body, start) if depth == 0)
