"""Every order in which three calls of two replicas can meet the limiter: a model that is searched to its end.

What belongs here: the actors, what each may do next, and what must hold wherever they get. The limiter is no model: it
is ``AccountState``, the reference to which the Redis functions are held (test_histories.py). Time is in ticks of a
second.

The world:

- A replica serves calls. A call asks to be admitted, delivers what it holds, says what is known
  (``extend``), may want more (``grow``), and is settled, or released if it delivered nothing.
- A command takes effect and is answered; or, as a mishap of the network, it takes effect at some later moment, or its
  answer is lost: then it is sent again, and takes effect again, at some later moment.
- A replica may die at any moment. What it had sent may still take effect; nobody speaks for its calls any more, until
  the other settles what had been delivered, at any time, or never.
- A call delivers only while its hold lives: the proxy renews holds twelve times in their life. A hold may expire all
  the same, when nobody speaks for it in time. What had been delivered and not told by then is its *tail*: nothing can
  hold room for that, and it is all by which a limit may be exceeded.
- A call that was left is settled at what its replica had last told: that is in its outbox (a checkpoint).
"""

import argparse
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from proxy.core.account_state import AccountState
from proxy.core.limits import Growth, Limit, LimitKind, Measure
from proxy.core.windows import BudgetSum, GoneCalls, Hold, WindowLog

TICK_MS = 1000
TTL = 1
"""Ticks that a hold lives."""
WINDOW = 2
"""Ticks of the window."""
PRICE = 3
"""Of a token, in the budget's unit."""


class Script(NamedTuple):
    """What a call may do: hold at first, hold at most, and which replica serves it."""

    held: int
    cap: int
    replica: int


class Call(NamedTuple):
    """Where a call is.

    Attributes:
        sent: the command that waits to take effect: its verb and its amount; None: none does.
        stage: new, in flight, over (settled, released or refused), or left by its replica.
        held: what its replica knows to be held.
        delivered: tokens that its client has got.
        told: the most that its replica has told, and put into its outbox before.
        known: the most of this that has taken effect.
        grown: whether it has asked for more.
        settled: the amount of the settlement that has taken effect; None: none has.
    """

    sent: tuple[str, int] | None = None
    stage: str = "new"
    held: int = 0
    delivered: int = 0
    told: int = 0
    known: int = 0
    grown: bool = False
    settled: int | None = None


class World(NamedTuple):
    """A place in the search: the limiter, its clock, the calls, when each token was delivered, what may go wrong."""

    limiter: AccountState
    now: int
    calls: tuple[Call, ...]
    delivered: tuple[int, ...]
    mishaps: int
    dead: tuple[bool, ...]


class BrokenPromiseError(AssertionError):
    """Something that must hold everywhere does not; says where."""


class Search:
    """All worlds that can be reached.

    Args:
        scripts: of the calls.
        capacity: of the window, tokens.
        budget: of the month, in what so many tokens cost.
        bucket: of the window, ticks.
        ends: the last tick.
        mishaps: how many commands may be late, or answers lost, in all.
        deaths: whether replicas may die.
    """

    def __init__(
        self,
        scripts: tuple[Script, ...],
        *,
        capacity: int,
        budget: int,
        bucket: int,
        ends: int,
        mishaps: int,
        deaths: bool,
    ) -> None:
        self.scripts = scripts
        self.capacity = capacity
        self.ends = ends
        self.mishaps = mishaps
        self.deaths = deaths
        self.window = Limit("tokens", LimitKind.WINDOW, capacity, window_s=WINDOW, bucket_s=bucket)
        self.budget = Limit(
            "budget", LimitKind.BUDGET, budget * PRICE, period="2026-11", ends_ms=10**9, counts=Measure.EUROS
        )
        self.limits = (self.window, self.budget)
        self.worlds = 0
        self.seen: dict[str, int] = {}
        """How often each thing happened that a search must not miss."""

    def run(self) -> None:
        """Visit every world once.

        Raises:
            BrokenPromiseError: a promise does not hold in one of them.
        """
        limiter = AccountState(0, TTL * TICK_MS)
        limiter.seed(self.limits, {}, {}, 0)
        first = World(limiter, 0, tuple(Call() for _ in self.scripts), (), self.mishaps, (False, False))
        stack, visited = [first], {identity(first)}
        while stack:
            world = stack.pop()
            self.worlds += 1
            self._check(world)
            for following in self._next(world):
                key = identity(following)
                if key not in visited:
                    visited.add(key)
                    stack.append(following)

    # What may happen next

    def _next(self, world: World) -> Iterator[World]:
        if world.now < self.ends:
            yield world._replace(now=world.now + 1)
        for place, call in enumerate(world.calls):
            if call.sent is not None:
                yield self._take_effect(world, place, call)
            elif call.stage == "left":
                if call.settled is None:
                    yield from self._send(world, place, call._replace(sent=("settle", call.told)))
            elif not world.dead[self.scripts[place].replica]:
                for sent in self._commands(place, call):
                    grown = call.grown or sent[0] == "grow"
                    told = max(call.told, sent[1]) if sent[0] in ("extend", "settle") else call.told
                    yield from self._send(world, place, call._replace(sent=sent, grown=grown, told=told))
                yield from self._deliver(world, place, call)
        if self.deaths:
            for replica in (0, 1):
                if not any(world.dead):
                    yield self._die(world, replica)

    def _commands(self, place: int, call: Call) -> Iterator[tuple[str, int]]:
        script = self.scripts[place]
        if call.stage == "new":
            yield "admit", script.held
        elif call.stage == "in flight":
            if call.delivered:
                yield "extend", call.delivered
                yield "settle", call.delivered
            else:
                yield "release", 0
            if call.held < script.cap and not call.grown:
                yield "grow", script.cap

    def _deliver(self, world: World, place: int, call: Call) -> Iterator[World]:
        hold = world.limiter._holds.get(str(place))
        if call.stage == "in flight" and call.delivered < call.held and hold and hold.expires_ms > world.now * TICK_MS:
            moved = self._with(world, place, call._replace(delivered=call.held))
            yield moved._replace(delivered=(*world.delivered, *(call.held - call.delivered) * (world.now,)))

    def _die(self, world: World, replica: int) -> World:
        self._note("died")
        calls = tuple(
            call._replace(stage="left")
            if self.scripts[place].replica == replica and call.stage == "in flight"
            else call
            for place, call in enumerate(world.calls)
        )
        return world._replace(calls=calls, dead=(replica == 0, replica == 1))

    def _send(self, world: World, place: int, call: Call) -> Iterator[World]:
        yield self._take_effect(world, place, call)
        if world.mishaps:
            self._note("late")
            less = world._replace(mishaps=world.mishaps - 1)
            yield self._with(less, place, call)
            self._note("answer lost")
            yield self._take_effect(less, place, call, is_answered=False)

    def _take_effect(self, world: World, place: int, call: Call, *, is_answered: bool = True) -> World:
        limiter = clone(world.limiter)
        after = self._effect(limiter, world, place, call)
        if not is_answered:  # its replica knows what it knew before, and sends it again
            after = call._replace(settled=after.settled, known=after.known)
        return self._with(world, place, after)._replace(limiter=limiter)

    def _effect(self, limiter: AccountState, world: World, place: int, call: Call) -> Call:
        """Let a command take effect; return its call as its replica knows it from the answer."""
        verb, amount = call.sent
        call_id, now_ms, amounts = str(place), world.now * TICK_MS, (amount, amount * PRICE)
        after = call._replace(sent=None)
        is_left = call.stage == "left" or world.dead[self.scripts[place].replica]
        if verb == "admit":
            return self._admit(limiter, call_id, amounts, now_ms, after, is_left=is_left)
        if verb == "extend":
            renewed = limiter.extend(call_id, self.limits, amounts, now_ms)
            return after._replace(known=amount) if renewed else after
        if verb == "grow":
            growth = limiter.grow(call_id, self.limits, amounts, now_ms)
            self._note(f"growth {growth.value}")
            return after if growth is not Growth.GRANTED or is_left else after._replace(held=amount)
        if verb == "release":
            limiter.release(call_id, now_ms)
            return after._replace(stage="over", settled=0)
        expired = limiter._gone.find(call_id, now_ms) is not None and call_id not in limiter._holds
        self._note("settled late" if expired else "settled")
        changed = limiter.settle(call_id, self.limits, amounts, now_ms)
        return after._replace(stage="over", settled=amount if changed else after.settled)

    def _admit(
        self, limiter: AccountState, call_id: str, needs: tuple[int, int], now_ms: int, after: Call, *, is_left: bool
    ) -> Call:
        limiter.peek(self.limits, now_ms)  # what has aged out by now is no trace
        before, known = contents(limiter), limiter._holds.get(call_id)
        answer = limiter.admit(call_id, self.limits, needs, now_ms)
        if known is not None:
            self._note("admission replayed")
            if answer is not known.admission:
                raise BrokenPromiseError(f"a replayed admission was answered anew: {answer}")
        if not answer.admitted:
            self._note("refused")
            self._check_refusal(limiter, before, call_id, needs, now_ms, answer.retry_after_ms)
            return after._replace(stage="over")
        if is_left:
            return after._replace(stage="left")
        return after._replace(stage="in flight", held=needs[0])

    # What must hold

    def _check_refusal(
        self, limiter: AccountState, before: object, call_id: str, needs: tuple[int, int], now_ms: int, wait_ms: int
    ) -> None:
        if contents(limiter) != before:
            raise BrokenPromiseError("a refused call has left a trace")
        at_ms = now_ms + wait_ms
        if at_ms == self.budget.ends_ms:  # then the month has another name
            self._note("refused for the month")
        elif not clone(limiter).admit(call_id, self.limits, needs, at_ms).admitted:
            raise BrokenPromiseError(f"refused at {now_ms} and again at its Retry-After, {at_ms}")
        if clone(limiter).admit(call_id, self.limits, needs, at_ms - 1).admitted:
            raise BrokenPromiseError(f"refused at {now_ms} until {at_ms}, but there is room a millisecond earlier")

    def _check(self, world: World) -> None:
        limiter = world.limiter
        tails = sum(
            tail(call, is_expired=str(place) in limiter._gone._current) for place, call in enumerate(world.calls)
        )
        if tails:
            self._note("a tail")
        for first in world.delivered:
            within = sum(1 for at in world.delivered if first <= at < first + WINDOW)
            if within > self.capacity + tails:
                raise BrokenPromiseError(f"{within} tokens within a window of {self.capacity}: {world.delivered}")
        spent = limiter._logs["budget", "2026-11"]
        if spent.used + spent.held > self.budget.capacity + tails * PRICE or spent.held < 0:
            raise BrokenPromiseError(f"spent {spent.used}, held {spent.held} of {self.budget.capacity}")
        if world.now == self.ends and all(call.sent is None for call in world.calls):
            self._check_end(world)

    def _check_end(self, world: World) -> None:
        """Nothing is under way: no hold outlives its time, and what was settled counts once, however often said."""
        limiter = clone(world.limiter)
        limiter._advance((world.now + TTL) * TICK_MS)
        if limiter._holds or any(log.held for log in limiter._logs.values()):
            raise BrokenPromiseError(f"something is held though nobody speaks for it: {world.calls}")
        spent = limiter._logs["budget", "2026-11"]
        tokens = sum(call.known if call.settled is None else call.settled for call in world.calls)
        if spent.used != tokens * PRICE:
            raise BrokenPromiseError(f"{tokens} tokens are to be paid for, {spent.used / PRICE} are: {world.calls}")
        if all(call.stage == "over" for call in world.calls):
            self._note("all over")

    def _with(self, world: World, place: int, call: Call) -> World:
        calls = (*world.calls[:place], call, *world.calls[place + 1 :])
        return world._replace(calls=calls)

    def _note(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1


def tail(call: Call, *, is_expired: bool) -> int:
    """Return the tokens that a call had delivered and not told when its hold came to its end."""
    if is_expired:
        return call.delivered - call.known
    return 0 if call.settled is None else call.delivered - call.settled


def clone(state: AccountState) -> AccountState:
    """Return the same state, apart: ten times as fast as ``copy.deepcopy``."""
    made = AccountState(state.now_ms, state._hold_ttl_ms)
    for key, log in state._logs.items():
        if isinstance(log, BudgetSum):
            copy = BudgetSum(log.ends_ms, log.used)
        else:
            copy = WindowLog(log.window_ms, log.bucket_ms)
            copy._newest, copy._totals = log._newest.copy(), log._totals.copy()
            copy._aged, copy._first_ms = log._aged, log._first_ms
        copy.held = log.held
        made._logs[key] = copy
    made._holds = OrderedDict(
        (call_id, Hold(hold.expires_ms, hold.parts.copy(), hold.admission)) for call_id, hold in state._holds.items()
    )
    made._gone = GoneCalls(state._gone._started_ms)
    made._gone._current, made._gone._older = state._gone._current.copy(), state._gone._older.copy()
    return made


def contents(state: AccountState) -> tuple[object, ...]:
    """Return everything that a state knows but for its clock, to be compared and hashed."""
    return (
        *(
            (log.held, log.used) if isinstance(log, BudgetSum) else (log.held, log.used, log.buckets)
            for log in state._logs.values()
        ),
        tuple((call_id, hold.expires_ms, *hold.parts.values()) for call_id, hold in state._holds.items()),
        tuple((call_id, gone.at_ms, *gone.charged.items()) for call_id, gone in state._gone._current.items()),
    )


def identity(world: World) -> tuple[object, ...]:
    """Return what tells a world from others. Tokens that no window can hold any more are left out."""
    recent = tuple(at for at in world.delivered if at > world.now - WINDOW)
    return (
        contents(world.limiter),
        world.limiter.now_ms,
        world.now,
        world.calls,
        recent,
        world.mishaps,
        world.dead,
    )


SCRIPTS = (Script(2, 2, 0), Script(1, 2, 0), Script(1, 1, 1))
"""Together they want more than fits: two calls of one replica, of which one grows, and a call of the other."""
CAPACITY, BUDGET = 3, 4


def search(*, bucket: int = 1, ends: int, mishaps: int = 0, deaths: bool = False) -> Search:
    """Return the search that tests make, from the first tick to another."""
    return Search(SCRIPTS, capacity=CAPACITY, budget=BUDGET, bucket=bucket, ends=ends, mishaps=mishaps, deaths=deaths)


def main() -> None:
    """Search further than the tests do."""
    parser = argparse.ArgumentParser(prog="python -m tests.limiter.interleavings", description=main.__doc__)
    parser.add_argument("--bucket", type=int, default=1)
    parser.add_argument("--ends", type=int, default=2, help="the last tick")
    parser.add_argument("--mishaps", type=int, default=1, help="commands that are late, or answers that are lost")
    parser.add_argument("--deaths", action="store_true", help="replicas may die")
    found = search(**vars(parser.parse_args()))
    found.run()
    print(f"{found.worlds:,} worlds, every promise held:", found.seen)


if __name__ == "__main__":
    main()
