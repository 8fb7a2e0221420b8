"""Refusals have the status and the words of vLLM 0.32, recorded from a real server."""

import json

import pytest

from proxy.simulator import Options, SimulatedCluster
from tests.simulator.exchange import CHAT, chat, exchange

_MISSING = "{'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required', 'input': '<dict of 1 items>'}"
_LIST = "{'type': 'list_type', 'loc': 'body.messages', 'msg': 'Input should be a valid list', 'input': 'hi'}"
_BAD_JSON = (
    "{'type': 'json_invalid', 'loc': 'body.28', 'msg': 'JSON decode error', 'input': '<dict of 0 items>',"
    " 'ctx': {'error': 'Expecting value'}}"
)


@pytest.mark.parametrize(
    ("body", "message", "kind", "param"),
    [
        ({"model": "m"}, f"1 validation error:\n  {_MISSING}", "Bad Request", "body.messages"),
        ({"model": "m", "messages": "hi"}, f"1 validation error:\n  {_LIST}", "Bad Request", "body.messages"),
        (b'{"model": "x", "messages": [}', f"1 validation error:\n  {_BAD_JSON}", "Bad Request", "body.28"),
        (
            {"model": "m", "messages": []},
            "Cannot apply chat template to an empty conversation. Provide at least one message.",
            "BadRequestError",
            None,
        ),
        (
            chat("hi", max_tokens=0),
            "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
            "BadRequestError",
            "max_tokens",
        ),
        (
            chat("hi", max_tokens=100000),
            (
                "max_tokens=100000 cannot be greater than max_model_len=2048. Please request fewer output tokens."
                " (parameter=max_tokens, value=100000)"
            ),
            "BadRequestError",
            "max_tokens",
        ),
        (
            chat("hi", temperature=-3),
            "temperature must be non-negative, got -3.0. (parameter=temperature, value=-3.0)",
            "BadRequestError",
            "temperature",
        ),
        (
            chat("hi", stream_options={"include_usage": True}),
            "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
            "BadRequestError",
            "stream_options",
        ),
        (
            chat("hello there " * 1000),
            (
                "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049"
                " input tokens, which exceeds this limit even without any output tokens. Please reduce the length"
                " of the input prompt. (parameter=input_tokens, value=2049)"
            ),
            "BadRequestError",
            "input_tokens",
        ),
        (chat("SIM:tokns=3"), "Unknown switch: tokns=3", "BadRequestError", None),
        (chat("SIM:tokens=many"), "Unknown switch: tokens=many", "BadRequestError", None),
    ],
)
async def test_a_wrong_request_is_refused(body: object, message: str, kind: str, param: str | None) -> None:
    async with SimulatedCluster(Options(max_model_len=2048)) as cluster:
        status, _, raw = await exchange(cluster, CHAT, body)
        assert cluster.prompt_tokens == cluster.generation_tokens == 0
    assert status == "HTTP/1.1 400 Bad Request"
    assert json.loads(raw) == {"error": {"message": message, "type": kind, "param": param, "code": 400}}


async def test_a_model_that_is_not_listed_does_not_exist() -> None:
    async with SimulatedCluster(Options(models=("scripted",))) as cluster:
        status, _, raw = await exchange(cluster, CHAT, chat("hi") | {"model": "nope"})
    assert status == "HTTP/1.1 404 Not Found"
    assert raw == (
        b'{"error":{"message":"The model `nope` does not exist. Valid aliases: scripted.",'
        b'"type":"NotFoundError","param":"model","code":404}}'
    )


async def test_unknown_routes_and_methods_answer_as_fastapi_does(cluster: SimulatedCluster) -> None:
    status, _, raw = await exchange(cluster, "/v1/nope", {})
    assert (status, raw) == ("HTTP/1.1 404 Not Found", b'{"detail":"Not Found"}')
    status, headers, raw = await exchange(cluster, CHAT, b"", method="GET")
    assert (status, raw) == ("HTTP/1.1 405 Method Not Allowed", b'{"detail":"Method Not Allowed"}')
    assert headers["allow"] == "POST"


async def test_a_body_that_is_not_json_by_name_is_refused(cluster: SimulatedCluster) -> None:
    status, _, raw = await exchange(cluster, CHAT, b"hello", headers=("Content-Type: text/plain",))
    assert status == "HTTP/1.1 400 Bad Request"
    assert json.loads(raw)["error"]["message"].endswith("Only 'application/json' is allowed")
