"""A form is checked before anything else happens, and written anew for the engine that it goes to."""

import json
import re

import pytest
from python_multipart.multipart import parse_options_header

from proxy.core.calls import Form, FormFile, Sent, Terms
from proxy.core.calls.transcriptions import Format, TranscriptionCall, prepare_transcription, started_minutes
from proxy.core.catalogue import Engine, Model, Upstream
from proxy.core.errors import ApiError
from proxy.core.transcription_shapes import send_transcription

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
BOTH = (TRANSCRIPTIONS, TRANSLATIONS)
BOUNDARY = "tollgate-0123456789abcdef"


class Upload(bytes):
    """Bytes as a source."""

    @property
    def size(self):
        return len(self)

    def pieces(self):
        yield bytes(self)


SOUND = Upload(b"RIFF\r\n--tollgate\r\n\x00\xff")


def file(duration_ms=1345, name="audio.wav", content_type="audio/wav"):
    return FormFile(name, content_type, SOUND, duration_ms)


def model(*engines, endpoints=BOTH, upstream_model="whisper-large-v3", name="whisper-large-v3"):
    upstreams = tuple(Upstream(engine, "http://127.0.0.1:9900", engine) for engine in engines or (Engine.VLLM,))
    return Model(name, endpoints, 448, upstreams, upstream_model, aliases=("whisper",))


def prepare(*fields, route=TRANSCRIPTIONS, files=None, made=None, others=()):
    made = made or model()
    terms = Terms({**{other.id: other for other in others}, made.id: made, "whisper": made}, 1024)
    form = Form(fields, {"file": file()} if files is None else files, BOUNDARY)
    return prepare_transcription(form, route, terms)


def refused(*fields, **options) -> dict[str, object]:
    with pytest.raises(ApiError) as caught:
        prepare(*fields, **options)
    return {"status": caught.value.status, **json.loads(caught.value.body)["error"]}


def parts(sent: Sent) -> list[tuple[str, str | None, bytes]]:
    """Read what is sent as an engine does: name, file name and content of each part."""
    assert isinstance(sent.body, tuple)
    body = b"".join(b"".join(piece.pieces()) if isinstance(piece, Upload) else piece for piece in sent.body)
    kind, options = parse_options_header(sent.content_type)
    assert kind == b"multipart/form-data"
    found = []
    *pieces, end = body.split(b"--" + options[b"boundary"])
    assert end == b"--\r\n"
    assert pieces[0] == b""
    for piece in pieces[1:]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        disposition = parse_options_header(head.split(b"\r\n")[0].partition(b": ")[2])[1]
        name = disposition.get(b"filename")
        found.append((disposition[b"name"].decode(), name and name.decode(), content.removesuffix(b"\r\n")))
    return found


def fields_of(call: TranscriptionCall, engine=Engine.VLLM) -> list[tuple[str, str]]:
    return [
        (name, content.decode())
        for name, file_name, content in parts(send_transcription(call, engine))
        if not file_name
    ]


# What is refused


@pytest.mark.parametrize(
    ("fields", "param", "problem"),
    [
        ([("language", "french")], "language", "must be an ISO 639-1 code such as fr"),
        ([("language", "fr\r\nx")], "language", "must be an ISO 639-1 code such as fr"),
        ([("task", "summarise")], "task", "must be transcribe or translate"),
        ([("response_format", "xml")], "response_format", "must be one of json, verbose_json, text, srt, vtt"),
        (
            [("response_format", "diarized_json")],
            "response_format",
            "must be one of json, verbose_json, text, srt, vtt",
        ),
        ([("temperature", "1.1")], "temperature", "must be between 0 and 1"),
        ([("temperature", "-0.1")], "temperature", "must be between 0 and 1"),
        ([("temperature", "nan")], "temperature", "must be between 0 and 1"),
        ([("temperature", "0.٠")], "temperature", "must be between 0 and 1"),
        ([("timestamp_granularities[]", "minute")], "timestamp_granularities[]", "must be word or segment"),
        ([("stream", "true")], "stream", "must be false: transcriptions are not streamed"),
        ([("stream", "True")], "stream", "must be false: transcriptions are not streamed"),
        ([("stream", "maybe")], "stream", "must be a boolean"),
        ([("n", "8")], "n", "must be 1"),
        ([("use_beam_search", "true")], "use_beam_search", "must be false"),
        ([("model", "whisper"), ("model", "other")], "model", "must be sent once"),
        ([("task", ""), ("task", "translate")], "task", "must be sent once"),
        (
            [("prompt", "a"), ("initial_prompt", "b")],
            "initial_prompt",
            "must not be sent together with prompt, which means the same",
        ),
    ],
)
def test_a_wrong_field_is_named(fields, param, problem):
    message = f"Invalid parameter '{param}': {problem}"
    assert refused(*fields) == {"status": 400, "message": message, "type": "invalid_request_error", "param": param}


@pytest.mark.parametrize(
    ("files", "fields", "problem"),
    [
        ({}, [], "is required"),
        ({}, [("file", "audio.wav")], "must be a file"),
        ({"file": file(duration_ms=None)}, [], "cannot be read as audio"),
    ],
)
def test_without_audio_there_is_nothing_to_transcribe(files, fields, problem):
    error = refused(*fields, files=files)
    assert (error["status"], error["param"]) == (400, "file")
    assert error["message"] == f"Invalid parameter 'file': {problem}"


def test_no_other_file_is_taken():
    assert refused(files={"file": file(), "prompt": file()})["param"] == "prompt"


def test_an_unknown_model_is_a_404():
    error = refused(("model", "nope"))
    assert (error["status"], error["code"], error["message"]) == (404, "model_not_found", "Model 'nope' does not exist")


def test_a_model_of_another_route_is_a_404():
    chat = model(endpoints=("/v1/chat/completions",), name="gpt-oss:120b")
    assert refused(("model", "gpt-oss:120b"), others=[chat])["code"] == "model_not_found"


@pytest.mark.parametrize("engine", [Engine.SGLANG, Engine.TRANSFORMERS])
def test_what_cannot_be_translated_is_said(engine):
    assert refused(("task", "translate"), made=model(engine))["param"] == "task"
    assert refused(route=TRANSLATIONS, made=model(engine))["param"] == "model"
    assert refused(("task", "translate"), made=model(endpoints=(TRANSCRIPTIONS,)))["param"] == "task"


def test_the_route_of_translations_transcribes_nothing():
    assert refused(("task", "transcribe"), route=TRANSLATIONS)["message"].endswith("must be translate")


# What is prepared


def test_the_documented_call_names_no_model():
    chat = model(endpoints=("/v1/chat/completions",), name="gpt-oss:120b")
    call = prepare(("language", "fr"), ("response_format", "json"), others=[chat])
    assert call.model.id == "whisper-large-v3"
    assert (call.format, call.language, call.upstream_route) == (Format.JSON, "fr", TRANSCRIPTIONS)
    assert not call.stream


@pytest.mark.parametrize("name", ["whisper-large-v3", "whisper"])
def test_a_model_may_be_named_by_its_alias(name):
    call = prepare(("model", name), made=model(upstream_model="openai/whisper"))
    assert fields_of(call)[0] == ("model", "openai/whisper")


@pytest.mark.parametrize("route", BOTH)
@pytest.mark.parametrize("task", [None, "", "translate", "transcribe"])
def test_a_task_decides_the_route(route, task):
    if route == TRANSLATIONS and task == "transcribe":
        return
    call = prepare(*([("task", task)] if task is not None else []), route=route)
    assert call.translates == (route == TRANSLATIONS or task == "translate")
    assert send_transcription(call, Engine.VLLM).route == (TRANSLATIONS if call.translates else TRANSCRIPTIONS)
    assert "task" not in dict(fields_of(call))


def test_only_upstreams_that_translate_are_asked_to():
    made = model(Engine.SGLANG, Engine.VLLM)
    assert len(prepare(made=made).model.upstreams) == 2
    translating = prepare(("task", "translate"), made=made).model
    assert [upstream.engine for upstream in translating.upstreams] == [Engine.VLLM]
    assert translating.id == made.id


@pytest.mark.parametrize(
    ("duration_ms", "minutes"),
    [(1, 1), (59_999, 1), (60_000, 1), (60_001, 2), (120_000, 2), (120_001, 3), (3_600_000, 60)],
)
def test_every_started_minute_is_held(duration_ms, minutes):
    assert started_minutes(duration_ms) == minutes
    assert prepare(files={"file": file(duration_ms)}).audio_minutes_max == minutes


# What is sent


def test_the_form_is_written_anew_with_every_value_as_it_came():
    call = prepare(
        ("language", "FR"),
        ("initial_prompt", " Cloud\r\nTemple: «é»\n"),
        ("response_format", "json"),
        ("temperature", "0.20"),
        ("hotwords", "Tollgate"),
        ("include[]", "logprobs"),
        ("include[]", "more"),
        ("stream", "false"),
        ("stream_include_usage", "true"),
    )
    sent = send_transcription(call, Engine.VLLM)
    assert parts(sent) == [
        ("model", None, b"whisper-large-v3"),
        ("language", None, b"fr"),
        ("prompt", None, " Cloud\r\nTemple: «é»\n".encode()),
        ("temperature", None, b"0.20"),
        ("hotwords", None, b"Tollgate"),
        ("include[]", None, b"logprobs"),
        ("include[]", None, b"more"),
        ("response_format", None, b"verbose_json"),
        ("file", "audio.wav", bytes(SOUND)),
    ]
    assert sent.body[1] is SOUND
    assert sent.content_type == f"multipart/form-data; boundary={BOUNDARY}".encode()


@pytest.mark.parametrize("wanted", ["", "json", "verbose_json", "text", "srt", "vtt"])
def test_every_format_is_made_of_verbose_json(wanted):
    fields = dict(fields_of(prepare(("response_format", wanted))))
    assert fields["response_format"] == "verbose_json"


def test_times_of_words_come_with_those_of_segments():
    call = prepare(("timestamp_granularities[]", "word"))
    assert fields_of(call)[-2:] == [("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment")]
    both = prepare(("timestamp_granularities[]", "segment"), ("timestamp_granularities[]", "word"))
    assert [value for name, value in fields_of(both) if name == "timestamp_granularities[]"] == ["segment", "word"]
    subtitled = prepare(("timestamp_granularities[]", "word"), ("response_format", "srt"))
    assert "timestamp_granularities[]" not in dict(fields_of(subtitled))


def test_an_engine_is_asked_for_what_it_has():
    call = prepare(("language", "fr"), ("timestamp_granularities[]", "word"))
    assert fields_of(call, Engine.TRANSFORMERS) == [("model", "whisper-large-v3")]
    asked = dict(fields_of(call, Engine.LLAMA_CPP))
    assert asked == {"model": "whisper-large-v3", "language": "fr", "response_format": "json"}


@pytest.mark.parametrize(
    "name", ['a"b.wav', "a\r\nX-Evil: 1\r\n\r\nb.wav", '"; name="model', "é 世界.mp3", "a\\b.wav", "", "a" * 5000]
)
def test_no_name_of_a_file_can_add_to_the_form(name):
    call = prepare(files={"file": file(name=name)})
    sent = send_transcription(call, Engine.VLLM)
    assert isinstance(sent.body, tuple)
    head = sent.body[0]
    assert isinstance(head, bytes)
    disposition = head.split(b"\r\n")[-4]
    assert re.fullmatch(rb'Content-Disposition: form-data; name="file"; filename="[^"\r\n]{1,1024}"', disposition)
    assert [part[0] for part in parts(sent)] == ["model", "response_format", "file"]


@pytest.mark.parametrize("name", ['x"; filename="evil', 'x\r\nContent-Type: a/b\r\n\r\n"'])
def test_no_name_of_a_field_can_add_to_the_form(name):
    found = parts(send_transcription(prepare((name, "1")), Engine.VLLM))
    assert [file_name for _, file_name, _ in found] == [None, None, None, "audio.wav"]


@pytest.mark.parametrize(
    "content_type", ["", "audio", "audio/wav\r\nX: 1", "a/b; c", "text/html, audio/wav", "a" * 99 + "/b"]
)
def test_a_type_that_is_none_becomes_the_general_one(content_type):
    sent = send_transcription(prepare(files={"file": file(content_type=content_type)}), Engine.VLLM)
    assert b"\r\nContent-Type: application/octet-stream\r\n\r\n" in sent.body[0]


@pytest.mark.parametrize("content_type", ["audio/wav", "audio/webm; codecs=opus", "audio/x-m4a"])
def test_a_type_passes(content_type):
    sent = send_transcription(prepare(files={"file": file(content_type=content_type)}), Engine.VLLM)
    assert f"\r\nContent-Type: {content_type}\r\n\r\n".encode() in sent.body[0]


def test_a_form_without_a_boundary_of_its_own_is_never_sent():
    terms = Terms({"whisper": model()}, 1024)
    call = prepare_transcription(Form((), {"file": file()}), TRANSCRIPTIONS, terms)
    with pytest.raises(AssertionError):
        send_transcription(call, Engine.VLLM)
