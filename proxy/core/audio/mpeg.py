"""MPEG audio: versions 1, 2 and 2.5, layers I to III, at any mixture of bit rates.

What belongs here: what the four bytes of a header say (ISO/IEC 11172-3 and 13818-3), and what encoders put in place of
a first frame. What does not: walking (frames.py). Free format, whose frames do not tell their length, is not read.
"""

import re
from typing import Final

from proxy.core.audio.cursor import Cursor, Steps
from proxy.core.audio.frames import FrameFormat, Header, read_frames

_KBITS_A_SECOND: Final = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES: Final = {0: (11025, 12000, 8000), 2: (22050, 24000, 16000), 3: (44100, 48000, 32000)}
"""By the version's two bits: 2.5, 2 and 1."""

_MONO: Final = 3
_SYNC: Final = 0xFF
_SYNC_REST: Final = 0xE0
_DECODER_DELAY: Final = 529
_LAME_FLAGS: Final = 0x0F


def _headers() -> list[Header | None]:
    """Return what each header says, by its second byte (less the sync) and its third."""
    found: list[Header | None] = [None] * (1 << 13)
    for key in range(1 << 13):
        version, layer = key >> 11, 4 - (key >> 9 & 3)
        bit_rate, rate, padding = key >> 4 & 15, key >> 2 & 3, key >> 1 & 1
        if version == 1 or layer == 4 or bit_rate in (0, 15) or rate == 3:  # noqa: PLR2004 - reserved values
            continue
        is_first = version == 3  # noqa: PLR2004 - MPEG 1
        bits = _KBITS_A_SECOND[1 if is_first else 2, layer][bit_rate - 1] * 1000
        hertz = _RATES[version][rate]
        samples = 384 if layer == 1 else 576 if layer == 3 and not is_first else 1152  # noqa: PLR2004
        size = (12 * bits // hertz + padding) * 4 if layer == 1 else samples // 8 * bits // hertz + padding
        found[key] = (size, samples, hertz, key >> 9 << 2 | rate)
    return found


_HEADERS: Final = _headers()


def read_mpeg_header(data: bytes, at: int) -> Header | None:
    """Return what the four bytes say; None: they are no header."""
    second = data[at + 1]
    return _HEADERS[(second & 0x1F) << 8 | data[at + 2]] if data[at] == _SYNC and second >= _SYNC_REST else None


def _classes() -> re.Pattern[bytes]:
    seconds = bytes(0xE0 | key for key in range(32) if any(_HEADERS[key << 8 : (key + 1) << 8]))
    thirds = bytes(key for key in range(256) if any(_HEADERS[key::256]))
    return re.compile(b"\xff(?:[%b][%b]|[%b]?\\Z)" % (re.escape(seconds), re.escape(thirds), re.escape(seconds)))


def _first(frame: bytes) -> tuple[bool, int]:
    """Return whether a frame is sound, and the samples before and after the sound that encoders make.

    In its place may stand a frame that tells of the others: ``Xing``, ``Info`` (LAME's and FFmpeg's) or ``VBRI``.
    """
    is_first_version, is_third_layer = frame[1] >> 3 & 3 == 3, frame[1] >> 1 & 3 == 1  # noqa: PLR2004
    is_mono = frame[3] >> 6 == _MONO
    side_bytes = (17 if is_mono else 32) if is_first_version else (9 if is_mono else 17)
    at = 4 + side_bytes
    if not is_third_layer:
        return True, 0
    if frame[at : at + 4] not in (b"Xing", b"Info"):
        return frame[36:40] != b"VBRI", 0
    lame = frame[at + 120 : at + 144]
    if frame[at + 7] & _LAME_FLAGS != _LAME_FLAGS or len(lame) < 24 or not lame[:4].isalnum():  # noqa: PLR2004
        return False, 0
    gaps = int.from_bytes(lame[21:24], "big")
    delay, padding = gaps >> 12, gaps & 0xFFF
    return False, delay + padding if padding >= _DECODER_DELAY else delay


MPEG: Final = FrameFormat(4, _classes(), read_mpeg_header, _first)


def read_mpeg(cursor: Cursor) -> Steps:
    """Read MPEG audio."""
    return (yield from read_frames(cursor, MPEG))
