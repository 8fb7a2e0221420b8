"""``/v1/completions``, end to end: chats and prompts, for models that chat and for models that only go on."""

import json

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.gateway.test_calls import amounts, without_ids
from tests.support.stack import MODEL, chat, running, write_config

ROUTE = "/v1/completions"
CHAT = "/v1/chat/completions"
PROMPTED = "gemma3:27b"
DOCUMENTED = """{
"model": "gpt-oss:120b",
"messages": [
{
"role": "user",
"content": "Complétez cette phrase: L'intelligence artificielle est"
}
],
"max_tokens": 100,
"temperature": 0.7
}""".encode()


def classic(prompt="Il était une fois", **more):
    return {"model": MODEL, "prompt": prompt, "max_tokens": 20, **more}


async def send(stack, raw, route=ROUTE):
    """Send bytes as they are; return status, and the answer's bytes."""
    headers = {**stack.auth(), "Content-Type": "application/json"}
    async with stack.session.post(stack.url + route, data=raw, headers=headers) as answer:
        return answer.status, await answer.read()


async def direct(stack, raw, route):
    """The same call without the proxy."""
    headers = {"Content-Type": "application/json"}
    async with stack.session.post(stack.cluster.url + route, data=raw, headers=headers) as answer:
        return await answer.read()


def anonymous(raw):
    """An answer, whole or streamed, without what differs from call to call."""
    if not raw.startswith(b"{"):
        return without_ids(raw)
    answer = json.loads(raw)
    return {name: value for name, value in answer.items() if name not in ("id", "created")}


def as_bytes(request):
    return json.dumps(request).encode()


@pytest.fixture
async def prompted(tmp_path):
    """A proxy one of whose models knows prompts alone."""
    both = f"{PROMPTED}: # reads images\n    endpoints: [{CHAT}, {ROUTE}]"
    config = write_config(tmp_path, models=(both, f"{PROMPTED}:\n    endpoints: [{ROUTE}]"))
    async with running(tmp_path, config=config) as stack:
        yield stack


async def test_the_documented_example_is_answered_as_a_chat(stack):
    status, body = await send(stack, DOCUMENTED)
    assert status == 200
    answer = ChatCompletion.model_validate_json(body)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    seen = stack.cluster.seen[-1]
    assert (seen.path, seen.body) == (CHAT, DOCUMENTED)
    assert answer.usage is not None
    assert amounts(await stack.usage()) == {
        "input": answer.usage.prompt_tokens,
        "output": answer.usage.completion_tokens,
    }
    (entry,) = await stack.entries()
    assert (entry.endpoint, entry.model) == (ROUTE, MODEL)


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}])
async def test_a_chat_is_answered_here_as_it_is_on_its_own_route(stack, more):
    raw = as_bytes(chat("tell me", max_tokens=30, **more))
    status, here = await send(stack, raw)
    _, there = await send(stack, raw, CHAT)
    assert status == 200
    assert anonymous(here) == anonymous(there) == anonymous(await direct(stack, raw, CHAT))


@pytest.mark.parametrize(
    "request_",
    [
        classic(),
        classic(n=2),
        classic(["Un", "deux, trois"]),
        classic(["Un", "deux"], n=2, best_of=3),
        classic([40, 41, 42]),
        classic([[40, 41], [42]]),
        classic(echo=True, logprobs=1),
        classic(suffix="fin", stop=["\n"], seed=5, logit_bias={"40": 1.5}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_passes_untouched_both_ways_and_is_counted(stack, request_, stream):
    options = {"include_usage": True, "continuous_usage_stats": True}
    raw = as_bytes({**request_, **({"stream": True, "stream_options": options} if stream else {})})
    status, body = await send(stack, raw)
    assert status == 200
    assert (stack.cluster.seen[-1].path, stack.cluster.seen[-1].body) == (ROUTE, raw)
    usage = amounts(await stack.usage())
    assert (usage["input"], usage["output"]) == (stack.cluster.prompt_tokens, stack.cluster.generation_tokens)
    assert anonymous(body) == anonymous(await direct(stack, raw, ROUTE))


@pytest.mark.parametrize("request_", [classic(), classic(["Un", "deux"], n=2)])
async def test_a_stream_shows_only_the_usage_that_was_asked_for(stack, request_):
    plain = as_bytes({**request_, "stream": True})
    assert anonymous((await send(stack, plain))[1]) == anonymous(await direct(stack, plain, ROUTE))
    asked = as_bytes({**request_, "stream": True, "stream_options": {"include_usage": True}})
    assert anonymous((await send(stack, asked))[1]) == anonymous(await direct(stack, asked, ROUTE))
    assert (await stack.usage()).calls == 2


async def test_the_documented_default_bounds_a_prompt_too(stack):
    await send(stack, as_bytes({"model": MODEL, "prompt": "SIM:tokens=3000"}))
    assert json.loads(stack.cluster.seen[-1].body)["max_tokens"] == 1024
    assert amounts(await stack.usage())["output"] == 1024


async def test_every_answer_that_may_come_is_held(stack):
    _, body, headers = await stack.ask(classic(["a", "b"], n=2, best_of=3, max_tokens=100), route=ROUTE)
    assert len(body["choices"]) == 4
    assert headers["X-RateLimit-Remaining-Output-Tokens-Hour"] == str(150_000 - 600)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"model": MODEL}, "messages"),
        ({**classic(), **chat()}, "prompt"),
        (classic([]), "prompt"),
        (classic(max_tokens=0), "max_tokens"),
        (classic(n=128, max_tokens=60_000), "max_tokens"),
        (classic(temperature=3), "temperature"),
    ],
)
async def test_what_is_wrong_is_named_and_nothing_is_sent(stack, request_, param):
    status, body, headers = await stack.ask(request_, route=ROUTE)
    assert (status, body["error"]["type"], body["error"]["param"]) == (400, "invalid_request_error", param)
    assert headers["X-RateLimit-Remaining-Requests"] == "1000"
    assert not stack.cluster.seen


async def test_a_model_that_does_not_complete_is_the_documented_404(stack):
    status, body, _ = await stack.ask({**classic(), "model": "DeepSeek-OCR"}, route=ROUTE)
    assert (status, body["error"]["code"]) == (404, "model_not_found")


async def test_a_model_of_prompts_alone_answers_a_chat_as_a_chat(prompted):
    request = {**chat("Bonjour", max_tokens=20), "model": PROMPTED}
    status, body = await send(prompted, as_bytes(request))
    assert status == 200
    seen = prompted.cluster.seen[-1]
    assert (seen.path, json.loads(seen.body)) == (
        ROUTE,
        {"model": PROMPTED, "prompt": "Bonjour", "max_tokens": 20},
    )
    answer = ChatCompletion.model_validate_json(body)
    assert (answer.object, answer.id[:9], answer.model) == ("chat.completion", "chatcmpl-", PROMPTED)
    alone = Completion.model_validate_json(await direct(prompted, seen.body, ROUTE))
    assert answer.choices[0].message.content == alone.choices[0].text
    assert answer.choices[0].finish_reason == alone.choices[0].finish_reason
    assert answer.usage is not None
    assert amounts(await prompted.usage()) == {
        "input": answer.usage.prompt_tokens,
        "output": answer.usage.completion_tokens,
    }


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("options", [{}, {"include_usage": True}])
async def test_a_model_of_prompts_alone_streams_a_chat(prompted, n, options):
    request = {**chat("Bonjour", max_tokens=20, n=n, stream=True, stream_options=options), "model": PROMPTED}
    status, body = await send(prompted, as_bytes(request))
    assert status == 200
    events = body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [ChatCompletionChunk.model_validate_json(event.removeprefix("data: ")) for event in events[:-2]]
    roles = [choice.delta.role for chunk in chunks for choice in chunk.choices if choice.delta.role]
    assert roles == ["assistant"] * n
    assert (chunks[-1].usage is not None) is bool(options)
    assert all(chunk.usage is None for chunk in chunks if chunk.choices)
    generated = (await prompted.usage()).lines
    assert {line.usage_type: line.quantity for line in generated} == {
        "input": prompted.cluster.prompt_tokens,
        "output": prompted.cluster.generation_tokens,
    }
    asked = {"model": PROMPTED, "prompt": "Bonjour", "max_tokens": 20, "n": n}
    alone = Completion.model_validate_json(await direct(prompted, as_bytes(asked), ROUTE))
    for choice in alone.choices:
        deltas = [one.delta for chunk in chunks for one in chunk.choices if one.index == choice.index]
        assert "".join(delta.content or "" for delta in deltas) == choice.text


async def test_a_model_of_prompts_alone_refuses_what_a_prompt_cannot_hold(prompted):
    image = {"role": "user", "content": [{"type": "image", "image": "data:image/png;base64,AAAA"}]}
    status, body, _ = await prompted.ask({"model": PROMPTED, "messages": [image]}, route=ROUTE)
    assert (status, body["error"]["param"]) == (400, "messages")
    tools = [{"type": "function", "function": {"name": "f"}}]
    status, body, _ = await prompted.ask({**chat(tools=tools), "model": PROMPTED}, route=ROUTE)
    assert (status, body["error"]["param"]) == (400, "tools")
    assert not prompted.cluster.seen


async def test_an_upstream_that_fails_in_a_reshaped_stream_ends_it_with_the_documented_error(prompted):
    request = {**chat("SIM:drop-after=3 SIM:tokens=9", stream=True), "model": PROMPTED}
    status, body = await send(prompted, as_bytes(request))
    assert status == 200
    assert b"[DONE]" not in body
    assert json.loads(body.decode().split("data: ")[-1])["error"]["type"] == "service_unavailable_error"
    assert (await prompted.usage()).cost_pico == 0
