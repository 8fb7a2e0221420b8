"""The ledger's first schema.

There is no way back from here: a ledger is never dropped by a program.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_FLAG = sa.Boolean().with_variant(sa.Integer(), "sqlite")
_TYPES = ("input", "cached_input", "output", "reasoning", "rerank", "audio_minutes")


def upgrade() -> None:
    """Create every table, and the one row of ``directory_changes``."""
    _create_accounts()
    _create_entries()
    _create_rollups()


def _text(*names: str, nullable: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=nullable) for name in names]


def _big(*names: str, nullable: bool = False) -> list[sa.Column[int]]:
    return [sa.Column(name, _BIG, nullable=nullable) for name in names]


def _create_accounts() -> None:
    op.create_table(
        "accounts",
        *_text("id", "name", "tier", "timezone"),
        *_big("created_ms"),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"),
        sa.UniqueConstraint("name", name="uq_accounts_name"),
        sqlite_strict=True,
    )
    op.create_table(
        "account_tiers",
        *_text("account_id"),
        *_big("effective_ms"),
        *_text("tier", "changed_by"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_account_tiers_account_id"),
        sa.PrimaryKeyConstraint("account_id", "effective_ms", name="pk_account_tiers"),
        sqlite_strict=True,
    )
    op.create_table(
        "keys",
        *_text("id", "account_id", "digest"),
        *_big("created_ms"),
        *_big("expires_ms", "revoked_ms", nullable=True),
        *_text("rotated_from", nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_keys_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("digest", name="uq_keys_digest"),
        sqlite_strict=True,
    )
    op.create_index("ix_keys_account_id", "keys", ["account_id"])
    changes = op.create_table(
        "directory_changes",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        *_big("version"),
        sa.CheckConstraint("id = 1", name=op.f("ck_directory_changes_one_row")),
        sa.PrimaryKeyConstraint("id", name="pk_directory_changes"),
        sqlite_strict=True,
    )
    op.execute(sa.insert(changes).values(id=1, version=0))
    op.create_table(
        "credit_lots",
        *_text("id", "account_id", "reference"),
        *_big("amount_pico", "bought_ms"),
        *_big("expires_ms", nullable=True),
        sa.CheckConstraint("amount_pico > 0", name=op.f("ck_credit_lots_positive")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_credit_lots_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_credit_lots"),
        sa.UniqueConstraint("reference", name="uq_credit_lots_reference"),
        sqlite_strict=True,
    )
    op.create_index("ix_credit_lots_account_id", "credit_lots", ["account_id"])


def _create_entries() -> None:
    op.create_table(
        "entries",
        *_text("account_id", "month", "call_id", "day", "key_id", "tier", "endpoint", "model", "tariff_class"),
        *_text("outcome"),
        *_big("admitted_ms", "settled_ms"),
        *_text("upstream"),
        sa.Column("streamed", _FLAG, nullable=False),
        sa.Column("estimated", _FLAG, nullable=False),
        *_text("sources", "price_version"),
        *_big("cost_pico"),
        *_big(*(f"{usage_type}_quantity" for usage_type in _TYPES)),
        *_big(*(f"{usage_type}_cost_pico" for usage_type in _TYPES)),
        sa.PrimaryKeyConstraint("account_id", "month", "call_id", name="pk_entries"),
        sqlite_strict=True,
    )
    op.create_index("ix_entries_account_settled", "entries", ["account_id", "settled_ms"])
    op.create_table(
        "price_versions",
        *_text("id"),
        *_big("effective_from_ms"),
        *_text("prices"),
        *_big("recorded_ms"),
        sa.PrimaryKeyConstraint("id", name="pk_price_versions"),
        sqlite_strict=True,
    )


def _create_rollups() -> None:
    for name, period in (("daily", "day"), ("monthly", "month")):
        key = ("account_id", period, "model", "usage_type", "tariff_class", "price_version")
        op.create_table(
            f"rollups_{name}",
            *_text(*key),
            *_big("quantity", "cost_pico", "calls"),
            sa.PrimaryKeyConstraint(*key, name=f"pk_rollups_{name}"),
            sqlite_strict=True,
        )
        calls_key = ("account_id", period, "model", "tariff_class")
        op.create_table(
            f"calls_{name}",
            *_text(*calls_key),
            *_big("calls"),
            sa.PrimaryKeyConstraint(*calls_key, name=f"pk_calls_{name}"),
            sqlite_strict=True,
        )
