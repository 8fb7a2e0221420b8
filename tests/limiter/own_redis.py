"""A Redis of a test's own, for what would disturb others."""

import os
import signal
from contextlib import ExitStack, suppress
from pathlib import Path

import redis

from tests.support.ports import free_port
from tests.support.services import redis_server


class Server:
    """A Redis of one's own, that can be stalled, killed and started again, empty."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options, self.port = folder, options, free_port()
        self._running = ExitStack()
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._running.enter_context(redis_server(self.folder, self.port, *self.options))
        with self.client() as client:
            self.pid = int(client.info("server")["process_id"])

    def client(self) -> "redis.Redis[bytes]":
        return redis.Redis(port=self.port)

    def stall(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._running.close()

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.go_on()
        self._running.close()
