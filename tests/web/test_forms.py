"""Forms as they come in: these bytes make this form, or this refusal; and nothing of them stays behind."""

import asyncio
import os
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import ApiError
from proxy.web.exchange import STEP_BYTES, UNASKED_BYTES_MAX
from proxy.web.forms import FEED_BYTES, FILES_MAX, OVERHEAD_BYTES_MAX, PARTS_MAX, VALUE_BYTES_MAX, FormReader
from proxy.web.spool import MEMORY_BYTES_MAX, Spool
from tests.support.descriptors import no_spooled_open, spooled_open
from tests.web.wire import HEAD, Wire, answers, chunked

TYPE = b"multipart/form-data; boundary=X-7"
AUDIO = bytes(range(256)) * 20 + b"\r\n--X-\r\n--X-70\r\n--X" + b"\r" * 5
MEBIBYTE = 1 << 20


class Meter:
    """A meter that remembers what it was fed."""

    def __init__(self):
        self.fed = b""

    def feed(self, piece):
        self.fed += piece

    def duration_ms(self):
        return len(self.fed)


class Desk:
    """Everything around a form."""

    def __init__(self, folder, bytes_max=64 * MEBIBYTE):
        self.failures = []
        self.bytes_max = bytes_max
        self.spool = Spool(folder / "spool", lambda: self.bytes_max, lambda where, exc: self.failures.append(exc))

    def reader(self, content_type=TYPE):
        return FormReader(content_type, self.spool, Meter)

    async def read(self, *pieces, content_type=TYPE):
        """Read a form from these pieces; return it and its reader, open."""

        async def coming():
            for piece in pieces:
                yield piece

        reader = self.reader(content_type)
        try:
            return await reader.read(coming()), reader
        except BaseException:
            reader.close()
            raise


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def part(name, value, *lines, file=None, kind=None):
    """Return one part; a file where ``file`` is its name."""
    head = b'Content-Disposition: form-data; name="%b"' % name
    if file is not None:
        head += b'; filename="%b"' % file
    if kind is not None:
        head += b"\r\nContent-Type: %b" % kind
    return b"--X-7\r\n%b\r\n%b\r\n%b\r\n" % (head, b"".join(line + b"\r\n" for line in lines), value)


def form_of(*parts):
    return b"".join(parts) + b"--X-7--\r\n"


DOCUMENTED = form_of(
    part(b"file", AUDIO, file=b"audio.wav", kind=b"audio/wav"),
    part(b"language", b"fr"),
    part(b"response_format", b"json"),
    part(b"language", "é".encode()),
    part(b"initial_prompt", b""),
)
FIELDS = (("language", "fr"), ("response_format", "json"), ("language", "é"), ("initial_prompt", ""))


def content(file):
    return b"".join(file.content.pieces())


# What is read


async def test_a_form_as_curl_sends_it_is_read_in_its_order_whatever_comes_first(desk):
    form, reader = await desk.read(DOCUMENTED)
    file = form.files["file"]
    assert form.fields == FIELDS
    assert (file.name, file.content_type, file.content.size) == ("audio.wav", "audio/wav", len(AUDIO))
    assert content(file) == AUDIO
    assert content(file) == AUDIO  # it can be read again
    reader.close()


@given(st.lists(st.integers(0, len(DOCUMENTED)), max_size=12))
@settings(max_examples=150, deadline=None)
def test_a_form_is_the_same_wherever_its_bytes_are_cut(cuts):
    reader = Desk(Path("/nonexistent")).reader()
    ends = [*sorted(cuts), len(DOCUMENTED)]
    for start, end in zip([0, *ends], ends, strict=False):
        reader.feed(DOCUMENTED[start:end])
    form = reader.form()
    assert form.fields == FIELDS
    assert content(form.files["file"]) == AUDIO
    assert form.files["file"].duration_ms == len(AUDIO)


def test_a_form_is_the_same_byte_by_byte():
    reader = Desk(Path("/nonexistent")).reader()
    for index in range(len(DOCUMENTED)):
        reader.feed(DOCUMENTED[index : index + 1])
    assert content(reader.form().files["file"]) == AUDIO
    assert reader.form().fields == FIELDS


_PIECES = st.sampled_from(
    [
        *(b"--X-7", b"--X-7--", b"\r\n", b"\r", b"\n", b"-", b":", b"; ", b'"', b"\0", b"\xff\xfe", b" " * 70),
        *(b"Content-Disposition: form-data; ", b'name="a"', b'filename="b"', b"Content-Type: audio/wav", b"x" * 5000),
        *(part(b"a", b"1"), part(b"file", AUDIO, file=b"f"), b"--X-7\r\n", DOCUMENTED),
    ]
)


def outcome_of(whole, size):
    """Return the form that these bytes make in pieces of a size, or the refusal."""
    reader = Desk(Path("/nonexistent")).reader()
    try:
        for start in range(0, len(whole), size):
            reader.feed(whole[start : start + size])
        form = reader.form()
    except ApiError as error:
        return error.status, error.body
    return form.fields, {name: (file.name, content(file)) for name, file in form.files.items()}


@given(st.lists(_PIECES | st.binary(max_size=40), max_size=30), st.integers(1, 97))
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_a_form_or_a_documented_refusal(pieces, step):
    whole = b"".join(pieces)
    outcome = outcome_of(whole, step)
    assert outcome == outcome_of(whole, len(whole) + 1)
    assert outcome[0] == 400 or isinstance(outcome[0], tuple)


@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda rest: TYPE + rest))
@settings(max_examples=300, deadline=None)
def test_any_content_type_names_a_boundary_or_is_refused(value):
    try:
        Desk(Path("/nonexistent")).reader(value)
    except ApiError as error:
        refused = error.status
    else:
        refused = 400
    assert refused == 400


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b'form-data; name="file"; filename="r\xc3\xa9union.mp3"', "réunion.mp3"),
        (b"form-data; name=file; filename=plain.mp3", "plain.mp3"),
        (b'form-data; name="file"; filename="say \\"hi\\".mp3"', 'say "hi".mp3'),
        (b'form-data; name="file"; filename="C:\\\\songs\\\\a.mp3"', "a.mp3"),
        (b"form-data; name=\"file\"; filename*=utf-8''r%C3%A9union.mp3", "réunion.mp3"),
        (b'form-data; name="file"; filename=""', ""),
        (b'form-data; name="file"; filename="a.mp3"; filename*=UTF-8\'\'b.mp3', "a.mp3"),
    ],
)
async def test_a_file_is_named_as_clients_of_every_age_name_it(desk, disposition, name):
    raw = b"--X-7\r\nContent-Disposition: %b\r\n\r\nabc\r\n--X-7--\r\n" % disposition
    form, reader = await desk.read(raw)
    assert (form.files["file"].name, form.fields) == (name, ())
    reader.close()


async def test_a_part_of_an_audio_type_is_a_file_though_it_has_no_name_and_one_of_text_is_none(desk):
    raw = form_of(part(b"file", b"abc", kind=b"audio/mpeg"), part(b"task", b"translate", kind=b"text/plain"))
    form, reader = await desk.read(raw)
    assert (form.files["file"].name, form.fields) == ("", (("task", "translate"),))
    reader.close()


async def test_only_the_file_that_is_to_be_heard_is_measured(desk):
    raw = form_of(part(b"other", b"ab", file=b"o"), part(b"file", AUDIO, file=b"f"))
    form, reader = await desk.read(raw)
    assert {name: file.duration_ms for name, file in form.files.items()} == {"other": None, "file": len(AUDIO)}
    reader.close()


async def test_bytes_before_and_after_the_parts_are_passed_over(desk):
    form, reader = await desk.read(b"\r\n" + DOCUMENTED + b"an epilogue\r\n")
    assert form.fields == FIELDS
    reader.close()


# What is refused

_OK_PART = part(b"a", b"1")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "broken"),
        (DOCUMENTED[:-4], "broken"),
        (DOCUMENTED[: len(DOCUMENTED) // 2], "broken"),
        (b"language=fr&x=y", "broken"),
        (b"--X-8" + DOCUMENTED[5:], "broken"),
        (form_of(b"--X-7\r\n\r\nno headers\r\n"), "broken"),
        (form_of(b'--X-7\r\nContent-Disposition: attachment; name="a"\r\n\r\n1\r\n'), "broken"),
        (form_of(b"--X-7\r\nContent-Disposition: form-data\r\n\r\n1\r\n"), "broken"),
        (form_of(b'--X-7\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n1\r\n'), "broken"),
        (form_of(part(b"a", b"1", b'Content-Disposition: form-data; name="b"')), "broken"),
        (form_of(part(b"a\nX-Evil: 1", b"1")), "broken"),
        (form_of(part(b"a", b"1", b"X: " + b"y" * 5000)), "broken"),
        (form_of(part(b"a", b"1", *[b"X-%d: y" % number for number in range(8)])), "broken"),
        (form_of(part(b"a", b"1", b"Content-Transfer-Encoding: base64")), "Content-Transfer-Encoding"),
        (form_of(part(b"a", b"\xff")), "Invalid parameter 'a': must be UTF-8 text"),
        (form_of(part(b"a", b"x" * (VALUE_BYTES_MAX + 1))), "Invalid parameter 'a': must be at most 65536 bytes"),
        (form_of(*[_OK_PART] * (PARTS_MAX + 1)), "too many parts"),
        (form_of(*[part(b"f%d" % n, b"1", file=b"f") for n in range(FILES_MAX + 1)]), "too many parts"),
        (form_of(part(b"file", b"1", file=b"a"), part(b"file", b"2", file=b"b")), "'file': must be sent once"),
        (DOCUMENTED + b" " * OVERHEAD_BYTES_MAX, "broken"),
        (_OK_PART[:-2] + b"\r\n--X-7" + b" " * (OVERHEAD_BYTES_MAX + FEED_BYTES) + b"\r\n", "broken"),
        (b"\r\n" * OVERHEAD_BYTES_MAX + DOCUMENTED, "broken"),
    ],
)
async def test_what_is_no_form_is_refused_with_what_is_wrong(desk, raw, says):
    with pytest.raises(ApiError, match=re.escape(says)) as refused:
        await desk.read(raw)
    assert refused.value.status == 400
    assert desk.spool.files == 0


async def test_as_much_as_is_allowed_is_taken(desk):
    parts = [part(b"a%d" % number, b"x" * VALUE_BYTES_MAX) for number in range(PARTS_MAX)]
    form, _ = await desk.read(form_of(*parts))
    assert len(form.fields) == PARTS_MAX


@pytest.mark.parametrize(
    "content_type",
    [
        b"",
        b"application/json",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/mixed; boundary=X-7",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=" + b"x" * 300,
    ],
)
def test_what_is_not_sent_as_a_form_is_refused(desk, content_type):
    with pytest.raises(ApiError, match="must be multipart/form-data with a boundary"):
        desk.reader(content_type)


def test_a_broken_form_is_not_quoted_in_the_log(desk, caplog):
    with pytest.raises(ApiError):
        desk.reader().feed(b"--X-7secret")
    assert caplog.text == ""


# Where files wait


async def test_a_small_file_never_sees_the_disk_and_a_large_one_has_no_name_there(desk, tmp_path):
    small = b"s" * MEMORY_BYTES_MAX
    form, reader = await desk.read(form_of(part(b"file", small, file=b"a")))
    assert (spooled_open(), desk.spool.bytes_on_disk) == ([], 0)
    assert content(form.files["file"]) == small
    reader.close()

    large = os.urandom(3 * MEBIBYTE + 17)
    raw = form_of(part(b"file", large, file=b"a"))
    form, reader = await desk.read(*(raw[start : start + 100_001] for start in range(0, len(raw), 100_001)))
    assert len(spooled_open()) == 1
    assert list((tmp_path / "spool").iterdir()) == []
    assert desk.spool.bytes_on_disk == len(large)
    assert content(form.files["file"]) == large
    assert max(map(len, form.files["file"].content.pieces())) <= 262_144
    reader.close()
    await no_spooled_open()
    assert (desk.spool.bytes_on_disk, desk.spool.files) == (0, 0)
    with pytest.raises(OSError, match="over"):
        content(form.files["file"])


async def test_a_form_that_breaks_leaves_nothing_behind(desk):
    raw = form_of(part(b"file", b"x" * MEBIBYTE, file=b"a"))
    with pytest.raises(ApiError):
        await desk.read(raw[:-400], b"\r\n--X-7\r\nno header\r\n")
    await no_spooled_open()
    assert (desk.spool.bytes_on_disk, desk.spool.files) == (0, 0)


async def test_uploads_together_take_no_more_than_the_disk_may_give(tmp_path):
    desk = Desk(tmp_path, bytes_max=3 * MEBIBYTE)
    raw = form_of(part(b"file", b"x" * 2 * MEBIBYTE, file=b"a"))
    _, first = await desk.read(raw)
    with pytest.raises(ApiError) as refused:
        await desk.read(raw)
    assert refused.value.status == 503
    first.close()
    _, second = await desk.read(raw)
    second.close()
    await no_spooled_open()


async def test_a_disk_that_fails_is_a_503_and_is_told_of(tmp_path):
    (tmp_path / "spool").write_text("a file where the folder should be")
    desk = Desk(tmp_path)
    with pytest.raises(ApiError) as refused:
        await desk.read(form_of(part(b"file", b"x" * MEBIBYTE, file=b"a")))
    assert refused.value.status == 503
    assert [type(exc) for exc in desk.failures] == [FileExistsError]
    assert (desk.spool.bytes_on_disk, desk.spool.files) == (0, 0)


async def test_a_file_that_is_let_go_while_a_thread_writes_it_is_closed_by_that_thread(desk, monkeypatch):
    entered, go_on = threading.Event(), threading.Event()
    opened = desk.spool.open

    def slow_open():
        file = opened()
        entered.set()
        go_on.wait(5)
        return file

    monkeypatch.setattr(desk.spool, "open", slow_open)
    file = desk.spool.new()
    file.add(b"x" * MEBIBYTE)
    writing = asyncio.ensure_future(file.flush())
    await asyncio.to_thread(entered.wait, 5)
    writing.cancel()
    file.close()
    assert len(spooled_open()) == 1
    go_on.set()
    await no_spooled_open()
    with pytest.raises(asyncio.CancelledError):
        await writing


# How they come in


class Uploading:
    """A handler that reads a form off its exchange, and waits after each piece until it may go on."""

    def __init__(self, desk, bytes_max=8 * MEBIBYTE):
        self.desk = desk
        self.bytes_max = bytes_max
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.largest = self.total = 0

    async def __call__(self, exchange):
        reader = self.desk.reader()
        try:
            form = await reader.read(self.watched(exchange.pieces(self.bytes_max, 0.2)))
            exchange.answer(200, b"text/plain", b"", b"%d" % form.files["file"].content.size)
        except ApiError as error:
            exchange.answer(error.status, b"application/json", b"", error.body)
        finally:
            reader.close()

    async def watched(self, pieces):
        async for piece in pieces:
            self.largest = max(self.largest, len(piece))
            self.total += len(piece)
            await self.may_go_on.wait()
            yield piece


def upload(size):
    return form_of(part(b"file", b"x" * size, file=b"a"))


def plain(raw, *lines):
    head = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n" % (len(raw), b"".join(lines))
    return head + raw


async def test_a_form_that_comes_in_reads_of_any_size_is_whole(desk):
    raw = plain(upload(100_000))
    for size in (1000, 70_000, len(raw)):
        wire = Wire(Uploading(desk))
        sent = await wire.send(*(raw[start : start + size] for start in range(0, len(raw), size)))
        assert answers(sent)[0][2] == b"100000"


async def test_the_client_is_paused_while_its_upload_is_written(desk):
    handler = Uploading(desk)
    handler.may_go_on.clear()
    wire = Wire(handler)
    raw = plain(upload(4 * MEBIBYTE))
    sent = 0
    while wire.transport.reading and sent < len(raw):
        await wire.send(raw[sent : sent + 65_536])
        sent += 65_536
    assert sent <= UNASKED_BYTES_MAX + 3 * 65_536
    handler.may_go_on.set()
    await wire.settle()
    while sent < len(raw):
        while not wire.transport.reading:
            await asyncio.sleep(0.001)
        await wire.send(raw[sent : sent + 65_536])
        sent += 65_536
    while not wire.transport.written:
        await asyncio.sleep(0.001)
    assert answers(wire.transport.written)[0][2] == b"%d" % (4 * MEBIBYTE)
    assert handler.largest <= UNASKED_BYTES_MAX + 2 * 65_536
    await no_spooled_open()


async def test_a_client_is_watched_again_once_its_upload_has_come(desk):
    handler = Uploading(desk)
    handler.may_go_on.clear()
    wire = Wire(handler)
    raw = plain(upload(400_000))
    await wire.send(raw[:65_536])
    wire.feed(raw[65_536:])
    assert not wire.transport.reading
    handler.may_go_on.set()
    while not wire.transport.written:
        await asyncio.sleep(0.001)
    assert wire.transport.reading
    await no_spooled_open()


async def test_the_next_call_on_the_connection_is_served_after_an_upload(desk):
    wire = Wire(Uploading(desk))
    raw = plain(upload(5000))
    assert [body for _, _, body in answers(await wire.send(raw + raw))] == [b"5000", b"5000"]


async def test_a_form_that_is_too_large_is_refused_before_it_is_read_or_as_soon_as_it_is(desk):
    handler = Uploading(desk, bytes_max=MEBIBYTE)
    wire = Wire(handler)
    (answer,) = answers(await wire.send(HEAD + b"Content-Length: 1048577\r\nExpect: 100-continue\r\n\r\n"))
    assert (answer[0], answer[1][b"connection"], handler.total) == (413, b"close", 0)


async def test_an_upload_in_chunks_that_is_too_large_is_refused_on_its_way(desk):
    handler = Uploading(desk, bytes_max=MEBIBYTE)
    wire = Wire(handler)
    raw = upload(8 * MEBIBYTE)
    whole = chunked(*(raw[start : start + 65_536] for start in range(0, len(raw), 65_536)))
    sent = 0
    while not wire.transport.written:
        while not wire.transport.reading:
            await asyncio.sleep(0.001)
        await wire.send(whole[sent : sent + 65_536])
        sent += 65_536
    assert answers(wire.transport.written)[0][0] == 413
    assert sent < 2 * MEBIBYTE
    await no_spooled_open()


async def test_a_client_that_waits_to_be_asked_is_asked_once(desk):
    wire = Wire(Uploading(desk))
    raw = plain(upload(200_000), b"Expect: 100-continue\r\n")
    head, _, body = raw.partition(b"\r\n\r\n")
    assert await wire.send(head + b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    rest = await wire.send(*(body[start : start + 50_000] for start in range(0, len(body), 50_000)))
    assert answers(rest)[0][2] == b"200000"


async def test_a_client_that_takes_too_long_is_told_so(desk):
    wire = Wire(Uploading(desk))
    await wire.send(plain(upload(200_000))[:100_000])
    await asyncio.sleep(0.3)
    await wire.settle()
    assert answers(wire.transport.written)[0][0] == 408


async def test_a_large_upload_has_its_time_for_each_step(desk, monkeypatch):
    monkeypatch.setattr("proxy.web.exchange.STEP_BYTES", 100_000)
    assert STEP_BYTES == 8 * MEBIBYTE
    wire = Wire(Uploading(desk))
    raw = plain(upload(500_000))
    for start in range(0, len(raw), 50_000):  # a third of a second and more, where all of a body has a fifth
        await wire.send(raw[start : start + 50_000])
        await asyncio.sleep(0.03)
    assert answers(wire.transport.written)[0][2] == b"500000"
    await no_spooled_open()


async def test_an_upload_whose_framing_breaks_is_refused(desk):
    wire = Wire(Uploading(desk))
    raw = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % 100_000 + upload(300_000)
    await wire.send(raw[:90_000], raw[90_000:])
    assert answers(wire.transport.written)[0][0] == 400


async def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(desk):
    wire = Wire(Uploading(desk))
    raw = plain(upload(2 * MEBIBYTE))
    for start in range(0, MEBIBYTE, 65_536):
        while not wire.transport.reading:
            await asyncio.sleep(0.001)
        await wire.send(raw[start : start + 65_536])
    assert len(spooled_open()) == 1
    wire.transport.abort()
    await no_spooled_open()
    assert (desk.spool.bytes_on_disk, desk.spool.files) == (0, 0)
    assert wire.failures == []
