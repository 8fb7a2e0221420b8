"""FLAC (RFC 9639).

What belongs here: the headers of a stream and of its frames. What does not: FLAC in Ogg (ogg.py).

How many samples a stream has is not believed of its first header, which may not know: frames are found by their sync
code, and their block sizes added up. A frame's header has a checksum of its own and must go with what was seen before:
the same rate, channels and sample size, or the number after the last one. What looks like a frame by chance is one in
some gigabytes.
"""

import re
from collections.abc import Generator
from typing import Final

from proxy.core.audio.cursor import Cursor, Steps, is_sample_rate, milliseconds

STREAM_BYTES: Final = 34
"""Size of STREAMINFO."""

HEADER_BYTES_MAX: Final = 16
FRAME_BYTES_MIN: Final = 10
FRAMES_MAX: Final = 50_000
BYTES_A_FRAME: Final = 64
"""A file may have this many frames, and one more for each so many bytes: more are not made to be played."""

_BLOCK_HEAD_BYTES: Final = 4
_BLOCKS_MAX: Final = 1024
_LAST_BLOCK: Final = 0x80
_SAMPLES: Final = (0, 192, 576, 1152, 2304, 4608, 0, 0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_SAMPLES_FOLLOW: Final = {6: 1, 7: 2}
_RATE_FOLLOWS: Final = {12: 1, 13: 2, 14: 2}
_STEREO: Final = frozenset({1, 8, 9, 10})
"""Channel assignments that may take turns."""


def _sync() -> re.Pattern[bytes]:
    thirds = re.escape(bytes(value for value in range(256) if value >> 4 and value & 15 != 15))  # noqa: PLR2004
    fourths = re.escape(bytes(value for value in range(0, 0xB0, 2) if value >> 1 & 7 != 3))  # noqa: PLR2004
    return re.compile(b"\xff(?:[\xf8\xf9](?:[%b](?:[%b]|\\Z)|\\Z)|\\Z)" % (thirds, fourths))


def _crc8_table() -> bytes:
    table = bytearray()
    for value in range(256):
        rest = value
        for _ in range(8):
            rest = rest << 1 ^ (0x107 if rest & 0x80 else 0)
        table.append(rest)
    return bytes(table)


_SYNC: Final = _sync()
_CRC8: Final = _crc8_table()

Frame = tuple[int, int, int, int]
"""Of a frame: its samples, its number and that of the next one, and what it has in common with its neighbours."""


def sample_rate(stream_info: bytes) -> int:
    """Return what STREAMINFO says."""
    return int.from_bytes(stream_info[10:13], "big") >> 4


def read_frame(data: bytes, at: int) -> Frame | None:
    """Return what a frame's header says; None: there is none."""
    if len(data) - at < FRAME_BYTES_MIN or data[at] != 0xFF or data[at + 1] & 0xFE != 0xF8:  # noqa: PLR2004
        return None
    third, fourth, first = data[at + 2], data[at + 3], data[at + 4]
    number_bytes = _number_bytes(first)
    size, rate = third >> 4, third & 15
    if not number_bytes or not size:
        return None
    end = at + 4 + number_bytes
    samples_bytes = _SAMPLES_FOLLOW.get(size, 0)
    samples = int.from_bytes(data[end : end + samples_bytes], "big") + 1 if samples_bytes else _SAMPLES[size]
    end += samples_bytes + _RATE_FOLLOWS.get(rate, 0)
    if end >= len(data) or _crc8(data[at:end]) != data[end]:
        return None
    number = first & (0x7F >> number_bytes) if number_bytes > 1 else first
    for value in data[at + 5 : at + 4 + number_bytes]:
        number = number << 6 | value & 0x3F
    is_variable = data[at + 1] & 1
    channels = 1 if fourth >> 4 in _STEREO else fourth >> 4
    common = is_variable << 16 | rate << 12 | channels << 8 | fourth & 15
    return samples, number, number + (samples if is_variable else 1), common


def _number_bytes(first: int) -> int:
    """Return how long a number is by its first byte, as in UTF-8 but up to 36 bits; 0: there is none."""
    if first < 0x80:  # noqa: PLR2004 - as in UTF-8
        return 1
    return 8 - (first ^ 0xFF).bit_length() if 0xC0 <= first < 0xFF else 0  # noqa: PLR2004


def _crc8(data: bytes) -> int:
    crc = 0
    for value in data:
        crc = _CRC8[crc ^ value]
    return crc


def read_flac(cursor: Cursor) -> Steps:
    """Read native FLAC."""
    cursor.at += 4
    rate = 0
    for _ in range(_BLOCKS_MAX):
        if not (yield _BLOCK_HEAD_BYTES):
            return None
        head = cursor.take(_BLOCK_HEAD_BYTES)
        size = int.from_bytes(head[1:], "big")
        if not head[0] & ~_LAST_BLOCK and size >= STREAM_BYTES:
            if not (yield STREAM_BYTES):
                return None
            rate = sample_rate(cursor.data[cursor.at : cursor.at + STREAM_BYTES])
        cursor.at += size
        if head[0] & _LAST_BLOCK:
            break
    return milliseconds((yield from _read_frames(cursor)), rate) if is_sample_rate(rate) else None


def _read_frames(cursor: Cursor) -> Generator[int, bool, int]:
    """Return the samples of all frames; 0 where there are too many of them."""
    samples = frames = 0
    following = common = -1
    is_more, start = True, cursor.offset
    while True:
        data = cursor.data
        while (found := _SYNC.search(data, cursor.at)) is not None:
            cursor.at = found.start()
            if is_more and cursor.at + HEADER_BYTES_MAX > len(data):
                break
            frames += 1
            if frames > FRAMES_MAX + (cursor.offset - start) // BYTES_A_FRAME:
                return 0
            frame = read_frame(data, cursor.at)
            if frame is None or (common not in (-1, frame[3]) and frame[1] != following):
                cursor.at += 1
                continue
            samples += frame[0]
            following, common = frame[2], frame[3]
            cursor.at += FRAME_BYTES_MIN
        else:
            cursor.at = max(cursor.at, len(data))
        if not is_more:
            return samples
        is_more = yield HEADER_BYTES_MAX
