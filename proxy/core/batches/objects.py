"""Files and batches, as they are kept.

What belongs here: the values and their states. What does not: how a customer sees them (shown.py).

Times are Unix milliseconds. A batch is admitted when it is created: its month, its day, its tier and the prices of its
lines are those of that instant, whenever a line is run.
"""

from enum import StrEnum

import msgspec

from proxy.core.batches.usage import BatchUsage


class Purpose(StrEnum):
    """What a file is for."""

    BATCH = "batch"
    """Requests, a line each: uploaded by a customer."""
    BATCH_OUTPUT = "batch_output"
    """Results or errors of a batch: made by us."""


class BatchFile(msgspec.Struct, frozen=True):
    """A file of an account.

    Args:
        id: ``file-`` and 32 random hex digits: nobody guesses another's.
        account_id: whose.
        purpose: what it is for.
        filename: as its owner called it.
        size_bytes: how long it is.
        sha256: of its bytes, hex.
        stored_as: its name in the file store.
        created_ms: when it was whole.
        expires_ms: when it is deleted; None: when its owner does it.
    """

    id: str
    account_id: str
    purpose: Purpose
    filename: str
    size_bytes: int
    sha256: str
    stored_as: str
    created_ms: int
    expires_ms: int | None = None


class BatchStatus(StrEnum):
    """Where a batch is (OpenAI's names)."""

    VALIDATING = "validating"
    FAILED = "failed"
    """Its file was refused: no line was run."""
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    """Every line has been run, its files are being made."""
    COMPLETED = "completed"
    EXPIRED = "expired"
    """Its time was over; what was finished is in its files, and billed."""
    CANCELLING = "cancelling"
    """Its files are being made; no line begins any more."""
    CANCELLED = "cancelled"


ENDED = frozenset({BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})
"""Nothing happens to these any more."""


class LineMistake(msgspec.Struct, frozen=True):
    """Why a batch was refused.

    Args:
        code: machine-readable.
        message: for people.
        line: which line of the file, from 1; None: it is not about a line.
        param: which field of it; None: none.
    """

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Batch(msgspec.Struct, frozen=True):
    """A batch.

    Args:
        id: ``batch_`` and 32 random hex digits.
        account_id: who pays.
        key_id: which key created it.
        endpoint: the documented route of every line.
        model: canonical id of the model of every line; empty until the file has been validated.
        tier: the tier held at its creation.
        month: billing month of all its lines, ``YYYY-MM``.
        day: day of its creation in the account's time zone.
        input_file_id: its requests.
        status: where it is.
        created_ms: when it was created, and admitted.
        expires_ms: when it is given up.
        total: lines.
        completed: lines with a result.
        failed: lines with an error.
        enqueued_tokens: what it counts against the account's allowance until it has ended.
        metadata: up to 16 pairs of its owner.
        errors: why it was refused.
        output_file_id: results; None: none yet, or no line has one.
        error_file_id: errors; None: none yet, or no line has one.
        stamps: when it got to a status, by its name.
        usage: what its lines have used so far; None: none may have been run yet, or it is not known.
        output_expires_after_s: how long its owner wants its results to be kept; None: as long as any.
    """

    id: str
    account_id: str
    key_id: str
    endpoint: str
    model: str
    tier: str
    month: str
    day: str
    input_file_id: str
    status: BatchStatus
    created_ms: int
    expires_ms: int
    total: int = 0
    completed: int = 0
    failed: int = 0
    enqueued_tokens: int = 0
    metadata: dict[str, str] | None = None
    errors: tuple[LineMistake, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    stamps: dict[BatchStatus, int] = {}
    usage: BatchUsage | None = None
    output_expires_after_s: int | None = None


class Block(msgspec.Struct, frozen=True):
    """Lines of a batch that one worker runs: what is leased.

    Args:
        batch_id: of which batch.
        number: from 0.
        first_line: its first line, from 0.
        lines: how many.
        first_byte: where they begin in the input file.
        size_bytes: how long they are.
    """

    batch_id: str
    number: int
    first_line: int
    lines: int
    first_byte: int
    size_bytes: int


class LineStatus(StrEnum):
    """How a line ended: in the output file, or in the error file."""

    COMPLETED = "completed"
    FAILED = "failed"


class LineEnd(msgspec.Struct, frozen=True):
    """Where the result of a line lies.

    Args:
        line: from 0.
        status: how it ended.
        call_id: of its call, see ids.py.
        segment: name in the file store of the piece that it is in.
        first_byte: where it begins there.
        size_bytes: how long it is, its newline included.
    """

    line: int
    status: LineStatus
    call_id: str
    segment: str
    first_byte: int
    size_bytes: int
