"""Tiers that accounts will hold from their next month on, beside those that they hold; and time zones stay."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_GIVES_UP = (
    "OLD.dropped_ms IS NULL AND NEW.dropped_ms IS NOT NULL AND NEW.dropped_by IS NOT NULL "
    "AND NEW.account_id = OLD.account_id AND NEW.effective_ms = OLD.effective_ms AND NEW.tier = OLD.tier "
    "AND NEW.changed_by = OLD.changed_by AND NEW.decided_ms = OLD.decided_ms"
)


def upgrade() -> None:
    """Let each row say when it was decided and whether it was given up, and more than one be for an instant."""
    op.add_column("accounts", sa.Column("next_tier", sa.Text(), nullable=True))
    op.add_column("accounts", sa.Column("next_tier_ms", _BIG, nullable=True))
    # Another primary key: SQLite makes the table anew for it, and so does this step on both engines.
    op.execute("CREATE TABLE account_tiers_before AS SELECT * FROM account_tiers")
    op.drop_table("account_tiers")
    op.create_table(
        "account_tiers",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("effective_ms", _BIG, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("tier", "changed_by")),
        sa.Column("decided_ms", _BIG, nullable=False),
        sa.Column("dropped_ms", _BIG, nullable=True),
        sa.Column("dropped_by", sa.Text(), nullable=True),
        sa.CheckConstraint("dropped_ms < effective_ms", name=op.f("ck_account_tiers_dropped_before")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_account_tiers_account_id"),
        sa.PrimaryKeyConstraint("account_id", "effective_ms", "decided_ms", name="pk_account_tiers"),
        sqlite_strict=True,
    )
    standing = sa.text("dropped_ms IS NULL")
    op.create_index(
        "uq_account_tiers_standing",
        "account_tiers",
        ["account_id", "effective_ms"],
        unique=True,
        postgresql_where=standing,
        sqlite_where=standing,
    )
    op.execute(
        "INSERT INTO account_tiers (account_id, effective_ms, tier, changed_by, decided_ms) "
        "SELECT account_id, effective_ms, tier, changed_by, effective_ms FROM account_tiers_before"
    )
    op.drop_table("account_tiers_before")
    _guard(op.get_bind())


def _guard(connection: sa.Connection) -> None:
    """Let the database itself refuse every change of a row but giving a planned one up, and of a time zone."""
    if connection.dialect.name == "postgresql":
        for verb, how in (("UPDATE", f"ROW WHEN (NOT ({_GIVES_UP}))"), ("DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
            connection.exec_driver_sql(
                f"CREATE TRIGGER account_tiers_no_{verb.lower()} BEFORE {verb} ON account_tiers "
                f"FOR EACH {how} EXECUTE FUNCTION tollgate_refuse_change()"
            )
        connection.exec_driver_sql(
            "CREATE FUNCTION tollgate_refuse_timezone() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"RAISE EXCEPTION '{_ZONE_STAYS}' USING ERRCODE = 'restrict_violation'; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER accounts_no_timezone BEFORE UPDATE ON accounts FOR EACH ROW "
            "WHEN (NEW.timezone <> OLD.timezone) EXECUTE FUNCTION tollgate_refuse_timezone()"
        )
        return
    for verb, when in (("UPDATE", f"WHEN NOT ({_GIVES_UP})"), ("DELETE", "")):
        connection.exec_driver_sql(
            f"CREATE TRIGGER account_tiers_no_{verb.lower()} BEFORE {verb} ON account_tiers {when} BEGIN "
            "SELECT RAISE(ABORT, 'tollgate: rows of account_tiers are never changed or removed'); END"
        )
    connection.exec_driver_sql(
        "CREATE TRIGGER accounts_no_timezone BEFORE UPDATE ON accounts WHEN NEW.timezone <> OLD.timezone BEGIN "
        f"SELECT RAISE(ABORT, '{_ZONE_STAYS}'); END"
    )


_ZONE_STAYS = "tollgate: the time zone of an account is never changed: its months are named in it"
