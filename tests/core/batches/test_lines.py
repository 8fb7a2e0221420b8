"""A line is a request, or what is wrong with it is said with its number."""

import pytest

from proxy.core.batches.lines import (
    BATCH_ENDPOINTS,
    CUSTOM_ID_CHARS_MAX,
    LineRequest,
    parse_line,
    prepare_line,
    tokens_max,
)
from proxy.core.batches.objects import LineMistake
from proxy.core.calls.chat import TEMPLATE_TOKENS
from tests.core.batches.support import CHAT, MODEL, chat_body, line, shipped

MISSING, INVALID, NO_JSON = "missing_required_parameter", "invalid_request", "invalid_json_line"


def wrong(data, route=CHAT):
    """Return the mistake of a line, as code, param and message."""
    found = parse_line(data, 7, route)
    if isinstance(found, LineRequest):
        found = prepare_line(found, 7, BATCH_ENDPOINTS[route], shipped().terms)
    assert isinstance(found, LineMistake), data
    assert found.line == 7
    return found.code, found.param, found.message


def test_a_line_is_a_request_and_its_body_stays_as_it_was_written():
    data = b'{"url":"/v1/chat/completions", "custom_id":"a", "method":"POST","body": {"model" : "m",  "x":1.50},"n":[]}'
    assert parse_line(data, 1, CHAT) == LineRequest("a", b'{"model" : "m",  "x":1.50}')


@pytest.mark.parametrize("param", ["custom_id", "method", "url", "body"])
@pytest.mark.parametrize("value", [..., None], ids=["left out", "null"])
def test_each_member_is_required(param, value):
    expected = (MISSING, param, f"Missing required parameter: '{param}'.")
    if param == "body" and value is None:
        assert wrong(line(body=...).replace(b"}\n", b',"body":null}')) == expected
    else:
        assert wrong(line(**{param: value})) == expected


@pytest.mark.parametrize(
    ("data", "code", "param", "message"),
    [
        (b"{", NO_JSON, None, "This line is not valid JSON."),
        (b'{"custom_id": "\xff"}', NO_JSON, None, "This line is not valid JSON."),
        (b'\xef\xbb\xbf{"custom_id": "a"}', NO_JSON, None, "This line is not valid JSON."),
        (b"{}{}", NO_JSON, None, "This line is not valid JSON."),
        (b'{"more":' * 5000, NO_JSON, None, "This line is not valid JSON."),
        (b"[1]", NO_JSON, None, "This line is not a JSON object."),
        (b'"text"', NO_JSON, None, "This line is not a JSON object."),
        (line(3), INVALID, "custom_id", "Invalid parameter 'custom_id': must be a string."),
        (line(method="GET"), INVALID, "method", "Invalid parameter 'method': must be 'POST'."),
        (line(method=1), INVALID, "method", "Invalid parameter 'method': must be 'POST'."),
        (line(url=1), INVALID, "url", "Invalid parameter 'url': must be a string."),
        (line(body=[]), INVALID, "body", "Invalid parameter 'body': must be an object."),
        (line(body="{}"), INVALID, "body", "Invalid parameter 'body': must be an object."),
    ],
)
def test_what_is_no_request_is_said_to_be_none(data, code, param, message):
    assert wrong(data) == (code, param, message)


@pytest.mark.parametrize("custom_id", ["", "x" * (CUSTOM_ID_CHARS_MAX + 1)])
def test_a_custom_id_has_a_length(custom_id):
    assert wrong(line(custom_id))[:2] == (INVALID, "custom_id")
    assert isinstance(parse_line(line("x" * CUSTOM_ID_CHARS_MAX), 1, CHAT), LineRequest)


@pytest.mark.parametrize(
    "url", ["/v1/completions", "v1/chat/completions", f"https://a{CHAT}", "/v1/audio/translations"]
)
def test_a_url_is_the_endpoint_of_the_batch(url):
    message = f"The url '{url}' is not the endpoint of the batch, which is '{CHAT}'."
    assert wrong(line(url=url)) == ("url_mismatch", "url", message)


def test_a_long_text_of_the_customers_is_not_repeated_whole():
    assert len(wrong(line(url="/" + "x" * 5000))[2]) < 250


@pytest.mark.parametrize(
    ("body", "code", "param", "message"),
    [
        (chat_body(stream=True), INVALID, "body.stream", "Invalid parameter 'stream': must not be true in a batch."),
        (
            chat_body(temperature=3),
            INVALID,
            "body.temperature",
            "Invalid parameter 'temperature': must be between 0 and 2",
        ),
        ({"model": MODEL}, INVALID, "body.messages", "Invalid parameter 'messages': is required"),
        ({}, INVALID, "body.model", "Invalid parameter 'model': is required"),
        (
            chat_body() | {"model": "none"},
            "model_not_found",
            "body.model",
            "Model 'none' does not exist",
        ),
        (
            chat_body() | {"model": "granite-embedding:278m"},
            "model_not_found",
            "body.model",
            "Model 'granite-embedding:278m' does not exist",
        ),
    ],
)
def test_a_body_is_checked_as_the_same_call_is(body, code, param, message):
    assert wrong(line(body=body)) == (code, param, message)


def test_forms_are_in_no_batch():
    assert set(BATCH_ENDPOINTS) == {CHAT, "/v1/completions", "/v1/embeddings", "/v1/rerank", "/v2/rerank"}


def test_a_line_counts_all_that_it_can_use():
    request = parse_line(line(body=chat_body(max_tokens=50, n=2)), 1, CHAT)
    assert isinstance(request, LineRequest)
    call = prepare_line(request, 1, BATCH_ENDPOINTS[CHAT], shipped().terms)
    assert tokens_max(call) == len(request.body) + TEMPLATE_TOKENS + 2 * 50
