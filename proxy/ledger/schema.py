"""The ledger's tables, one definition for SQLite and PostgreSQL.

What belongs here: tables, keys and indexes. What does not: how they came to be (migrations/) and statements
(store.py, directory.py, accounts.py). A change here needs a migration; a test holds the two equal on both
engines.

- Money is BIGINT pico-euros, 9.2 million euros at most. Sums over rows are made in Python: ``sum(bigint)`` is
  numeric in PostgreSQL and overflows in SQLite.
- SQLite tables are STRICT: there an integer that overflows would otherwise become a float in silence.
- Every key of what grows with calls starts with the account and its period, so that it can be partitioned or
  spread.
- Times are Unix milliseconds (``*_ms``); days and months are text in the account's time zone.
- Triggers guard the rows of what is never changed. A migration alone makes them (v0005), and no inspection of a schema
  sees them: a database that was made from ``metadata`` has none.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from proxy.core.usage import UsageType

metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

BIG: Final = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits on both engines (SQLite's INTEGER has them, and STRICT knows no BIGINT)."""

FLAG: Final = Boolean().with_variant(Integer(), "sqlite")


def text_column(name: str, *, nullable: bool = False) -> Column[str]:
    """Return a column of text."""
    return Column(name, Text(), nullable=nullable)


def big_column(name: str, *, nullable: bool = False) -> Column[int]:
    """Return a column of 64-bit integers."""
    return Column(name, BIG, nullable=nullable)


accounts: Final = Table(
    "accounts",
    metadata,
    Column("id", Text(), primary_key=True),
    text_column("name"),
    text_column("tier"),
    text_column("timezone"),
    big_column("created_ms"),
    Column("prepaid_only", FLAG, nullable=False, server_default=false()),
    Column("credit_paid_pico", BIG, nullable=False, server_default="0"),
    text_column("next_tier", nullable=True),
    big_column("next_tier_ms", nullable=True),
    UniqueConstraint("name"),
    sqlite_strict=True,
)
"""``tier`` is held until ``next_tier_ms``, from then on ``next_tier`` is (NULL: no change is planned); nobody writes
when that instant comes, the next change of a tier does. ``account_tiers`` tells since when, and what came before.
These columns, and ``credit_paid_pico``, the sum of the account's lots, are kept here so that every replica learns of a
change with the account."""

account_tiers: Final = Table(
    "account_tiers",
    metadata,
    Column("account_id", Text(), ForeignKey("accounts.id"), nullable=False),
    big_column("effective_ms"),
    text_column("tier"),
    text_column("changed_by"),
    big_column("decided_ms"),
    big_column("dropped_ms", nullable=True),
    text_column("dropped_by", nullable=True),
    PrimaryKeyConstraint("account_id", "effective_ms", "decided_ms"),
    Index(
        "uq_account_tiers_standing",
        "account_id",
        "effective_ms",
        unique=True,
        postgresql_where=text("dropped_ms IS NULL"),
        sqlite_where=text("dropped_ms IS NULL"),
    ),
    CheckConstraint("dropped_ms < effective_ms", name="dropped_before"),
    sqlite_strict=True,
)
"""Append-only: each tier from ``effective_ms`` on, and who decided it when. What was planned and given up before its
time stays, and says when and by whom (``dropped_ms``); it never held."""

keys: Final = Table(
    "keys",
    metadata,
    Column("id", Text(), primary_key=True),
    Column("account_id", Text(), ForeignKey("accounts.id"), nullable=False),
    text_column("digest"),
    big_column("created_ms"),
    big_column("expires_ms", nullable=True),
    big_column("revoked_ms", nullable=True),
    text_column("rotated_from", nullable=True),
    text_column("limits_scope", nullable=True),
    big_column("output_tokens_hour", nullable=True),
    big_column("output_tokens_day", nullable=True),
    big_column("requests", nullable=True),
    big_column("requests_window_s", nullable=True),
    big_column("monthly_limit_pico", nullable=True),
    big_column("calls_in_flight", nullable=True),
    UniqueConstraint("digest"),
    Index("ix_keys_account_id", "account_id"),
    sqlite_strict=True,
)
"""Only the SHA-256 of a token is kept. ``revoked_ms`` may lie ahead (a rotation's overlap).

The numbers are limits of its own; NULL: it never had that one. ``limits_scope`` is the id of the key whose limits it
shares, because it has taken its place; NULL: it is the first.
"""

limit_overrides: Final = Table(
    "limit_overrides",
    metadata,
    Column("id", Text(), primary_key=True),
    Column("account_id", Text(), ForeignKey("accounts.id"), nullable=False),
    text_column("limit_name"),
    big_column("amount", nullable=True),
    big_column("set_ms"),
    big_column("ends_ms"),
    text_column("why"),
    text_column("set_by"),
    big_column("dropped_ms", nullable=True),
    text_column("dropped_by", nullable=True),
    Index("ix_limit_overrides_account_id", "account_id"),
    CheckConstraint("amount > 0", name="positive"),
    sqlite_strict=True,
)
"""A number of a tier that an account has otherwise until ``ends_ms``; ``amount`` NULL: unlimited. Rows stay: one that
is given up early says when and by whom."""

directory_changes: Final = Table(
    "directory_changes",
    metadata,
    Column("id", Integer(), primary_key=True, autoincrement=False),
    big_column("version"),
    CheckConstraint("id = 1", name="one_row"),
    sqlite_strict=True,
)
"""One row, counted up in the transaction of every change to accounts and keys: what replicas poll."""

credit_lots: Final = Table(
    "credit_lots",
    metadata,
    Column("id", Text(), primary_key=True),
    Column("account_id", Text(), ForeignKey("accounts.id"), nullable=False),
    text_column("reference"),
    big_column("amount_pico"),
    big_column("bought_ms"),
    big_column("expires_ms", nullable=True),
    text_column("note"),
    text_column("added_by"),
    UniqueConstraint("account_id", "reference", name="uq_credit_lots_account_id"),
    Index("ix_credit_lots_expires_ms", "expires_ms"),
    CheckConstraint("amount_pico > 0", name="positive"),
    sqlite_strict=True,
)
"""Prepaid credit as it was bought; an account's ``reference`` makes a purchase repeatable. ``expires_ms`` NULL: it
does not expire. What is drawn from it is not stored: it follows from the entries (core/credit.py)."""


def quantity_column(usage_type: UsageType) -> str:
    """Return the column of ``entries`` that holds the amount of a usage type."""
    return f"{usage_type.value}_quantity"


def cost_column(usage_type: UsageType) -> str:
    """Return the column of ``entries`` that holds the cost of a usage type, pico-euros."""
    return f"{usage_type.value}_cost_pico"


entries: Final = Table(
    "entries",
    metadata,
    text_column("account_id"),
    text_column("month"),
    text_column("call_id"),
    text_column("day"),
    text_column("key_id"),
    text_column("tier"),
    text_column("endpoint"),
    text_column("model"),
    text_column("tariff_class"),
    text_column("outcome"),
    big_column("admitted_ms"),
    big_column("settled_ms"),
    text_column("upstream"),
    Column("streamed", FLAG, nullable=False),
    Column("estimated", FLAG, nullable=False),
    text_column("sources"),
    text_column("price_version"),
    big_column("cost_pico"),
    *(big_column(quantity_column(usage_type)) for usage_type in UsageType),
    *(big_column(cost_column(usage_type)) for usage_type in UsageType),
    Column("link", BIG, nullable=False, server_default="0"),
    PrimaryKeyConstraint("account_id", "month", "call_id"),
    Index("ix_entries_account_settled", "account_id", "settled_ms"),
    sqlite_strict=True,
)
"""The truth: one row a settled call, never changed.

``sources`` has one letter a usage type, in the order of ``UsageType``: r(eported), m(easured), e(stimated),
or ``-`` where the call used none of it. ``estimated`` says whether any letter is e. ``link`` is the link of the
month's chain that seals the row (chain_links). Accounts are not
referenced by a foreign key: an entry must never be refused, and a distributed table could not keep it.
"""


def _rollup(name: str, period: str, *indexes: Index) -> Table:
    key = ("account_id", period, "model", "usage_type", "tariff_class", "price_version")
    return Table(
        name,
        metadata,
        *(text_column(column) for column in key),
        big_column("quantity"),
        big_column("cost_pico"),
        big_column("calls"),
        PrimaryKeyConstraint(*key),
        *indexes,
        sqlite_strict=True,
    )


def _calls(name: str, period: str) -> Table:
    key = ("account_id", period, "model", "tariff_class")
    return Table(
        name,
        metadata,
        *(text_column(column) for column in key),
        big_column("calls"),
        PrimaryKeyConstraint(*key),
        sqlite_strict=True,
    )


rollups_daily: Final = _rollup("rollups_daily", "day")
"""Sums of entries by day. ``calls`` counts the calls that used the type: a call may be in several rows."""

rollups_monthly: Final = _rollup("rollups_monthly", "month", Index("ix_rollups_monthly_month", "month"))
"""Sums of entries by billing month."""

calls_daily: Final = _calls("calls_daily", "day")
"""How many calls a day had: each counted once, whatever it used."""

calls_monthly: Final = _calls("calls_monthly", "month")
"""How many calls a billing month had."""

price_versions: Final = Table(
    "price_versions",
    metadata,
    Column("id", Text(), primary_key=True),
    big_column("effective_from_ms"),
    text_column("prices"),
    big_column("recorded_ms"),
    sqlite_strict=True,
)
"""Append-only: the prices (canonical JSON) of every version in force since the ledger began."""

events: Final = Table(
    "events",
    metadata,
    Column("id", Text(), primary_key=True),
    text_column("account_id"),
    text_column("kind"),
    text_column("subject"),
    Column("threshold", Integer(), nullable=False),
    big_column("recorded_ms"),
    text_column("body"),
    Column("attempts", Integer(), nullable=False),
    big_column("next_attempt_ms", nullable=True),
    big_column("acknowledged_ms", nullable=True),
    UniqueConstraint("account_id", "kind", "subject", "threshold"),
    Index("ix_events_next_attempt_ms", "next_attempt_ms"),
    sqlite_strict=True,
)
"""What has happened to an account, once for each (kind, subject, threshold): ``subject`` is a month, a lot or a tier.

``body`` is what is sent, byte for byte, at every attempt. ``next_attempt_ms`` NULL: nothing more is tried, because it
was acknowledged (``acknowledged_ms``) or given up.
"""

leases: Final = Table(
    "leases",
    metadata,
    Column("name", Text(), primary_key=True),
    text_column("holder"),
    big_column("until_ms"),
    sqlite_strict=True,
)
"""Work that one replica does for all: which one, and until when unless it says so again."""
