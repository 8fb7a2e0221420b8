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


def _text(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, Text(), nullable=nullable)


def _big(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BIG, nullable=nullable)


accounts: Final = Table(
    "accounts",
    metadata,
    Column("id", Text(), primary_key=True),
    _text("name"),
    _text("tier"),
    _text("timezone"),
    _big("created_ms"),
    Column("prepaid_only", FLAG, nullable=False, server_default=false()),
    Column("credit_paid_pico", BIG, nullable=False, server_default="0"),
    UniqueConstraint("name"),
    sqlite_strict=True,
)
"""``tier`` is the one held now; ``account_tiers`` tells since when, and what came before. ``credit_paid_pico`` is
the sum of the account's lots, kept beside them so that every replica learns of a purchase with the account."""

account_tiers: Final = Table(
    "account_tiers",
    metadata,
    Column("account_id", Text(), ForeignKey("accounts.id"), nullable=False),
    _big("effective_ms"),
    _text("tier"),
    _text("changed_by"),
    PrimaryKeyConstraint("account_id", "effective_ms"),
    sqlite_strict=True,
)
"""Append-only: each tier from ``effective_ms`` on, and who set it."""

keys: Final = Table(
    "keys",
    metadata,
    Column("id", Text(), primary_key=True),
    Column("account_id", Text(), ForeignKey("accounts.id"), nullable=False),
    _text("digest"),
    _big("created_ms"),
    _big("expires_ms", nullable=True),
    _big("revoked_ms", nullable=True),
    _text("rotated_from", nullable=True),
    _text("limits_scope", nullable=True),
    _big("output_tokens_hour", nullable=True),
    _big("output_tokens_day", nullable=True),
    _big("requests", nullable=True),
    _big("requests_window_s", nullable=True),
    _big("monthly_limit_pico", nullable=True),
    _big("calls_in_flight", nullable=True),
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
    _text("limit_name"),
    _big("amount", nullable=True),
    _big("set_ms"),
    _big("ends_ms"),
    _text("why"),
    _text("set_by"),
    _big("dropped_ms", nullable=True),
    _text("dropped_by", nullable=True),
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
    _big("version"),
    CheckConstraint("id = 1", name="one_row"),
    sqlite_strict=True,
)
"""One row, counted up in the transaction of every change to accounts and keys: what replicas poll."""

credit_lots: Final = Table(
    "credit_lots",
    metadata,
    Column("id", Text(), primary_key=True),
    Column("account_id", Text(), ForeignKey("accounts.id"), nullable=False),
    _text("reference"),
    _big("amount_pico"),
    _big("bought_ms"),
    _big("expires_ms", nullable=True),
    _text("note"),
    _text("added_by"),
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
    _text("account_id"),
    _text("month"),
    _text("call_id"),
    _text("day"),
    _text("key_id"),
    _text("tier"),
    _text("endpoint"),
    _text("model"),
    _text("tariff_class"),
    _text("outcome"),
    _big("admitted_ms"),
    _big("settled_ms"),
    _text("upstream"),
    Column("streamed", FLAG, nullable=False),
    Column("estimated", FLAG, nullable=False),
    _text("sources"),
    _text("price_version"),
    _big("cost_pico"),
    *(_big(quantity_column(usage_type)) for usage_type in UsageType),
    *(_big(cost_column(usage_type)) for usage_type in UsageType),
    PrimaryKeyConstraint("account_id", "month", "call_id"),
    Index("ix_entries_account_settled", "account_id", "settled_ms"),
    sqlite_strict=True,
)
"""The truth: one row a settled call, never changed.

``sources`` has one letter a usage type, in the order of ``UsageType``: r(eported), m(easured), e(stimated),
or ``-`` where the call used none of it. ``estimated`` says whether any letter is e. Accounts are not
referenced by a foreign key: an entry must never be refused, and a distributed table could not keep it.
"""


def _rollup(name: str, period: str, *indexes: Index) -> Table:
    key = ("account_id", period, "model", "usage_type", "tariff_class", "price_version")
    return Table(
        name,
        metadata,
        *(_text(column) for column in key),
        _big("quantity"),
        _big("cost_pico"),
        _big("calls"),
        PrimaryKeyConstraint(*key),
        *indexes,
        sqlite_strict=True,
    )


def _calls(name: str, period: str) -> Table:
    key = ("account_id", period, "model", "tariff_class")
    return Table(
        name,
        metadata,
        *(_text(column) for column in key),
        _big("calls"),
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
    _big("effective_from_ms"),
    _text("prices"),
    _big("recorded_ms"),
    sqlite_strict=True,
)
"""Append-only: the prices (canonical JSON) of every version in force since the ledger began."""

events: Final = Table(
    "events",
    metadata,
    Column("id", Text(), primary_key=True),
    _text("account_id"),
    _text("kind"),
    _text("subject"),
    Column("threshold", Integer(), nullable=False),
    _big("recorded_ms"),
    _text("body"),
    Column("attempts", Integer(), nullable=False),
    _big("next_attempt_ms", nullable=True),
    _big("acknowledged_ms", nullable=True),
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
    _text("holder"),
    _big("until_ms"),
    sqlite_strict=True,
)
"""Work that one replica does for all: which one, and until when unless it says so again."""
