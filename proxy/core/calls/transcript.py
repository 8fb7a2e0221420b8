"""Transcripts: the messages of a chat as one prompt, for engines that know prompts alone.

What belongs here: the rule, and what it cannot express. What does not: the call that they belong to (completions.py).

The rule: a single message is its text, nothing added. Several are ``Role: text`` each, an empty line between them, in
their order; ``Assistant:`` ends the prompt, unless the last message is the assistant's, which is then to be continued::

    System: Be brief.

    User: Bonjour

    Assistant:

A text in parts is its parts, a line each. Images and tools are refused: a prompt has no place for them.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from proxy.core.errors import invalid_parameter

_LABELS: Final = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}
_TEXT_ONLY: Final = "must be text, as this model reads nothing else"
_NO_TOOLS: Final = "is not supported by this model"


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]]
    tool_calls: Any = None
    function_call: Any = None


_decode: Final = msgspec.json.Decoder(_Message).decode


def prompt_of(messages: Iterable[msgspec.Raw]) -> str:
    """Return the prompt of at least one message. Raises ApiError (400, ``messages``) for what is not text."""
    spoken = [_spoken(message) for message in messages]
    if len(spoken) == 1:
        return spoken[0][1]
    lines = [f"{label}: {text}" for label, text in spoken]
    if spoken[-1][0] != _LABELS["assistant"]:
        lines.append(f"{_LABELS['assistant']}:")
    return "\n\n".join(lines)


def without_tools(tools: list[msgspec.Raw] | None, tool_choice: str | dict[str, Any] | None) -> None:
    """Raise ApiError (400) for a chat with tools."""
    if tools:
        raise invalid_parameter("tools", _NO_TOOLS)
    if isinstance(tool_choice, dict) or tool_choice == "required":
        raise invalid_parameter("tool_choice", _NO_TOOLS)


def _spoken(raw: msgspec.Raw) -> tuple[str, str]:
    """Return who speaks, and the text."""
    try:
        message = _decode(raw)
    except (ValueError, RecursionError) as exc:  # msgspec's errors and those of UTF-8 are ValueErrors
        raise invalid_parameter("messages", _TEXT_ONLY) from exc
    label = _LABELS.get(message.role)
    if label is None or message.tool_calls or message.function_call:
        raise invalid_parameter("messages", _TEXT_ONLY)
    if isinstance(message.content, str):
        return label, message.content
    return label, "\n".join(_text_of(part) for part in message.content)


def _text_of(part: dict[str, Any]) -> str:
    text = part.get("text")
    if part.get("type") != "text" or not isinstance(text, str):
        raise invalid_parameter("messages", _TEXT_ONLY)
    return text
