"""What large bodies cost: the peak of the proxy's memory while it relays them, above what it needed before.

An upload, an answer, and an answer to a client that reads slowly. The peak is the kernel's own (VmHWM, set back through
``/proc/PID/clear_refs`` before each).
"""

import json
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.processes import Server

MEBIBYTE = 1 << 20
BODY_BYTES = 100 * MEBIBYTE
CEILING_MB = 8.0
"""What a large body may cost above none, in MB."""
_SLOW_BYTES_PER_S = 25 * MEBIBYTE
_BLOCK = bytes(range(256)) * 1024
_BOUNDARY = "bench-boundary"


class Peak:
    """The highest memory of a process since it was set back."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._before = self._mebibytes("VmRSS")

    def _mebibytes(self, name: str) -> float:
        found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{self._pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0

    def grown_mb(self) -> float:
        """Return what it needed at once beyond what it had."""
        return self._mebibytes("VmHWM") - self._before


@dataclass(frozen=True)
class Load:
    """Something large that goes through the proxy once.

    Args:
        name: as the report calls it.
        title: what it does, for readers.
        run: does it: (port, key) -> bytes that came back; raises when that is not a whole 200.
    """

    name: str
    title: str
    run: Callable[[int, str], int]


@dataclass(frozen=True)
class MemoryResult:
    """A load after all rounds."""

    load: Load
    grown_mb: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table rows: the judged figure first."""
        speed = BODY_BYTES / MEBIBYTE / min(self.seconds)
        return [
            (self.load.title, "peak memory, MB", "", f"+{max(self.grown_mb):,.1f}", "", f"< {CEILING_MB:g} MB"),
            ("", "MB/s", "", f"{speed:,.0f}", "", ""),
        ]

    def problem(self) -> str | None:
        """Say what is not good enough, or None."""
        worst = max(self.grown_mb)
        if worst >= CEILING_MB:
            return f"{self.load.name}: {worst:.1f} MB of memory is not under {CEILING_MB:g} MB"
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return {
            "scenario": self.load.name,
            "problem": self.problem(),
            "grown_mb": self.grown_mb,
            "seconds": self.seconds,
        }


def measure_memory(tollgate: Server, key: str, rounds: int) -> list[MemoryResult]:
    """Send each load through, after one of each to warm up."""
    for load in LOADS:
        load.run(tollgate.port, key)
    results = []
    for load in LOADS:
        result = MemoryResult(load)
        for _ in range(rounds):
            tollgate.wait_until_idle()
            peak, started = Peak(tollgate.pid), time.monotonic()
            load.run(tollgate.port, key)
            result.seconds.append(time.monotonic() - started)
            result.grown_mb.append(peak.grown_mb())
        results.append(result)
    return results


def _upload(port: int, key: str) -> int:
    """Upload 54 minutes of sound, as WAVE."""
    head = _part("model", "whisper-large-v3") + _part("file", "", '; filename="a.wav"', "audio/wav")[:-2]
    head += _wave_head(BODY_BYTES)
    tail = f"\r\n--{_BOUNDARY}--\r\n".encode()
    blocks = BODY_BYTES // len(_BLOCK)
    lines = f"Content-Type: multipart/form-data; boundary={_BOUNDARY}\r\n"
    length = len(head) + blocks * len(_BLOCK) + len(tail)
    with _asked(port, key, "/v1/audio/transcriptions", lines, length) as sock:
        sock.sendall(head)
        for _ in range(blocks):
            sock.sendall(_BLOCK)
        sock.sendall(tail)
        return sum(_answer(sock))


def _part(name: str, value: str, more: str = "", kind: str = "") -> bytes:
    typed = f"\r\nContent-Type: {kind}" if kind else ""
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}{typed}'
    return f"{head}\r\n\r\n{value}\r\n".encode()


def _wave_head(size: int) -> bytes:
    sound = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", size + 36, b"WAVE") + sound + struct.pack("<4sI", b"data", size)


def _download(port: int, key: str, bytes_per_s: int = 0) -> int:
    body = json.dumps({"model": "granite-embedding:278m", "input": "Bonjour"}).encode()
    with _asked(port, key, "/v1/embeddings", "Content-Type: application/json\r\n", len(body)) as sock:
        sock.sendall(body)
        size = 0
        started = time.monotonic()
        for got in _answer(sock):
            size += got
            if bytes_per_s:
                time.sleep(max(0.0, size / bytes_per_s - (time.monotonic() - started)))
        return size


def _asked(port: int, key: str, route: str, lines: str, length: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), 60)
    head = f"POST {route} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n"
    sock.sendall(f"{head}{lines}\r\n".encode())
    return sock


def _answer(sock: socket.socket) -> Iterator[int]:
    """Yield the sizes of an answer's pieces. Raises SystemExit when it is not a whole 200."""
    buffer = bytearray(len(_BLOCK))
    got = b""
    while b"\r\n\r\n" not in got and (data := sock.recv(65_536)):
        got += data
    head, _, rest = got.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    if not head.startswith(b"HTTP/1.1 200") or length is None:
        raise SystemExit(f"not an answer: {got[:500]!r}")
    size = len(rest)
    yield size
    while size < int(length[1]):
        count = sock.recv_into(buffer)
        if not count:
            raise SystemExit(f"an answer of {length[1].decode()} bytes ended after {size}")
        size += count
        yield count


def _slowly(port: int, key: str) -> int:
    return _download(port, key, _SLOW_BYTES_PER_S)


LOADS = (
    Load("memory-upload", "a form of 100 MB, to an upstream that swallows it", _upload),
    Load("memory-answer", "embeddings of 100 MB", _download),
    Load("memory-slow", "the same, to a client that takes 25 MB/s", _slowly),
)
