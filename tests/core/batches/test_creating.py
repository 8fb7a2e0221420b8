"""What is asked for when a batch is created is checked, parameter by parameter."""

import json

import pytest

from proxy.core.batches.creating import WantedBatch, wanted_batch
from proxy.core.errors import ApiError

SOUND = {"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h"}
TOO_MANY = {str(number): "" for number in range(17)}


def test_what_is_documented_is_taken_and_the_rest_passed_over():
    metadata = {"k" * 64: "v" * 512}
    body = json.dumps(SOUND | {"metadata": metadata, "colour": "red"}).encode()
    assert wanted_batch(body) == WantedBatch("file-1", "/v1/embeddings", "24h", metadata)
    assert wanted_batch(json.dumps(SOUND | {"metadata": None}).encode()).metadata is None


@pytest.mark.parametrize("seconds", [3600, 2_592_000])
def test_results_may_be_wanted_for_a_while(seconds):
    wanted = {"output_expires_after": {"anchor": "created_at", "seconds": seconds}}
    assert wanted_batch(json.dumps(SOUND | wanted).encode()).output_expires_after_s == seconds
    for unsaid in ({}, {"output_expires_after": None}):
        assert wanted_batch(json.dumps(SOUND | unsaid).encode()).output_expires_after_s is None


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("input_file_id", ""),
        ("input_file_id", 1),
        ("endpoint", "/v1/responses"),
        ("endpoint", "/v1/audio/transcriptions"),
        ("endpoint", None),
        ("completion_window", "1h"),
        ("completion_window", 24),
        ("metadata", []),
        ("metadata", {"a": 1}),
        ("metadata", {"a": {}}),
        ("metadata", {"k" * 65: ""}),
        ("metadata", {"a": "v" * 513}),
        ("metadata", TOO_MANY),
        ("output_expires_after", 3600),
        ("output_expires_after", {}),
        ("output_expires_after", {"seconds": 3600}),
        ("output_expires_after", {"anchor": "created_at"}),
        ("output_expires_after", {"anchor": "completed_at", "seconds": 3600}),
        ("output_expires_after", {"anchor": ["created_at"], "seconds": 3600}),
        ("output_expires_after", {"anchor": "created_at", "seconds": 3599}),
        ("output_expires_after", {"anchor": "created_at", "seconds": 2_592_001}),
        ("output_expires_after", {"anchor": "created_at", "seconds": "3600"}),
    ],
)
def test_a_wrong_parameter_is_named(param, value):
    with pytest.raises(ApiError) as refused:
        wanted_batch(json.dumps(SOUND | {param: value}).encode())
    assert (refused.value.status, refused.value.type, refused.value.param) == (400, "invalid_request_error", param)
    assert str(refused.value).startswith(f"Invalid parameter '{param}': ")


@pytest.mark.parametrize("param", list(SOUND))
def test_a_missing_parameter_is_named(param):
    body = {name: value for name, value in SOUND.items() if name != param}
    with pytest.raises(ApiError) as refused:
        wanted_batch(json.dumps(body).encode())
    assert (refused.value.param, str(refused.value)) == (param, f"Invalid parameter '{param}': is required")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null"])
def test_what_is_no_object_is_refused(body):
    with pytest.raises(ApiError) as refused:
        wanted_batch(body)
    assert refused.value.status == 400
