"""MP4, M4A and QuickTime (ISO/IEC 14496-12): sample tables and fragments.

What belongs here: boxes, and what they say of each track. What does not: what is made of it (mp4_tracks.py).

The tree is read flat: boxes that hold others are entered without remembering where they end, so that lying sizes and
deep nesting are all the same. What ``mvhd`` and ``mdhd`` state as the duration is not read.
"""

import struct
from array import array
from collections.abc import Callable, Generator
from operator import mul
from typing import Final

from proxy.core.audio.cursor import EVERYTHING, Cursor, Steps, skip
from proxy.core.audio.mp4_tracks import Track, Tracks, read_sample_entry

_HEAD_BYTES: Final = 8
_LARGE_HEAD_BYTES: Final = 16
_TABLE_BYTES: Final = 1 << 16
_SMALL_BYTES_MAX: Final = 4096
_SMALL_BYTES: Final = 4
_ENTERED: Final = frozenset({b"moov", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"mvex"})
_IS_LITTLE: Final = array("I", b"\1\0\0\0")[0] == 1

_Reading = Generator[int, bool, None]


def read_mp4(cursor: Cursor) -> Steps:
    """Read MP4."""
    tracks = Tracks()
    while (yield _HEAD_BYTES) and cursor.step():
        size, name = struct.unpack_from(">I4s", cursor.data, cursor.at)
        head_bytes = _HEAD_BYTES
        if size == 1:
            head_bytes = _LARGE_HEAD_BYTES
            if not (yield head_bytes):
                break
            size = int.from_bytes(cursor.data[cursor.at + 8 : cursor.at + 16], "big")
        size = size - head_bytes if size else EVERYTHING
        if size < 0:
            break
        cursor.at += head_bytes
        yield from _read_box(cursor, tracks, name, size)
    return tracks.milliseconds()


def _read_box(cursor: Cursor, tracks: Tracks, name: bytes, size: int) -> _Reading:
    if name == b"mdat":
        tracks.media_bytes += yield from skip(cursor, size)
    elif name in (b"trak", b"traf"):
        tracks.begin(is_fragment=name == b"traf")
    elif name in _TABLES:
        end = cursor.offset + size
        yield from _TABLES[name](cursor, tracks.present, size)
        cursor.at += end - cursor.offset
    elif name in _SMALL:
        wanted = min(size, _SMALL_BYTES_MAX)
        if (yield max(1, wanted)) and wanted >= _SMALL_BYTES:
            _SMALL[name](tracks, cursor.data[cursor.at : cursor.at + wanted])
        cursor.at += size
    elif name not in _ENTERED:
        cursor.at += size


# Boxes of a few numbers. What is missing at the end of one reads as 0.


def _number(box: bytes, at: int, size: int = 4) -> int:
    return int.from_bytes(box[at : at + size], "big")


def _movie_header(tracks: Tracks, box: bytes) -> None:
    tracks.timescale = _number(box, 20 if box[0] else 12)


def _track_header(tracks: Tracks, box: bytes) -> None:
    tracks.identify(_number(box, 20 if box[0] else 12))


def _media_header(tracks: Tracks, box: bytes) -> None:
    tracks.present.timescale = _number(box, 20 if box[0] else 12)


def _handler(tracks: Tracks, box: bytes) -> None:
    if tracks.present.kind is None and box[8:12] != b"url ":
        tracks.present.kind = box[8:12]


def _edits(tracks: Tracks, box: bytes) -> None:
    """Note the one edit that leaves an encoder's silence out; others repeat or delay, and are not followed."""
    wide = 8 if box[0] else 4
    edits = [
        (_number(box, at, wide), int.from_bytes(box[at + wide : at + 2 * wide], "big", signed=True))
        for at in range(8, min(len(box), 8 + 16 * (wide * 2 + 4)), wide * 2 + 4)
    ]
    heard = [edit for edit in edits[: _number(box, 4)] if edit[1] >= 0]
    if len(heard) == 1:
        tracks.present.edit = heard[0]


def _sample_description(tracks: Tracks, box: bytes) -> None:
    if tracks.present.encoding is None:
        tracks.present.encoding = read_sample_entry(box[8:])


def _track_defaults(tracks: Tracks, box: bytes) -> None:
    tracks.note_defaults(_number(box, 4), _number(box, 12), _number(box, 16))


def _fragment_header(tracks: Tracks, box: bytes) -> None:
    flags, at = _number(box, 1, 3), 8
    at += (8 if flags & 1 else 0) + (4 if flags & 2 else 0)
    tracks.choose(_number(box, 4))
    track = tracks.present
    if flags & 8:
        track.default_duration = _number(box, at)
        at += 4
    if flags & 16:
        track.default_size = _number(box, at)


_SMALL: Final[dict[bytes, Callable[[Tracks, bytes], None]]] = {
    b"mvhd": _movie_header,
    b"tkhd": _track_header,
    b"mdhd": _media_header,
    b"hdlr": _handler,
    b"elst": _edits,
    b"stsd": _sample_description,
    b"trex": _track_defaults,
    b"tfhd": _fragment_header,
}


# Tables, which are added up as they pass


def _words(cursor: Cursor, count: int, width: int) -> Generator[int, bool, "array[int] | None"]:
    """Return the next entries of ``width`` words each, as many as fit; None: the file is cut off."""
    size = min(count, _TABLE_BYTES // (4 * width)) * 4 * width
    if not (yield size):
        return None
    words = array("I", cursor.take(size))
    if _IS_LITTLE:
        words.byteswap()
    return words


def _head(cursor: Cursor, size: int, head_bytes: int) -> Generator[int, bool, bytes]:
    """Return a table's head; empty: there is none."""
    if size < head_bytes or not (yield head_bytes):
        return b""
    return cursor.take(head_bytes)


def _time_to_sample(cursor: Cursor, track: Track, size: int) -> _Reading:
    head = yield from _head(cursor, size, 8)
    left = min(_number(head, 4), (size - 8) // 8)
    while left > 0:
        words = yield from _words(cursor, left, 2)
        if words is None:
            return
        counts = words[::2]
        track.timed_samples += sum(counts)
        track.timed += sum(map(mul, counts, words[1::2]))
        left -= len(counts)


def _sample_sizes(cursor: Cursor, track: Track, size: int) -> _Reading:
    head = yield from _head(cursor, size, 12)
    each, left = _number(head, 4), _number(head, 8)
    if each:
        track.note_samples(left, left * each)
        return
    left = min(left, (size - 12) // 4)
    while left > 0:
        words = yield from _words(cursor, left, 1)
        if words is None:
            return
        track.note_samples(len(words) - words.count(0), sum(words))
        left -= len(words)


def _compact_sizes(cursor: Cursor, track: Track, size: int) -> _Reading:
    head = yield from _head(cursor, size, 12)
    bits, left = head[7] if head else 0, min(_number(head, 8), (size - 12) * 2)
    while left > 0 and bits in (4, 8, 16):
        wanted = max(1, min(left * bits // 8, _TABLE_BYTES))
        if not (yield wanted):
            return
        piece = cursor.take(wanted)
        if bits == 4:  # noqa: PLR2004 - two in a byte
            sizes = [half for byte in piece for half in (byte >> 4, byte & 15)]
        else:
            sizes = list(piece) if bits == 8 else [_number(piece, at, 2) for at in range(0, len(piece) - 1, 2)]  # noqa: PLR2004
        track.note_samples(len(sizes) - sizes.count(0), sum(sizes))
        left -= max(1, len(sizes))


def _run(cursor: Cursor, track: Track, size: int) -> _Reading:
    """Add up a run of a fragment: duration, size, flags and composition offset a sample, or some of them."""
    head = yield from _head(cursor, size, 8)
    flags, count = _number(head, 1, 3), _number(head, 4)
    skipped = (4 if flags & 1 else 0) + (4 if flags & 4 else 0)
    cursor.at += skipped
    width = sum(bool(flags & flag) for flag in (0x100, 0x200, 0x400, 0x800))
    has_duration, has_size = bool(flags & 0x100), bool(flags & 0x200)
    if not width:
        track.note_run(count, count * track.default_duration, count * track.default_size)
        return
    left = min(count, (size - 8 - skipped) // (4 * width))
    while left > 0:
        words = yield from _words(cursor, left, width)
        if words is None:
            return
        samples = len(words) // width
        sizes = words[int(has_duration) :: width] if has_size else None
        full = samples - sizes.count(0) if sizes is not None else samples
        duration = sum(words[::width]) if has_duration else samples * track.default_duration
        track.note_run(full, duration, sum(sizes) if sizes is not None else samples * track.default_size)
        left -= samples


_TABLES: Final[dict[bytes, Callable[[Cursor, Track, int], _Reading]]] = {
    b"stts": _time_to_sample,
    b"stsz": _sample_sizes,
    b"stz2": _compact_sizes,
    b"trun": _run,
}
