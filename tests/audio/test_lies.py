"""Headers that lie, boxes that never end, whatever else is not made to be played: bytes decide, and time is bounded."""

import struct
import time

import pytest

from proxy.core.audio.codecs import Opus, Vorbis
from proxy.core.audio.flac import read_frame
from proxy.core.audio.meter import BYTE_MS_MAX
from tests.audio.measuring import SOUNDS, box, chunk, cut, measured, noise, wave

SECOND = bytes(16_000)
"""One second of PCM at 8 kHz and 16 bits."""
AAC_MS = 64
"""A frame of AAC at 16 kHz."""


def edited(name: str, old: bytes, new: bytes) -> bytes:
    """A file with a few bytes changed, which are there once."""
    assert SOUNDS[name].count(old) == 1
    return SOUNDS[name].replace(old, new)


# WAVE


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 32_000])
@pytest.mark.parametrize("riff", [None, 0, 1, 0xFFFFFFFF])
def test_a_wave_plays_its_bytes_whatever_its_sizes_say(size: int, riff: int | None) -> None:
    assert measured(wave(SECOND * 2, size=size, riff=riff)) == 2000


def test_what_follows_data_that_said_to_be_shorter_is_data_too() -> None:
    sound = b"\x80\x01" * 16_000
    assert measured(wave(sound, size=100)) == 2000


@pytest.mark.parametrize("byte_rate", [0, 1, 0xFFFFFFFF])
@pytest.mark.parametrize("block", [0, 1, 65535])
def test_the_byte_rate_follows_from_channels_bits_and_rate(byte_rate: int, block: int) -> None:
    assert measured(wave(SECOND * 4, channels=2, bits=24, byte_rate=byte_rate, block=block)) == 1333


@pytest.mark.parametrize(("field", "value"), [("channels", 0), ("rate", 0), ("rate", 1), ("bits", 0), ("tag", 0x4242)])
def test_a_wave_that_cannot_be_is_not_read(field: str, value: int) -> None:
    assert measured(wave(SECOND, **{field: value})) is None


def test_several_data_chunks_are_added_up_and_other_chunks_do_not_play() -> None:
    data = wave(SECOND) + chunk(b"LIST", b"odd") + chunk(b"data", SECOND) + chunk(b"id3 ", bytes(500))
    assert measured(data) == 2000


def test_a_chunk_that_reaches_beyond_the_end_hides_what_is_in_it() -> None:
    data = wave(SECOND)
    assert measured(data[:12] + b"junk\xf0\xff\xff\xff" + data[12:]) is None


def test_an_extensible_header_says_in_its_middle_what_it_holds() -> None:
    head = struct.pack("<HHIIHHHHIH", 0xFFFE, 1, 8000, 16_000, 2, 16, 22, 16, 4, 1) + bytes(14)
    body = b"WAVE" + chunk(b"fmt ", head) + chunk(b"data", SECOND)
    assert measured(b"RIFF" + struct.pack("<I", len(body)) + body) == 1000


@pytest.mark.parametrize(("duration_ms", "samples"), [(60_000, 480_000), (60_001, 480_008), (1, 1)])
def test_whole_milliseconds_are_counted(duration_ms: int, samples: int) -> None:
    assert measured(wave(bytes(2 * samples))) == duration_ms


# MPEG audio and ADTS


def frames(name: str) -> bytes:
    """A file's frames, without what is before them."""
    data = SOUNDS[name]
    return data[data.index(b"\xff", 10 + int(data[:3] == b"ID3")) :]


def test_an_xing_header_that_lies_about_the_frames_changes_nothing() -> None:
    at = SOUNDS["cbr.mp3"].index(b"Info") + 8
    data = bytearray(SOUNDS["cbr.mp3"])
    for lie in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        data[at : at + 4] = lie
        assert measured(bytes(data)) == 1345


def test_litter_between_frames_is_skipped_and_tags_do_not_play() -> None:
    sound = frames("noxing.mp3")
    once = measured(sound)
    assert once is not None
    tagged = b"ID3\x04\0\0\0\0\x02\x00" + bytes(256) + sound + b"TAG" + bytes(125)
    assert measured(tagged) == once
    assert measured(sound + noise(5000).replace(b"\xff", b"") + sound) == pytest.approx(2 * once, abs=80)


def test_a_tag_that_is_longer_than_the_file_leaves_nothing() -> None:
    assert measured(b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + frames("noxing.mp3")) is None


def test_rates_may_change_between_frames() -> None:
    both = frames("noxing.mp3") + frames("layer2.mp2")
    assert measured(both) == pytest.approx((measured(frames("noxing.mp3")) or 0) + 1368, abs=80)


def test_a_file_that_is_mostly_something_else_is_no_mpeg_audio() -> None:
    assert measured(frames("noxing.mp3")[:2000] + noise(20_000).replace(b"\xff", b"")) is None


def test_adts_frames_too_short_to_hold_sound_are_none() -> None:
    assert measured(b"\xff\xf1\x50\x80\x00\xff\xfc" * 10_000) is None


# FLAC and Ogg


def flac_header(begin: bytes) -> bytes:
    """A frame's header with the checksum that it needs."""
    (crc,) = (crc for crc in range(256) if read_frame(begin + bytes([crc]) + bytes(10), 0) is not None)
    return begin + bytes([crc])


STREAM_BYTES = SOUNDS["flac.flac"].index(b"\xff\xf8")


def test_a_header_whose_checksum_is_wrong_is_no_frame() -> None:
    data = bytearray(SOUNDS["flac.flac"])
    header = next(size for size in range(5, 16) if read_frame(bytes(data), STREAM_BYTES) and flac_crc_at(data, size))
    data[STREAM_BYTES + header] ^= 1
    assert measured(bytes(data)) == 1345 - 1152 // 16


def flac_crc_at(data: bytearray, size: int) -> bool:
    """Whether the first frame's checksum stands so far behind its beginning."""
    changed = bytearray(data[STREAM_BYTES : STREAM_BYTES + 32])
    changed[size] ^= 1
    later = bytearray(data[STREAM_BYTES : STREAM_BYTES + 32])
    later[size + 1] ^= 1
    return read_frame(bytes(changed), 0) is None and read_frame(bytes(later), 0) is not None


def test_what_goes_with_nothing_before_it_is_no_frame() -> None:
    stranger = flac_header(b"\xff\xf8\x59\x02\x70") + bytes(20)
    assert measured(SOUNDS["flac.flac"] + stranger * 10) == 1345


def test_frames_of_flac_without_sound_are_given_up() -> None:
    frame = SOUNDS["flac.flac"][STREAM_BYTES : STREAM_BYTES + 10]
    assert measured(SOUNDS["flac.flac"][:STREAM_BYTES] + frame * 100_000) is None


def test_no_byte_plays_longer_than_any_codec_makes_it() -> None:
    frame = flac_header(b"\xff\xf8\x79\x08\x00\xff\xff") + bytes(6)  # 65,536 samples in 14 bytes
    data = SOUNDS["flac.flac"][:STREAM_BYTES] + frame * 1000
    assert measured(data) == len(data) * BYTE_MS_MAX


def test_packets_of_opus_without_sound_are_given_up() -> None:
    data = SOUNDS["opus.ogg"]
    headers = data[: data.index(b"OggS", data.index(b"OpusTags"))]
    page = b"OggS\0\0" + b"\xff" * 8 + data[14:18] + bytes(8) + b"\xff" + b"\1" * 255 + b"\x0b" * 255
    assert measured(headers + page * 4) is not None
    assert measured(headers + page * 2000) is None


def test_a_packet_of_vorbis_tells_its_block() -> None:
    modes = [(0, 1), (1, 2), (0, 3)]  # short or long, and a mapping
    bits, at = noise(90)[0] | 1 << 200, 220
    for value, size in [(len(modes) - 1, 6), *((flag | mapping << 33, 41) for flag, mapping in modes), (1, 1)]:
        bits |= value << at
        at += size
    codec = Vorbis(b"\x01vorbis" + bytes(5) + struct.pack("<I", 44_100) + bytes(12) + b"\xb8\x01")  # 256 and 2048
    codec.header(bits.to_bytes(90, "little"))
    short, long, other, header = b"\x00", b"\x02", b"\x04", b"\x01"
    data = short + short + header + long + long + other
    assert codec.samples(data, range(6)) == (0 + 128) + (64 + 512) + 1024 + (512 + 64)


@pytest.mark.parametrize(
    ("packet", "samples"),
    [(b"\x08", 960), (b"\x09", 1920), (b"\x1b\x02", 5760), (b"\x0b\x03", 2880), (b"\xe3\x3f", 5760), (b"\x0b", 0)],
)
def test_a_packet_of_opus_tells_its_frames(packet: bytes, samples: int) -> None:
    assert Opus(0).samples(packet, [0]) == samples


def test_flac_counts_frames_not_what_its_first_header_says() -> None:
    data = bytearray(SOUNDS["flac.flac"])
    assert data[4] & 0x7F == 0
    for lie in (bytes(5), b"\x0f\xff\xff\xff\xff"):
        data[21] = data[21] & 0xF0 | lie[0]
        data[22:26] = lie[1:]
        assert measured(bytes(data)) == 1345


def test_a_frame_number_that_starts_again_is_still_a_frame() -> None:
    data = SOUNDS["flac.flac"]
    first = data.index(b"\xff\xf8")
    assert measured(data + data[first:]) == 2690


@pytest.mark.parametrize("name", ["opus.ogg", "vorbis.ogg"])
@pytest.mark.parametrize("granule", [0, 1, (1 << 63) - 1, (1 << 64) - 1])
def test_granules_that_lie_are_not_believed(name: str, granule: int) -> None:
    data = bytearray(SOUNDS[name])
    at = 0
    while (at := data.find(b"OggS", at)) >= 0:
        if data[at + 6 : at + 14] != bytes(8):
            data[at + 6 : at + 14] = granule.to_bytes(8, "little")
        at += 4
    assert measured(bytes(data)) == pytest.approx(1345, abs=40)  # all packets, with what an end may leave unheard


@pytest.mark.parametrize("name", ["opus.ogg", "vorbis.ogg", "speex.ogg", "flac.oga"])
def test_chained_streams_are_added_up(name: str) -> None:
    assert measured(SOUNDS[name] * 3) == pytest.approx(3 * (measured(SOUNDS[name]) or 0), abs=3)


def test_streams_at_the_same_time_play_as_long_as_the_longest() -> None:
    other = SOUNDS["opus.ogg"].replace(SOUNDS["opus.ogg"][14:18], b"abcd")
    first, second = SOUNDS["opus.ogg"].split(b"OggS", 2)[1:], other.split(b"OggS", 2)[1:]
    both = b"".join(b"OggS" + page for page in (first[0], second[0], first[1], second[1]))
    assert measured(both) == 1345


def test_a_pre_skip_that_would_leave_nothing_is_not_believed() -> None:
    at = SOUNDS["opus.ogg"].index(b"OpusHead") + 10
    data = SOUNDS["opus.ogg"]
    assert measured(data[:at] + b"\xff\xff" + data[at + 2 :]) == pytest.approx(1351, abs=30)


# MP4


@pytest.mark.parametrize("name", ["mvhd", "mdhd", "tkhd"])
def test_the_durations_of_mp4_headers_are_not_read(name: str) -> None:
    data = bytearray(SOUNDS["faststart.m4a"])
    at = data.index(name.encode()) + {"mvhd": 20, "mdhd": 20, "tkhd": 24}[name]
    data[at : at + 4] = b"\xff\xff\xff\xff"
    assert measured(bytes(data)) == 1345


def test_a_time_table_that_lies_changes_nothing_where_packets_are_known() -> None:
    data = bytearray(SOUNDS["faststart.m4a"])
    at = data.index(b"stts") + 16
    for lie in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        data[at : at + 4] = lie
        assert measured(bytes(data)) == 1345


def test_a_time_table_that_lies_is_bounded_where_packets_are_not_known() -> None:
    data = bytearray(SOUNDS["alac.m4a"])
    at = data.index(b"stts") + 16
    data[at : at + 4] = b"\xff\xff\xff\xff"
    assert (measured(bytes(data)) or 0) <= 6000  # a second a packet


def test_samples_of_which_the_file_has_no_bytes_do_not_play() -> None:
    data = bytearray(SOUNDS["faststart.m4a"])
    at = data.index(b"stsz") + 8
    data[at : at + 8] = struct.pack(">II", 300, 4_000_000_000)
    assert (measured(bytes(data)) or 0) <= 6_000_000
    assert measured(bytes(data)) == pytest.approx(len(data) // 300 * AAC_MS, rel=0.5)


def test_media_that_is_cut_off_plays_in_proportion() -> None:
    data = SOUNDS["faststart.m4a"]
    media = data.index(b"mdat") + 4
    half = data[: media + (len(data) - media) // 2]
    assert measured(half) == pytest.approx(1345 / 2, abs=2 * AAC_MS)


def test_an_edit_that_leaves_out_much_is_not_believed() -> None:
    data = bytearray(SOUNDS["faststart.m4a"])
    at = data.index(b"elst") + 12
    data[at : at + 4] = b"\0\0\0\x01"
    assert measured(bytes(data)) == pytest.approx(1408, abs=AAC_MS)
    data[at + 4 : at + 8] = b"\0\0\x40\0"
    assert measured(bytes(data)) == pytest.approx(1472, abs=AAC_MS // 2)


def test_sizes_of_64_bits_and_a_last_box_without_a_size_are_read() -> None:
    data = SOUNDS["faststart.m4a"]
    at = data.index(b"mdat") - 4
    media = data[at + 8 :]
    assert measured(data[:at] + b"\0\0\0\0mdat" + media) == 1345
    assert measured(data[:at] + b"\0\0\0\x01mdat" + (len(media) + 16).to_bytes(8, "big") + media) == 1345
    assert measured(data[:at] + b"\0\0\0\x01mdat" + b"\xff" * 8 + media) == 1345


# Matroska


def test_a_duration_that_lies_is_not_read() -> None:
    data = bytearray(SOUNDS["opus.webm"])
    at = data.index(b"\x44\x89\x88") + 3
    data[at : at + 8] = struct.pack(">d", 1.9e17)
    assert measured(bytes(data)) == 1349


def test_time_stamps_that_lie_change_nothing_where_packets_are_known() -> None:
    data = SOUNDS["opus.webm"].replace(b"\xe7\x81\x00", b"\xe7\x81\xff")
    assert data != SOUNDS["opus.webm"]
    assert measured(data) == 1349


def test_out_of_step_the_next_cluster_is_a_new_beginning() -> None:
    data = SOUNDS["opus.webm"]
    cluster = data.index(b"\x1f\x43\xb6\x75")
    assert measured(data[:cluster] + bytes(50) + data[cluster:]) == 1349
    assert measured(data[:cluster] + b"\0\xec\x4f\xff" + data[cluster:]) == 1349  # then a void that hides all


def test_what_has_no_size_hides_nothing() -> None:
    data = SOUNDS["opus.webm"]
    cluster = data.index(b"\x1f\x43\xb6\x75")
    assert measured(data[:cluster] + b"\xec\xff" + data[cluster:]) == 1349


# CAF


def test_packets_of_caf_hold_no_more_samples_than_bits() -> None:
    data = bytearray(SOUNDS["caf.caf"])
    at = data.index(b"desc") + 12
    data[at + 8 : at + 12] = b"ulaw"
    data[at + 16 : at + 24] = struct.pack(">II", 2, 17)
    assert measured(bytes(data)) is None


# Not made to be played: each is read in bounded time and memory, and means nothing


NASTY = {
    "boxes of no size": box(b"ftyp", b"isom") + b"\0\0\0\x08free" * 130_000,
    "boxes shorter than their heads": box(b"ftyp", b"isom") + b"\0\0\0\x02free" * 130_000,
    "boxes within boxes": box(b"ftyp", b"isom") + b"\0\x0f\xff\xffmoov" * 130_000,
    "tracks without end": box(b"ftyp", b"isom") + b"\0\x0f\xff\xfftrak" * 130_000,
    "a table that says to be huge": box(b"ftyp", b"isom") + box(b"stts", b"\xff" * 1_000_000, size=0xFFFFFFFF),
    "runs of nothing": box(b"ftyp", b"isom") + box(b"trun", b"\0\0\0\0\xff\xff\xff\xff") * 65_000,
    "clusters of no size": b"\x1aE\xdf\xa3\x80" + b"\x1f\x43\xb6\x75\x80" * 200_000,
    "deep nesting": b"\x1aE\xdf\xa3\x80" + b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" * 90_000,
    "tracks of Matroska": b"\x1aE\xdf\xa3\x80" + b"\xae\x80\xd7\x81\x01" * 200_000,
    "chunks of no size": b"RIFF\0\0\0\0WAVE" + b"abcd\0\0\0\0" * 130_000,
    "pages without packets": (b"OggS" + bytes(23)) * 38_000,
    "almost pages": b"Ogg" * 340_000 + b"OggS",
    "blocks of FLAC": b"fLaC" + b"\x01\0\0\0" * 260_000,
    "frames of FLAC by chance": SOUNDS["flac.flac"][:86] + b"\xff\xf8\x69\x18\x00\xbf" * 170_000,
    "headers of MPEG audio by chance": b"\xff\xfb\x90\x00" * 260_000,
    "sync codes": b"\xff" * 1_000_000,
    "tags of tags": b"ID3\x04\0\0\0\0\0\0" * 100_000,
    "noise": noise(1_000_000),
}


@pytest.mark.parametrize("name", NASTY)
def test_what_is_not_made_to_be_played_takes_bounded_time(name: str) -> None:
    started = time.process_time()
    assert measured(*cut(NASTY[name], range(65_536, len(NASTY[name]), 65_536))) is None
    assert time.process_time() - started < 1.0  # a megabyte; most take a tenth of that
