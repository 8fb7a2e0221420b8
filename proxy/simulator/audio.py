"""Transcriptions and translations: as vLLM 0.32 answers them, and where SGLang and OpenAI differ.

What belongs here: reading the calls, what is said, the shapes. What does not: receiving the file (uploads.py).
"""

import math
import secrets
import time
from typing import Final

import msgspec

from proxy.core.catalogue import Engine
from proxy.simulator.answers import Events, Whole, of_json
from proxy.simulator.options import Options, Switches
from proxy.simulator.requests import RefusedError, check_model, refuse, refuse_field, switches_of
from proxy.simulator.shapes import DONE, Json, event
from proxy.simulator.uploads import ReceivedForm, duration_s

_FORM_DEFAULTS: Final = 13
"""Fields that vLLM's form has without any being sent."""
_FRAMES_PER_SECOND: Final = 100
_TEMPLATE_TOKENS: Final = 4
_VLLM_FORMATS: Final = ("json", "text", "verbose_json")
_OPENAI_FORMATS: Final = ("json", "text", "srt", "verbose_json", "vtt")


class Speech(msgspec.Struct, frozen=True):
    """What was heard.

    Args:
        model: as named.
        seconds: of audio, to report.
        words: each with the blank before it.
        translates: whether it is put into English.
        form: as received.
        switches: how it shall go wrong.
    """

    model: str
    seconds: float
    words: tuple[str, ...]
    translates: bool
    form: ReceivedForm
    switches: Switches

    @property
    def text(self) -> str:
        """All words."""
        return "".join(self.words)

    @property
    def prompt_tokens(self) -> int:
        """Frames of audio and the decoder's own beginning."""
        return math.ceil(self.seconds * _FRAMES_PER_SECOND) + _TEMPLATE_TOKENS

    @property
    def tokens(self) -> int:
        """Generated, the end of sequence included."""
        return len(self.words) + 1

    @property
    def language(self) -> str:
        """Spoken."""
        return self.form.get("language") or "en"

    def flag(self, name: str) -> bool:
        """Whether a field of the form is true."""
        return self.form.get(name).lower() in ("true", "1", "on", "yes")


def transcribe(form: ReceivedForm, options: Options, header: str, *, translates: bool) -> Whole | Events:
    """Answer a form. Raises RefusedError."""
    if options.engine is Engine.OPENAI:
        return _openai(form, options, header, translates=translates)
    speech = _hear(form, options, header, _VLLM_FORMATS, translates=translates)
    if speech.flag("stream"):
        return _vllm_events(speech)
    with_usage = not speech.switches.no_usage
    duration_usage: Json = {"usage": {"type": "duration", "seconds": math.ceil(speech.seconds)}}
    if form.get("response_format", "json") != "verbose_json":
        usage = duration_usage if with_usage and not translates else {}
        return _whole(speech, {"text": speech.text} | usage)
    body: Json = {"duration": speech.seconds, "language": speech.language, "text": speech.text}
    body |= {"segments": [_segment(speech)], "words": None}
    return _whole(speech, body | (duration_usage if with_usage and options.engine is Engine.SGLANG else {}))


def _hear(form: ReceivedForm, options: Options, header: str, formats: tuple[str, ...], *, translates: bool) -> Speech:
    """Check a form in vLLM's order and words."""
    given = dict(form.fields)
    if "file" not in form.files:
        refuse_field(dict.fromkeys(map(str, range(_FORM_DEFAULTS + len(given)))), "file", "missing", "Field required")
    model = check_model(given.get("model"), options)
    if given.get("response_format", "json") not in formats:
        refuse("Currently only support response_format: `text`, `json`, `verbose_json` or `diarized_json`")
    seconds = duration_s(form.files["file"])
    if seconds is None:
        refuse(
            "Invalid or corrupted audio data. Ensure the input is a valid audio or video file"
            " (e.g. a complete WAV, MP3, or MP4)."
        )
    switches = switches_of(" ".join((form.get("prompt"), form.get("initial_prompt"))), header)
    if switches.seconds is not None:
        seconds = switches.seconds
    text = f" {max(1, round(seconds))} seconds of simulated {'English' if translates else 'speech'}"
    words = tuple(f" {word}" for word in text.split())
    if switches.tokens is not None:
        words = tuple(words[index % len(words)] for index in range(max(switches.tokens - 1, 0)))
    return Speech(model, seconds, words, translates, form, switches)


def _whole(speech: Speech, body: Json) -> Whole:
    return Whole(speech.model, of_json(body), 0, speech.tokens, speech.switches)


def _segment(speech: Speech) -> Json:
    return {
        "id": 0,
        "avg_logprob": -0.25,
        "compression_ratio": 1.5,
        "end": speech.seconds,
        "no_speech_prob": None,
        "seek": 0,
        "start": 0.0,
        "temperature": 0.0,
        "text": speech.text,
        "tokens": [261, 262],
    }


def _vllm_events(speech: Speech) -> Events:
    """Stream the words; usage counts tokens here, and comes only where the form asks for it."""
    kind = "translat" if speech.translates else "transcri"
    head: Json = {
        "id": f"{kind}{'e' if speech.translates else 'be'}-{secrets.token_hex(8)}",
        "object": f"{kind}{'ion' if speech.translates else 'ption'}.chunk",
        "created": int(time.time()),
        "model": speech.model,
    }
    include = speech.flag("stream_include_usage") and not speech.switches.no_usage
    continuous = include and speech.flag("stream_continuous_usage_stats")
    ends: Json = {"delta": {"content": ""}, "finish_reason": "stop", "stop_reason": None}
    choices: list[Json] = [*({"delta": {"content": word}} for word in speech.words), ends]
    found = []
    for count, choice in enumerate(choices, 1):
        usage = {"usage": _token_usage(speech, count)} if continuous else {}
        found.append(event(head | {"choices": [choice]} | usage))
    if include:
        found.append(event(head | {"choices": [], "usage": _token_usage(speech, speech.tokens)}))
    return Events(speech.model, tuple(found), (DONE,), speech.tokens, speech.switches)


def _token_usage(speech: Speech, count: int) -> Json:
    return {
        "prompt_tokens": speech.prompt_tokens,
        "total_tokens": speech.prompt_tokens + count,
        "completion_tokens": count,
    }


def _openai(form: ReceivedForm, options: Options, header: str, *, translates: bool) -> Whole | Events:
    """Answer as OpenAI documents it: Whisper reports seconds, its other models report tokens and can stream."""
    try:
        speech = _hear(form, options, header, _OPENAI_FORMATS, translates=translates)
    except RefusedError as exc:
        raise RefusedError(exc.status, _openai_error(exc)) from None
    is_whisper = "whisper" in speech.model
    usage: Json = {"type": "duration", "seconds": math.ceil(speech.seconds)} if is_whisper else {
        "type": "tokens",
        "total_tokens": speech.prompt_tokens + speech.tokens,
        "input_tokens": speech.prompt_tokens,
        "input_token_details": {"text_tokens": 0, "audio_tokens": speech.prompt_tokens},
        "output_tokens": speech.tokens,
    }  # fmt: skip
    reported: Json = {} if speech.switches.no_usage else {"usage": usage}
    if speech.flag("stream") and not is_whisper:
        deltas = [event({"type": "transcript.text.delta", "delta": word}) for word in speech.words]
        done = event({"type": "transcript.text.done", "text": speech.text} | reported)
        return Events(speech.model, (*deltas, done), (), speech.tokens, speech.switches)
    wanted = form.get("response_format", "json")
    if wanted == "verbose_json":
        body: Json = {"task": "translate" if translates else "transcribe", "language": "english"}
        body |= {"duration": speech.seconds, "text": speech.text, "segments": [_segment(speech)]}
        return _whole(speech, body | reported)
    if wanted == "json":
        return _whole(speech, {"text": speech.text} | reported)
    text = speech.text if wanted == "text" else _subtitles(speech, is_vtt=wanted == "vtt")
    encoded = (text + "\n").encode()
    return Whole(speech.model, lambda: (encoded,), 0, speech.tokens, speech.switches, "text/plain; charset=utf-8")


def _subtitles(speech: Speech, *, is_vtt: bool) -> str:
    end = f"{int(speech.seconds) // 3600:02}:{int(speech.seconds) // 60 % 60:02}:{int(speech.seconds) % 60:02}"
    if is_vtt:
        return f"WEBVTT\n\n00:00:00.000 --> {end}.000\n{speech.text}\n"
    return f"1\n00:00:00,000 --> {end},000\n{speech.text}\n"


def _openai_error(refused: RefusedError) -> Json:
    error = refused.body["error"] if isinstance(refused.body, dict) else {}
    return {"error": {"message": error.get("message"), "type": "invalid_request_error", "param": None, "code": None}}
