"""Chunks: one event of a chat stream, or one choice of a whole answer, as an untrusted value.

What belongs here: decoding a line and finding the text in a choice, whatever the shape. Used on few lines only: the
first, the last, and those that hold usage.
"""

from typing import Any, Final

import msgspec

DATA: Final = b"data:"
"""Start of the only kind of line that is read (WHATWG HTML, "Server-sent events")."""

_TEXTS: Final = ("content", "refusal")
_REASONINGS: Final = ("reasoning", "reasoning_content")
_NO_INDEX: Final = 0


class Chunk(msgspec.Struct):
    """The members of a chunk that are read; every value may be anything."""

    choices: Any = msgspec.UNSET
    usage: Any = None
    error: Any = None
    object: Any = None

    @property
    def is_usage_only(self) -> bool:
        """Whether it is the extra chunk of ``include_usage``: usage, and a list of choices that is empty."""
        return isinstance(self.usage, dict) and (self.choices is None or self.choices == [])

    @property
    def is_error(self) -> bool:
        """Whether it is an error event: ``{"error": …}``, or SGLang's ``{"object": "error", …}``."""
        return bool(self.error) or self.object == "error"

    @property
    def choice_list(self) -> list[dict[str, Any]]:
        """The choices that are objects."""
        if not isinstance(self.choices, list):
            return []
        return [choice for choice in self.choices if isinstance(choice, dict)]


_decoder: Final = msgspec.json.Decoder(Chunk)


def parse_chunk(line: bytes) -> Chunk | None:
    """Decode a ``data:`` line; None when it is none, or holds no JSON object."""
    if not line.startswith(DATA):
        return None
    try:
        return _decoder.decode(line[len(DATA) :])
    except (ValueError, RecursionError):  # msgspec's errors and those of UTF-8 are ValueErrors
        return None


def index_of(choice: dict[str, Any]) -> int:
    """Return a choice's index, 0 when it has none that can be used."""
    index = choice.get("index")
    return index if type(index) is int else _NO_INDEX


def is_finished(choice: dict[str, Any]) -> bool:
    """Whether the choice has a finish_reason."""
    return bool(choice.get("finish_reason"))


def text_bytes(choice: dict[str, Any]) -> int:
    """Return the bytes of everything that was generated in a choice: text, refusal, reasoning, tool calls.

    Reasoning counts once: servers that rename its field send the same text under both names for a time.
    """
    total = _length(choice.get("text"))
    for part in (choice.get("delta"), choice.get("message")):
        if isinstance(part, dict):
            total += sum(_length(part.get(name)) for name in _TEXTS)
            total += max(_length(part.get(name)) for name in _REASONINGS)
            total += _call_length(part.get("function_call"))
            calls = part.get("tool_calls")
            for call in calls if isinstance(calls, list) else ():
                total += _call_length(call.get("function") if isinstance(call, dict) else None)
    return total


def _length(text: object) -> int:
    if isinstance(text, str):
        return len(text.encode())
    if isinstance(text, list):  # content as parts: [{"type": "text", "text": …}]
        return sum(_length(part.get("text")) for part in text if isinstance(part, dict))
    return 0


def _call_length(function: object) -> int:
    if not isinstance(function, dict):
        return 0
    return _length(function.get("name")) + _length(function.get("arguments"))
