"""What is never changed is refused by the database itself, and the entries that are there already are sealed.

The code below is the format of the chain as it was when this step was written (core/chain.py, version 1), and stays so.

A later step that must change rows of a guarded table drops its triggers first and makes them again; a batch operation
of Alembic on SQLite, which makes a table anew, loses them.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_GUARDED = (
    "entries",
    "chain_links",
    "invoices",
    "invoice_covers",
    "invoice_draws",
    "account_buyers",
    "price_versions",
)
_TYPES = ("input", "cached_input", "output", "reasoning", "rerank", "audio_minutes")
_FIELDS = (
    *("account_id", "month", "call_id", "day", "key_id", "tier", "endpoint", "model", "tariff_class", "outcome"),
    *("admitted_ms", "settled_ms", "upstream", "streamed", "estimated", "sources", "price_version", "cost_pico"),
    *(f"{name}_quantity" for name in _TYPES),
    *(f"{name}_cost_pico" for name in _TYPES),
)
_CALL_ID, _FLAGS = _FIELDS.index("call_id"), (_FIELDS.index("streamed"), _FIELDS.index("estimated"))
_ROWS = 1000
"""Entries in a link: what is in memory at a time."""


def upgrade() -> None:
    """Seal what is there, then guard it."""
    connection = op.get_bind()
    _seal(connection)
    if connection.dialect.name == "postgresql":
        _guard_postgresql(connection)
    else:
        _guard_sqlite(connection)


def _seal(connection: sa.Connection) -> None:
    months = connection.execute(sa.text("SELECT DISTINCT account_id, month FROM entries WHERE link = 0")).all()
    for account_id, month in sorted(tuple(row) for row in months):
        head = ""
        for link, (first, last, rows) in enumerate(_pages(connection, account_id, month), 1):
            sealed_ms = time.time_ns() // 1_000_000
            leaves = sorted((row[_CALL_ID], _sha256(b"tollgate entry 1\n", _json(row))) for row in rows)
            batch = _sha256(b"tollgate batch 1\n", b"".join(digest for _, digest in leaves)).hex()
            said = (head, account_id, month, link, len(leaves), sealed_ms, batch)
            head = _sha256(b"tollgate link 1\n", _json(said)).hex()
            key = {"account_id": account_id, "month": month, "link": link}
            connection.execute(_SET_LINK, key | {"first": first, "last": last})
            values = {"entries": len(leaves), "leaves": _packed(leaves), "head": head, "sealed_ms": sealed_ms}
            connection.execute(_LINKS.insert(), key | values)
        connection.execute(_HEADS.insert(), {"account_id": account_id, "month": month, "link": link, "head": head})


def _pages(connection: sa.Connection, account_id: str, month: str) -> Iterator[tuple[str, str, list[list[Any]]]]:
    """Yield a month's rows in the database's order of call ids, with the first and the last of them."""
    after, query = "", _FIRST
    while True:
        found = connection.execute(query, {"account_id": account_id, "month": month, "after": after, "rows": _ROWS})
        rows = [_typed(row) for row in found]
        if not rows:
            return
        after, query = rows[-1][_CALL_ID], _NEXT
        yield rows[0][_CALL_ID], after, rows


def _typed(row: Sequence[Any]) -> list[Any]:
    values = list(row)
    for place in _FLAGS:
        values[place] = bool(values[place])
    return values


def _json(values: Iterable[object]) -> bytes:
    return json.dumps(list(values), ensure_ascii=False, separators=(",", ":")).encode()


def _sha256(line: bytes, rest: bytes) -> bytes:
    return hashlib.sha256(line + rest).digest()


def _packed(leaves: Iterable[tuple[str, bytes]]) -> bytes:
    parts = [b"\x01"]
    for call_id, digest in leaves:
        parts += [_packed_id(call_id), digest[:8]]
    return b"".join(parts)


def _packed_id(call_id: str) -> bytes:
    digits = call_id.replace("-", "")
    if all(digit in "0123456789abcdef" for digit in digits) and len(digits) == 32:  # noqa: PLR2004
        parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
        if "-".join(parts) == call_id:
            return b"\x00" + bytes.fromhex(digits)
    text = call_id.encode()[:65_535]
    return b"\x01" + len(text).to_bytes(2) + text


def _page(condition: str) -> sa.TextClause:
    return sa.text(
        f"SELECT {', '.join(_FIELDS)} FROM entries "  # noqa: S608 - our own names
        f"WHERE account_id = :account_id AND month = :month AND {condition} ORDER BY call_id LIMIT :rows"
    )


_FIRST, _NEXT = _page("call_id >= :after"), _page("call_id > :after")
_SET_LINK = sa.text(
    "UPDATE entries SET link = :link "
    "WHERE account_id = :account_id AND month = :month AND call_id >= :first AND call_id <= :last"
)
_LINKS = sa.table(
    "chain_links",
    *(sa.column(name) for name in ("account_id", "month", "link", "entries")),
    sa.column("leaves", sa.LargeBinary()),
    *(sa.column(name) for name in ("head", "sealed_ms")),
)
_HEADS = sa.table("chain_heads", *(sa.column(name) for name in ("account_id", "month", "link", "head")))


def _guard_sqlite(connection: sa.Connection) -> None:
    for table in _GUARDED:
        for verb in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} BEGIN "
                f"SELECT RAISE(ABORT, 'tollgate: rows of {table} are never changed or removed'); END"
            )
    for verb, when in (("UPDATE", f"WHEN NOT ({_MOVES_ON})"), ("DELETE", "")):
        connection.exec_driver_sql(
            f"CREATE TRIGGER chain_heads_no_{verb.lower()} BEFORE {verb} ON chain_heads {when} BEGIN "
            "SELECT RAISE(ABORT, 'tollgate: a head in chain_heads only moves on, link by link'); END"
        )


def _guard_postgresql(connection: sa.Connection) -> None:
    connection.exec_driver_sql(
        "CREATE FUNCTION tollgate_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'tollgate: rows of % are never changed or removed', TG_TABLE_NAME "
        "USING ERRCODE = 'restrict_violation'; END $$"
    )
    connection.exec_driver_sql(
        "CREATE FUNCTION tollgate_refuse_other_head() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'tollgate: a head in chain_heads only moves on, link by link' "
        "USING ERRCODE = 'restrict_violation'; END $$"
    )
    for table in (*_GUARDED, "chain_heads"):
        function = "tollgate_refuse_other_head" if table == "chain_heads" else "tollgate_refuse_change"
        updated = f"WHEN (NOT ({_MOVES_ON}))" if table == "chain_heads" else ""
        for verb, how in (("UPDATE", f"ROW {updated}"), ("DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
            connection.exec_driver_sql(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"FOR EACH {how} EXECUTE FUNCTION {function}()"
            )


_MOVES_ON = "NEW.account_id = OLD.account_id AND NEW.month = OLD.month AND NEW.link = OLD.link + 1"
