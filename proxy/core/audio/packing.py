"""Packing: encodings whose every block of bytes holds as many samples, whatever they sound like.

What belongs here: from what headers say of such an encoding to bytes and samples a block. What does not: containers.
"""

from typing import Final

import msgspec

from proxy.core.audio.cursor import is_sample_rate, milliseconds

CHANNELS_MAX: Final = 256
BITS_MAX: Final = 64
BLOCK_BYTES_MAX: Final = 1 << 20
IMA_QUICKTIME: Final = (34, 64)
"""Bytes and samples of one channel's block of IMA ADPCM, as Apple's containers have it."""


class Packing(msgspec.Struct, frozen=True):
    """Blocks of ``size`` bytes, each with ``samples`` of every channel, at ``rate`` samples a second."""

    size: int
    samples: int
    rate: int

    def milliseconds(self, size: int) -> int | None:
        """Return how long so many bytes play."""
        return milliseconds(size // self.size * self.samples, self.rate)


def packing(size: int, samples: int, rate: int) -> Packing | None:
    """Return a packing; None where its numbers cannot be: no encoding of this kind takes less than a bit a sample."""
    if not 0 < size <= BLOCK_BYTES_MAX or not 0 < samples <= size * 8 or not is_sample_rate(rate):
        return None
    return Packing(size, samples, rate)


def linear(channels: int, bits: int, rate: int) -> Packing | None:
    """Return the packing of samples that take whole bytes each; None where its numbers cannot be."""
    if not 0 < channels <= CHANNELS_MAX or not 0 < bits <= BITS_MAX:
        return None
    return packing(channels * ((bits + 7) // 8), 1, rate)
