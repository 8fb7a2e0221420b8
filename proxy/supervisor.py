"""Several processes that share one port, and one admin listener for all of them.

What belongs here: starting workers, starting them again when they die, passing signals on, and showing their metrics
and readiness as one. What does not: serving (proxy.app). Workers know nothing of each other: limits meet in Redis,
entries in the ledger, and each has an outbox of its own.
"""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Final

import structlog
from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector

from proxy.settings.holder import SettingsHolder
from proxy.settings.types import ProxySettings
from proxy.tasks import Tasks
from proxy.telemetry.logs import log_failure
from proxy.telemetry.metrics import Metrics, merge
from proxy.web.admin import AdminServer

_log = structlog.get_logger(__name__)

RESTART_AFTER_S: Final = 1.0
POLL_S: Final = 1.0
ASK_S: Final = 2.0
KILL_AFTER_S: Final = 15.0
"""Beyond the drain time, until a worker that does not end is killed."""


def worker_admin_listen(proxy: ProxySettings, worker: int) -> str:
    """Return where the admin listener of a worker is: a Unix socket in the state folder."""
    return f"unix:{Path(proxy.state_dir).absolute() / f'worker-{worker}.sock'}"


class _Worker:
    """One worker process."""

    def __init__(self, number: int, count: int, config_dir: Path, log_level: str, socket: str) -> None:
        self.number = number
        self._arguments = [
            "serve",
            "--config",
            str(config_dir),
            "--workers",
            str(count),
            "--worker",
            str(number),
            "--log-level",
            log_level,
        ]
        self._socket = socket
        self._process: asyncio.subprocess.Process | None = None
        self.stopping = False
        self.ready = False
        self.restarts = 0

    async def run(self) -> None:
        """Keep the process running until it is to stop."""
        while not self.stopping:
            self._process = await asyncio.create_subprocess_exec(sys.executable, "-m", "proxy", *self._arguments)
            code = await self._process.wait()
            self.ready = False
            if not self.stopping:
                self.restarts += 1
                _log.error("worker_died", worker=self.number, code=code)
                await asyncio.sleep(RESTART_AFTER_S)

    def signal(self, number: signal.Signals) -> None:
        """Pass a signal on."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def ask(self, path: str) -> tuple[int, bytes]:
        """Ask the worker's admin listener; status 0: no answer."""
        try:
            async with (
                ClientSession(connector=UnixConnector(self._socket), timeout=ClientTimeout(total=ASK_S)) as session,
                session.get(f"http://worker{path}") as answer,
            ):
                return answer.status, await answer.read()
        except (ClientError, OSError, TimeoutError):
            return 0, b""

    async def watch(self) -> None:
        """Ask again and again whether it is ready."""
        while True:
            status, _ = await self.ask("/readyz")
            self.ready = status == 200  # noqa: PLR2004
            await asyncio.sleep(POLL_S)


async def serve_many(holder: SettingsHolder, config_dir: Path, count: int, log_level: str) -> None:
    """Run ``count`` workers until SIGTERM or SIGINT; SIGHUP reloads them all."""
    proxy = holder.current.proxy
    workers = [
        _Worker(number, count, config_dir, log_level, worker_admin_listen(proxy, number).removeprefix("unix:"))
        for number in range(count)
    ]
    tasks = Tasks(log_failure)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _signal_all, workers, signal.SIGHUP)
    metrics = Metrics()
    metrics.watch("tollgate_worker_restarts_total", "", lambda: sum(worker.restarts for worker in workers))

    async def scrape() -> bytes:
        answers = await asyncio.gather(*[worker.ask("/metrics") for worker in workers])
        return merge([metrics.render(), *[body for status, body in answers if status]])

    admin = AdminServer(
        proxy.admin_listen,
        metrics,
        lambda: {f"worker_{worker.number}": worker.ready for worker in workers},
        draining=stop.is_set,
        scrape=scrape,
    )
    runs = [tasks.spawn(worker.run(), f"worker-{worker.number}") for worker in workers]
    watches = [tasks.watch(worker.watch(), f"watch-{worker.number}") for worker in workers]
    await admin.start()
    try:
        await stop.wait()
    finally:
        await _stop(workers, runs, proxy.timeouts.drain_s + KILL_AFTER_S)
        for watch in watches:
            watch.cancel()
        await admin.close()


def _signal_all(workers: list[_Worker], number: signal.Signals) -> None:
    for worker in workers:
        worker.signal(number)


async def _stop(workers: list[_Worker], runs: list[asyncio.Task[None]], patience_s: float) -> None:
    for worker in workers:
        worker.stopping = True
    _signal_all(workers, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            await asyncio.gather(*runs)
            return
    _signal_all(workers, signal.SIGKILL)
    await asyncio.gather(*runs, return_exceptions=True)
