"""Chat shape: an answer of an engine that knows prompts alone, as ``/v1/chat/completions`` would have given it.

What belongs here: one answer or chunk of ``text_completion`` made a ``chat.completion`` or ``chat.completion.chunk``.
What does not: usage (chat_body.py, chat_stream.py read it off the engine's own bytes), and the way to the engine
(calls/completions.py).

Texts, numbers and usage keep the bytes that the engine wrote. What is not such an answer (an error, a comment, a line
of more than 1 MiB) passes as it is; nothing here raises.
"""

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.core.meters.chunks import DATA
from proxy.core.meters.contract import EventMeter, Reading
from proxy.core.meters.lines import Lines
from proxy.core.usage import Usage

_CLASSIC_ID: Final = b'"cmpl-'
_CHAT_ID: Final = b'"chatcmpl-'
_NULL: Final = Raw(b"null")
_NO_ID: Final = Raw(b'""')
_ZERO: Final = Raw(b"0")
_LOWEST: Final = Raw(b"-9999.0")
"""What engines write for a probability of nothing."""


class _Choice(msgspec.Struct):
    text: Raw
    index: int = 0
    logprobs: Raw = _NULL
    finish_reason: Raw = _NULL
    stop_reason: Raw | UnsetType = UNSET


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    id: Raw = _NO_ID
    created: Raw = _ZERO
    model: Raw = _NO_ID
    usage: Raw | UnsetType = UNSET
    service_tier: Raw | UnsetType = UNSET
    system_fingerprint: Raw | UnsetType = UNSET


class _Said(msgspec.Struct):
    """A message, or a delta (which names its role only once)."""

    role: str | UnsetType
    content: Raw


class _ChatChoice(msgspec.Struct):
    index: int
    message: _Said | UnsetType
    delta: _Said | UnsetType
    logprobs: dict[str, list[Any]] | None
    finish_reason: Raw
    stop_reason: Raw | UnsetType


class _ChatAnswer(msgspec.Struct):
    id: Raw
    object: str
    created: Raw
    model: Raw
    choices: list[_ChatChoice]
    usage: Raw | UnsetType
    service_tier: Raw | UnsetType
    system_fingerprint: Raw | UnsetType


class _Logprobs(msgspec.Struct):
    """The classic form: lists of the same length, one element a token."""

    tokens: list[str]
    token_logprobs: list[Raw]
    top_logprobs: list[dict[str, Raw] | None] | None = None


_decode: Final = msgspec.json.Decoder(_Answer).decode
_decode_logprobs: Final = msgspec.json.Decoder(_Logprobs | None).decode
_encode: Final = msgspec.json.Encoder().encode


def chat_answer(body: bytes) -> bytes:
    """Return a whole answer as a chat's."""
    return _shaped(body, None) or body


class ChatShaped:
    """A stream as a chat's: ``meter`` reads the engine's bytes, and what it lets pass is put into the chat's shape."""

    __slots__ = ("_begun", "_lines", "_meter")

    def __init__(self, meter: EventMeter) -> None:
        self._meter = meter
        self._lines = Lines()
        self._begun: set[int] = set()

    def feed(self, piece: bytes) -> bytes:
        """See ``StreamMeter``."""
        return self._shape(self._meter.feed(piece))

    def known(self) -> Usage:
        """See ``StreamMeter``."""
        return self._meter.known()

    def tail(self) -> bytes:
        """See ``StreamMeter``."""
        shaped = self._shape(self._meter.tail())
        return shaped + self._line(self._lines.rest())

    def cut(self, kept: bytes) -> bytes:
        """See ``EventMeter``."""
        return self._shape(self._meter.cut(kept))

    def finish(self) -> Reading:
        """See ``StreamMeter``."""
        return self._meter.finish()

    def _shape(self, passed: bytes) -> bytes:
        if not passed:
            return b""
        out = []
        for span, is_readable in self._lines.take(passed):
            out.append(b"\n".join(map(self._line, span.split(b"\n"))) if is_readable else span)
        return b"".join(out)

    def _line(self, line: bytes) -> bytes:
        if not line.startswith(DATA):
            return line
        shaped = _shaped(line[len(DATA) :], self._begun)
        if shaped is None:
            return line
        return b"data: %b%b" % (shaped, b"\r" if line.endswith(b"\r") else b"")


def _shaped(text: bytes, begun: set[int] | None) -> bytes | None:
    """Return a JSON text as a chat's; None: it is no such answer.

    Args:
        text: a whole answer, or one chunk.
        begun: the choices of a stream that have had their role; None: it is no stream.
    """
    try:
        answer = _decode(text)
    except (ValueError, RecursionError):  # msgspec's errors and those of UTF-8 are ValueErrors
        return None
    return _encode(
        _ChatAnswer(
            _chat_id(answer.id),
            "chat.completion" if begun is None else "chat.completion.chunk",
            answer.created,
            answer.model,
            [_chat_choice(choice, begun) for choice in answer.choices],
            answer.usage,
            answer.service_tier,
            answer.system_fingerprint,
        )
    )


def _chat_choice(choice: _Choice, begun: set[int] | None) -> _ChatChoice:
    if begun is None:
        message, delta = _Said("assistant", choice.text), None
    else:
        message, delta = None, _Said(UNSET if choice.index in begun else "assistant", choice.text)
        begun.add(choice.index)
    return _ChatChoice(
        choice.index,
        message or UNSET,
        delta or UNSET,
        _chat_logprobs(choice.logprobs),
        choice.finish_reason,
        choice.stop_reason,
    )


def _chat_id(raw: Raw) -> Raw:
    text = bytes(raw)
    return Raw(_CHAT_ID + text[len(_CLASSIC_ID) :]) if text.startswith(_CLASSIC_ID) else raw


def _chat_logprobs(raw: Raw) -> dict[str, list[Any]] | None:
    """Return logprobs as a chat has them: an object a token. None: there are none, or in another form."""
    try:
        classic = _decode_logprobs(raw)
    except (ValueError, RecursionError):
        return None
    if classic is None:
        return None
    tops = classic.top_logprobs or [None] * len(classic.tokens)
    return {
        "content": [
            {**_token(token, logprob), "top_logprobs": [_token(*one) for one in (top or {}).items()]}
            for token, logprob, top in zip(classic.tokens, classic.token_logprobs, tops, strict=False)
        ]
    }


def _token(token: str, logprob: Raw) -> dict[str, Any]:
    return {"token": token, "logprob": _LOWEST if logprob == _NULL else logprob, "bytes": list(token.encode())}
