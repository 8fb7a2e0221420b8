"""Limits: what a call must fit into, and what the limiter answers.

What belongs here: the values that gateway and limiter exchange, and the rules that every limiter keeps. What does not:
the window arithmetic (windows.py) and the stores (limiter/).

Rules, for every implementation of ``proxy.limiter.Limiter``:

1. A *window* of capacity C and length w: at an admission at time t, settled amounts whose bucket has not aged out,
   plus the holds of calls in flight, plus the need of the new call, is at most C. A bucket ages out at the time of its
   newest amount + w; an amount stamped s counts for every t < s + w. So in no half-open interval of length w is more
   than C delivered.
2. An amount is stamped when it is settled (``Stamp.SETTLEMENT``), or when the call is admitted
   (``Stamp.ADMISSION``: requests). The latter is no hold: it is used from admission on, and stays used.
3. A *budget* of capacity C for a period (a month): spent + held + need is at most C. It ends at ``ends_ms``; a period
is
   named, so a call settles into the period in which it was admitted.
4. All limits of a call are taken, or none. A refused call leaves no trace.
5. Every verb is keyed by call id and can be replayed: a replayed ``admit`` of a call in flight returns the first
answer;
   a replayed ``settle``, ``release`` or ``extend`` of a call that is gone changes nothing.
6. A hold that has seen no ``extend`` until its expiry is settled, at its expiry, with the amounts last known (0 unless
an
   ``extend`` said more). A ``settle`` that comes after that corrects the amounts by the difference, once.
7. Time is the store's own clock in whole milliseconds and never runs back: an earlier reading is taken as the latest
one
   that an account has seen.
8. ``retry_after_ms`` of a refusal is the smallest wait after which the same call is admitted if nothing else happens
   (buckets age out, holds expire as in rule 6, a budget's period ends).
9. A call in flight may ask for more with ``grow``: its holds are raised to what it wants, and renewed, if every limit
   has room for the difference; else none is, and it leaves no trace. What a limit that was not asked for at admission
   would have to hold is not asked for later.
"""

from enum import StrEnum

import msgspec


class LimitKind(StrEnum):
    """How a limit forgets: continuously (window) or at the end of a named period (budget)."""

    WINDOW = "window"
    BUDGET = "budget"


class Measure(StrEnum):
    """What is counted against a limit."""

    REQUESTS = "requests"
    OUTPUT_TOKENS = "output_tokens"
    EUROS = "euros"
    CALLS_IN_FLIGHT = "calls_in_flight"
    """Held by a call while it runs, and nothing afterwards."""


class Stamp(StrEnum):
    """When an amount takes its place in a window."""

    ADMISSION = "admission"
    SETTLEMENT = "settlement"


class Growth(StrEnum):
    """What became of a call's wish for more."""

    GRANTED = "granted"
    REFUSED = "refused"
    GONE = "gone"
    """There is no hold to be raised: it has expired, or the store has lost it."""


class Limit(msgspec.Struct, frozen=True):
    """One limit of one account.

    Args:
        name: unique within the account, bounded vocabulary: it names the limit in headers, metrics and store keys.
        kind: window or budget.
        capacity: requests, tokens, or nano-euros; up to 2**53 - 1.
        window_s: length of a window in seconds; 0 for a budget.
        bucket_s: how far apart two amounts of a window may be and still share a bucket, in seconds; 0 for a budget.
        stamp: when amounts enter a window.
        period: name of a budget's period, for example ``2026-11``; empty for a window.
        ends_ms: end of the period, Unix milliseconds; 0 for a window.
        counts: what is counted.
        scope: whose limit it is within the account, for example a key's id; empty: the account's own. Limits of one
            name and different scopes are different limits.
        shadow: the capacity that a limit in shadow would have; its own is ``UNLIMITED`` then, so that it counts and
            refuses nothing. None: it is not in shadow.
        base: of the capacity, what is known to have been used before: a store that knows nothing of the limit, and
            cannot learn it, may grant of the rest only.
    """

    name: str
    kind: LimitKind
    capacity: int
    window_s: int = 0
    bucket_s: int = 0
    stamp: Stamp = Stamp.SETTLEMENT
    period: str = ""
    ends_ms: int = 0
    counts: Measure = Measure.OUTPUT_TOKENS
    scope: str = ""
    shadow: int | None = None
    base: int = 0

    @property
    def stored_name(self) -> str:
        """Name in the stores: unique within the account."""
        return f"{self.name}.{self.scope}" if self.scope else self.name


class LimitState(msgspec.Struct, frozen=True):
    """One limit as it stands after the verb that returned it.

    Args:
        name: the limit's name.
        capacity: its capacity.
        used: settled amount that still counts.
        held: what calls in flight may still use.
        reset_ms: Unix milliseconds at which the limit is whole again if nothing more is used: for a window, now when it
            is whole, the newest bucket's age-out when nothing is held, else now + window; for a budget, its end.
    """

    name: str
    capacity: int
    used: int
    held: int
    reset_ms: int

    @property
    def remaining(self) -> int:
        """What a new call could still be granted, never below 0."""
        return max(0, self.capacity - self.used - self.held)


class Admission(msgspec.Struct, frozen=True):
    """The answer to ``admit`` and ``peek``.

    Args:
        admitted: whether everything was taken (always True for ``peek``).
        now_ms: the store's clock at the decision, Unix milliseconds.
        states: one per limit asked about, in the order asked, as they stand after the decision.
        bound: name of the limit that refused; of several, the one with the longest wait. None when admitted.
        retry_after_ms: see rule 8; None when admitted. ``NEVER_MS`` when the need exceeds the capacity.
    """

    admitted: bool
    now_ms: int
    states: tuple[LimitState, ...]
    bound: str | None = None
    retry_after_ms: int | None = None


UNLIMITED = 2**53 - 1
"""The largest capacity. A window that has it counts and never refuses; it is not shown."""

NEVER_MS = 2**53 - 1
"""A wait that does not end: the need is larger than the whole limit."""
