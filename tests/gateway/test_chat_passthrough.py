"""What a chat may hold passes both ways, byte for byte but for what must change; the documented examples run."""

import base64
import hashlib
import io
import json
import random

import pytest

from tests.gateway.test_calls import amounts
from tests.support.stack import MODEL, ROUTE, chat

VISION = "gemma3:27b"

EXAMPLE = """{
"model": "gpt-oss:120b",
"messages": [
{
"role": "user",
"content": "Expliquez la photosynthèse"
}
],
"max_tokens": 200,
"temperature": 0.7
}""".encode()

TOOL_RESULT = r"""{
"model": "gpt-oss:120b",
"messages": [
{
"role": "user",
"content": "Quel temps fait-il à Paris ?"
},
{
"role": "assistant",
"tool_calls": [
{
"id": "call_abc123",
"type": "function",
"function": {
"name": "get_current_weather",
"arguments": "{\"location\": \"Paris, France\", \"unit\": \"celsius\"}"
}
}
]
},
{
"role": "tool",
"tool_call_id": "call_abc123",
"content": "{\"temperature\": \"22\", \"unit\": \"celsius\", \"description\": \"Ensoleillé\"}"
}
]
}""".encode()

VISION_EXAMPLE = b"""{
"model": "gemma3:27b",
"messages": [
{
"role": "user",
"content": [
{
"type": "text",
"text": "Que vois-tu sur cette image ?"
},
{
"type": "image_url",
"image_url": {
"url": "data:image/jpeg;base64,..."
}
}
]
}
],
"max_tokens": 500
}"""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
        "strict": True,
    },
}
CALLED = [
    {"role": "user", "content": "Quel temps ?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "get_current_weather", "arguments": '{"a":"\\u00e9"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "22"}]},
]
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "s",
        "strict": True,
        "schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


async def send(stack, raw):
    """Send bytes as they are; return status and the answer's bytes."""
    headers = {**stack.auth(), "Content-Type": "application/json"}
    async with stack.session.post(stack.url + ROUTE, data=raw, headers=headers) as answer:
        return answer.status, await answer.read()


def seen(stack):
    return stack.cluster.seen[-1].body


# The documented examples, to the letter


async def test_the_documented_request_runs_as_it_is(stack):
    status, body = await send(stack, EXAMPLE)
    answer = json.loads(body)
    assert status == 200
    assert seen(stack) == EXAMPLE
    assert {"id", "object", "created", "model", "choices", "usage"} <= set(answer)
    assert (answer["object"], answer["model"]) == ("chat.completion", MODEL)
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert set(answer["usage"]) >= {"prompt_tokens", "completion_tokens", "total_tokens"}


async def test_a_documented_tool_call_and_its_result_run(stack):
    request = {**json.loads(EXAMPLE), "messages": [{"role": "user", "content": "TOOL"}], "tools": [WEATHER]}
    _, body = await send(stack, json.dumps(request).encode())
    choice = json.loads(body)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert not choice["message"]["content"]
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "get_current_weather"

    status, body = await send(stack, TOOL_RESULT)
    assert status == 200
    assert seen(stack) == TOOL_RESULT.replace(b"{", b'{"max_tokens":1024,', 1)
    assert json.loads(body)["choices"][0]["message"]["content"]


async def test_a_documented_stream_has_the_documented_events(stack):
    raw = EXAMPLE.replace(b'"temperature": 0.7', b'"temperature": 0.7,\n"stream": true')
    headers = {**stack.auth(), "Content-Type": "application/json"}
    async with stack.session.post(stack.url + ROUTE, data=raw, headers=headers) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-cache"
        events = (await answer.read()).decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert set(reasons[:-1]) == {None}
    assert reasons[-1] in {"stop", "length"}
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


async def test_the_documented_vision_request_runs_as_it_is(stack):
    status, body = await send(stack, VISION_EXAMPLE)
    assert status == 200
    assert seen(stack) == VISION_EXAMPLE
    assert json.loads(body)["model"] == VISION


async def test_the_documented_short_form_of_an_image_reaches_the_engine_in_the_standard_form(stack):
    raw = VISION_EXAMPLE.replace(
        b'"type": "image_url",\n"image_url": {\n"url": "data:image/jpeg;base64,..."\n}',
        b'"type": "image",\n"image": "data:image/jpeg;base64,..."',
    )
    assert raw != VISION_EXAMPLE
    status, _ = await send(stack, raw)
    assert status == 200
    assert seen(stack) == VISION_EXAMPLE.replace(
        b'"image_url": {\n"url": "data:image/jpeg;base64,..."\n}',
        b'"image_url": {"url":"data:image/jpeg;base64,..."}',
    )


# Whatever else a chat may hold


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [WEATHER], "tool_choice": "auto", "parallel_tool_calls": False},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_current_weather"}}},
        {"messages": CALLED, "tools": [WEATHER], "tool_choice": "none"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "name": "u", "content": "x"}]},
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": "x"}]}, *CALLED[:1]]},
        {"n": 3},
        {"stop": "x"},
        {"stop": ["\n", "fin", "\u00e9"]},
        {"logprobs": True, "top_logprobs": 2},
        {"response_format": SCHEMA},
        {"response_format": {"type": "json_object"}},
        {"seed": 7, "logit_bias": {"40": -100, "41": 1.5}, "user": "u-1"},
        {"reasoning_effort": "low"},
        {"stream_options": None, "max_completion_tokens": 9},
        {"top_k": 20, "min_p": 0.1, "chat_template_kwargs": {"enable_thinking": False}, "x": {"deep": [None, {}]}},
        {"metadata": {"type": "image", "image": "data:a"}, "service_tier": "auto", "store": False},
    ],
)  # fmt: skip
async def test_a_request_reaches_the_upstream_as_it_was_sent(stack, more):
    raw = json.dumps(
        chat("x", max_tokens=9, **more) if "messages" not in more else {**chat(max_tokens=9), **more}
    ).encode()
    status, body = await send(stack, raw)
    assert status == 200
    assert seen(stack) == raw
    counted = amounts(await stack.usage())
    assert counted["input"] == stack.cluster.prompt_tokens
    assert counted.get("output", 0) + counted.get("reasoning", 0) == stack.cluster.generation_tokens
    assert json.loads(body)["choices"]


RAW_FORMS = [
    b'{"model":"gpt-oss:120b","messages":[{"role":"user","content":"x"}],"max_tokens":5,"temperature":1.0,"top_p":1e-1}',
    b'{"max_tokens":5,"temperature":1,"messages":[{"content":"x","role":"user"}],"model":"gpt-oss:120b"}',
    b'{"max_tokens":3,"max_tokens":5,"messages":[{"role":"user","content":"x","content":"y"}],"model":"gpt-oss:120b"}',
    b'{"model":"gpt-oss:120b","messages":[{"role":"user","content":"\\u00e9\\ud83d\\ude00\\/\\t"}],"max_tokens":5}',
    b'{"model":"gpt-oss:120b","m\\u0065ssages":[{"role":"user","content":"x"}],"max_t\\u006fkens":5}',
    b' \r\n{\t"model" :"gpt-oss:120b" , "messages":[ {"role":"user","content":"x"} ] ,"max_tokens": 5 } \n',
    '{"model":"gpt-oss:120b","messages":[{"role":"user","content":"é😀\u2028"}],"max_tokens":5}'.encode(),
    b'{"model":"gpt-oss:120b","messages":[{"role":"user","content":"x"}],"max_tokens":5,"seed":123456789012345678901234}',
]


@pytest.mark.parametrize("raw", RAW_FORMS)
async def test_bytes_are_kept_however_a_request_is_written(stack, raw):
    status, _ = await send(stack, raw)
    assert status == 200
    assert seen(stack) == raw


@pytest.mark.parametrize("raw", RAW_FORMS)
async def test_a_stream_is_asked_for_usage_and_changes_in_nothing_else(stack, raw):
    at = raw.index(b"{") + 1
    raw = raw[:at] + b'"stream":true,' + raw[at:]
    status, _ = await send(stack, raw)
    assert status == 200
    asked = b'"stream_options":{"include_usage":true,"continuous_usage_stats":true},'
    assert seen(stack) == raw[:at] + asked + raw[at:]


async def test_stream_options_are_patched_where_they_stand(stack):
    raw = json.dumps(chat(stream=True, stream_options={"include_usage": False, "x": 1}, max_tokens=5, seed=1)).encode()
    await send(stack, raw)
    assert seen(stack) == raw.replace(
        b'{"include_usage": false, "x": 1}', b'{"include_usage":true,"x":1,"continuous_usage_stats":true}'
    )


@pytest.mark.parametrize("more", [{}, {"n": 2}, {"logprobs": True, "top_logprobs": 2}, {"tools": [WEATHER]}])
async def test_a_whole_answer_is_the_upstreams_byte_for_byte(stack, more):
    raw = json.dumps(chat("x", max_tokens=9, **more)).encode()
    _, through = await send(stack, raw)
    async with stack.session.post(
        stack.cluster.url + ROUTE, data=raw, headers={"Content-Type": "application/json"}
    ) as answer:
        straight = await answer.read()
    assert without_identity(through) == without_identity(straight)


def without_identity(body):
    """An answer's bytes with what differs from call to call blanked out."""
    answer = json.loads(body)
    for part in (answer, *(call for one in answer["choices"] for call in one["message"].get("tool_calls") or [])):
        for name in ("id", "created"):
            if name in part:
                body = body.replace(json.dumps(part[name]).encode(), b"?", 1)
    return body


async def test_megabytes_of_images_reach_the_engine_and_are_not_billed_as_text(stack):
    """A stream that reports no usage is estimated: by its words and its images, not by their bytes."""
    uri = b"data:image/png;base64," + base64.b64encode(random.Random(1).randbytes(3_000_000))
    text = b'{"type":"text","text":"What is it? SIM:no-usage"}'
    asked = b'"stream_options":{"include_usage":true,"continuous_usage_stats":true},'

    def request(image, options=b""):
        return b'{%b"model":"gemma3:27b","stream":true,"max_tokens":5,"messages":[{"role":"user","content":[%b]}]}' % (
            options,
            b",".join((text, image, image)),
        )

    status, _ = await send(stack, io.BytesIO(request(b'{"type":"image","image":"%b"}' % uri)))
    assert status == 200
    standard = request(b'{"type":"image_url","image_url":{"url":"%b"}}' % uri, asked)
    assert stack.cluster.seen[-1].sha256 == hashlib.sha256(standard).hexdigest()
    assert 512 <= amounts(await stack.usage())["input"] < 600
