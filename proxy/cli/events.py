"""``tollgate events``: what has happened to accounts, and whether the receiver knows it.

What belongs here: the command and what it prints. What does not: finding and sending (proxy/events/).
"""

from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from proxy.cli.ledger_session import config_option, json_option, read_settings, time_text, with_ledger
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.events import Events, KeptEvent
from proxy.ledger.location import Location


@click.command()
@click.option("--account", "name", help="Of this account only.")
@click.option("--last", type=click.IntRange(1, 10_000), default=100, show_default=True, help="So many of the latest.")
@json_option
@config_option
def events(name: str | None, last: int, as_json: bool, config_dir: Path) -> None:
    """List budgets and credit that were reached, credit that expires, and tiers that were activated."""

    async def work(database: Database, _: Location) -> list[tuple[str, KeptEvent]]:
        account_id = (await Accounts(database).named(name)).id if name is not None else None
        return await Events(database).all(account_id, last)

    found = with_ledger(read_settings(config_dir), work)
    if as_json:
        document = [
            {
                "id": event.id,
                "account": account,
                "recorded_ms": event.recorded_ms,
                "state": _state(event),
                "attempts": event.attempts,
                "acknowledged_ms": event.acknowledged_ms,
                "next_attempt_ms": event.next_attempt_ms,
                "message": msgspec.Raw(event.body.encode()),
            }
            for account, event in found
        ]
        click.echo(msgspec.json.encode(document))
        return
    table = Table("recorded", "account", "event", "about", "state", "attempts")
    for account, event in found:
        kind = f"{event.kind} {event.threshold} %" if event.threshold else event.kind
        row = (time_text(event.recorded_ms), account, kind, event.subject, _state(event), str(event.attempts))
        table.add_row(*row)
    Console().print(table)


def _state(event: KeptEvent) -> str:
    if event.acknowledged_ms is not None:
        return "acknowledged"
    return "given up" if event.next_attempt_ms is None else "waiting"
