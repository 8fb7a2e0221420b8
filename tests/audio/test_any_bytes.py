"""Whatever comes, cut anywhere, is read without a fault, the same way and in bounded memory; no byte plays too long."""

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.audio import DurationMeter
from proxy.core.audio.meter import BYTE_MS_MAX
from tests.audio.measuring import SOUNDS, box, cut, measured, noise, wave

MEBIBYTE = 1 << 20
BEGINNINGS = [b"", *sorted({data[:64] for data in SOUNDS.values()}), b"#!AMR\n", b"#!AMR-WB\n", b"ID3\x04\0\0\0\0\0\0"]
RUNS = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x80", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"OggS", b"data", b"moov", b"trak"]


def assert_read_alike(data: bytes, places: list[int]) -> None:
    whole = measured(data)
    assert measured(*cut(data, places)) == whole
    assert whole is None or 0 < whole <= len(data) * BYTE_MS_MAX


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(BEGINNINGS), st.binary(max_size=2000), st.data())
def test_any_bytes_behind_any_beginning_are_read_alike(begin: bytes, rest: bytes, data: st.DataObject) -> None:
    sound = begin + rest
    places = data.draw(st.lists(st.integers(0, len(sound)), max_size=20))
    assert_read_alike(sound, places)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(SOUNDS)), st.integers(0, 2**32), st.integers(0, 6), st.integers(0, 40))
def test_sounds_with_faults_are_read_alike(name: str, seed: int, faults: int, cuts: int) -> None:
    chance = random.Random(seed)
    sound = bytearray(SOUNDS[name][: chance.choice([400, 4000, 30_000])])
    for _ in range(faults):
        at = chance.randrange(min(len(sound), chance.choice([64, 400, 30_000])))
        run = chance.choice([chance.choice(RUNS), chance.randbytes(chance.randrange(1, 20)), b""])
        sound[at : at + chance.choice([0, len(run), 40])] = run
    assert_read_alike(bytes(sound), [chance.randrange(len(sound) + 1) for _ in range(cuts)])


def numbered(make, count: int = 30_000) -> bytes:
    return b"".join(make(number.to_bytes(4, "big")) for number in range(1, count))


EBML = b"\x1aE\xdf\xa3\x80"
HOARDS = {
    "noise": noise(MEBIBYTE),
    "sync codes": b"\xff" * MEBIBYTE,
    "wave": wave(bytes(MEBIBYTE)),
    "tracks of MP4": box(b"ftyp") + numbered(lambda name: box(b"trak") + box(b"tkhd", bytes(12), name, bytes(20))),
    "names of one track": box(b"ftyp") + box(b"trak") + numbered(lambda name: box(b"tkhd", bytes(12), name)),
    "defaults": box(b"ftyp") + numbered(lambda name: box(b"trex", bytes(4), name, bytes(16))),
    "tracks of Matroska": EBML + numbered(lambda name: b"\xae\x80\xd7\x84" + name),
    "numbers of one track": EBML + b"\xae\x80" + numbered(lambda name: b"\xd7\x84" + name),
    "private data": EBML + (b"\xae\x80\x63\xa2\x10\x00\xff\xff" + noise(65_535)) * 64,
    "streams": numbered(lambda name: b"OggS\0\2" + bytes(8) + name + bytes(8) + b"\x01\x13OpusHead" + bytes(11)),
}


@pytest.mark.parametrize("name", ["opus.webm", "vorbis.ogg", "cbr.mp3", "flac.flac", "fragmented.mp4", *HOARDS])
def test_memory_is_bounded_whatever_comes(name: str) -> None:
    sound = HOARDS.get(name) or SOUNDS[name]
    meter = DurationMeter()
    tracemalloc.start()
    try:
        for _ in range(max(1, 2 * MEBIBYTE // len(sound))):
            for piece in cut(sound, range(65_536, len(sound), 65_536)):
                meter.feed(piece)
        meter.duration_ms()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEBIBYTE


def test_what_comes_byte_by_byte_is_not_kept_byte_by_byte() -> None:
    sound = b"OggS" + bytes(22) + b"\xff" + b"\xff" * 255 + bytes(70_000)
    meter = DurationMeter()
    tracemalloc.start()
    try:
        for place in range(len(sound)):
            meter.feed(sound[place : place + 1])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEBIBYTE


def test_asked_again_a_meter_says_the_same() -> None:
    meter = DurationMeter()
    meter.feed(SOUNDS["pcm16.wav"])
    assert [meter.duration_ms(), meter.duration_ms()] == [1345, 1345]
