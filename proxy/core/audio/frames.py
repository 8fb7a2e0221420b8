"""Frames: streams of frames that each begin with a header which tells the frame's length (MPEG audio, ADTS).

What belongs here: walking from header to header, and finding back into step. What does not: what a header says
(mpeg.py, adts.py).

Only whole frames count. In step, a header must be of the same kind as the one before; out of step, a frame counts once
the header after it confirms it, or the file ends with it.
"""

import re
from collections.abc import Callable
from typing import Final

import msgspec

from proxy.core.audio.cursor import Cursor, Steps

REJECTED_MAX: Final = 20_000
BYTES_A_REJECTED: Final = 64
"""A file may have this many false beginnings, and one more for each so many bytes: more is no litter."""

LITTER_MAX: Final = 4
"""At least every so many-th byte must belong to a frame: a file of which less can be played is something else."""

Header = tuple[int, int, int, int]
"""Of a frame: its bytes, its samples, samples a second, and its kind, which stays the same in a stream."""


class FrameFormat(msgspec.Struct, frozen=True):
    """How frames of one format are told.

    Args:
        header_bytes: as many bytes are needed to read a header.
        sync: finds what may be a header.
        read: (data, where) -> header; None: there is none. It never reads more than ``header_bytes``.
        first: looks at the first whole frame: (its bytes) -> whether it is sound, and samples of the stream that are
            not to be heard.
    """

    header_bytes: int
    sync: re.Pattern[bytes]
    read: Callable[[bytes, int], Header | None]
    first: Callable[[bytes], tuple[bool, int]] | None = None


class _Walk:
    """What has been walked over so far."""

    __slots__ = ("form", "frame_bytes", "frames", "gave_up", "kind", "rejected", "samples", "silent", "start")

    def __init__(self, form: FrameFormat, start: int) -> None:
        self.form = form
        self.start = start
        self.kind = -1
        self.frames = 0
        self.frame_bytes = 0
        self.samples: dict[int, int] = {}
        self.silent = 0
        self.rejected = 0
        self.gave_up = False

    def rejects(self, offset: int) -> bool:
        """Count a beginning that was none; return whether there have been too many of them."""
        self.rejected += 1
        self.gave_up = self.rejected > REJECTED_MAX + (offset - self.start) // BYTES_A_REJECTED
        return self.gave_up

    def count(self, header: Header, data: bytes, at: int) -> None:
        """Count a whole frame."""
        size, samples, rate, self.kind = header
        if not self.frames and self.form.first is not None:
            is_sound, self.silent = self.form.first(data[at : at + size])
            samples = samples if is_sound else 0
        self.frames += 1
        self.frame_bytes += size
        self.samples[rate] = self.samples.get(rate, 0) + samples

    def milliseconds(self, length: int) -> int | None:
        """Return how long the frames play of a file of this length; None: too few of them to be meant."""
        if self.frame_bytes * LITTER_MAX < length - self.start or not self.samples:
            return None
        first_rate = next(iter(self.samples))
        self.samples[first_rate] = max(1, self.samples[first_rate] - self.silent)
        return max(1, sum(samples * 1000_000 // rate for rate, samples in self.samples.items()) // 1000)


def read_frames(cursor: Cursor, form: FrameFormat) -> Steps:
    """Read a stream of frames."""
    walk = _Walk(form, cursor.offset)
    is_in_step, is_more = False, True
    while True:
        is_in_step, wanted = _in_step(cursor, walk) if is_in_step else _out_of_step(cursor, walk, is_more=is_more)
        if not wanted:
            continue
        if not is_more or walk.gave_up:
            break
        is_more = yield wanted
    return walk.milliseconds(cursor.length) if not walk.gave_up else None


def _in_step(cursor: Cursor, walk: _Walk) -> tuple[bool, int]:
    """Count frames as far as bytes are in sight; return whether still in step, and how many bytes are wanted."""
    data, at, kind = cursor.data, cursor.at, walk.kind
    read, header_bytes, samples_by_rate = walk.form.read, walk.form.header_bytes, walk.samples
    end = len(data)
    frames = frame_bytes = 0
    wanted, is_in_step = header_bytes, True
    while at + header_bytes <= end:
        header = read(data, at)
        if header is None or header[3] != kind:
            is_in_step, wanted = False, 0
            break
        size = header[0]
        if at + size > end:
            wanted = size
            break
        samples_by_rate[header[2]] += header[1]
        frames += 1
        frame_bytes += size
        at += size
    cursor.at = at
    walk.frames += frames
    walk.frame_bytes += frame_bytes
    return is_in_step, wanted


def _out_of_step(cursor: Cursor, walk: _Walk, *, is_more: bool) -> tuple[bool, int]:
    """Look for a frame that another one follows; return whether one was found, and how many bytes are wanted."""
    data, form = cursor.data, walk.form
    while (found := form.sync.search(data, cursor.at)) is not None:
        at = cursor.at = found.start()
        if at + form.header_bytes > len(data):
            return False, form.header_bytes
        header = form.read(data, at)
        if header is not None:
            after = at + header[0]
            if after + form.header_bytes <= len(data):
                following = form.read(data, after)
                is_frame = following is not None and following[3] == header[3]
            elif is_more:
                return False, header[0] + form.header_bytes
            else:
                is_frame = after == len(data)
            if is_frame:
                walk.count(header, data, at)
                cursor.at = after
                return True, 0
        cursor.at += 1
        if walk.rejects(cursor.offset):
            return False, form.header_bytes
    cursor.at = max(cursor.at, len(data))
    return False, form.header_bytes
