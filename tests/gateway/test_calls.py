"""A call, end to end: what the client gets, what the upstream sees, what the ledger says."""

import asyncio
import json

import pytest

from tests.support.stack import MODEL, ROUTE, chat


def amounts(usage):
    return {line.usage_type: line.quantity for line in usage.lines}


async def direct(stack, body):
    """The same call without the proxy: the bytes that the upstream sends."""
    async with stack.session.post(stack.cluster.url + ROUTE, json=body) as answer:
        return await answer.read()


def without_ids(raw):
    """An answer without what differs from call to call.

    vLLM states its fingerprint in the last chunk: in the usage chunk when that is asked for, as it always is by us.
    """
    events = []
    for line in raw.decode().split("\n"):
        event = json.loads(line[6:]) if line.startswith("data: {") else line
        if isinstance(event, dict):
            for name in ("id", "created", "system_fingerprint"):
                event.pop(name, None)
        events.append(event)
    return events


async def test_a_plain_call_is_answered_metered_priced_and_kept(stack):
    status, body, headers = await stack.ask(chat(max_tokens=42))
    assert status == 200
    assert body["object"] == "chat.completion"
    used = body["usage"]
    usage = await stack.usage()
    assert usage.calls == 1
    assert amounts(usage) == {"input": used["prompt_tokens"], "output": used["completion_tokens"]}
    assert usage.cost_pico == used["prompt_tokens"] * 1_800_000 + used["completion_tokens"] * 8_000_000
    assert headers["X-RateLimit-Remaining-Requests"] == "999"
    assert headers["X-RateLimit-Remaining-Output-Tokens-Hour"] == str(150_000 - 42)
    assert headers["Content-Type"] == "application/json"


async def test_the_request_id_names_the_entry(stack):
    _, _, headers = await stack.ask(chat(max_tokens=5))
    await stack.settled()
    (entry,) = await stack.entries()
    assert entry.call_id == headers["x-request-id"]
    assert (entry.key_id, entry.tier, entry.model, entry.endpoint) == (stack.key_id, "tier1", MODEL, ROUTE)


async def test_a_stream_reaches_the_client_as_the_upstream_would_have_sent_it_unasked(stack):
    body = chat("tell me more", max_tokens=30, stream=True)
    async with stack.post(body) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert "X-RateLimit-Remaining-Requests" in answer.headers
        got = await answer.read()
    assert without_ids(got) == without_ids(await direct(stack, body))
    assert b'"usage"' not in got
    assert got.endswith(b"data: [DONE]\n\n")


async def test_a_stream_with_usage_asked_for_shows_it_and_is_billed_by_it(stack):
    body = chat("count me", max_tokens=30, stream=True, stream_options={"include_usage": True})
    async with stack.post(body) as answer:
        got = await answer.read()
    assert without_ids(got) == without_ids(await direct(stack, body))
    last = json.loads(got.decode().split("data: ")[-2])
    assert amounts(await stack.usage()) == {
        "input": last["usage"]["prompt_tokens"],
        "output": last["usage"]["completion_tokens"],
    }


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": False}}])
async def test_the_ledger_counts_what_the_engine_generated(stack, more):
    for index in range(5):
        async with stack.post(chat(f"call {index}", max_tokens=10 + index, n=1 + index % 2, **more)) as answer:
            await answer.read()
    usage = amounts(await stack.usage())
    assert usage["input"] == stack.cluster.prompt_tokens
    assert usage["output"] == stack.cluster.generation_tokens


async def test_tools_and_reasoning_are_counted(stack):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    for stream in (False, True):
        async with stack.post(chat("TOOL please", tools=[tool], stream=stream)) as answer:
            assert b"tool_calls" in await answer.read()
        async with stack.post(chat("THINK about it", max_tokens=60, stream=stream)) as answer:
            assert b'"reasoning"' in await answer.read()
    usage = amounts(await stack.usage())
    assert usage["output"] + usage["reasoning"] == stack.cluster.generation_tokens
    assert usage["reasoning"] > 0


async def test_what_the_proxy_does_not_know_passes_untouched(stack):
    raw = (
        b'{"model" : "gpt-oss:120b","max_tokens":5, "x_unknown": {"deep":[1.50, 1e3]},\n'
        b'"messages":[{"role":"user","content":"\\u00e9"}]}'
    )
    async with stack.session.post(
        stack.url + ROUTE, data=raw, headers={**stack.auth(), "Content-Type": "application/json"}
    ) as answer:
        assert answer.status == 200
    assert stack.cluster.seen[-1].body == raw


async def test_headers_pass_as_a_careful_proxy_lets_them(stack):
    sent = {"X-Custom": "kept", "Cookie": "a=b", "X-Forwarded-For": "10.1.1.1", "X-Request-Id": "client-id"}
    _, _, headers = await stack.ask(chat(max_tokens=5), headers=sent)
    seen = stack.cluster.seen[-1].headers
    assert seen["x-custom"] == "kept"
    assert seen["x-request-id"] == headers["x-request-id"] != "client-id"
    assert seen["host"] == stack.cluster.url.removeprefix("http://")
    assert "authorization" not in seen
    assert not {"cookie", "x-forwarded-for"} & set(seen)
    assert seen["traceparent"].split("-")[1] == headers["x-request-id"].replace("-", "")


async def test_calls_on_one_connection_follow_each_other(stack):
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.app.port)
    body = json.dumps(chat(max_tokens=3)).encode()
    head = (
        f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write((head.encode() + body) * 3)
    for _ in range(3):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert json.loads(await reader.readexactly(length))["object"] == "chat.completion"
    writer.close()
    assert (await stack.usage()).calls == 3


async def test_a_client_that_waits_for_permission_gets_it(stack):
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.app.port)
    body = json.dumps(chat(max_tokens=3)).encode()
    writer.write(
        f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.key}\r\nExpect: 100-continue\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_an_http_1_0_client_gets_a_stream_that_ends_with_the_connection(stack):
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.app.port)
    body = json.dumps(chat(max_tokens=3, stream=True)).encode()
    writer.write(
        f"POST {ROUTE} HTTP/1.0\r\nAuthorization: Bearer {stack.key}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    answer = await asyncio.wait_for(reader.read(), 10)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert rest.startswith(b"data: {")
    assert rest.endswith(b"data: [DONE]\n\n")
    writer.close()
