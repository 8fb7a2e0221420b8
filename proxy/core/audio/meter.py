"""The meter: recognises a format by its first bytes, and hands the bytes to its reader.

What belongs here: recognition, and tags that may stand before any format. What does not: any format.
"""

from collections.abc import Callable
from typing import Final

from proxy.core.audio.adts import looks_like_adts, read_adts
from proxy.core.audio.aiff import read_aiff
from proxy.core.audio.amr import read_amr
from proxy.core.audio.caf import read_caf
from proxy.core.audio.cursor import Cursor, Feeder, Steps
from proxy.core.audio.flac import read_flac
from proxy.core.audio.matroska import read_matroska
from proxy.core.audio.mp4 import read_mp4
from proxy.core.audio.mpeg import read_mpeg
from proxy.core.audio.ogg import read_ogg
from proxy.core.audio.wave import W64_RIFF, read_w64, read_wave

BYTE_MS_MAX: Final = 40
"""No byte plays longer: 200 bits a second, less than any codec needs for speech or writes for silence."""

HEAD_BYTES: Final = 16
TAGS_MAX: Final = 8
"""ID3v2 tags in a row at the beginning."""
_ID3_HEAD_BYTES: Final = 10
_ID3_FOOTER: Final = 0x10

_BOXES: Final = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp", b"sidx", b"pnot"})
_FORMATS: Final[tuple[tuple[Callable[[bytes], bool], Callable[[Cursor], Steps]], ...]] = (
    (lambda head: head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE", read_wave),
    (lambda head: head == W64_RIFF, read_w64),
    (lambda head: head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"), read_aiff),
    (lambda head: head[:4] == b"caff", read_caf),
    (lambda head: head[:4] == b"fLaC", read_flac),
    (lambda head: head[:4] == b"OggS", read_ogg),
    (lambda head: head[:4] == b"\x1aE\xdf\xa3", read_matroska),
    (lambda head: head[4:8] in _BOXES, read_mp4),
    (lambda head: head[:5] == b"#!AMR", read_amr),
    (looks_like_adts, read_adts),
)


class DurationMeter:
    """Measures how long a file plays, from its bytes in order.

    Cut in any way the same bytes give the same answer. Memory is bounded, whatever comes; nothing is raised.
    """

    __slots__ = ("_feeder", "_size")

    def __init__(self) -> None:
        cursor = Cursor()
        self._feeder = Feeder(cursor, _read(cursor))
        self._size = 0

    def feed(self, piece: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._size += len(piece)
        self._feeder.feed(piece)

    def duration_ms(self) -> int | None:
        """Return how long it plays, in whole milliseconds, after the last piece; None: it cannot be read as audio."""
        found = self._feeder.result()
        return min(found, self._size * BYTE_MS_MAX) if found is not None else None


def _read(cursor: Cursor) -> Steps:
    """Read any file: tags first, then what its first bytes say; what says nothing may be MPEG audio behind litter."""
    for _ in range(TAGS_MAX):
        yield HEAD_BYTES
        head = cursor.data[cursor.at : cursor.at + HEAD_BYTES]
        if not head.startswith(b"ID3") or len(head) < _ID3_HEAD_BYTES:
            break
        size = sum((head[6 + index] & 0x7F) << 21 - 7 * index for index in range(4))
        cursor.at += _ID3_HEAD_BYTES + size + (_ID3_HEAD_BYTES if head[5] & _ID3_FOOTER else 0)
    for is_meant, read in _FORMATS:
        if is_meant(head):
            return (yield from read(cursor))
    return (yield from read_mpeg(cursor))
