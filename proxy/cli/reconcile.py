"""``tollgate reconcile``: everything that is derived, held against the ledger's entries, and put right from them.

What belongs here: the command. What does not: the comparisons (reconciling/), and what is printed (reconcile_text.py).
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from aiohttp import ClientSession
from rich.console import Console

from proxy.cli.ledger_reading import with_ledger_untouched
from proxy.cli.ledger_session import config_option, json_option, operator, read_settings
from proxy.cli.progress import progress
from proxy.cli.reconcile_text import Outcome, outcome_document, print_outcome, repaired_text
from proxy.clock import unix_ms
from proxy.core.calendar import is_month
from proxy.core.money import pico_from_euros
from proxy.ledger.database import Database
from proxy.ledger.errors import UnknownAccountError
from proxy.ledger.location import locate
from proxy.ledger.store import Ledger
from proxy.limiter.redis import RedisLimiter
from proxy.reconciling.findings import Source, Threshold
from proxy.reconciling.reconciling import ENGINE_TOLERANCE_PERCENT, Asked, Reconciler, is_sound
from proxy.reconciling.scraping import metrics_url
from proxy.settings.types import ProxySettings, Settings

_ANY_ADDRESS: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - where to ask, not to listen


class EurosOrNone(click.ParamType[int]):
    """An amount of euros, 0 or more, exact; becomes pico-euros."""

    name = "euros"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Parse it; a bad one ends the command with exit code 2."""
        if isinstance(value, int):
            return value
        try:
            amount_pico = pico_from_euros(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if amount_pico < 0:
            self.fail(f"below 0: {value!r}", param, ctx)
        return amount_pico


class MetricsUrl(click.ParamType[str]):
    """Where a serving process is asked; without a path ``/metrics`` is meant."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Parse it; a bad one ends the command with exit code 2."""
        try:
            return metrics_url(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


@click.command()
@click.option("--month", help="YYYY-MM, each account's own; every month, by default.")
@click.option("--account", help="Of this account only, by name or id.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    type=click.Choice([source.value for source in Source]),
    help="Compare this one only, and fail if that cannot be done. May be repeated.",
)
@click.option("--repair", is_flag=True, help="Put rollups and budgets right, from the entries; then compare again.")
@click.option(
    "--threshold",
    "pico",
    type=EurosOrNone(),
    default=0,
    help="Euros up to which a difference is let pass.  [default: 0]",
)
@click.option(
    "--threshold-units",
    "units",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="The same of tokens, minutes and calls.",
)
@click.option(
    "--metrics",
    multiple=True,
    type=MetricsUrl(),
    help="Admin listener of a serving process; name every one. By default the configuration's own.",
)
@click.option(
    "--engine-tolerance",
    type=click.IntRange(0, 100),
    default=ENGINE_TOLERANCE_PERCENT,
    show_default=True,
    help="Per cent that engines may have generated beyond what was charged.",
)
@click.option("--rows", type=click.IntRange(0), default=50, show_default=True, help="Differences shown; 0: all.")
@click.option("--no-progress", is_flag=True, help="Show no progress, however long it takes.")
@json_option
@config_option
def reconcile(
    *,
    month: str | None,
    account: str | None,
    sources: tuple[str, ...],
    repair: bool,
    pico: int,
    units: int,
    metrics: tuple[str, ...],
    engine_tolerance: int,
    rows: int,
    no_progress: bool,
    as_json: bool,
    config_dir: Path,
) -> None:
    """Compare rollups, limiter, metrics, invoices and engines with the ledger's entries.

    Exit code 1: something has drifted. Nothing is written without --repair, and entries never are.
    """
    if month is not None and not is_month(month):
        raise click.BadParameter(f"not a month (YYYY-MM): {month!r}", param_hint="--month")
    settings = read_settings(config_dir)
    named = frozenset(map(Source, sources)) | ({Source.METRICS} if metrics else frozenset())
    asked = Asked(
        sources=frozenset(map(Source, sources)) or frozenset(Source),
        month=month,
        account=account,
        metrics=metrics or (_own_metrics(settings.proxy),),
        metrics_are_all=bool(metrics) or not (settings.proxy.redis_url or settings.proxy.database_url),
        threshold=Threshold(pico, units),
        engine_tolerance_percent=engine_tolerance,
    )

    async def work(database: Database) -> Outcome:
        with progress("entries", shown=not no_progress) as told:
            return await _reconcile(settings, database, asked, told, repair=repair, quiet=as_json)

    outcome = with_ledger_untouched(settings.proxy, work)
    sound = is_sound(outcome.findings, named & asked.sources)
    if as_json:
        click.echo(msgspec.json.encode(outcome_document(outcome, sound=sound)))
    else:
        print_outcome(Console(), outcome, rows)
    sys.exit(0 if sound else 1)


async def _reconcile(
    settings: Settings,
    database: Database,
    asked: Asked,
    told: Callable[[int, int], None],
    *,
    repair: bool,
    quiet: bool,
) -> Outcome:
    limits, began_ms = settings.proxy.limiter, unix_ms()
    limiter = None
    if settings.proxy.redis_url is not None:
        # It never asks the ledger here, but it must look for an account where those do that can.
        seed = Ledger(database).seed
        limiter = RedisLimiter(settings.proxy.redis_url, limits.hold_ttl_s * 1000, limits.redis_timeout_ms, seed)
    repaired = []
    try:
        async with ClientSession() as session:
            reconciler = Reconciler(settings, database, locate(settings.proxy), limiter, session, told)
            if repair:
                async for each in reconciler.repair(asked):
                    repaired.append(each)
                    if not quiet:
                        click.echo(repaired_text(each))
            findings = await reconciler.compare(asked)
            return Outcome(tuple(findings), tuple(repaired) if repair else None, operator(), began_ms)
    except UnknownAccountError as exc:
        raise click.BadParameter(str(exc), param_hint="--account") from exc
    finally:
        if limiter is not None:
            await limiter.close()


def _own_metrics(proxy: ProxySettings) -> str:
    """Return where the process of this configuration is asked."""
    host, _, port = proxy.admin_listen.rpartition(":")
    return f"http://{_ANY_ADDRESS.get(host, host)}:{port}/metrics"
