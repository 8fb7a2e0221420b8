"""Transcriptions: the started minutes of an answer.

What belongs here: reading an answer, and whose number of minutes is billed. What does not: measuring a file
(``proxy.core.audio``), and the customer's answer (``proxy.core.transcription_shapes``).

Two know how long a sound plays: the engine, which has decoded it, and the proxy, which has measured the file. The
shorter one is billed. An engine that reports less has heard less: it stopped at a fault, left silence out, or knows of
padding. One that reports more than the file can hold is mistaken, or counts something else; what the file holds bounds
every report, and is what was held of the customer's budget. Nothing reported, or nothing that can be: the measure.
"""

from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.core.calls import PreparedCall
from proxy.core.calls.transcriptions import TranscriptionCall, started_minutes
from proxy.core.catalogue import Engine
from proxy.core.meters.contract import Reading
from proxy.core.usage import NOTHING, Quantity, Source, Usage, UsageType

_REPORT_CHARS_MAX: Final = 32
_SECONDS_MAX: Final = 1 << 40


class Heard(msgspec.Struct):
    """The members of an answer that matter; each as the engine wrote it."""

    text: str
    segments: Raw | UnsetType = UNSET
    words: Raw | UnsetType = UNSET
    language: Any = None
    duration: Raw | UnsetType = UNSET
    usage: Any = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(Heard).decode
_decode_text: Final = msgspec.json.Decoder(str).decode


def hear(body: bytes) -> Heard | None:
    """Return a whole answer, None when it is none."""
    try:
        heard = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return heard if not heard.error else None


def reported_ms(heard: Heard) -> int | None:
    """Return the duration that an engine reports, in whole milliseconds; None: none that can be believed at all.

    ``duration`` is exact (older vLLM writes it as a string); ``usage.seconds`` is rounded up to whole seconds.
    """
    if heard.duration is not UNSET and (exact := _milliseconds(bytes(heard.duration))) is not None:
        return exact
    usage = heard.usage
    if isinstance(usage, dict) and usage.get("type") == "duration" and "seconds" in usage:
        return _milliseconds(str(usage["seconds"]).encode())
    return None


def billed(heard: Heard, call: TranscriptionCall) -> tuple[int, Source]:
    """Return the duration that is billed, in milliseconds, and whose it is.

    Where both come to the same minutes, it is the engine's.
    """
    reported = reported_ms(heard)
    if reported is None or started_minutes(reported) > started_minutes(call.duration_ms):
        return call.duration_ms, Source.MEASURED
    return min(reported, call.duration_ms), Source.REPORTED


def read_transcription(engine: Engine, body: bytes, call: PreparedCall) -> Reading:  # noqa: ARG001 - they are alike
    """Read a whole answer. One without a text is none."""
    assert isinstance(call, TranscriptionCall)
    heard = hear(body)
    if heard is None:
        return Reading(NOTHING, complete=False)
    duration_ms, source = billed(heard, call)
    return Reading(
        Usage((Quantity(UsageType.AUDIO_MINUTES, started_minutes(duration_ms), source),)),
        complete=True,
    )


def _milliseconds(raw: bytes) -> int | None:
    """Return a number of seconds, or a string of one, as whole milliseconds; None: it is none that can be."""
    text = raw.strip(b'"').decode(errors="replace")
    if len(text) > _REPORT_CHARS_MAX:
        return None
    try:
        seconds = Decimal(text)
        if not 0 < seconds < _SECONDS_MAX:
            return None
    except InvalidOperation:  # no number, or one that cannot be compared
        return None
    return max(1, int(seconds * 1000))
