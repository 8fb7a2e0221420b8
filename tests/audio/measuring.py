"""Measuring for tests: whole, cut anywhere; and building files by hand."""

import itertools
import random
import struct
from collections.abc import Iterable
from pathlib import Path

from proxy.core.audio import DurationMeter

FILES = Path(__file__).parent / "files"
SOUNDS = {path.name: path.read_bytes() for path in sorted(FILES.iterdir()) if path.suffix != ".md"}


def measured(*pieces: bytes | memoryview) -> int | None:
    """Feed pieces; return the milliseconds."""
    meter = DurationMeter()
    for piece in pieces:
        meter.feed(piece)
    return meter.duration_ms()


def cut(data: bytes, places: Iterable[int]) -> list[memoryview]:
    """Cut data at these places."""
    ends = [0, *sorted(places), len(data)]
    return [memoryview(data)[start:end] for start, end in itertools.pairwise(ends)]


def chunk(name: bytes, content: bytes, size: int | None = None) -> bytes:
    """A RIFF chunk, which may lie about its size."""
    return name + struct.pack("<I", len(content) if size is None else size) + content + b"\0" * (len(content) % 2)


def wave(content: bytes, *, rate=8000, channels=1, bits=16, tag=1, size=None, block=None, byte_rate=None, riff=None):
    """A WAVE file; sizes and rates may lie."""
    block = channels * bits // 8 if block is None else block
    byte_rate = rate * block if byte_rate is None else byte_rate
    head = struct.pack("<HHIIHH", tag, channels, rate, byte_rate, block, bits)
    body = b"WAVE" + chunk(b"fmt ", head) + chunk(b"data", content, size)
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def box(name: bytes, *contents: bytes, size: int | None = None) -> bytes:
    """An MP4 box, which may lie about its size."""
    content = b"".join(contents)
    return struct.pack(">I4s", len(content) + 8 if size is None else size, name) + content


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that mean nothing, always the same."""
    return random.Random(seed).randbytes(size)
