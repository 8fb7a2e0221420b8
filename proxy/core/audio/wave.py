"""WAVE: RIFF, RF64 and Sony Wave64.

What belongs here: the chunks that matter, and the encodings of WAVE. What does not: MPEG audio that stands in a WAVE
file (mpeg.py).

Sizes are not believed: data goes on to the end of the file where its size is 0 or all ones (a writer that could not
seek back), or where what follows it is no chunk. Several data chunks are added up, as FFmpeg plays them. Neither is the
byte rate: it follows from channels, bits and sample rate, as decoders compute it.
"""

import struct
from collections.abc import Callable
from typing import Final

from proxy.core.audio.cursor import EVERYTHING, Cursor, Steps, skip
from proxy.core.audio.mpeg import read_mpeg
from proxy.core.audio.packing import Packing, linear, packing

W64_RIFF: Final = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_REST: Final = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_W64_HEAD_BYTES: Final = 40
_W64_CHUNK_HEAD_BYTES: Final = 24
_HEAD_BYTES: Final = 12
_CHUNK_HEAD_BYTES: Final = 8
_ALL_ONES: Final = 0xFFFFFFFF
_FORMAT_BYTES: Final = 16
_FORMAT_BYTES_MAX: Final = 40
_TAG_AT: Final = 24
"""Where the format of an extensible header is."""

_EXTENSIBLE: Final = 0xFFFE
_LINEAR: Final = frozenset({0x01, 0x03})
_LAW: Final = frozenset({0x06, 0x07})
_MS_ADPCM: Final = 0x02
_IMA_ADPCM: Final = 0x11
_GSM: Final = 0x31
_MPEG: Final = frozenset({0x50, 0x55})

_Next = Callable[[bytes], tuple[bytes, int]]
"""A chunk's head -> its name and size; no name: it is no chunk."""


def read_wave(cursor: Cursor) -> Steps:
    """Read RIFF or RF64."""
    cursor.at += _HEAD_BYTES
    return (yield from _read_chunks(cursor, _CHUNK_HEAD_BYTES, _riff_chunk, 2))


def read_w64(cursor: Cursor) -> Steps:
    """Read Wave64, whose sizes count the chunk's head."""
    cursor.at += _W64_HEAD_BYTES
    return (yield from _read_chunks(cursor, _W64_CHUNK_HEAD_BYTES, _w64_chunk, 8))


def _riff_chunk(head: bytes) -> tuple[bytes, int]:
    name = head[:4]
    is_name = name.isascii() and name.decode("ascii").isprintable()
    return name if is_name else b"", int.from_bytes(head[4:], "little")


def _w64_chunk(head: bytes) -> tuple[bytes, int]:
    size = int.from_bytes(head[16:], "little") - _W64_CHUNK_HEAD_BYTES
    return head[:4] if head[4:16] == _W64_REST else b"else" if size >= 0 else b"", max(0, size)


def _read_chunks(cursor: Cursor, head_bytes: int, read_head: _Next, alignment: int) -> Steps:
    tag, packed, total, size_64 = 0, None, 0, 0
    while (yield head_bytes) and cursor.step():
        name, size = read_head(cursor.data[cursor.at : cursor.at + head_bytes])
        if not name:
            total += yield from skip(cursor, EVERYTHING if total else 0)
            break
        cursor.at += head_bytes
        read = 0
        if name == b"data":
            if tag in _MPEG:
                return (yield from read_mpeg(cursor))
            if size == _ALL_ONES:
                size = size_64
            total += yield from skip(cursor, size or EVERYTHING)
        else:
            read = min(size, _FORMAT_BYTES_MAX)
            if not (yield read):
                break
            if name == b"fmt ":
                tag, packed = _format(cursor.take(read))
            elif name == b"ds64":
                size_64 = int.from_bytes(cursor.take(read)[8:16], "little")
            else:
                read = 0
            cursor.at += size - read
        cursor.at += -size % alignment
    return packed.milliseconds(total) if packed is not None else None


def _format(chunk: bytes) -> tuple[int, Packing | None]:
    """Return the encoding's tag, and how it packs; None: unknown, or what cannot be."""
    if len(chunk) < _FORMAT_BYTES:
        return 0, None
    tag, channels, rate, _, block_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE and len(chunk) >= _TAG_AT + 2:
        tag = int.from_bytes(chunk[_TAG_AT : _TAG_AT + 2], "little")
    packed = None
    if tag in _LINEAR:
        packed = linear(channels, bits, rate)
    elif tag in _LAW:
        packed = linear(channels, 8, rate)
    elif tag == _GSM:
        packed = packing(65, 320, rate)
    elif channels and tag == _IMA_ADPCM:
        packed = packing(block_bytes, (block_bytes - 4 * channels) * 2 // channels + 1, rate)
    elif channels and tag == _MS_ADPCM:
        packed = packing(block_bytes, (block_bytes - 7 * channels) * 2 // channels + 2, rate)
    return tag, packed
