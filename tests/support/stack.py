"""A whole proxy in the test's own process, in front of a simulated cluster: the real thing but for the network."""

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from proxy.app import App
from proxy.clock import unix_ms
from proxy.core.calendar import month_of
from proxy.core.entries import Entry
from proxy.ledger.accounts import Accounts
from proxy.ledger.keys import Keys, NewKey
from proxy.ledger.store import MonthUsage
from proxy.settings.holder import SettingsHolder
from proxy.simulator import Options, SimulatedCluster
from tests.support.ports import free_port

CONFIG = Path(__file__).parents[2] / "config"
ROUTE = "/v1/chat/completions"
MODEL = "gpt-oss:120b"


def chat(content: str = "Bonjour", **more: Any) -> dict[str, Any]:
    """Return a chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **more}


def write_config(folder: Path, **replacements: tuple[str, str]) -> Path:
    """Copy the shipped configuration, with a piece of text replaced in named files (``tiers=("old", "new")``)."""
    target = folder / "config"
    shutil.copytree(CONFIG, target, dirs_exist_ok=True)
    for name, (old, new) in replacements.items():
        path = target / f"{name}.yaml"
        text = path.read_text()
        assert old in text, (name, old)
        path.write_text(text.replace(old, new))
    return target


class Stack:
    """A running proxy, its cluster, and one account with a key.

    Attributes:
        app: the process under test.
        cluster: what stands behind it.
        url: base URL of the customers' listener.
        session: an HTTP client without any retries.
        account: id of the account.
        key: its token.
    """

    def __init__(self, app: App, cluster: SimulatedCluster, session: aiohttp.ClientSession, scheme: str) -> None:
        self.app = app
        self.cluster = cluster
        self.session = session
        self.url = f"{scheme}://127.0.0.1:{app.port}"
        self.admin_url = ""
        self.account = ""
        self.key_id = ""
        self.key = ""

    async def add_account(self, name: str, tier: str) -> NewKey:
        """Create an account with a key, and wait until the proxy knows it."""
        await Accounts(self.app.database).create(name, tier)
        made = await Keys(self.app.database).create(name)
        await self.app.directory.refresh()
        return made

    def auth(self, key: str | None = None) -> dict[str, str]:
        """Return the Authorization header."""
        return {"Authorization": f"Bearer {key or self.key}"}

    def post(self, body: Any, *, key: str | None = None, headers: Mapping[str, str] | None = None, route: str = ROUTE):
        """Make a call; use it as an async context manager."""
        return self.session.post(self.url + route, json=body, headers={**self.auth(key), **(headers or {})})

    async def ask(self, body: Any, **options: Any) -> tuple[int, Any, Mapping[str, str]]:
        """Make a call and read the whole answer: status, parsed body, headers."""
        async with self.post(body, **options) as answer:
            return answer.status, await answer.json(content_type=None), answer.headers

    async def settled(self) -> None:
        """Wait until nothing is in flight and every entry is in the ledger."""
        async with asyncio.timeout(20):
            while self.app.settlement.in_flight or len(self.app.tasks) or self.app.outbox.depth:
                await asyncio.sleep(0.01)

    async def usage(self, account: str | None = None) -> MonthUsage:
        """Return what the ledger says of the present month, once everything is settled."""
        await self.settled()
        return await self.app.ledger.usage(account or self.account, month_of(unix_ms(), "Europe/Paris"))

    async def entries(self, account: str | None = None) -> list[Entry]:
        """Return the entries of the present month, once everything is settled."""
        await self.settled()
        return await self.app.ledger.entries_of(account or self.account, month_of(unix_ms(), "Europe/Paris"))


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    options: Options | None = None,
    tier: str = "tier1",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Stack]:
    """Run a proxy in front of a simulated cluster (burst speed unless told otherwise) until the block ends."""
    async with SimulatedCluster(options or Options(tokens_per_second=0)) as cluster:
        variables = {
            "TOLLGATE_LISTEN": f"127.0.0.1:{free_port()}",
            "TOLLGATE_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
            "TOLLGATE_STATE_DIR": str(folder / "state"),
            "TOLLGATE_UPSTREAM": cluster.url,
            **(environ or {}),
        }
        app = App(SettingsHolder(config or CONFIG, variables), ship_in_process=True)
        await app.start()
        connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True, limit=0)
        try:
            async with aiohttp.ClientSession(connector=connector) as session:
                stack = Stack(app, cluster, session, "https" if tls is not None else "http")
                stack.admin_url = f"http://{variables['TOLLGATE_ADMIN_LISTEN']}"
                made = await stack.add_account("acme", tier)
                stack.account, stack.key_id, stack.key = made.key.account_id, made.key.id, made.token
                yield stack
        finally:
            await app.close()
