"""``tollgate usage``: what an account used in a month, and what it costs.

What belongs here: the command and what it prints. What does not: the sums (ledger/store.py).

It counts the ledger and what still waits in the outboxes of the state folder, whether the server runs or not.
Outboxes of other machines are not seen: there a call appears once it was shipped.
"""

from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from proxy.cli.ledger_session import config_option, json_option, read_settings, with_ledger
from proxy.clock import unix_ms
from proxy.core.accounts import Account
from proxy.core.calendar import is_month, month_of
from proxy.core.money import euros_text
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.location import Location
from proxy.ledger.outbox_file import read_pending
from proxy.ledger.store import Ledger, MonthUsage


@click.command()
@click.option("--account", "name", required=True, help="Name of the account.")
@click.option("--month", help="YYYY-MM; this month in the account's time zone, by default.")
@json_option
@config_option
def usage(name: str, month: str | None, as_json: bool, config_dir: Path) -> None:
    """Print what an account used in a month."""
    if month is not None and not is_month(month):
        raise click.BadParameter(f"not a month (YYYY-MM): {month!r}", param_hint="--month")

    async def work(database: Database, location: Location) -> tuple[Account, str, MonthUsage]:
        account = await Accounts(database).named(name)
        asked = month or month_of(unix_ms(), account.timezone)
        # Outboxes first: what is shipped in between is then found in the ledger, and counted once.
        pending = [entry for path in location.outboxes() for entry in read_pending(path, account.id)]
        return account, asked, await Ledger(database).usage(account.id, asked, pending)

    account, asked, used = with_ledger(read_settings(config_dir), work)
    if as_json:
        click.echo(msgspec.json.encode(usage_document(account, asked, used)))
    else:
        _print_table(account, asked, used)


def usage_document(account: Account, month: str, used: MonthUsage) -> dict[str, object]:
    """Return the documented JSON document: amounts of money are exact decimal strings."""
    return {
        "account": account.name,
        "month": month,
        "calls": used.calls,
        "cost_eur": euros_text(used.cost_pico),
        "usage": [
            {
                "type": line.usage_type.value,
                "class": line.tariff_class.value,
                "model": line.model,
                "quantity": line.quantity,
                "cost_eur": euros_text(line.cost_pico),
                "price_version": line.price_version,
            }
            for line in used.lines
        ],
    }


def _print_table(account: Account, month: str, used: MonthUsage) -> None:
    table = Table(
        "model", "class", "type", "prices", "quantity", "euros", title=f"{account.name}, {month}", show_footer=True
    )
    for column in table.columns[4:]:
        column.justify = "right"
    for line in used.lines:
        quantity = f"{line.quantity:,}"
        cost = euros_text(line.cost_pico)
        table.add_row(line.model, line.tariff_class.value, line.usage_type.value, line.price_version, quantity, cost)
    table.columns[0].footer = f"calls: {used.calls:,}"
    table.columns[5].footer = euros_text(used.cost_pico)
    Console().print(table)
