"""The OpenAI Python SDK as its authors ship it: it must notice nothing unusual."""

import time

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.sdk.samples import EMBEDDING, HELLO, MODEL, VISION, WEATHER, WHISPER, image, silence
from tests.support.process import eventually

# Chat


def test_a_plain_answer(client):
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id


def test_several_choices(client):
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.message.content for choice in answer.choices)


def test_a_stream(client):
    with client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20, stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason in {"stop", "length"}
    assert all(chunk.usage is None for chunk in chunks)  # which also says that no chunk came without a choice


def test_a_stream_with_usage_asked_for(client):
    with client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=20, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_tool_is_called_and_told_what_it_found(client):
    asked = [{"role": "user", "content": "Quel temps fait-il à Paris ?"}]
    whole = client.chat.completions.create(model=MODEL, messages=asked, tools=[WEATHER])
    assert whole.choices[0].finish_reason == "tool_calls"
    assert whole.choices[0].message.tool_calls[0].function.name == "get_current_weather"
    with client.chat.completions.stream(model=MODEL, messages=asked, tools=[WEATHER]) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.name == "get_current_weather"
    said = whole.choices[0].message
    result = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": '{"temperature": "22"}'}
    told = client.chat.completions.create(model=MODEL, messages=[*asked, said, result], max_tokens=20)
    assert told.choices[0].message.content


def test_an_image(client):
    parts = [{"type": "text", "text": "Que vois-tu ?"}, {"type": "image_url", "image_url": {"url": image()}}]
    said = [{"role": "user", "content": parts}]
    answer = client.chat.completions.create(model=VISION, messages=said, max_tokens=20)
    assert answer.choices[0].message.content


async def test_the_asynchronous_client(service):
    async with AsyncOpenAI(api_key=service.key, base_url=service.base_url, max_retries=0) as client:
        whole = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20)
        assert whole.choices[0].message.content
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model=MODEL, messages=HELLO, max_tokens=20, stream=True
            )
        ]
        assert chunks[-1].choices[0].finish_reason


def test_limit_headers_are_there_for_whole_answers_and_streams(client):
    for stream in (False, True):
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=5, stream=stream)
        assert raw.headers["X-RateLimit-Limit-Requests"] == "1000"
        assert 0 <= int(raw.headers["X-RateLimit-Remaining-Requests"]) < 1000
        assert 0 <= int(raw.headers["X-RateLimit-Reset-Requests"]) - time.time() <= 61
        assert raw.headers["X-RateLimit-Limit-Output-Tokens-Hour"] == "1000000"
        assert raw.request_id
        answer = raw.parse()
        assert list(answer) if stream else answer.choices


def test_what_it_says_it_used_is_what_is_billed(service):
    key = service.new_key("wide")
    with OpenAI(api_key=key, base_url=service.base_url, max_retries=0) as client:
        answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20)
        receipt = eventually(lambda: client.get(f"/usage/calls/{answer._request_id}", cast_to=object))
    quantities = {line["type"]: line["quantity"] for line in receipt["lines"]}
    assert quantities == {"input": answer.usage.prompt_tokens, "output": answer.usage.completion_tokens}
    assert service.usage(key)["total"] == receipt["total"]


# Completions


def test_a_completion_of_a_prompt(client):
    answer = client.completions.create(model=MODEL, prompt="L'intelligence artificielle est", max_tokens=20)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    assert 0 < answer.usage.completion_tokens <= 20


def test_a_streamed_completion_of_a_prompt(client):
    with client.completions.create(model=MODEL, prompt="Il était", max_tokens=20, stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason in {"stop", "length"}
    assert all(chunk.usage is None for chunk in chunks)


# Models


def test_the_models(client):
    models = {model.id: model for model in client.models.list()}
    assert {MODEL, VISION, EMBEDDING, WHISPER} <= models.keys()
    assert client.models.retrieve(MODEL) == models[MODEL]
    assert models[MODEL].owned_by == "CloudTemple"


def test_a_model_whose_name_has_a_slash(client):
    name = "nvidia/llama-nemotron-rerank-vl-1b-v2"
    assert client.models.retrieve(name).id == name


def test_a_model_that_does_not_exist(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("unknown-model")
    assert raised.value.code == "model_not_found"


# Embeddings: the SDK asks for base64 by itself and decodes it


def test_embeddings(client, service):
    texts = ["Le texte à vectoriser", "Un autre"]
    answer = client.embeddings.create(model=EMBEDDING, input=texts)
    assert [item.index for item in answer.data] == [0, 1]
    plain = service.post("embeddings", {"model": EMBEDDING, "input": texts}).json()
    for item, whole in zip(answer.data, plain["data"], strict=True):
        assert item.embedding == pytest.approx(whole["embedding"], rel=1e-6)
    assert answer.usage.prompt_tokens == plain["usage"]["prompt_tokens"] > 0


# Audio


@pytest.fixture
def sound():
    return ("audio.wav", silence(seconds=4))


@pytest.mark.parametrize("shape", ["json", "verbose_json"])
def test_a_transcription(client, sound, shape):
    answer = client.audio.transcriptions.create(model=WHISPER, file=sound, language="fr", response_format=shape)
    assert answer.text
    if shape == "verbose_json":
        assert answer.language == "fr"
        assert answer.duration == 4.0
        assert answer.segments[0].text == answer.text


def test_a_transcription_as_text(client, sound):
    answer = client.audio.transcriptions.create(model=WHISPER, file=sound, response_format="text")
    assert "seconds" in answer
    assert "{" not in answer


def test_a_transcription_as_subtitles(client, sound):
    srt = client.audio.transcriptions.create(model=WHISPER, file=sound, response_format="srt")
    assert srt.startswith("1\n00:00:00,000 --> 00:00:04,000\n")
    vtt = client.audio.transcriptions.create(model=WHISPER, file=sound, response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:04.000\n")


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the SDK says so of this route of its own
def test_a_translation(client, sound):
    answer = client.audio.translations.create(model=WHISPER, file=sound)
    assert answer.text
