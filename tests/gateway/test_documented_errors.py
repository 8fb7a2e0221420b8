"""The error codes of the API documentation, row by row: the status, and the body to the letter."""

import json

from tests.support.stack import MODEL, chat, running, write_config


async def refused(stack, body, status, *, key=None):
    """Make a call that is refused and return the whole body, which is JSON and nothing else."""
    async with stack.post(body, key=key) as answer:
        assert answer.status == status
        assert answer.content_type == "application/json"
        assert answer.headers["x-request-id"]
        return json.loads(await answer.read())


async def test_400_names_the_parameter(stack):
    assert await refused(stack, chat(temperature=2.5), 400) == {
        "error": {
            "message": "Invalid parameter 'temperature': must be between 0 and 2",
            "type": "invalid_request_error",
            "param": "temperature",
        }
    }


async def test_401_says_nothing_of_what_is_wrong_with_the_key(stack):
    documented = {"error": {"message": "Invalid API key provided", "type": "authentication_error"}}
    assert await refused(stack, chat(), 401, key="tg-wrong") == documented
    async with stack.session.post(f"{stack.url}/v1/chat/completions", json=chat()) as answer:
        assert (answer.status, await answer.json()) == (401, documented)


async def test_404_names_the_model(stack):
    assert await refused(stack, chat() | {"model": "unknown-model"}, 404) == {
        "error": {
            "message": "Model 'unknown-model' does not exist",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


async def test_429_is_one_and_the_same_for_every_limit(tmp_path):
    documented = {
        "error": {
            "message": "Rate limit exceeded. Please upgrade your tier or try again later.",
            "type": "rate_limit_error",
            "code": "rate_limit_exceeded",
        }
    }
    hour = ("output_tokens_hour: 150_000", "output_tokens_hour: 30")
    (tmp_path / "hour").mkdir()
    async with running(tmp_path, config=write_config(tmp_path / "hour", tiers=hour)) as stack:
        assert (await stack.ask(chat("SIM:tokens=20", max_tokens=20)))[0] == 200
        await stack.settled()
        assert await refused(stack, chat(max_tokens=20), 429) == documented
    requests = ("requests: 1000 # in any", "requests: 1 # in any")
    (tmp_path / "requests").mkdir()
    config = write_config(tmp_path / "requests", tiers=requests)
    async with running(tmp_path / "requests", config=config) as stack:
        assert (await stack.ask(chat(max_tokens=1)))[0] == 200
        assert await refused(stack, chat(max_tokens=1), 429) == documented


async def test_500_is_all_that_is_said_of_a_failed_server(stack):
    documented = {"error": {"message": "Internal server error", "type": "server_error"}}
    assert await refused(stack, chat("SIM:status=500"), 500) == documented
    assert await refused(stack, chat("SIM:status=500", stream=True), 500) == documented


async def test_503_is_all_that_is_said_of_a_server_that_is_away(stack):
    documented = {"error": {"message": "Service temporarily unavailable", "type": "service_unavailable_error"}}
    assert await refused(stack, chat("SIM:status=503"), 503) == documented
    assert await refused(stack, chat("SIM:drop"), 503) == documented
    stack.cluster.down = True
    assert await refused(stack, chat(), 503) == documented
    await stack.cluster.stop()
    assert await refused(stack, chat(stream=True), 503) == documented


async def test_no_error_costs_anything(stack):
    for body in (chat(temperature=3), {"model": "unknown-model"}, chat("SIM:status=500"), chat("SIM:status=503")):
        async with stack.post({"model": MODEL, **body}) as answer:
            assert answer.status >= 400
    assert await stack.entries() == []
