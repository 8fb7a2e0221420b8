"""``tollgate batch``: what is being done in batches, how far one has got, and its cancelling.

What belongs here: the commands. What does not: what they print (batch_text.py), and running batches (batching/).

Nothing here needs a server. What is cancelled while none runs, is ended by the next one.
"""

import asyncio
from pathlib import Path

import click
import msgspec
from rich.console import Console

from proxy.cli.batch_text import bar, document_of, print_one, table_of
from proxy.cli.ledger_session import config_option, json_option, read_settings, with_ledger
from proxy.clock import unix_ms
from proxy.core.batches.objects import ENDED, BatchStatus
from proxy.ledger.accounts import Accounts
from proxy.ledger.batches.batches import Batches
from proxy.ledger.batches.overview import NamedBatch, Overview
from proxy.ledger.database import Database
from proxy.ledger.location import Location


@click.group()
def batch() -> None:
    """Look at async batches, and cancel them."""


@batch.command("list")
@click.option("--account", "name", help="Of this account only.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([status.value for status in BatchStatus]),
    help="In this status only; may be given several times.",
)
@click.option("--last", type=click.IntRange(1, 10_000), default=50, show_default=True, help="So many of the latest.")
@json_option
@config_option
def list_batches(name: str | None, statuses: tuple[str, ...], last: int, as_json: bool, config_dir: Path) -> None:
    """List batches, the latest first."""

    async def work(database: Database, _: Location) -> list[NamedBatch]:
        account_id = (await Accounts(database).named(name)).id if name is not None else None
        return await Overview(database).latest(account_id, frozenset(map(BatchStatus, statuses)), last)

    found = with_ledger(read_settings(config_dir), work)
    now_ms = unix_ms()
    if as_json:
        click.echo(msgspec.json.encode([document_of(each, None, now_ms) for each in found]))
    else:
        console = Console()
        console.print(table_of(found, now_ms, console.width))


@batch.command()
@click.argument("batch_id")
@click.option("--watch", is_flag=True, help="Show a progress bar until it has ended.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between two looks at it.",
)
@json_option
@config_option
def show(batch_id: str, watch: bool, every_s: float, as_json: bool, config_dir: Path) -> None:
    """Show how far a batch has got, what it has cost so far, and what is wrong with it."""

    async def work(database: Database, _: Location) -> tuple[NamedBatch, int]:
        overview = Overview(database)
        found = await _found(overview, batch_id)
        if watch:
            found = await _watched(overview, found, every_s)
        return found, await overview.cost_pico(found.batch)

    found, cost_pico = with_ledger(read_settings(config_dir), work)
    if as_json:
        click.echo(msgspec.json.encode(document_of(found, cost_pico, unix_ms())))
    else:
        print_one(found, cost_pico, unix_ms())


@batch.command()
@click.argument("batch_id")
@json_option
@config_option
def cancel(batch_id: str, as_json: bool, config_dir: Path) -> None:
    """Begin no more lines of a batch. What has been finished is kept, and billed."""

    async def work(database: Database, _: Location) -> NamedBatch:
        overview = Overview(database)
        found = await _found(overview, batch_id)
        now = await Batches(database).cancel(found.batch.account_id, batch_id, unix_ms())
        assert now is not None
        if now.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
            raise click.ClickException(f"too late: batch {batch_id} is {now.status.value}")
        return NamedBatch(found.account, now)

    found = with_ledger(read_settings(config_dir), work)
    if as_json:
        click.echo(msgspec.json.encode(document_of(found, None, unix_ms())))
    else:
        click.echo(f"Batch {batch_id} of account {found.account} is {found.batch.status.value}.")


async def _found(overview: Overview, batch_id: str) -> NamedBatch:
    found = await overview.one(batch_id)
    if found is None:
        raise click.ClickException(f"there is no batch {batch_id}")
    return found


async def _watched(overview: Overview, found: NamedBatch, every_s: float) -> NamedBatch:
    """Show how a batch gets on until it has ended; return it then."""
    with bar(found) as told:
        while found.batch.status not in ENDED:
            await asyncio.sleep(every_s)
            found = await _found(overview, found.batch.id)
            told(found.batch)
    return found
