"""Credit that is drawn down, and the events that tell of it.

References of purchases become each account's own; accounts learn what they have paid and whether they may go beyond it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_FLAG = sa.Boolean().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Alter accounts and lots, and create the tables of events."""
    op.add_column("accounts", sa.Column("prepaid_only", _FLAG, nullable=False, server_default=sa.false()))
    op.add_column("accounts", sa.Column("credit_paid_pico", _BIG, nullable=False, server_default="0"))
    _sum_up()
    _alter_lots()
    op.create_index("ix_rollups_monthly_month", "rollups_monthly", ["month"])
    _create_events()


def _sum_up() -> None:
    connection = op.get_bind()
    paid: dict[str, int] = {}
    for account_id, amount_pico in connection.execute(sa.text("SELECT account_id, amount_pico FROM credit_lots")):
        paid[account_id] = paid.get(account_id, 0) + amount_pico
    for account_id, sum_pico in paid.items():
        connection.execute(
            sa.text("UPDATE accounts SET credit_paid_pico = :sum WHERE id = :id"), {"sum": sum_pico, "id": account_id}
        )


def _alter_lots() -> None:
    """Make the table anew: SQLite cannot drop a constraint, and nothing refers to it."""
    op.drop_index("ix_credit_lots_account_id", "credit_lots")
    op.rename_table("credit_lots", "credit_lots_before")
    if op.get_bind().dialect.name == "postgresql":  # where a constraint's name is a relation's
        op.execute("ALTER TABLE credit_lots_before DROP CONSTRAINT pk_credit_lots")
    op.create_table(
        "credit_lots",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "account_id", "reference")),
        *(sa.Column(name, _BIG, nullable=False) for name in ("amount_pico", "bought_ms")),
        sa.Column("expires_ms", _BIG, nullable=True),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("note", "added_by")),
        sa.CheckConstraint("amount_pico > 0", name=op.f("ck_credit_lots_positive")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_credit_lots_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_credit_lots"),
        sa.UniqueConstraint("account_id", "reference", name="uq_credit_lots_account_id"),
        sqlite_strict=True,
    )
    columns = "id, account_id, reference, amount_pico, bought_ms, expires_ms"
    op.execute(
        f"INSERT INTO credit_lots ({columns}, note, added_by) "  # noqa: S608 - names of our own schema
        f"SELECT {columns}, '', '' FROM credit_lots_before"
    )
    op.drop_table("credit_lots_before")
    op.create_index("ix_credit_lots_expires_ms", "credit_lots", ["expires_ms"])


def _create_events() -> None:
    op.create_table(
        "events",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "account_id", "kind", "subject")),
        sa.Column("threshold", sa.Integer(), nullable=False),
        sa.Column("recorded_ms", _BIG, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        *(sa.Column(name, _BIG, nullable=True) for name in ("next_attempt_ms", "acknowledged_ms")),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.UniqueConstraint("account_id", "kind", "subject", "threshold", name="uq_events_account_id"),
        sqlite_strict=True,
    )
    op.create_index("ix_events_next_attempt_ms", "events", ["next_attempt_ms"])
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("until_ms", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
        sqlite_strict=True,
    )
