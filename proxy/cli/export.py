"""``tollgate export``: a month as a file.

What belongs here: the command, and that its file is whole or not there. What does not: formats (billing/exports/).
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NoReturn, cast

import click

from proxy.billing.exports.formats import FORMATS, file_name
from proxy.billing.exports.output import Output, OutputError
from proxy.billing.exports.request import ExportRefusedError, ExportRequest, Written
from proxy.cli.ledger_reading import with_ledger_untouched
from proxy.cli.ledger_session import config_option, read_settings
from proxy.cli.progress import progress
from proxy.clock import unix_ms
from proxy.core.calendar import is_month
from proxy.core.money import euros_text
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.errors import OutboxError
from proxy.ledger.location import locate
from proxy.ledger.streaming import not_shipped
from proxy.settings.types import Settings

STDOUT: Final = "-"
_HELP: Final = "; ".join(f"{form.name}: {form.title}" for form in FORMATS.values())


@click.command()
@click.option("--month", required=True, help="YYYY-MM, each account's own.")
@click.option("--account", help="Name of the account; all, by default.")
@click.option("--format", "name", type=click.Choice(list(FORMATS)), default="csv", show_default=True, help=f"{_HELP}.")
@click.option(
    "--output", help="The file, or - for standard output; by default tollgate-MONTH[-ACCOUNT] in this folder."
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@config_option
def export(month: str, account: str | None, name: str, output: str | None, *, force: bool, config_dir: Path) -> None:
    """Write a month of the ledger, or of issued documents, as a file."""
    if not is_month(month):
        raise click.BadParameter(f"not a month (YYYY-MM): {month!r}", param_hint="--month")
    form = FORMATS[name]
    settings = read_settings(config_dir)
    target = output or file_name(form, month, account, settings.seller)
    with _end_on_sigterm(), _whole_file(target, replace=force) as file:
        out = Output(file)

        async def work(database: Database) -> Written | None:
            account_id = None if account is None else (await Accounts(database).named(account)).id
            await _note_waiting(database, settings, month, account_id)
            with progress("rows") as told:
                request = ExportRequest(
                    database,
                    month,
                    account_id,
                    settings.tiers,
                    settings.seller,
                    settings.invoicing,
                    made_ms=unix_ms(),
                    advanced=told,
                )
                return await form.write(request, cast("BinaryIO", out))

        try:
            written = with_ledger_untouched(settings.proxy, work)
        except ExportRefusedError as exc:
            raise click.ClickException(str(exc)) from exc
        except OutputError as exc:
            raise click.ClickException(f"{target} cannot be written: {exc}") from exc
    _say_what_was_written(written, target, out)


async def _note_waiting(database: Database, settings: Settings, month: str, account_id: str | None) -> None:
    try:
        waiting = await not_shipped(database, locate(settings.proxy).outboxes(), month, account_id)
    except OutboxError as exc:
        click.echo(f"It cannot be told whether entries wait for the ledger: {exc}", err=True)
        return
    if waiting:
        click.echo(f"Not in it: {waiting:,} entries of the month that wait in outboxes for the ledger.", err=True)


def _say_what_was_written(written: Written | None, target: str, out: Output) -> None:
    holds = f"{out.length:,} bytes" if written is None else f"{written.rows:,} rows, {euros_text(written.total_pico)} €"
    click.echo(f"{holds}, {target}, SHA-256 {out.sha256()}", err=target == STDOUT)


@contextlib.contextmanager
def _whole_file(target: str, *, replace: bool) -> Iterator[BinaryIO]:
    """Yield a file to write, which becomes the target when the block ends, and is removed when it raises.

    Raises:
        click.ClickException: the target is there, or cannot be written.
    """
    if target == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(target)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _refuse_to_overwrite(path, replace=replace)
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _refuse_to_overwrite(path, replace=replace)
        part.replace(path)
    except OSError as exc:
        raise click.ClickException(f"{target} cannot be written: {exc.strerror}") from exc
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _refuse_to_overwrite(path: Path, *, replace: bool) -> None:
    if path.exists() and not replace:
        raise click.ClickException(f"{path} is there already; --force replaces it")


@contextlib.contextmanager
def _end_on_sigterm() -> Iterator[None]:
    """Let a polite end of the process clean up what it has begun."""

    def end(_number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
