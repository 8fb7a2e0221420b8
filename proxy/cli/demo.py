"""``tollgate demo``: a running proxy with nothing to prepare, for the first five minutes.

What belongs here: a demo account and key on first start, and the simulated cluster when no upstream is named. What does
not: serving (proxy.app) and what is printed (greeting.py).
"""

import contextlib
import os
import shlex
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console

from proxy.app import App
from proxy.app import serve as serve_one
from proxy.cli.greeting import Greeting, write_batch, write_sound
from proxy.cli.ledger_session import config_option
from proxy.cli.serve import load_holder, run
from proxy.clock import unix_ms
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.directory import Directory
from proxy.ledger.errors import DuplicateAccountError
from proxy.ledger.keys import Keys
from proxy.ledger.location import locate
from proxy.ledger.migrations import migrate
from proxy.settings.holder import SettingsHolder
from proxy.settings.types import Settings
from proxy.simulator import Options, SimulatedCluster
from proxy.telemetry.logs import configure

ACCOUNT: Final = "demo"
TIER: Final = "tier1"
KEY_FILE: Final = "demo-key.json"
SOUND_FILE: Final = "demo.wav"
BATCH_FILE: Final = "demo-batch.jsonl"


class _Kept(msgspec.Struct, frozen=True):
    """The demo key, as it is kept."""

    id: str
    token: str


@click.command()
@config_option
@click.option("--tokens-per-second", type=float, default=60.0, show_default=True, help="Pace of the simulated cluster.")
def demo(config_dir: Path, tokens_per_second: float) -> None:
    """Run the proxy with a demo account; without TOLLGATE_UPSTREAM, in front of a simulated cluster."""
    configure("warning")
    run(_demo(config_dir, Options(tokens_per_second=tokens_per_second)))


async def _demo(config_dir: Path, options: Options) -> None:
    if os.environ.get("TOLLGATE_UPSTREAM"):
        await _serve(config_dir, "TOLLGATE_UPSTREAM")
        return
    async with SimulatedCluster(options) as cluster:
        os.environ["TOLLGATE_UPSTREAM"] = cluster.url
        await _serve(config_dir, f"a simulated cluster at {cluster.url}")


async def _serve(config_dir: Path, upstream: str) -> None:
    holder = load_holder(config_dir)
    token = await _demo_token(holder.current)
    await serve_one(holder, started=lambda app: _greet(app, holder, token, upstream, config_dir))


async def _demo_token(settings: Settings) -> str:
    """Return the token of the demo account's key; both are made on the first start.

    A key is shown once, so a demo that is started again could not print a command that works: this one key, and no
    other, is kept in the state folder, readable by its owner only.
    """
    place = locate(settings.proxy)
    await migrate(place.database_url)
    kept = place.state_dir / KEY_FILE
    database = Database.open(place.database_url)
    try:
        with contextlib.suppress(DuplicateAccountError):
            await Accounts(database).create(ACCOUNT, TIER, credit_pico=settings.tiers[TIER].purchase_credit_pico or 0)
        if kept.exists():
            token = msgspec.json.decode(kept.read_bytes(), type=_Kept).token
            if await _is_valid(database, token):
                return token
        made = await Keys(database).create(ACCOUNT)
    finally:
        await database.close()
    kept.touch(mode=0o600)
    kept.chmod(0o600)
    kept.write_bytes(msgspec.json.encode(_Kept(made.key.id, made.token)))
    return made.token


async def _is_valid(database: Database, token: str) -> bool:
    directory = Directory(database)
    await directory.refresh()
    return directory.authenticate(token, unix_ms()) is not None


def _greet(app: App, holder: SettingsHolder, token: str, upstream: str, config_dir: Path) -> None:
    """Print everything that a newcomer needs."""
    proxy = holder.current.proxy
    host = proxy.listen.rpartition(":")[0]
    where = f"--config {shlex.quote(str(config_dir))} " if str(config_dir) != "config" else ""
    prefix = "".join(
        f"{name}={shlex.quote(os.environ[name])} "
        for name in ("TOLLGATE_STATE_DIR", "TOLLGATE_DATABASE_URL")
        if os.environ.get(name)
    )
    greeting = Greeting(
        url=f"http://{host}:{app.port}",
        token=token,
        models=holder.current.models,
        sound=locate(proxy).state_dir / SOUND_FILE,
        batch=locate(proxy).state_dir / BATCH_FILE,
        usage_command=f"{prefix}.venv/bin/tollgate usage {where}--account {ACCOUNT}",
    )
    write_sound(greeting.sound)
    if greeting.chat_model is not None:
        write_batch(greeting.batch, greeting.chat_model)
    say = Console(highlight=False, soft_wrap=True).print
    say(f"\n[bold]Tollgate[/bold] listens on {greeting.url}, in front of {upstream}.", markup=True)
    say(f"Limits: {'Redis' if proxy.redis_url else 'in memory'}; ledger: "
        f"{'PostgreSQL' if proxy.database_url else 'SQLite in ' + proxy.state_dir}; "
        f"metrics: http://{proxy.admin_listen}/metrics", markup=False)  # fmt: skip
    for line in greeting.lines():
        say(line, markup=False)
