"""What is refused, and how: the documented errors, with the limit headers of whoever could be told apart."""

import asyncio
import json
import time

import pytest

from tests.support.stack import ROUTE, chat, running, write_config

LIMITED = {
    "message": "Rate limit exceeded. Please upgrade your tier or try again later.",
    "type": "rate_limit_error",
    "code": "rate_limit_exceeded",
}
UNAVAILABLE = {"error": {"message": "Service temporarily unavailable", "type": "service_unavailable_error"}}
UNAUTHORIZED = {"error": {"message": "Invalid API key provided", "type": "authentication_error"}}


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer nonsense", "Basic dXNlcjpwYXNz", "Bearer tg-" + "0" * 46]
)
async def test_without_a_valid_key_there_is_the_documented_401(stack, authorization):
    headers = {"Authorization": authorization} if authorization is not None else {}
    async with stack.session.post(stack.url + ROUTE, json=chat(), headers=headers) as answer:
        assert answer.status == 401
        assert await answer.json() == UNAUTHORIZED
        assert "X-RateLimit-Limit-Requests" not in answer.headers
    assert not stack.cluster.seen


async def test_a_revoked_key_is_refused(stack):
    from proxy.ledger.keys import Keys

    await Keys(stack.app.database).revoke(stack.key_id)
    deadline = time.monotonic() + 1.0
    while (await stack.ask(chat(max_tokens=1)))[0] != 401:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/v1//chat/completions", 404),
        ("POST", "/v1/nothing", 404),
        ("POST", "/metrics", 404),
        ("GET", ROUTE, 405),
        ("DELETE", ROUTE, 405),
    ],
)
async def test_what_is_not_in_the_table_does_not_exist(stack, method, path, status):
    async with stack.session.request(method, stack.url + path, headers=stack.auth()) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]["type"] == "invalid_request_error"
    assert not stack.cluster.seen


async def test_a_wrong_parameter_is_the_documented_400_with_limit_headers(stack):
    status, body, headers = await stack.ask(chat(temperature=3))
    assert status == 400
    assert body == {
        "error": {
            "message": "Invalid parameter 'temperature': must be between 0 and 2",
            "type": "invalid_request_error",
            "param": "temperature",
        }
    }
    assert headers["X-RateLimit-Remaining-Requests"] == "1000"
    assert headers["X-RateLimit-Remaining-Output-Tokens-Hour"] == "150000"


async def test_an_unknown_model_is_the_documented_404(stack):
    status, body, _ = await stack.ask({**chat(), "model": "unknown-model"})
    assert status == 404
    assert body == {
        "error": {
            "message": "Model 'unknown-model' does not exist",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


async def test_a_body_that_is_too_large_is_a_413_whether_it_says_so_or_not(tmp_path):
    config = write_config(tmp_path, proxy=("body_bytes_max: 33_554_432", "body_bytes_max: 1000"))
    async with running(tmp_path, config=config) as stack:
        large = json.dumps(chat("x" * 2000)).encode()

        async def in_pieces():
            for start in range(0, len(large), 100):
                yield large[start : start + 100]

        for data in (large, in_pieces()):
            async with stack.session.post(stack.url + ROUTE, data=data, headers=stack.auth()) as answer:
                assert answer.status == 413
                assert (await answer.json())["error"]["type"] == "invalid_request_error"
                assert answer.headers["X-RateLimit-Remaining-Requests"] == "1000"
        status, _, _ = await stack.ask(chat(max_tokens=1))
        assert status == 200


@pytest.mark.parametrize(
    "raw",
    [b"GARBAGE\r\n\r\n", b"POST / HTTP/1.1\r\nbad header\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x00"],
)
async def test_what_is_not_http_gets_the_documented_shape(stack, raw, caplog):
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.app.port)
    writer.write(raw)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    if answer:  # bytes that never make a request line end the connection without an answer
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert "Traceback" not in caplog.text


# The limits


async def test_a_full_hour_is_the_documented_429_to_the_letter_and_consumes_nothing(tmp_path):
    config = write_config(tmp_path, tiers=("output_tokens_hour: 150_000", "output_tokens_hour: 100"))
    async with running(tmp_path, config=config) as stack:
        assert (await stack.ask(chat("SIM:tokens=60", max_tokens=60)))[0] == 200
        await stack.settled()
        for _ in range(3):
            async with stack.post(chat(max_tokens=50)) as answer:
                assert answer.status == 429
                assert json.loads(await answer.read()) == {"error": LIMITED}
                headers = answer.headers
            assert headers["X-RateLimit-Bound"] == "output_tokens_hour"
            assert headers["X-RateLimit-Remaining-Output-Tokens-Hour"] == "40"
            assert headers["X-RateLimit-Remaining-Requests"] == "999"
            assert 3590 <= int(headers["Retry-After"]) <= 3600
            assert headers["x-should-retry"] == "false"
            assert "retry-after-ms" not in headers
            assert headers["RateLimit"].startswith('"output_tokens_hour";r=40;t=')
        assert (await stack.ask(chat("SIM:tokens=40", max_tokens=40)))[0] == 200
        assert (await stack.usage()).calls == 2


async def test_a_full_requests_window_lets_the_next_call_in_when_it_said_it_would(tmp_path):
    config = write_config(
        tmp_path,
        tiers=(
            "    requests: 1000 # in any requests_window_s (60 seconds)",
            "    requests: 2\n    requests_window_s: 2",
        ),
    )
    async with running(tmp_path, config=config) as stack:
        for _ in range(2):
            assert (await stack.ask(chat(max_tokens=1)))[0] == 200
        status, body, headers = await stack.ask(chat(max_tokens=1))
        assert (status, body) == (429, {"error": LIMITED})
        assert headers["X-RateLimit-Bound"] == "requests"
        assert headers["x-should-retry"] == "true"
        wait_s = int(headers["Retry-After"])
        assert wait_s in (1, 2)
        assert 0 < int(headers["retry-after-ms"]) <= wait_s * 1000
        await asyncio.sleep(int(headers["retry-after-ms"]) / 1000)
        assert (await stack.ask(chat(max_tokens=1)))[0] == 200


async def test_a_spent_month_says_stop(tmp_path):
    config = write_config(tmp_path, tiers=("monthly_limit: 1000", "monthly_limit: 0.01"))
    async with running(tmp_path, config=config) as stack:
        assert (await stack.ask(chat("SIM:tokens=500", max_tokens=500)))[0] == 200
        await stack.settled()
        status, body, headers = await stack.ask(chat("SIM:tokens=600", max_tokens=600))
        assert (status, body) == (429, {"error": LIMITED})
        assert headers["X-RateLimit-Bound"] == "budget_month"
        assert headers["x-should-retry"] == "false"
        assert "Retry-After" not in headers


async def test_a_need_larger_than_the_whole_limit_is_a_400(tmp_path):
    config = write_config(tmp_path, tiers=("output_tokens_hour: 150_000", "output_tokens_hour: 100"))
    async with running(tmp_path, config=config) as stack:
        status, body, _ = await stack.ask(chat(max_tokens=101))
        assert (status, body["error"]["param"]) == (400, "max_tokens")


async def test_concurrent_calls_never_pass_a_limit_together(tmp_path):
    config = write_config(tmp_path, tiers=("output_tokens_hour: 150_000", "output_tokens_hour: 1000"))
    async with running(tmp_path, config=config) as stack:
        answers = await asyncio.gather(*[stack.ask(chat("SIM:tokens=100", max_tokens=100)) for _ in range(30)])
        assert sorted(status for status, _, _ in answers) == [200] * 10 + [429] * 20
        usage = await stack.usage()
        assert sum(line.quantity for line in usage.lines if line.usage_type == "output") == 1000


# The upstream


@pytest.mark.parametrize(
    ("switch", "status", "kind"),
    [
        ("SIM:status=500", 500, "server_error"),
        ("SIM:status=502", 503, "service_unavailable_error"),
        ("SIM:status=503", 503, "service_unavailable_error"),
        ("SIM:status=429", 503, "service_unavailable_error"),
        ("SIM:status=401", 503, "service_unavailable_error"),
        ("SIM:status=404", 503, "service_unavailable_error"),
        ("SIM:status=400", 400, "invalid_request_error"),
        ("SIM:status=422", 400, "invalid_request_error"),
        ("SIM:drop", 503, "service_unavailable_error"),
        ("SIM:not-http", 503, "service_unavailable_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstreams_failure_becomes_a_documented_error_and_costs_nothing(stack, switch, status, kind, stream):
    got, body, headers = await stack.ask(chat(switch, max_tokens=10, stream=stream))
    assert (got, body["error"]["type"]) == (status, kind)
    assert set(body["error"]) <= {"message", "type", "param", "code"}
    assert "X-RateLimit-Limit-Requests" in headers
    usage = await stack.usage()
    assert (usage.calls, usage.cost_pico) == (0, 0)
    _, _, after = await stack.ask(chat(max_tokens=1))
    assert after["X-RateLimit-Remaining-Output-Tokens-Hour"] == str(150_000 - 1)


async def test_garbage_for_an_answer_is_not_passed_on(stack):
    status, body, _ = await stack.ask(chat("SIM:garbage", max_tokens=10))
    assert (status, body) == (503, UNAVAILABLE)


async def test_an_upstream_that_is_not_there_is_a_503(tmp_path):
    from tests.support.ports import free_port

    async with running(tmp_path, environ={"TOLLGATE_UPSTREAM": f"http://127.0.0.1:{free_port()}"}) as stack:
        status, body, _ = await stack.ask(chat())
        assert (status, body) == (503, UNAVAILABLE)
        await stack.settled()


async def test_a_stream_that_breaks_off_ends_in_an_error_that_sdks_understand_and_is_free(stack):
    async with stack.post(chat("SIM:drop-after=5 SIM:tokens=50", max_tokens=50, stream=True)) as answer:
        got = (await answer.read()).decode()
    assert answer.status == 200
    events = [json.loads(line[6:]) for line in got.split("\n") if line.startswith("data: {")]
    assert events[-1] == UNAVAILABLE
    assert "[DONE]" not in got
    (entry,) = await stack.entries()
    assert (entry.outcome.value, entry.charge.total_pico) == ("upstream_failed", 0)
    _, _, headers = await stack.ask(chat(max_tokens=1))
    remaining = int(headers["X-RateLimit-Remaining-Output-Tokens-Hour"])
    assert 150_000 - 1 - 7 <= remaining < 150_000 - 1  # what was delivered counts in the windows


async def test_garbage_within_a_stream_passes_and_the_rest_is_metered(stack):
    async with stack.post(chat("SIM:garbage SIM:tokens=8", max_tokens=10, stream=True)) as answer:
        assert (await answer.read()).endswith(b"data: [DONE]\n\n")
    usage = await stack.usage()
    assert {line.usage_type: line.quantity for line in usage.lines}["output"] == stack.cluster.generation_tokens


async def test_a_stream_without_usage_is_estimated_never_zero(stack):
    async with stack.post(chat("SIM:no-usage SIM:tokens=20", max_tokens=30, stream=True)) as answer:
        await answer.read()
    (entry,) = await stack.entries()
    lines = {line.usage_type.value: line for line in entry.charge.lines}
    assert lines["output"].source.value == "estimated"
    assert 10 <= lines["output"].amount <= 30
    assert lines["input"].amount > 0
