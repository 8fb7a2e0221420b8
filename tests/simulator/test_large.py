"""Uploads and answers of any size: measured as they come, made as they go, in memory that does not grow with them."""

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from proxy.simulator import Options, SimulatedCluster
from tests.simulator.exchange import exchange
from tests.simulator.test_wire import form, wav

EMBED = {"model": "m", "input": ["hello", "a b c d"]}
LARGE = 100 * 1024 * 1024
GROWTH_KB_MAX = 24 * 1024


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize("size", [30_000, 200_003])
async def test_an_embeddings_answer_has_exactly_the_bytes_that_are_asked_for(
    cluster: SimulatedCluster, encoding: str, size: int
) -> None:
    body = EMBED | {"encoding_format": encoding}
    _, headers, raw = await exchange(
        cluster, "/v1/embeddings", body, headers=(f"X-Sim: answer-bytes={size} prompt-tokens=7",)
    )
    assert (int(headers["content-length"]), len(raw)) == (size, size)
    answer = json.loads(raw)
    assert len(answer["data"]) == 2
    assert answer["usage"]["prompt_tokens"] == 7


async def test_an_answer_can_come_without_its_length(cluster: SimulatedCluster) -> None:
    _, headers, raw = await exchange(cluster, "/v1/embeddings", EMBED, headers=("X-Sim: answer-bytes=300000 chunked",))
    assert headers["transfer-encoding"] == "chunked"
    assert raw.endswith(b"0\r\n\r\n")
    assert len(raw) > 300_000


async def test_a_large_answer_can_be_cut_in_its_middle(cluster: SimulatedCluster) -> None:
    headers = ("X-Sim: answer-bytes=300000 drop-after=0",)
    _, found, raw = await exchange(cluster, "/v1/embeddings", EMBED, headers=headers)
    assert int(found["content-length"]) == 300_000
    assert len(raw) <= 150_000


async def test_many_long_vectors_arrive_whole_and_say_their_length_beforehand(cluster: SimulatedCluster) -> None:
    body = {"model": "m", "input": [str(n) for n in range(64)], "dimensions": 256}
    _, headers, raw = await exchange(cluster, "/v1/embeddings", body)
    assert int(headers["content-length"]) == len(raw) > 64 * 1024
    assert [len(item["embedding"]) for item in json.loads(raw)["data"]] == [256] * 64


async def test_a_form_is_remembered_by_its_fields_and_files(cluster: SimulatedCluster) -> None:
    sound = wav(1)
    body, headers = form(sound, model="whisper", language="fr", prompt="SIM:seconds=90.5")
    *_, raw = await exchange(cluster, "/v1/audio/transcriptions", body, headers=headers)
    assert json.loads(raw)["usage"]["seconds"] == 91
    seen = cluster.seen[-1]
    assert seen.fields == (("model", "whisper"), ("language", "fr"), ("prompt", "SIM:seconds=90.5"))
    assert (seen.body, seen.size, seen.sha256) == (sound, len(sound), hashlib.sha256(sound).hexdigest())
    assert (seen.files["file"].name, seen.files["file"].content_type) == ("a.wav", "audio/wav")


async def test_of_a_long_upload_size_and_digest_are_remembered(cluster: SimulatedCluster) -> None:
    sound = wav(200)
    body, headers = form(sound, model="whisper")
    *_, raw = await exchange(cluster, "/v1/audio/transcriptions", body, headers=headers)
    assert json.loads(raw)["usage"]["seconds"] == 200
    seen = cluster.seen[-1]
    assert (seen.body, seen.size, seen.sha256) == (b"", len(sound), hashlib.sha256(sound).hexdigest())


@pytest.mark.parametrize(
    ("sound", "seconds"),
    [
        (wav(9)[: 44 + 16000 * 3], 3),  # a header that promises more than there is
        (b"ID3" + bytes(16000 * 3), 4),
        (b"OggS" + bytes(16000), 2),
        (bytes(4) + b"ftypM4A " + bytes(16000 - 12), 1),
    ],
)
async def test_audio_is_as_long_as_there_is_of_it(cluster: SimulatedCluster, sound: bytes, seconds: int) -> None:
    body, headers = form(sound, model="whisper")
    *_, raw = await exchange(cluster, "/v1/audio/transcriptions", body, headers=headers)
    assert json.loads(raw)["usage"]["seconds"] == seconds


async def test_a_form_that_cannot_be_read_is_refused(cluster: SimulatedCluster) -> None:
    headers = ("Content-Type: multipart/form-data",)
    status, *_ = await exchange(cluster, "/v1/audio/transcriptions", b"--b\r\n", headers=headers)
    assert status == "HTTP/1.1 400 Bad Request"


@pytest.mark.parametrize(("path", "body"), [("/v1/embeddings", EMBED), ("/v1/rerank", None), ("/v1/score", None)])
async def test_the_faults_of_other_calls_strike_here_too(
    cluster: SimulatedCluster, path: str, body: dict[str, object] | None
) -> None:
    body = body or {"query": "q", "documents": ["a"], "text_1": "q", "text_2": "a"}
    status, *_ = await exchange(cluster, path, body, headers=("X-Sim: status=503",))
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert cluster.prompt_tokens == 0
    assert await exchange(cluster, path, body, headers=("X-Sim: drop",)) == ("", {}, b"")
    *_, raw = await exchange(cluster, path, body, headers=("X-Sim: no-usage",))
    assert "usage" not in json.loads(raw)
    *_, raw = await exchange(cluster, path, body, headers=("X-Sim: garbage",))
    assert raw.startswith(b"\xff\xfe")
    assert cluster.running == 0


async def test_a_streamed_transcription_is_paced_counted_and_cut() -> None:
    body, headers = form(wav(1), model="whisper", stream="true", prompt="SIM:tokens=200")
    async with SimulatedCluster(Options(tokens_per_second=500)) as cluster:
        *_, raw = await exchange(cluster, "/v1/audio/transcriptions", body, headers=(*headers, "X-Sim: drop-after=3"))
        assert raw.count(b"data: ") == cluster.generation_tokens == 3
        *_, raw = await exchange(cluster, "/v1/audio/transcriptions", body, headers=(*headers, "X-Sim: error-after=2"))
        assert b'"InternalServerError"' in raw
        assert raw.count(b"data: ") == 4
        assert cluster.generation_tokens == 5


@asynccontextmanager
async def _process() -> AsyncIterator[tuple[str, int]]:
    """Run a cluster as a process; its address and number."""
    command = ("-m", "proxy.simulator", "--port", "0", "--tokens-per-second", "0")
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        yield line.decode().split()[-1], process.pid
    finally:
        process.terminate()
        await process.wait()


def _peak_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def _upload() -> Iterator[bytes]:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\nID3'
    yield head
    for _ in range(LARGE // 65536):
        yield bytes(65536)
    yield b'\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n--b--\r\n'


async def test_a_hundred_megabytes_each_way_need_no_memory() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in _upload():
            yield piece

    async with _process() as (url, pid), aiohttp.ClientSession(url) as session:
        async with session.post("/v1/embeddings", json=EMBED) as answer:
            await answer.read()
        before = _peak_kb(pid)
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        async with session.post("/v1/audio/transcriptions", data=pieces(), headers=headers) as answer:
            assert (await answer.json())["usage"]["seconds"] == -(-(LARGE + 3) // 16000)
        for more in ("", " chunked"):
            headers = {"X-Sim": f"answer-bytes={LARGE}{more}"}
            received = 0
            async with session.post("/v1/embeddings", json=EMBED, headers=headers) as answer:
                async for piece in answer.content.iter_any():
                    received += len(piece)
            assert received == LARGE
        assert _peak_kb(pid) - before < GROWTH_KB_MAX
