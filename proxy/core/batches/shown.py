"""Files and batches as a customer sees them (OpenAI's API reference, Files and Batch). Pure.

What belongs here: the shapes and their values: every documented member is there, null where it has no value; instants
are whole Unix seconds. What does not: who may see them.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from proxy.core.batches.objects import Batch, BatchFile, BatchStatus
from proxy.core.batches.usage import BatchUsage

COMPLETION_WINDOW: Final = "24h"
WINDOW_MS: Final = 86_400_000

T = TypeVar("T", Batch, BatchFile)


class ShownFile(msgspec.Struct, frozen=True):
    """A file."""

    id: str
    object: str
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str = "processed"
    status_details: str | None = None


class ShownMistake(msgspec.Struct, frozen=True):
    """Why a batch was refused."""

    code: str
    line: int | None
    message: str
    param: str | None


class ShownMistakes(msgspec.Struct, frozen=True):
    """All of them."""

    object: str
    data: tuple[ShownMistake, ...]


class ShownCounts(msgspec.Struct, frozen=True):
    """How many of its lines have ended, and how."""

    total: int
    completed: int
    failed: int


class ShownInputDetails(msgspec.Struct, frozen=True):
    """Of input tokens, those that were found in a cache."""

    cached_tokens: int


class ShownOutputDetails(msgspec.Struct, frozen=True):
    """Of output tokens, those of reasoning."""

    reasoning_tokens: int


class ShownUsage(msgspec.Struct, frozen=True):
    """What its lines have used so far, in tokens."""

    input_tokens: int
    input_tokens_details: ShownInputDetails
    output_tokens: int
    output_tokens_details: ShownOutputDetails
    total_tokens: int


class ShownBatch(msgspec.Struct, frozen=True):
    """A batch."""

    id: str
    object: str
    endpoint: str
    model: str | None
    errors: ShownMistakes | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: ShownCounts
    metadata: dict[str, str] | None
    usage: ShownUsage | None


class ShownDeletion(msgspec.Struct, frozen=True):
    """What is left of a file."""

    id: str
    object: str = "file"
    deleted: bool = True


def file_shown(file: BatchFile) -> bytes:
    """Return a file as JSON."""
    return msgspec.json.encode(_file(file))


def batch_shown(batch: Batch) -> bytes:
    """Return a batch as JSON."""
    return msgspec.json.encode(_batch(batch))


def deletion_shown(file_id: str) -> bytes:
    """Return what is told of a file that has been deleted, as JSON."""
    return msgspec.json.encode(ShownDeletion(file_id))


def files_shown(files: Sequence[BatchFile], *, has_more: bool) -> bytes:
    """Return a page of files as JSON."""
    return _list(files, _file, has_more=has_more)


def batches_shown(batches: Sequence[Batch], *, has_more: bool) -> bytes:
    """Return a page of batches as JSON."""
    return _list(batches, _batch, has_more=has_more)


def _list(items: Sequence[T], shape: Callable[[T], msgspec.Struct], *, has_more: bool) -> bytes:
    shown = {
        "object": "list",
        "data": [shape(item) for item in items],
        "first_id": items[0].id if items else None,
        "last_id": items[-1].id if items else None,
        "has_more": has_more,
    }
    return msgspec.json.encode(shown)


def _file(file: BatchFile) -> ShownFile:
    expires_at = None if file.expires_ms is None else file.expires_ms // 1000
    return ShownFile(
        file.id, "file", file.size_bytes, file.created_ms // 1000, expires_at, file.filename, file.purpose.value
    )


def _batch(batch: Batch) -> ShownBatch:
    def at(status: BatchStatus) -> int | None:
        stamp = batch.stamps.get(status)
        return None if stamp is None else stamp // 1000

    mistakes = tuple(ShownMistake(each.code, each.line, each.message, each.param) for each in batch.errors)
    return ShownBatch(
        id=batch.id,
        object="batch",
        endpoint=batch.endpoint,
        model=batch.model or None,
        errors=ShownMistakes("list", mistakes) if mistakes else None,
        input_file_id=batch.input_file_id,
        completion_window=COMPLETION_WINDOW,
        status=batch.status.value,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        created_at=batch.created_ms // 1000,
        in_progress_at=at(BatchStatus.IN_PROGRESS),
        expires_at=batch.expires_ms // 1000,
        finalizing_at=at(BatchStatus.FINALIZING),
        completed_at=at(BatchStatus.COMPLETED),
        failed_at=at(BatchStatus.FAILED),
        expired_at=at(BatchStatus.EXPIRED),
        cancelling_at=at(BatchStatus.CANCELLING),
        cancelled_at=at(BatchStatus.CANCELLED),
        request_counts=ShownCounts(batch.total, batch.completed, batch.failed),
        metadata=batch.metadata,
        usage=None if batch.usage is None else _usage(batch.usage),
    )


def _usage(usage: BatchUsage) -> ShownUsage:
    return ShownUsage(
        usage.input_tokens,
        ShownInputDetails(usage.cached_tokens),
        usage.output_tokens,
        ShownOutputDetails(usage.reasoning_tokens),
        usage.total_tokens,
    )
