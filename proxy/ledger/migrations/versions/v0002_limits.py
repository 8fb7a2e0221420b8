"""Limits of keys, and overrides of the limits of accounts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NUMBERS = (
    "output_tokens_hour",
    "output_tokens_day",
    "requests",
    "requests_window_s",
    "monthly_limit_pico",
    "calls_in_flight",
)


def upgrade() -> None:
    """Add the columns and the table."""
    op.add_column("keys", sa.Column("limits_scope", sa.Text(), nullable=True))
    for name in _NUMBERS:
        op.add_column("keys", sa.Column(name, _BIG, nullable=True))
    op.create_table(
        "limit_overrides",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "account_id", "limit_name")),
        sa.Column("amount", _BIG, nullable=True),
        *(sa.Column(name, _BIG, nullable=False) for name in ("set_ms", "ends_ms")),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("why", "set_by")),
        sa.Column("dropped_ms", _BIG, nullable=True),
        sa.Column("dropped_by", sa.Text(), nullable=True),
        sa.CheckConstraint("amount > 0", name=op.f("ck_limit_overrides_positive")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_limit_overrides_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_limit_overrides"),
        sqlite_strict=True,
    )
    op.create_index("ix_limit_overrides_account_id", "limit_overrides", ["account_id"])
