"""Chat bodies: usage off a whole answer of ``/v1/chat/completions`` and ``/v1/completions``.

What belongs here: reading usage, and counting text where there is none. What does not: judging numbers (reported.py).
"""

from typing import Any, Final

import msgspec

from proxy.core import estimate
from proxy.core.catalogue import Engine
from proxy.core.meters.chunks import text_bytes
from proxy.core.meters.contract import Reading
from proxy.core.meters.large import BodyMeter, answers_with
from proxy.core.meters.reported import Seen, read_usage, usage_of
from proxy.core.usage import NOTHING, Usage


class _Answer(msgspec.Struct):
    choices: msgspec.Raw = msgspec.Raw(b"")
    usage: Any = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Answer).decode
_CHAT: Final = answers_with("choices")
_decode_choices: Final = msgspec.json.Decoder(list[dict[str, Any]]).decode


def read_body(engine: Engine, body: bytes, *, choices: int, prompt_bytes: int) -> Reading:  # noqa: ARG001
    """Read a whole answer. All engines write the same; ``engine`` is asked for like every reader's.

    A body that is no JSON object is not complete: its prompt is estimated, its output unknown and left out. One that
    holds an error, or neither choices nor usage, is no answer: nothing was used. The text is decoded only when the
    usage does not say what was generated.
    """
    choices = max(1, choices)
    try:
        answer = _decode(body)
    except (ValueError, RecursionError):  # msgspec's errors and those of UTF-8 are ValueErrors
        return Reading(usage_of(None, Seen(prompt_bytes, len(body), choices, int)), complete=False)
    reported = read_usage(answer.usage)
    has_choices = bytes(memoryview(answer.choices)[:1]) == b"["
    if answer.error or (reported is None and not has_choices):
        return Reading(NOTHING, complete=False, failed=bool(answer.error))
    seen = Seen(prompt_bytes, len(body), choices, lambda: _text_tokens(answer.choices))
    return Reading(usage_of(reported, seen), complete=has_choices)


def _text_tokens(choices: msgspec.Raw) -> int:
    try:
        return sum(estimate.text_tokens(text_bytes(choice)) for choice in _decode_choices(choices))
    except (ValueError, RecursionError):
        return 0


def body_meter(engine: Engine, *, choices: int, prompt_bytes: int, output_tokens_max: int) -> BodyMeter:  # noqa: ARG001
    """Return the meter of a whole answer that is relayed as it comes.

    Its text is not seen apart from the rest: where the usage does not say what was generated, that is estimated from
    the answer's size, and never more than the call could produce.
    """
    choices = max(1, choices)

    def rule(usage: object, answer_bytes: int) -> Usage:
        seen = Seen(
            prompt_bytes, answer_bytes, choices, lambda: min(output_tokens_max, estimate.text_tokens(answer_bytes))
        )
        return usage_of(read_usage(usage), seen)

    return BodyMeter(_CHAT, rule)
