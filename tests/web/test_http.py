"""The customers' side read as a transcript: these bytes come in, these go out."""

import asyncio
import gzip
import json
import random
import socket
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.web.connections import Connections
from proxy.web.http import DISCARD_BYTES_MAX, HEAD_S, LINGER_S, UNPARSED_BYTES_MAX, UNSENT_S, Connection
from tests.web.wire import BODY_BYTES_MAX, HEAD, Wire, answers, chunked, post


def statuses(data):
    return [status for status, _, _ in answers(data)]


def is_documented_400(data):
    ((status, headers, body),) = answers(data)
    assert headers[b"connection"] == b"close"
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    return status == 400


# What is served

CONVERSATIONS = {
    "a call": (post(b"one"), [b"one"]),
    "two calls, one after the other": (post(b"one") + post(b"two"), [b"one", b"two"]),
    "chunks": (chunked(b"on", b"e"), [b"one"]),
    "chunks with trailers": (
        chunked(b"one", trailers=b"Authorization: x\r\nX: y\r\n") + post(b"two"),
        [b"one", b"two"],
    ),
    "no body": (HEAD + b"\r\n" + post(b"two"), [b"", b"two"]),
    "a wish to upgrade": (
        post(b"one", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
        + post(b"two"),
        [b"one", b"two"],
    ),
    "chunks and a wish to upgrade": (
        chunked(b"one").replace(b"Host: x", b"Connection: upgrade\r\nUpgrade: websocket") + post(b"two"),
        [b"one", b"two"],
    ),
    "blank lines between": (b"\r\n" + post(b"one") + b"\r\n" + post(b"two"), [b"one", b"two"]),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_calls_are_the_same_wherever_their_bytes_are_cut(name):
    raw, bodies = CONVERSATIONS[name]
    for cut in range(len(raw) + 1):
        wire = Wire()
        got = answers(await wire.send(raw[:cut], raw[cut:]))
        assert [body for _, _, body in wire.seen] == bodies, cut
        assert [(status, body) for status, _, body in got] == [(200, b"POST /x " + body) for body in bodies], cut
        assert not wire.transport.closing
    wire = Wire()
    await wire.send(*[raw[index : index + 1] for index in range(len(raw))])
    assert [body for _, _, body in wire.seen] == bodies


async def test_many_calls_at_once_are_answered_in_order():
    raw = b"".join(post(b"%d" % index) for index in range(5000))
    wire = Wire()
    wire.feed(raw)
    assert len(wire.connection._queue) < 400, "a read may not become more objects than a slice holds"
    assert not wire.transport.reading
    while not wire.transport.reading or wire.connection.current:
        await wire.settle()
    assert [body for _, _, body in wire.seen] == [b"%d" % index for index in range(5000)]


async def test_what_comes_while_an_answer_is_made_waits_bounded():
    go_on = asyncio.Event()

    async def slow(exchange):
        await go_on.wait()
        await wire.echo(exchange)

    wire = Wire(slow)
    await wire.send(post(b"one"))
    piece = post(b"x" * 1000)
    count = 0
    while wire.transport.reading:
        wire.feed(piece)
        count += 1
    assert UNPARSED_BYTES_MAX < count * len(piece) < UNPARSED_BYTES_MAX + 2000
    go_on.set()
    for _ in range(40):
        await wire.settle()
    assert len(wire.seen) == count + 1
    assert wire.transport.reading


async def test_header_values_arrive_as_sent_and_names_in_lower_case():
    seen = []

    async def look(exchange):
        seen.extend(exchange.headers)
        await wire.echo(exchange)

    wire = Wire(look)
    await wire.send(post(b"", b"X-Thing: A\xe9 b", b"x-thing: second"))
    assert seen[-2:] == [(b"x-thing", b"A\xe9 b"), (b"x-thing", b"second")]


@pytest.mark.parametrize(
    ("version", "header", "kept", "said"),
    [
        (b"1.1", b"X: y", True, None),
        (b"1.1", b"Connection: close", False, b"close"),
        (b"1.0", b"X: y", False, b"close"),
        (b"1.0", b"Connection: keep-alive", True, b"keep-alive"),
    ],
)
async def test_a_connection_is_kept_as_long_as_the_client_wants(version, header, kept, said):
    wire = Wire()
    ((status, headers, _),) = answers(await wire.send(b"GET /x HTTP/%b\r\n%b\r\n\r\n" % (version, header)))
    assert status == 200
    assert headers.get(b"connection") == said
    assert wire.transport.closing is not kept


async def test_an_answer_to_head_has_no_body():
    wire = Wire()
    raw = await wire.send(b"HEAD /x HTTP/1.1\r\n\r\n")
    assert raw.endswith(b"\r\n\r\n")
    assert b"content-length: 8\r\n" in raw


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/v1/x?a=/b", b"/v1/x"),
        (b"http://host/v1/x?y", b"/v1/x"),
        (b"HTTPS://host:1/v1/x", b"/v1/x"),
        (b"/v1%2fx", b"/v1%2fx"),
        (b"http://host", b"http://host"),
        (b"*", b"*"),
    ],
)
async def test_a_path_is_what_was_sent_without_host_and_query(target, path):
    paths = []

    async def look(exchange):
        paths.append(exchange.path)
        await wire.echo(exchange)

    wire = Wire(look)
    await wire.send(b"OPTIONS %b HTTP/1.1\r\n\r\n" % target)
    assert paths == [path]


async def test_a_client_that_waits_is_told_to_go_on_only_when_its_body_is_wanted():
    wire = Wire()
    head, _, body = post(b"one", b"Expect: 100-Continue").partition(b"\r\n\r\n")
    assert await wire.send(head + b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert statuses(await wire.send(body)) == [200]

    async def refuse(exchange):
        exchange.answer(401, b"application/json", b"", b"{}")

    wire = Wire(refuse)
    assert statuses(await wire.send(head + b"\r\n\r\n")) == [401]


# What is refused

SMUGGLED = b"GET /secret HTTP/1.1\r\nHost: x\r\n\r\n"
REFUSED = {
    "a length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "the same length twice": HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": HEAD + b"Content-Length: 3, 3\r\n\r\nabc",
    "a signed length": HEAD + b"Content-Length: +3\r\n\r\nabc",
    "an endless length": HEAD + b"Content-Length: 99999999999999999999\r\n\r\nabc",
    "no length": HEAD + b"Content-Length: \r\n\r\n",
    "identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n",
    "chunks of gzip": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "something like chunked": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded header": HEAD + b"A: b\r\n c: d\r\n\r\n",
    "a blank before the colon": HEAD + b"Content-Length : 3\r\n\r\nabc",
    "line feeds alone": b"GET /x HTTP/1.1\nHost: x\n\n",
    "a line feed alone": HEAD + b"A: b\nC: d\r\n\r\n",
    "a return alone": HEAD + b"A: b\rC: d\r\n\r\n",
    "a zero byte": HEAD + b"A: b\x00\r\n\r\n",
    "a nameless header": HEAD + b": b\r\n\r\n",
    "an unknown method": b"BREW /x HTTP/1.1\r\n\r\n",
    "a method in lower case": b"get /x HTTP/1.1\r\n\r\n",
    "no version": b"GET /x\r\n\r\n",
    "HTTP/0.9": b"GET /x HTTP/0.9\r\n\r\n",
    "HTTP/2": b"GET /x HTTP/2.0\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01",
    "too many headers": HEAD + b"A: b\r\n" * 200 + b"\r\n",
    "a header that is too large": HEAD + b"A: " + b"b" * 70_000 + b"\r\n\r\n",
    "a head that never ends": HEAD + b"A: " + b"b" * 200_000,
    "a target that is too large": b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_can_be_read_in_two_ways_is_refused_once_and_ends_the_connection(name):
    raw = REFUSED[name]
    cuts = range(1, len(raw)) if len(raw) < 200 else (1, 30, 16_384, len(raw) - 1)
    for cut in cuts:
        wire = Wire()
        got = await wire.send(raw[:cut], raw[cut:], SMUGGLED)
        assert is_documented_400(got), cut
        assert wire.seen == []
        assert wire.transport.ended
        await wire.pass_s(LINGER_S + 1)
        assert wire.transport.closing
        assert not wire.failures


async def test_a_head_within_the_bounds_is_served_wherever_it_is_cut():
    raw = HEAD + b"".join(b"X-%d: %b\r\n" % (index, b"v" * 500) for index in range(126)) + b"\r\n"
    for cut in (0, 1, 16_384, 40_000, len(raw) - 1):
        wire = Wire()
        assert statuses(await wire.send(raw[:cut], raw[cut:])) == [200]


async def test_what_came_whole_before_the_fault_is_still_answered():
    wire = Wire()
    got = await wire.send(post(b"one") + b"GARBAGE\r\n\r\n" + post(b"two"))
    assert statuses(got) == [200, 400]
    assert [body for _, _, body in wire.seen] == [b"one"]


@pytest.mark.parametrize(
    "rest",
    [
        b"zz\r\n",
        b"3\r\nabcdef\r\n",
        b"3\nabc\r\n",
        b"3 \r\nabc\r\n",
        b"0\r\n" + b"a: b\r\n" * 30_000,
        b"0\r\nContent-Length: 7\r\n\r\n",
    ],
)
async def test_a_body_that_breaks_is_answered_once(rest):
    wire = Wire()
    got = await wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", rest, SMUGGLED)
    assert is_documented_400(got)
    assert wire.seen == []
    assert wire.transport.ended


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /",
        HEAD + b"X: ",
        HEAD + b"X",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3;",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ",
    ],
)
async def test_what_never_ends_is_refused_on_its_way(beginning):
    wire = Wire()
    await wire.send(beginning)
    sent = 0
    while not wire.transport.written:
        await wire.send(b"x" * 10_000)
        sent += 10_000
        assert sent < 200_000
    assert is_documented_400(wire.transport.written)


async def test_a_tunnel_is_not_opened():
    wire = Wire()
    got = await wire.send(b"CONNECT host:1 HTTP/1.1\r\n\r\n" + SMUGGLED)
    assert [target for _, target, _ in wire.seen] == [b"host:1"]  # for the routes to refuse
    assert len(answers(got)) == 1
    assert wire.transport.closing


# Bodies

PLAIN = b"some text " * 100


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"gzip", gzip.compress(PLAIN, mtime=0)),
        (b"X-GZIP", gzip.compress(PLAIN, mtime=0)),
        (b"deflate", zlib.compress(PLAIN)),
        (b"deflate", zlib.compress(PLAIN, wbits=-15)),
        (b"identity", PLAIN),
    ],
)
async def test_a_compressed_body_is_read(coding, body):
    wire = Wire()
    await wire.send(post(body, b"Content-Encoding: " + coding))
    await answered(wire)
    assert wire.seen[0][2] == PLAIN


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        (b"gzip", gzip.compress(b"\0" * (BODY_BYTES_MAX + 1), mtime=0), 413),
        (b"deflate", zlib.compress(b"\0" * 50_000_000), 413),
        (b"gzip", b"not gzip", 400),
        (b"gzip", b"", 400),
        (b"gzip", gzip.compress(PLAIN, mtime=0)[:-9], 400),
        (b"gzip", gzip.compress(b"a", mtime=0) * 2, 400),
        (b"br", b"x", 400),
        (b"gzip, gzip", gzip.compress(gzip.compress(PLAIN, mtime=0), mtime=0), 400),
    ],
)
async def test_a_bomb_and_what_cannot_be_decompressed_are_refused(coding, body, status):
    wire = Wire()
    await wire.send(post(body, b"Content-Encoding: " + coding))
    await answered(wire)
    assert statuses(wire.transport.written) == [status]
    assert not wire.transport.closing


async def answered(wire):
    async with asyncio.timeout(5):
        while wire.connection.current is not None:
            await asyncio.sleep(0.001)
    await wire.settle()  # it is written at the end of that turn


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes():
    wire = Wire()
    got = await wire.send(HEAD + b"Content-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1))
    assert statuses(got) == [413]
    assert b"connection: close" in got


async def test_a_body_that_turns_out_too_large_is_refused_on_its_way():
    wire = Wire()
    await wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    count = 0
    while not wire.transport.written:
        await wire.send(b"4e20\r\n" + b"x" * 20_000 + b"\r\n")
        count += 1
    assert count == BODY_BYTES_MAX // 20_000 + 1
    assert statuses(wire.transport.written) == [413]


async def test_a_body_that_does_not_come_is_a_408():
    async def impatient(exchange):
        from proxy.core.errors import ApiError

        with pytest.raises(ApiError) as raised:
            await exchange.body(100, 0.01)
        exchange.answer(raised.value.status, b"application/json", b"", raised.value.body)

    wire = Wire(impatient)
    await wire.send(HEAD + b"Content-Length: 5\r\n\r\nab")
    await answered(wire)
    assert statuses(wire.transport.written) == [408]


async def test_a_client_whose_body_came_before_it_was_asked_for_is_watched_again():
    wire = Wire()
    body = b"x" * 290_000
    raw = post(body)
    wire.feed(raw[:200_000])
    wire.feed(raw[200_000:])  # in the same turn of the loop: the call has not begun yet
    assert not wire.transport.reading
    await wire.settle()
    assert wire.transport.reading
    assert len(wire.seen[0][2]) == len(body)


async def test_a_body_that_nobody_has_asked_for_stops_coming():
    ask = asyncio.Event()

    async def later(exchange):
        await ask.wait()
        await wire.echo(exchange)

    wire = Wire(later)
    await wire.send(HEAD + b"Content-Length: 290000\r\n\r\n")
    sent = 0
    while wire.transport.reading:
        await wire.send(b"x" * 10_000)
        sent += 10_000
    assert 256_000 < sent < 290_000
    ask.set()
    await wire.settle()
    assert wire.transport.reading
    await wire.send(b"x" * (290_000 - sent))
    assert len(wire.seen[0][2]) == 290_000


async def test_a_client_that_is_answered_early_can_say_the_rest_and_sees_the_answer():
    async def refuse(exchange):
        exchange.answer(401, b"application/json", b"", b"{}")

    wire = Wire(refuse)
    got = await wire.send(HEAD + b"Content-Length: 30\r\n\r\n", b"x" * 20)
    assert statuses(got) == [401]
    assert b"connection: close" in got
    assert wire.transport.ended
    assert not wire.transport.closing
    await wire.send(b"x" * 10)
    assert wire.transport.closing
    assert not wire.transport.aborted


@pytest.mark.parametrize("how", ["silent", "endless"])
async def test_a_client_that_is_answered_early_and_goes_on_is_left(how):
    async def refuse(exchange):
        exchange.answer(401, b"application/json", b"", b"{}")

    wire = Wire(refuse)
    await wire.send(HEAD + b"Content-Length: %d\r\n\r\nx" % (2 * DISCARD_BYTES_MAX))
    if how == "silent":
        await wire.pass_s(LINGER_S + 0.1)
    else:
        for _ in range(DISCARD_BYTES_MAX // 1_000_000 + 1):
            await wire.send(b"x" * 1_000_000)
    assert wire.transport.closing


# Time


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not():
    wire = Wire()
    await wire.send(post(b"one"))
    await wire.pass_s(74)
    assert not wire.transport.closing
    await wire.pass_s(2)
    assert wire.transport.closing

    wire = Wire(lambda exchange: asyncio.sleep(3600))
    await wire.send(post(b"one"))
    await wire.pass_s(3000)
    assert not wire.transport.closing
    wire.transport.abort()
    await wire.settle()


async def test_a_head_that_comes_drop_by_drop_is_given_up():
    wire = Wire()
    for byte in (HEAD * 2)[: int(HEAD_S)]:
        await wire.send(bytes([byte]))
        assert not wire.transport.closing
        await wire.pass_s(1)
    await wire.pass_s(1)
    assert wire.transport.closing
    assert wire.transport.written == b""


async def test_an_answer_that_is_not_taken_is_given_up_and_a_slow_reader_is_not():
    wire = Wire()
    wire.transport.unsent = 500
    await wire.send(post(b"one", b"Connection: close"))
    assert wire.transport.closing
    await wire.pass_s(UNSENT_S + 1)
    wire.transport.unsent = 400
    await wire.pass_s(UNSENT_S + 1)
    assert not wire.transport.aborted
    await wire.pass_s(UNSENT_S + 1)
    assert wire.transport.aborted


# Clients that leave, or do not keep up


class Producer:
    def __init__(self):
        self.calls = []

    def pause(self):
        self.calls.append("pause")

    def resume(self):
        self.calls.append("resume")


@pytest.mark.parametrize("sent", [0, 1, 20, 60, 100])
async def test_a_client_that_leaves_cancels_what_was_done_for_it(sent):
    wire = Wire(lambda exchange: asyncio.Event().wait())
    raw = HEAD + b"Content-Length: 100\r\n\r\n" + b"x" * 100
    await wire.send(raw[:sent])
    task = wire.connection.task
    assert (task is not None) is (sent > len(HEAD) + 20)
    wire.transport.close()
    await wire.settle()
    assert task is None or task.cancelled()
    assert wire.server.connections == []
    assert not wire.failures


async def test_a_client_that_leaves_within_its_body_cancels_the_call():
    wire = Wire()
    await wire.send(HEAD + b"Content-Length: 100\r\n\r\nabc")
    wire.transport.abort()
    await wire.settle()
    assert wire.cancelled == 1


async def test_back_pressure_is_passed_on_to_whoever_streams():
    producer = Producer()
    done = asyncio.Event()

    async def stream(exchange):
        exchange.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        exchange.attach(producer)
        await done.wait()
        exchange.attach(None)
        exchange.write(b"0\r\n\r\n")

    wire = Wire(stream)
    assert wire.transport.high == 1000
    await wire.send(post(b""))
    wire.connection.pause_writing()
    wire.connection.resume_writing()
    assert producer.calls == ["pause", "resume"]
    done.set()
    await wire.settle()
    wire.connection.pause_writing()
    assert producer.calls == ["pause", "resume"]
    done.clear()
    await wire.send(post(b""))  # the next one waits until the last answer has been taken
    assert wire.connection.current is None
    wire.connection.resume_writing()
    await wire.settle()
    assert wire.connection.current is not None
    wire.connection.pause_writing()
    assert producer.calls == ["pause", "resume", "pause"]
    wire.transport.abort()
    await wire.settle()


async def test_calls_that_came_together_wait_until_the_answer_before_has_been_taken():
    async def overflow(exchange):
        await wire.echo(exchange)
        wire.connection.pause_writing()

    wire = Wire(overflow)
    await wire.send(post(b"one") + post(b"two") + post(b"three"))
    for count in (1, 2, 3):
        assert len(wire.seen) == count
        wire.connection.resume_writing()
        await wire.settle()
    assert wire.connection.current is None


async def test_nothing_is_written_for_an_exchange_that_is_over():
    kept = []

    async def keep(exchange):
        kept.append(exchange)
        await wire.echo(exchange)

    wire = Wire(keep)
    await wire.send(post(b"one"))
    before = wire.transport.written
    assert kept[0].write(b"late") is False
    kept[0].abort()
    assert wire.transport.written == before
    assert not wire.transport.closing


async def test_a_bug_is_a_documented_500_and_reported():
    async def bug(exchange):
        raise RuntimeError("bug")

    wire = Wire(bug)
    assert statuses(await wire.send(post(b"one"))) == [500]
    assert [str(failure) for failure in wire.failures] == ["bug"]


async def test_a_bug_within_a_stream_cuts_it():
    async def bug(exchange):
        exchange.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        raise RuntimeError("bug")

    wire = Wire(bug)
    assert (await wire.send(post(b"one"))).count(b"HTTP/1.1") == 1
    assert wire.transport.aborted


# The end


async def test_a_drain_closes_the_idle_at_once_and_lets_the_others_end():
    idle = Wire()
    idle.server.close_idle()
    await idle.settle()
    assert idle.transport.closing

    wire = Wire()
    await wire.send(HEAD + b"Content-Length: 3\r\n\r\na")
    closing = asyncio.create_task(wire.server.close(5, 1))
    await wire.settle()
    got = await wire.send(b"bc")
    assert statuses(got) == [200]
    assert b"connection: close" in got
    await asyncio.wait_for(closing, 1)
    assert wire.server.connections == []
    assert not wire.transport.aborted


async def test_what_does_not_end_in_time_is_cut():
    wire = Wire()
    await wire.send(HEAD + b"Content-Length: 3\r\n\r\na")
    await asyncio.wait_for(wire.server.close(0.01, 1), 1)
    assert wire.cancelled == 1
    assert wire.transport.aborted
    assert wire.server.connections == []


async def test_the_answers_of_one_turn_are_written_after_the_work_on_them():
    wires = [Wire(answer_of(b"late")), Wire()]
    server = wires[1].connection._server = wires[0].server
    done = []
    handle = server.handle

    async def watched(exchange):
        await handle(exchange)
        done.append([bool(wire.transport.written) for wire in wires])

    server.handle = watched
    for wire in wires:
        wire.feed(post(b""))
    await wires[0].settle()
    assert done == [[False, False], [False, False]]
    assert [statuses(wire.transport.written) for wire in wires] == [[200], [200]]


def answer_of(name):
    async def answer(exchange):
        exchange.answer(200, b"text/plain", b"", name)

    return answer


async def test_an_answer_goes_out_before_the_refusal_of_what_follows_it():
    wire = Wire()
    got = answers(await wire.send(post(b"one") + b"nonsense\r\n\r\n"))
    assert [status for status, _, _ in got] == [200, 400]


async def test_what_is_streamed_next_does_not_overtake_an_answer():
    async def handle(exchange):
        if exchange.target == b"/whole":
            exchange.answer(200, b"text/plain", b"", b"whole")
        else:
            exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nstreamed")

    wire = Wire(handle)
    got = answers(await wire.send(post(b"", target=b"/whole") + post(b"", target=b"/stream")))
    assert [body for _, _, body in got] == [b"whole", b"streamed"]


async def test_a_client_that_has_left_within_the_turn_gets_nothing():
    wire = Wire(answer_of(b"late"))
    wire.feed(post(b""))
    await asyncio.sleep(0)  # the answer has been made
    wire.connection.connection_lost(None)
    wire.transport.protocol = None
    await wire.settle()
    assert wire.transport.written == b""
    assert wire.failures == []


async def test_a_real_socket_sends_at_once():
    wire = Wire()
    loop = asyncio.get_running_loop()
    made = []

    def new():
        made.append(Connection(Connections(wire.echo, wire.failed, lambda: 0.0, 75, 1000)))
        return made[0]

    async with await loop.create_server(new, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(post(b"one"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        own = made[0].transport.get_extra_info("socket")
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
        await writer.wait_closed()
        made[0].abort()


# Anything

FRAGMENTS = [
    b"POST /x HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"CONNECT h:1 HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n", b"\n", b"\r",
    b"Content-Length: 3\r\n", b"Content-Length: 400000\r\n", b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n",
    b"0\r\n\r\n", b"abc", b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Connection: close\r\n",
    b"Expect: 100-continue\r\n", b"Content-Encoding: gzip\r\n", post(b"whole"), chunked(b"a", b"b"),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b" ", b":",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=20)), max_size=30).map(b"".join),
    st.integers(0, 1 << 30),
)
def test_whatever_comes_is_answered_refused_or_waited_for(raw, seed):
    asyncio.run(asyncio.wait_for(whatever(raw, seed), 10))


async def whatever(raw, seed):
    chance = random.Random(seed)
    failures = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    wire, whole = Wire(), Wire()
    position = 0
    while position < len(raw):
        size = chance.choice((1, 2, 5, 30, 1000))
        wire.feed(raw[position : position + size])
        position += size
        if chance.random() < 0.5:
            await wire.settle()
    whole.feed(raw)
    for each in (wire, whole):
        while each.connection.current is not None and each.connection.current.complete:
            await asyncio.sleep(0.001)
        await each.settle()
        for _ in range(3):
            await each.pass_s(100)
    assert not wire.failures
    assert not failures
    assert wire.seen == whole.seen, "cuts make a difference"
    assert statuses(final(wire)) == statuses(final(whole))
    for each in (wire, whole):
        assert each.transport.closing or each.connection.current is not None, "nothing is waited for, and nothing ends"
        each.transport.abort()
        await each.settle()
        assert each.server.connections == []
    assert len(asyncio.all_tasks()) == 2, "the test itself, and its timeout"


def final(wire):
    return wire.transport.written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
