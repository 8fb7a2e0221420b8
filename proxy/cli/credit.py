"""``tollgate credit``: prepaid euros.

What belongs here: the commands and what they print. What does not: the rules (ledger/accounts.py).
"""

from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from proxy.cli.ledger_session import (
    EUROS,
    EXPIRY,
    config_option,
    json_option,
    read_settings,
    time_text,
    with_ledger,
)
from proxy.core.money import euros_text
from proxy.ledger.accounts import Accounts, CreditLot
from proxy.ledger.database import Database
from proxy.ledger.location import Location


@click.group()
def credit() -> None:
    """Add prepaid credit and look at it."""


@credit.command()
@click.argument("account")
@click.argument("euros", type=EUROS)
@click.option("--reference", required=True, help="Of the payment; the same one is counted once.")
@click.option("--expires", "expires_ms", type=EXPIRY, help="When it ends: 365d, or 2027-12-31. Never, by default.")
@config_option
def add(account: str, euros: int, reference: str, expires_ms: int | None, config_dir: Path) -> None:
    """Add EUROS of credit to ACCOUNT, once for each reference."""

    async def work(database: Database, _: Location) -> tuple[CreditLot, bool]:
        return await Accounts(database).add_credit(account, euros, reference, expires_ms)

    lot, is_new = with_ledger(read_settings(config_dir), work)
    amount = euros_text(lot.amount_pico)
    if is_new:
        click.echo(f"Added {amount} € to {account} ({reference}).")
    else:
        click.echo(f"{amount} € were added to {account} before ({reference}); nothing changed.")


@credit.command("list")
@click.argument("account", required=False)
@json_option
@config_option
def list_(account: str | None, as_json: bool, config_dir: Path) -> None:
    """List the credit that ACCOUNT, or everyone, has bought."""

    async def work(database: Database, _: Location) -> list[tuple[str, CreditLot]]:
        store = Accounts(database)
        account_id = (await store.named(account)).id if account is not None else None
        names = {known.id: known.name for known in await store.all()}
        return [(names[lot.account_id], lot) for lot in await store.credit_lots(account_id)]

    found = with_ledger(read_settings(config_dir), work)
    if as_json:
        document = [
            {
                "account": name,
                "reference": lot.reference,
                "amount_eur": euros_text(lot.amount_pico),
                "bought_ms": lot.bought_ms,
                "expires_ms": lot.expires_ms,
            }
            for name, lot in found
        ]
        click.echo(msgspec.json.encode(document))
        return
    table = Table("account", "reference", "euros", "bought", "expires")
    table.columns[2].justify = "right"
    for name, lot in found:
        euros = euros_text(lot.amount_pico)
        table.add_row(name, lot.reference, euros, time_text(lot.bought_ms), time_text(lot.expires_ms))
    Console().print(table)
