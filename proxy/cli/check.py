"""``tollgate check``: read the whole configuration and say what is wrong with it, or what it amounts to.

What belongs here: printing. What does not: finding mistakes (proxy.settings).
"""

import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Column, Table

from proxy.clock import unix_ms
from proxy.core.catalogue import Model
from proxy.core.money import euros_text
from proxy.core.parties import Seller
from proxy.core.pricing import PriceBook
from proxy.settings.checks import instant_text
from proxy.settings.loader import load_settings
from proxy.settings.mistakes import SettingsError, masked
from proxy.settings.types import Settings


@click.command()
@click.option(
    "--config",
    "config_dir",
    type=click.Path(path_type=Path),
    default=Path("config"),
    show_default=True,
    help="Folder of the configuration.",
)
def check(config_dir: Path) -> None:
    """Check the configuration: every mistake with its file and line, or a summary."""
    try:
        settings = load_settings(config_dir, os.environ)
    except SettingsError as error:
        for mistake in error.mistakes:
            click.echo(str(mistake))
        count = len(error.mistakes)
        click.echo(f"{count} mistake{'s' if count > 1 else ''} in {config_dir}", err=True)
        sys.exit(1)
    _print_summary(settings, config_dir)


def _print_summary(settings: Settings, config_dir: Path) -> None:
    proxy = settings.proxy
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{config_dir} is sound", style="bold green", markup=False)
    facts = {
        "customers": f"{'https' if proxy.tls_key else 'http'}://{proxy.listen}",
        "operators": f"http://{proxy.admin_listen}",
        "limits in": masked(proxy.redis_url) if proxy.redis_url else "memory (no redis_url)",
        "ledger in": masked(proxy.database_url) if proxy.database_url else f"SQLite in {proxy.state_dir}",
        "prices": _prices_text(settings.prices, unix_ms()),
        "seller": _seller_text(settings.seller),
    }
    for name, value in facts.items():
        console.print(f"{name:<10} {value}", markup=False)
    for server in settings.upstreams.values():
        console.print(f"upstream   {server.name}: {server.url} ({server.engine.value})", markup=False)
    console.print(_tiers_table(settings))
    console.print(_models_table(settings))


def _prices_text(prices: PriceBook, now_ms: int) -> str:
    coming = [version for version in prices.versions if version.effective_from_ms > now_ms]
    waiting = ", ".join(f"{version.id} from {instant_text(version.effective_from_ms)}" for version in coming)
    return f"version {prices.version_at(now_ms).id}" + (f"; then {waiting}" if waiting else "")


def _seller_text(seller: Seller | None) -> str:
    if seller is None:
        return "none (no seller.yaml): no invoices can be issued"
    specimen = "; a demonstration: every document is marked as a specimen" if seller.demonstration else ""
    return f"{seller.name}, {seller.legal_form}, SIREN {seller.siren}{specimen}"


def _tiers_table(settings: Settings) -> Table:
    table = Table("tier", "credit", "month", "tokens/hour", "tokens/day", "requests")
    for tier in settings.tiers.values():
        table.add_row(
            tier.id,
            "none" if tier.purchase_credit_pico is None else f"{euros_text(tier.purchase_credit_pico)} €",
            "unlimited" if tier.monthly_limit_pico is None else f"{euros_text(tier.monthly_limit_pico)} €",
            _amount(tier.output_tokens_hour),
            _amount(tier.output_tokens_day),
            f"{tier.requests:,} in {tier.requests_window_s} s",
        )
    return table


def _amount(tokens: int | None) -> str:
    return "unlimited" if tokens is None else f"{tokens:,}"


def _models_table(settings: Settings) -> Table:
    table = Table(Column("model, aliases", overflow="fold"), "endpoints", "upstreams")
    models: dict[str, Model] = {model.id: model for model in settings.models.values()}
    for model in models.values():
        servers = "\n".join(server.name for server in model.upstreams)
        table.add_row("\n".join((model.id, *model.aliases)), "\n".join(model.endpoints), servers)
    return table
