"""What finance needs: the chain that seals entries, buyers, and invoices with their numbers."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_FLAG = sa.Boolean().with_variant(sa.Integer(), "sqlite")


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _bigs(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, _BIG, nullable=False) for name in names]


def upgrade() -> None:
    """Add the tables, and to each entry the link that seals it."""
    op.add_column("entries", sa.Column("link", _BIG, nullable=False, server_default="0"))
    _create_chain()
    op.create_table(
        "account_buyers",
        *_texts("account_id"),
        *_bigs("set_ms"),
        *_texts("buyer", "set_by"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_account_buyers_account_id"),
        sa.PrimaryKeyConstraint("account_id", "set_ms", name="pk_account_buyers"),
        sqlite_strict=True,
    )
    _create_invoices()
    _create_parts_of_invoices()


def _create_chain() -> None:
    op.create_table(
        "chain_links",
        *_texts("account_id", "month"),
        *_bigs("link", "entries"),
        sa.Column("leaves", sa.LargeBinary(), nullable=False),
        *_texts("head"),
        *_bigs("sealed_ms"),
        sa.PrimaryKeyConstraint("account_id", "month", "link", name="pk_chain_links"),
        sqlite_strict=True,
    )
    op.create_table(
        "chain_heads",
        *_texts("account_id", "month"),
        *_bigs("link"),
        *_texts("head"),
        sa.PrimaryKeyConstraint("account_id", "month", name="pk_chain_heads"),
        sqlite_strict=True,
    )


def _create_invoices() -> None:
    op.create_table(
        "invoice_series",
        *_texts("series"),
        sa.Column("year", sa.Integer(), nullable=False),
        *_bigs("last"),
        *_texts("last_date"),
        sa.PrimaryKeyConstraint("series", "year", name="pk_invoice_series"),
        sqlite_strict=True,
    )
    op.create_table(
        "invoices",
        *_texts("id", "number", "series"),
        sa.Column("year", sa.Integer(), nullable=False),
        *_bigs("sequence"),
        *_texts("kind", "account_id", "month", "lot_id", "corrects"),
        sa.Column("cancels", _FLAG, nullable=False, server_default=sa.false()),
        *_texts("issue_date"),
        *_bigs("issued_ms"),
        *_texts("issued_by"),
        *_bigs("net_cents", "vat_cents", "gross_cents", "due_cents"),
        *_texts("document", "document_sha256"),
        sa.Column("xml", sa.LargeBinary(), nullable=False),
        *_texts("xml_sha256"),
        sa.Column("pdf", sa.LargeBinary(), nullable=False),
        *_texts("pdf_sha256"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_invoices_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_invoices"),
        sa.UniqueConstraint("number", name="uq_invoices_number"),
        sa.UniqueConstraint("series", "year", "sequence", name="uq_invoices_series"),
        sqlite_strict=True,
    )
    op.create_index("ix_invoices_account_id", "invoices", ["account_id", "month"])
    op.create_index("ix_invoices_month", "invoices", ["month"])
    op.create_index("ix_invoices_corrects", "invoices", ["corrects"])


def _create_parts_of_invoices() -> None:
    op.create_table(
        "invoice_covers",
        *_texts("invoice_id", "account_id", "month"),
        *_bigs("after_link", "link"),
        sa.ForeignKeyConstraint(["invoice_id"], ["invoices.id"], name="fk_invoice_covers_invoice_id"),
        sa.PrimaryKeyConstraint("invoice_id", "month", name="pk_invoice_covers"),
        sqlite_strict=True,
    )
    op.create_index("ix_invoice_covers_account_id", "invoice_covers", ["account_id", "month"])
    op.create_table(
        "invoice_draws",
        *_texts("invoice_id", "account_id", "lot_id"),
        *_bigs("drawn_cents"),
        sa.ForeignKeyConstraint(["invoice_id"], ["invoices.id"], name="fk_invoice_draws_invoice_id"),
        sa.PrimaryKeyConstraint("invoice_id", "lot_id", name="pk_invoice_draws"),
        sqlite_strict=True,
    )
    op.create_index("ix_invoice_draws_account_id", "invoice_draws", ["account_id"])
