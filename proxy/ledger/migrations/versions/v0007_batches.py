"""Async batches: files, batches, the blocks of lines that workers lease, and the lines that have ended."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _texts(*names: str, nullable: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=nullable) for name in names]


def _bigs(*names: str, nullable: bool = False) -> list[sa.Column[int]]:
    return [sa.Column(name, _BIG, nullable=nullable) for name in names]


def upgrade() -> None:
    """Create the tables."""
    _create_files()
    _create_batches()
    op.create_table(
        "batch_blocks",
        *_texts("batch_id"),
        *_bigs("number", "first_line", "lines", "first_byte", "size_bytes"),
        *_texts("holder", nullable=True),
        *_bigs("until_ms", nullable=True),
        *_bigs("attempts"),
        *_bigs("done_ms", nullable=True),
        *_texts("unsettled", nullable=True),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_batch_blocks_batch_id"),
        sa.PrimaryKeyConstraint("batch_id", "number", name="pk_batch_blocks"),
        sqlite_strict=True,
    )
    op.create_index("ix_batch_blocks_done_ms", "batch_blocks", ["done_ms", "until_ms"])
    op.create_table(
        "batch_lines",
        *_texts("batch_id"),
        *_bigs("line"),
        *_texts("status", "call_id", "segment"),
        *_bigs("first_byte", "size_bytes"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_batch_lines_batch_id"),
        sa.PrimaryKeyConstraint("batch_id", "line", name="pk_batch_lines"),
        sqlite_strict=True,
    )


def _create_files() -> None:
    op.create_table(
        "batch_files",
        *_texts("id", "account_id", "purpose", "filename"),
        *_bigs("size_bytes"),
        *_texts("sha256", "stored_as"),
        *_bigs("created_ms"),
        *_bigs("expires_ms", "deleted_ms", nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_batch_files_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_batch_files"),
        sqlite_strict=True,
    )
    op.create_index("ix_batch_files_account_id", "batch_files", ["account_id", "created_ms"])
    op.create_index("ix_batch_files_expires_ms", "batch_files", ["expires_ms"])


def _create_batches() -> None:
    op.create_table(
        "batches",
        *_texts("id", "account_id", "key_id", "endpoint", "model", "tier", "month", "day", "input_file_id", "status"),
        *_bigs("created_ms", "expires_ms", "total", "completed", "failed", "enqueued_tokens"),
        *_texts("metadata", "errors"),
        *_texts("output_file_id", "error_file_id", nullable=True),
        *_texts("stamps"),
        *_texts("holder", nullable=True),
        *_bigs("until_ms", nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_batches_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
        sqlite_strict=True,
    )
    op.create_index("ix_batches_account_id", "batches", ["account_id", "created_ms"])
    op.create_index("ix_batches_status", "batches", ["status"])
