"""Files and batches are shown as OpenAI documents them: the SDK's own types read every member."""

import json

from msgspec.structs import replace
from openai.types import Batch as SdkBatch
from openai.types import BatchUsage as SdkUsage
from openai.types import FileDeleted, FileObject

from proxy.core.batches.objects import Batch, BatchFile, BatchStatus, LineMistake, Purpose
from proxy.core.batches.shown import batch_shown, batches_shown, deletion_shown, file_shown, files_shown
from proxy.core.batches.usage import BatchUsage

BATCH = Batch(
    id="batch_1",
    account_id="acc_1",
    key_id="key_1",
    endpoint="/v1/embeddings",
    model="",
    tier="tier1",
    month="2026-11",
    day="2026-11-24",
    input_file_id="file-1",
    status=BatchStatus.VALIDATING,
    created_ms=1_790_000_000_999,
    expires_ms=1_790_086_400_999,
)
FILE = BatchFile("file-1", "acc_1", Purpose.BATCH, "in.jsonl", 12, "ab", "acc_1/file-1", 1_790_000_000_999)


def test_a_new_batch_has_every_member_and_nothing_of_ours():
    shown = json.loads(batch_shown(BATCH))
    assert shown == {
        "id": "batch_1",
        "object": "batch",
        "endpoint": "/v1/embeddings",
        "model": None,
        "errors": None,
        "input_file_id": "file-1",
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": 1_790_000_000,
        "in_progress_at": None,
        "expires_at": 1_790_086_400,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": None,
        "usage": None,
    }
    assert set(shown) == set(SdkBatch.model_fields)
    assert SdkBatch.model_validate(shown, strict=True).to_dict(mode="json") == shown


def test_every_status_has_its_instant():
    stamps = {status: 1_790_000_000_000 + place * 1000 for place, status in enumerate(BatchStatus)}
    shown = json.loads(batch_shown(replace(BATCH, stamps=stamps)))
    for place, status in enumerate(BatchStatus):
        if status is not BatchStatus.VALIDATING:
            assert shown[f"{status.value}_at"] == 1_790_000_000 + place


def test_a_refused_batch_says_which_line_and_why():
    mistakes = (LineMistake("invalid_json_line", "No.", 3), LineMistake("invalid_request", "Neither.", 4, "body.n"))
    shown = json.loads(batch_shown(replace(BATCH, status=BatchStatus.FAILED, errors=mistakes)))
    assert shown["errors"] == {
        "object": "list",
        "data": [
            {"code": "invalid_json_line", "line": 3, "message": "No.", "param": None},
            {"code": "invalid_request", "line": 4, "message": "Neither.", "param": "body.n"},
        ],
    }
    assert SdkBatch.model_validate(shown, strict=True).errors.data[1].param == "body.n"


def test_counts_metadata_and_files_are_shown():
    batch = replace(
        BATCH,
        total=5,
        completed=3,
        failed=2,
        metadata={"a": "é"},
        output_file_id="file-2",
        error_file_id="file-3",
        model="m",
    )
    shown = json.loads(batch_shown(batch))
    assert shown["request_counts"] == {"total": 5, "completed": 3, "failed": 2}
    assert (shown["metadata"], shown["model"]) == ({"a": "é"}, "m")
    assert (shown["output_file_id"], shown["error_file_id"]) == ("file-2", "file-3")


def test_usage_is_told_in_full_as_soon_as_there_can_be_some():
    shown = json.loads(batch_shown(replace(BATCH, usage=BatchUsage(120, 20, 43, 40))))
    assert shown["usage"] == {
        "input_tokens": 120,
        "input_tokens_details": {"cached_tokens": 20},
        "output_tokens": 43,
        "output_tokens_details": {"reasoning_tokens": 40},
        "total_tokens": 163,
    }
    read = SdkBatch.model_validate(shown, strict=True)
    assert isinstance(read.usage, SdkUsage)
    assert read.to_dict(mode="json") == shown
    none = json.loads(batch_shown(replace(BATCH, usage=BatchUsage())))["usage"]
    assert (none["total_tokens"], set(none)) == (0, set(SdkUsage.model_fields))


def test_a_file_has_every_member_and_nothing_of_ours():
    shown = json.loads(file_shown(FILE))
    assert shown == {
        "id": "file-1",
        "object": "file",
        "bytes": 12,
        "created_at": 1_790_000_000,
        "expires_at": None,
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    assert set(shown) == set(FileObject.model_fields)
    assert FileObject.model_validate(shown, strict=True).to_dict(mode="json") == shown
    assert json.loads(file_shown(replace(FILE, expires_ms=1_790_000_001_000)))["expires_at"] == 1_790_000_001


def test_a_page_names_its_ends():
    page = json.loads(batches_shown([BATCH, replace(BATCH, id="batch_2")], has_more=True))
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", "batch_1", "batch_2", True)
    assert [each["id"] for each in page["data"]] == ["batch_1", "batch_2"]
    empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert json.loads(files_shown([], has_more=False)) == empty


def test_a_deletion_is_told():
    shown = json.loads(deletion_shown("file-1"))
    assert shown == {"id": "file-1", "object": "file", "deleted": True}
    FileDeleted.model_validate(shown, strict=True)
