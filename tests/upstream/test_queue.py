"""Waiting for a place at an upstream: who gets it, who gives up, and what is left behind."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.catalogue import Engine, Upstream
from proxy.core.fairness import Pace
from proxy.settings.types import QueueSettings, Timeouts
from proxy.upstream.failures import FailureKind
from proxy.upstream.pool import UpstreamPools
from proxy.upstream.queue import NoPlaceError, Queue, Refusal


class Server:
    """An upstream with a few places."""

    def __init__(self, queue, places):
        self.queue, self.places, self.in_flight = queue, places, 0
        self.lines, self.pace = [], Pace()

    def ended(self):
        self.in_flight -= 1
        if self.lines:
            self.queue.freed(self)

    def displace(self):
        return False


class Caller:
    def __init__(self, account="a", priority=0):
        self.account, self.priority = account, priority
        self.queued_s, self.refusal = None, None


class Bench:
    """A queue with a clock of its own, and the calls that have come."""

    def __init__(self, *places, **kept):
        self.now_s = 100.0
        self.settings = QueueSettings(**kept)
        self.queue = Queue(lambda: self.settings, lambda: self.now_s)
        self.servers = [Server(self.queue, number) for number in places]
        self.callers = {}

    async def come(self, account="a", priority=0, *, servers=None):
        """Let a call come that goes where there is room, or else waits; return its task, which returns its server."""
        servers = servers or self.servers
        caller = Caller(account, priority)
        task = asyncio.ensure_future(self._call(servers, caller))
        self.callers[task] = caller
        await asyncio.sleep(0)
        return task

    async def _call(self, servers, caller):
        for server in servers:
            if server.in_flight < server.places:
                server.in_flight += 1
                return server
        return await self.queue.place(servers, caller)

    def waiting(self):
        return sum(self.queue.waiting().values())


async def refused(task):
    with pytest.raises(NoPlaceError) as error:
        await task
    assert error.value.kind is FailureKind.SATURATED
    return error.value


async def tick():
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_call_that_finds_room_does_not_wait():
    bench = Bench(1)
    task = await bench.come()
    assert await task is bench.servers[0]
    assert bench.callers[task].queued_s is None


async def test_a_place_that_became_free_before_a_call_could_wait_for_it_is_not_missed():
    bench = Bench(1)
    assert await bench.queue.place(bench.servers, caller := Caller()) is bench.servers[0]
    assert (bench.servers[0].in_flight, caller.queued_s) == (1, None)


async def test_a_place_goes_to_who_waits_and_stays_taken_meanwhile():
    bench = Bench(1)
    await bench.come()
    waits = await bench.come()
    bench.now_s += 2.5
    bench.servers[0].ended()
    assert bench.servers[0].in_flight == 1  # whoever comes now finds it full
    assert await waits is bench.servers[0]
    assert bench.callers[waits].queued_s == 2.5
    assert not bench.servers[0].lines


async def test_a_call_takes_whichever_of_its_servers_is_free_first():
    bench = Bench(1, 1)
    for _ in range(2):
        await bench.come()
    waits = await bench.come()
    bench.servers[1].ended()
    assert await waits is bench.servers[1]
    assert [server.lines for server in bench.servers] == [[], []]


async def test_models_that_share_a_server_wait_together():
    bench = Bench(1, 1)
    shared, own = bench.servers
    for server in bench.servers:
        await bench.come(servers=[server])
    one = [await bench.come("a", servers=[shared]) for _ in range(2)]
    both = [await bench.come(account, servers=[own, shared]) for account in "ab"]
    for_own = await bench.come("c", servers=[own])
    own.ended()
    assert await both[0] is own
    shared.ended()
    assert await one[0] is shared
    shared.ended()
    assert await both[1] is shared  # b came after a, whose turn was used
    own.ended()
    assert await for_own is own
    shared.ended()
    assert await one[1] is shared
    assert not bench.queue.waiting()


async def test_one_of_two_accounts_with_fifty_times_the_calls_gets_half():
    bench = Bench(4, calls_max=1000, account_calls_max=1000)
    for _ in range(4):
        await bench.come()
    served = Counter()
    tasks = []
    for account in ["a"] * 500 + ["b"] * 10:
        task = await bench.come(account)
        task.add_done_callback(lambda task: served.update(bench.callers[task].account))
        tasks.append(task)
    for _ in range(20):
        bench.servers[0].ended()
        await tick()
        assert abs(served["a"] - served["b"]) <= 1
    assert served == {"a": 10, "b": 10}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not bench.queue.waiting()


async def test_whoever_leaves_frees_his_place_in_the_line_at_once():
    bench = Bench(1)
    await bench.come()
    leaves, stays = await bench.come("a"), await bench.come("b")
    leaves.cancel()
    await tick()
    assert bench.waiting() == 1
    assert bench.callers[leaves].refusal is Refusal.LEFT
    bench.servers[0].ended()
    assert await stays is bench.servers[0]


async def test_a_place_that_was_given_to_somebody_who_has_just_left_goes_on_to_the_next():
    bench = Bench(1)
    await bench.come()
    leaves, stays = await bench.come("a"), await bench.come("b")
    bench.servers[0].ended()  # it is his ...
    leaves.cancel()  # ... but he will never know
    assert await stays is bench.servers[0]
    assert bench.servers[0].in_flight == 1


async def test_a_place_is_not_given_to_somebody_whose_leaving_is_under_way():
    bench = Bench(1)
    await bench.come()
    leaves, stays = await bench.come("a"), await bench.come("b")
    leaves.cancel()
    bench.servers[0].ended()
    assert await stays is bench.servers[0]
    await tick()
    assert (bench.servers[0].in_flight, bench.waiting()) == (1, 0)


async def test_the_wait_is_bounded():
    bench = Bench(1, wait_s=0.05)
    await bench.come()
    task = await bench.come()
    assert (await refused(task)).reason is Refusal.WAITED
    assert bench.callers[task].refusal is Refusal.WAITED
    assert not bench.servers[0].lines


async def test_a_call_that_has_waited_before_waits_only_the_rest():
    bench = Bench(1, wait_s=60)
    await bench.come()
    caller = Caller()
    caller.queued_s = 60.0
    assert (await refused(bench.queue.place(bench.servers, caller))).reason is Refusal.WAITED
    assert caller.queued_s == 60.0


async def test_with_a_wait_of_zero_no_call_waits():
    bench = Bench(1, wait_s=0)
    await bench.come()
    assert (await refused(await bench.come())).reason is Refusal.FULL


async def test_an_account_may_have_so_many_waiting_and_no_more():
    bench = Bench(1, account_calls_max=2)
    await bench.come()
    tasks = [await bench.come("a") for _ in range(3)] + [await bench.come("b")]
    assert (await refused(tasks.pop(2))).reason is Refusal.FULL
    assert bench.waiting() == 3
    for task in tasks:
        task.cancel()
    await tick()


async def test_when_too_many_wait_a_higher_priority_or_a_shorter_account_displaces_the_newest_of_the_longest():
    bench = Bench(1, calls_max=4)
    await bench.come()
    flood = [await bench.come("a") for _ in range(4)]
    assert (await refused(await bench.come("a"))).reason is Refusal.FULL
    first, urgent = await bench.come("b"), await bench.come("m", 10)
    assert (await refused(flood[3])).reason is Refusal.DISPLACED
    assert (await refused(flood[2])).reason is Refusal.DISPLACED
    assert bench.waiting() == 4
    for expected in (urgent, flood[0], first, flood[1]):
        bench.servers[0].ended()
        assert await expected is bench.servers[0]


async def test_a_flood_costs_a_priority_account_one_place_that_becomes_free():
    bench = Bench(8, calls_max=500, account_calls_max=500)
    for _ in range(8):
        await bench.come("t")
    flood = [await bench.come(f"t{number % 3}") for number in range(500)]
    for _ in range(20):
        urgent = await bench.come("m", 10)
        bench.servers[0].ended()
        assert await urgent is bench.servers[0]
    assert sum(1 for task in flood if task.done()) == 1  # one gave way, for the line was full
    assert (await refused(flood[498])).reason is Refusal.DISPLACED
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_who_is_refused_hears_when_a_place_is_likely():
    bench = Bench(2, calls_max=10, wait_s=600)
    for _ in range(2):
        await bench.come("a")
    tasks = [await bench.come("a") for _ in range(8)]
    for _ in range(4):  # one place every 1.5 s
        bench.now_s += 1.5
        bench.servers[0].ended()
    tasks += [await bench.come("a") for _ in range(6)]
    assert (await refused(await bench.come("a"))).retry_after_s == 17  # 10 wait: 11 times 1.5 s, rounded up
    bench.now_s += 84.0  # 90 s have passed since they began to wait, and four places were free
    assert (await refused(await bench.come("a"))).retry_after_s == 60
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_has_waited_in_vain_is_not_told_to_come_back_in_a_second():
    bench = Bench(1, wait_s=0.01)
    await bench.come()
    task = await bench.come()
    bench.now_s += 10.0
    assert (await refused(task)).retry_after_s == 10


async def test_draining_refuses_who_waits_and_who_comes():
    bench = Bench(1)
    await bench.come()
    tasks = [await bench.come(account) for account in "ab"]
    bench.queue.drain()
    tasks.append(await bench.come("c"))
    refusals = [await refused(task) for task in tasks]
    assert {(error.reason, error.retry_after_s) for error in refusals} == {(Refusal.DRAINING, 1)}
    assert not bench.servers[0].lines
    bench.servers[0].ended()
    assert await (await bench.come("d")) is bench.servers[0]  # what has room is served to the end


EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("come"), st.sampled_from("abc"), st.integers(0, 1), st.sampled_from([(0,), (1,), (0, 1), (1, 2)])
        ),
        st.tuples(st.just("end"), st.integers(0, 20)),
        st.tuples(st.just("leave"), st.integers(0, 20)),
        st.tuples(st.just("end and leave"), st.integers(0, 20), st.integers(0, 20)),
        st.tuples(st.just("resize"), st.integers(0, 2), st.integers(0, 4)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(EVENTS)
def test_no_place_is_idle_while_a_call_waits_for_it_and_none_is_lost(events):
    asyncio.run(_any_history(events))


async def _any_history(events):
    bench = Bench(2, 1, 2, calls_max=12, account_calls_max=6, wait_s=600)
    tasks: list[asyncio.Task] = []

    def pick(number, *, done):
        found = [task for task in tasks if task.done() is done]
        return found[number % len(found)] if found else None

    def end(number):
        if (task := pick(number, done=True)) is not None:
            tasks.remove(task)
            if not task.cancelled() and task.exception() is None:
                task.result().ended()

    for kind, *details in events:
        if kind == "come":
            account, priority, numbers = details
            tasks.append(await bench.come(account, priority, servers=[bench.servers[number] for number in numbers]))
        elif kind == "resize":
            server = bench.servers[details[0]]
            server.places = details[1]
            bench.queue.hand_over(server)
        if kind in {"end", "end and leave"}:
            end(details[0])
        if kind in {"leave", "end and leave"} and (task := pick(details[-1], done=False)) is not None:
            task.cancel()
        await tick()
        for server in bench.servers:
            if server.lines:
                assert server.in_flight >= server.places
        served = Counter(
            id(task.result()) for task in tasks if task.done() and not task.cancelled() and not task.exception()
        )
        assert {id(server): server.in_flight for server in bench.servers if server.in_flight} == served
        assert bench.waiting() == sum(1 for task in tasks if not task.done())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (bench.waiting(), [server.lines for server in bench.servers]) == (0, [[], [], []])


# The pool's part


def pools_of(*places, **kept):
    upstreams = [
        Upstream(f"u{number}", f"http://127.0.0.1:{number + 1}", in_flight_max=most)
        for number, most in enumerate(places)
    ]
    pools = UpstreamPools(Timeouts, lambda: 0.0, lambda: QueueSettings(**kept))
    return pools, [pools.of(upstream) for upstream in upstreams]


async def test_a_server_that_turns_calls_away_gets_no_more_until_the_next_sweep():
    pools, (pool,) = pools_of(2)
    pool.turned_away()
    assert pool.places == 2  # nobody waits: as ever
    pool.in_flight = 2
    waits = [asyncio.ensure_future(pools.queue.place([pool], Caller())) for _ in range(3)]
    await tick()
    pool.ended()  # a 503 ...
    await tick()
    pool.turned_away()
    pool.ended()  # ... and one more
    await tick()
    pool.turned_away()
    pool.ended()
    await tick()
    assert (pool.in_flight, pool.places, [task.done() for task in waits]) == (0, 0, [True, False, False])
    pool.sweep()
    await asyncio.gather(*waits)
    assert (pool.in_flight, pool.places) == (2, 2)
    pools.close()


async def test_a_reload_with_more_places_lets_in_who_waits_and_keeps_what_is_in_flight():
    pools, (pool,) = pools_of(1)
    pool.in_flight = 1
    waits = [asyncio.ensure_future(pools.queue.place([pool], Caller())) for _ in range(3)]
    await tick()
    wider = Upstream("u0", "http://127.0.0.1:1", in_flight_max=3, priority_field=True)
    pools.retain({wider})
    await tick()
    assert (pools.of(wider), pool.in_flight, pool.upstream) == (pool, 3, wider)
    assert [task.done() for task in waits] == [True, True, False]
    before = Upstream("u0", "http://127.0.0.1:1", in_flight_max=1)
    assert pools.of(before) is pool  # a call from before the reload
    assert (pool.places, len(pools.all())) == (3, 1)
    narrower = Upstream("u0", "http://127.0.0.1:1", in_flight_max=2)
    pools.retain({narrower})
    pool.ended()  # now there are as many as may be
    await tick()
    assert (pool.in_flight, waits[2].done()) == (2, False)
    pool.ended()
    assert await waits[2] is pool
    pools.close()


async def test_a_server_that_a_reload_took_away_ends_with_who_waits_for_it():
    pools, (pool,) = pools_of(1)
    pool.in_flight = 1
    waits = asyncio.ensure_future(pools.queue.place([pool], Caller()))
    await tick()
    pools.retain(set())
    assert pools.all() == [pool]
    pool.ended()
    assert await waits is pool
    pool.ended()
    pools.retain({Upstream("u0", "http://127.0.0.1:9", Engine.VLLM)})
    assert pools.all() == []
