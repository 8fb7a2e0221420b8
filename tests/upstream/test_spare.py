"""Lines of batches at upstreams with few places: where they may go, who goes before them, and how they give way.

The upstream answers when the test says so: what is asserted is an order, not a time.
"""

import asyncio
import json
from collections import Counter
from typing import Self

import pytest

from proxy.core.calls import PreparedCall
from proxy.core.calls.priority import BATCH_PRIORITY
from proxy.core.catalogue import Engine, Model, Upstream
from proxy.core.endpoints import CHAT_COMPLETIONS
from proxy.core.errors import ApiError
from proxy.settings.types import QueueSettings, Timeouts
from proxy.upstream.exchange import Request, exchange
from proxy.upstream.failures import FailureKind, UpstreamError
from proxy.upstream.pool import BACKOFF_FIRST_S, UpstreamPools
from proxy.upstream.queue import NoPlaceError
from proxy.upstream.relay import Relay
from proxy.upstream.spare import DisplacedError
from proxy.upstream.spare_exchange import spare_exchange
from tests.support.holding import HoldingServer as Server


class Port:
    chunked = True
    lines = b""

    def write(self, data):
        return True

    def abort(self):
        pass

    def attach(self, relay):
        pass


class Bench:
    """Two kinds of callers before some servers."""

    def __init__(self, *servers: Server, places=2, kept_percent=0, priority_field=False) -> None:
        self.upstreams = tuple(
            Upstream(f"u{number}", server.url, Engine.VLLM, None, places, priority_field)
            for number, server in enumerate(servers)
        )
        self.kept_percent = kept_percent
        self.now_s = 100.0
        self.pools = UpstreamPools(Timeouts, lambda: self.now_s, QueueSettings, lambda: self.kept_percent)
        self.failures: list[FailureKind] = []
        self.requests: dict[str, Request] = {}
        self.tasks: list[asyncio.Task] = []

    def _request(self, said, account, priority, upstreams) -> Request:
        model = Model("m", (), 100, upstreams, "m")
        call = PreparedCall(model, "/v1/chat/completions", said.encode())
        request = self.requests[said] = Request(CHAT_COMPLETIONS, call, b"", account, priority)
        return request

    def _relay(self, on_over) -> Relay:
        return Relay(Port(), None, lambda *_, **__: b"", 1 << 20, 1 << 20, None, 5.0, lambda: self.now_s, on_over)

    def _failed(self, pool, kind) -> None:
        self.failures.append(kind)

    def call(self, said, upstreams=None) -> asyncio.Task[Relay]:
        upstreams = upstreams or self.upstreams
        request = self._request(said, "customer", 0, upstreams)
        new_relay = lambda pool: self._relay(pool.ended)  # noqa: E731
        return self._begun(exchange(self.pools, upstreams, request, new_relay, self._failed))

    def line(self, said, account="acme", upstreams=None) -> asyncio.Task[Relay]:
        upstreams = upstreams or self.upstreams
        request = self._request(said, account, BATCH_PRIORITY, upstreams)
        new_relay = lambda pool, on_over: self._relay(on_over)  # noqa: E731
        return self._begun(spare_exchange(self.pools, upstreams, request, new_relay, self._failed))

    def _begun(self, coroutine) -> asyncio.Task[Relay]:
        task = asyncio.ensure_future(coroutine)
        self.tasks.append(task)
        return task

    @property
    def pool(self):
        return self.pools.of(self.upstreams[0])

    def held(self) -> list[int]:
        return [len(pool.spare_places) for pool in self.pools.all()]

    async def waiting(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.pools.spare.waiting() != count:
                await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.pools.close()
        assert self.pools.spare.waiting() == 0
        assert self.held() == [0] * len(self.pools.all())


async def _statuses(*tasks) -> list[int]:
    return [relay.status for relay in await asyncio.gather(*tasks)]


async def test_lines_use_all_places_when_nobody_else_calls_and_the_others_wait():
    async with Server() as server, Bench(server, places=3) as bench:
        lines = [bench.line(f"line {number}") for number in range(5)]
        await server.has(3)
        assert (bench.pool.in_flight, bench.held(), bench.pools.spare.waiting()) == (3, [3], 2)
        for number in range(5):
            await server.has(min(5, number + 3))
            server.answer(server.came[number])
        assert await _statuses(*lines) == [200] * 5
        assert (bench.pool.in_flight, server.connections) == (0, 3)


async def test_a_call_takes_the_newest_place_at_once_and_its_line_is_told_so():
    async with Server() as server, Bench(server, places=2) as bench:
        older = bench.line("older")
        await server.has(1)
        newer = bench.line("newer")
        await server.has(2)
        call = bench.call("call")
        await asyncio.sleep(0)  # one turn of the loop: the call has its place, and never was in the queue
        assert bench.requests["call"].queued_s is None
        assert (bench.pool.in_flight, bench.held()) == (2, [1])
        with pytest.raises(DisplacedError):
            await newer
        await server.has_cut("newer")
        assert await server.has(3) == ["older", "newer", "call"]
        server.answer("older", "call")
        assert await _statuses(older, call) == [200, 200]
        assert (bench.pool.in_flight, bench.pools.spare.displaced, bench.failures) == (0, 1, [])


async def test_a_place_that_was_taken_away_is_not_given_back_a_second_time():
    async with Server() as server, Bench(server, places=1) as bench:
        line = bench.line("line")
        await server.has(1)
        calls = [bench.call("call 1"), bench.call("call 2")]
        with pytest.raises(DisplacedError):
            await line
        assert (bench.pool.in_flight, bench.pools.queue.waiting()) == (1, {0: 1})
        await server.has(2)
        server.answer("call 1")
        await server.has(3)
        assert bench.pool.in_flight == 1
        server.answer("call 2")
        assert await _statuses(*calls) == [200, 200]
        assert bench.pool.in_flight == 0


async def test_no_line_begins_while_a_call_waits_and_every_call_goes_first():
    async with Server() as server, Bench(server, places=1) as bench:
        calls = [bench.call(f"call {number}") for number in range(3)]
        await server.has(1)
        line = bench.line("line")
        for number in range(3):
            await server.has(number + 1)
            server.answer(f"call {number}")
        await server.has(4)
        assert server.came == ["call 0", "call 1", "call 2", "line"]
        server.answer("line")
        assert await _statuses(*calls, line) == [200] * 4


async def test_a_call_that_has_another_upstream_with_room_displaces_nobody():
    async with Server() as one, Server() as two, Bench(one, two, places=1) as bench:
        line = bench.line("line", upstreams=bench.upstreams[:1])
        await one.has(1)
        call = bench.call("call")
        await two.has(1)
        one.answer("line")
        two.answer("call")
        assert await _statuses(line, call) == [200, 200]
        assert bench.pools.spare.displaced == 0


async def test_some_places_are_kept_for_calls_that_may_come():
    async with Server() as server, Bench(server, places=10, kept_percent=25) as bench:
        lines = [bench.line(f"line {number}") for number in range(12)]
        await server.has(8)  # two are kept
        await bench.waiting(4)
        calls = [bench.call("call 1"), bench.call("call 2")]
        await server.has(10)
        assert (bench.held(), bench.pools.spare.displaced) == ([8], 0)
        bench.kept_percent = 0
        server.answer("call 1", "call 2")
        assert await _statuses(*calls) == [200, 200]
        await server.has(12)
        for line in lines:
            line.cancel()


async def test_accounts_take_turns_whatever_each_of_them_brings():
    async with Server() as server, Bench(server, places=2) as bench:
        lines = [bench.line(f"many {number}", "many") for number in range(20)]
        await server.has(2)
        lines += [bench.line(f"few {number}", "few") for number in range(3)]
        await bench.waiting(21)
        for count in range(6):
            server.answer(server.came[count])
            await server.has(count + 3)
        assert Counter(said.split()[0] for said in server.came[2:8]) == {"many": 3, "few": 3}


async def test_a_line_that_is_cut_short_before_it_was_sent_leaves_its_connection_to_others():
    async with Server() as server, Bench(server, places=1) as bench:
        line = bench.line("line")
        await asyncio.sleep(0)  # it has a place, and is connecting
        assert bench.held() == [1]
        call = bench.call("call")
        with pytest.raises(DisplacedError):
            await line
        assert await server.has(1) == ["call"]
        server.answer("call")
        assert await _statuses(call) == [200]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_line_that_is_cancelled_leaves_its_upstream_and_gives_its_place_back(begun):
    async with Server() as server, Bench(server, places=1) as bench:
        line = bench.line("line")
        other = bench.line("other")
        if begun:
            await server.has(1)
        else:
            await asyncio.sleep(0)
        line.cancel()
        with pytest.raises(asyncio.CancelledError):
            await line
        await server.has(1 + begun)
        server.answer("other")
        assert await _statuses(other) == [200]
        assert bench.pool.in_flight == 0
        await server.has_cut(*["line"] * begun)


async def test_a_line_that_is_cancelled_while_it_waits_leaves_its_turn_to_the_next():
    async with Server() as server, Bench(server, places=1) as bench:
        first, second, third = (bench.line(name) for name in ("first", "second", "third"))
        await server.has(1)
        await bench.waiting(2)
        second.cancel()
        server.answer("first")
        assert await server.has(2) == ["first", "third"]
        server.answer("third")
        assert await _statuses(first, third) == [200, 200]


async def test_a_line_that_is_cancelled_just_when_it_got_a_place_gives_it_to_the_next():
    async with Server() as server, Bench(server, places=1) as bench:
        first, second, third = (bench.line(name) for name in ("first", "second", "third"))
        await server.has(1)
        await bench.waiting(2)
        first.cancel()
        await asyncio.sleep(0)  # its place has been handed to the second, whose task has yet to notice
        second.cancel()
        assert await server.has(2) == ["first", "third"]
        server.answer("third")
        assert await _statuses(third) == [200]


async def test_an_upstream_that_is_busy_gets_no_line_until_the_next_sweep_and_then_a_few():
    async with Server() as server, Bench(server, places=8) as bench:
        server.status = 503
        line = bench.line("busy")
        await server.has(1)
        server.answer("busy")
        assert await _statuses(line) == [503]
        assert bench.failures == [FailureKind.SATURATED]
        lines = [bench.line(f"line {number}") for number in range(8)]
        await bench.waiting(8)
        for expected in (1, 3, 7, 8):
            bench.pool.sweep()
            await server.has(1 + expected)
            assert bench.held() == [expected]
        for line in lines:
            line.cancel()


async def test_an_upstream_that_is_away_gets_no_line_while_it_is_suspect():
    async with Server() as server:
        url = server.url
    server.url = url
    async with Bench(server) as bench:
        with pytest.raises(UpstreamError) as caught:
            await bench.line("line")
        assert caught.value.kind is FailureKind.UNREACHABLE
        line = bench.line("waits")
        await bench.waiting(1)
        bench.pool.sweep()
        assert (bench.pools.spare.waiting(), bench.failures) == (1, [FailureKind.UNREACHABLE])
        bench.now_s += BACKOFF_FIRST_S
        bench.pool.sweep()
        with pytest.raises(UpstreamError):
            await line


async def test_a_kept_connection_that_was_closed_meanwhile_is_replaced_by_a_new_one_not_by_another_kept_one():
    async with Server() as server, Bench(server, places=2) as bench:
        both = [bench.line("one"), bench.line("other")]
        await server.has(2)
        server.answer("one", "other")
        await asyncio.gather(*both)
        kept = bench.pool._idle[-1]
        line = bench.line("line")
        async with asyncio.timeout(10):
            while not server.came.count("line"):
                await asyncio.sleep(0)
        kept.connection_lost(None)  # as the loop tells of it
        async with asyncio.timeout(10):
            while server.came.count("line") < 2:
                await asyncio.sleep(0)
        server.answer("line")
        assert await _statuses(line) == [200]
        assert (bench.pool.in_flight, server.connections) == (0, 3)


async def test_an_engine_that_takes_a_priority_hears_the_lowest_for_lines():
    async with Server() as server, Bench(server, priority_field=True) as bench:
        line, call = bench.line('{"priority":-9}'), bench.call("{}")
        assert sorted(await server.has(2)) == ['{"priority":0}', '{"priority":1}']  # vLLM begins with the lowest number
        server.answer(*server.came)
        assert await _statuses(line, call) == [200, 200]


async def test_a_line_that_cannot_be_sent_as_it_is_gives_its_place_back():
    async with Server() as server, Bench(server, places=1, priority_field=True) as bench:
        with pytest.raises(ApiError):
            await bench.line(json.dumps({f"m{number}": number for number in range(1001)} | {"priority": 0}))
        assert (bench.pool.in_flight, server.came) == (0, [])


async def test_places_that_a_reload_has_taken_away_are_given_up_by_lines_first():
    async with Server() as server, Bench(server, places=4) as bench:
        lines = [bench.line(f"line {number}") for number in range(4)]
        await server.has(4)
        smaller = Upstream("u0", server.url, Engine.VLLM, in_flight_max=2)
        bench.pools.retain({smaller})
        bench.upstreams = (smaller,)
        call = bench.call("call")
        await server.has(5)
        assert (bench.pool.in_flight, bench.held()) == (2, [1])
        server.answer("line 0", "call")
        assert await _statuses(lines[0], call) == [200, 200]
        results = await asyncio.gather(*lines[1:], return_exceptions=True)
        assert [type(result) for result in results] == [DisplacedError] * 3


async def test_a_process_that_is_about_to_end_still_takes_places_of_lines_for_calls():
    async with Server() as server, Bench(server, places=1) as bench:
        line = bench.line("line")
        await server.has(1)
        bench.pools.queue.drain()
        call = bench.call("call")
        with pytest.raises(DisplacedError):
            await line
        await server.has(2)
        with pytest.raises(NoPlaceError):
            await bench.call("too late")
        server.answer("call")
        assert await _statuses(call) == [200]
