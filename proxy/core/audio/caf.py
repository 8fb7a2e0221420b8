"""CAF: Apple's Core Audio Format.

What belongs here: its chunks, and encodings whose packets are all alike, or that a packet table counts. What does not:
decoding what a packet holds.
"""

import struct
from typing import Final

from proxy.core.audio.cursor import EVERYTHING, Cursor, Steps, is_sample_rate, milliseconds, skip
from proxy.core.audio.packing import Packing, linear, packing

_HEAD_BYTES: Final = 8
_CHUNK_HEAD_BYTES: Final = 12
_DESCRIPTION_BYTES: Final = 32
_TABLE_BYTES: Final = 24
_EDIT_COUNT_BYTES: Final = 4
_PACKET_SAMPLES_MAX: Final = 8192
_PACKET_BYTES_MIN: Final = 4


class _Description:
    """What the file says of its sound."""

    __slots__ = ("packed", "packet_samples", "rate")

    def __init__(self, chunk: bytes) -> None:
        rate, kind, _, size, self.packet_samples, channels, bits = struct.unpack(">d4s5I", chunk)
        self.rate = int(rate) if 0 < rate < 1 << 30 else 0
        self.packed: Packing | None = None
        if kind == b"lpcm":
            self.packed = linear(channels, bits, self.rate)
        elif size:
            self.packed = packing(size, self.packet_samples, self.rate)

    def milliseconds(self, total: int, packets: int) -> int | None:
        if self.packed is not None:
            return self.packed.milliseconds(total)
        if not is_sample_rate(self.rate) or not 0 < self.packet_samples <= _PACKET_SAMPLES_MAX:
            return None
        return milliseconds(min(packets, total // _PACKET_BYTES_MIN) * self.packet_samples, self.rate)


def read_caf(cursor: Cursor) -> Steps:
    """Read CAF."""
    cursor.at += _HEAD_BYTES
    description, total, packets = None, 0, 0
    while (yield _CHUNK_HEAD_BYTES) and cursor.step():
        head = cursor.take(_CHUNK_HEAD_BYTES)
        name, size = head[:4], int.from_bytes(head[4:], "big")
        if name == b"data":
            size = size if 0 < size < EVERYTHING else EVERYTHING  # -1: to the end
            total += max(0, (yield from skip(cursor, size)) - _EDIT_COUNT_BYTES)
            continue
        if name == b"desc" and size >= _DESCRIPTION_BYTES:
            if not (yield _DESCRIPTION_BYTES):
                break
            description = _Description(cursor.take(_DESCRIPTION_BYTES))
            size -= _DESCRIPTION_BYTES
        elif name == b"pakt" and size >= _TABLE_BYTES:
            if not (yield _TABLE_BYTES):
                break
            packets = int.from_bytes(cursor.take(_TABLE_BYTES)[:8], "big")
            size -= _TABLE_BYTES
        cursor.at += size
    return description.milliseconds(total, packets) if description is not None else None
