"""Going on without Redis, for a while and within bounds (design decision 12).

What belongs here: when to stop asking Redis and when to ask it again, how much may be admitted without it, and
handing over what was admitted. What does not: the rules (``proxy.core.account_state``), and settlements of calls that
Redis did admit: redis.py owes those by itself.

The worst overshoot: each replica admits at most its share of each limit from memory, and its memory outlives the
outage, so that several outages within one window share that one share. With r replicas and a share of s percent, at
most ``r * s / 100`` of a limit is used beyond what Redis had granted.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence

import msgspec

from proxy.clock import unix_ms
from proxy.core.limits import Admission, Growth, Limit, LimitKind, Stamp
from proxy.limiter import LimiterUnavailableError, RecordingLimiter
from proxy.limiter.memory import MemoryLimiter
from proxy.limiter.seeding import LedgerUnavailableError

ALONE_MAX = 50_000
"""How many calls may be in flight or waiting to be handed over; beyond it nothing is admitted without Redis."""

BATCH = 256
PROBE_S = 0.5
PROBE_MAX_S = 10.0
STABLE_S = 30.0
"""A Redis that is away again so soon after its return is probed less and less often, up to PROBE_MAX_S."""

_log = logging.getLogger(__name__)

Key = tuple[str, str]  # account id, call id
Taken = tuple[tuple[Limit, ...], tuple[int, ...]]


class DegradedLimiter:
    """Keeps the contract of ``proxy.limiter.Limiter``: through ``primary`` while it answers, else from memory.

    Args:
        primary: the limiter that all replicas share.
        share_percent: how much of each limit may be admitted without it; 0: nothing, each call is unavailable.
        max_s: for how long; afterwards as with a share of 0.
        clock_ms: Unix time in whole milliseconds.
        hold_ttl_ms: how long a hold in memory lives without a heartbeat.
        probe_s: how often to look whether the primary answers again.

    Attributes:
        admitted_alone: calls admitted from memory, ever.
        refused_alone: calls refused from memory or as unavailable, ever.
        handed_over: calls that the primary has been told of afterwards, ever.
        outages: how often the primary has gone away.
    """

    def __init__(
        self,
        primary: RecordingLimiter,
        share_percent: int,
        max_s: int,
        clock_ms: Callable[[], int] = unix_ms,
        hold_ttl_ms: int = 60_000,
        probe_s: float = PROBE_S,
    ) -> None:
        self._primary = primary
        self._share_percent = share_percent
        self._max_ms = max_s * 1000
        self._clock_ms = clock_ms
        self._memory = MemoryLimiter(clock_ms, hold_ttl_ms)
        self._probe_s = probe_s
        self._pause_s = probe_s
        self._scaled: dict[tuple[Limit, ...], tuple[Limit, ...]] = {}
        self._alone: dict[Key, Taken] = {}  # in flight: limits and needs
        self._unsaid: dict[Key, Taken] = {}  # over, to be handed over: limits and amounts
        self._since_ms: int | None = None
        self._returned_s = float("-inf")
        self._probe: asyncio.Task[None] | None = None
        self.admitted_alone = 0
        self.refused_alone = 0
        self.handed_over = 0
        self.outages = 0

    @property
    def is_degraded(self) -> bool:
        """Whether calls are admitted without the primary."""
        return self._since_ms is not None

    @property
    def waiting(self) -> int:
        """How many calls that are over the primary has not been told of."""
        return len(self._unsaid)

    # --- the verbs ---------------------------------------------------------------------------------------------------

    async def admit(self, account_id: str, call_id: str, limits: Sequence[Limit], needs: Sequence[int]) -> Admission:
        """See ``proxy.limiter.Limiter``. Raises when even a part of the share cannot be granted."""
        if self._since_ms is None:
            try:
                return await self._primary.admit(account_id, call_id, limits, needs)
            except LimiterUnavailableError as exc:
                self._go_alone(exc)
        try:
            return await self._admit_alone(account_id, call_id, tuple(limits), tuple(needs))
        except LimiterUnavailableError:
            self.refused_alone += 1
            raise

    async def settle(self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]) -> None:
        """See ``proxy.limiter.Limiter``. A call goes where it was admitted; from memory it is handed over."""
        taken = self._alone.pop((account_id, call_id), None)
        if taken is None:
            await self._primary.settle(account_id, call_id, limits, amounts)
            return
        await self._memory.settle(account_id, call_id, self._scale(tuple(limits)), amounts)
        await self._say(account_id, call_id, taken, tuple(amounts))

    def settle_soon(
        self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]
    ) -> Coroutine[None, None, None] | None:
        """See ``proxy.limiter.Limiter``."""
        if (account_id, call_id) in self._alone:
            return self.settle(account_id, call_id, limits, amounts)
        return self._primary.settle_soon(account_id, call_id, limits, amounts)

    async def release(self, account_id: str, call_id: str, limits: Sequence[Limit]) -> None:
        """See ``proxy.limiter.Limiter``."""
        taken = self._alone.pop((account_id, call_id), None)
        if taken is None:
            await self._primary.release(account_id, call_id, limits)
            return
        await self._memory.release(account_id, call_id, limits)
        await self._say(account_id, call_id, taken, (0,) * len(taken[1]))

    async def extend(self, account_id: str, call_id: str, limits: Sequence[Limit], known: Sequence[int]) -> bool:
        """See ``proxy.limiter.Limiter``. While the primary is away its calls go on: nothing says that they must not."""
        if (account_id, call_id) in self._alone:
            return await self._memory.extend(account_id, call_id, self._scale(tuple(limits)), known)
        if self._since_ms is None:
            try:
                return await self._primary.extend(account_id, call_id, limits, known)
            except LimiterUnavailableError as exc:
                self._go_alone(exc)
        return True

    async def grow(self, account_id: str, call_id: str, limits: Sequence[Limit], wants: Sequence[int]) -> Growth:
        """See ``proxy.limiter.Limiter``. While the primary is away its calls get what they ask for, as they go on."""
        if (account_id, call_id) in self._alone:
            return await self._memory.grow(account_id, call_id, self._scale(tuple(limits)), wants)
        if self._since_ms is None:
            try:
                return await self._primary.grow(account_id, call_id, limits, wants)
            except LimiterUnavailableError as exc:
                self._go_alone(exc)
        return Growth.GRANTED

    async def peek(self, account_id: str, limits: Sequence[Limit]) -> Admission:
        """See ``proxy.limiter.Limiter``. From memory, the states are those of the share."""
        if self._since_ms is None:
            try:
                return await self._primary.peek(account_id, limits)
            except LimiterUnavailableError as exc:
                self._go_alone(exc)
        self._check_open()
        return await self._memory.peek(account_id, self._scale(tuple(limits)))

    async def close(self) -> None:
        """Hand over what can be, and close both limiters."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        try:
            await self._hand_over()
        except LimiterUnavailableError as exc:
            _log.warning("%d calls are not handed over, and are left to the ledger: %s", self.waiting, exc)
        await self._memory.close()
        await self._primary.close()

    # --- alone -------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        """Raise when the time or the share is over."""
        if self._share_percent == 0:
            raise LimiterUnavailableError("the limiter is away, and nothing is admitted without it")
        if self._since_ms is not None and self._clock_ms() - self._since_ms > self._max_ms:
            raise LimiterUnavailableError("the limiter has been away for too long")

    async def _admit_alone(
        self, account_id: str, call_id: str, limits: tuple[Limit, ...], needs: tuple[int, ...]
    ) -> Admission:
        self._check_open()
        if len(self._alone) + len(self._unsaid) >= ALONE_MAX:
            raise LimiterUnavailableError("too many calls were admitted without the limiter")
        scaled = self._scale(limits)
        if all(need <= limit.capacity for limit, need in zip(limits, needs, strict=True)):
            for limit, need in zip(scaled, needs, strict=True):
                if need > limit.capacity:  # the whole limit would do: this is no call that can never be met
                    raise LimiterUnavailableError(f"the share of {limit.name} is too small for this call")
        answer = await self._memory.admit(account_id, call_id, scaled, needs)
        if answer.admitted:
            self._alone[account_id, call_id] = (limits, needs)
            self.admitted_alone += 1
        else:
            self.refused_alone += 1
        return answer

    def _scale(self, limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
        scaled = self._scaled.get(limits)
        if scaled is None:
            if len(self._scaled) >= ALONE_MAX:
                self._scaled.clear()
            scaled = self._scaled[limits] = tuple(
                msgspec.structs.replace(limit, capacity=limit.capacity * self._share_percent // 100) for limit in limits
            )
        return scaled

    async def _say(self, account_id: str, call_id: str, taken: Taken, amounts: tuple[int, ...]) -> None:
        """Hand a call over now, or once the primary is back: what was stamped at admission, too, is new to it."""
        limits, needs = taken
        whole = tuple(
            need if limit.kind is LimitKind.WINDOW and limit.stamp is Stamp.ADMISSION else amount
            for limit, need, amount in zip(limits, needs, amounts, strict=True)
        )
        self._unsaid[account_id, call_id] = (limits, whole)
        if self._since_ms is None:
            try:
                await self._hand_over()
            except LimiterUnavailableError as exc:
                self._go_alone(exc)

    # --- away and back -----------------------------------------------------------------------------------------------

    def _go_alone(self, reason: LimiterUnavailableError) -> None:
        """Stop asking the primary, and begin to look for its return. Said once, not per call.

        A ledger that is away concerns single accounts, and the primary can go on for all others.
        """
        if self._since_ms is not None or isinstance(reason, LedgerUnavailableError):
            return
        self._since_ms = self._clock_ms()
        self.outages += 1
        is_shaky = time.monotonic() - self._returned_s < STABLE_S
        self._pause_s = min(self._pause_s * 2, PROBE_MAX_S) if is_shaky else self._probe_s
        _log.warning(
            "the limiter is away, %d %% of each limit is admitted from memory for up to %d s: %s",
            self._share_percent,
            self._max_ms // 1000,
            reason,
        )
        self._probe = asyncio.create_task(self._await_return(), name="limiter-probe")

    async def _await_return(self) -> None:
        while self._since_ms is not None:
            await asyncio.sleep(self._pause_s)
            try:
                await self._primary.ping()
                await self._hand_over()
            except LedgerUnavailableError:
                _log.warning("the ledger is away too: %d calls wait to be handed over", self.waiting)
            except LimiterUnavailableError:
                continue
            away_ms, self._since_ms = self._clock_ms() - self._since_ms, None
            self._returned_s = time.monotonic()
            _log.warning("the limiter is back after %d s; %d calls wait", away_ms // 1000, self.waiting)

    async def _hand_over(self) -> None:
        """Tell the primary of the calls that are over. It takes each once, however often it is told.

        Raises:
            LimiterUnavailableError: it is away (again); what it has not confirmed is kept.
        """
        while self._unsaid:
            batch = [pair for pair, _ in zip(self._unsaid.items(), range(BATCH), strict=False)]
            results = await asyncio.gather(
                *(self._primary.record(*key, *taken) for key, taken in batch), return_exceptions=True
            )
            for (key, taken), result in zip(batch, results, strict=True):
                if isinstance(result, LimiterUnavailableError):
                    continue
                if isinstance(result, BaseException):
                    _log.error("a call cannot be handed over, and is left to the ledger", exc_info=result)
                if self._unsaid.get(key) is taken:
                    del self._unsaid[key]
                    self.handed_over += 1
            for result in results:
                if isinstance(result, LimiterUnavailableError):
                    raise result
