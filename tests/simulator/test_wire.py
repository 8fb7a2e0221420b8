"""What is on the wire has the fields, the order and the framing of vLLM 0.32."""

import base64
import io
import json
import struct
import wave

import openai
import pytest

from proxy.simulator import Options, SimulatedCluster
from tests.simulator.exchange import CHAT, WITH_USAGE, chat, chunks, events, exchange


async def test_each_event_of_a_stream_is_one_http_chunk(cluster: SimulatedCluster) -> None:
    status, headers, raw = await exchange(cluster, CHAT, chat("hi SIM:tokens=20", **WITH_USAGE))
    assert status == "HTTP/1.1 200 OK"
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["transfer-encoding"] == "chunked"
    assert all(chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") for chunk in chunks(raw))


async def test_a_stream_opens_with_the_role_and_closes_with_finish_usage_and_done(cluster: SimulatedCluster) -> None:
    *_, raw = await exchange(cluster, CHAT, chat("hi SIM:tokens=5", **WITH_USAGE))
    first, *_, finish, usage = events(raw)
    assert list(first) == ["id", "object", "created", "model", "choices", "prompt_token_ids", "prompt_text"]
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert finish["choices"] == [
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop", "stop_reason": None, "token_ids": None}
    ]
    assert list(usage) == ["id", "object", "created", "model", "choices", "usage", "system_fingerprint"]
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 11,
        "total_tokens": 16,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0, "created_cache_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


@pytest.mark.parametrize("asked", [{"stream": True}, {"stream": True, "stream_options": {"include_usage": False}}])
async def test_without_include_usage_no_event_has_the_key(cluster: SimulatedCluster, asked: dict[str, object]) -> None:
    *_, raw = await exchange(cluster, CHAT, chat("hi SIM:tokens=5", **asked))
    assert not any("usage" in event for event in events(raw))
    assert "system_fingerprint" in events(raw)[-1]


async def test_continuous_usage_counts_up_in_every_event(cluster: SimulatedCluster) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *_, raw = await exchange(cluster, CHAT, chat("hi SIM:tokens=30", stream=True, stream_options=options))
    counts = [event["usage"]["completion_tokens"] for event in events(raw)]
    assert counts[0] == 0
    assert counts[-1] == 30
    assert counts == sorted(counts)


async def test_a_whole_answer_has_the_fields_of_vllm(cluster: SimulatedCluster) -> None:
    _, headers, raw = await exchange(cluster, CHAT, chat("THINK SIM:tokens=9"))
    body = json.loads(raw)
    assert headers["content-length"] == str(len(raw))
    assert list(body)[:7] == ["id", "object", "created", "model", "choices", "service_tier", "system_fingerprint"]
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}
    assert body["choices"][0]["message"]["reasoning"]
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_a_stream_says_what_the_whole_answer_says(cluster: SimulatedCluster) -> None:
    *_, whole = await exchange(cluster, CHAT, chat("hello THINK"))
    *_, raw = await exchange(cluster, CHAT, chat("hello THINK", **WITH_USAGE))
    message = json.loads(whole)["choices"][0]["message"]
    deltas = [event["choices"][0]["delta"] for event in events(raw) if event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]
    assert "".join(delta.get("reasoning") or "" for delta in deltas) == message["reasoning"]
    assert events(raw)[-1]["usage"]["total_tokens"] == json.loads(whole)["usage"]["total_tokens"]


async def test_n_answers_are_interleaved_and_their_tokens_summed(cluster: SimulatedCluster) -> None:
    *_, raw = await exchange(cluster, CHAT, chat("hi SIM:tokens=6", n=2, **WITH_USAGE))
    found = events(raw)
    assert [event["choices"][0]["index"] for event in found[:4]] == [0, 1, 0, 1]
    assert found[-1]["usage"]["completion_tokens"] == 12


async def test_max_tokens_cuts_with_the_last_delta(cluster: SimulatedCluster) -> None:
    *_, raw = await exchange(cluster, CHAT, chat("hi SIM:tokens=100", max_tokens=7, **WITH_USAGE))
    *_, last, usage = events(raw)
    assert last["choices"][0]["finish_reason"] == "length"
    assert usage["usage"]["completion_tokens"] == 7


async def test_a_tool_call_is_streamed_in_pieces(cluster: SimulatedCluster) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}]
    *_, raw = await exchange(cluster, CHAT, chat("weather?", tools=tools, **WITH_USAGE))
    calls = [
        call for event in events(raw) for choice in event["choices"] for call in choice["delta"].get("tool_calls") or []
    ]
    assert calls[0]["function"] == {"name": "get_weather"}
    assert json.loads("".join(call["function"]["arguments"] for call in calls[1:])) == {"city": "Paris"}
    assert events(raw)[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_the_openai_sdk_reads_stream_and_answer(cluster: SimulatedCluster) -> None:
    async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key="none") as sdk:
        messages: list[dict[str, str]] = [{"role": "user", "content": "hi SIM:tokens=12"}]
        whole = await sdk.chat.completions.create(model="m", messages=messages)  # type: ignore[call-overload]
        stream = await sdk.chat.completions.create(model="m", messages=messages, stream=True)  # type: ignore[call-overload]
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert whole.usage.completion_tokens == 12
    assert text == whole.choices[0].message.content


async def test_text_completions_send_one_event_a_token_even_without_text(cluster: SimulatedCluster) -> None:
    body = {"model": "m", "prompt": ["a", "b"], "max_tokens": 40, **WITH_USAGE}
    *_, raw = await exchange(cluster, "/v1/completions", body)
    *texts, usage = events(raw)
    assert (
        usage["usage"]["completion_tokens"]
        == len(texts)
        == sum(
            json.loads(answer)["usage"]["completion_tokens"]
            for answer in [
                (await exchange(cluster, "/v1/completions", body | {"stream": False, "stream_options": None}))[2]
            ]
        )
    )
    assert "" in [event["choices"][0]["text"] for event in texts]


async def test_embeddings_are_unit_vectors_in_floats_or_base64(cluster: SimulatedCluster) -> None:
    body = {"model": "m", "input": ["hello world", "a b c d"]}
    *_, raw = await exchange(cluster, "/v1/embeddings", body)
    answer = json.loads(raw)
    vector = answer["data"][0]["embedding"]
    assert sum(value * value for value in vector) == pytest.approx(1)
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
    *_, raw = await exchange(cluster, "/v1/embeddings", body | {"encoding_format": "base64"})
    packed = base64.b64decode(json.loads(raw)["data"][0]["embedding"])
    assert struct.unpack(f"<{len(vector)}f", packed) == pytest.approx(vector)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_rerank_puts_what_shares_words_with_the_query_first(cluster: SimulatedCluster, path: str) -> None:
    body = {"model": "m", "query": "what is a cat", "documents": ["hello", "a car", "a cat is"], "top_n": 2}
    *_, raw = await exchange(cluster, path, body)
    answer = json.loads(raw)
    assert [result["index"] for result in answer["results"]] == [2, 1]
    assert answer["usage"]["total_tokens"] > 0


def form(audio: bytes, **fields: str) -> tuple[bytes, tuple[str, ...]]:
    """Return body and header of a form with a file."""
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    ]
    file = '--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    body = "".join(parts).encode() + file.encode() + audio + b"\r\n--b--\r\n"
    return body, ("Content-Type: multipart/form-data; boundary=b",)


def wav(seconds: float) -> bytes:
    """Return so much silence."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(int(16000 * seconds)))
    return file.getvalue()


async def test_a_transcription_reports_started_seconds_or_the_duration(cluster: SimulatedCluster) -> None:
    body, headers = form(wav(3.25), model="whisper")
    *_, raw = await exchange(cluster, "/v1/audio/transcriptions", body, headers=headers)
    assert json.loads(raw)["usage"] == {"type": "duration", "seconds": 4}
    body, headers = form(wav(3.25), model="whisper", response_format="verbose_json")
    *_, raw = await exchange(cluster, "/v1/audio/transcriptions", body, headers=headers)
    assert json.loads(raw)["duration"] == 3.25
    assert "usage" not in json.loads(raw)


async def test_audio_that_is_none_is_refused(cluster: SimulatedCluster) -> None:
    body, headers = form(b"not audio", model="whisper")
    status, _, raw = await exchange(cluster, "/v1/audio/transcriptions", body, headers=headers)
    assert status == "HTTP/1.1 400 Bad Request"
    assert json.loads(raw)["error"]["message"].startswith("Invalid or corrupted audio data.")


async def test_models_are_listed(cluster: SimulatedCluster) -> None:
    async with SimulatedCluster(Options(models=("a", "b"))) as named:
        *_, raw = await exchange(named, "/v1/models", b"", method="GET")
    assert [model["id"] for model in json.loads(raw)["data"]] == ["a", "b"]
