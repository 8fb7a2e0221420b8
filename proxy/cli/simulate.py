"""``tollgate simulate``: a month of the ledger replayed against other tiers and other prices.

What belongs here: the command, and opening the ledger so that nothing in it can change. What does not: the replay
(replay/), and what is printed (simulation_text.py).
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import msgspec
from rich.console import Console

from proxy.cli.ledger_reading import with_ledger_untouched
from proxy.cli.ledger_session import config_option, json_option
from proxy.cli.progress import progress
from proxy.cli.simulation_text import Asked, print_simulation, simulation_document
from proxy.core.calendar import is_month
from proxy.core.pricing import UnpricedError
from proxy.ledger.database import Database
from proxy.ledger.months_entries import MonthsEntries
from proxy.replay.month import MissingTiersError, replay_month
from proxy.replay.proposal import Proposal, ProposalError
from proxy.replay.rating import Rating
from proxy.replay.report import Simulation
from proxy.settings.loader import load_settings
from proxy.settings.mistakes import Mistake, SettingsError
from proxy.settings.types import Settings

NAMES_MAX: Final = 5
RETRIES_MAX: Final = 10


class Hold(click.ParamType[int | None]):
    """What a call holds while it runs: what it used in the end (becomes None), or so many output tokens at least."""

    name = "used|cap=N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:  # noqa: ANN401
        """Parse it; a bad one ends the command with exit code 2."""
        text = str(value)
        if text == "used":
            return None
        number = text.removeprefix("cap=")
        if number == text or not number.isascii() or not number.isdigit() or not 0 < int(number) < 10**9:
            self.fail(f"neither 'used' nor 'cap=' and a number of output tokens: {value!r}", param, ctx)
        return int(number)


@click.command()
@click.option("--month", required=True, help="YYYY-MM, each account's own.")
@click.option("--tiers", type=click.Path(path_type=Path), help="Instead of the configuration's tiers.yaml.")
@click.option("--prices", type=click.Path(path_type=Path), help="Instead of the configuration's prices.yaml.")
@click.option("--tier", help="Give every account this tier; each has its own, by default.")
@click.option("--price-version", help="Rate every call with this version; with the one then in force, by default.")
@click.option("--account", help="Of this account only.")
@click.option("--hold", type=Hold(), default="used", show_default=True, help="What a call holds while it runs.")
@click.option(
    "--retries",
    type=click.IntRange(0, RETRIES_MAX),
    default=0,
    show_default=True,
    help="How often a refused call comes again, at Retry-After.",
)
@click.option("--rows", type=click.IntRange(0), default=50, show_default=True, help="Accounts in the table; 0: all.")
@click.option("--no-progress", is_flag=True, help="Show no progress, however long it takes.")
@json_option
@config_option
def simulate(
    *,
    month: str,
    tiers: Path | None,
    prices: Path | None,
    tier: str | None,
    price_version: str | None,
    account: str | None,
    hold: int | None,
    retries: int,
    rows: int,
    no_progress: bool,
    as_json: bool,
    config_dir: Path,
) -> None:
    """Replay a month of the ledger against other tiers and prices.

    Shows which calls would have been refused, and what revenue would change. Nothing is written.
    """
    if not is_month(month):
        raise click.BadParameter(f"not a month (YYYY-MM): {month!r}", param_hint="--month")
    settings = _read_settings(config_dir, tiers, prices)
    proposal = _proposal(settings, tier, price_version, hold, retries)

    async def work(database: Database) -> Simulation:
        with progress("calls replayed", shown=not no_progress) as told:
            return await replay_month(MonthsEntries(database), proposal, month, account, told)

    try:
        simulation = with_ledger_untouched(settings.proxy, work)
    except MissingTiersError as exc:
        _fail(_missing(str(tiers or config_dir / "tiers.yaml"), exc))
    except ProposalError as exc:
        _fail([str(exc)])
    asked = Asked(tiers, prices, tier, price_version, hold, retries)
    if as_json:
        click.echo(msgspec.json.encode(simulation_document(simulation, asked)))
    else:
        print_simulation(Console(), simulation, asked, rows)


def _read_settings(config_dir: Path, tiers: Path | None, prices: Path | None) -> Settings:
    """Return the settings as they would be with the proposed files; with any mistake the command ends with 2."""
    given = {"tiers.yaml": tiers, "prices.yaml": prices}
    instead = {name: path for name, path in given.items() if path is not None}
    try:
        return load_settings(config_dir, os.environ, instead=instead)
    except SettingsError as exc:
        _fail(map(str, exc.mistakes))


def _proposal(
    settings: Settings, tier: str | None, price_version: str | None, cap: int | None, retries: int
) -> Proposal:
    if tier is not None and tier not in settings.tiers:
        known = ", ".join(sorted(settings.tiers))
        raise click.BadParameter(f"there is no tier {tier!r}; there are: {known}", param_hint="--tier")
    try:
        rating = Rating(settings.prices, price_version)
    except UnpricedError as exc:
        raise click.BadParameter(str(exc), param_hint="--price-version") from exc
    hold_ttl_ms = settings.proxy.limiter.hold_ttl_s * 1000
    return Proposal(settings.tiers, rating, settings.models, tier, cap, retries, hold_ttl_ms)


def _missing(file: str, error: MissingTiersError) -> Iterator[str]:
    for tier, names in error.holders.items():
        more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
        who = f"{', '.join(names[:NAMES_MAX])}{more}"
        yield str(Mistake(file, None, "tiers", f"there is no tier {tier!r}, which accounts hold: {who}"))


def _fail(lines: Iterable[str]) -> NoReturn:
    """Say what is wrong with what was asked for, a line each, and end the command with 2."""
    for line in lines:
        click.echo(line, err=True)
    raise click.exceptions.Exit(2)
