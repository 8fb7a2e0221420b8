"""Real servers for the tests, each with its own folder and port, ended by their process id."""

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.ports import free_port


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 30.0) -> None:
    """Wait until something listens on the port, or fail when the process ends first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on {port}")


def stop(process: subprocess.Popen[bytes], seconds: float = 10.0) -> None:
    """End a process that we started: politely, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def redis_server(folder: Path, port: int | None = None, *options: str) -> Iterator[str]:
    """Run a real redis-server (7 or newer) and yield its URL."""
    port = port or free_port()
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen(
            [
                "redis-server",
                "--port",
                str(port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                str(folder),
                *options,
            ],
            stdout=log,
            stderr=log,
        )
    try:
        wait_for_port(port, process)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        stop(process)


class RedisCluster:
    """A cluster of primaries without replicas, each of which can be killed and started again on its own.

    A node without the others' slots goes on: what is tested is who misses what it had.
    """

    def __init__(self, folder: Path, primaries: int = 3, *options: str) -> None:
        self._folder, self._options = folder, options
        self._share = -(-16_384 // primaries)  # how many slots each has
        self.ports = [free_port() for _ in range(primaries)]
        self._bus_ports = [free_port() for _ in range(primaries)]
        self._running: list[subprocess.Popen[bytes] | None] = [None] * primaries

    @property
    def url(self) -> str:
        """URL of the first node."""
        return f"redis://127.0.0.1:{self.ports[0]}/0"

    @property
    def urls(self) -> str:
        """URL that names every node."""
        return "redis://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def create(self) -> None:
        """Start the nodes, give each the same number of slots, and wait until each knows what the others have."""
        for number in range(len(self.ports)):
            self.start(number)
        for number in range(len(self.ports)):
            last = min(16_384, self._share * (number + 1)) - 1
            self.ask(number, "CLUSTER", "ADDSLOTSRANGE", str(self._share * number), str(last))
            self.ask(number, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for number in range(1, len(self.ports)):
            self.ask(number, "CLUSTER", "MEET", "127.0.0.1", str(self.ports[0]), str(self._bus_ports[0]))
        self.wait_until_whole()

    def wait_until_whole(self, seconds: float = 20.0) -> None:
        """Wait until every node sees every other, and the slots of all."""
        deadline = time.monotonic() + seconds
        for number in range(len(self.ports)):
            while not self._is_whole(number):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the cluster does not come together: {self.ask(number, 'CLUSTER', 'NODES')}")
                time.sleep(0.02)

    def _is_whole(self, number: int) -> bool:
        said = dict(line.split(":") for line in self.ask(number, "CLUSTER", "INFO").split() if ":" in line)
        healthy = (said["cluster_state"], said["cluster_slots_ok"], said["cluster_size"])
        return healthy == ("ok", "16384", str(len(self.ports))) and "fail" not in self.ask(number, "CLUSTER", "NODES")

    def ask(self, number: int, *words: str) -> str:
        """Give a node a command, and return what redis-cli prints."""
        command = ["redis-cli", "-e", "-p", str(self.ports[number]), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout

    def start(self, number: int) -> None:
        """Start a node: it knows its slots and the others, as far as it had got."""
        folder = self._folder / f"node-{number}"
        folder.mkdir(exist_ok=True)
        port, bus_port = str(self.ports[number]), str(self._bus_ports[number])
        command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        command += ["--cluster-enabled", "yes", "--cluster-port", bus_port, "--cluster-node-timeout", "15000"]
        command += ["--cluster-require-full-coverage", "no", *self._options]
        with (folder / "redis.log").open("ab") as log:
            process = self._running[number] = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for_port(self.ports[number], process)

    def kill(self, number: int) -> None:
        """``kill -9`` a node: what it had in memory is lost."""
        process = self._running[number]
        if process is not None:
            process.kill()
            process.wait()

    def owner_of(self, account: str) -> int:
        """Return the number of the primary that has an account as long as no slot has moved."""
        return int(self.ask(0, "CLUSTER", "KEYSLOT", account)) // self._share

    def add_replica(self, of: int) -> int:
        """Start a node that follows another, wait until it has what that one has, and return its number."""
        number = len(self.ports)
        self.ports.append(free_port())
        self._bus_ports.append(free_port())
        self._running.append(None)
        self.start(number)
        self.ask(number, "CLUSTER", "MEET", "127.0.0.1", str(self.ports[of]), str(self._bus_ports[of]))
        primary_id = self.ask(of, "CLUSTER", "MYID").strip()
        self._await(number, ("CLUSTER", "NODES"), primary_id)
        self.ask(number, "CLUSTER", "REPLICATE", primary_id)
        self._await(number, ("INFO", "replication"), "master_link_status:up")
        for other in range(number):
            self._await(other, ("CLUSTER", "NODES"), f"slave {primary_id}")
        return number

    def _await(self, number: int, words: tuple[str, ...], text: str, seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.ask(number, *words):
            if time.monotonic() > deadline:
                raise TimeoutError(f"node {number} does not say {text!r} to {words}")
            time.sleep(0.02)

    def move(
        self,
        slot: int,
        source: int,
        target: int,
        pause: Callable[[], None] = lambda: None,
        before_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Bring a slot and its keys from one node to another, as ``redis-cli --cluster reshard`` does.

        Args:
            pause: called when both nodes know of the move, and before the first key moves.
            before_end: called when all keys have moved, and before anybody is told whose the slot is now.
        """
        source_id, target_id = (self.ask(number, "CLUSTER", "MYID").strip() for number in (source, target))
        self.ask(target, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", source_id)
        self.ask(source, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", target_id)
        pause()
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", str(slot), "100").split():
            port = str(self.ports[target])
            self.ask(source, "MIGRATE", "127.0.0.1", port, "", "0", "5000", "KEYS", *keys)
        before_end()
        for number in (target, source):
            self.ask(number, "CLUSTER", "SETSLOT", str(slot), "NODE", target_id)

    def close(self) -> None:
        """End every node."""
        for process in self._running:
            if process is not None:
                stop(process)


@contextlib.contextmanager
def redis_cluster(folder: Path, primaries: int = 3, *options: str) -> Iterator[RedisCluster]:
    """Run a Redis Cluster of some primaries."""
    cluster = RedisCluster(folder, primaries, *options)
    try:
        cluster.create()
        yield cluster
    finally:
        cluster.close()


def _postgres_bin(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(found[-1]) if found else shutil.which(name) or name


@contextlib.contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """Run a real PostgreSQL and yield the URL of an empty database; as root it runs as the user ``postgres``."""
    port = free_port()
    data = folder / "data"
    demote: dict[str, object] = {}
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        for parent in (folder, *folder.parents):  # pytest makes its folders for root only
            if parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
        demote = {"user": "postgres", "group": "postgres", "extra_groups": []}
    subprocess.run(
        [
            _postgres_bin("initdb"),
            "-D",
            str(data),
            "-U",
            "tollgate",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "-N",
        ],
        check=True,
        capture_output=True,
        cwd="/",
        **demote,  # type: ignore[call-overload]
    )
    with (folder / "postgres.log").open("ab") as log:
        process = subprocess.Popen(  # type: ignore[call-overload]
            [
                _postgres_bin("postgres"),
                "-D",
                str(data),
                "-p",
                str(port),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                f"unix_socket_directories={folder}",
                "-c",
                "max_connections=50",
            ],
            stdout=log,
            stderr=log,
            cwd="/",
            **demote,
        )
    try:
        wait_for_port(port, process)
        _wait_until_ready(port)
        yield f"postgresql://tollgate@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(2) if process.poll() is None else None  # SIGINT: fast shutdown
        stop(process)


def _wait_until_ready(port: int) -> None:
    for _ in range(300):
        if (
            subprocess.run(
                [_postgres_bin("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)], check=False
            ).returncode
            == 0
        ):
            return
        time.sleep(0.05)
    raise TimeoutError("PostgreSQL does not get ready")


def create_database(server_url: str, name: str) -> None:
    """Create an empty database on a server that we started."""
    subprocess.run(
        [_postgres_bin("psql"), "-q", "-v", "ON_ERROR_STOP=1", "-c", f'CREATE DATABASE "{name}"', server_url],
        check=True,
        capture_output=True,
    )


S3_KEY_ID = "AKIDTOLLGATETESTS"
S3_SECRET = "a-secret-of-the-tests"


@contextlib.contextmanager
def s3_server(folder: Path, port: int | None = None) -> Iterator[str]:
    """Run a real S3-compatible object store (SeaweedFS) and yield its URL; a bucket is made by whoever writes to it."""
    port = port or free_port()
    identity = {"name": "tests", "credentials": [{"accessKey": S3_KEY_ID, "secretKey": S3_SECRET}]}
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity | {"actions": ["Admin", "Read", "Write", "List"]}]}))
    (folder / "data").mkdir(exist_ok=True)
    # Ports of its own for every part: those for gRPC would else be 10,000 higher, which may be none.
    ports = {part: free_port() for part in _SEAWEED_PORTS}
    with (folder / "seaweed.log").open("ab") as log:
        process = subprocess.Popen(
            [
                Path(sys.executable).with_name("weed"),
                "server",
                f"-dir={folder / 'data'}",
                "-ip=127.0.0.1",
                "-filer",
                "-s3",
                f"-s3.port={port}",
                f"-s3.config={config}",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-s3.iam=false",
                "-volume.max=50",
                "-master.volumeSizeLimitMB=256",
                *(f"-{part}={number}" for part, number in ports.items()),
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        wait_for_port(ports["master.port"], process)
        _wait_for_volume(f"http://127.0.0.1:{ports['master.port']}/dir/assign")
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


def _wait_for_volume(url: str, seconds: float = 30.0) -> None:
    """Wait until the store's master has a place for files."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if "fid" in json.load(answer):
                return
        if time.monotonic() > deadline:
            raise TimeoutError("the object store has no place for files")
        time.sleep(0.1)


_SEAWEED_PORTS = [
    f"{part}.port{kind}"
    for part in ("master", "volume", "filer", "s3")
    for kind in ("", ".grpc")
    if part + kind != "s3"
]
