"""The routes that generate no text: embeddings, rerank and transcription, in vLLM 0.32's shapes.

What belongs here: reading those calls and building their bodies; cheap, deterministic, recognisable results.
"""

import base64
import hashlib
import io
import math
import secrets
import struct
import time
import wave
from typing import Any

import msgspec

from proxy.simulator.options import Options
from proxy.simulator.requests import check_model, refuse, refuse_field, text_tokens
from proxy.simulator.shapes import Json

_DIMENSIONS = 384
_BYTES_PER_SECOND = 16_000
"""Of audio that is not WAV: 128 kbit/s."""
_COMPRESSED = (b"ID3", b"\xff\xfb", b"\xff\xf3", b"fLaC", b"OggS", b"\x1aE\xdf\xa3")


class Embedded(msgspec.Struct, frozen=True):
    """An answer that generates nothing: its body, the model and the prompt tokens to count."""

    body: bytes
    model: str
    prompt_tokens: int


def embed(body: Json, options: Options) -> Embedded:
    """Answer ``POST /v1/embeddings``: a text, a list of texts, token ids, or a list of those."""
    given = body.get("input")
    if "input" not in body or given is None:
        refuse_field(body, "input", "missing", "Field required")
    model = check_model(body.get("model"), options)
    inputs: list[Any] = given if isinstance(given, list) and not (given and isinstance(given[0], int)) else [given]
    if not inputs:
        refuse("You must pass at least one prompt")
    tokens = sum(2 + text_tokens(one) if isinstance(one, str) else len(one) for one in inputs)
    dimensions = body.get("dimensions") or _DIMENSIONS
    encode = _base64 if body.get("encoding_format") == "base64" else list
    data = [
        {"index": index, "object": "embedding", "embedding": encode(_vector(one, dimensions))}
        for index, one in enumerate(inputs)
    ]
    usage = {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }
    answer = {
        "id": f"embd-{secrets.token_hex(8)}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
    }
    body_out = msgspec.json.encode(answer | {"data": data, "usage": usage | {"completion_tokens_details": None}})
    return Embedded(body_out, model, tokens)


def _vector(one: object, dimensions: int) -> tuple[float, ...]:
    """Return a vector of length 1 that depends on nothing but the input."""
    raw = hashlib.shake_128(repr(one).encode("utf-8", "surrogatepass")).digest(2 * dimensions)
    numbers = [value / 32768.0 for value in struct.unpack(f"<{dimensions}h", raw)]
    norm = math.sqrt(sum(value * value for value in numbers)) or 1.0
    return tuple(value / norm for value in numbers)


def _base64(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def rerank(body: Json, options: Options) -> Embedded:
    """Answer the three rerank routes: documents that share words with the query come first."""
    for field in ("query", "documents"):
        if field not in body:
            refuse_field(body, field, "missing", "Field required")
    model = check_model(body.get("model"), options)
    query, documents = str(body["query"]), body["documents"]
    if not isinstance(documents, list) or not documents:
        refuse("At least one text_pair element must be given")
    texts = [str(one.get("text", "")) if isinstance(one, dict) else str(one) for one in documents]
    tokens = sum(3 + text_tokens(query) + text_tokens(text) for text in texts)
    ranked = sorted(enumerate(texts), key=lambda pair: -_relevance(query, pair[1]))[: body.get("top_n") or None]
    results = [
        {
            "index": index,
            "document": {"text": text, "multi_modal": None},
            "relevance_score": _relevance(query, text),
        }
        for index, text in ranked
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    answer = {"id": f"score-{secrets.token_hex(8)}", "model": model, "usage": usage, "results": results}
    return Embedded(msgspec.json.encode(answer), model, tokens)


def _relevance(query: str, text: str) -> float:
    asked, found = set(query.lower().split()), set(text.lower().split())
    noise = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=2).digest()
    return len(asked & found) / (len(asked) or 1) * 0.9 + int.from_bytes(noise, "big") / 65536 * 0.1


def transcribe(form: dict[str, str], audio: bytes | None, options: Options) -> Embedded:
    """Answer ``POST /v1/audio/transcriptions``; verbose_json reports no usage but the duration."""
    model = check_model(form.get("model"), options)
    if audio is None:
        refuse_field(dict(form), "file", "missing", "Field required")
    wanted = form.get("response_format", "json")
    if wanted not in ("json", "text", "verbose_json"):
        refuse("Currently only support response_format: `text`, `json`, `verbose_json` or `diarized_json`")
    seconds = _duration_s(audio)
    text = f" {max(1, round(seconds))} seconds of simulated speech"
    if wanted != "verbose_json":
        usage = {"type": "duration", "seconds": math.ceil(seconds)}
        return Embedded(msgspec.json.encode({"text": text, "usage": usage}), model, 0)
    segment = {
        "id": 0,
        "avg_logprob": -0.25,
        "compression_ratio": 1.5,
        "end": seconds,
        "no_speech_prob": None,
        "seek": 0,
        "start": 0.0,
        "temperature": 0.0,
        "text": text,
        "tokens": [261, 262],
    }
    answer = {
        "duration": seconds,
        "language": form.get("language", "en"),
        "text": text,
        "segments": [segment],
    }
    return Embedded(msgspec.json.encode(answer | {"words": None}), model, 0)


def _duration_s(audio: bytes) -> float:
    """Return the length of WAV exactly, of compressed audio by its size, and refuse anything else."""
    if audio.startswith(_COMPRESSED) or audio[4:8] == b"ftyp":
        return len(audio) / _BYTES_PER_SECOND
    try:
        with wave.open(io.BytesIO(audio)) as sound:
            return float(sound.getnframes() / (sound.getframerate() or 1))
    except (wave.Error, EOFError):
        refuse(
            "Invalid or corrupted audio data. Ensure the input is a valid audio or video file"
            " (e.g. a complete WAV, MP3, or MP4)."
        )
