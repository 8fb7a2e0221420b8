"""``tollgate credit``: prepaid euros.

What belongs here: the commands and what they print. What does not: the rules (core/credit.py, ledger/credit.py).

Like ``tollgate usage``, they count the ledger and what still waits in the outboxes of the state folder.
"""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Column, Table

from proxy.billing.statement import Statement, is_active, statement_of
from proxy.cli.ledger_session import (
    EUROS,
    LAST_DAY,
    config_option,
    json_option,
    operator,
    read_settings,
    time_text,
    with_ledger,
)
from proxy.clock import unix_ms
from proxy.core.accounts import Account
from proxy.core.calendar import day_of
from proxy.core.credit import NO_END
from proxy.core.money import euros_text
from proxy.ledger.accounts import Accounts
from proxy.ledger.credit import Credit
from proxy.ledger.database import Database
from proxy.ledger.location import Location
from proxy.ledger.lots import CreditLot
from proxy.ledger.outbox_file import read_pending
from proxy.settings.types import Settings


@click.group()
def credit() -> None:
    """Add prepaid credit and look at it."""


@credit.command()
@click.argument("account")
@click.argument("euros", type=EUROS)
@click.option("--reference", required=True, help="Of the payment; an account's same one is counted once.")
@click.option("--expires", type=LAST_DAY, help="Its last day, 2027-12-31, or so far away: 365d. None, by default.")
@click.option("--note", default="", help="Anything worth keeping with it.")
@json_option
@config_option
def add(
    *, account: str, euros: int, reference: str, expires: str | int | None, note: str, as_json: bool, config_dir: Path
) -> None:
    """Add EUROS of credit to ACCOUNT, once for each reference of the account."""

    async def work(database: Database, _: Location) -> tuple[Account, CreditLot, bool]:
        known = await Accounts(database).named(account)
        last_day = day_of(unix_ms() + expires, known.timezone) if isinstance(expires, int) else expires
        made = await Credit(database).add(known.id, euros, reference, last_day, note=note, by=operator())
        return known, *made

    known, lot, is_new = with_ledger(read_settings(config_dir), work)
    last_day = _last_day(lot, known)
    if as_json:
        click.echo(msgspec.json.encode({"account": known.name, **_lot_document(lot, last_day), "new": is_new}))
        return
    amount = euros_text(lot.amount_pico)
    until = f", until {last_day}" if last_day is not None else ""
    if is_new:
        click.echo(f"Added {amount} € to {known.name} ({reference}{until}).")
    else:
        click.echo(f"{amount} € were added to {known.name} before ({reference}{until}); nothing changed.")


@credit.command("list")
@click.argument("account", required=False)
@json_option
@config_option
def list_(account: str | None, as_json: bool, config_dir: Path) -> None:
    """List the credit that ACCOUNT, or everyone, has bought."""

    async def work(database: Database, _: Location) -> list[tuple[Account, CreditLot]]:
        store = Accounts(database)
        account_id = (await store.named(account)).id if account is not None else None
        known = {each.id: each for each in await store.all()}
        return [(known[lot.account_id], lot) for lot in await Credit(database).lots(account_id)]

    found = with_ledger(read_settings(config_dir), work)
    if as_json:
        document = [{"account": known.name, **_lot_document(lot, _last_day(lot, known))} for known, lot in found]
        click.echo(msgspec.json.encode(document))
        return
    table = Table(_folded("account"), _folded("reference"), "euros", "bought", "last day")
    table.columns[2].justify = "right"
    for known, lot in found:
        bought = time_text(lot.bought_ms, known.timezone)
        table.add_row(known.name, lot.reference, euros_text(lot.amount_pico), bought, _last_day(lot, known) or "")
    Console().print(table)


@credit.command()
@click.argument("account")
@json_option
@config_option
def balance(account: str, as_json: bool, config_dir: Path) -> None:
    """Print what ACCOUNT can still draw."""
    settings = read_settings(config_dir)
    known, statement = _statement(settings, account)
    tier = settings.tiers.get(known.tier)
    active = tier is not None and is_active(tier, known)
    drawdown = statement.drawdown
    amounts = {
        "balance_eur": euros_text(statement.balance_pico),
        "paid_eur": euros_text(drawdown.paid_pico),
        "drawn_eur": euros_text(drawdown.drawn_pico),
        "lapsed_eur": euros_text(statement.lapsed_pico),
    }
    if as_json:
        standing = {"tier": known.tier, "tier_active": active, "prepaid_only": known.prepaid_only}
        click.echo(msgspec.json.encode({"account": known.name, "day": statement.today, **amounts, **standing}))
        return
    click.echo(
        f"{known.name} has {amounts['balance_eur']} € left: {amounts['paid_eur']} € paid, "
        f"{amounts['drawn_eur']} € drawn, {amounts['lapsed_eur']} € lapsed."
    )
    if not active:
        click.echo(f"The purchase credit of {known.tier} has not been paid.")


@credit.command()
@click.argument("account")
@json_option
@config_option
def history(account: str, as_json: bool, config_dir: Path) -> None:
    """Print the lots of ACCOUNT, and month by month what was drawn from them and what lapsed."""
    known, statement = _statement(read_settings(config_dir), account)
    if as_json:
        click.echo(msgspec.json.encode(_history_document(known, statement)))
        return
    lots = Table(_folded("reference"), "euros", "bought", "last day", "left", _folded("note"))
    months = Table("month", "before", "bought", "drawn", "lapsed", "after", "to be invoiced")
    for column in (*months.columns[1:], lots.columns[1], lots.columns[4]):
        column.justify = "right"
    for lot, left in zip(statement.lots, statement.drawdown.left, strict=True):
        day = _last_day(lot, known) or ""
        has_lapsed = left and day and day < statement.today
        shown = f"{euros_text(left)} lapsed" if has_lapsed else euros_text(left)
        bought = time_text(lot.bought_ms, known.timezone)
        lots.add_row(lot.reference, euros_text(lot.amount_pico), bought, day, shown, lot.note)
    for month in statement.drawdown.months(statement.today):
        amounts = (
            month.before_pico,
            month.bought_pico,
            month.drawn_pico,
            month.lapsed_pico,
            month.after_pico,
            month.invoiced_pico,
        )
        months.add_row(month.month, *map(euros_text, amounts))
    console = Console()
    console.print(lots)
    console.print(months)


def _folded(name: str) -> Column:
    """Return a column of which nothing is cut: what it says may have to be typed."""
    return Column(name, overflow="fold")


def _statement(settings: Settings, name: str) -> tuple[Account, Statement]:
    async def work(database: Database, location: Location) -> tuple[Account, Statement]:
        known = await Accounts(database).named(name)
        # Outboxes first: what is shipped in between is then found in the ledger, and counted once.
        pending = [entry for path in location.outboxes() for entry in read_pending(path, known.id)]
        return known, statement_of(known, await Credit(database).facts(known.id, pending), unix_ms())

    return with_ledger(settings, work)


def _last_day(lot: CreditLot, account: Account) -> str | None:
    day = lot.drawable(account.timezone).last_day
    return None if day == NO_END else day


def _lot_document(lot: CreditLot, last_day: str | None) -> dict[str, Any]:
    return {
        "reference": lot.reference,
        "amount_eur": euros_text(lot.amount_pico),
        "bought_ms": lot.bought_ms,
        "last_day": last_day,
        "expires_ms": lot.expires_ms,
        "note": lot.note,
        "added_by": lot.added_by,
    }


def _history_document(account: Account, statement: Statement) -> dict[str, Any]:
    drawdown, references = statement.drawdown, statement.references()
    lots = [
        {**_lot_document(lot, _last_day(lot, account)), "left_eur": euros_text(left)}
        for lot, left in zip(statement.lots, drawdown.left, strict=True)
    ]
    months = [
        {
            "month": month.month,
            "before_eur": euros_text(month.before_pico),
            "bought_eur": euros_text(month.bought_pico),
            "drawn_eur": euros_text(month.drawn_pico),
            "lapsed_eur": euros_text(month.lapsed_pico),
            "after_eur": euros_text(month.after_pico),
            "invoiced_eur": euros_text(month.invoiced_pico),
            "draws": [
                {"reference": references[lot_id], "amount_eur": euros_text(amount)}
                for (of, lot_id), amount in drawdown.draws.items()
                if of == month.month
            ],
        }
        for month in drawdown.months(statement.today)
    ]
    return {"account": account.name, "day": statement.today, "lots": lots, "months": months}
