"""What is read off a transcription: the text in the customer's format, and whose minutes are billed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.calls import Form, FormFile, Terms
from proxy.core.calls.transcriptions import TranscriptionCall, prepare_transcription
from proxy.core.catalogue import Engine, Model, Upstream
from proxy.core.meters import Reading
from proxy.core.meters.transcriptions import read_transcription
from proxy.core.subtitles import Cue, srt, vtt
from proxy.core.transcription_shapes import show_transcription
from proxy.core.usage import NOTHING, Quantity, Source, Usage, UsageType
from tests.meters.recordings import WIRE, load

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
RECORDED = [load(path) for path in sorted(WIRE.glob("*-whisper/audio_*.http"))]
WHOLE = [one for one in RECORDED if one.status == 200 and one.body.startswith(b"{")]
REFUSED = [one for one in RECORDED if one.status != 200]
RECORDED_MS = 3427
"""How long the sound of the recorded calls plays."""

SEGMENTS = [
    {"id": 0, "start": 0.0, "end": 2.5, "text": " Bonjour, ceci", "tokens": [50364, 1], "avg_logprob": -0.25},
    {"id": 1, "start": 2.5, "end": 3661.0625, "text": " est un <test> & rien --> de plus.", "no_speech_prob": 0.05},
]
TEXT = " Bonjour, ceci est un <test> & rien --> de plus."


class NoSource:
    size = 0

    def pieces(self):
        yield b""


def call_for(duration_ms: int, *fields: tuple[str, str], route=TRANSCRIPTIONS) -> TranscriptionCall:
    model = Model("whisper", (TRANSCRIPTIONS, TRANSLATIONS), 448, (Upstream("u", "http://127.0.0.1:1"),), "whisper")
    form = Form(fields, {"file": FormFile("a.wav", "audio/wav", NoSource(), duration_ms)}, "boundary")
    return prepare_transcription(form, route, Terms({"whisper": model}, 1024))


def read(answer: object, duration_ms: int = 3427, engine=Engine.VLLM) -> Reading:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return read_transcription(engine, body, call_for(duration_ms))


def minutes(amount: int, source: Source) -> Reading:
    return Reading(Usage((Quantity(UsageType.AUDIO_MINUTES, amount, source),)), complete=True)


def shown(answer: object, *fields: tuple[str, str], duration_ms=3427, route=TRANSCRIPTIONS) -> tuple[str, bytes]:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    found = show_transcription(Engine.VLLM, body, call_for(duration_ms, *fields, route=route), "id")
    return found.body.decode(), found.content_type


# Whose minutes


def test_there_are_recordings() -> None:
    assert (len(WHOLE), len(REFUSED)) == (6, 6)


@pytest.mark.parametrize("recording", WHOLE, ids=lambda one: one.name)
def test_a_recorded_answer_is_read_right(recording) -> None:
    reports = b'"duration"' in recording.body  # the name of the number, or of its type
    source = Source.REPORTED if reports else Source.MEASURED
    assert read(recording.body, RECORDED_MS) == minutes(1, source)


@pytest.mark.parametrize("recording", REFUSED, ids=lambda one: one.name)
def test_a_recorded_refusal_is_no_answer(recording) -> None:
    assert read(recording.body) == Reading(NOTHING, complete=False)


@pytest.mark.parametrize(
    ("reported", "measured_ms", "billed", "source"),
    [
        (60.0, 60_000, 1, Source.REPORTED),
        (60.0004, 60_001, 1, Source.REPORTED),  # what both call a minute and nothing is one
        (60.001, 60_001, 2, Source.REPORTED),
        (60.012, 60_000, 1, Source.MEASURED),  # an engine that counts its own padding
        (59.988, 60_001, 1, Source.REPORTED),  # a file with more padding than is heard
        (30.5, 600_000, 1, Source.REPORTED),  # it stopped at a fault, or left silence out
        (1.9e14, 240_000, 4, Source.MEASURED),
        (240.0, 1_000, 1, Source.MEASURED),
        (10**400, 240_000, 4, Source.MEASURED),
        (0, 240_000, 4, Source.MEASURED),
        (0.0, 240_000, 4, Source.MEASURED),
        (-1, 240_000, 4, Source.MEASURED),
        (None, 240_000, 4, Source.MEASURED),
        (True, 240_000, 4, Source.MEASURED),
        ("many", 240_000, 4, Source.MEASURED),
        ({}, 240_000, 4, Source.MEASURED),
        ("181.5", 240_000, 4, Source.REPORTED),  # older vLLM
        (0.0001, 240_000, 1, Source.REPORTED),
    ],
)
def test_the_shorter_of_reported_and_measured_is_billed(reported, measured_ms, billed, source) -> None:
    assert read({"text": "a", "duration": reported}, measured_ms) == minutes(billed, source)


@pytest.mark.parametrize("raw", [b"1e999999999999", b"1e-999999999999", b"1" * 5000, b'"NaN"', b'"Infinity"', b'"-0"'])
def test_numbers_that_mean_no_duration_are_none(raw: bytes) -> None:
    reading = read(b'{"text":"a","duration":' + raw + b"}", 240_000)
    assert reading in (minutes(4, Source.MEASURED), minutes(1, Source.REPORTED))


@pytest.mark.parametrize(
    ("usage", "billed", "source"),
    [
        ({"type": "duration", "seconds": 119}, 2, Source.REPORTED),
        ({"type": "duration", "seconds": 61.5}, 2, Source.REPORTED),
        ({"type": "duration", "seconds": 1_000_000}, 4, Source.MEASURED),
        ({"type": "duration"}, 4, Source.MEASURED),
        ({"type": "tokens", "seconds": 1, "total_tokens": 352}, 4, Source.MEASURED),
        ({"prompt_tokens": 347, "total_tokens": 352}, 4, Source.MEASURED),
        ([], 4, Source.MEASURED),
        (None, 4, Source.MEASURED),
    ],
)
def test_seconds_of_usage_are_a_report_and_tokens_are_none(usage, billed, source) -> None:
    assert read({"text": "a", "usage": usage}, 240_000) == minutes(billed, source)


def test_an_exact_duration_goes_before_one_rounded_up() -> None:
    usage = {"type": "duration", "seconds": 61}
    assert read({"text": "a", "duration": 60.0, "usage": usage}, 61_000) == minutes(1, Source.REPORTED)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'"text"',
        b'{"text":null}',
        b'{"text":7}',
        b'{"error":{"message":"out of memory"}}',
        b'{"text":"","error":{"message":"out of memory"}}',
        b'{"object":"error","message":"busy","code":503}',
        b'{"detail":"Not Found"}',
        b'{"text":"cut',
        b"Internal Server Error",
        b'{"text":"\xff"}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_answer_is_not_billed(body: bytes) -> None:
    assert read(body) == Reading(NOTHING, complete=False)


@pytest.mark.parametrize("engine", Engine)
def test_silence_was_heard_too(engine) -> None:
    assert read({"text": ""}, 61_000, engine) == minutes(2, Source.MEASURED)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5)
        | st.integers(-(10**30), 10**30),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    ),
    st.integers(1, 10**7),
)
def test_no_report_is_billed_beyond_what_was_held(reported, measured_ms) -> None:
    reading = read({"text": "a", "duration": reported, "segments": reported}, measured_ms)
    assert reading.complete
    assert 1 <= reading.usage.amount(UsageType.AUDIO_MINUTES) <= call_for(measured_ms).audio_minutes_max


# What the customer gets


@pytest.mark.parametrize("wanted", ["", "json", "verbose_json"])
def test_the_documented_answer_has_text_segments_and_language(wanted: str) -> None:
    body, content_type = shown(
        {"duration": 3.4271875, "language": "fr", "text": TEXT, "segments": SEGMENTS, "words": None},
        ("response_format", wanted),
    )
    assert content_type == b"application/json"
    answer = json.loads(body)
    assert answer == {
        "text": TEXT,
        "segments": SEGMENTS,
        "language": "fr",
        "task": "transcribe",
        "duration": 3.427,
        "usage": {"type": "duration", "seconds": 3.427},
    }
    assert list(answer)[:3] == ["text", "segments", "language"]


def test_segments_and_words_stay_as_the_engine_wrote_them() -> None:
    segments = b'[ {"id":0, "avg_logprob":-2.50e-1, "text":"\\u00e9"} ]'
    words = b'[{"word":"a","start":0,"end":1.0}]'
    body, _ = shown(b'{"text":"a","segments":%b,"words":%b}' % (segments, words))
    assert f'"segments":{segments.decode()}' in body
    assert f'"words":{words.decode()}' in body


def test_of_an_engine_that_has_only_a_text_the_rest_is_what_is_known() -> None:
    body, _ = shown({"text": "hello"}, ("language", "fr"), duration_ms=60_001)
    usage = {"type": "duration", "seconds": 60.001}
    known = {
        "text": "hello",
        "segments": [],
        "language": "fr",
        "task": "transcribe",
        "duration": 60.001,
        "usage": usage,
    }
    assert json.loads(body) == known
    assert json.loads(shown({"text": "hello"})[0])["language"] is None
    translated = json.loads(shown({"text": "hello"}, ("language", "fr"), route=TRANSLATIONS)[0])
    assert (translated["language"], translated["task"]) == ("en", "translate")


def test_a_text_alone_is_a_line() -> None:
    assert shown({"text": TEXT}, ("response_format", "text")) == (TEXT.strip() + "\n", b"text/plain; charset=utf-8")


def test_srt_is_made_of_segments() -> None:
    body, content_type = shown({"text": TEXT, "segments": SEGMENTS}, ("response_format", "srt"))
    assert content_type == b"application/x-subrip; charset=utf-8"
    assert body == (
        "1\n00:00:00,000 --> 00:00:02,500\nBonjour, ceci\n\n"
        "2\n00:00:02,500 --> 01:01:01,062\nest un <test> & rien -> de plus.\n\n"
    )


def test_vtt_is_made_of_segments() -> None:
    body, content_type = shown({"text": TEXT, "segments": SEGMENTS}, ("response_format", "vtt"))
    assert content_type == b"text/vtt; charset=utf-8"
    assert body == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:02.500\nBonjour, ceci\n\n"
        "00:00:02.500 --> 01:01:01.062\nest un &lt;test&gt; &amp; rien -&gt; de plus.\n\n"
    )


@pytest.mark.parametrize(
    "segments", [None, [], "none", [{"start": 0}], [{"start": "x", "end": 1, "text": "a"}], [{"text": " "}], 7]
)
def test_without_segments_that_can_be_read_all_is_one_cue(segments) -> None:
    body, _ = shown({"text": " hello\n\nworld ", "segments": segments}, ("response_format", "srt"))
    assert body == "1\n00:00:00,000 --> 00:00:03,427\nhello\nworld\n\n"


def test_of_silence_there_are_no_subtitles() -> None:
    assert shown({"text": "", "segments": []}, ("response_format", "srt"))[0] == ""
    assert shown({"text": " ", "segments": []}, ("response_format", "vtt"))[0] == "WEBVTT\n\n"


def test_times_that_cannot_be_are_made_possible() -> None:
    segments = [{"start": -1, "end": -2, "text": "a"}, {"start": 5, "end": 1e300, "text": "b"}]
    body, _ = shown({"text": "a b", "segments": segments}, ("response_format", "srt"))
    assert body.startswith("1\n00:00:00,000 --> 00:00:00,000\na\n\n2\n00:00:05,000 --> ")


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**6), st.text(min_size=1, max_size=60)), max_size=4))
def test_no_text_can_end_its_cue_or_look_like_the_times_of_one(said) -> None:
    cues = [Cue(start, start + length, text) for start, length, text in said if text.strip()]
    for written, head in ((srt(cues), 0), (vtt(cues), 1)):
        blocks = written.split("\n\n")[head:-1]
        assert len(blocks) == len(cues)
        assert written.count("-->") == len(cues)
