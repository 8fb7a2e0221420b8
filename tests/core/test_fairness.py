"""Who is next, whoever comes, goes and leaves."""

import heapq
import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.fairness import Order, Pace, Waiting


class Call(Waiting):
    """A call with a name, for what a failed test prints."""

    def __init__(self, account, priority=0, number=0):
        super().__init__(account, priority)
        self.number = number

    def __repr__(self):
        return f"{self.account}{self.number}/{self.priority}"


def waiting(*accounts, priority=0):
    order = Order(itertools.count())
    for number, account in enumerate(accounts):
        order.add(Call(account, priority, number))
    return order


def taken(order):
    return [order.take() for _ in range(len(order))]


def names(calls):
    return "".join(call.account for call in calls)


# Read as examples


def test_accounts_take_turns_and_within_an_account_the_first_to_come_goes_first():
    calls = taken(waiting(*"aaaabbc"))
    assert names(calls) == "abcabaa"
    assert [call.number for call in calls if call.account == "a"] == [0, 1, 2, 3]


def test_five_hundred_calls_of_one_account_do_not_delay_the_first_of_another():
    order = waiting(*"a" * 500, "b")
    assert names([order.take(), order.take()]) == "ab"


def test_an_account_that_comes_back_has_its_turn_after_all_that_wait():
    order = waiting(*"abbbb")
    for _ in range(4):  # a has one call at a time, b has all at once: neither is better off
        assert sorted(names([order.take(), order.take()])) == ["a", "b"]
        order.add(Call("a"))


def test_a_higher_priority_goes_first_and_a_lower_one_when_none_is_left():
    order = waiting(*"aabb")
    for number in range(3):
        order.add(Call("m", 10, number))
    assert names(taken(order)) == "mmmabab"


def test_whoever_leaves_is_skipped_and_its_account_keeps_its_turn():
    order = waiting(*"ab")
    second = Call("a", number=7)
    order.add(second)
    order.add(last := Call("c"))
    assert order.remove(last)
    assert not order.remove(last)
    assert not order.remove(Call("nobody", 3))
    assert order.remove(second)
    assert names(taken(order)) == "ab"
    assert not order


def test_of_several_orders_the_head_that_has_waited_for_its_turn_longer_goes_first():
    turns = itertools.count()
    left, right = Order(turns), Order(turns)
    for order, account in ((left, "a"), (left, "a"), (right, "b"), (right, "b"), (left, "c")):
        order.add(Call(account))
    right.add(Call("m", 1))
    seen = []
    while orders := [order for order in (left, right) if order]:
        seen.append(min(orders, key=Order.first).take())
    assert names(seen) == "mabcab"


def test_when_too_many_wait_the_newest_of_the_longest_account_of_the_lowest_priority_gives_way():
    order = waiting(*"aaab")
    assert repr(order.gives_way("m", 10)) == "a2/0"
    assert repr(order.gives_way("c", 0)) == "a2/0"
    assert repr(order.gives_way("b", 0)) == "a2/0"  # then both have two
    assert order.gives_way("a", 0) is None
    order.add(Call("b"))
    assert order.gives_way("b", 0) is None  # it would be as long as the other is now
    assert waiting("a", priority=10).gives_way("b", 0) is None
    assert waiting().gives_way("a", 0) is None


# For any history

ACCOUNTS = st.sampled_from("abcd")
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), ACCOUNTS, st.integers(0, 2)),
        st.tuples(st.just("take")),
        st.tuples(st.just("leave"), st.integers(0, 30)),
    ),
    max_size=120,
)


class Model:
    """The calls that wait, in a list; and how often each account was served since another's turn."""

    def __init__(self):
        self.order = Order(itertools.count())
        self.calls = []
        self.served_since: dict[tuple[str, int], Counter] = {}

    @classmethod
    def after(cls, events):
        """Return what is left when these events have happened."""
        model = cls()
        for kind, *details in events:
            if kind == "add":
                model.add(*details)
            elif kind == "take" and model.calls:
                model.take()
        return model

    def add(self, account, priority):
        call = Call(account, priority, len(self.calls))
        if not self.of(account, priority):
            self.served_since[account, priority] = Counter()
        self.order.add(call)
        self.calls.append(call)

    def of(self, account, priority):
        return [call for call in self.calls if (call.account, call.priority) == (account, priority)]

    def take(self):
        call = self.order.take()
        self.calls.remove(call)
        key = call.account, call.priority
        self.served_since[key] = Counter()
        for other in {(each.account, each.priority) for each in self.calls} - {key}:
            if other[1] == call.priority:
                self.served_since[other][call.account] += 1
        return call


@given(EVENTS)
def test_priority_is_strict_turns_are_fair_and_accounts_are_first_come_first_served(events):
    model = Model()
    for kind, *details in events:
        if kind == "add":
            model.add(*details)
        elif kind == "leave" and model.calls:
            call = model.calls.pop(details[0] % len(model.calls))
            assert model.order.remove(call)
        elif kind == "take" and model.calls:
            before = list(model.calls)
            call = model.take()
            assert call.priority == max(each.priority for each in before)
            assert call is next(
                each for each in before if (each.account, each.priority) == (call.account, call.priority)
            )
        # Nobody that waits has seen another go twice since its own turn.
        for key in {(call.account, call.priority) for call in model.calls}:
            assert max(model.served_since[key].values(), default=0) <= 1
        assert len(model.order) == len(model.calls)
        assert model.order.by_priority() == Counter(call.priority for call in model.calls)
    assert sorted(map(id, taken(model.order))) == sorted(map(id, model.calls))


@given(EVENTS, ACCOUNTS, st.integers(0, 2))
def test_who_gives_way_is_what_a_look_at_all_of_them_says(events, account, priority):
    model = Model.after(events)
    found = model.order.gives_way(account, priority)
    lowest = min((call.priority for call in model.calls), default=None)
    if lowest is None or lowest > priority:
        assert found is None
        return
    lengths = Counter(call.account for call in model.calls if call.priority == lowest)
    mine = len(model.of(account, priority))
    if lowest == priority and max(lengths.values()) - 1 < mine + 1:
        assert found is None
        return
    assert found is not None
    assert (found.priority, lengths[found.account]) == (lowest, max(lengths.values()))
    assert found is model.of(found.account, lowest)[-1]


@given(EVENTS, ACCOUNTS, st.integers(0, 2))
def test_no_more_go_ahead_of_a_new_call_than_it_is_told(events, account, priority):
    model = Model.after(events)
    told = model.order.ahead_of(account, priority)
    call = Call(account, priority)
    model.order.add(call)
    assert taken(model.order).index(call) <= told


# How fast places become free


def test_the_pace_is_what_has_been_seen_and_waiting_in_vain_slows_it_down():
    pace = Pace()
    pace.began(100.0)
    assert pace.interval_s(100.0) == 0.0
    assert pace.interval_s(103.0) == 3.0  # nothing yet: at least that long
    for now_s in (104.0, 104.0, 104.0, 104.0):  # four places at once, as a batch ends
        pace.freed(now_s)
    assert pace.interval_s(104.0) == 1.0
    assert pace.interval_s(112.0) == 3.0


def test_the_pace_of_a_long_time_is_that_of_its_last_places():
    pace = Pace()
    pace.began(0.0)
    for number in range(1, 101):
        pace.freed(number * 10.0)
    for number in range(1, 201):
        pace.freed(1000.0 + number)
    assert pace.interval_s(1200.0) == pytest.approx(1.0)


def test_a_new_rush_begins_with_the_pace_of_the_last():
    pace = Pace()
    pace.began(0.0)
    pace.freed(2.0)
    pace.freed(4.0)
    pace.began(1000.0)
    assert pace.interval_s(1000.0) == 2.0
    pace.freed(1001.0)
    assert pace.interval_s(1001.0) == 1.0


# What it is for


def simulate(arrivals, places):
    """Serve calls (arrival, account, priority, service time); return by call how long it waited."""
    order, waits, free, running = Order(itertools.count()), {}, places, []
    events = [(at, number, call) for number, (at, *call) in enumerate(arrivals)]
    heapq.heapify(events)
    calls = {}
    while events or running:
        if running and (not events or running[0] <= events[0][0]):
            now, free = heapq.heappop(running), free + 1
        else:
            now, number, (account, priority, service) = heapq.heappop(events)
            call = Call(account, priority, number)
            calls[call] = (now, service)
            order.add(call)
        while free and order:
            call = order.take()
            came, service = calls[call]
            waits[call.number] = now - came
            free -= 1
            heapq.heappush(running, now + service)
        assert not free or not order  # no place is idle while somebody waits
    return waits


@pytest.mark.parametrize("seed", range(5))
def test_a_flood_of_a_lower_priority_costs_a_call_one_service_time_at_most(seed):
    """Eight places, answers of 0.5 to 1.5. One account of priority fills half; 20 others bring ten times what fits."""
    chance = random.Random(seed)
    mine, at = [], 0.0
    while at < 60:
        at += chance.expovariate(4)
        mine.append((at, "m", 10, chance.uniform(0.5, 1.5)))
    flood = [(chance.uniform(0, 60), f"t{chance.randrange(20)}", 0, chance.uniform(0.5, 1.5)) for _ in range(4800)]
    alone, flooded = simulate(mine, 8), simulate(mine + flood, 8)
    delays = [flooded[number] - alone[number] for number in range(len(mine))]
    assert max(delays) <= 1.0
    assert sum(delays) / len(delays) < 0.25  # a place becomes free every eighth of a service time
    ended = [flooded[number] + came for number, (came, *_) in enumerate(mine + flood)][len(mine) :]
    assert sum(1 for at in ended if at < 60) > 0.9 * (8 * 60 - len(mine))  # the others have got all the rest
