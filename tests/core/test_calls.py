"""A chat request is checked, bounded and patched before anything else happens."""

import json

import pytest

from proxy.core.calls import Terms
from proxy.core.calls.chat import TEMPLATE_TOKENS, prepare_chat
from proxy.core.catalogue import Engine, Model, Upstream
from proxy.core.errors import ApiError

ROUTE = "/v1/chat/completions"


def model(engine=Engine.VLLM, *, upstream_model="gpt-oss:120b", endpoints=(ROUTE,)):
    upstream = Upstream("cluster", "http://127.0.0.1:9900", engine)
    return Model("gpt-oss:120b", endpoints, 60_000, (upstream,), upstream_model, aliases=("gpt",))


def prepare(body, engine=Engine.VLLM, **model_options):
    made = model(engine, **model_options)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return prepare_chat(raw, ROUTE, Terms({"gpt-oss:120b": made, "gpt": made}, 1024))


def chat(**more):
    return {"model": "gpt-oss:120b", "messages": [{"role": "user", "content": "hi"}], **more}


@pytest.mark.parametrize(
    ("more", "param", "problem"),
    [
        ({"temperature": 2.1}, "temperature", "must be between 0 and 2"),
        ({"temperature": -0.1}, "temperature", "must be between 0 and 2"),
        ({"temperature": "hot"}, "temperature", "must be between 0 and 2"),
        ({"top_p": 1.5}, "top_p", "must be between 0 and 1"),
        ({"presence_penalty": 3}, "presence_penalty", "must be between -2 and 2"),
        ({"frequency_penalty": -3}, "frequency_penalty", "must be between -2 and 2"),
        ({"max_tokens": 0}, "max_tokens", "must be an integer of at least 1"),
        ({"max_tokens": 1.5}, "max_tokens", "must be an integer of at least 1"),
        ({"max_tokens": "9"}, "max_tokens", "must be an integer of at least 1"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "must be an integer of at least 1"),
        ({"n": 0}, "n", "must be an integer between 1 and 128"),
        ({"stream": "yes"}, "stream", "must be a boolean"),
        ({"stream_options": []}, "stream_options", "must be an object"),
        ({"user": 7}, "user", "must be a string"),
        ({"tools": {}}, "tools", "must be an array of tool objects"),
        ({"tool_choice": 5}, "tool_choice", "must be a string or an object"),
        ({"messages": "hi"}, "messages", "must be an array with at least one message object"),
        ({"messages": []}, "messages", "must be an array with at least one message object"),
        ({"messages": ["hi"]}, "messages", "must be an array with at least one message object"),
        ({"model": 5}, "model", "must be a string that names a model"),
    ],
)
def test_a_wrong_parameter_is_named(more, param, problem):
    with pytest.raises(ApiError) as caught:
        prepare(chat(**more))
    assert caught.value.status == 400
    assert json.loads(caught.value.body) == {
        "error": {
            "message": f"Invalid parameter '{param}': {problem}",
            "type": "invalid_request_error",
            "param": param,
        }
    }


def test_the_documented_400_is_met_to_the_letter():
    with pytest.raises(ApiError) as caught:
        prepare(chat(temperature=3))
    assert json.loads(caught.value.body) == {
        "error": {
            "message": "Invalid parameter 'temperature': must be between 0 and 2",
            "type": "invalid_request_error",
            "param": "temperature",
        }
    }


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_parameter_is_named(missing):
    body = chat()
    del body[missing]
    with pytest.raises(ApiError) as caught:
        prepare(body)
    assert (caught.value.status, caught.value.param) == (400, missing)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_a_400(body):
    with pytest.raises(ApiError) as caught:
        prepare(body)
    assert caught.value.status == 400


@pytest.mark.parametrize("options", [{}, {"endpoints": ("/v1/embeddings",)}])
def test_an_unknown_model_is_the_documented_404(options):
    body = chat(model="unknown-model") if not options else chat()
    with pytest.raises(ApiError) as caught:
        prepare(body, **options)
    assert caught.value.status == 404
    error = json.loads(caught.value.body)["error"]
    assert error == {
        "message": f"Model '{body['model']}' does not exist",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


@pytest.mark.parametrize(
    ("more", "bound"),
    [
        ({}, 1024),
        ({"max_tokens": None}, 1024),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 1, "max_completion_tokens": 10_000}, 10_000),
        ({"max_tokens": 10_000, "max_completion_tokens": 1}, 10_000),
        ({"max_tokens": 100, "n": 3}, 300),
        ({"n": 2}, 2048),
        ({"max_tokens": 1_000_000}, 60_000),
    ],
)
def test_a_call_is_bounded_by_the_larger_limit_times_its_choices(more, bound):
    assert prepare(chat(**more)).output_tokens_max == bound


def test_the_documented_default_is_forwarded_so_that_the_bound_is_real():
    assert json.loads(prepare(chat()).body)["max_tokens"] == 1024
    assert json.loads(prepare(chat(max_tokens=None)).body)["max_tokens"] == 1024


def test_a_body_that_needs_nothing_is_passed_as_it_came():
    body = json.dumps(chat(max_tokens=5), indent=3).encode()
    assert prepare(body).body is body


def test_usage_is_asked_for_in_every_stream_and_continuously_where_the_engine_can():
    call = prepare(chat(max_tokens=5, stream=True))
    assert json.loads(call.body)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert (call.forward_usage, call.strip_continuous) == (False, True)

    call = prepare(chat(max_tokens=5, stream=True), Engine.LLAMA_CPP)
    assert json.loads(call.body)["stream_options"] == {"include_usage": True}


def test_a_client_that_says_no_to_usage_does_not_switch_metering_off():
    call = prepare(chat(max_tokens=5, stream=True, stream_options={"include_usage": False, "x": 1}))
    assert json.loads(call.body)["stream_options"] == {
        "include_usage": True,
        "continuous_usage_stats": True,
        "x": 1,
    }
    assert not call.forward_usage


def test_a_client_that_asks_for_all_usage_gets_it_untouched():
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = json.dumps(chat(max_tokens=5, stream=True, stream_options=options)).encode()
    call = prepare(body)
    assert call.body is body
    assert (call.forward_usage, call.strip_continuous) == (True, False)


def test_stream_options_are_not_added_to_a_call_that_does_not_stream():
    assert b"stream_options" not in prepare(chat()).body


def test_an_alias_becomes_the_upstreams_name():
    call = prepare(chat(model="gpt", max_tokens=5), upstream_model="openai/gpt-oss-120b")
    assert json.loads(call.body)["model"] == "openai/gpt-oss-120b"
    assert call.model.id == "gpt-oss:120b"


def test_input_is_bounded_by_bytes_and_by_the_context_where_bytes_say_nothing():
    body = json.dumps(chat(max_tokens=5)).encode()
    assert prepare(body).input_tokens_max == len(body) + TEMPLATE_TOKENS
    image = [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    assert prepare(chat(messages=[{"role": "user", "content": image}])).input_tokens_max == 60_000
    assert prepare(chat(messages=[{"role": "user", "content": "x" * 70_000}])).input_tokens_max == 60_000
