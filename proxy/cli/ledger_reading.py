"""The ledger for commands that only read it, however long that takes.

What belongs here: opening it as it is. What does not: commands that change something (ledger_session.py).
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import click

from proxy.cli.ledger_session import on_database
from proxy.ledger.database import Database
from proxy.ledger.location import locate
from proxy.ledger.migrations import is_migrated
from proxy.settings.types import ProxySettings

T = TypeVar("T")
STATEMENT_S: Final = 3600.0
"""For one statement: a large month takes its time."""

_SQLITE: Final = "sqlite:///"


def with_ledger_untouched(proxy: ProxySettings, work: Callable[[Database], Awaitable[T]]) -> T:
    """Run the work on the ledger as it is: neither made nor migrated.

    Raises:
        click.ClickException: there is none, or it does not answer, or another version of this program made it.
    """
    url = locate(proxy).database_url
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).is_file():
        raise click.ClickException(f"there is no ledger in {proxy.state_dir}")

    async def untouched(database: Database) -> T:
        if not await is_migrated(database):
            raise click.ClickException(
                "the ledger is not of this version of tollgate; any other command brings an older one up to date"
            )
        return await work(database)

    return on_database(url, untouched, command_timeout_s=STATEMENT_S)
