"""Two replicas that know nothing of each other, on one PostgreSQL and one Redis: keys and limits hold on both."""

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.process import Tollgate, eventually, serving, simulator
from tests.support.services import create_database
from tests.support.stack import ROUTE, chat, write_config

ADMITTED = 40
TIERS = f"""
tiers:
  wide:
    {{title: Wide, purchase_credit: none, monthly_limit: 1000, output_tokens_hour: 1000000,
      output_tokens_day: 10000000, requests: 100000}}
  forty:
    {{title: Forty, purchase_credit: none, monthly_limit: 1000, output_tokens_hour: 1000000,
      output_tokens_day: 10000000, requests: {ADMITTED}, requests_window_s: 86400}}
"""
POLL_S = 0.05
FELT_WITHIN_MS = 1000

Replicas = tuple[Tollgate, Tollgate]


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory, redis_url: str, postgres_url: str) -> Iterator[Replicas]:
    """Two servers with state folders and ports of their own."""
    folder = tmp_path_factory.mktemp("replicas")
    name = f"t_{uuid.uuid4().hex}"
    create_database(postgres_url, name)
    config = write_config(folder)
    (config / "tiers.yaml").write_text(TIERS)
    environ = {
        "TOLLGATE_REDIS_URL": redis_url,
        "TOLLGATE_DATABASE_URL": f"{postgres_url.rsplit('/', 1)[0]}/{name}",
    }
    with simulator(folder) as cluster:
        one, two = (Tollgate(folder / part, cluster, config=config, environ=environ) for part in ("one", "two"))
        with serving(one), serving(two):
            yield one, two


@pytest.fixture(scope="module")
def account(replicas: Replicas) -> str:
    replicas[0].command("accounts", "create", "acme", "--tier", "wide")
    return "acme"


class Watch:
    """Calls a replica with a key every 50 ms, and notes when it was let in last and refused first (Unix ms)."""

    def __init__(self, tollgate: Tollgate, key: str) -> None:
        self._tollgate, self._key = tollgate, key
        self._over = threading.Event()
        self.let_in_ms = 0
        self.refused_ms = 0
        self.statuses: Counter[int] = Counter()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        with httpx.Client(base_url=self._tollgate.url, headers=headers) as client:
            while not self._over.is_set():
                asked_ms = time.time_ns() // 1_000_000
                status = client.post(ROUTE, json=chat(max_tokens=1)).status_code
                self.statuses[status] += 1
                if status == 200:
                    self.let_in_ms, self.refused_ms = asked_ms, 0
                elif not self.refused_ms:
                    self.refused_ms = asked_ms
                time.sleep(POLL_S)

    def until_known(self) -> None:
        eventually(lambda: self.let_in_ms)

    def until_refused(self, seconds: float = 10.0) -> None:
        eventually(lambda: self.let_in_ms and self.refused_ms, seconds)

    def end(self) -> None:
        self._over.set()
        self._thread.join(10)
        assert set(self.statuses) <= {200, 401}


@pytest.fixture
def watched(replicas: Replicas) -> Iterator[object]:
    """Watches on both replicas that end with the test."""
    watches: list[Watch] = []

    def watch(key: str) -> list[Watch]:
        new = [Watch(tollgate, key) for tollgate in replicas]
        watches.extend(new)
        return new

    yield watch
    for one in watches:
        one.end()


def key_document(tollgate: Tollgate, key_id: str) -> dict[str, int]:
    (found,) = [key for key in json.loads(tollgate.command("keys", "list", "--json")) if key["id"] == key_id]
    return found


def test_a_revoked_key_is_refused_by_both_within_a_second(replicas, account, watched):
    made = replicas[0].create_key(account)
    watches = watched(made["key"])
    for watch in watches:
        watch.until_known()
    replicas[1].command("keys", "revoke", made["id"])
    returned_ms = time.time_ns() // 1_000_000
    for watch in watches:
        watch.until_refused()
    revoked_ms = key_document(replicas[0], made["id"])["revoked_ms"]
    assert revoked_ms <= returned_ms
    felt_after_ms = [watch.let_in_ms - revoked_ms for watch in watches]
    assert max(felt_after_ms) < FELT_WITHIN_MS, felt_after_ms


def test_a_rotated_key_and_its_successor_overlap(replicas, account, watched):
    old = replicas[0].create_key(account)
    before = watched(old["key"])
    for watch in before:
        watch.until_known()
    new = json.loads(replicas[0].command("keys", "rotate", old["id"], "--overlap", "6s", "--json"))
    after = watched(new["key"])
    for watch in after:
        watch.until_known()
    known_ms = max(watch.let_in_ms for watch in after)
    for watch in before:
        watch.until_refused()
    assert min(watch.let_in_ms for watch in before) > known_ms - 1000, "there was no time to change over"
    ends_ms = key_document(replicas[0], old["id"])["revoked_ms"]
    for watch in before:
        assert watch.let_in_ms < ends_ms <= watch.refused_ms + 100
    assert not any(watch.refused_ms for watch in after)


def test_an_expired_key_is_refused_to_the_moment(replicas, account, watched):
    made = replicas[0].create_key(account, "--expires", "6s")
    watches = watched(made["key"])
    for watch in watches:
        watch.until_refused()
    expires_ms = key_document(replicas[0], made["id"])["expires_ms"]
    for watch in watches:
        assert watch.let_in_ms < expires_ms <= watch.refused_ms + 100


def test_both_replicas_together_admit_no_more_than_the_limit(replicas):
    key = replicas[0].create_account("shared", "forty")
    headers = {"Authorization": f"Bearer {key}"}

    def ask(tollgate: Tollgate) -> int:
        return httpx.post(tollgate.url + ROUTE, json=chat(max_tokens=1), headers=headers, timeout=30).status_code

    def unknown(tollgate: Tollgate) -> bool:
        refused = {"model": "no-such-model", "messages": []}
        return httpx.post(tollgate.url + ROUTE, json=refused, headers=headers).status_code == 401

    for tollgate in replicas:
        eventually(lambda tollgate=tollgate: not unknown(tollgate))
    with ThreadPoolExecutor(16) as clients:
        statuses = Counter(clients.map(ask, [*replicas] * ADMITTED))
    assert statuses == {200: ADMITTED, 429: ADMITTED}
    each = [tollgate.metrics().total("tollgate_calls_total", tier="forty", status="200") for tollgate in replicas]
    assert min(each) > 0, "one replica did everything: nothing is shown"

    def is_there() -> bool:
        return replicas[1].usage("shared")["calls"] == ADMITTED

    eventually(is_there)
