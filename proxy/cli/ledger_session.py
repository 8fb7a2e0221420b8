"""What every command that works on the ledger shares.

What belongs here: reading the settings, opening and migrating the database, reading amounts, times and
durations that an operator typed, and telling errors without a traceback. What does not: the commands.
"""

import asyncio
import getpass
import os
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from proxy.clock import unix_ms
from proxy.core.calendar import zone
from proxy.core.money import pico_from_euros
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerError
from proxy.ledger.location import Location, locate
from proxy.ledger.migrations import migrate
from proxy.settings.loader import load_settings
from proxy.settings.mistakes import SettingsError
from proxy.settings.types import Settings

T = TypeVar("T")
_UNITS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION: Final = re.compile(r"([0-9]{1,6})([smhdw])")

config_option: Final = click.option(
    "--config",
    "config_dir",
    type=click.Path(path_type=Path),
    default=Path("config"),
    show_default=True,
    help="Folder of the configuration.",
)
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def read_settings(config_dir: Path) -> Settings:
    """Return the settings. Raises ``click.ClickException`` with every mistake."""
    try:
        return load_settings(config_dir, os.environ)
    except SettingsError as exc:
        raise click.ClickException(str(exc)) from exc


def with_ledger(settings: Settings, work: Callable[[Database, Location], Awaitable[T]]) -> T:
    """Open the ledger that the settings name, run the work on it, and close it.

    Raises:
        click.ClickException: whatever the ledger has against it, in words for an operator.
    """
    location = locate(settings.proxy)

    async def migrated(database: Database) -> T:
        await migrate(location.database_url)
        return await work(database, location)

    return on_database(location.database_url, migrated)


def on_database(url: str, work: Callable[[Database], Awaitable[T]], *, command_timeout_s: float = 10.0) -> T:
    """Open a database as it is, run the work on it, and close it.

    Raises:
        click.ClickException: as ``with_ledger``.
    """

    async def run() -> T:
        database = Database.open(url, pool_size=1, command_timeout_s=command_timeout_s)
        try:
            return await work(database)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except (LedgerError, ValueError) as exc:
        raise click.ClickException(str(exc)) from exc


def operator() -> str:
    """Return who runs the command, for the history."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid {os.getuid()}"


def time_text(at_ms: int | None, timezone: str = "UTC") -> str:
    """Return a time for people, to the second, with its offset; empty for None."""
    if at_ms is None:
        return ""
    return datetime.fromtimestamp(at_ms // 1000, zone(timezone)).isoformat(sep=" ")


class Euros(click.ParamType[int]):
    """A positive amount of euros, exact; becomes pico-euros."""

    name = "euros"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Parse it; a bad one ends the command with exit code 2."""
        try:
            amount_pico = pico_from_euros(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if amount_pico <= 0:
            self.fail(f"not a positive amount of euros: {value!r}", param, ctx)
        return amount_pico


class Duration(click.ParamType[int]):
    """A length of time such as 24h, 30m, 7d; becomes milliseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Parse it; a bad one ends the command with exit code 2."""
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail(f"not a duration (a number and s, m, h, d or w): {value!r}", param, ctx)
        return int(match[1]) * _UNITS_MS[match[2]]


class Expiry(click.ParamType[int]):
    """An end: a duration from now, or a date or time (ISO 8601, UTC by default); becomes Unix ms."""

    name = "expiry"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Parse it; a bad one ends the command with exit code 2."""
        if isinstance(value, int):
            return value
        text = str(value)
        if _DURATION.fullmatch(text):
            return unix_ms() + Duration().convert(text, param, ctx)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"neither a duration (90d) nor a date (2027-06-30): {value!r}", param, ctx)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp()) * 1000


class LastDay(click.ParamType[str | int]):
    """A last day: a date as it is, or a duration from now, which becomes milliseconds."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | int:  # noqa: ANN401
        """Parse it; a bad one ends the command with exit code 2."""
        text = str(value)
        if _DURATION.fullmatch(text):
            return Duration().convert(text, param, ctx)
        try:
            return date.fromisoformat(text).isoformat()
        except ValueError:
            self.fail(f"neither a date (2027-12-31) nor a duration (365d): {value!r}", param, ctx)


EUROS: Final = Euros()
DURATION: Final = Duration()
EXPIRY: Final = Expiry()
LAST_DAY: Final = LastDay()
