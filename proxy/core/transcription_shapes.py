"""Transcription shapes: the form that each engine is sent, and the customer's answer that is made of what it says.

What belongs here: the differences between engines, writing a form, and building the answer. What does not: checking
forms (calls/transcriptions.py), reading answers and their minutes (meters/transcriptions.py), subtitles (subtitles.py).

| engine | asked for | what differs |
|---|---|---|
| vLLM, SGLang, OpenAI | ``verbose_json`` | has segments and times |
| transformers | nothing | takes a file and a model, refuses all other fields; answers a text |
| any other | ``json`` | answers a text |

``json`` is ``verbose_json``, as documented. Engines refuse ``srt`` and ``vtt``, or answer them without saying how long
the sound was: they are made here of segments; of an engine that has none, the text is one cue.
"""

import re
from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec
from msgspec import UNSET, Raw

from proxy.core.calls.contract import PreparedCall, Sent, Shown
from proxy.core.calls.transcriptions import GRANULARITIES, Format, TranscriptionCall
from proxy.core.catalogue import Engine
from proxy.core.meters.transcriptions import Heard, billed, hear
from proxy.core.subtitles import Cue, plain_text, srt, vtt

_VERBOSE: Final = frozenset({Engine.VLLM, Engine.SGLANG, Engine.OPENAI})
_JSON: Final = frozenset({Format.JSON, Format.VERBOSE_JSON})
_SEGMENT: Final = "segment"
_MEDIA_TYPE: Final = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}(?: *; *[\w-]{1,32}=[\w.+-]{1,64})*\Z", re.ASCII)
_ESCAPED: Final = str.maketrans({"\r": "%0D", "\n": "%0A", '"': "%22"})
_FILE_NAME_CHARS_MAX: Final = 255
_SECOND_MS: Final = 1000
_TIME_MAX: Final = 1 << 32
_EMPTY: Final = (b"", b"null")


def send_transcription(call: PreparedCall, engine: Engine) -> Sent:
    """Return the form that an engine is sent."""
    assert isinstance(call, TranscriptionCall)
    assert call.boundary
    fields = [("model", call.model.upstream_model)]
    if engine in _VERBOSE:
        fields += call.fields
        fields.append(("response_format", Format.VERBOSE_JSON))
        if call.format in _JSON and call.granularities:  # segments are documented: they come with any answer
            wanted = dict.fromkeys((*call.granularities, _SEGMENT))
            fields += [(GRANULARITIES, value) for value in wanted]
    elif engine is not Engine.TRANSFORMERS:
        fields += call.fields
        fields.append(("response_format", Format.JSON))
    mark = b"--" + call.boundary.encode()
    head = b"".join(b"%b\r\n%b\r\n" % (mark, _field(name, value)) for name, value in fields)
    head += b"%b\r\n%b" % (mark, _file_head(call.file.name, call.file.content_type))
    content_type = f"multipart/form-data; boundary={call.boundary}".encode()
    return Sent(call.upstream_route, (head, call.file.content, b"\r\n%b--\r\n" % mark), content_type)


def _field(name: str, value: str) -> bytes:
    return f'Content-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n{value}'.encode()


def _file_head(name: str, content_type: str) -> bytes:
    kind = content_type if _MEDIA_TYPE.match(content_type) else "application/octet-stream"
    shown = _quoted(name[-_FILE_NAME_CHARS_MAX:] or "audio")
    disposition = f'Content-Disposition: form-data; name="file"; filename="{shown}"'
    return f"{disposition}\r\nContent-Type: {kind}\r\n\r\n".encode()


def _quoted(name: str) -> str:
    """Return a name as browsers quote it (HTML, multipart/form-data encoding algorithm)."""
    return name.translate(_ESCAPED)


def show_transcription(engine: Engine, body: bytes, call: PreparedCall, call_id: str) -> Shown:  # noqa: ARG001
    """Return the answer in the customer's format; ``body`` has been read as complete."""
    assert isinstance(call, TranscriptionCall)
    heard = hear(body)
    assert heard is not None
    duration_ms, _ = billed(heard, call)
    if call.format in _JSON:
        return Shown(_as_json(heard, call, duration_ms))
    if call.format is Format.TEXT:
        return Shown(plain_text(heard.text).encode(), b"text/plain; charset=utf-8")
    cues = _cues(heard, duration_ms)
    if call.format is Format.VTT:
        return Shown(vtt(cues).encode(), b"text/vtt; charset=utf-8")
    return Shown(srt(cues).encode(), b"application/x-subrip; charset=utf-8")


def _as_json(heard: Heard, call: TranscriptionCall, duration_ms: int) -> bytes:
    """Return the documented members first, then those that OpenAI's SDKs know beside them."""
    seconds = b"%d.%03d" % divmod(duration_ms, _SECOND_MS)
    language = heard.language if isinstance(heard.language, str) else "en" if call.translates else call.language
    words = b"" if _is_empty(heard.words) else b',"words":%b' % bytes(heard.words)  # type: ignore[arg-type]
    return (
        b'{"text":%b,"segments":%b,"language":%b,"task":"%b","duration":%b%b,"usage":{"type":"duration","seconds":%b}}'
    ) % (
        msgspec.json.encode(heard.text),
        b"[]" if _is_empty(heard.segments) else bytes(heard.segments),  # type: ignore[arg-type]
        msgspec.json.encode(language),
        b"translate" if call.translates else b"transcribe",
        seconds,
        words,
        seconds,
    )


class _Segment(msgspec.Struct):
    start: Raw
    end: Raw
    text: str


_segments: Final = msgspec.json.Decoder(list[_Segment]).decode


def _cues(heard: Heard, duration_ms: int) -> list[Cue]:
    """Return what is said when; of an engine that does not tell, all of it from the beginning to the end."""
    try:
        found = [] if _is_empty(heard.segments) else _segments(heard.segments)  # type: ignore[arg-type]
        cues = [_cue(segment) for segment in found]
    except (msgspec.DecodeError, InvalidOperation, UnicodeDecodeError, RecursionError):
        cues = []
    cues = [cue for cue in cues if cue.text.strip()]
    if not cues and heard.text.strip():
        cues = [Cue(0, duration_ms, heard.text)]
    return cues


def _cue(segment: _Segment) -> Cue:
    start_ms = _moment_ms(segment.start)
    return Cue(start_ms, max(start_ms, _moment_ms(segment.end)), segment.text)


def _moment_ms(raw: Raw) -> int:
    """Return a moment in milliseconds. Raises InvalidOperation."""
    seconds = Decimal(bytes(raw).decode())
    return int(max(Decimal(0), min(Decimal(_TIME_MAX), seconds)) * _SECOND_MS)


def _is_empty(value: object) -> bool:
    return value is UNSET or bytes(value) in _EMPTY  # type: ignore[call-overload]
