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
    read_settings,
    time_text,
    with_ledger,
)
from proxy.cli.numbers import Typed, limit_options, number_document, number_text, numbers_of
from proxy.clock import unix_ms
from proxy.core.accounts import Key
from proxy.core.levels import Overridable
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
@limit_options(can_take_away=False)
@json_option
@config_option
def create(*, account: str, expires_ms: int | None, as_json: bool, config_dir: Path, **numbers: Typed | None) -> None:
    """Create a key for ACCOUNT and print it: the only time that it is shown.

    It can have limits of its own, inside those of its account.
    """

    async def work(database: Database, _: Location) -> NewKey:
        return await Keys(database).create(account, expires_ms, numbers_of(numbers))

    _print_new(with_ledger(read_settings(config_dir), work), as_json)


@keys.command()
@click.argument("key_id")
@limit_options(can_take_away=True, bounded=frozenset({Overridable.REQUESTS_WINDOW_S}))
@config_option
def limit(*, key_id: str, config_dir: Path, **numbers: Typed | None) -> None:
    """Change limits of a key's own, inside those of its account; every replica knows within a second."""

    async def work(database: Database, _: Location) -> Key:
        return await Keys(database).limit(key_id, numbers_of(numbers))

    key = with_ledger(read_settings(config_dir), work)
    click.echo(f"Key {key.id}: {_limits_text(key) or 'no limits of its own'}.")


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
    table = Table(Column("id", min_width=_ID_CHARS), "account", "state", "created", "ends", "own limits")
    for info in found:
        key = info.key
        ends = [end for end in (key.expires_ms, key.revoked_ms) if end is not None]
        created, end = time_text(info.created_ms), time_text(min(ends, default=None))
        table.add_row(key.id, info.account, _state(key), created, end, _limits_text(key))
    Console().print(table)


def _limits(key: Key) -> dict[Overridable, int]:
    """Return the limits that a key has of its own."""
    own = key.limits
    if own is None:
        return {}
    numbers = {
        Overridable.OUTPUT_TOKENS_HOUR: own.output_tokens_hour,
        Overridable.OUTPUT_TOKENS_DAY: own.output_tokens_day,
        Overridable.REQUESTS: own.requests,
        Overridable.MONTHLY_LIMIT: own.monthly_limit_pico,
        Overridable.CALLS_IN_FLIGHT: own.calls_in_flight,
    }
    found = {at: number for at, number in numbers.items() if number and number_document(at, number) is not None}
    return {**found, Overridable.REQUESTS_WINDOW_S: own.requests_window_s} if Overridable.REQUESTS in found else found


def _limits_text(key: Key) -> str:
    return ", ".join(f"{at.value} {number_text(at, number)}" for at, number in _limits(key).items())


def _document(info: KeyInfo) -> dict[str, str | int | dict[str, int | str | None] | None]:
    return {
        "id": info.key.id,
        "account": info.account,
        "state": _state(info.key),
        "created_ms": info.created_ms,
        "expires_ms": info.key.expires_ms,
        "revoked_ms": info.key.revoked_ms,
        "rotated_from": info.rotated_from,
        "limits": {at.value: number_document(at, number) for at, number in _limits(info.key).items()},
    }


def _state(key: Key) -> str:
    at_ms = unix_ms()
    if key.revoked_ms is not None:
        return "revoked" if key.revoked_ms <= at_ms else "ending"
    return "valid" if key.is_valid_at(at_ms) else "expired"


def _print_new(new: NewKey, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode({"id": new.key.id, "key": new.token}))
        return
    click.echo(f"Created key {new.key.id}. It is shown this once:", err=True)
    click.echo(new.token)
