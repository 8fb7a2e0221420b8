"""Holds that grow: streams that hold less than they may produce, whole, against real limiters."""

import asyncio
import json

import openai

from proxy.core.catalogue import Engine
from proxy.core.growing import Growing
from proxy.core.lengths import OWN_CALLS_MIN
from proxy.core.limits import Growth
from proxy.core.meters import Gate, stream_meter
from proxy.limiter import LimiterUnavailableError
from proxy.simulator import Options
from proxy.upstream.failures import FailureKind, UpstreamError
from proxy.upstream.relay import Relay
from tests.gateway.test_streams import ask_raw
from tests.meters.test_gate import told
from tests.support.stack import MODEL, chat, running, write_config

LIMIT = 2000
CAP = 1000
WHOLE = b"".join(told(200))
TEXTS = ("content", "reasoning", "reasoning_content")


def configured(folder, *, guarantee="strict", patience_s=0.3, limit=LIMIT):
    """Write a configuration in which tier 1 has a small hour."""
    config = write_config(
        folder,
        tiers=("output_tokens_hour: 150_000", f"output_tokens_hour: {limit}"),
        proxy=("hold_patience_s: 10", f"hold_patience_s: {patience_s}"),
    )
    tiers = config / "tiers.yaml"
    tiers.write_text(tiers.read_text().replace("guarantee: strict", f"guarantee: {guarantee}"))
    return config


def teach(stack, tokens, *, cap=CAP, calls=40, streamed=True):
    """Let the proxy believe that calls of this account are so long."""
    for _ in range(calls):
        stack.app.holds._lengths.note(stack.account, MODEL, cap, tokens, streamed=streamed)


def asks(tokens, **more):
    """Return a streamed chat of exactly so many tokens."""
    return chat(f"SIM:tokens={tokens}", max_tokens=CAP, stream=True, **more)


async def events_of(stack, body):
    """Return the decoded chunks of a stream, which must end with [DONE] and no error."""
    async with stack.post(body) as answer:
        assert answer.status == 200, await answer.text()
        text = await answer.text()
    assert text.endswith("data: [DONE]\n\n")
    lines = [line.removeprefix("data: ") for line in text.split("\n\n")[:-2]]
    return [json.loads(line) for line in lines]


def texts_of(events):
    """Return how many chunks hold text or reasoning."""
    return sum(any(choice["delta"].get(name) for name in TEXTS) for event in events for choice in event["choices"])


def reasons_of(events):
    """Return the finish_reasons by choice."""
    return {
        choice["index"]: choice["finish_reason"]
        for event in events
        for choice in event["choices"]
        if choice["finish_reason"]
    }


def output_of(entry):
    """Return the output tokens of an entry."""
    return sum(line.amount for line in entry.charge.lines if line.usage_type.value in ("output", "reasoning"))


async def flying(stack, calls=1):
    """Wait until so many calls are in flight."""
    async with asyncio.timeout(10):
        while len(stack.app.settlement.in_flight) != calls:
            await asyncio.sleep(0.01)


async def dry(stack):
    """Wait until a stream waits for room that it has been refused; return its relay."""
    async with asyncio.timeout(10):
        while not stack.app.holds.refused:
            await asyncio.sleep(0.01)
        while True:
            for flight in stack.app.settlement.in_flight.values():
                if flight.relay is not None and flight.relay.dry_since is not None:
                    return flight.relay
            await asyncio.sleep(0.01)


async def fill(stack, tokens):
    """Use up so much of the window."""
    async with stack.post(chat(f"SIM:tokens={tokens}", max_tokens=tokens)) as answer:
        assert answer.status == 200
    await stack.settled()


async def test_a_stream_that_outgrows_its_hold_arrives_byte_for_byte(tmp_path, store):
    async with running(tmp_path, config=configured(tmp_path), environ=store) as stack:
        async with stack.post(asks(900, seed=1)) as answer:
            whole = await answer.text()
        teach(stack, 50)
        async with stack.post(asks(900, seed=1)) as answer:
            assert answer.status == 200
            grown = await answer.text()
        entries = await stack.entries()
        assert [output_of(entry) for entry in entries] == [900, 900]
        assert {entry.outcome.value for entry in entries} == {"finished"}
        assert texts_of([json.loads(e[6:]) for e in grown.split("\n\n")[:-2]]) == texts_of(
            [json.loads(e[6:]) for e in whole.split("\n\n")[:-2]]
        )
        assert len(grown) == len(whole)
        assert stack.app.holds.granted > 0


async def test_a_call_holds_what_calls_like_it_used_and_its_money_in_full(tmp_path, store):
    async with running(tmp_path, config=configured(tmp_path), environ=store) as stack:
        teach(stack, 50)
        async with stack.post(asks(300, extra="SIM:rate=1000")) as answer:
            await flying(stack)
            (flight,) = stack.app.settlement.in_flight.values()
            assert flight.needs[flight.allowance.output_place] == 51  # the upper end of its bucket
            assert flight.needs[-1] >= CAP * flight.prices.unit_price_pico(MODEL, "output", "standard") // 1000
            await answer.read()
        await stack.settled()


async def test_streams_at_once_fill_a_window_and_never_exceed_it(tmp_path, store):
    config = configured(tmp_path, patience_s=0)
    async with running(tmp_path, config=config, environ=store, options=Options(tokens_per_second=2000)) as stack:
        teach(stack, 30)

        async def client(number):
            for attempt in range(40):
                async with stack.post(asks(40 + 37 * (number * 7 + attempt) % 300)) as answer:
                    await answer.read()

        await asyncio.gather(*map(client, range(8)))
        delivered = sum(output_of(entry) for entry in await stack.entries())
        assert 0.97 * LIMIT < delivered <= LIMIT
        assert stack.app.holds.granted


async def test_a_stream_without_room_ends_with_finish_reason_length_in_an_sdk(tmp_path, store):
    async with running(tmp_path, config=configured(tmp_path), environ=store) as stack:
        await fill(stack, 1500)
        teach(stack, 50)
        async with openai.AsyncOpenAI(api_key=stack.key, base_url=f"{stack.url}/v1", max_retries=0) as client:
            chunks = [
                chunk
                async for chunk in await client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": "SIM:tokens=900"}],
                    max_tokens=CAP,
                    stream=True,
                    stream_options={"include_usage": True},
                )
            ]
        assert chunks[-2].choices[0].finish_reason == "length"
        assert (chunks[-2].id, chunks[-2].model, chunks[-2].object) == (chunks[0].id, MODEL, "chat.completion.chunk")
        delivered = chunks[-1].usage.completion_tokens
        assert 400 < delivered <= 500  # what was left
        assert 0 < texts_of([chunk.model_dump() for chunk in chunks]) <= delivered  # some chunks are several tokens
        entry = (await stack.entries())[-1]
        assert (entry.outcome.value, output_of(entry)) == ("cut", delivered)
        assert stack.cluster.running == 0
        assert stack.app.holds.cut == {"tier1": 1}
        assert 'tollgate_streams_cut_total{tier="tier1"} 1' in stack.app.metrics.render().decode()


async def test_every_choice_of_a_stream_that_is_cut_is_ended(tmp_path):
    async with running(tmp_path, config=configured(tmp_path)) as stack:
        await fill(stack, 1500)
        teach(stack, 100, cap=3 * 600)
        events = await events_of(stack, {**asks(550, n=3), "max_tokens": 600})
        assert reasons_of(events) == {0: "length", 1: "length", 2: "length"}
        entry = (await stack.entries())[-1]
        assert entry.outcome.value == "cut"
        assert 400 < output_of(entry) <= 500
        assert 0 < texts_of(events) <= output_of(entry)


async def test_a_completion_that_is_cut_keeps_its_shape(tmp_path):
    async with running(tmp_path, config=configured(tmp_path)) as stack:
        await fill(stack, 1500)
        teach(stack, 50)
        body = {"model": MODEL, "prompt": "SIM:tokens=900", "max_tokens": CAP, "stream": True}
        async with stack.post(body, route="/v1/completions") as answer:
            text = await answer.text()
        assert text.endswith("data: [DONE]\n\n")
        last = json.loads(text.split("\n\n")[-3].removeprefix("data: "))
        assert last["object"] == "text_completion"
        assert last["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]


async def test_a_stream_waits_for_room_and_goes_on_when_another_call_gives_some_back(tmp_path, store):
    async with running(tmp_path, config=configured(tmp_path, patience_s=20), environ=store) as stack:
        teach(stack, 50)
        whole = asyncio.create_task(stack.ask(chat("SIM:tokens=100 SIM:rate=150", max_tokens=1500)))
        await flying(stack)
        stream = asyncio.create_task(events_of(stack, asks(900)))
        relay = await dry(stack)
        assert not stream.done()
        assert (await whole)[0] == 200
        assert reasons_of(await stream) == {0: "stop"}
        assert relay.dry_since is None
        entries = await stack.entries()
        assert sorted((output_of(entry), entry.outcome.value) for entry in entries) == [
            (100, "finished"),
            (900, "finished"),
        ]


async def test_a_client_that_leaves_while_its_stream_waits_pays_for_what_it_got(tmp_path, store):
    config = configured(tmp_path, patience_s=30)
    async with running(tmp_path, config=config, environ=store) as stack:
        await fill(stack, 1500)
        teach(stack, 50)
        sock = await ask_raw(stack, asks(900))
        await dry(stack)
        sock.close()
        entry = (await stack.entries())[-1]
        assert entry.outcome.value == "disconnected"
        assert 400 < output_of(entry) <= 500
        assert stack.cluster.running == 0


async def test_a_soft_limit_lets_a_stream_finish_and_the_next_call_waits_for_exactly_what_it_exceeded(tmp_path, store):
    config = configured(tmp_path, guarantee="soft")
    async with running(tmp_path, config=config, environ=store) as stack:
        await fill(stack, 1500)
        teach(stack, 50)
        events = await events_of(stack, asks(900))
        assert reasons_of(events) == {0: "stop"}
        entry = (await stack.entries())[-1]
        assert (entry.outcome.value, output_of(entry)) == ("finished", 900)
        assert stack.app.holds.refused
        status, _, headers = await stack.ask(asks(10))
        assert status == 429
        assert headers["X-RateLimit-Bound"] == "output_tokens_hour"
        assert headers["X-RateLimit-Remaining-Output-Tokens-Hour"] == "0"
        assert 3500 < int(headers["Retry-After"]) <= 3600


async def test_a_client_that_leaves_what_has_already_ended_upstream_pays_for_what_it_got(tmp_path, monkeypatch):
    async def refuses(*_):
        return Growth.REFUSED

    async def at_once(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(WHOLE))
        writer.write(WHOLE)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(at_once, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    config = configured(tmp_path, patience_s=30)
    async with server, running(tmp_path, config=config, environ={"TOLLGATE_UPSTREAM": url}) as stack:
        teach(stack, 50)
        monkeypatch.setattr(stack.app.limiter, "grow", refuses)
        sock = await ask_raw(stack, asks(200))
        relay = await dry(stack)
        async with asyncio.timeout(10):
            while relay.connection is not None:  # the end of the answer is here
                await asyncio.sleep(0.01)
        sock.close()
        (entry,) = await stack.entries()
        assert (entry.outcome.value, output_of(entry)) == ("disconnected", 50)


async def test_nobody_is_admitted_into_the_debt_of_a_soft_stream_under_way(tmp_path, store):
    async with running(tmp_path, config=configured(tmp_path, guarantee="soft"), environ=store) as stack:
        await fill(stack, 1500)
        teach(stack, 50)
        stream = asyncio.create_task(events_of(stack, chat("SIM:tokens=950 SIM:rate=300", max_tokens=CAP, stream=True)))
        await flying(stack)
        (flight,) = stack.app.settlement.in_flight.values()
        most = 0
        while not stream.done():
            answer = await stack.app.limiter.peek(stack.account, flight.allowance.limits)
            hour = answer.states[flight.allowance.output_place]
            if not flight.is_settling:
                most = max(most, hour.used + hour.held)
            await asyncio.sleep(0.02)
        assert reasons_of(await stream) == {0: "stop"}
        assert most > LIMIT  # long before its first heartbeat


async def test_after_a_debt_retry_after_is_exact_to_the_second(tmp_path, monkeypatch):
    async with running(tmp_path, config=configured(tmp_path, guarantee="soft")) as stack:
        clock, shift_ms = stack.app.limiter._clock_ms, 0
        monkeypatch.setattr(stack.app.limiter, "_clock_ms", lambda: clock() + shift_ms)
        await fill(stack, 1500)
        shift_ms = 1_000_000  # what is used from here on ages out later
        teach(stack, 50)
        assert reasons_of(await events_of(stack, asks(900))) == {0: "stop"}
        await stack.settled()
        _, _, headers = await stack.ask(chat(max_tokens=1100))
        wait_ms = 1000 * int(headers["Retry-After"])
        assert 2_500_000 < wait_ms <= 2_600_000  # the 1,500 have to go, the 900 need not
        shift_ms += wait_ms - 2000
        assert (await stack.ask(chat(max_tokens=1100)))[0] == 429
        shift_ms += 2000
        assert (await stack.ask(chat("SIM:tokens=5", max_tokens=1100)))[0] == 200


async def test_a_whole_answer_holds_its_cap_where_the_limit_is_strict_and_what_is_expected_where_it_is_soft(tmp_path):
    for guarantee, expected in (("strict", CAP), ("soft", 51)):
        folder = tmp_path / guarantee
        folder.mkdir()
        async with running(folder, config=configured(folder, guarantee=guarantee)) as stack:
            teach(stack, 50, streamed=False)
            call = asyncio.create_task(stack.ask(chat("SIM:tokens=60 SIM:rate=200", max_tokens=CAP)))
            await flying(stack)
            (flight,) = stack.app.settlement.in_flight.values()
            assert flight.needs[flight.allowance.output_place] == expected
            assert (await call)[0] == 200


async def test_calls_of_accounts_without_windows_hold_what_they_may_produce_and_pass_no_gate(tmp_path):
    async with running(tmp_path, tier="monthly", options=Options(tokens_per_second=100)) as stack:
        teach(stack, 50)
        stream = asyncio.create_task(events_of(stack, asks(40)))
        await flying(stack)
        (flight,) = stack.app.settlement.in_flight.values()
        assert flight.allowance.output_place is None
        while flight.relay is None:
            await asyncio.sleep(0.01)
        assert flight.relay.gate is None
        await stream


async def test_what_may_exceed_a_whole_limit_is_refused_whatever_is_expected_of_it(tmp_path):
    async with running(tmp_path, config=configured(tmp_path)) as stack:
        teach(stack, 50, cap=LIMIT + 1)
        status, body, _ = await stack.ask({**asks(10), "max_tokens": LIMIT + 1})
        assert (status, body["error"]["param"]) == (400, "max_tokens")


async def test_a_proxy_learns_from_the_calls_that_it_serves(tmp_path):
    async with running(tmp_path) as stack:
        for _ in range(OWN_CALLS_MIN):
            assert reasons_of(await events_of(stack, asks(64))) == {0: "stop"}
        await stack.settled()
        model = stack.app.holds._lengths
        assert 64 <= model.expected(stack.account, MODEL, CAP, streamed=True) < 72


async def test_a_store_that_goes_away_stops_no_stream(tmp_path, monkeypatch):
    async def away(*_):
        raise LimiterUnavailableError("away")

    async with running(tmp_path, config=configured(tmp_path)) as stack:
        teach(stack, 50)
        monkeypatch.setattr(stack.app.limiter, "grow", away)
        assert reasons_of(await events_of(stack, asks(900))) == {0: "stop"}


# The relay, with an upstream and a client that do what they are told


class Port:
    """A client that takes everything."""

    chunked, lines = False, b""

    def __init__(self):
        self.got = b""

    def write(self, data):
        self.got += data
        return True

    def abort(self):
        self.got = None

    def attach(self, relay):
        pass


class Upstream:
    """A connection that knows whether it is read from."""

    def __init__(self):
        self.is_read, self.is_aborted = True, False

    def pause_reading(self, stall_s, on_stall):
        self.is_read = False

    def resume_reading(self):
        self.is_read = True

    def abort(self):
        self.is_aborted = True


def relayed(held):
    """Return a relay of a stream whose call holds so much, and both its sides."""
    port, upstream, news = Port(), Upstream(), []
    meter = stream_meter(Engine.VLLM, forward_usage=False, strip_continuous=True, choices=1, prompt_bytes=9)
    relay = Relay(port, meter, lambda *_, **__: b"", 1000, 1000, None, 9.0, lambda: 0.0, lambda: None)
    relay.connection = upstream
    relay.gate = Gate(Growing(held, 10_000, 256), 1, stops=True)
    relay.on_news = lambda: (setattr(relay.gate, "is_asking", True), news.append(1))
    relay.on_head(200, [(b"content-type", b"text/event-stream")])
    return relay, port, upstream, news


def test_a_stream_without_room_stops_its_upstream_until_there_is_room_and_its_client_has_caught_up():
    relay, port, upstream, news = relayed(50)
    relay.on_data(WHOLE)
    assert len(news) == 1
    assert not upstream.is_read
    relay.pause()
    relay.resume()
    assert not upstream.is_read  # the client is not what it waits for
    relay.pause()
    relay.gate.growing.granted(10_000, 1.0)
    relay.go_on()
    assert not upstream.is_read  # now it is
    assert port.got.count(b'"x"') == 199
    relay.resume()
    assert upstream.is_read


def test_an_answer_that_ended_while_something_was_kept_back_ends_when_that_has_passed():
    relay, port, upstream, _ = relayed(50)
    relay.on_data(WHOLE)
    relay.on_end()
    assert not relay.is_over
    assert relay.connection is None  # the connection is free for others
    relay.gate.growing.granted(100, 1.0)
    relay.gate.is_asking = False
    relay.go_on()
    assert (relay.is_over, port.got.count(b'"x"')) == (False, 99)
    relay.gate.growing.granted(10_000, 1.0)
    relay.go_on()
    assert (relay.is_over, relay.error, port.got.count(b'"x"')) == (True, None, 199)
    assert relay.meter.finish().complete
    assert upstream.is_read is False  # nobody has touched it since


def test_a_cut_leaves_the_upstream_and_bills_what_passed():
    relay, port, upstream, _ = relayed(50)
    relay.on_data(WHOLE)
    relay.cut(relay.meter.cut(relay.gate.kept()))
    assert (relay.is_over, relay.error, upstream.is_aborted) == (True, None, True)
    assert b'"finish_reason":"length"' in relay.ending
    assert relay.meter.finish().usage.output_tokens == 49
    assert port.got.count(b'"x"') == 49


def test_an_upstream_that_fails_while_something_is_kept_back_has_failed_once_that_has_passed():
    relay, _, _, _ = relayed(50)
    relay.on_data(WHOLE[: len(WHOLE) // 2])
    failure = UpstreamError(FailureKind.BROKEN)
    relay.on_failure(failure)
    assert not relay.is_over
    relay.gate.growing.granted(10_000, 1.0)
    relay.go_on()
    assert (relay.is_over, relay.error) == (True, failure)
