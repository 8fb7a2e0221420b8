"""AMR and AMR-WB files (RFC 4867, section 5).

What belongs here: frames of 20 ms. What does not: AMR in other containers.
"""

from typing import Final

from proxy.core.audio.cursor import Cursor, Steps

FRAME_MS: Final = 20
_NARROW: Final = b"#!AMR\n"
_WIDE: Final = b"#!AMR-WB\n"
_NARROW_BYTES: Final = (13, 14, 16, 18, 20, 21, 27, 32, 6, 1, 1, 1, 1, 1, 1, 1)
_WIDE_BYTES: Final = (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 1, 1, 1, 1, 1, 1)


def read_amr(cursor: Cursor) -> Steps:
    """Read either; one channel only, as no encoder makes more."""
    yield len(_WIDE)
    head = cursor.data[cursor.at : cursor.at + len(_WIDE)]
    if head.startswith(_NARROW):
        magic, sizes = _NARROW, _NARROW_BYTES
    elif head == _WIDE:
        magic, sizes = _WIDE, _WIDE_BYTES
    else:
        return None
    cursor.at += len(magic)
    frames = 0
    while (yield 1):
        data, at, end = cursor.data, cursor.at, len(cursor.data)
        while at < end:
            at += sizes[data[at] >> 3 & 15]
            frames += 1
        cursor.at = at
    frames -= cursor.at > len(cursor.data)  # the last one is cut off
    return frames * FRAME_MS or None
