"""A connection read as a transcript: these bytes come in, the sink is told this."""

import pytest

from proxy.upstream.connection import HEAD_BYTES_MAX, UpstreamConnection
from proxy.upstream.failures import FailureKind


class FakeTransport:
    """A transport that remembers what was done to it."""

    def __init__(self):
        self.written = []
        self.closing = False
        self.reading = True

    def write(self, data):
        self.written.append(data)

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    abort = close

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True


class Recorder:
    """A sink that remembers what it was told."""

    def __init__(self):
        self.status = None
        self.headers = None
        self.body = b""
        self.pieces = []
        self.ends = 0
        self.error = None

    def on_head(self, status, headers):
        assert self.status is None
        self.status, self.headers = status, headers

    def on_data(self, data):
        assert self.status is not None
        assert not self.ended
        self.pieces.append(data)
        self.body += data

    def on_end(self):
        assert not self.ended
        self.ends += 1

    def on_failure(self, error):
        assert not self.ended
        self.error = error

    @property
    def ended(self):
        return bool(self.ends or self.error)


class Bench:
    """One connection with everything around it."""

    def __init__(self):
        self.now = 100.0
        self.idle = []
        self.lost = []
        self.transport = FakeTransport()
        self.posted = []
        self.connection = UpstreamConnection(self.idle.append, self.lost.append, lambda: self.now, self)
        self.connection.connection_made(self.transport)

    def gather(self, writer):
        self.posted.append(writer)

    def end_turn(self):
        while self.posted:
            self.posted.pop(0).send_posted()

    def ask(self):
        sink = self.post()
        self.end_turn()
        return sink

    def post(self):
        sink = Recorder()
        self.connection.begin(sink, b"POST / HTTP/1.1\r\n\r\n", 60.0, 10.0)
        return sink


@pytest.fixture
def bench():
    return Bench()


PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"6\r\ndata: \r\n3;x=y\r\nabc\r\n2\r\n\n\n\r\n0\r\nx-trailer: 1\r\n\r\n"
)


def test_a_plain_answer_is_told_as_head_body_and_end(bench):
    sink = bench.ask()
    bench.connection.data_received(PLAIN)
    assert (sink.status, sink.body, sink.ends) == (200, b"hello", 1)
    assert sink.headers == [(b"content-type", b"application/json"), (b"content-length", b"5")]
    assert bench.idle == [bench.connection]


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED])
def test_an_answer_cut_at_any_byte_is_told_the_same(answer):
    whole = Bench()
    expected = whole.ask()
    whole.connection.data_received(answer)
    for cut in range(1, len(answer)):
        bench = Bench()
        sink = bench.ask()
        bench.connection.data_received(answer[:cut])
        bench.connection.data_received(answer[cut:])
        assert (sink.status, sink.headers, sink.body, sink.ends) == (
            200,
            expected.headers,
            expected.body,
            1,
        ), cut
        assert bench.idle == [bench.connection]


def test_a_request_is_sent_when_the_turn_ends(bench):
    bench.post()
    assert bench.transport.written == []
    bench.end_turn()
    assert bench.transport.written == [b"POST / HTTP/1.1\r\n\r\n"]
    bench.connection.send_posted()
    assert len(bench.transport.written) == 1


def test_a_request_that_is_given_up_within_its_turn_is_never_sent(bench):
    sink = bench.post()
    bench.connection.abort()
    bench.end_turn()
    assert (bench.transport.written, bench.transport.closing, sink.ended) == ([], True, False)


def test_an_upstream_that_leaves_within_the_turn_was_sent_nothing(bench):
    sink = bench.post()
    bench.connection.connection_lost(None)
    bench.end_turn()
    assert (bench.transport.written, sink.error.kind) == ([], FailureKind.CLOSED)  # so it is sent to another


def test_what_comes_before_a_request_was_sent_is_no_answer_to_it(bench):
    sink = bench.post()
    bench.connection.data_received(PLAIN)
    bench.end_turn()
    assert (sink.status, sink.error.kind, bench.transport.written) == (None, FailureKind.CLOSED, [])
    assert (bench.idle, bench.transport.closing) == ([], True)


def test_the_pieces_of_one_read_arrive_as_one(bench):
    sink = bench.ask()
    bench.connection.data_received(CHUNKED)
    assert sink.pieces == [b"data: abc\n\n"]


def test_a_head_without_a_body_yet_is_told_at_once(bench):
    sink = bench.ask()
    bench.connection.data_received(CHUNKED.partition(b"6\r\n")[0])
    assert (sink.status, sink.pieces) == (200, [b""])


def test_a_second_exchange_on_the_same_connection_starts_clean(bench):
    bench.ask()
    bench.connection.data_received(CHUNKED)
    sink = bench.ask()
    bench.connection.data_received(PLAIN)
    assert (sink.status, sink.body, sink.ends) == (200, b"hello", 1)
    assert len(sink.headers) == 2


def test_a_100_continue_is_passed_over(bench):
    sink = bench.ask()
    bench.connection.data_received(b"HTTP/1.1 100 Continue\r\nx-a: b\r\n\r\n" + PLAIN)
    assert (sink.status, sink.body, sink.ends) == (200, b"hello", 1)
    assert (b"x-a", b"b") not in sink.headers


def test_an_answer_that_ends_with_the_connection_is_whole(bench):
    sink = bench.ask()
    bench.connection.data_received(b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nhel")
    bench.connection.data_received(b"lo")
    bench.connection.eof_received()
    assert (sink.body, sink.ends) == (b"hello", 1)
    assert bench.idle == []
    assert bench.transport.closing


def test_connection_close_is_not_reused(bench):
    sink = bench.ask()
    bench.connection.data_received(PLAIN.replace(b"Content-Type: application/json", b"connection: close"))
    assert sink.ends == 1
    assert bench.idle == []
    assert bench.transport.closing


@pytest.mark.parametrize(
    ("received", "kind"),
    [
        (b"", FailureKind.CLOSED),
        (b"HTTP/1.1 200 OK\r\ncontent-le", FailureKind.BROKEN),
        (PLAIN[:-2], FailureKind.BROKEN),
        (CHUNKED[:-4], FailureKind.BROKEN),
    ],
)
def test_a_lost_connection_fails_the_exchange(bench, received, kind):
    sink = bench.ask()
    if received:
        bench.connection.data_received(received)
    bench.connection.connection_lost(ConnectionResetError())
    assert sink.error.kind is kind
    assert bench.lost == [bench.connection]


def test_what_is_not_http_is_invalid(bench):
    sink = bench.ask()
    bench.connection.data_received(b"SSH-2.0-OpenSSH_9.2\r\n")
    assert sink.error.kind is FailureKind.INVALID
    assert bench.transport.closing


def test_broken_framing_delivers_what_came_before_it(bench):
    sink = bench.ask()
    bench.connection.data_received(CHUNKED.partition(b"2\r\n")[0] + b"zz\r\n")
    assert sink.body == b"data: abc"
    assert sink.error.kind is FailureKind.BROKEN


def test_an_upgrade_is_refused(bench):
    sink = bench.ask()
    bench.connection.data_received(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
    assert sink.error is not None
    assert bench.transport.closing


def test_a_second_answer_to_one_request_closes_the_connection(bench):
    sink = bench.ask()
    bench.connection.data_received(PLAIN + PLAIN)
    assert sink.body == b"hello"
    assert sink.ended
    assert bench.idle == []
    assert bench.transport.closing


def test_bytes_from_an_idle_upstream_close_the_connection(bench):
    bench.ask()
    bench.connection.data_received(PLAIN)
    bench.connection.data_received(PLAIN)
    assert bench.transport.closing


def test_an_endless_head_is_bounded(bench):
    sink = bench.ask()
    bench.connection.data_received(b"HTTP/1.1 200 OK\r\n")
    line = b"x-a: " + b"a" * 1000 + b"\r\n"
    for _ in range(HEAD_BYTES_MAX // 1000 + 2):
        if sink.ended:
            break
        bench.connection.data_received(line)
    assert sink.error.kind is FailureKind.INVALID


def test_a_header_without_end_is_bounded(bench):
    sink = bench.ask()
    bench.connection.data_received(b"HTTP/1.1 200 OK\r\nx-a: ")
    for _ in range(HEAD_BYTES_MAX // 1000 + 2):
        if sink.ended:
            break
        bench.connection.data_received(b"a" * 1000)
    assert sink.error.kind is FailureKind.INVALID


def test_trailers_without_end_are_bounded_whatever_came_before_them(bench):
    sink = bench.ask()
    bench.connection.data_received(CHUNKED[: CHUNKED.index(b"6\r\n")] + b"186a0\r\n" + b"b" * 100_000 + b"\r\n0\r\n")
    for _ in range(HEAD_BYTES_MAX // 1000 + 2):
        if sink.ended:
            break
        bench.connection.data_received(b"x-a: " + b"a" * 1000 + b"\r\n")
    assert (sink.error.kind, len(sink.body)) == (FailureKind.BROKEN, 100_000)


@pytest.mark.parametrize(("lines", "passes"), [(64, True), (66, False)])
def test_a_head_that_comes_in_one_read_is_bounded_without_its_body(bench, lines, passes):
    sink = bench.ask()
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n" + (b"x-a: " + b"a" * 1000 + b"\r\n") * lines + b"\r\n"
    bench.connection.data_received(head + b"b" * 100_000)
    assert (sink.ends, sink.error is None) == ((1, True) if passes else (0, False))


def test_an_aborted_exchange_is_told_nothing_more(bench):
    sink = bench.ask()
    bench.connection.data_received(CHUNKED[:90])
    bench.connection.abort()
    bench.connection.connection_lost(None)
    assert not sink.ended
    assert bench.transport.closing


def test_a_silent_upstream_times_out_and_a_stalled_reader_is_told_apart(bench):
    sink = bench.ask()
    assert bench.connection.deadline == 160.0
    bench.connection.data_received(CHUNKED[:90])
    assert bench.connection.deadline == 110.0
    bench.connection.pause_reading(30.0)
    assert bench.connection.deadline == 130.0
    assert not bench.transport.reading
    bench.connection.expire()
    assert sink.error.kind is FailureKind.CLIENT_STALLED

    other = Bench()
    sink = other.ask()
    other.connection.expire()
    assert sink.error.kind is FailureKind.TIMEOUT


def test_reading_resumes_for_the_next_exchange(bench):
    bench.ask()
    bench.connection.data_received(CHUNKED[:90])
    bench.connection.pause_reading(30.0)
    bench.connection.data_received(CHUNKED[90:])
    assert bench.transport.reading
    assert bench.idle == [bench.connection]
