"""The models, as the documentation shows them, to whoever has a key."""

import json

import pytest
from openai import AsyncOpenAI, NotFoundError
from yarl import URL

from tests.support.ports import free_port
from tests.support.stack import chat, running, write_config

RERANK = "nvidia/llama-nemotron-rerank-vl-1b-v2"
GPT_OSS = {
    "id": "gpt-oss:120b",
    "object": "model",
    "created": 1749110897,
    "owned_by": "CloudTemple",
    "root": "gpt-oss:120b",
    "aliases": ["gpt-oss:120b"],
    "max_model_len": 60000,
    "permission": [
        {
            "id": "modelperm-gpt-oss:120b-1749110897",
            "object": "model_permission",
            "allow_sampling": True,
            "allow_view": True,
            "allow_fine_tuning": False,
        }
    ],
}


async def get(stack, path, *, method="GET", **headers):
    async with stack.session.request(method, _url(stack, path), headers={**stack.auth(), **headers}) as answer:
        return answer.status, await answer.read(), answer.headers


def _url(stack, path):
    return URL(stack.url + path, encoded=True)  # as it stands


async def test_the_list_has_the_documented_shape_to_the_letter_and_every_model_once(stack):
    status, body, headers = await get(stack, "/v1/models")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    listed = json.loads(body)
    assert list(listed) == ["object", "data"]
    assert listed["object"] == "list"
    assert json.dumps(listed["data"][0]) == json.dumps(GPT_OSS)
    assert [model["id"] for model in listed["data"]] == list(
        dict.fromkeys(model.id for model in stack.app._holder.current.models.values())
    )


@pytest.mark.parametrize(
    ("written", "id_"),
    [
        ("gpt-oss:120b", "gpt-oss:120b"),
        ("gpt-oss%3A120b", "gpt-oss:120b"),
        ("gpt-oss%3a120b?verbose=1", "gpt-oss:120b"),
        (RERANK, RERANK),
        (RERANK.replace("/", "%2F"), RERANK),
        ("whisper", "whisper-large-v3"),
        ("deepseek-ai%2FDeepSeek-OCR", "DeepSeek-OCR"),
    ],
)
async def test_a_model_is_found_by_every_name_however_it_is_written(stack, written, id_):
    _, listed, _ = await get(stack, "/v1/models")
    status, body, _ = await get(stack, f"/v1/models/{written}")
    assert status == 200
    (expected,) = [model for model in json.loads(listed)["data"] if model["id"] == id_]
    assert json.loads(body) == expected


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("unknown-model", "unknown-model"),
        ("gpt-oss%253A120b", "gpt-oss%3A120b"),  # decoded once
        ("..%2Fusage", "../usage"),
        ("gpt-oss:120b/", "gpt-oss:120b/"),
        ("%ff", "\ufffd"),
        ("x" * 5000, "x" * 256),
    ],
)
async def test_what_is_no_model_is_the_documented_404(stack, written, read):
    status, body, headers = await get(stack, f"/v1/models/{written}")
    assert status == 404
    assert json.loads(body) == {
        "error": {
            "message": f"Model '{read}' does not exist",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
    assert headers["X-RateLimit-Remaining-Requests"] == "1000"


async def test_looking_is_no_call(stack):
    for _ in range(3):
        _, _, headers = await get(stack, "/v1/models")
        assert headers["X-RateLimit-Remaining-Requests"] == "1000"
        assert headers["X-RateLimit-Remaining-Output-Tokens-Day"] == "3600000"
        assert len(headers["x-request-id"]) == 36
    assert not stack.cluster.seen
    assert (await stack.usage()).calls == 0


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-oss:120b", "/v1/models/unknown-model"])
async def test_without_a_key_nothing_is_shown(stack, path):
    async with stack.session.get(stack.url + path) as answer:
        assert answer.status == 401
        assert await answer.json() == {"error": {"message": "Invalid API key provided", "type": "authentication_error"}}
        assert "X-RateLimit-Limit-Requests" not in answer.headers
        assert "x-request-id" in answer.headers


async def test_a_head_is_the_get_without_its_body(stack):
    _, body, _ = await get(stack, "/v1/models")
    status, nothing, headers = await get(stack, "/v1/models", method="HEAD")
    assert (status, nothing) == (200, b"")
    assert headers["Content-Length"] == str(len(body))
    status, nothing, _ = await get(stack, "/v1/models/unknown-model", method="HEAD")
    assert (status, nothing) == (404, b"")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("DELETE", f"/v1/models/{RERANK}", "GET, HEAD, OPTIONS"),
        ("PUT", "/v1/usage?month=1", "GET, HEAD, OPTIONS"),
        ("PATCH", "/v1/usage/calls/x", "GET, HEAD, OPTIONS"),
        ("GET", "/v1/chat/completions", "POST, OPTIONS"),
        ("HEAD", "/v1/chat/completions", "POST, OPTIONS"),
    ],
)
async def test_another_method_is_a_405_that_names_those_there_are(stack, method, path, allow):
    status, body, headers = await get(stack, path, method=method)
    assert status == 405
    assert headers["Allow"] == allow
    assert method == "HEAD" or json.loads(body)["error"]["code"] == "method_not_allowed"
    status, body, headers = await get(stack, path, method="OPTIONS")
    assert (status, body, headers["Allow"]) == (204, b"", allow)


@pytest.mark.parametrize("path", ["/v1/models/", "/v1//models", "/v1/Models", "/v1%2Fmodels", "/v1/usage/", "/v1"])
async def test_what_is_nearly_a_view_does_not_exist(stack, path):
    for method in ("GET", "OPTIONS"):
        status, body, _ = await get(stack, path, method=method)
        assert status == 404
        assert json.loads(body)["error"]["code"] == "unknown_url"


async def test_a_reload_shows_other_models(tmp_path):
    config = write_config(tmp_path)
    async with running(tmp_path, config=config) as stack:
        before = (await get(stack, "/v1/models"))[1]
        path = config / "models.yaml"
        path.write_text(path.read_text().replace("max_model_len: 60000", "max_model_len: 70000"))
        assert (await get(stack, "/v1/models"))[1] == before
        stack.app.reload()
        shown = json.loads((await get(stack, "/v1/models"))[1])["data"][0]
        assert shown == {**GPT_OSS, "max_model_len": 70000}
        assert json.loads((await get(stack, "/v1/models/gpt-oss:120b"))[1]) == shown


async def test_the_sdk_reads_them(stack):
    async with AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0) as client:
        ids = [model.id async for model in client.models.list()]
        assert ids[0] == "gpt-oss:120b"
        for id_ in ids:
            assert (await client.models.retrieve(id_)).id == id_
        with pytest.raises(NotFoundError, match="'unknown-model' does not exist"):
            await client.models.retrieve("unknown-model")


async def test_while_the_limiter_is_away_they_are_shown_without_limits(tmp_path):
    config = write_config(tmp_path, proxy=("degraded_share_percent: 25", "degraded_share_percent: 0"))
    environ = {"TOLLGATE_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    async with running(tmp_path, config=config, environ=environ) as stack:
        assert (await stack.ask(chat()))[0] == 503
        status, _, headers = await get(stack, "/v1/models")
        assert status == 200
        assert "X-RateLimit-Limit-Requests" not in headers
        status, body, _ = await get(stack, "/v1/usage")  # what is used is not known, and unknown is not zero
        assert (status, json.loads(body)["error"]["type"]) == (503, "service_unavailable_error")


async def test_views_are_counted_by_themselves_and_logged_as_what_they_are(stack, monkeypatch):
    lines = []
    monkeypatch.setattr(stack.app.call_log, "write", lines.append)
    for path in ("/v1/models", f"/v1/models/{RERANK}", "/v1/models/unknown-model", "/v1/usage", "/v1/usage/calls/x"):
        _, _, headers = await get(stack, path, **{"X-Request-Id": "mine"})
    async with stack.session.get(f"{stack.admin_url}/metrics") as answer:
        text = await answer.text()
    counted = {line for line in text.splitlines() if line.startswith("tollgate_views_total") and line[-1] != "0"}
    assert counted == {
        'tollgate_views_total{view="models",status="200"} 1',
        'tollgate_views_total{view="model",status="200"} 1',
        'tollgate_views_total{view="model",status="404"} 1',
        'tollgate_views_total{view="usage",status="200"} 1',
        'tollgate_views_total{view="receipt",status="404"} 1',
    }
    assert 'tollgate_views_total{view="receipt",status="200"} 0' in text
    assert "tollgate_calls_in_flight 0" in text
    assert not [line for line in text.splitlines() if line.startswith("tollgate_calls_total{")]
    assert [(line.endpoint, line.status, line.outcome) for line in lines] == [
        ("/v1/models", 200, "viewed"),
        ("/v1/models/{id}", 200, "viewed"),
        ("/v1/models/{id}", 404, "refused"),
        ("/v1/usage", 200, "viewed"),
        ("/v1/usage/calls/{id}", 404, "refused"),
    ]
    assert lines[-1].call_id == headers["x-request-id"]
    assert {(line.account, line.key_id, line.client_request_id) for line in lines} == {("acme", stack.key_id, "mine")}
