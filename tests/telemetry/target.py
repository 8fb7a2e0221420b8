"""What Prometheus scrapes while the dashboard is tried: ``tollgate serve`` under calls of every kind.

A simulated cluster stands behind it; both are processes of their own. Calls come over HTTP, as customers make them:
streams and whole answers, some broken off, some refused, some with mistakes, and batches beside them.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp

from tests.support.ports import free_port
from tests.support.services import stop, wait_for_port

ROOT = Path(__file__).parents[2]
TOLLGATE = ROOT / ".venv/bin/tollgate"
MODELS = ("gpt-oss:120b", "gemma3:27b")
REQUESTS_SMALL = 25
"""Requests a minute of the account that is to be refused."""

PROMPTS = (
    *["write a few words SIM:tokens=12"] * 6,
    "the same beginning again SIM:tokens=8 SIM:cached=4",
    "SIM:tokens=8 SIM:no-usage",
    "SIM:drop",
    "SIM:status=500",
)


def _config(folder: Path) -> Path:
    """The project's own settings, but for a tier that is soon refused."""
    config = folder / "config"
    shutil.copytree(ROOT / "config", config)
    tiers = config / "tiers.yaml"
    before, tier4, after = re.split(r"(^  tier4:.*?(?=^  monthly:))", tiers.read_text(), flags=re.MULTILINE | re.DOTALL)
    tiers.write_text(before + tier4.replace("requests: 1000", f"requests: {REQUESTS_SMALL}") + after)
    return config


class _Tollgate:
    """A running ``tollgate serve`` and its commands."""

    def __init__(self, folder: Path, upstream_port: int) -> None:
        self.folder = folder
        self.config = _config(folder)
        self.port, self.admin_port = free_port(), free_port()
        self.environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("TOLLGATE_")},
            "TOLLGATE_LISTEN": f"127.0.0.1:{self.port}",
            "TOLLGATE_ADMIN_LISTEN": f"127.0.0.1:{self.admin_port}",
            "TOLLGATE_STATE_DIR": str(folder / "state"),
            "TOLLGATE_UPSTREAM": f"http://127.0.0.1:{upstream_port}",
        }

    def command(self, *words: str) -> str:
        """What a command prints."""
        done = subprocess.run(
            [TOLLGATE, *words, "--config", str(self.config)],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def key_of_new_account(self, name: str, tier: str) -> str:
        """Create an account and return a key of it."""
        self.command("accounts", "create", name, "--tier", tier)
        key: str = json.loads(self.command("keys", "create", name, "--json"))["key"]
        return key

    def serve(self, log: Path) -> subprocess.Popen[bytes]:
        """Start the server."""
        return _process([str(TOLLGATE), "serve", "--config", str(self.config)], log, self.environment)


def _process(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=log.parent)


async def _one_call(session: aiohttp.ClientSession, key: str, chance: random.Random) -> None:
    model = chance.choice(MODELS)
    body = {"model": model, "messages": [{"role": "user", "content": chance.choice(PROMPTS)}], "max_tokens": 16}
    if chance.random() < 0.5:
        body["stream"] = True
    mistake = chance.random()
    if mistake < 0.05:
        body["model"] = f"no-such-model-{chance.random()}"
    elif mistake < 0.1:
        body["temperature"] = 7
    elif mistake < 0.15:
        key = "tg-nobody"
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with session.post(
            "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}
        ) as answer:
            if chance.random() < 0.05:
                return  # a client that leaves
            await answer.read()


async def _customer(base_url: str, keys: list[str], seed: int, over: threading.Event) -> None:
    chance = random.Random(seed)
    async with aiohttp.ClientSession(base_url, timeout=aiohttp.ClientTimeout(total=10)) as session:
        while not over.is_set():
            await _one_call(session, chance.choice(keys), chance)
            await asyncio.sleep(chance.expovariate(20))


async def _batches(base_url: str, key: str, over: threading.Event) -> None:
    """Create a batch every second, one line of which fails."""
    body = {"model": MODELS[0], "messages": [{"role": "user", "content": "Bonjour SIM:tokens=3"}], "max_tokens": 4}
    wrong = {**body, "messages": [{"role": "user", "content": "SIM:status=400"}]}
    about = {"method": "POST", "url": "/v1/chat/completions"}
    lines = [{**about, "custom_id": str(at), "body": wrong if at == 0 else body} for at in range(10)]
    data = "\n".join(map(json.dumps, lines))
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(base_url, headers=headers, timeout=aiohttp.ClientTimeout(total=10)) as session:
        while not over.is_set():
            form = aiohttp.FormData({"purpose": "batch"})
            form.add_field("file", data, filename="lines.jsonl")
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.post("/v1/files", data=form) as answer:
                    file_id = (await answer.json()).get("id", "")  # a key that is new may be unknown for a moment
                asked = {"input_file_id": file_id, "endpoint": about["url"], "completion_window": "24h"}
                async with session.post("/v1/batches", json=asked) as answer:
                    await answer.read()
            await asyncio.sleep(1)


async def _customers(base_url: str, keys: list[str], over: threading.Event) -> None:
    calling = [_customer(base_url, keys, seed, over) for seed in range(4)]
    await asyncio.gather(*calling, _batches(base_url, keys[0], over))


@contextlib.contextmanager
def running_target(folder: Path) -> Iterator[int]:
    """Run everything, keep calls coming, and yield the port of the admin listener."""
    cluster_port = free_port()
    tollgate = _Tollgate(folder, cluster_port)
    over = threading.Event()
    with contextlib.ExitStack() as running:
        cluster = _process(
            [sys.executable, "-m", "proxy.simulator", "--port", str(cluster_port), "--tokens-per-second", "200"],
            folder / "cluster.log",
            {**os.environ, "PYTHONPATH": str(ROOT)},
        )
        running.callback(stop, cluster)
        server = tollgate.serve(folder / "tollgate.log")
        running.callback(stop, server, 40)
        wait_for_port(cluster_port, cluster)
        wait_for_port(tollgate.port, server)
        with ThreadPoolExecutor() as commands:
            keys = list(commands.map(tollgate.key_of_new_account, ("acme", "globex"), ("tier1", "tier4")))
        customers = threading.Thread(
            target=lambda: asyncio.run(_customers(f"http://127.0.0.1:{tollgate.port}", keys, over))
        )
        customers.start()
        running.callback(customers.join, 15)
        running.callback(over.set)
        yield tollgate.admin_port
