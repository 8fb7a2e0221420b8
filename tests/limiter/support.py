"""What the limiter's tests share: a clock to be set, limits, and the ways to run one history on both stores."""

import dataclasses
import itertools
from collections.abc import Sequence

from proxy.core.limits import Limit, LimitKind, Stamp

START_MS = 1_795_000_000_000
_numbers = itertools.count()


@dataclasses.dataclass
class Clock:
    """A clock that goes only where it is told to, backwards too."""

    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms

    def pass_s(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)


def new_account() -> str:
    return f"acc-{next(_numbers)}"


def window(name: str, capacity: int, window_s: int, bucket_s: int = 1, stamp: Stamp = Stamp.SETTLEMENT) -> Limit:
    return Limit(name, LimitKind.WINDOW, capacity, window_s=window_s, bucket_s=bucket_s, stamp=stamp)


def budget(capacity: int, period: str = "2026-11", ends_ms: int = START_MS + 10**9, name: str = "cost_month") -> Limit:
    return Limit(name, LimitKind.BUDGET, capacity, period=period, ends_ms=ends_ms)


def requests(capacity: int, window_s: int = 60, bucket_s: int = 1) -> Limit:
    return window("requests", capacity, window_s, bucket_s, Stamp.ADMISSION)


HOUR = window("output_tokens_hour", 150_000, 3600, 10)
DAY = window("output_tokens_day", 1_500_000, 86_400, 300)


def most_in_any_window(deliveries: Sequence[tuple[int, int]], window_ms: int) -> int:
    """Return the most that was delivered in any half-open interval of the window's length, by looking at each."""
    sums = (sum(amount for at, amount in deliveries if start <= at < start + window_ms) for start, _ in deliveries)
    return max(sums, default=0)
