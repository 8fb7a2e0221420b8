"""Matroska and WebM (RFC 9559): blocks of audio tracks.

What belongs here: elements, tracks, blocks and their lacing. What does not: what a packet holds (codecs.py).

The tree is read flat: elements that hold others are entered without remembering where they end, so that unknown sizes
(as browsers record), lying sizes and deep nesting are all the same. The duration that a file states is not read. A
track plays what its packets hold; of a codec that is not known here, what its time stamps say, with at most a second a
block.
"""

import struct
from collections.abc import Callable, Generator
from typing import Final

from proxy.core.audio.codecs import Codec, Flac, Opus, Vorbis
from proxy.core.audio.cursor import BYTES_A_STEP, TRIM_MS, Cursor, Steps, is_sample_rate, milliseconds
from proxy.core.audio.mpeg import read_mpeg_header
from proxy.core.audio.packing import linear

_ENTERED: Final = frozenset(
    {0x18538067, 0x1F43B675, 0x1654AE6B, 0xE1, 0xA0, 0x1549A966}
)  # Segment, Cluster, Tracks, Audio, BlockGroup, Info
_CLUSTER: Final = bytes.fromhex("1f43b675")
_TRACK: Final = 0xAE
_SIMPLE_BLOCK: Final = 0xA3
_BLOCKS: Final = frozenset({_SIMPLE_BLOCK, 0xA1})
_TIME_OF_CLUSTER: Final = 0xE7
_TIME_SCALE: Final = 0x2AD7B1
_NUMBER, _KIND, _CODEC, _PRIVATE, _DELAY = 0xD7, 0x83, 0x86, 0x63A2, 0x56AA
_DISCARDED: Final = 0x75A2
_RATE, _CHANNELS, _BITS = 0xB5, 0x9F, 0x6264
_SMALL: Final = frozenset({_NUMBER, _KIND, _CODEC, _DELAY, _RATE, _CHANNELS, _BITS})
_SMALL_BYTES_MAX: Final = 64
_PRIVATE_BYTES_MAX: Final = 1 << 16
_KEPT_BYTES: Final = 512
"""Of a long value the beginning and the end are kept, which is where Vorbis has what matters."""
_HEAD_BYTES: Final = 12
_BLOCK_HEAD_BYTES: Final = 1024
_PLAIN_BYTES_MIN: Final = 24
_TRACKS_MAX: Final = 64
_AUDIO: Final = 2
_VORBIS_LACED: Final = 2
_AAC_SAMPLES: Final = 1024
_SECOND_NS: Final = 1_000_000_000


class _Track:
    """One track, and what its blocks have told."""

    def __init__(self) -> None:
        self.values: dict[int, bytes] = {}
        self.is_audio = False
        self.blocks = 0
        self.bytes = 0
        self.first = self.last = 0
        self.discarded_ns = 0
        self._samples = 0
        self._count: Callable[[bytes, list[int]], int] | None = None
        self._rate = 0
        self._skipped_ns = 0

    def number(self, name: int) -> int:
        """Return an unsigned value, 0 when it is not there."""
        return int.from_bytes(self.values.get(name, b""), "big")

    def block(self, data: bytes, starts: list[int], size: int, time: int) -> None:
        """Take a block: where in ``data`` its packets begin, how many bytes they have, and its time."""
        if not self.blocks:
            self.first = time
            self._prepare()
        self.last = max(self.last, time)
        self.blocks += 1
        self.discarded_ns = 0
        self.bytes += size
        if self._count is not None:
            self._samples += self._count(data, starts)

    def milliseconds(self, scale_ns: int) -> int | None:
        """Return how long it plays."""
        if not self.blocks or not self.is_audio:
            return None
        codec = self.values.get(_CODEC, b"")
        if codec.startswith(b"A_PCM"):
            packed = linear(self.number(_CHANNELS) or 1, self.number(_BITS), self._sampling())
            return packed.milliseconds(self.bytes) if packed is not None else None
        if self._count is not None:
            skipped = self._skipped_ns + max(0, self.discarded_ns)
            skipped = skipped * self._rate // _SECOND_NS if skipped <= TRIM_MS * 1_000_000 else 0
            return milliseconds(self._samples - skipped, self._rate)
        spans = max(1, self.blocks - 1)
        said_ns = (self.last - self.first) * scale_ns * self.blocks // spans
        return max(1, min(said_ns, self.blocks * _SECOND_NS) // 1_000_000)

    def _sampling(self) -> int:
        value = self.values.get(_RATE, b"")
        if len(value) not in (4, 8):
            return 8000
        rate: float = struct.unpack(">f" if len(value) == 4 else ">d", value)[0]  # noqa: PLR2004
        return int(rate) if 0 < rate < 1 << 30 else 0

    def _prepare(self) -> None:
        name, rate = self.values.get(_CODEC, b"").rstrip(b"\0"), self._sampling()
        codec: Codec | None = None
        if name == b"A_OPUS":
            codec = Opus(0)
            self._skipped_ns = self.number(_DELAY)
        elif name == b"A_VORBIS":
            codec = _vorbis(self.values.get(_PRIVATE, b""))
        elif name == b"A_FLAC":
            codec = Flac(rate)
        elif name.startswith(b"A_AAC"):
            self._count, self._rate = _count_aac, rate
        elif name.startswith(b"A_MPEG/L"):
            self._count, self._rate = _count_mpeg, rate
        if codec is not None:
            self._count, self._rate = codec.samples, codec.rate
        if not is_sample_rate(self._rate):
            self._count = None


class _Tracks:
    """All tracks, and the time."""

    def __init__(self) -> None:
        self.scale_ns = 1_000_000
        self.time = 0
        self._all: list[_Track] = []
        self._by_number: dict[int, _Track] = {}
        self._last: _Track | None = None

    def begin(self) -> None:
        """Begin the description of a track."""
        if len(self._all) < _TRACKS_MAX:
            self._all.append(_Track())

    def note(self, name: int, value: bytes) -> None:
        """Take a value of the track that is being described."""
        if self._all:
            track = self._all[-1]
            kept = value if len(value) <= 2 * _KEPT_BYTES else value[:_KEPT_BYTES] + value[-_KEPT_BYTES:]
            track.values[name] = kept
            if name == _KIND:
                track.is_audio = track.number(_KIND) == _AUDIO
            elif name == _NUMBER and len(self._by_number) < _TRACKS_MAX:
                self._by_number[track.number(_NUMBER)] = track

    def block(self, data: bytes, size: int) -> None:
        """Take a block by its beginning."""
        number, at = _variable(data, 0)
        track = self._last = self._by_number.get(number)
        if track is None or at + 3 > len(data) or not track.is_audio:
            return
        time = self.time + int.from_bytes(data[at : at + 2], "big", signed=True)
        starts, first = _starts(data, at + 3, size, data[at + 2] >> 1 & 3)
        track.block(data, [start for start in starts if start < len(data)], size - first, time)

    def pass_blocks(self, cursor: Cursor) -> bool:
        """Take plain blocks that are whole in sight, a file's bulk, in a loop of their own; return whether any were.

        Each is longer than ``BYTES_A_STEP``, so none can be one element too many.
        """
        data, at, end = cursor.data, cursor.at, len(cursor.data)
        count = 0
        while at + _PLAIN_BYTES_MIN <= end and data[at] == _SIMPLE_BLOCK:
            size, start = _variable(data, at + 1)
            if not BYTES_A_STEP <= size <= end - start or data[start] <= 0x80 or data[start + 3] & 6:  # noqa: PLR2004
                break
            track = self._last = self._by_number.get(data[start] & 0x7F)
            if track is not None and track.is_audio:
                time = self.time + int.from_bytes(data[start + 1 : start + 3], "big", signed=True)
                track.block(data, [start + 4], size - 4, time)
            at = start + size
            count += 1
        cursor.at = at
        cursor.steps += count
        return count > 0

    def discard(self, discarded_ns: int) -> None:
        """Note what is not to be heard of the last block's end."""
        if self._last is not None:
            self._last.discarded_ns = discarded_ns

    def milliseconds(self) -> int | None:
        """Return how long the longest one plays."""
        return max(filter(None, (track.milliseconds(self.scale_ns) for track in self._all)), default=None)


def read_matroska(cursor: Cursor) -> Steps:
    """Read Matroska or WebM."""
    tracks = _Tracks()
    while (yield _HEAD_BYTES) or len(cursor.data) - cursor.at > 1:
        if tracks.pass_blocks(cursor):
            continue
        if not cursor.step():
            return None
        name, at = _id(cursor.data, cursor.at)
        size, at = _variable(cursor.data, at) if name else (0, 0)
        if not name or at == 0:
            cursor.at += 1
            yield from _find_cluster(cursor)
            continue
        cursor.at = at
        if name == _TRACK:
            tracks.begin()
        elif name in _ENTERED or size < 0:
            pass
        else:
            yield from _read_element(cursor, tracks, name, size)
    return tracks.milliseconds()


def _find_cluster(cursor: Cursor) -> Generator[int, bool, None]:
    """Find back into step: the next cluster is a new beginning."""
    while (yield len(_CLUSTER)):
        found = cursor.data.find(_CLUSTER, cursor.at)
        if found >= 0:
            cursor.at = found
            return
        cursor.at = len(cursor.data) - len(_CLUSTER) + 1
    cursor.at = len(cursor.data)


def _read_element(cursor: Cursor, tracks: _Tracks, name: int, size: int) -> Generator[int, bool, None]:
    """Read an element that holds no others, or move on behind it."""
    if name in _BLOCKS:
        wanted = _BLOCK_HEAD_BYTES
    elif name == _PRIVATE:
        wanted = _PRIVATE_BYTES_MAX
    elif name in _SMALL or name in (_TIME_OF_CLUSTER, _TIME_SCALE, _DISCARDED):
        wanted = _SMALL_BYTES_MAX
    else:
        cursor.at += size
        return
    yield max(1, min(size, wanted))
    start = cursor.at
    value = cursor.data[start : start + min(size, wanted)]
    if name in _BLOCKS:
        tracks.block(value, min(size, len(cursor.data) - start) if len(value) < min(size, wanted) else size)
    elif name == _TIME_OF_CLUSTER:
        tracks.time = int.from_bytes(value, "big")
    elif name == _TIME_SCALE:
        tracks.scale_ns = int.from_bytes(value, "big")
    elif name == _DISCARDED:
        tracks.discard(int.from_bytes(value, "big", signed=True))
    else:
        tracks.note(name, value)
    cursor.at = start + size


def _id(data: bytes, at: int) -> tuple[int, int]:
    """Return an element's id and where it ends; 0: there is none."""
    size = 9 - data[at].bit_length()
    if size > 4 or at + size > len(data):  # noqa: PLR2004 - ids have four bytes at most
        return 0, 0
    return int.from_bytes(data[at : at + size], "big"), at + size


def _variable(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of variable length (-1: unknown) and where it ends; an end of 0: there is none."""
    size = 9 - data[at].bit_length() if at < len(data) else 9
    if size > 8 or at + size > len(data):  # noqa: PLR2004 - numbers have eight bytes at most
        return 0, 0
    bits = (1 << 7 * size) - 1
    number = int.from_bytes(data[at : at + size], "big") & bits
    return -1 if number == bits else number, at + size


def _starts(data: bytes, at: int, size: int, lacing: int) -> tuple[list[int], int]:
    """Return where a block's packets begin, as far as sizes are in sight, and where the first one does."""
    if not lacing or at >= len(data):
        return [at], at
    packets, at = data[at] + 1, at + 1
    if lacing == 2:  # noqa: PLR2004 - all have the same size
        each = max(0, size - at) // packets
        return [at + index * each for index in range(packets)], at
    sizes, at = _laced_by_255(data, at, packets - 1) if lacing == 1 else _laced_by_difference(data, at, packets - 1)
    starts = [at]
    for laced in sizes:
        starts.append(starts[-1] + laced)
    return starts, at


def _laced_by_255(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    sizes = []
    for _ in range(count):
        size = 0
        while at < len(data) and data[at] == 255:  # noqa: PLR2004
            size, at = size + 255, at + 1
        size += data[at] if at < len(data) else 0
        sizes.append(size)
        at += 1
    return sizes, at


def _laced_by_difference(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    sizes: list[int] = []
    for index in range(count):
        number, after = _variable(data, at)
        if not after:
            break
        if index:
            number = max(0, sizes[-1] + number - ((1 << 7 * (after - at) - 1) - 1))
        sizes.append(max(0, number))
        at = after
    return sizes, at


def _vorbis(private: bytes) -> Vorbis | None:
    """Return the codec of three headers, laced as Matroska keeps them."""
    if private[:1] != bytes([_VORBIS_LACED]):
        return None
    sizes, at = _laced_by_255(private, 1, _VORBIS_LACED)
    head = private[at : at + sizes[0]]
    if len(head) < 30 or not head.startswith(b"\x01vorbis"):  # noqa: PLR2004
        return None
    codec = Vorbis(head)
    codec.header(private)
    return codec


def _count_aac(data: bytes, starts: list[int]) -> int:  # noqa: ARG001 - they are all alike
    return len(starts) * _AAC_SAMPLES


def _count_mpeg(data: bytes, starts: list[int]) -> int:
    headers = (read_mpeg_header(data, at) for at in starts if at + 4 <= len(data))
    return sum(header[1] for header in headers if header is not None)
