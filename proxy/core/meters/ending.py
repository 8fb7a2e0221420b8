"""Ending: what makes a stream that stops early end as its client expects.

What belongs here: the last chunks, made after the likeness of the stream's own. What does not: when to stop (gate.py).

A stream that is cut says why: ``finish_reason`` is ``length`` for every choice that had none, as when ``max_tokens`` is
reached; then comes the usage, if the client asked for it, and ``[DONE]``. SDKs end their iteration without an error.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from proxy.core.meters.chunks import DATA
from proxy.core.usage import Usage, UsageType

_LIKE: Final = ("id", "object", "created", "model", "service_tier", "system_fingerprint")
_TEXT: Final = "text_completion"
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
_encode: Final = msgspec.json.Encoder().encode


def ending(lines: Iterable[bytes], unfinished: Sequence[int], usage: Usage | None) -> bytes:
    """Return the events that end a stream.

    Args:
        lines: of the stream; the first that holds a chunk shows what chunks look like.
        unfinished: indices of the choices without a finish_reason.
        usage: what the call has used; None: the client did not ask.
    """
    likeness = next((chunk for chunk in map(_chunk, lines) if chunk is not None), {})
    head: dict[str, Any] = {name: likeness[name] for name in _LIKE if name in likeness}
    said: dict[str, Any] = {"text": ""} if head.get("object") == _TEXT else {"delta": {}}
    events: list[dict[str, Any]] = [
        {**head, "choices": [{"index": index, **said, "logprobs": None, "finish_reason": "length"}]}
        for index in unfinished
    ]
    if usage is not None:
        events.append({**head, "choices": [], "usage": _usage(usage)})
    return b"".join([b"data: %b\n\n" % _encode(event) for event in events]) + b"data: [DONE]\n\n"


def _chunk(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(DATA):
        return None
    try:
        chunk = _decode(line[len(DATA) :])
    except (ValueError, RecursionError):  # msgspec's errors and those of UTF-8 are ValueErrors
        return None
    return chunk if "choices" in chunk else None


def _usage(usage: Usage) -> dict[str, Any]:
    """Return usage as engines write it: cached and reasoning tokens are parts of the sums."""
    cached, reasoning = usage.amount(UsageType.CACHED_INPUT), usage.amount(UsageType.REASONING)
    prompt, completion = usage.amount(UsageType.INPUT) + cached, usage.output_tokens
    written: dict[str, Any] = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }
    if cached:
        written["prompt_tokens_details"] = {"cached_tokens": cached}
    if reasoning:
        written["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return written
