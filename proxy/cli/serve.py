"""``tollgate serve``: run the proxy until SIGTERM.

What belongs here: options, logs, and the choice between one process and several. What does not: what a process is made
of (proxy.app) and how several are kept running (proxy.supervisor).
"""

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click
import uvloop

from proxy.app import serve as serve_one
from proxy.cli.ledger_session import config_option
from proxy.ledger.errors import LedgerError, OutboxError
from proxy.settings.holder import SettingsHolder
from proxy.settings.mistakes import SettingsError
from proxy.supervisor import serve_many, worker_admin_listen
from proxy.telemetry.logs import configure


@click.command()
@config_option
@click.option(
    "--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes that share a port."
)
@click.option("--worker", type=int, default=None, hidden=True, help="Number of this process among several.")
@click.option(
    "--log-level", default="info", show_default=True, type=click.Choice(["debug", "info", "warning", "error"])
)
def serve(config_dir: Path, workers: int, worker: int | None, log_level: str) -> None:
    """Run the proxy until SIGTERM or SIGINT; SIGHUP reloads the configuration."""
    configure(log_level)
    holder = load_holder(config_dir)
    proxy = holder.current.proxy
    if worker is not None:
        run(serve_one(holder, worker=worker, workers=workers, admin_listen=worker_admin_listen(proxy, worker)))
        return
    if workers == 1:
        run(serve_one(holder))
        return
    if proxy.redis_url is None:
        raise click.ClickException("several workers need a redis_url: limits in memory are each process's own")
    run(serve_many(holder, config_dir, workers, log_level))


def load_holder(config_dir: Path) -> SettingsHolder:
    """Return the settings, or print every mistake and exit with 1."""
    try:
        return SettingsHolder(config_dir, os.environ)
    except SettingsError as error:
        for mistake in error.mistakes:
            click.echo(str(mistake), err=True)
        sys.exit(1)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a process on uvloop; what keeps it from starting is one line, not a traceback."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    except (OSError, LedgerError, OutboxError) as exc:
        raise click.ClickException(str(exc)) from exc
