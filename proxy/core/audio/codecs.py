"""Codecs: how many samples a packet holds, told by its first bytes.

What belongs here: Opus, Vorbis, Speex and FLAC packets, as Ogg and Matroska carry them. What does not: finding packets.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from proxy.core.audio.cursor import is_sample_rate
from proxy.core.audio.flac import STREAM_BYTES, read_frame, sample_rate

OPUS_RATE: Final = 48_000
OPUS_SAMPLES_MAX: Final = 5760
"""A packet of Opus plays 120 ms at most (RFC 6716, section 3.2.5)."""

SETUP_BYTES: Final = 400
"""The end of a Vorbis setup header that holds its modes: 64 of 41 bits each at most."""

_VORBIS_HEAD_BYTES: Final = 30
_SPEEX_HEAD_BYTES: Final = 80
_SPEEX_FRAME_MAX: Final = 640
_SPEEX_FRAMES_MAX: Final = 10
_MODE_BITS: Final = 41
_MODES_MAX: Final = 64


class Codec(Protocol):
    """Counts samples of one stream; packets come in order."""

    headers: int
    """How many packets come before the first with sound."""
    rate: int
    """Samples a second."""
    skipped: int
    """Samples at the beginning that are not to be heard."""

    def samples(self, data: bytes, starts: Sequence[int]) -> int:
        """Return how many samples the packets hold that begin at these places of ``data``."""

    def header(self, packet: bytes) -> None:
        """Take the end of a header but the first, up to ``SETUP_BYTES`` of it."""


def _opus_tables() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the samples of a packet by its first byte (0: the second one knows), and of one of its frames."""
    frames = []
    for first in range(256):
        config = first >> 3
        if config < 12:  # noqa: PLR2004 - SILK
            frames.append((480, 960, 1920, 2880)[config & 3])
        elif config < 16:  # noqa: PLR2004 - both
            frames.append((480, 960)[config & 1])
        else:
            frames.append((120, 240, 480, 960)[config & 3])
    return tuple(frame * (1, 2, 2, 0)[first & 3] for first, frame in enumerate(frames)), tuple(frames)


_OPUS_PACKET, _OPUS_FRAME = _opus_tables()


class Opus:
    """Opus (RFC 6716; in Ogg RFC 7845): 48 kHz, whatever was recorded."""

    headers = 2
    rate = OPUS_RATE

    def __init__(self, skipped: int) -> None:
        self.skipped = skipped

    def samples(self, data: bytes, starts: Sequence[int]) -> int:
        """Return how many samples packets hold."""
        found = [_OPUS_PACKET[data[at]] for at in starts]
        total = sum(found)
        if 0 in found:
            for at in starts:
                if data[at] & 3 == 3 and at + 1 < len(data):  # noqa: PLR2004 - the second byte counts the frames
                    total += min(OPUS_SAMPLES_MAX, (data[at + 1] & 63) * _OPUS_FRAME[data[at]])
        return total

    def header(self, packet: bytes) -> None:
        """Take a comment header, which says nothing."""


class Vorbis:
    """Vorbis I: a packet plays a quarter of its own block and the one before; a block is a short or a long one."""

    headers = 3
    skipped = 0

    def __init__(self, head: bytes) -> None:
        self.rate = int.from_bytes(head[12:16], "little")
        self._sizes = (1 << (head[28] & 15), 1 << (head[28] >> 4))
        self._flags: tuple[int, ...] = ()
        self._mask = 0
        self._last = 0

    def samples(self, data: bytes, starts: Sequence[int]) -> int:
        """Return how many samples packets hold; without the modes, all blocks are taken for long ones."""
        total = 0
        for at in starts:
            if data[at] & 1:
                continue  # a header
            mode = data[at] >> 1 & self._mask
            is_long = self._flags[mode] if mode < len(self._flags) else 1
            block = self._sizes[is_long]
            if self._last:
                total += (self._last + block) // 4
            self._last = block
        return total

    def header(self, packet: bytes) -> None:
        """Find the modes at the end of the setup header, read backwards: what comes before is long and of no use here.

        The framing bit is the last one that is set. Before it stand the modes, and before them, how many there are
        (less one) in six bits. What may stand for several numbers of modes stands for the most.
        """
        self._flags, self._mask = (), 0
        bits = int.from_bytes(packet[-SETUP_BYTES:], "little")
        end = bits.bit_length() - 1
        flags: list[int] = []
        for count in range(1, _MODES_MAX + 1):
            start = end - count * _MODE_BITS
            mode = bits >> max(0, start) & (1 << _MODE_BITS) - 1
            if start < 6 or mode >> 1 & 0xFFFFFFFF or mode >> 33 > _MODES_MAX:  # noqa: PLR2004
                break
            flags.append(mode & 1)
            if bits >> start - 6 & 63 == count - 1:
                self._flags = tuple(reversed(flags))
                self._mask = (1 << (count - 1).bit_length()) - 1


class Speex:
    """Speex: every packet holds as many frames of the same size."""

    skipped = 0

    def __init__(self, rate: int, samples: int, headers: int) -> None:
        self.rate = rate
        self.headers = headers
        self._samples = samples

    def samples(self, data: bytes, starts: Sequence[int]) -> int:  # noqa: ARG002 - they are all alike
        """Return how many samples packets hold."""
        return len(starts) * self._samples

    def header(self, packet: bytes) -> None:
        """Take a comment header, which says nothing."""


class Flac:
    """FLAC packets: a frame each. Its headers do not begin as frames do."""

    headers = 1
    skipped = 0

    def __init__(self, rate: int) -> None:
        self.rate = rate

    def samples(self, data: bytes, starts: Sequence[int]) -> int:
        """Return how many samples packets hold."""
        frames = (read_frame(data, at) for at in starts)
        return sum(frame[0] for frame in frames if frame is not None)

    def header(self, packet: bytes) -> None:
        """Take a header, which says nothing."""


def codec_of(head: bytes) -> Codec | None:
    """Return the codec whose first header (as in Ogg) this is; None: it is none that plays, or not known."""
    found: Codec | None = None
    if head.startswith(b"OpusHead") and len(head) > 11:  # noqa: PLR2004
        found = Opus(int.from_bytes(head[10:12], "little"))
    elif head.startswith(b"\x01vorbis") and len(head) >= _VORBIS_HEAD_BYTES:
        found = Vorbis(head)
    elif head.startswith(b"Speex   ") and len(head) >= _SPEEX_HEAD_BYTES:
        rate, samples, frames, extra = (int.from_bytes(head[at : at + 4], "little") for at in (36, 56, 64, 68))
        samples = min(samples, _SPEEX_FRAME_MAX) * min(max(1, frames), _SPEEX_FRAMES_MAX)
        found = Speex(rate, samples, 2 + extra)
    elif head.startswith(b"\x7fFLAC") and len(head) >= 17 + STREAM_BYTES:
        found = Flac(sample_rate(head[17:]))
    return found if found is not None and is_sample_rate(found.rate) else None
