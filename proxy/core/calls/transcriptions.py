"""Transcription calls: ``/v1/audio/transcriptions`` and ``/v1/audio/translations``, which are forms.

What belongs here: the documented fields, those of OpenAI's SDKs, and what bounds the minutes. What does not: what an
engine is sent and what it answers (``proxy.core.transcription_shapes``).

An empty value is no value, as with a form of a web page. What is not named here passes to the engine untouched.
"""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from proxy.core.calls.checking import find_model
from proxy.core.calls.contract import Form, FormFile, PreparedCall, Terms
from proxy.core.catalogue import Engine, Model
from proxy.core.errors import invalid_parameter

TRANSCRIPTIONS: Final = "/v1/audio/transcriptions"
TRANSLATIONS: Final = "/v1/audio/translations"
MINUTE_MS: Final = 60_000

TRANSLATING: Final = frozenset({Engine.VLLM, Engine.OPENAI})
"""Engines that have a route for translations."""

_LANGUAGE: Final = re.compile(r"[a-zA-Z]{2,3}\Z")
_TEMPERATURE: Final = re.compile(r"(?:0?\.\d{1,9}|[01](?:\.0{0,9})?|0\.\d{0,9})\Z", re.ASCII)
_FALSE: Final = frozenset({"false", "0", "no", "off"})
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_GRANULARITIES: Final = frozenset({"word", "segment"})
_SINGLE: Final = ("model", "language", "prompt", "initial_prompt", "task", "response_format", "temperature", "stream")
_SINGLE_TOO: Final = ("n", "use_beam_search", "stream_include_usage", "stream_continuous_usage_stats")
GRANULARITIES: Final = "timestamp_granularities[]"


class Format(StrEnum):
    """How a customer wants the answer."""

    JSON = "json"
    VERBOSE_JSON = "verbose_json"
    TEXT = "text"
    SRT = "srt"
    VTT = "vtt"


class TranscriptionCall(PreparedCall, frozen=True, kw_only=True):
    """A transcription call that may be admitted.

    Args:
        file: the audio; its duration is known.
        duration_ms: how long it plays, measured.
        fields: (name, value) that every engine may be sent: all but the model, and what the shape of the answer needs.
        granularities: of the time stamps that the customer wants.
        format: of the customer's answer.
        language: spoken, as the customer says; None: to be found out.
        boundary: of the form that is sent on.
    """

    file: FormFile
    duration_ms: int
    fields: Sequence[tuple[str, str]] = ()
    granularities: Sequence[str] = ()
    format: Format = Format.JSON
    language: str | None = None
    boundary: str = ""

    @property
    def translates(self) -> bool:
        """Whether what is said is put into English."""
        return self.upstream_route == TRANSLATIONS


def started_minutes(duration_ms: int) -> int:
    """Return how many minutes are begun: 60.000 s are one, 60.001 s are two. What plays at all is at least one."""
    return max(1, -(-duration_ms // MINUTE_MS))


def prepare_transcription(received: bytes | Form, route: str, terms: Terms) -> TranscriptionCall:
    """Check a form and make it ready.

    Raises:
        ApiError: 400 with the parameter's name, or 404 for an unknown model.
    """
    assert isinstance(received, Form)
    values = _single_values(received)
    model = _model(values.get("model"), route, terms)
    wanted = _checked(values)
    translates = _translates(values.get("task"), route)
    if translates:
        model = _translating(model, route)
    granularities = [value for name, value in received.fields if name == GRANULARITIES and value]
    if not _GRANULARITIES.issuperset(granularities):
        raise invalid_parameter(GRANULARITIES, "must be word or segment")
    file, duration_ms = _file(received)
    return TranscriptionCall(
        model=model,
        upstream_route=TRANSLATIONS if translates else TRANSCRIPTIONS,
        body=b"",
        audio_minutes_max=started_minutes(duration_ms),
        file=file,
        duration_ms=duration_ms,
        fields=_passing(received, values),
        granularities=granularities,
        format=wanted,
        language=values["language"].lower() if "language" in values else None,
        boundary=received.boundary,
    )


def _single_values(form: Form) -> dict[str, str]:
    """Return the fields that mean something here, empty ones left out. Raises ApiError: 400 when one comes twice."""
    values: dict[str, str] = {}
    seen = set()
    for name, value in form.fields:
        if name in _SINGLE or name in _SINGLE_TOO:
            if name in seen:
                raise invalid_parameter(name, "must be sent once")
            seen.add(name)
            if value:
                values[name] = value
    return values


def _model(name: str | None, route: str, terms: Terms) -> Model:
    """Return the model that is named, or the first one of the route."""
    if name is None:
        for model in terms.models.values():
            if route in model.endpoints:
                return model
    return find_model(name or "", route, terms)


def _checked(values: Mapping[str, str]) -> Format:
    """Check the values that can be wrong by themselves; return the format of the answer. Raises ApiError (400)."""
    if "language" in values and not _LANGUAGE.match(values["language"]):
        raise invalid_parameter("language", "must be an ISO 639-1 code such as fr")
    if "temperature" in values and not _TEMPERATURE.match(values["temperature"]):
        raise invalid_parameter("temperature", "must be between 0 and 1")
    if "prompt" in values and "initial_prompt" in values:
        raise invalid_parameter("initial_prompt", "must not be sent together with prompt, which means the same")
    stream = values.get("stream", "false").lower()
    if stream not in _FALSE:
        problem = "must be false: transcriptions are not streamed" if stream in _TRUE else "must be a boolean"
        raise invalid_parameter("stream", problem)
    if values.get("n", "1") != "1":
        raise invalid_parameter("n", "must be 1")
    if values.get("use_beam_search", "false").lower() not in _FALSE:
        raise invalid_parameter("use_beam_search", "must be false")
    try:
        return Format(values.get("response_format", Format.JSON))
    except ValueError:
        raise invalid_parameter("response_format", f"must be one of {', '.join(Format)}") from None


def _translates(task: str | None, route: str) -> bool:
    """Return whether a call asks for English. Raises ApiError (400)."""
    if route == TRANSLATIONS:
        if task not in (None, "translate"):
            raise invalid_parameter("task", "must be translate")
        return True
    if task not in (None, "transcribe", "translate"):
        raise invalid_parameter("task", "must be transcribe or translate")
    return task == "translate"


def _translating(model: Model, route: str) -> Model:
    """Return a model with those of its upstreams that translate. Raises ApiError: 400 when there are none."""
    upstreams = tuple(upstream for upstream in model.upstreams if upstream.engine in TRANSLATING)
    if not upstreams or TRANSLATIONS not in model.endpoints:
        param = "task" if route == TRANSCRIPTIONS else "model"
        raise invalid_parameter(param, "this model does not translate")
    if len(upstreams) == len(model.upstreams):
        return model
    return msgspec.structs.replace(model, upstreams=upstreams)


def _file(form: Form) -> tuple[FormFile, int]:
    """Return the audio and how long it plays. Raises ApiError (400)."""
    for name in form.files:
        if name != "file":
            raise invalid_parameter(name, "must not be a file")
    file = form.files.get("file")
    if file is None:
        is_field = any(name == "file" for name, _ in form.fields)
        raise invalid_parameter("file", "must be a file" if is_field else "is required")
    if file.duration_ms is None:
        raise invalid_parameter("file", "cannot be read as audio")
    return file, file.duration_ms


def _passing(form: Form, values: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the fields that an engine may be sent, in the order they came."""
    passing = []
    for name, value in form.fields:
        if name in ("prompt", "initial_prompt"):
            if name in values:
                passing.append(("prompt", value))
        elif name == "language":
            if name in values:
                passing.append((name, value.lower()))
        elif name == "temperature":
            if name in values:
                passing.append((name, value))
        elif name not in (*_SINGLE, *_SINGLE_TOO, GRANULARITIES, "file"):
            passing.append((name, value))
    return passing
