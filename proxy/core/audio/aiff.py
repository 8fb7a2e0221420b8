"""AIFF and AIFF-C.

What belongs here: the two chunks that matter, and the encodings of AIFF-C. What does not: how an encoding packs
(packing.py). The number of frames in the header is not believed.
"""

from typing import Final

from proxy.core.audio.cursor import EVERYTHING, Cursor, Steps, skip
from proxy.core.audio.packing import IMA_QUICKTIME, Packing, linear, packing

_HEAD_BYTES: Final = 12
_CHUNK_HEAD_BYTES: Final = 8
_COMMON_BYTES: Final = 18
_COMMON_BYTES_MAX: Final = 22
_SOUND_HEAD_BYTES: Final = 8
_ALL_ONES: Final = 0xFFFFFFFF
_EXPONENT_OF_INTEGERS: Final = 16383 + 63

_BITS: Final = {
    **dict.fromkeys((b"ulaw", b"alaw", b"ULAW", b"ALAW"), 8),
    b"in24": 24,
    b"in32": 32,
    b"fl32": 32,
    b"FL32": 32,
    b"fl64": 64,
    b"FL64": 64,
}
_AS_SAID: Final = frozenset({b"NONE", b"sowt", b"twos", b"raw "})


def read_aiff(cursor: Cursor) -> Steps:
    """Read either."""
    cursor.at += _HEAD_BYTES
    packed, total = None, 0
    while (yield _CHUNK_HEAD_BYTES) and cursor.step():
        head = cursor.take(_CHUNK_HEAD_BYTES)
        name, size = head[:4], int.from_bytes(head[4:], "big")
        left = size
        if name == b"COMM":
            left -= (wanted := min(size, _COMMON_BYTES_MAX))
            if not (yield wanted):
                break
            packed = _common(cursor.take(wanted))
        elif name == b"SSND":
            unknown = size in (0, _ALL_ONES)
            total += max(0, (yield from skip(cursor, EVERYTHING if unknown else size)) - _SOUND_HEAD_BYTES)
            left = 0
        cursor.at += left + (size & 1)
    return packed.milliseconds(total) if packed is not None else None


def _common(chunk: bytes) -> Packing | None:
    """Return how the sound packs; None: unknown, or what cannot be."""
    if len(chunk) < _COMMON_BYTES:
        return None
    channels, bits = int.from_bytes(chunk[:2], "big"), int.from_bytes(chunk[6:8], "big")
    exponent, mantissa = int.from_bytes(chunk[8:10], "big"), int.from_bytes(chunk[10:18], "big")
    shift = _EXPONENT_OF_INTEGERS - exponent
    rate = mantissa >> shift if 0 <= shift < 64 else 0  # noqa: PLR2004 - the bits of a mantissa
    encoding = chunk[18:22] or b"NONE"
    if encoding == b"ima4" and channels:
        return packing(IMA_QUICKTIME[0] * channels, IMA_QUICKTIME[1], rate)
    return linear(channels, bits if encoding in _AS_SAID else _BITS.get(encoding, 0), rate)
