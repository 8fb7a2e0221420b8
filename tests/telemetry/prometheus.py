"""A real Prometheus of the test's own, and what it answers."""

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.support.ports import free_port
from tests.support.services import stop

SCRAPE_INTERVAL_S = 1


class Prometheus:
    """A running server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[float]:
        """The values of an instant query, now.

        Raises:
            ValueError: it is no PromQL; the message is Prometheus's own.
        """
        body = urllib.parse.urlencode({"query": expression}).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query", body, timeout=10) as answer:
                data = json.load(answer)["data"]
        except urllib.error.HTTPError as refused:
            raise ValueError(json.load(refused)["error"]) from None
        return [float(series["value"][1]) for series in data["result"]]

    def label_values(self, metric: str, label: str) -> list[str]:
        """What Grafana's ``label_values(metric, label)`` gives."""
        query = urllib.parse.urlencode({"match[]": metric})
        with urllib.request.urlopen(f"{self.url}/api/v1/label/{label}/values?{query}", timeout=10) as answer:
            values: list[str] = json.load(answer)["data"]
        return values

    def wait_for(self, expression: str, seconds: float) -> None:
        """Wait until a query has an answer."""
        deadline = time.monotonic() + seconds
        while not self.query(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer to {expression} within {seconds} s")
            time.sleep(0.2)


@contextlib.contextmanager
def running_prometheus(folder: Path, target_port: int, rules: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes one target as the job ``tollgate``."""
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(
        json.dumps(  # JSON is YAML
            {
                "global": {"scrape_interval": f"{SCRAPE_INTERVAL_S}s", "evaluation_interval": "1s"},
                "rule_files": [str(rules)],
                "scrape_configs": [
                    {"job_name": "tollgate", "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}]}
                ],
            }
        )
    )
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
        )  # fmt: skip
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")
        _wait_until_ready(server.url, process, folder / "prometheus.log")
        yield server
    finally:
        stop(process)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/-/ready", timeout=2):
            return
        time.sleep(0.1)
    raise RuntimeError(f"Prometheus does not get ready:\n{log.read_text()[-2000:]}")
