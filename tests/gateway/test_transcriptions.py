"""Transcriptions, end to end: the documented call, every format and engine, and each started minute at its price."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.core.catalogue import Engine
from proxy.core.entries import Outcome
from proxy.core.usage import Source, UsageType
from proxy.simulator import Options
from tests.audio.measuring import SOUNDS, wave
from tests.support.stack import Stack, running, write_config

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
WHISPER = "whisper-large-v3"
SOUND = wave(bytes(2 * 8000 * 3))
"""Three seconds."""
MINUTE_PICO = 10_000_000_000  # 0.01 euros


def form(*fields: tuple[str, str], sound: bytes | None = SOUND, name: str = "audio.wav") -> aiohttp.FormData:
    """A form with the file first, as the documentation's curl sends it."""
    data = aiohttp.FormData(default_to_multipart=True)
    if sound is not None:
        data.add_field("file", sound, filename=name, content_type="audio/wav")
    for field, value in fields:
        data.add_field(field, value)
    return data


async def ask(stack: Stack, *fields: tuple[str, str], route: str = TRANSCRIPTIONS, **options: Any):
    """Make a call: status, type and body of the answer."""
    data = form(*fields, **options)
    async with stack.session.post(stack.url + route, data=data, headers=stack.auth()) as answer:
        return answer.status, answer.headers["content-type"], await answer.read()


async def charged(stack: Stack) -> list[tuple[int, Source]]:
    """Return minutes and source of every entry, once their prices are exact."""
    found = []
    for entry in await stack.entries():
        (line,) = entry.charge.lines
        assert line.usage_type is UsageType.AUDIO_MINUTES
        assert entry.charge.total_pico == line.cost_pico == line.amount * MINUTE_PICO
        found.append((line.amount, line.source))
    return found


@contextlib.asynccontextmanager
async def proxy_before(engine: Engine, folder: Path) -> AsyncIterator[Stack]:
    config = write_config(folder, models=("engine: vllm", f"engine: {engine.value}"))
    options = Options(tokens_per_second=0, engine=engine)
    async with running(folder, config=config, options=options) as stack:
        yield stack


async def test_the_documented_call(stack: Stack) -> None:
    status, content_type, body = await ask(stack, ("language", "fr"), ("response_format", "json"))
    answer = json.loads(body)
    assert (status, content_type) == (200, "application/json")
    assert list(answer)[:3] == ["text", "segments", "language"]
    documented = {"id", "seek", "start", "end", "text", "tokens", "temperature"}
    documented |= {"avg_logprob", "compression_ratio", "no_speech_prob"}
    assert set(answer["segments"][0]) == documented
    assert answer["language"] == "fr"
    (seen,) = stack.cluster.seen
    assert seen.path == TRANSCRIPTIONS
    assert dict(seen.fields) == {"model": WHISPER, "language": "fr", "response_format": "verbose_json"}
    assert seen.files["file"].content == SOUND
    assert (seen.files["file"].name, seen.files["file"].content_type) == ("audio.wav", "audio/wav")
    assert await charged(stack) == [(1, Source.REPORTED)]


@pytest.mark.parametrize("route", [TRANSCRIPTIONS, TRANSLATIONS])
@pytest.mark.parametrize(
    ("wanted", "content_type", "begins"),
    [
        ("verbose_json", "application/json", b'{"text":" 3 seconds of simulated'),
        ("text", "text/plain; charset=utf-8", b"3 seconds of simulated"),
        ("srt", "application/x-subrip; charset=utf-8", b"1\n00:00:00,000 --> 00:00:03,000\n3 seconds of simulated"),
        ("vtt", "text/vtt; charset=utf-8", b"WEBVTT\n\n00:00:00.000 --> 00:00:03.000\n3 seconds of simulated"),
    ],
)
async def test_every_format_works(stack: Stack, route: str, wanted: str, content_type: str, begins: bytes) -> None:
    status, shown_type, body = await ask(stack, ("response_format", wanted), route=route)
    assert (status, shown_type) == (200, content_type)
    assert body.startswith(begins)
    assert await charged(stack) == [(1, Source.REPORTED)]


async def test_a_task_of_translation_goes_to_the_route_of_translations(stack: Stack) -> None:
    _, _, body = await ask(stack, ("task", "translate"), ("initial_prompt", "Cloud Temple"))
    assert json.loads(body)["text"].endswith("simulated English")
    (seen,) = stack.cluster.seen
    assert seen.path == TRANSLATIONS
    assert dict(seen.fields) == {"model": WHISPER, "prompt": "Cloud Temple", "response_format": "verbose_json"}
    (entry,) = await stack.entries()
    assert entry.endpoint == TRANSCRIPTIONS  # what was called


@pytest.mark.parametrize("engine", [Engine.SGLANG, Engine.OPENAI])
async def test_other_engines_give_the_documented_answer(tmp_path: Path, engine: Engine) -> None:
    async with proxy_before(engine, tmp_path) as stack:
        status, _, body = await ask(stack, ("timestamp_granularities[]", "word"))
        assert status == 200
        assert {"text", "segments", "language", "duration", "usage"} <= set(json.loads(body))
        assert (await ask(stack, ("response_format", "vtt")))[2].startswith(b"WEBVTT\n\n00:00:00.000 -->")
        assert await charged(stack) == [(1, Source.REPORTED)] * 2


# Minutes


@pytest.mark.parametrize(("duration_ms", "minutes"), [(59_999, 1), (60_000, 1), (60_001, 2), (120_000, 2)])
async def test_every_started_minute_costs_a_cent(stack: Stack, duration_ms: int, minutes: int) -> None:
    sound = wave(bytes(2 * 2 * duration_ms), rate=2000)
    assert (await ask(stack, sound=sound))[0] == 200
    assert await charged(stack) == [(minutes, Source.REPORTED)]
    usage = await stack.usage()
    assert usage.cost_pico == minutes * MINUTE_PICO


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ("SIM:seconds=190000000000000", (2, Source.MEASURED)),
        ("SIM:seconds=0", (2, Source.MEASURED)),
        ("SIM:seconds=30", (1, Source.REPORTED)),
    ],
)
async def test_a_report_never_goes_beyond_what_the_file_holds(stack: Stack, switches: str, expected) -> None:
    sound = wave(bytes(4 * 90_000), rate=2000)
    assert (await ask(stack, ("prompt", switches), sound=sound))[0] == 200
    assert await charged(stack) == [expected]


async def test_a_header_that_lies_is_not_billed(stack: Stack) -> None:
    sound = wave(bytes(4 * 90_000), rate=2000, size=0xFFFFFFFF, byte_rate=1)
    assert (await ask(stack, ("prompt", "SIM:seconds=86400"), sound=sound))[0] == 200
    assert await charged(stack) == [(2, Source.MEASURED)]


async def test_compressed_sound_is_measured_on_its_way(stack: Stack) -> None:
    sound = SOUNDS["cbr.mp3"]
    first = sound.index(b"Info") - 36 + 144  # behind the frame that tells of the others
    assert (await ask(stack, ("prompt", "SIM:seconds=1000"), sound=sound + sound[first:] * 60, name="a.mp3"))[0] == 200
    assert await charged(stack) == [(2, Source.MEASURED)]


async def test_a_client_that_leaves_pays_for_what_is_transcribed(stack: Stack) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await ask(stack, ("prompt", "SIM:tokens=10 SIM:rate=20"))
    assert await charged(stack) == [(1, Source.REPORTED)]


# What costs nothing


@pytest.mark.parametrize(
    ("fields", "options", "error"),
    [
        ([], {"sound": None}, (400, "file", "Invalid parameter 'file': is required")),
        ([("file", "audio.wav")], {"sound": None}, (400, "file", "Invalid parameter 'file': must be a file")),
        ([], {"sound": b"not a sound" * 100}, (400, "file", "Invalid parameter 'file': cannot be read as audio")),
        ([], {"sound": b""}, (400, "file", "Invalid parameter 'file': cannot be read as audio")),
        ([("model", "nope")], {}, (404, "model", "Model 'nope' does not exist")),
        ([("model", "gpt-oss:120b")], {}, (404, "model", "Model 'gpt-oss:120b' does not exist")),
        (
            [("response_format", "docx")],
            {},
            (
                400,
                "response_format",
                "Invalid parameter 'response_format': must be one of json, verbose_json, text, srt, vtt",
            ),
        ),
        (
            [("stream", "true")],
            {},
            (400, "stream", "Invalid parameter 'stream': must be false: transcriptions are not streamed"),
        ),
    ],
)
async def test_a_refusal_reaches_no_upstream_and_costs_nothing(stack: Stack, fields, options, error) -> None:
    data = form(*fields, **options)
    async with stack.session.post(stack.url + TRANSCRIPTIONS, data=data, headers=stack.auth()) as answer:
        refusal = (await answer.json())["error"]
        assert (answer.status, refusal["param"], refusal["message"]) == error
        assert answer.headers["X-RateLimit-Remaining-Requests"] == "1000"
    assert not stack.cluster.seen
    assert not stack.app.settlement.in_flight
    assert await stack.entries() == []


@pytest.mark.parametrize(
    ("switches", "status"),
    [("SIM:status=500", 500), ("SIM:status=503", 503), ("SIM:drop", 503), ("SIM:garbage", 503), ("SIM:not-http", 503)],
)
async def test_an_upstream_that_fails_is_not_billed(stack: Stack, switches: str, status: int) -> None:
    assert (await ask(stack, ("prompt", switches)))[0] == status
    assert stack.cluster.seen
    assert await stack.entries() == []


async def test_an_upstream_that_cannot_read_the_sound_says_so_and_is_not_billed(stack: Stack) -> None:
    sound = SOUNDS["aiff.aiff"]  # the simulated cluster reads none
    status, _, body = await ask(stack, sound=sound, name="a.aiff")
    assert status == 400
    assert json.loads(body)["error"]["message"].startswith("Invalid or corrupted audio data")
    assert await stack.entries() == []


async def test_a_body_that_is_no_form_is_refused(stack: Stack) -> None:
    async with stack.post({"model": WHISPER}, route=TRANSCRIPTIONS) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["type"] == "invalid_request_error"
    assert not stack.cluster.seen


async def test_minutes_that_the_budget_has_not_are_refused_before_they_are_sent(tmp_path: Path) -> None:
    config = write_config(tmp_path, prices=("audio_minutes: 0.01", "audio_minutes: 400"))
    async with running(tmp_path, config=config) as stack:
        minute = wave(bytes(4 * 60_000), rate=2000)
        statuses = [(await ask(stack, sound=minute))[0] for _ in range(4)]
        assert statuses[0] == 200
        assert statuses[-1] == 429
        assert len(stack.cluster.seen) == statuses.count(200) == len(await stack.entries())


async def test_the_way_of_a_call_ends_finished(stack: Stack) -> None:
    await ask(stack)
    (entry,) = await stack.entries()
    assert entry.outcome is Outcome.FINISHED
