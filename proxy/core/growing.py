"""Growing: when a stream asks for more than it holds, and for how much. Pure.

What belongs here: the numbers of one stream's hold, and what each answer to its wishes does to them. What does not:
asking (proxy/growth.py), what has passed of the stream (meters/gate.py), and what is expected of it (lengths.py).

A stream asks when half of its hold has passed, for what streams that got so far hardly exceed: so a long one has its
room before others take it, and few calls ask at all. It asks for more at once where it is fast, not more often.
Refused, it takes what room there is, and asks again after growing pauses, so that asking stays cheap.
"""

from typing import Final

MARGIN_MIN: Final = 32
"""Tokens that are left of a hold, at least, when more is asked for ..."""

MARGIN_S: Final = 0.5
"""... and as much as a stream produces in this time: far longer than an answer takes."""

STEP_S: Final = 2.0
"""What is asked for lasts so long at least."""

RETRY_MS: Final = 100
"""The first pause after a refusal; each further one is twice as long ..."""

RETRY_MAX_MS: Final = 1600
"""... up to here."""

_REFUSALS_MAX: Final = 16


class Growing:
    """The hold of one stream.

    Args:
        held: what it holds, in output tokens over all choices.
        cap: the most that it can produce.
        step: what it asks for at least.

    Attributes:
        held: see above; raised by ``granted``.
        ask_at: how many tokens may have passed before it asks for more; the cap, once that is held.
    """

    __slots__ = ("_cap", "_refused", "_step", "ask_at", "held")

    def __init__(self, held: int, cap: int, step: int) -> None:
        self._cap = cap
        self._step = step
        self._refused = 0
        self.held = held
        self.ask_at = self._asks_at(0.0)

    @property
    def is_full(self) -> bool:
        """Whether it holds all that it can ever need."""
        return self.held >= self._cap

    @property
    def pause_ms(self) -> int:
        """How long to wait after a refusal before it asks again."""
        return min(RETRY_MS << max(self._refused - 1, 0), RETRY_MAX_MS)

    def wish(self, passed: int, per_s: float, expected: int) -> int:
        """Return what it wants to hold: more than now, unless that is the cap.

        Args:
            passed: tokens that have passed, or wait to pass.
            per_s: how fast they come, tokens per second.
            expected: what a stream that got so far hardly exceeds; 0: nobody knows.
        """
        step = max(self._step, int(per_s * STEP_S))
        return min(max(passed + step, self.held + step, expected), self._cap)

    def granted(self, wish: int, per_s: float) -> None:
        """Note that it holds what it wanted."""
        self.held = wish
        self._refused = 0
        self.ask_at = self._asks_at(per_s)

    def refused(self) -> None:
        """Note that there was no room."""
        self._refused = min(self._refused + 1, _REFUSALS_MAX)

    def _asks_at(self, per_s: float) -> int:
        if self.is_full:
            return self._cap
        margin = max(MARGIN_MIN, int(per_s * MARGIN_S), self.held >> 1)
        return max(self.held - margin, self.held >> 2)
