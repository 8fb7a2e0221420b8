"""Tracks of an MP4 file: from what its boxes say to how long it plays.

What belongs here: sample descriptions, and the judgement of samples, times and bytes. What does not: boxes (mp4.py).

Where the codec is known, a track plays what its packets hold, however long its time table makes them. Otherwise the
table is believed, up to a second a sample. Samples that have no bytes do not play; and when all tracks together claim
more bytes than the file has, each plays in proportion. An edit that takes away a little (an encoder's silence) is
believed.
"""

import struct
from typing import Final

import msgspec

from proxy.core.audio.adts import AAC_RATES
from proxy.core.audio.cursor import TRIM_MS, is_sample_rate

TRACKS_MAX: Final = 64
_SAMPLE_BYTES_MIN: Final = 4
"""Less than this, on average, no packet of sound takes."""

_AAC, _MPEG_AUDIO = (0x40, 0x66, 0x67, 0x68), (0x69, 0x6B)
_PCM_BITS: Final = {
    b"ulaw": 8,
    b"alaw": 8,
    b"in24": 24,
    b"in32": 32,
    b"fl32": 32,
    b"fl64": 64,
    **dict.fromkeys((b"sowt", b"twos", b"raw ", b"lpcm", b"ipcm", b"fpcm", b"NONE"), 0),
}
"""0: as many as the description says."""


class Encoding(msgspec.Struct, frozen=True):
    """What a sample description says.

    Args:
        rate: samples a second.
        packet_samples: of each packet; 0: not known.
        frame_bytes: of each PCM frame; 0: it is not PCM.
    """

    rate: int
    packet_samples: int = 0
    frame_bytes: int = 0


class Track:
    """What is known of one track; all counts grow as boxes pass."""

    __slots__ = (
        "bytes", "default_duration", "default_size", "edit", "encoding", "kind", "samples", "timed", "timed_samples",
        "timescale",
    )  # fmt: skip

    def __init__(self) -> None:
        self.kind: bytes | None = None
        self.timescale = 0
        self.encoding: Encoding | None = None
        self.samples = 0
        self.bytes = 0
        self.timed = 0
        self.timed_samples = 0
        self.edit: tuple[int, int] | None = None
        self.default_duration = 0
        self.default_size = 0

    def note_samples(self, count: int, size: int) -> None:
        """Count samples that are not empty, and their bytes."""
        self.samples += count
        self.bytes += size

    def note_run(self, count: int, duration: int, size: int) -> None:
        """Count samples of a fragment."""
        if size:
            self.note_samples(count, size)
            self.timed += duration
            self.timed_samples += count

    def microseconds(self, media_bytes: int, claimed_bytes: int, movie_timescale: int) -> int:
        """Return how long it plays, in a file that has so many bytes for all that its tracks claim."""
        present = min(self.bytes, self.bytes * media_bytes // claimed_bytes)
        encoding = self.encoding
        if encoding is not None and encoding.frame_bytes:
            frames = present // encoding.frame_bytes
            total = frames * 1_000_000 // encoding.rate
        else:
            samples = min(self.samples * present // self.bytes, present // _SAMPLE_BYTES_MIN)
            if encoding is not None and encoding.packet_samples:
                total = samples * encoding.packet_samples * 1_000_000 // encoding.rate
            elif self.timescale and self.timed_samples:
                each = min(1_000_000, self.timed * 1_000_000 // (self.timescale * self.timed_samples))
                said = self.timed * 1_000_000 * samples // (self.timescale * self.timed_samples)
                total = min(said, samples * 1_000_000) if each else 0
            else:
                total = 0
        return self._edited(total, movie_timescale)

    def _edited(self, total: int, movie_timescale: int) -> int:
        if self.edit is None or not self.timescale or not movie_timescale:
            return total
        duration, begin = self.edit
        begin_us = begin * 1_000_000 // self.timescale
        heard = total - begin_us if begin_us <= TRIM_MS * 1000 else total
        said = duration * 1_000_000 // movie_timescale
        return said if 0 <= heard - said <= TRIM_MS * 1000 else heard


class Tracks:
    """All tracks of a file."""

    def __init__(self) -> None:
        self.timescale = 0
        self.media_bytes = 0
        self._defaults: dict[int, tuple[int, int]] = {}
        self.present = Track()
        self._all: list[Track] = []
        self._by_id: dict[int, Track] = {}

    def begin(self, *, is_fragment: bool) -> None:
        """Begin a track; a part of one in a fragment says later of which."""
        self.present = Track()
        if not is_fragment and len(self._all) < TRACKS_MAX:
            self._all.append(self.present)

    def identify(self, track_id: int) -> None:
        """Name the present track."""
        if self.present in self._all and len(self._by_id) < TRACKS_MAX:
            self._by_id[track_id] = self.present

    def note_defaults(self, track_id: int, duration: int, size: int) -> None:
        """Note what samples of a track are, where a fragment does not say."""
        if len(self._defaults) < TRACKS_MAX:
            self._defaults[track_id] = (duration, size)

    def choose(self, track_id: int) -> None:
        """Go on with a track that was named."""
        self.present = self._by_id.get(track_id, self.present)
        self.present.default_duration, self.present.default_size = self._defaults.get(track_id, (0, 0))

    def milliseconds(self) -> int | None:
        """Return how long the longest track with sound plays."""
        claimed = sum(track.bytes for track in self._all)
        playing = [
            track.microseconds(self.media_bytes, claimed, self.timescale)
            for track in self._all
            if track.kind == b"soun" and track.bytes
        ]
        longest = max(playing, default=0)
        return max(1, longest // 1000) if longest > 0 else None


def read_sample_entry(entry: bytes) -> Encoding | None:
    """Return what the first sample description of a track says; None: not known.

    Version 0 and 1 are MP4's and QuickTime's, version 2 is QuickTime's own for PCM.
    """
    if len(entry) < 36:  # noqa: PLR2004
        return None
    kind, version = entry[4:8], int.from_bytes(entry[16:18], "big")
    channels, bits = struct.unpack_from(">HH", entry, 24)
    rate = int.from_bytes(entry[32:34], "big")
    if version == 2 and len(entry) >= 72:  # noqa: PLR2004
        exact, channels = struct.unpack_from(">dI", entry, 40)
        rate = int(exact) if 0 < exact < 1 << 30 else 0
        bits = int.from_bytes(entry[56:60], "big")
    if kind in _PCM_BITS:
        frame_bytes = channels * (((_PCM_BITS[kind] or bits) + 7) // 8)
        found = Encoding(rate, frame_bytes=frame_bytes) if frame_bytes else None
    elif kind in (b"mp4a", b".mp3"):
        found = _mp4a(entry, rate) if kind == b"mp4a" else Encoding(rate, _mpeg_samples(rate))
    elif kind in (b"ac-3", b"ec-3"):
        found = Encoding(rate, 1536)
    else:
        found = None
    return found if found is not None and is_sample_rate(found.rate) else None


def _mpeg_samples(rate: int) -> int:
    return 1152 if rate >= 32_000 else 576  # noqa: PLR2004 - layer III, MPEG 1 and later


def _mp4a(entry: bytes, rate: int) -> Encoding | None:
    """Return what the elementary stream descriptor says: AAC in some form, or MPEG audio."""
    at = entry.find(b"esds")
    kind, config = _descriptors(entry[at + 8 :]) if at >= 0 else (0x40, b"")
    if kind in _MPEG_AUDIO:
        return Encoding(rate, _mpeg_samples(rate))
    if kind not in _AAC:
        return None
    if len(config) < 2:  # noqa: PLR2004
        return Encoding(rate, 1024)
    bits, left = int.from_bytes(config[:8], "big"), 8 * len(config[:8])

    def read(count: int) -> int:
        nonlocal left
        left -= count
        return bits >> left & (1 << count) - 1 if left >= 0 else 0

    def read_rate() -> int:
        index = read(4)
        return read(24) if index == 15 else AAC_RATES[index] if index < len(AAC_RATES) else 0  # noqa: PLR2004

    kind = read(5)
    kind = 32 + read(6) if kind == 31 else kind  # noqa: PLR2004 - an escape
    core_rate = read_rate()
    read(4)
    if kind in (5, 29):  # SBR and PS: the core's rate came first
        read_rate()
        kind = read(5)
    is_short = read(1)
    if kind in (23, 39):
        return Encoding(core_rate, 480 if is_short else 512)
    return Encoding(core_rate, 960 if is_short else 1024) if kind in (1, 2, 3, 4, 17) else None


def _descriptors(data: bytes) -> tuple[int, bytes]:
    """Return the object type and the decoder's own configuration."""
    kind, at = 0, 0
    while at + 1 < len(data):
        tag, size, at = data[at], 0, at + 1
        while at < len(data) and data[at] & 0x80:
            size, at = size << 7 | data[at] & 0x7F, at + 1
        size = size << 7 | (data[at] if at < len(data) else 0)
        at += 1
        if tag == 3:  # noqa: PLR2004 - ES: an id and flags, then others
            at += 3
        elif tag == 4:  # noqa: PLR2004 - decoder: its type and 12 bytes more, then others
            kind = data[at] if at < len(data) else 0
            at += 13
        elif tag == 5:  # noqa: PLR2004 - the decoder's own
            return kind, data[at : at + size]
        else:
            at += size
    return kind, b""
