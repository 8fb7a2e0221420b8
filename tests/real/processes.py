"""The two servers of the campaign, a real vLLM and `tollgate serve`, and what is read from each.

Every wait is bounded, every child is ended by its own id, and both listen on 127.0.0.1 only. Nothing here knows what
a call is, or compares anything.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

PROJECT = Path(__file__).resolve().parents[2]
ROOT = Path(os.environ.get("REAL_ROOT") or PROJECT / ".real").resolve()
TOLLGATE = PROJECT / ".venv/bin/tollgate"
MODEL = "scripted"
POOLING = ("--runner", "pooling")

ENGINE_START_S = 300.0
GATEWAY_START_S = 60.0
STOP_S = 30.0
IDLE_S = 60.0
COMMAND_S = 60.0

SAMPLE = re.compile(r"^(vllm:\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class CampaignError(Exception):
    """A server did not start, settle or answer in time: the campaign cannot go on."""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def read_url(url: str) -> str:
    """The body of a GET that answers 200."""
    with urlopen(url, timeout=10) as answer:
        return answer.read().decode()


@contextmanager
def child(command: list[str], log: Path, environment: dict[str, str]):
    """Run a server in its own process group; end it by SIGTERM, and by SIGKILL if it stays."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen) -> None:
    """End a child; its group is its own (start_new_session), so what it started ends with it."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_S)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_ready(process: subprocess.Popen, url: str, within_s: float, log: Path) -> None:
    """Until the URL answers 200; a child that ends before that shows the end of its log."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            read_url(url)
        except (URLError, OSError):
            time.sleep(0.5)
        else:
            return
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
    raise CampaignError(f"{url} did not come up within {within_s:.0f} s; the end of {log}:\n{tail}")


@dataclass(frozen=True, slots=True)
class Counters:
    """What the engine says it has done since it started, from its /metrics."""

    prompt: int
    generated: int
    cached: int  # of the prompt tokens, those found in the prefix cache
    running: int  # calls in work or waiting

    def since(self, before: "Counters") -> "Counters":
        """What was done between two readings."""
        return Counters(
            self.prompt - before.prompt,
            self.generated - before.generated,
            self.cached - before.cached,
            self.running,
        )


class Engine:
    """A running vLLM."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def counters(self) -> Counters:
        """Read /metrics once."""
        sums: dict[str, float] = {}
        for name, value in SAMPLE.findall(read_url(f"{self.base_url}/metrics")):
            sums[name] = sums.get(name, 0.0) + float(value)
        return Counters(
            prompt=int(sums["vllm:prompt_tokens_total"]),
            generated=int(sums.get("vllm:generation_tokens_total", 0)),
            cached=int(sums.get("vllm:prefix_cache_hits_total", 0)),
            running=int(sums["vllm:num_requests_running"] + sums["vllm:num_requests_waiting"]),
        )

    async def idle(self) -> Counters:
        """Wait until nothing runs and three readings in a row agree."""
        deadline = time.monotonic() + IDLE_S
        readings: list[Counters] = []
        while time.monotonic() < deadline:
            readings = [*readings[-2:], await asyncio.to_thread(self.counters)]
            if len(readings) == 3 and len(set(readings)) == 1 and not readings[0].running:
                return readings[0]
            await asyncio.sleep(0.3)
        raise CampaignError(f"the engine is not idle after {IDLE_S:.0f} s: {readings[-1]}")

    async def busy(self, calls: int) -> None:
        """Wait until it has that many calls in work."""
        deadline = time.monotonic() + IDLE_S
        while (found := await asyncio.to_thread(self.counters)).running < calls:
            if time.monotonic() > deadline:
                raise CampaignError(f"the engine works on {found.running} calls, not on {calls}")
            await asyncio.sleep(0.05)


SCRIPTED = (
    *("--max-model-len", "4096"),
    # Cached prompt tokens are in its usage only when asked for.
    "--enable-prompt-tokens-details",
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    # This parser takes every answer for reasoning unless thinking is off: calls that think switch it on.
    *("--reasoning-parser", "qwen3", "--default-chat-template-kwargs", '{"enable_thinking": false}'),
)


@contextmanager
def running_engine(logs: Path, model: str = MODEL, options: tuple[str, ...] = SCRIPTED):
    """A vLLM that serves one of the models."""
    port, log = free_port(), logs / f"engine-{model}.log"
    command = [
        *("nice", "-n", "10", str(ROOT / "venv/bin/vllm"), "serve", str(ROOT / "models" / model)),
        *("--served-model-name", model, "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--enforce-eager", *options),
    ]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    with child(command, log, environment) as process:
        base_url = f"http://127.0.0.1:{port}"
        wait_ready(process, f"{base_url}/health", ENGINE_START_S, log)
        yield Engine(base_url)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the ledger holds of one account this month: calls, and quantities by usage type."""

    calls: int
    input: int
    cached_input: int
    output: int
    reasoning: int
    cost_eur: str
    rerank: int = 0
    audio_minutes: int = 0

    @property
    def prompt(self) -> int:
        """All input tokens."""
        return self.input + self.cached_input

    @property
    def generated(self) -> int:
        """All output tokens."""
        return self.output + self.reasoning


class Gateway:
    """A running Tollgate, and its command line beside it."""

    def __init__(self, base_url: str, config: Path, environment: dict[str, str]) -> None:
        self.base_url = base_url
        self.config = config
        self.environment = environment

    def command(self, *words: str) -> str:
        """The output of one `tollgate` command in this gateway's state folder."""
        done = subprocess.run(
            [TOLLGATE, *words],
            env=self.environment,
            cwd=self.config.parent,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        if done.returncode:
            raise CampaignError(f"tollgate {' '.join(words)} exits {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def open_account(self, name: str) -> str:
        """Create an account; its key."""
        self.command("accounts", "create", name, "--tier", "tier1")
        return json.loads(self.command("keys", "create", name, "--json"))["key"]

    def ledger(self, account: str) -> Ledger:
        """The account's month so far."""
        month = json.loads(self.command("usage", "--account", account, "--json"))
        sums = dict.fromkeys(("input", "cached_input", "output", "reasoning", "rerank", "audio_minutes"), 0)
        for line in month["usage"]:
            sums[line["type"]] += int(line["quantity"])
        return Ledger(calls=month["calls"], cost_eur=month["cost_eur"], **sums)

    async def settled(self, account: str, calls: int, within_s: float) -> Ledger:
        """Poll until the ledger holds that many calls; what it holds by then, or at the end of the time."""
        deadline = time.monotonic() + within_s
        while True:
            ledger = await asyncio.to_thread(self.ledger, account)
            if ledger.calls >= calls or time.monotonic() > deadline:
                return ledger
            await asyncio.sleep(0.5)


def write_config(folder: Path) -> Path:
    """The project's own config with `scripted` as the only model."""
    config = folder / "config"
    shutil.copytree(PROJECT / "config", config)
    (config / "models.yaml").write_text((Path(__file__).parent / "models.yaml").read_text())
    return config


@contextmanager
def running_gateway(engine: Engine, folder: Path, logs: Path):
    """A Tollgate in front of the engine, with its own config, state and ports under the folder."""
    port, admin_port, log = free_port(), free_port(), logs / f"tollgate-{folder.name}.log"
    config = write_config(folder)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOLLGATE_")}
    environment = {
        **inherited,
        "TOLLGATE_LISTEN": f"127.0.0.1:{port}",
        "TOLLGATE_ADMIN_LISTEN": f"127.0.0.1:{admin_port}",
        "TOLLGATE_STATE_DIR": str(folder / "state"),
        "TOLLGATE_UPSTREAM": engine.base_url,
        "TOLLGATE_CONFIG": str(config),
    }
    with child([str(TOLLGATE), "serve", "--config", str(config)], log, environment) as process:
        wait_ready(process, f"http://127.0.0.1:{admin_port}/readyz", GATEWAY_START_S, log)
        yield Gateway(f"http://127.0.0.1:{port}", config, environment)
