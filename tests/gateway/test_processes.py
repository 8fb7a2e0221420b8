"""``tollgate serve`` as operators run it: workers, signals, TLS, and stores that go away."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.ports import free_port
from tests.support.process import Gate, Tollgate, eventually, is_running, serving, simulator
from tests.support.services import redis_server
from tests.support.stack import ROUTE, chat, write_config

TIERS = """
tiers:
  wide:
    {title: Wide, purchase_credit: none, monthly_limit: 1000, output_tokens_hour: 1000000,
      output_tokens_day: 10000000, requests: 100000}
  forty:
    {title: Forty, purchase_credit: none, monthly_limit: 1000, output_tokens_hour: 1000000,
      output_tokens_day: 10000000, requests: 40, requests_window_s: 86400}
"""
SHARE = 40 // 4
"""Of forty requests, what is admitted while Redis is away."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with simulator(tmp_path_factory.mktemp("cluster")) as url:
        yield url


@pytest.fixture(scope="module")
def shipped_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped settings, but for tiers of our own and a Redis that is soon given up."""
    config = write_config(tmp_path_factory.mktemp("config"), proxy=("redis_timeout_ms: 1000", "redis_timeout_ms: 500"))
    (config / "tiers.yaml").write_text(TIERS)
    return config


@pytest.fixture
def config(tmp_path: Path, shipped_config: Path) -> Path:
    """A copy that a test may change."""
    config = write_config(tmp_path)
    for file in shipped_config.iterdir():
        (config / file.name).write_text(file.read_text())
    return config


def ask(tollgate: Tollgate, key: str, content: str = "Bonjour", **more: object) -> httpx.Response:
    """Make a call over a connection of its own."""
    return httpx.post(
        tollgate.url + ROUTE,
        json=chat(content, **{"max_tokens": 3, **more}),
        headers={"Authorization": f"Bearer {key}"},
        timeout=30,
    )


def ask_until_known(tollgate: Tollgate, key: str) -> None:
    """Wait until a replica has read a new key."""
    eventually(lambda: ask(tollgate, key).status_code == 200)


def everything_shipped(tollgate: Tollgate) -> None:
    eventually(lambda: tollgate.metrics().total("tollgate_outbox_entries") == 0)


# Several workers


@pytest.fixture
def two_workers(tmp_path: Path, cluster: str, shipped_config: Path, redis_url: str) -> Iterator[Tollgate]:
    tollgate = Tollgate(
        tmp_path / "two",
        cluster,
        config=shipped_config,
        environ={"TOLLGATE_REDIS_URL": redis_url},
        arguments=("--workers", "2"),
    )
    with serving(tollgate):
        yield tollgate


def worker_metric(tollgate: Tollgate, worker: int, name: str) -> float:
    """Ask one worker alone."""
    from tests.support.process import Scrape

    transport = httpx.HTTPTransport(uds=str(tollgate.state / f"worker-{worker}.sock"))
    with httpx.Client(transport=transport) as client:
        return Scrape(client.get("http://worker/metrics").text).total(name)


def test_two_workers_share_a_port_and_are_shown_as_one(two_workers):
    key = two_workers.create_account("acme", "wide")
    ask_until_known(two_workers, key)
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: ask(two_workers, key), range(60)))
    known = [answer for answer in answers if answer.status_code == 200]  # the other worker may learn of the key later
    assert len(known) > 30

    assert two_workers.readiness() == (
        200,
        {"ready": True, "draining": False, "checks": {"worker_0": True, "worker_1": True}},
    )
    everything_shipped(two_workers)
    each = [worker_metric(two_workers, worker, "tollgate_charged_calls_total") for worker in (0, 1)]
    assert min(each) > 0, "one worker does everything"
    assert (
        two_workers.metrics().total("tollgate_charged_calls_total") == sum(each) == two_workers.usage("acme")["calls"]
    )
    assert {path.name for path in two_workers.state.glob("outbox-?.db")} == {"outbox-0.db", "outbox-1.db"}


def test_a_worker_that_is_killed_is_started_again(two_workers):
    key = two_workers.create_account("acme", "wide")
    before = two_workers.children()
    ask_until_known(two_workers, key)
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: len(set(two_workers.children()) - set(before)) == 1)
    eventually(lambda: two_workers.readiness()[0] == 200)
    assert two_workers.metrics().total("tollgate_worker_restarts_total") == 1
    assert set(before) & set(two_workers.children()) == {before[1]}
    assert two_workers.events("worker_died")
    for _ in range(20):
        assert ask(two_workers, key).status_code == 200


def test_several_workers_without_redis_are_refused(tmp_path, cluster, shipped_config):
    done = Tollgate(tmp_path / "one", cluster, config=shipped_config).run("serve", "--workers", "2")
    assert done.returncode == 1
    assert "several workers need a redis_url" in done.stderr
    assert "Traceback" not in done.stderr


# The process that ships


def shipping_of(tollgate: Tollgate) -> int:
    """Process id of what ships a server's entries."""
    return eventually(tollgate.children, 5)[0]


def test_when_the_process_that_ships_is_killed_another_goes_on_and_nothing_is_lost(tmp_path, cluster, shipped_config):
    tollgate = Tollgate(tmp_path / "one", cluster, config=shipped_config)
    with serving(tollgate):
        key = tollgate.create_account("acme", "wide")
        ask_until_known(tollgate, key)
        everything_shipped(tollgate)
        before = tollgate.usage("acme")["calls"]
        for _ in range(2):
            shipping = shipping_of(tollgate)
            for _ in range(5):
                assert ask(tollgate, key).status_code == 200
            os.kill(shipping, signal.SIGKILL)
            eventually(lambda shipping=shipping: shipping_of(tollgate) != shipping)
            for _ in range(5):
                assert ask(tollgate, key).status_code == 200
        assert tollgate.usage("acme")["calls"] == before + 20, "what waits in the outbox counts, too"
        everything_shipped(tollgate)
        assert tollgate.usage("acme")["calls"] == before + 20
        assert len(tollgate.events("shipping_died")) == 2
        assert ask(tollgate, key).status_code == 200
        shipping = shipping_of(tollgate)
        os.kill(shipping, signal.SIGTERM)  # as from whoever ends all processes of a group at once
        assert tollgate.terminate() == 0
    assert not list_of_pending(tollgate)
    assert not Path(f"/proc/{shipping}").exists()
    assert tollgate.usage("acme")["calls"] == before + 21
    assert len(tollgate.events("shipping_died")) == 2


def test_the_process_that_ships_ends_with_a_server_that_is_killed(tmp_path, cluster, shipped_config):
    tollgate = Tollgate(tmp_path / "one", cluster, config=shipped_config)
    with serving(tollgate):
        shipping = shipping_of(tollgate)
        tollgate.kill()
        eventually(lambda: not is_running(shipping), 20)


def test_a_price_version_that_comes_with_a_reload_is_kept_with_its_entries(tmp_path, cluster, config):
    with serving(Tollgate(tmp_path / "one", cluster, config=config)) as tollgate:
        key = tollgate.create_account("acme", "wide")
        ask_until_known(tollgate, key)
        everything_shipped(tollgate)
        prices = config / "prices.yaml"
        old = prices.read_text()
        version = old[old.index("  - id:") :].replace('"2025-01"', '"new"').replace("input: 1.80", "input: 2.80")
        effective = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + 1))
        prices.write_text(f"{old}\n{version.replace('2025-01-01T00:00:00+01:00', effective)}")
        tollgate.signal(signal.SIGHUP)
        eventually(lambda: tollgate.metrics().total("tollgate_settings_reloads_total", result="taken") == 1)
        time.sleep(1.1)
        assert ask(tollgate, key).status_code == 200
        everything_shipped(tollgate)
        with contextlib.closing(sqlite3.connect(tollgate.state / "ledger.db")) as ledger:
            assert ledger.execute("SELECT id FROM price_versions ORDER BY id").fetchall() == [("2025-01",), ("new",)]
            rated = ledger.execute("SELECT price_version FROM entries ORDER BY settled_ms DESC LIMIT 1").fetchone()
        assert rated == ("new",)


# The end


class Slow:
    """Calls that are under way when the end comes: a stream, a whole answer, and a body that is still being sent."""

    def __init__(self, tollgate: Tollgate, key: str) -> None:
        self._tollgate, self._key = tollgate, key
        self.ids: list[str] = []

    def whole(self) -> None:
        answer = ask(self._tollgate, self._key, "SIM:tokens=40 SIM:rate=20", max_tokens=50)
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 40
        self.ids.append(answer.headers["x-request-id"])

    def stream(self) -> None:
        answer = ask(self._tollgate, self._key, "SIM:tokens=40 SIM:rate=20", max_tokens=50, stream=True)
        assert answer.text.endswith("data: [DONE]\n\n")  # httpx has read the last chunk, or it would have raised
        self.ids.append(answer.headers["x-request-id"])

    def upload(self) -> None:
        body = json.dumps(chat("x" * 1000, max_tokens=3)).encode()
        head = (
            f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self._tollgate.port), 20) as connection:
            connection.sendall(head.encode() + body[:400])
            time.sleep(1.5)
            connection.sendall(body[400:])
            answer = httpx.Headers()
            received = b""
            while piece := connection.recv(65_536):
                received += piece
        lines = received.partition(b"\r\n\r\n")[0].decode().split("\r\n")
        assert lines[0] == "HTTP/1.1 200 OK", received
        answer = httpx.Headers([line.split(": ", 1) for line in lines[1:]])
        self.ids.append(answer["x-request-id"])


@pytest.mark.parametrize("workers", [1, 2])
def test_the_end_lets_calls_in_flight_end_whole(tmp_path, cluster, shipped_config, redis_url, workers):
    tollgate = Tollgate(
        tmp_path / "one",
        cluster,
        config=shipped_config,
        environ={"TOLLGATE_REDIS_URL": redis_url},
        arguments=("--workers", str(workers)),
    )
    with serving(tollgate), ThreadPoolExecutor(16) as clients, httpx.Client() as idle:
        key = tollgate.create_account("acme", "wide")
        ask_until_known(tollgate, key)
        time.sleep(0.5)
        idle.post(tollgate.url + ROUTE, json=chat(max_tokens=1), headers={"Authorization": f"Bearer {key}"})
        slow = Slow(tollgate, key)
        calls: list[Future[None]] = [
            clients.submit(call) for call in (slow.whole, slow.stream, slow.upload) for _ in range(3)
        ]
        time.sleep(0.7)
        began = time.monotonic()
        tollgate.signal(signal.SIGTERM)
        eventually(lambda: not is_listening(tollgate.port), 2)
        for call in calls:
            call.result(20)
        assert tollgate.process.wait(20) == 0
        assert time.monotonic() - began < 10
    usage = tollgate.usage("acme")
    assert usage["calls"] >= len(slow.ids) + 2
    assert len(set(slow.ids)) == len(calls)
    assert not list_of_pending(tollgate), "what was settled has not been shipped"
    assert len(tollgate.events("stopped")) == workers


def is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def list_of_pending(tollgate: Tollgate) -> list[object]:
    """Entries that are left in the outboxes of a proxy that has ended."""
    found: list[object] = []
    for path in tollgate.state.glob("outbox-?.db"):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            found += connection.execute("SELECT seq FROM groups UNION ALL SELECT 1 FROM checkpoints").fetchall()
    return found


def test_a_second_server_on_the_same_state_is_refused(tmp_path, cluster, shipped_config):
    with serving(Tollgate(tmp_path / "one", cluster, config=shipped_config)) as first:
        second = Tollgate(
            tmp_path / "two", cluster, config=shipped_config, environ={"TOLLGATE_STATE_DIR": str(first.state)}
        )
        process = second.launch()
        assert process.wait(20) == 1
        assert "is in use by another process" in second.log()
        assert "Traceback" not in second.log()
        assert first.readiness()[0] == 200


# Settings and listeners


def test_a_reload_takes_good_settings_and_keeps_the_old_ones_when_the_new_are_wrong(tmp_path, cluster, config):
    with serving(Tollgate(tmp_path / "one", cluster, config=config)) as tollgate:
        key = tollgate.create_account("acme", "forty")
        ask_until_known(tollgate, key)
        tiers = config / "tiers.yaml"

        def limit() -> str:
            return ask(tollgate, key).headers["X-RateLimit-Limit-Requests"]

        def reloads(result: str) -> float:
            return tollgate.metrics().total("tollgate_settings_reloads_total", result=result)

        tiers.write_text(TIERS.replace("requests: 40,", "requests: many,"))
        tollgate.signal(signal.SIGHUP)
        eventually(lambda: reloads("refused") == 1)
        assert limit() == "40"
        assert tollgate.events("settings_kept")
        assert "tiers.yaml" in str(tollgate.events("settings_mistake"))

        tiers.write_text(TIERS.replace("requests: 40,", "requests: 41,"))
        tollgate.signal(signal.SIGHUP)
        eventually(lambda: reloads("taken") == 1)
        assert limit() == "41"


def test_the_listener_speaks_tls(tmp_path, cluster, config):
    certificate, private_key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", private_key],
        check=True,
        capture_output=True,
    )  # fmt: skip
    with (config / "proxy.yaml").open("a") as file:
        file.write(f"\ntls_certificate: {certificate}\ntls_key: {private_key}\n")
    with serving(Tollgate(tmp_path / "one", cluster, config=config)) as tollgate:
        tollgate.url = tollgate.url.replace("http:", "https:")
        key = tollgate.create_account("acme", "wide")
        trusting = ssl.create_default_context(cafile=certificate)
        with httpx.Client(verify=trusting, headers={"Authorization": f"Bearer {key}"}) as client:
            eventually(lambda: client.post(tollgate.url + ROUTE, json=chat(max_tokens=3)).status_code == 200)
            for stream in (False, True):
                answer = client.post(tollgate.url + ROUTE, json=chat(max_tokens=50, stream=stream))
                assert answer.status_code == 200
                assert stream == answer.text.endswith("data: [DONE]\n\n")
        with pytest.raises(httpx.ConnectError):  # who does not trust it is not served
            httpx.post(tollgate.url + ROUTE, json=chat(), timeout=10)


# Stores that go away


def test_calls_go_on_without_redis_within_the_share_and_are_handed_over_afterwards(tmp_path, cluster, shipped_config):
    with redis_server(tmp_path) as redis_url:
        pid = redis_pid(redis_url)
        tollgate = Tollgate(tmp_path / "one", cluster, config=shipped_config, environ={"TOLLGATE_REDIS_URL": redis_url})
        with serving(tollgate):
            key = tollgate.create_account("acme", "forty")
            ask_until_known(tollgate, key)
            with_redis = [ask(tollgate, key) for _ in range(4)]
            assert "X-RateLimit-Degraded" not in with_redis[-1].headers
            used = 40 - int(with_redis[-1].headers["X-RateLimit-Remaining-Requests"])

            os.kill(pid, signal.SIGSTOP)
            try:
                alone = [ask(tollgate, key) for _ in range(SHARE + 5)]
                assert [answer.status_code for answer in alone] == [200] * SHARE + [429] * 5
                assert {answer.headers["X-RateLimit-Degraded"] for answer in alone} == {"true"}
                assert tollgate.metrics().total("tollgate_limiter_degraded") == 1
                assert "the limiter is away" in tollgate.log()
                assert tollgate.readiness()[0] == 200, "it can still serve"
            finally:
                os.kill(pid, signal.SIGCONT)

            eventually(lambda: tollgate.metrics().total("tollgate_limiter_degraded") == 0)
            assert "the limiter is back" in tollgate.log()
            after = ask(tollgate, key)
            assert after.status_code == 200
            assert "X-RateLimit-Degraded" not in after.headers
            remaining = int(after.headers["X-RateLimit-Remaining-Requests"])
            # Redis may have taken the call that it did not answer; it is then counted twice, never not at all.
            assert 40 - used - SHARE - 1 - 1 <= remaining <= 40 - used - SHARE - 1
            everything_shipped(tollgate)
            assert tollgate.usage("acme")["calls"] == used + SHARE + 1


def redis_pid(url: str) -> int:
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2].split("/")[0]))) as connection:
        connection.sendall(b"INFO server\r\n")
        text = connection.recv(65_536).decode()
    return int(text.partition("process_id:")[2].split()[0])


def test_calls_go_on_without_postgresql_and_nothing_is_lost(tmp_path, cluster, shipped_config, postgres_database):
    server, _, name = postgres_database.rpartition("/")
    gate = Gate(int(server.rpartition(":")[2]))
    gate.open()
    environ = {"TOLLGATE_DATABASE_URL": f"postgresql://tollgate@127.0.0.1:{gate.port}/{name}"}
    tollgate = Tollgate(tmp_path / "one", cluster, config=shipped_config, environ=environ)
    try:
        with serving(tollgate):
            key = tollgate.create_account("acme", "wide")
            ask_until_known(tollgate, key)
            everything_shipped(tollgate)
            before = tollgate.usage("acme")["calls"]

            gate.close()
            ids = {ask(tollgate, key).headers["x-request-id"] for _ in range(20)}
            assert len(ids) == 20
            eventually(lambda: tollgate.metrics().total("tollgate_outbox_entries") == 20)
            assert tollgate.readiness()[0] == 200, "it can still serve"
            eventually(lambda: tollgate.events("shipping_fails"))
            tollgate.kill()

            gate.open()
            tollgate.start()
            everything_shipped(tollgate)
            assert tollgate.usage("acme")["calls"] == before + 20
    finally:
        gate.close()


def test_without_its_database_it_does_not_start_and_says_why(tmp_path, cluster, shipped_config):
    environ = {"TOLLGATE_DATABASE_URL": f"postgresql://tollgate:secret-word@127.0.0.1:{free_port()}/nothing"}
    tollgate = Tollgate(tmp_path / "one", cluster, config=shipped_config, environ=environ)
    process = tollgate.launch()
    assert process.wait(30) == 1
    assert "Traceback" not in tollgate.log()
    assert "secret-word" not in tollgate.log()
    assert tollgate.log().strip()
