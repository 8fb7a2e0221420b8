"""The processes of a measurement: compiled, started on their cores, watched and ended.

The proxy under test has core 0 for itself; upstream, client and Redis share core 1. On a machine with one core
nothing is pinned, and the report says so.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "bench"
PROXY_CORE, OTHER_CORE = 0, 1
PINNED = (os.cpu_count() or 1) > 1
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_IDLE_LOOK_SECONDS, _IDLE_SHARE = 0.4, 0.05
_REQUESTS_UNLIMITED = 100_000_000


class Server:
    """A running process and its port."""

    def __init__(self, name: str, command: list[str], port: int, core: int, env: dict[str, str] | None = None):
        self.name, self.port = name, port
        self._log = (WORK / f"{name}.log").open("wb")
        self._process = subprocess.Popen(
            [*pinned(core), *command],
            cwd=ROOT,
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.5):
                return
            time.sleep(0.02)
        self.stop()
        raise SystemExit(f"{self.name} does not listen on {self.port}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the end of what it printed."""
        return (WORK / f"{self.name}.log").read_text(errors="replace")[-2000:]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Return the processor time that it and its workers have used (``/proc/PID/stat``: utime, stime)."""
        return sum(_own_cpu_seconds(pid) for pid in _with_children(self._process.pid))

    def loop_seconds(self) -> float:
        """Return the part of it that the first thread has used: the event loop, without workers and other threads."""
        return _own_cpu_seconds(self._process.pid, f"task/{self._process.pid}/stat")

    def wait_until_idle(self, seconds_max: float = 30.0) -> float:
        """Wait until it has nothing left to do (a ledger to write, say); return how long that took.

        What it still does after the load is part of the load's cost, and must not disturb what is measured next.
        """
        started = time.monotonic()
        used = self.cpu_seconds()
        while time.monotonic() - started < seconds_max:
            time.sleep(_IDLE_LOOK_SECONDS)
            before, used = used, self.cpu_seconds()
            if used - before <= _IDLE_SHARE * _IDLE_LOOK_SECONDS:
                break
        return time.monotonic() - started - _IDLE_LOOK_SECONDS

    def stop(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(40)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()


def pinned(core: int) -> list[str]:
    """Return the words that run a command on one core."""
    return ["taskset", "-c", str(core)] if PINNED else []


def _own_cpu_seconds(pid: int, file: str = "stat") -> float:
    try:
        fields = Path(f"/proc/{pid}/{file}").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def _with_children(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, path.read_text().split())
    return found


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compile_tools() -> None:
    """Compile upstream and client when their source is newer."""
    WORK.mkdir(parents=True, exist_ok=True)
    for name in ("upstream", "client"):
        source, program = ROOT / "bench" / "load" / f"{name}.c", WORK / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", program, source], check=True)


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """End a server when the block ends."""
    try:
        yield server
    finally:
        server.stop()


def start_upstream() -> Server:
    """Start the C upstream."""
    port = free_port()
    return Server("upstream", [str(WORK / "upstream"), str(port)], port, OTHER_CORE)


def start_giant(answer_bytes: int) -> Server:
    """Start the upstream of large bodies."""
    port = free_port()
    words = [sys.executable, "bench/giant.py", "--port", str(port), "--answer-bytes", str(answer_bytes)]
    return Server("giant", words, port, OTHER_CORE)


def start_redis() -> Server:
    """Start a Redis that keeps nothing on disk."""
    port = free_port()
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    return Server("redis", words, port, OTHER_CORE)


def start_baseline(upstream: Server, name: str = "baseline") -> Server:
    """Start the bare passthrough."""
    port = free_port()
    words = [sys.executable, "bench/baseline.py", "--port", str(port), "--upstream", _url(upstream)]
    return Server(name, words, port, PROXY_CORE)


def start_tollgate(upstream: Server, redis: Server | None, name: str = "tollgate") -> tuple[Server, str]:
    """Start Tollgate with everything on, and an account whose requests window never fills; return a key too.

    ``redis`` None keeps the limits in memory.
    """
    config, state = WORK / f"{name}-config", WORK / f"{name}-state"
    for folder in (config, state):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "config", config)
    tiers = config / "tiers.yaml"
    raised, count = re.subn(r"(?m)^(\s+requests:).*$", rf"\1 {_REQUESTS_UNLIMITED}", tiers.read_text())
    if not count:
        raise SystemExit("no tier in config/tiers.yaml sets requests: the limit cannot be raised")
    tiers.write_text(raised)
    port = free_port()
    env = {
        "TOLLGATE_LISTEN": f"127.0.0.1:{port}",
        "TOLLGATE_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
        "TOLLGATE_STATE_DIR": str(state),
        "TOLLGATE_UPSTREAM": _url(upstream),
    }
    if redis is not None:
        env["TOLLGATE_REDIS_URL"] = f"redis://127.0.0.1:{redis.port}/0"
    program = str(Path(sys.executable).with_name("tollgate"))
    _run([program, "accounts", "create", "bench", "--tier", "monthly", "--config", str(config)], env)
    created = _run([program, "keys", "create", "bench", "--json", "--config", str(config)], env)
    server = Server(name, [program, "serve", "--config", str(config)], port, PROXY_CORE, env)
    return server, json.loads(created)["key"]


def _run(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"
