"""The ledger's tables of what follows from entries and is kept: the chain that seals them, buyers, and invoices.

What belongs here: tables, keys and indexes, as in schema.py, whose rules hold here too. What does not: statements.

Nothing here is ever changed but the counters (``chain_heads``, ``invoice_series``): triggers refuse it (schema.py).
"""

from typing import Final

from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from proxy.ledger.schema import BIG, FLAG, big_column, metadata, text_column

chain_links: Final = Table(
    "chain_links",
    metadata,
    text_column("account_id"),
    text_column("month"),
    big_column("link"),
    big_column("entries"),
    Column("leaves", LargeBinary(), nullable=False),
    text_column("head"),
    big_column("sealed_ms"),
    PrimaryKeyConstraint("account_id", "month", "link"),
    sqlite_strict=True,
)
"""One row for each commit that brought an account entries of a month: ``link`` counts them from 1, ``entries`` says how
many, ``leaves`` tells them apart and ``head`` seals them and everything before (core/chain.py)."""

chain_heads: Final = Table(
    "chain_heads",
    metadata,
    text_column("account_id"),
    text_column("month"),
    big_column("link"),
    text_column("head"),
    PrimaryKeyConstraint("account_id", "month"),
    sqlite_strict=True,
)
"""The last link of each month's chain: what the next commit locks."""

account_buyers: Final = Table(
    "account_buyers",
    metadata,
    Column("account_id", Text(), ForeignKey("accounts.id"), nullable=False),
    big_column("set_ms"),
    text_column("buyer"),
    text_column("set_by"),
    PrimaryKeyConstraint("account_id", "set_ms"),
    sqlite_strict=True,
)
"""Append-only: who an account's documents are made out to from ``set_ms`` on (JSON of core.parties.Buyer)."""

invoice_series: Final = Table(
    "invoice_series",
    metadata,
    text_column("series"),
    Column("year", Integer(), nullable=False),
    big_column("last"),
    text_column("last_date"),
    PrimaryKeyConstraint("series", "year"),
    sqlite_strict=True,
)
"""The last number that was taken, and the date of its document: the row that the issuing transaction locks."""

invoices: Final = Table(
    "invoices",
    metadata,
    Column("id", Text(), primary_key=True),
    text_column("number"),
    text_column("series"),
    Column("year", Integer(), nullable=False),
    big_column("sequence"),
    text_column("kind"),
    Column("account_id", Text(), ForeignKey("accounts.id"), nullable=False),
    text_column("month"),
    text_column("lot_id"),
    text_column("corrects"),
    Column("cancels", FLAG, nullable=False, server_default=false()),
    text_column("issue_date"),
    big_column("issued_ms"),
    text_column("issued_by"),
    *(big_column(name) for name in ("net_cents", "vat_cents", "gross_cents", "due_cents")),
    text_column("document"),
    text_column("document_sha256"),
    Column("xml", LargeBinary(), nullable=False),
    text_column("xml_sha256"),
    Column("pdf", LargeBinary(), nullable=False),
    text_column("pdf_sha256"),
    UniqueConstraint("number"),
    UniqueConstraint("series", "year", "sequence"),
    Index("ix_invoices_account_id", "account_id", "month"),
    Index("ix_invoices_month", "month"),
    Index("ix_invoices_corrects", "corrects"),
    sqlite_strict=True,
)
"""Documents as they were issued, byte for byte. ``corrects`` is the number of the document that a credit note corrects,
``lot_id`` the lot of a deposit invoice; empty otherwise. ``document`` is the JSON of core.invoicing.document.Invoice.
"""

invoice_covers: Final = Table(
    "invoice_covers",
    metadata,
    Column("invoice_id", Text(), ForeignKey("invoices.id"), nullable=False),
    text_column("account_id"),
    text_column("month"),
    Column("after_link", BIG, nullable=False),
    Column("link", BIG, nullable=False),
    PrimaryKeyConstraint("invoice_id", "month"),
    Index("ix_invoice_covers_account_id", "account_id", "month"),
    sqlite_strict=True,
)
"""Which links of which months' chains an invoice covers: after one, up to another. An invoice that was cancelled by a
credit note covers nothing any more."""

invoice_draws: Final = Table(
    "invoice_draws",
    metadata,
    Column("invoice_id", Text(), ForeignKey("invoices.id"), nullable=False),
    text_column("account_id"),
    text_column("lot_id"),
    big_column("drawn_cents"),
    PrimaryKeyConstraint("invoice_id", "lot_id"),
    Index("ix_invoice_draws_account_id", "account_id"),
    sqlite_strict=True,
)
"""What a document has used of which lot of credit; negative where a credit note gives it back."""
