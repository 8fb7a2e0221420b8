"""The arithmetic of limits: what counts, what is held, and when there is room again.

What belongs here: the parts that an account's state is made of (account_state.py), each a pure function of the time
it is given: window logs, budget sums, holds, and the memory of calls that are gone. What does not: clocks, stores,
waiting (limiter/). The rules it keeps, and that comments here refer to by number, are those of ``limits.py``.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from proxy.core.limits import NEVER_MS, Admission, Limit, LimitKind

AMOUNT_MAX = 2**53 - 1
"""The largest amount, capacity and sum: what a double holds exactly. Sums stop there instead of losing units."""

GONE_MS = 86_400_000
"""How long a call is remembered after its hold has expired, so that its late settlement is still a correction."""

GONE_CALLS_MAX = 4096
"""How many such calls one generation of the memory holds; two generations are kept."""

BUDGET_KEPT_MS = 40 * 86_400_000
"""How long an ended budget is kept."""

Key = tuple[str, int | str]
"""What tells one limit of an account from another: (name, window in seconds) or (name, period)."""


class Held(NamedTuple):
    """What one call holds of one limit, and until when."""

    expires_ms: int
    amount: int
    known: int


class Bucket(NamedTuple):
    """Amounts of a window that age out together: stamps of the first and the newest of them, Unix ms, and their sum."""

    first_ms: int
    newest_ms: int
    amount: int


def key_of(limit: Limit) -> Key:
    """Return the limit's key; a window of another length under the same name is another limit."""
    return (limit.stored_name, limit.window_s if limit.kind is LimitKind.WINDOW else limit.period)


class WindowLog:
    """The amounts of one window, coalesced (rule 1): parallel lists of newest stamps and running totals, rising.

    Args:
        window_ms: how long an amount counts.
        bucket_ms: an amount joins the last bucket while it is less than this younger than the bucket's first. At most
            ``window_ms``, so a bucket that can still be joined has not aged out.
    """

    __slots__ = ("_aged", "_first_ms", "_newest", "_totals", "bucket_ms", "held", "window_ms")

    def __init__(self, window_ms: int, bucket_ms: int) -> None:
        if not 0 < bucket_ms <= window_ms:
            raise ValueError(f"a bucket of {bucket_ms} ms does not suit a window of {window_ms} ms")
        self.window_ms = window_ms
        self.bucket_ms = bucket_ms
        self.held = 0
        self._newest: list[int] = []
        self._totals: list[int] = []
        self._aged = 0
        self._first_ms = 0

    @property
    def used(self) -> int:
        """What counts, as of the last ``age``."""
        return self._totals[-1] - self._aged if self._totals else 0

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The buckets that count, oldest first. Of the first stamps only the last is kept: others show their newest."""
        totals = [self._aged, *self._totals]
        firsts = [*self._newest[:-1], self._first_ms]
        return tuple(
            Bucket(first, newest, totals[i + 1] - totals[i])
            for i, (first, newest) in enumerate(zip(firsts, self._newest, strict=False))
        )

    def age(self, now_ms: int) -> None:
        """Let the buckets go whose newest amount is a window old."""
        if not self._newest or self._newest[0] > now_ms - self.window_ms:
            return
        gone = bisect_right(self._newest, now_ms - self.window_ms)
        self._aged = self._totals[gone - 1]
        del self._newest[:gone], self._totals[:gone]

    def add(self, stamp_ms: int, amount: int) -> None:
        """Let an amount count from its stamp, which is not earlier than any before it."""
        amount = min(amount, AMOUNT_MAX - self.used)
        if amount <= 0:
            return
        if self._newest and stamp_ms - self._first_ms < self.bucket_ms:
            self._newest[-1] = stamp_ms
            self._totals[-1] += amount
        else:
            self.add_bucket(Bucket(stamp_ms, stamp_ms, amount))

    def add_bucket(self, bucket: Bucket) -> None:
        """Begin a bucket."""
        self._first_ms = bucket.first_ms
        self._totals.append((self._totals[-1] if self._totals else self._aged) + bucket.amount)
        self._newest.append(bucket.newest_ms)

    def correct(self, stamp_ms: int, difference: int, now_ms: int) -> None:
        """Correct an amount of an earlier stamp. What there was more counts from now, when it became known.

        What there was less is taken out of the bucket where it lies, unless the amount alone would have aged out.
        """
        if difference > 0:
            self.add(now_ms, difference)
        elif difference < 0 and stamp_ms > now_ms - self.window_ms:
            for index in range(bisect_left(self._newest, stamp_ms), len(self._totals)):
                self._totals[index] += difference

    def reset_ms(self, now_ms: int) -> int:
        """See ``LimitState.reset_ms``."""
        if self.held:
            return now_ms + self.window_ms
        return self._newest[-1] + self.window_ms if self.used else now_ms

    def frees_at(self, excess: int, holds: Iterable[Held], now_ms: int) -> int:  # noqa: ARG002 - as BudgetSum's
        """Return when ``excess`` less will count than does now, if nothing is added (rule 8).

        A hold that expires leaves what was known as an amount stamped then. It joins buckets as any amount does, so it
        can keep the open bucket from ageing out: hence the events are walked in order of time, up to the last expiry.
        After it the closed buckets are searched by halving.

        Args:
            excess: more than 0, and at most what counts and is held together.
            holds: in rising order of expiry.
            now_ms: not needed here.
        """
        closed = max(len(self._newest) - 1, 0)
        later = deque(self._open())  # the open bucket, then those that expiring holds will begin
        index, missing = 0, excess
        for hold in holds:
            while (bucket := self._closed(index) if index < closed else _first(later)) is not None:
                if bucket.newest_ms + self.window_ms > hold.expires_ms:
                    break
                missing -= bucket.amount
                if missing <= 0:
                    return bucket.newest_ms + self.window_ms
                if index < closed:
                    index += 1
                else:
                    later.popleft()
            missing -= hold.amount - hold.known
            self._join(later, hold)
            if missing <= 0:
                return hold.expires_ms
        found = bisect_left(self._totals, self._before(index) + missing, index, closed)
        if found < closed:
            return self._newest[found] + self.window_ms
        missing -= self._before(closed) - self._before(index)
        for bucket in later:
            missing -= bucket.amount
            if missing <= 0:
                return bucket.newest_ms + self.window_ms
        raise AssertionError("more was to be freed than there is")

    def _before(self, index: int) -> int:
        return self._totals[index - 1] if index else self._aged

    def _open(self) -> list[Bucket]:
        last = len(self._newest) - 1
        return [] if last < 0 else [Bucket(self._first_ms, self._newest[last], self._totals[last] - self._before(last))]

    def _closed(self, index: int) -> Bucket:
        return Bucket(0, self._newest[index], self._totals[index] - self._before(index))

    def _join(self, later: deque[Bucket], hold: Held) -> None:
        """Do to ``later`` what ``add`` will do to the log when the hold expires."""
        if hold.known and later and hold.expires_ms - later[-1].first_ms < self.bucket_ms:
            first_ms, _, amount = later[-1]
            later[-1] = Bucket(first_ms, hold.expires_ms, amount + hold.known)
        elif hold.known:
            later.append(Bucket(hold.expires_ms, hold.expires_ms, hold.known))


def _first(buckets: deque[Bucket]) -> Bucket | None:
    return buckets[0] if buckets else None


class BudgetSum:
    """What one period's budget has spent (rule 3).

    Args:
        ends_ms: end of the period, Unix ms; 0: it does not end.
    """

    __slots__ = ("ends_ms", "held", "used")

    def __init__(self, ends_ms: int, spent: int = 0) -> None:
        self.ends_ms = ends_ms
        self.used = min(spent, AMOUNT_MAX)
        self.held = 0

    def age(self, now_ms: int) -> None:
        """Forget nothing: a period's calls settle into it even after its end."""

    def add(self, stamp_ms: int, amount: int) -> None:  # noqa: ARG002 - as WindowLog's
        """Spend an amount."""
        self.used = min(self.used + amount, AMOUNT_MAX)

    def correct(self, stamp_ms: int, difference: int, now_ms: int) -> None:  # noqa: ARG002 - as WindowLog's
        """Correct an amount that was spent."""
        self.used = min(max(self.used + difference, 0), AMOUNT_MAX)

    def reset_ms(self, now_ms: int) -> int:  # noqa: ARG002 - as WindowLog's
        """See ``LimitState.reset_ms``."""
        return self.ends_ms

    def frees_at(self, excess: int, holds: Iterable[Held], now_ms: int) -> int:
        """Return when ``excess`` less will be spent and held: as holds expire, else when the period ends (rule 8).

        A period that has ended already is taken to end in a moment: the caller is about to name the next one.
        """
        missing = excess
        for hold in holds:
            missing -= hold.amount - hold.known
            if missing <= 0:
                return hold.expires_ms if not self.ends_ms else min(hold.expires_ms, max(self.ends_ms, now_ms + 1))
        return max(self.ends_ms, now_ms + 1) if self.ends_ms else NEVER_MS


class Hold:
    """A call in flight: until when, what it holds and is known to have used of each limit, and how it was answered."""

    __slots__ = ("admission", "expires_ms", "parts")

    def __init__(self, expires_ms: int, parts: dict[Key, tuple[int, int]], admission: Admission) -> None:
        self.expires_ms = expires_ms
        self.parts = parts
        self.admission = admission


class Gone(NamedTuple):
    """A call whose hold is gone: when it went, and what it was charged; ``charged`` is empty when that is final."""

    at_ms: int
    charged: dict[Key, int]


class GoneCalls:
    """The calls gone in the last day, in two generations of bounded size: the older one is dropped whole."""

    def __init__(self, now_ms: int) -> None:
        self._current: dict[str, Gone] = {}
        self._older: dict[str, Gone] = {}
        self._started_ms = now_ms

    def remember(self, call_id: str, gone: Gone, now_ms: int) -> None:
        """Note a call, in place of what may have been noted of it."""
        if call_id in self._older:
            self._older[call_id] = gone
            return
        if now_ms - self._started_ms >= GONE_MS or len(self._current) >= GONE_CALLS_MAX:
            self._current, self._older, self._started_ms = {}, self._current, now_ms
        self._current[call_id] = gone

    def find(self, call_id: str, now_ms: int) -> Gone | None:
        """Return what is known of a call, or None."""
        gone = self._current.get(call_id) or self._older.get(call_id)
        return gone if gone is not None and now_ms < gone.at_ms + GONE_MS else None

    def dump(self) -> dict[str, object]:
        """Return plain values, for comparing."""
        return {"started": self._started_ms, "current": dict(self._current), "older": dict(self._older)}
