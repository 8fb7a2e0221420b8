"""A proxy as operators run it: ``tollgate serve`` in a process of its own, with its own folder, ports and settings."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.ports import free_port
from tests.support.services import stop, wait_for_port
from tests.support.stack import CONFIG

ROOT = Path(__file__).parents[2]
TOLLGATE = ROOT / ".venv/bin/tollgate"
START_S = 30.0


def eventually(holds: Callable[[], Any], seconds: float = 10.0, every_s: float = 0.05) -> Any:
    """Return what ``holds`` returns as soon as it is true; fail when it does not get so in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = holds()
        if found or time.monotonic() > deadline:
            assert found, f"not within {seconds} s: {getattr(holds, '__doc__', None) or holds}"
            return found
        time.sleep(every_s)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not only its exit code, which nobody may have asked for."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@contextlib.contextmanager
def simulator(folder: Path, tokens_per_second: float = 0) -> Iterator[str]:
    """Run a simulated cluster in a process of its own and yield its base URL."""
    port = free_port()
    command = [sys.executable, "-m", "proxy.simulator", "--port", str(port)]
    with (folder / f"cluster-{port}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--tokens-per-second", str(tokens_per_second)], stdout=log, stderr=log, cwd=ROOT
        )
    try:
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


def generated(cluster_url: str) -> int:
    """Return how many tokens a simulated cluster has generated."""
    return int(Scrape(_get(f"{cluster_url}/metrics")[1]).total("vllm:generation_tokens_total"))


def _get(url: str) -> tuple[int, str]:
    """Ask; status 0: nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()
    except OSError:
        return 0, ""


class Scrape:
    """What /metrics said at one moment."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with this name and these labels; 0 when there is none."""
        wanted = {label.rstrip("_"): text for label, text in labels.items()}
        return sum(
            sample.value for sample in self._samples if sample.name == name and wanted.items() <= sample.labels.items()
        )

    def has(self, name: str) -> bool:
        """Whether there is a sample with this name."""
        return any(sample.name == name for sample in self._samples)


class Tollgate:
    """One ``tollgate serve`` and the commands that go with it. It may be started again on the same state.

    Args:
        folder: where its state and its log are.
        upstream: base URL of the server behind it.
        config: folder of settings; None: those that are shipped.
        environ: more environment variables, ``TOLLGATE_…``.
        arguments: more words for ``tollgate serve``.
    """

    def __init__(
        self,
        folder: Path,
        upstream: str,
        *,
        config: Path = CONFIG,
        environ: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.config = config
        self.port, self.admin_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.state = folder / "state"
        self.log_path = folder / "tollgate.log"
        self._arguments = arguments
        self._environ = {
            **{name: text for name, text in os.environ.items() if not name.startswith("TOLLGATE_")},
            "TOLLGATE_LISTEN": f"127.0.0.1:{self.port}",
            "TOLLGATE_ADMIN_LISTEN": f"127.0.0.1:{self.admin_port}",
            "TOLLGATE_STATE_DIR": str(self.state),
            "TOLLGATE_UPSTREAM": upstream,
            **(environ or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    # The server

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process, and do not wait for it."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [TOLLGATE, "serve", "--config", str(self.config), *self._arguments],
                stdout=log,
                stderr=log,
                env=self._environ,
                cwd=self.folder,
            )
        return self.process

    def start(self) -> None:
        """Start the process, and wait until it is ready."""
        process = self.launch()
        deadline = time.monotonic() + START_S
        while self.readiness()[0] != 200:
            assert process.poll() is None, f"it ended with {process.returncode}: {self.log()}"
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def kill(self) -> None:
        """``kill -9``."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def terminate(self, seconds: float = 40.0) -> int:
        """Send SIGTERM and return the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(seconds)

    def log(self) -> str:
        """Return what it has written so far."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def lines(self) -> list[dict[str, Any]]:
        """Return its log so far, line by line."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{") and line.endswith("}")]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return its log lines about one event."""
        return [line for line in self.lines() if line.get("event") == name]

    def children(self) -> list[int]:
        """Return the ids of its child processes: workers of a supervisor; of one that serves, the one that ships."""
        assert self.process is not None
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    # What operators ask

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Ask /readyz; status 0: nobody answers."""
        status, text = _get(f"http://127.0.0.1:{self.admin_port}/readyz")
        return status, json.loads(text) if text else {}

    def metrics(self) -> Scrape:
        """Ask /metrics."""
        status, text = _get(f"http://127.0.0.1:{self.admin_port}/metrics")
        assert status == 200
        return Scrape(text)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ``tollgate`` on the same settings."""
        return subprocess.run(
            [TOLLGATE, *words, "--config", str(self.config)],
            env=self._environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def command(self, *words: str) -> str:
        """Return what a command prints; it must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def create_account(self, name: str, tier: str = "tier1") -> str:
        """Create an account with a key, and return the key; a server that runs, and speaks no TLS, knows it then."""
        self.command("accounts", "create", name, "--tier", tier)
        key = self.create_key(name)["key"]
        if self.process is not None and self.process.poll() is None and self.url.startswith("http:"):
            eventually(lambda: self.knows(key))
        return key

    def create_accounts(self, **tiers: str) -> dict[str, str]:
        """Create accounts with a key each, side by side: name to tier, name to key."""
        with ThreadPoolExecutor() as commands:
            return dict(zip(tiers, commands.map(self.create_account, tiers, tiers.values()), strict=True))

    def create_key(self, account: str, *options: str) -> dict[str, str]:
        """Create a key: its id and itself."""
        made: dict[str, str] = json.loads(self.command("keys", "create", account, "--json", *options))
        return made

    def knows(self, key: str) -> bool:
        """The server takes a key that has been created: it hears of it within a second."""
        asked = urllib.request.Request(f"{self.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
        try:
            with urllib.request.urlopen(asked, timeout=10):
                return True
        except urllib.error.HTTPError as refusal:
            if refusal.code != 401:
                raise
            return False

    def usage(self, account: str) -> dict[str, Any]:
        """Return the document of ``tollgate usage --json``."""
        document: dict[str, Any] = json.loads(self.command("usage", "--account", account, "--json"))
        return document

    def quantity(self, account: str, usage_type: str) -> int:
        """Return how much of a usage type an account used this month."""
        return sum(line["quantity"] for line in self.usage(account)["usage"] if line["type"] == usage_type)


@contextlib.contextmanager
def serving(tollgate: Tollgate) -> Iterator[Tollgate]:
    """Run a server until the block ends, whatever happened to it meanwhile."""
    tollgate.start()
    try:
        yield tollgate
    finally:
        if tollgate.process is not None:
            with contextlib.suppress(ProcessLookupError):
                tollgate.process.send_signal(signal.SIGCONT)
            stop(tollgate.process, 40)


class Gate:
    """A way to a TCP server that can be closed, as when the server dies or the network is cut, and opened again.

    Args:
        target_port: of the server, on 127.0.0.1.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self.port = free_port()
        self._listener: socket.socket | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def open(self) -> None:
        """Let connections through."""
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Cut every connection, and refuse new ones."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target_port))
                self._pairs.append((near, far))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError), source:
            while data := source.recv(65_536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
