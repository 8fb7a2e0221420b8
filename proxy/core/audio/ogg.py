"""Ogg (RFC 3533): pages of packets, of one stream or of several.

What belongs here: pages, packets, and streams one after the other (chained) or at the same time. What does not: what a
packet holds (codecs.py).

Granule positions are what a file says of itself: they are believed where they take away a little of what the packets
hold, as a stream's end may not be all heard. Streams at the same time play as long as the longest of them.
"""

from typing import Final

from proxy.core.audio.codecs import SETUP_BYTES, Codec, codec_of
from proxy.core.audio.cursor import TRIM_MS, Cursor, Steps, trimmed

_MAGIC: Final = b"OggS"
_HEAD_BYTES: Final = 27
_CONTINUED: Final = 1
_FIRST: Final = 2
_NO_GRANULE: Final = (1 << 64) - 1
_STREAMS_MAX: Final = 16
_LACED: Final = 255
PACKETS_MAX: Final = 200_000
BYTES_A_PACKET: Final = 8
"""A file may have this many pieces of packets, and one more for each so many bytes: more are not made to be played."""


class _Stream:
    """One stream of packets."""

    __slots__ = ("_begin", "_codec", "_header", "_headers_left", "_last", "_samples")

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._headers_left = codec.headers
        self._header = b""
        self._samples = 0
        self._begin = -1
        self._last = -1

    def page(self, data: bytes, pieces: list[tuple[int, int, bool, bool]], granule: int) -> None:
        """Take a page: where the pieces of packets begin and end, and whether these are the packets' own."""
        starts = []
        for start, end, is_begin, is_end in pieces:
            if self._headers_left > 0:
                self._header = (b"" if is_begin else self._header) + data[start:end]
                if is_end:
                    self._headers_left -= 1
                    self._codec.header(self._header)
                self._header = self._header[-SETUP_BYTES:]
            elif is_begin and end > start:
                starts.append(start)
        if starts:
            self._samples += self._codec.samples(data, starts)
        if granule != _NO_GRANULE and not self._headers_left and self._samples:
            if self._begin < 0:
                self._begin = max(0, granule - self._samples)
            self._last = granule

    def microseconds(self) -> int:
        """Return how long it plays."""
        rate, samples = self._codec.rate, self._samples
        if self._last >= 0:
            samples = trimmed(samples, self._last - self._begin, rate)
        if self._codec.skipped <= TRIM_MS * rate // 1000:
            samples = max(0, samples - self._codec.skipped)
        return samples * 1_000_000 // rate


class _Streams:
    """All streams of a file."""

    def __init__(self) -> None:
        self._present: dict[bytes, _Stream | None] = {}
        self._has_begun = False
        self._microseconds = 0

    def page(self, data: bytes, head_at: int, body_at: int) -> None:
        flags, serial = data[head_at + 5], data[head_at + 14 : head_at + 18]
        granule = int.from_bytes(data[head_at + 6 : head_at + 14], "little")
        pieces = _pieces(data, head_at + _HEAD_BYTES, body_at, is_begin=not flags & _CONTINUED)
        if flags & _FIRST:
            if self._has_begun:
                self.end()
            if len(self._present) < _STREAMS_MAX and pieces:
                codec = codec_of(data[pieces[0][0] : pieces[0][1]])
                self._present[serial] = _Stream(codec) if codec is not None else None
        else:
            self._has_begun = True
        stream = self._present.get(serial)
        if stream is not None:
            stream.page(data, pieces, granule)

    def end(self) -> int:
        """End the streams of the present; return how long all so far play, in microseconds."""
        playing = [stream.microseconds() for stream in self._present.values() if stream is not None]
        self._microseconds += max(playing, default=0)
        self._present.clear()
        self._has_begun = False
        return self._microseconds


def read_ogg(cursor: Cursor) -> Steps:
    """Read Ogg."""
    streams = _Streams()
    is_whole, packets = True, 0
    while is_whole and (yield _HEAD_BYTES):
        data, at = cursor.data, cursor.at
        if not data.startswith(_MAGIC, at):
            found = data.find(_MAGIC, at)
            cursor.at = found if found >= 0 else len(data) - len(_MAGIC) + 1
            continue
        if not cursor.step():
            return None
        body = _HEAD_BYTES + data[at + _HEAD_BYTES - 1]
        packets += body - _HEAD_BYTES
        if packets > PACKETS_MAX + cursor.offset // BYTES_A_PACKET:
            return None
        if not (yield body):
            break
        data, at = cursor.data, cursor.at
        size = body + sum(data[at + _HEAD_BYTES : at + body])
        is_whole = yield size
        streams.page(cursor.data, cursor.at, cursor.at + body)
        cursor.at += size
    return max(1, microseconds // 1000) if (microseconds := streams.end()) else None


def _pieces(data: bytes, laces_at: int, body_at: int, *, is_begin: bool) -> list[tuple[int, int, bool, bool]]:
    """Return of each piece of a packet in a page where it begins and ends, and whether the packet does."""
    pieces: list[tuple[int, int, bool, bool]] = []
    start = end = body_at
    for lace in data[laces_at:body_at]:
        end += lace
        if lace < _LACED:
            if end > len(data):
                return pieces  # the file is cut off here
            pieces.append((start, end, is_begin, True))
            start, is_begin = end, True
    if end > start and end <= len(data):
        pieces.append((start, end, is_begin, False))
    return pieces
