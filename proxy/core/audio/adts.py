"""AAC in ADTS frames (ISO/IEC 13818-7 and 14496-3).

What belongs here: what a frame's header says. What does not: walking (frames.py).
"""

import re
from typing import Final

from proxy.core.audio.cursor import Cursor, Steps
from proxy.core.audio.frames import FrameFormat, Header, read_frames

AAC_RATES: Final = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
AAC_SAMPLES: Final = 1024
_HEADER_BYTES: Final = 7
_FRAME_BYTES_MIN: Final = 9
"""A header and the least that even silence takes."""

_SYNC: Final = re.compile(rb"\xff(?:[\xf0\xf1\xf8\xf9]|\Z)")


def _read(data: bytes, at: int) -> Header | None:
    second, third, fourth = data[at + 1], data[at + 2], data[at + 3]
    rate = third >> 2 & 15
    size = (fourth & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    if data[at] != 0xFF or second & 0xF6 != 0xF0 or rate >= len(AAC_RATES) or size < _FRAME_BYTES_MIN:  # noqa: PLR2004
        return None
    return size, AAC_SAMPLES * ((data[at + 6] & 3) + 1), AAC_RATES[rate], (second & 8) << 8 | third & 0xFC


ADTS: Final = FrameFormat(_HEADER_BYTES, _SYNC, _read)


def looks_like_adts(head: bytes) -> bool:
    """Whether a file begins with an ADTS header."""
    return len(head) >= _HEADER_BYTES and _read(head, 0) is not None


def read_adts(cursor: Cursor) -> Steps:
    """Read ADTS."""
    return (yield from read_frames(cursor, ADTS))
