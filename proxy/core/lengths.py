"""Lengths: how much output calls really produce, learned from those that have ended.

What belongs here: the memory of lengths by account and model, and the quantile that a new call is expected to stay
under. Pure: no clock; forgetting goes by calls. What does not: holds, and what happens when a call goes beyond its own
(growing.py).

Calls are alike when account and model are the same, when their caps (the most that each can produce) are of the same
order, and when both are streamed or neither is: a call that may say fifty tokens tells nothing of one that may say four
thousand. Of an account that has not been seen for long enough, all accounts of the model tell; of a model that has not,
nobody: then the cap is held.
"""

from array import array
from collections import OrderedDict
from typing import Final

PART_BITS: Final = 3
"""Steps of an octave, as a power of two: a bucket's upper end lies at most an eighth above its lower one."""

BUCKETS: Final = (27 - PART_BITS) << PART_BITS
"""As many as lengths up to 2**26 need."""

WEIGHT: Final = 16
"""What one call counts when it is new: it fades away in halves."""

KEPT_CALLS: Final = 1024
"""So many calls' weight is the most that is kept of one kind; then every weight is halved."""

OWN_CALLS_MIN: Final = 32
"""An account's own calls are believed from here on."""

MODEL_CALLS_MIN: Final = 64
"""The calls of all accounts of a model are believed from here on."""

KINDS_MAX: Final = 4096
"""Most kinds of calls that are remembered, about a kilobyte each; the one unused for longest is forgotten."""

_RECKON_EVERY: Final = 16
_ALL: Final = 100

Kind = tuple[str, str, int]
"""Account (empty: all of them), model, and the order of the cap with whether it is streamed."""


def bucket_of(tokens: int) -> int:
    """Return the number of the bucket that holds a length."""
    if tokens < 1 << PART_BITS:
        return max(tokens, 0)
    octave = tokens.bit_length() - PART_BITS
    return min((octave << PART_BITS) + (tokens >> (octave - 1)) - (1 << PART_BITS), BUCKETS - 1)


def longest_in(bucket: int) -> int:
    """Return the largest length that a bucket holds."""
    octave, part = divmod(bucket, 1 << PART_BITS)
    return part if octave == 0 else (((1 << PART_BITS) + part + 1) << (octave - 1)) - 1


class Histogram:
    """The lengths of calls of one kind, with the older ones fading.

    Args:
        per_cent: which quantile is kept reckoned.
    """

    __slots__ = ("_due", "_per_cent", "_total", "_weights", "calls", "quantile")

    def __init__(self, per_cent: int) -> None:
        self._per_cent = per_cent
        self._weights = array("I", bytes(4 * BUCKETS))
        self._total = 0
        self._due = 1
        self.calls = 0
        self.quantile = 0

    def note(self, tokens: int) -> None:
        """Count a call."""
        self._weights[bucket_of(tokens)] += WEIGHT
        self._total += WEIGHT
        self.calls += 1
        self._due -= 1
        if not self._due:
            self._reckon()

    def beyond(self, tokens: int) -> int:
        """Return the quantile of those calls alone that were longer; 0: none was."""
        first = bucket_of(tokens) + 1
        longer = sum(self._weights[first:])
        return self._quantile(first, longer) if longer else 0

    def _reckon(self) -> None:
        """Look for the quantile anew: at each call at first, then every few."""
        self._due = min(self.calls, _RECKON_EVERY)
        if self._total > KEPT_CALLS * WEIGHT:
            self._weights = array("I", [weight >> 1 for weight in self._weights])
            self._total = sum(self._weights)
        self.quantile = self._quantile(0, self._total)

    def _quantile(self, first: int, total: int) -> int:
        wanted, below, bucket = total * self._per_cent, 0, first
        for bucket in range(first, BUCKETS):
            below += self._weights[bucket]
            if below * _ALL >= wanted:
                break
        return longest_in(bucket)


class Lengths:
    """What has been learned in this process. It is not shared and not kept: whoever knows nothing holds the cap.

    Args:
        per_cent: of calls that are to stay within what is expected of them; 100: expect the cap of every call.
    """

    def __init__(self, per_cent: int) -> None:
        self._per_cent = per_cent
        self._kinds: OrderedDict[Kind, Histogram] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kinds)

    def expected(self, account_id: str, model: str, cap: int, *, streamed: bool) -> int:
        """Return what a new call will hardly exceed, in output tokens over all choices: 1 to its cap."""
        known = self._known(account_id, model, _order(cap, streamed=streamed))
        return cap if known is None else min(max(known.quantile, 1), cap)

    def expected_beyond(self, passed: int, account_id: str, model: str, cap: int, *, streamed: bool) -> int:
        """Return what a call that has produced so much will hardly exceed; 0: nobody has got so far."""
        known = self._known(account_id, model, _order(cap, streamed=streamed))
        return cap if known is None else min(known.beyond(passed), cap)

    def note(self, account_id: str, model: str, cap: int, tokens: int, *, streamed: bool) -> None:
        """Learn from a call that has ended: output tokens over all choices."""
        order = _order(cap, streamed=streamed)
        self._kind((account_id, model, order)).note(tokens)
        self._kind(("", model, order)).note(tokens)

    def _known(self, account_id: str, model: str, order: int) -> Histogram | None:
        """Return whose calls tell; None: too few have been seen."""
        if self._per_cent >= _ALL:
            return None
        own = self._kinds.get((account_id, model, order))
        if own is not None and own.calls >= OWN_CALLS_MIN:
            return own
        anyone = self._kinds.get(("", model, order))
        return anyone if anyone is not None and anyone.calls >= MODEL_CALLS_MIN else None

    def _kind(self, kind: Kind) -> Histogram:
        found = self._kinds.get(kind)
        if found is None:
            if len(self._kinds) >= KINDS_MAX:
                self._kinds.popitem(last=False)
            found = self._kinds[kind] = Histogram(self._per_cent)
        else:
            self._kinds.move_to_end(kind)
        return found


def _order(cap: int, *, streamed: bool) -> int:
    """Return one number for caps of the same order (within a factor of four), streamed or not."""
    return (cap - 1).bit_length() >> 1 << 1 | streamed
