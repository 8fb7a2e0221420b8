"""Fairness: the order in which waiting calls get the places that become free. Pure.

What belongs here: who is next, who gives way when too many wait, and how long a place will probably take. What does
not: waiting itself (upstream/queue.py), and why it is done so (docs/decisions/0020).

Rules:

1. Priority is strict: nobody is next while somebody of a higher priority waits. Waiting does not raise a priority.
2. Within a priority accounts take turns. Of two that both wait, neither is ever more than one place ahead of the other,
   however many calls each of them has waiting.
3. Within an account the first to come is the first to go.
4. An account that comes, or comes back, has its turn after all that wait already: leaving and coming gains nothing.
5. When too many wait, the newest call of the account that has most of them waiting in the lowest priority gives way: to
   a call of a higher priority, or to one of an account that has fewer waiting even with it.

Every operation costs the same however many calls and accounts wait; priorities are as few as tiers.
"""

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

PACE_PLACES: Final = 64
"""Over how many places the pace is measured: several rounds of a small server."""


class Waiting:
    """A call that waits; it is told from others by its identity.

    Args:
        account: whose turn it uses.
        priority: higher goes first.
    """

    __slots__ = ("account", "priority")

    def __init__(self, account: str, priority: int) -> None:
        self.account = account
        self.priority = priority


W = TypeVar("W", bound=Waiting)


class _Account(Generic[W]):
    """What one account has waiting.

    Attributes:
        turn: number of its place in the round: the smallest is next.
        calls: in the order in which they came.
    """

    __slots__ = ("calls", "turn")

    def __init__(self, turn: int) -> None:
        self.turn = turn
        self.calls: OrderedDict[W, None] = OrderedDict()


class _Level(Generic[W]):
    """The accounts that wait at one priority, in the order of their turns, and by how many calls each has waiting."""

    __slots__ = ("_by_length", "_longest", "accounts", "calls")

    def __init__(self) -> None:
        self.accounts: OrderedDict[str, _Account[W]] = OrderedDict()
        self.calls = 0
        self._by_length: dict[int, OrderedDict[str, None]] = {}
        self._longest = 0

    def add(self, call: W, turn: int) -> None:
        account = self.accounts.get(call.account)
        if account is None:
            account = self.accounts[call.account] = _Account(turn)
        account.calls[call] = None
        self._grew(call.account, len(account.calls) - 1, len(account.calls))
        self.calls += 1

    def take(self, turn: int) -> W:
        """Take the next call out; its account has its next turn after all others."""
        name, account = next(iter(self.accounts.items()))
        call, _ = account.calls.popitem(last=False)
        self._took(name, account)
        if account.calls:
            account.turn = turn
            self.accounts.move_to_end(name)
        return call

    def remove(self, call: W) -> bool:
        account = self.accounts.get(call.account)
        if account is None or call not in account.calls:
            return False
        del account.calls[call]
        self._took(call.account, account)
        return True

    def longest(self) -> _Account[W]:
        """Return the account with the most calls; of several, the one that has had so many for longest."""
        return self.accounts[next(iter(self._by_length[self._longest]))]

    def _took(self, name: str, account: _Account[W]) -> None:
        left = len(account.calls)
        self._grew(name, left + 1, left)
        if not left:
            del self.accounts[name]
        self.calls -= 1

    def _grew(self, name: str, old: int, new: int) -> None:
        """Move an account to where those stand that have ``new`` calls, one more or one less than ``old``."""
        if old:
            del self._by_length[old][name]
            if not self._by_length[old]:
                del self._by_length[old]
        if new:
            self._by_length.setdefault(new, OrderedDict())[name] = None
        if new > self._longest or self._longest not in self._by_length:
            self._longest = new


class Order(Generic[W]):
    """The calls that wait for the same upstreams, in the order in which they get places.

    Args:
        turns: yields rising numbers. Orders whose heads are compared (``first``) share one.
    """

    __slots__ = ("_count", "_levels", "_priorities", "_turns")

    def __init__(self, turns: Iterator[int]) -> None:
        self._turns = turns
        self._levels: dict[int, _Level[W]] = {}
        self._priorities: list[int] = []  # rising; those at which somebody waits
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, call: W) -> None:
        """Let a call wait."""
        level = self._levels.get(call.priority)
        if level is None:
            level = self._levels[call.priority] = _Level()
            insort(self._priorities, call.priority)
        level.add(call, next(self._turns))
        self._count += 1

    def first(self) -> tuple[int, int]:
        """Return what tells whose next call goes first, of several orders: the smallest. Somebody waits."""
        priority = self._priorities[-1]
        return -priority, next(iter(self._levels[priority].accounts.values())).turn

    def take(self) -> W:
        """Take the next call out. Somebody waits."""
        priority = self._priorities[-1]
        level = self._levels[priority]
        call = level.take(next(self._turns))
        self._took(priority, level)
        return call

    def remove(self, call: W) -> bool:
        """Take out a call that waits no longer; False: it did not wait."""
        level = self._levels.get(call.priority)
        if level is None or not level.remove(call):
            return False
        self._took(call.priority, level)
        return True

    def _took(self, priority: int, level: _Level[W]) -> None:
        self._count -= 1
        if not level.calls:
            del self._levels[priority]
            del self._priorities[bisect_left(self._priorities, priority)]

    def waiting_of(self, account: str, priority: int) -> int:
        """Return how many calls of an account wait at a priority."""
        level = self._levels.get(priority)
        waiting = level.accounts.get(account) if level is not None else None
        return len(waiting.calls) if waiting is not None else 0

    def gives_way(self, account: str, priority: int) -> W | None:
        """Return the call that gives way to a new one (rule 5); None: none does, and it may not wait."""
        if not self._priorities or (lowest := self._priorities[0]) > priority:
            return None
        longest = self._levels[lowest].longest()
        if lowest == priority and len(longest.calls) < self.waiting_of(account, priority) + 2:
            return None
        return next(reversed(longest.calls))

    def ahead_of(self, account: str, priority: int) -> int:
        """Return at most how many of the calls that wait now would get a place before a new one."""
        ahead = 0
        for each, level in self._levels.items():
            if each > priority:
                ahead += level.calls
            elif each == priority:
                rounds = self.waiting_of(account, priority) + 1
                ahead += min(level.calls, rounds * len(level.accounts))
        return ahead

    def by_priority(self) -> dict[int, int]:
        """Return how many calls wait, by priority."""
        return {priority: level.calls for priority, level in self._levels.items()}


class Pace:
    """How fast places become free at an upstream that is full, as far as it has been seen."""

    __slots__ = ("_before_s", "_freed_s", "_since_s")

    def __init__(self) -> None:
        self._since_s = 0.0
        self._before_s = 0.0
        self._freed_s: deque[float] = deque()

    def began(self, now_s: float) -> None:
        """It is full from now on: what was before no longer counts, but until something is seen."""
        if self._freed_s:
            self._before_s = (self._freed_s[-1] - self._since_s) / len(self._freed_s)
            self._freed_s.clear()
        self._since_s = now_s

    def freed(self, now_s: float) -> None:
        """A place has become free."""
        if len(self._freed_s) == PACE_PLACES:
            self._since_s = self._freed_s.popleft()
        self._freed_s.append(now_s)

    def interval_s(self, now_s: float) -> float:
        """Return the seconds from one free place to the next; 0: nothing has been seen yet."""
        passed_s = now_s - self._since_s
        return passed_s / len(self._freed_s) if self._freed_s else max(self._before_s, passed_s)
