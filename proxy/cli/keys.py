"""``tollgate keys``: bearer tokens.

What belongs here: the commands and what they print. What does not: the rules (ledger/keys.py). A token is
printed once, by the command that makes it.
"""

from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Column, Table

from proxy.cli.ledger_session import (
    DURATION,
    EXPIRY,
    config_option,
    json_option,
    now_ms,
    read_settings,
    time_text,
    with_ledger,
)
from proxy.core.accounts import Key
from proxy.ledger.database import Database
from proxy.ledger.keys import KeyInfo, Keys, NewKey
from proxy.ledger.location import Location

_ID_CHARS = 36
"""``key_`` and 32 digits: it is there to be copied, so it is never cut or wrapped."""


@click.group()
def keys() -> None:
    """Create, rotate and revoke keys."""


@keys.command()
@click.argument("account")
@click.option("--expires", "expires_ms", type=EXPIRY, help="When it ends: 90d, or 2027-06-30. Never, by default.")
@json_option
@config_option
def create(account: str, expires_ms: int | None, as_json: bool, config_dir: Path) -> None:
    """Create a key for ACCOUNT and print it: the only time that it is shown."""

    async def work(database: Database, _: Location) -> NewKey:
        return await Keys(database).create(account, expires_ms)

    _print_new(with_ledger(read_settings(config_dir), work), as_json)


@keys.command()
@click.argument("key_id")
@click.option(
    "--overlap",
    "overlap_ms",
    type=DURATION,
    default="24h",
    show_default=True,
    help="How long both are valid.",
)
@json_option
@config_option
def rotate(key_id: str, overlap_ms: int, as_json: bool, config_dir: Path) -> None:
    """Create a key in KEY_ID's place and print it; the old one ends after the overlap."""

    async def work(database: Database, _: Location) -> NewKey:
        return await Keys(database).rotate(key_id, overlap_ms)

    _print_new(with_ledger(read_settings(config_dir), work), as_json)


@keys.command()
@click.argument("key_id")
@config_option
def revoke(key_id: str, config_dir: Path) -> None:
    """Revoke a key; every replica refuses it within a second."""

    async def work(database: Database, _: Location) -> Key:
        return await Keys(database).revoke(key_id)

    key = with_ledger(read_settings(config_dir), work)
    click.echo(f"Revoked key {key.id} at {time_text(key.revoked_ms)}.")


@keys.command("list")
@click.argument("account", required=False)
@json_option
@config_option
def list_(account: str | None, as_json: bool, config_dir: Path) -> None:
    """List the keys of ACCOUNT, or of all."""

    async def work(database: Database, _: Location) -> list[KeyInfo]:
        return await Keys(database).all(account)

    found = with_ledger(read_settings(config_dir), work)
    if as_json:
        click.echo(msgspec.json.encode([_document(info) for info in found]))
        return
    table = Table(Column("id", min_width=_ID_CHARS), "account", "state", "created", "ends")
    for info in found:
        key = info.key
        ends = [end for end in (key.expires_ms, key.revoked_ms) if end is not None]
        table.add_row(key.id, info.account, _state(key), time_text(info.created_ms), time_text(min(ends, default=None)))
    Console().print(table)


def _document(info: KeyInfo) -> dict[str, str | int | None]:
    return {
        "id": info.key.id,
        "account": info.account,
        "state": _state(info.key),
        "created_ms": info.created_ms,
        "expires_ms": info.key.expires_ms,
        "revoked_ms": info.key.revoked_ms,
        "rotated_from": info.rotated_from,
    }


def _state(key: Key) -> str:
    at_ms = now_ms()
    if key.revoked_ms is not None:
        return "revoked" if key.revoked_ms <= at_ms else "ending"
    return "valid" if key.is_valid_at(at_ms) else "expired"


def _print_new(new: NewKey, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode({"id": new.key.id, "key": new.token}))
        return
    click.echo(f"Created key {new.key.id}. It is shown this once:", err=True)
    click.echo(new.token)
