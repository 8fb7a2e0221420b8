"""Redaction: what must never be in a log line, taken out of anything that is about to become one.

What belongs here: how secrets look and what stands in their place. It is the last net, not a licence: rooms do not
log keys, prompts or answers in the first place. Where it doubts, it takes out too much.
"""

import re
from collections.abc import Mapping
from typing import Final

REDACTED: Final = "[redacted]"
TEXT_CHARS_MAX: Final = 16_384
"""Longest text of one field; a traceback is shorter."""
_DEPTH_MAX: Final = 6
_ITEMS_MAX: Final = 256

_SECRET_FIELDS: Final = frozenset(
    {
        "authorization", "proxy_authorization", "cookie", "set_cookie", "api_key", "apikey", "x_api_key", "key",
        "bearer", "token", "access_token", "password", "passwd", "secret", "client_secret", "private_key", "dsn",
    }
)  # fmt: skip
_CONTENT_FIELDS: Final = frozenset(
    {
        "messages",
        "prompt",
        "prompts",
        "input",
        "content",
        "body",
        "completion",
        "answer",
        "documents",
        "query",
    }
)

_PATTERNS: Final = (
    # Our own keys, whole or cut short; what stands before them may be any separator.
    (re.compile(r"tg-[0-9A-Za-z]{6,}"), "tg-" + REDACTED),
    # Other vendors' keys: an upstream's, a hub's.
    (re.compile(r"\b(sk|pk|rk|hf|gsk|xai|nvapi)([-_])[0-9A-Za-z_-]{12,}"), r"\1\2" + REDACTED),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',;]+"), r"\1 " + REDACTED),
    (re.compile(r"(?i)\b(authorization|cookie)(\\?[\"']?\s*[:=,]\s*)[^\r\n]+"), r"\1\2" + REDACTED),
    # A password may hold '@', ':' and '/' where somebody forgot to encode it: up to the last '@' of the word.
    (re.compile(r"(\w://)[^\s/?#\"'@]*:[^\s\"']*@"), r"\1" + REDACTED + "@"),
    (
        re.compile(
            r"(?i)(password|passwd|pwd|secret|api[_-]?key|access[_-]?token|\btoken)(\\?[\"']?\s*[:=]\s*\\?[\"']?)"
            r"(?!\[redacted\])[^\s\"'&,;)}\]]+"
        ),
        r"\1\2" + REDACTED,
    ),
)


def redact_text(text: str) -> str:
    """Return the text without what looks like a secret, and no longer than ``TEXT_CHARS_MAX``."""
    if len(text) > TEXT_CHARS_MAX:
        text = f"{text[:TEXT_CHARS_MAX]}… ({len(text)} characters)"
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact_field(name: str, value: object, depth: int = 0) -> object:
    """Return what may be logged under a name: nothing of it for the names of secrets and of content."""
    plain = name.lower().replace("-", "_")
    if plain in _SECRET_FIELDS or plain in _CONTENT_FIELDS:
        return REDACTED
    return redact_value(value, depth)


def redact_value(value: object, depth: int = 0) -> object:
    """Return the value as something JSON can hold, redacted all the way down.

    Objects become their ``repr``; deep and long structures are cut.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return redact_text(bytes(value[: TEXT_CHARS_MAX + 1]).decode("utf-8", "replace"))
    if depth < _DEPTH_MAX and isinstance(value, Mapping):
        pairs = list(value.items())[:_ITEMS_MAX]
        return {redact_text(str(name)): redact_field(str(name), item, depth + 1) for name, item in pairs}
    if depth < _DEPTH_MAX and isinstance(value, list | tuple | set | frozenset):
        return [redact_value(item, depth + 1) for item in list(value)[:_ITEMS_MAX]]
    return redact_text(_repr(value))


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  a broken repr must not take the log line with it
        return f"<{type(value).__name__}>"
