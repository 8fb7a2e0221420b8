"""The ledger's tables of async batches.

What belongs here: tables, keys and indexes, as in schema.py, whose rules hold here too. What does not: statements
(batches/), and the bytes of files (files/).
"""

from typing import Final

from sqlalchemy import Column, ForeignKey, Index, PrimaryKeyConstraint, Table, Text

from proxy.core.batches.usage import BatchUsage
from proxy.ledger.schema import big_column, metadata, text_column

batch_files: Final = Table(
    "batch_files",
    metadata,
    Column("id", Text(), primary_key=True),
    Column("account_id", Text(), ForeignKey("accounts.id"), nullable=False),
    text_column("purpose"),
    text_column("filename"),
    big_column("size_bytes"),
    text_column("sha256"),
    text_column("stored_as"),
    big_column("created_ms"),
    big_column("expires_ms", nullable=True),
    big_column("deleted_ms", nullable=True),
    Index("ix_batch_files_account_id", "account_id", "created_ms"),
    Index("ix_batch_files_expires_ms", "expires_ms"),
    sqlite_strict=True,
)
"""Files of accounts. ``deleted_ms`` is set first; its row goes when its bytes are gone."""

batches: Final = Table(
    "batches",
    metadata,
    Column("id", Text(), primary_key=True),
    Column("account_id", Text(), ForeignKey("accounts.id"), nullable=False),
    *(text_column(name) for name in ("key_id", "endpoint", "model", "tier", "month", "day", "input_file_id", "status")),
    big_column("created_ms"),
    big_column("expires_ms"),
    *(big_column(name) for name in ("total", "completed", "failed", "enqueued_tokens")),
    text_column("metadata"),
    text_column("errors"),
    text_column("output_file_id", nullable=True),
    text_column("error_file_id", nullable=True),
    text_column("stamps"),
    text_column("holder", nullable=True),
    big_column("until_ms", nullable=True),
    *(big_column(name, nullable=True) for name in BatchUsage.__struct_fields__),
    big_column("output_expires_after_s", nullable=True),
    Index("ix_batches_account_id", "account_id", "created_ms"),
    Index("ix_batches_status", "status"),
    sqlite_strict=True,
)
"""Batches. ``metadata``, ``errors`` and ``stamps`` are JSON. ``holder`` and ``until_ms`` are the lease of who validates
its file, or makes its files at its end. Tokens are NULL until its lines may be run; and for ever, where lines were run
before they were counted: an unknown number stays unknown when another is added to it."""

batch_blocks: Final = Table(
    "batch_blocks",
    metadata,
    Column("batch_id", Text(), ForeignKey("batches.id"), nullable=False),
    *(big_column(name) for name in ("number", "first_line", "lines", "first_byte", "size_bytes")),
    text_column("holder", nullable=True),
    big_column("until_ms", nullable=True),
    big_column("attempts"),
    big_column("done_ms", nullable=True),
    text_column("unsettled", nullable=True),
    PrimaryKeyConstraint("batch_id", "number"),
    Index("ix_batch_blocks_done_ms", "done_ms", "until_ms"),
    sqlite_strict=True,
)
"""Lines that one worker runs. ``done_ms`` NULL: some of them have no result yet. ``unsettled`` names the segment whose
lines have ended though the limiter may not know it yet."""

batch_lines: Final = Table(
    "batch_lines",
    metadata,
    Column("batch_id", Text(), ForeignKey("batches.id"), nullable=False),
    big_column("line"),
    text_column("status"),
    text_column("call_id"),
    text_column("segment"),
    big_column("first_byte"),
    big_column("size_bytes"),
    PrimaryKeyConstraint("batch_id", "line"),
    sqlite_strict=True,
)
"""Lines that have ended, and where their result lies: made in the transaction that takes their entries."""
