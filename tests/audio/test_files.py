"""Every format is measured to within a codec's own padding of what FFmpeg decodes, however its bytes are cut."""

import itertools

import pytest

from tests.audio.measuring import SOUNDS, cut, measured

# What FFmpeg decodes of each, and what is measured, in milliseconds (tests/audio/files/README.md).
TABLE = {
    "pcm16.wav": (1345, 1345),
    "pcm24.wav": (1345, 1345),
    "pcm32.wav": (1345, 1345),
    "pcm8.wav": (1345, 1345),
    "float32.wav": (1345, 1345),
    "alaw.wav": (1345, 1345),
    "mulaw.wav": (1345, 1345),
    "ima.wav": (1530, 1530),  # whole blocks
    "ms.wav": (1527, 1527),
    "mp3.wav": (1440, 1440),
    "piped.wav": (1345, 1345),  # sizes of all ones
    "rf64.wav": (1345, 1345),
    "w64.w64": (1345, 1345),
    "aiff.aiff": (1345, 1345),
    "ulaw.aifc": (1345, 1345),
    "caf.caf": (1345, 1345),
    "cbr.mp3": (1345, 1345),
    "vbr.mp3": (1345, 1345),
    "noxing.mp3": (1384, 1384),  # nothing tells of the encoder's padding
    "mpeg25.mp3": (1345, 1345),
    "layer2.mp2": (1368, 1368),
    "flac.flac": (1345, 1345),
    "flacpiped.flac": (1345, 1345),  # STREAMINFO knows no number of samples
    "flac.oga": (1345, 1345),
    "vorbis.ogg": (1345, 1345),
    "opus.ogg": (1345, 1345),
    "opus60.opus": (1345, 1345),
    "speex.ogg": (1360, 1351),
    "faststart.m4a": (1408, 1345),  # FFmpeg 5.1 leaves out the beginning of an edit, not its end
    "moovlast.m4a": (1346, 1345),
    "alac.m4a": (1345, 1345),
    "fragmented.mp4": (1472, 1472),
    "opus.mp4": (1357, 1345),
    "video.mp4": (1408, 1345),
    "sowt.mov": (1345, 1345),
    "opus.webm": (1345, 1349),
    "live.webm": (1345, 1349),  # clusters of unknown size, no duration
    "vorbis.webm": (1376, 1376),
    "aac.mka": (1472, 1472),
    "flac.mka": (1345, 1345),
    "pcm.mka": (1345, 1345),
    "mp3.mka": (1414, 1414),
    "aac.aac": (1472, 1472),
}
PADDING_MS = 64
"""A frame of AAC at 16 kHz."""


def test_every_file_is_in_the_table() -> None:
    assert set(TABLE) == set(SOUNDS)


@pytest.mark.parametrize("name", TABLE)
def test_a_file_is_measured_as_it_plays(name: str) -> None:
    decoded_ms, expected_ms = TABLE[name]
    assert measured(SOUNDS[name]) == expected_ms
    assert abs(expected_ms - decoded_ms) < PADDING_MS


@pytest.mark.parametrize("name", TABLE)
def test_a_file_measures_the_same_byte_by_byte(name: str) -> None:
    data = SOUNDS[name][:20_000]
    assert measured(*cut(data, range(1, len(data)))) == measured(data)


@pytest.mark.parametrize("name", sorted(set(TABLE) - {"moovlast.m4a", "sowt.mov", "alac.m4a", "opus.mp4", "video.mp4"}))
def test_a_file_that_is_cut_off_counts_what_is_there(name: str) -> None:
    data, whole_ms = SOUNDS[name], TABLE[name][1]
    shorter = [measured(data[: len(data) * tenths // 10]) for tenths in range(1, 11)]
    known = [duration_ms for duration_ms in shorter if duration_ms is not None]
    assert len(known) >= 5
    # Only what is trimmed at the end of a whole file may be missing from it.
    assert all(earlier <= later + 250 for earlier, later in itertools.pairwise(known))
    assert known[-1] == whole_ms
    halves = len(data) * 5 // 10
    half_ms = measured(data[:halves])
    assert half_ms is None or half_ms < whole_ms * 0.85


@pytest.mark.parametrize("name", ["moovlast.m4a", "sowt.mov", "alac.m4a", "opus.mp4", "video.mp4"])
def test_a_file_whose_index_is_cut_off_cannot_be_read(name: str) -> None:
    assert measured(SOUNDS[name][: len(SOUNDS[name]) // 2]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"R",
        b"RIFF",
        b"hello, this is no audio at all" * 100,
        b"\x89PNG\r\n\x1a\n" + bytes(1000),
        b"%PDF-1.7\n" * 100,
        b'{"file": "audio.wav"}',
        b"<!DOCTYPE html><html>" * 50,
        b"PK\x03\x04" + bytes(2000),
        bytes(100_000),
        b"\xff" * 100_000,
    ],
)
def test_what_is_no_audio_cannot_be_read(data: bytes) -> None:
    assert measured(data) is None


@pytest.mark.parametrize(
    ("magic", "frame", "size"), [(b"#!AMR\n", 0x3C, 32), (b"#!AMR-WB\n", 0x44, 61), (b"#!AMR\n", 0x7C, 1)]
)
def test_amr_is_frames_of_20_ms(magic: bytes, frame: int, size: int) -> None:
    data = magic + (bytes([frame]) + bytes(size - 1)) * 50
    assert measured(data) == 1000
    assert measured(data[: len(data) - size // 2 - 1]) == 980
    assert measured(magic) is None
    assert measured(magic[:-1] + b"?" + bytes(100)) is None
