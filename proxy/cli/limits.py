"""``tollgate limits``: what an account has otherwise than its tier, until a day.

What belongs here: the commands and what they print. What does not: the rules (ledger/overrides.py, core/levels.py).
"""

from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.table import Column, Table

from proxy.cli.ledger_session import (
    EXPIRY,
    config_option,
    json_option,
    operator,
    read_settings,
    time_text,
    with_ledger,
)
from proxy.cli.numbers import Typed, limit_options, number_document, number_text, numbers_of
from proxy.clock import unix_ms
from proxy.core.calendar import day_bounds_ms
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.location import Location
from proxy.ledger.overrides import OverrideInfo, Overrides

_ID_CHARS: Final = 36


class Until(click.ParamType[int | date]):
    """An end: the last day in the account's time zone, an instant with its offset, or a duration from now."""

    name = "end"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | date:  # noqa: ANN401
        """Parse it; a bad one ends the command with exit code 2."""
        text = str(value)
        try:
            return date.fromisoformat(text)
        except ValueError:
            ends_ms = EXPIRY.convert(text, param, ctx)
        if text[-1:].isdigit() and datetime.fromisoformat(text).tzinfo is None:
            self.fail(f"a time of day needs its offset from UTC, such as {text}+01:00", param, ctx)
        return ends_ms


@click.group()
def limits() -> None:
    """Give accounts other limits than their tier's, for a while."""


@limits.command("set")
@click.argument("account")
@limit_options(can_take_away=True)
@click.option(
    "--until",
    "until",
    type=Until(),
    required=True,
    help="Last day (2026-12-31, of the account's time zone), instant with its offset from UTC, or duration (14d).",
)
@click.option("--why", required=True, help="The reason: it is kept with it.")
@click.option("--by", default=None, help="Who grants it; you, by default.")
@json_option
@config_option
def set_(
    *,
    account: str,
    until: int | date,
    why: str,
    by: str | None,
    as_json: bool,
    config_dir: Path,
    **numbers: Typed | None,
) -> None:
    """Give ACCOUNT other limits until a day; every replica knows within a second.

    When it ends, the tier's limits hold again by themselves, with all that was used meanwhile.
    """

    async def work(database: Database, _: Location) -> tuple[str, list[OverrideInfo]]:
        owner = await Accounts(database).named(account)
        ends_ms = until if isinstance(until, int) else day_bounds_ms(until.isoformat(), owner.timezone)[1]
        made = await Overrides(database).set(owner.id, numbers_of(numbers), ends_ms, why, by or operator())
        return owner.timezone, made

    timezone, made = with_ledger(read_settings(config_dir), work)
    if as_json:
        click.echo(msgspec.json.encode([_document(info) for info in made]))
        return
    for info in made:
        amount, end = number_text(info.limit, info.amount), time_text(info.ends_ms, timezone)
        click.echo(f"{info.account}: {info.limit.value} {amount} until {end} ({info.id}).")


@limits.command("list")
@click.argument("account", required=False)
@json_option
@config_option
def list_(account: str | None, as_json: bool, config_dir: Path) -> None:
    """List what ACCOUNT, or any, has and had otherwise than its tier, oldest first."""

    async def work(database: Database, _: Location) -> list[OverrideInfo]:
        return await Overrides(database).all(account)

    found = with_ledger(read_settings(config_dir), work)
    if as_json:
        click.echo(msgspec.json.encode([_document(info) for info in found]))
        return
    ids, amounts, reasons = (
        Column("id", min_width=_ID_CHARS),
        Column("amount", justify="right"),
        Column("why", overflow="fold"),
    )
    table = Table(ids, "account", "limit", amounts, "state", "set", "ends", "by", reasons)
    for info in found:
        amount = number_text(info.limit, info.amount)
        ends = time_text(info.dropped_ms or info.ends_ms)
        since = time_text(info.set_ms)
        table.add_row(info.id, info.account, info.limit.value, amount, _state(info), since, ends, info.set_by, info.why)
    Console().print(table)


@limits.command()
@click.argument("override_id")
@click.option("--by", default=None, help="Who ends it; you, by default.")
@config_option
def drop(override_id: str, by: str | None, config_dir: Path) -> None:
    """End an override now; it stays in the history."""

    async def work(database: Database, _: Location) -> OverrideInfo:
        return await Overrides(database).drop(override_id, by or operator())

    info = with_ledger(read_settings(config_dir), work)
    if info.dropped_ms is None:
        click.echo(f"{info.id} was over already, since {time_text(info.ends_ms)}.")
    else:
        click.echo(f"{info.account}: {info.limit.value} is the tier's again, since {time_text(info.dropped_ms)}.")


def _state(info: OverrideInfo) -> str:
    if info.dropped_ms is not None:
        return "dropped"
    return "in force" if unix_ms() < info.ends_ms else "over"


def _document(info: OverrideInfo) -> dict[str, str | int | None]:
    return {
        "id": info.id,
        "account": info.account,
        "limit": info.limit.value,
        "amount": number_document(info.limit, info.amount),
        "state": _state(info),
        "set_ms": info.set_ms,
        "ends_ms": info.ends_ms,
        "why": info.why,
        "set_by": info.set_by,
        "dropped_ms": info.dropped_ms,
        "dropped_by": info.dropped_by,
    }
