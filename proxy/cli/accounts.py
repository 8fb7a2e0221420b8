"""``tollgate accounts``: who pays.

What belongs here: the commands and what they print. What does not: the rules (ledger/accounts.py).
"""

from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.table import Column, Table

from proxy.cli.buyers import buyer
from proxy.cli.ledger_session import (
    EUROS,
    config_option,
    json_option,
    operator,
    read_settings,
    time_text,
    with_ledger,
)
from proxy.core.accounts import Account
from proxy.core.money import euros_text
from proxy.ledger.accounts import Accounts
from proxy.ledger.credit import Credit
from proxy.ledger.database import Database
from proxy.ledger.location import Location
from proxy.ledger.lots import CreditLot
from proxy.ledger.tiers import TierChange
from proxy.settings.types import Settings

prepaid_option: Final = click.option(
    "--prepaid-only/--invoiced",
    "prepaid_only",
    default=None,
    help="Whether it can spend its credit only, or what goes beyond it is invoiced.",
)


@click.group()
def accounts() -> None:
    """Create accounts and look at them."""


accounts.add_command(buyer)


@accounts.command()
@click.argument("name")
@click.option("--tier", required=True, help="Tier id, as in tiers.yaml.")
@click.option("--credit", "credit_pico", type=EUROS, help="Prepaid credit to begin with, euros.")
@click.option("--timezone", default="Europe/Paris", show_default=True, help="IANA zone whose months are billed.")
@prepaid_option
@json_option
@config_option
def create(
    *,
    name: str,
    tier: str,
    credit_pico: int | None,
    timezone: str,
    prepaid_only: bool | None,
    as_json: bool,
    config_dir: Path,
) -> None:
    """Create an account."""
    settings = read_settings(config_dir)
    _check_tier(settings, tier)

    async def work(database: Database, _: Location) -> Account:
        return await Accounts(database).create(
            name, tier, timezone, credit_pico=credit_pico or 0, prepaid_only=bool(prepaid_only), by=operator()
        )

    account = with_ledger(settings, work)
    if as_json:
        click.echo(msgspec.json.encode(account))
    else:
        credit = f", credit {euros_text(credit_pico)} €" if credit_pico else ""
        click.echo(f"Created account {account.name} ({account.id}), tier {account.tier}{credit}.")


@accounts.command("list")
@json_option
@config_option
def list_(as_json: bool, config_dir: Path) -> None:
    """List every account."""

    async def work(database: Database, _: Location) -> list[Account]:
        return await Accounts(database).all()

    found = with_ledger(read_settings(config_dir), work)
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    table = Table("name", "tier", "time zone", Column("id", min_width=36))
    for account in found:
        table.add_row(account.name, _tiers_text(account), account.timezone, account.id)
    Console().print(table)


@accounts.command()
@click.argument("name")
@json_option
@config_option
def show(name: str, as_json: bool, config_dir: Path) -> None:
    """Show an account: its tiers so far and to come, and the credit that was bought."""

    async def work(database: Database, _: Location) -> tuple[Account, list[TierChange], list[CreditLot]]:
        store = Accounts(database)
        account = await store.named(name)
        return account, await store.tier_history(account.id), await Credit(database).lots(account.id)

    account, history, lots = with_ledger(read_settings(config_dir), work)
    if as_json:
        document = {
            **msgspec.structs.asdict(account),
            "tiers": history,
            "credit": [
                {
                    "reference": lot.reference,
                    "amount_eur": euros_text(lot.amount_pico),
                    "bought_ms": lot.bought_ms,
                }
                for lot in lots
            ],
        }
        click.echo(msgspec.json.encode(document))
        return
    prepaid = ", prepaid only" if account.prepaid_only else ""
    click.echo(f"{account.name} ({account.id}), tier {_tiers_text(account)}, time zone {account.timezone}{prepaid}")
    for change in history:
        click.echo(f"  {_change_text(change, account)}")
    for lot in lots:
        bought = time_text(lot.bought_ms, account.timezone)
        click.echo(f"  credit {euros_text(lot.amount_pico)} €, {lot.reference}, bought {bought}")


@accounts.command("set-tier")
@click.argument("name")
@click.argument("tier")
@click.option(
    "--when",
    type=click.Choice(["now", "next-month"]),
    default="now",
    show_default=True,
    help="From now on, or from the first instant of the account's next month on.",
)
@config_option
def set_tier(name: str, tier: str, when: str, config_dir: Path) -> None:
    """Give an account another tier."""
    settings = read_settings(config_dir)
    _check_tier(settings, tier)

    async def work(database: Database, _: Location) -> Account:
        store = Accounts(database)
        change = store.set_tier if when == "now" else store.plan_tier
        return await change(name, tier, by=operator())

    account = with_ledger(settings, work)
    click.echo(f"Account {account.name} holds {_tiers_text(account)}.")


@accounts.command("keep-tier")
@click.argument("name")
@config_option
def keep_tier(name: str, config_dir: Path) -> None:
    """Give up the change of tier that is planned for an account."""

    async def work(database: Database, _: Location) -> Account:
        return await Accounts(database).keep_tier(name, by=operator())

    account = with_ledger(read_settings(config_dir), work)
    click.echo(f"Account {account.name} keeps {account.tier}.")


@accounts.command("set")
@click.argument("name")
@prepaid_option
@config_option
def set_(name: str, prepaid_only: bool | None, config_dir: Path) -> None:
    """Let an account spend its credit only, or more than that, from now on."""
    if prepaid_only is None:
        raise click.UsageError("nothing to set: give --prepaid-only or --invoiced")

    async def work(database: Database, _: Location) -> Account:
        return await Accounts(database).set_prepaid_only(name, prepaid_only=prepaid_only)

    account = with_ledger(read_settings(config_dir), work)
    says = "can spend its credit only" if account.prepaid_only else "is invoiced what goes beyond its credit"
    click.echo(f"Account {account.name} {says}.")


def _tiers_text(account: Account) -> str:
    """Return the tier that is held, and the one that is planned."""
    if account.planned is None:
        return account.tier
    return f"{account.tier}, {account.planned.tier} from {time_text(account.planned.from_ms, account.timezone)}"


def _change_text(change: TierChange, account: Account) -> str:
    since = f"{change.tier} since {time_text(change.effective_ms, account.timezone)}"
    if change.decided_ms < change.effective_ms:
        since += f", decided {time_text(change.decided_ms, account.timezone)}"
    if change.changed_by:
        since += f", by {change.changed_by}"
    if change.dropped_ms is None:
        return (
            since if account.planned is None or change.effective_ms < account.planned.from_ms else f"to come: {since}"
        )
    by = f", by {change.dropped_by}" if change.dropped_by else ""
    return f"given up: {since}; {time_text(change.dropped_ms, account.timezone)}{by}"


def _check_tier(settings: Settings, tier: str) -> None:
    if tier not in settings.tiers:
        known = ", ".join(sorted(settings.tiers))
        raise click.BadParameter(f"there is no tier {tier!r}; there are: {known}", param_hint="tier")
