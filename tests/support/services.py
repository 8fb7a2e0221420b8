"""Real servers for the tests, each with its own folder and port, ended by their process id."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
