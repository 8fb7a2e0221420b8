"""Going on without Redis, for a while and within bounds (design decision 12).

What belongs here: when to stop asking Redis and when to ask it again, how much may be admitted without it, and
handing over what was admitted. What does not: the rules (``proxy.core.account_state``), and settlements of calls that
Redis did admit: redis.py owes those by itself.

The worst overshoot: each replica admits at most its share of each limit from memory, and its memory outlives the
outage, so that several outages within one window share that one share. With r replicas and a share of s percent, at
most ``r * s / 100`` of a limit is used beyond what Redis had granted. Of calls in flight each replica admits one at
least: beyond a small limit of them, as many calls run as there are replicas.

A store of several parts, as a cluster of several primaries is, goes away part by part: the accounts of all others are
decided upon by the primary limiter alone, exactly, as before.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence

import msgspec

from proxy.clock import unix_ms
from proxy.core.limits import Admission, Growth, Limit, LimitKind, Measure, Stamp
from proxy.limiter import AccountUnavailableError, LimiterUnavailableError, RecordingLimiter
from proxy.limiter.memory import MemoryLimiter

ALONE_MAX = 50_000
"""How many calls may be in flight or waiting to be handed over; beyond it nothing is admitted without Redis."""

BATCH = 256
PROBE_S = 0.5
PROBE_MAX_S = 10.0
STABLE_S = 30.0
"""A Redis that is away again so soon after its return is probed less and less often, up to PROBE_MAX_S."""

LATER_PROBES = 20
"""How many times longer than a probe the pause is before calls of single accounts are handed over again."""

_log = logging.getLogger(__name__)

Key = tuple[str, str]  # account id, call id
Taken = tuple[tuple[Limit, ...], tuple[int, ...]]


class _Outage(msgspec.Struct):
    """A part of the primary that is away: since when, how often it is asked, and who asks."""

    since_ms: int
    pause_s: float
    probe: asyncio.Task[None] | None = None


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
        outages: how often the primary, or a part of it, has gone away.
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
        self._scaled: dict[tuple[Limit, ...], tuple[Limit, ...]] = {}
        self._alone: dict[Key, Taken] = {}  # in flight: limits and needs
        self._unsaid: dict[Key, Taken] = {}  # over, to be handed over: limits and amounts
        self._away: dict[str, _Outage] = {}  # by part of the primary
        self._returned: dict[str, tuple[float, float]] = {}  # when each part returned, and how often it was asked
        self._later: asyncio.Task[None] | None = None
        self._is_closing = False
        self.admitted_alone = 0
        self.refused_alone = 0
        self.handed_over = 0
        self.outages = 0

    @property
    def is_degraded(self) -> bool:
        """Whether calls are admitted without the primary, or without a part of it."""
        return bool(self._away)

    @property
    def is_alone(self) -> bool:
        """Whether no part of the primary answers."""
        return bool(self._away) and self._away.keys() >= self._primary.parts()

    @property
    def waiting(self) -> int:
        """How many calls that are over the primary has not been told of."""
        return len(self._unsaid)

    # --- the verbs ---------------------------------------------------------------------------------------------------

    async def admit(self, account_id: str, call_id: str, limits: Sequence[Limit], needs: Sequence[int]) -> Admission:
        """See ``proxy.limiter.Limiter``. Raises when even a part of the share cannot be granted."""
        if not self._is_away(account_id):
            try:
                return await self._primary.admit(account_id, call_id, limits, needs)
            except LimiterUnavailableError as exc:
                self._go_alone(account_id, exc)
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

    async def record(self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]) -> None:
        """See ``proxy.limiter.Limiter``. A call of memory's is handed over; any other waits for the primary."""
        if (account_id, call_id) in self._alone:
            await self.settle(account_id, call_id, limits, amounts)
        else:
            await self._primary.record(account_id, call_id, limits, amounts)

    async def record_all(self, account_id: str, limits: Sequence[Limit], amounts: Mapping[str, Sequence[int]]) -> None:
        """See ``proxy.limiter.Limiter``."""
        alone = [call_id for call_id in amounts if (account_id, call_id) in self._alone]
        for call_id in alone:
            await self.settle(account_id, call_id, limits, amounts[call_id])
        if alone:
            amounts = {call_id: each for call_id, each in amounts.items() if call_id not in alone}
        await self._primary.record_all(account_id, limits, amounts)

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
        if not self._is_away(account_id):
            try:
                return await self._primary.extend(account_id, call_id, limits, known)
            except LimiterUnavailableError as exc:
                self._go_alone(account_id, exc)
        return True

    async def grow(self, account_id: str, call_id: str, limits: Sequence[Limit], wants: Sequence[int]) -> Growth:
        """See ``proxy.limiter.Limiter``. While the primary is away its calls get what they ask for, as they go on."""
        if (account_id, call_id) in self._alone:
            return await self._memory.grow(account_id, call_id, self._scale(tuple(limits)), wants)
        if not self._is_away(account_id):
            try:
                return await self._primary.grow(account_id, call_id, limits, wants)
            except LimiterUnavailableError as exc:
                self._go_alone(account_id, exc)
        return Growth.GRANTED

    async def peek(self, account_id: str, limits: Sequence[Limit]) -> Admission:
        """See ``proxy.limiter.Limiter``. From memory, the states are those of the share."""
        if not self._is_away(account_id):
            try:
                return await self._primary.peek(account_id, limits)
            except LimiterUnavailableError as exc:
                self._go_alone(account_id, exc)
        self._check_open(account_id)
        return await self._memory.peek(account_id, self._scale(tuple(limits)))

    async def close(self) -> None:
        """Hand over what can be, and close both limiters."""
        self._is_closing = True
        tasks = [task for task in (self._later, *(outage.probe for outage in self._away.values())) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._away.clear()  # each part is tried once more
        with contextlib.suppress(LimiterUnavailableError):
            await self._hand_over()
        if self._unsaid:
            _log.warning("%d calls are not handed over, and are left to the ledger", self.waiting)
        await self._memory.close()
        await self._primary.close()

    # --- alone -------------------------------------------------------------------------------------------------------

    def _is_away(self, account_id: str) -> bool:
        return bool(self._away) and self._primary.part_of(account_id) in self._away

    def _check_open(self, account_id: str) -> None:
        """Raise when the time or the share is over."""
        if self._share_percent == 0:
            raise LimiterUnavailableError("the limiter is away, and nothing is admitted without it")
        outage = self._away.get(self._primary.part_of(account_id))
        if outage is not None and self._clock_ms() - outage.since_ms > self._max_ms:
            raise LimiterUnavailableError("the limiter has been away for too long")

    async def _admit_alone(
        self, account_id: str, call_id: str, limits: tuple[Limit, ...], needs: tuple[int, ...]
    ) -> Admission:
        self._check_open(account_id)
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
                msgspec.structs.replace(limit, capacity=self._share_of(limit)) for limit in limits
            )
        return scaled

    def _share_of(self, limit: Limit) -> int:
        """Return what may be granted of a limit; of calls in flight at least one, or a small limit stops all calls."""
        share = (limit.capacity - limit.base) * self._share_percent // 100
        return max(share, 1) if limit.counts is Measure.CALLS_IN_FLIGHT else share

    async def _say(self, account_id: str, call_id: str, taken: Taken, amounts: tuple[int, ...]) -> None:
        """Hand a call over now, or once the primary is back: what was stamped at admission, too, is new to it."""
        limits, needs = taken
        whole = tuple(
            need if limit.kind is LimitKind.WINDOW and limit.stamp is Stamp.ADMISSION else amount
            for limit, need, amount in zip(limits, needs, amounts, strict=True)
        )
        self._unsaid[account_id, call_id] = (limits, whole)
        if not self._is_away(account_id):
            try:
                await self._hand_over()
            except AccountUnavailableError:
                self._hand_over_later()

    # --- away and back -----------------------------------------------------------------------------------------------

    def _go_alone(self, account_id: str, reason: LimiterUnavailableError) -> None:
        """Stop asking the part of the primary that has the account, and begin to look for its return.

        Said once, not per call. What concerns single accounts lets the primary go on for all others.
        """
        part = self._primary.part_of(account_id)
        if part in self._away or isinstance(reason, AccountUnavailableError):
            return
        returned_s, pause_s = self._returned.pop(part, (float("-inf"), self._probe_s))
        is_shaky = time.monotonic() - returned_s < STABLE_S
        outage = _Outage(self._clock_ms(), min(pause_s * 2, PROBE_MAX_S) if is_shaky else self._probe_s)
        self._away[part] = outage
        self.outages += 1
        _log.warning(
            "the limiter%s is away, %d %% of each limit is admitted from memory for up to %d s: %s",
            _named(part),
            self._share_percent,
            self._max_ms // 1000,
            reason,
        )
        if not self._is_closing:
            outage.probe = asyncio.create_task(self._await_return(part, outage), name="limiter-probe")

    async def _await_return(self, part: str, outage: _Outage) -> None:
        while True:
            await asyncio.sleep(outage.pause_s)
            try:
                await self._primary.ping(part)
                await self._hand_over(part)
            except AccountUnavailableError:
                _log.warning("the ledger is away too: %d calls wait to be handed over", self.waiting)
                self._hand_over_later()
            except LimiterUnavailableError:
                continue
            break
        del self._away[part]
        self._returned = {name: seen for name, seen in self._returned.items() if name in self._primary.parts()}
        self._returned[part] = (time.monotonic(), outage.pause_s)
        away_s = (self._clock_ms() - outage.since_ms) // 1000
        _log.warning("the limiter%s is back after %d s; %d calls wait", _named(part), away_s, self.waiting)

    def _hand_over_later(self) -> None:
        """Try again after a while, as long as there is something to be handed over."""
        if not self._is_closing and (self._later is None or self._later.done()):
            self._later = asyncio.create_task(self._keep_handing_over(), name="limiter-later")

    async def _keep_handing_over(self) -> None:
        while self._unsaid:
            await asyncio.sleep(self._probe_s * LATER_PROBES)
            with contextlib.suppress(LimiterUnavailableError):
                await self._hand_over()

    async def _hand_over(self, returning: str | None = None) -> None:
        """Tell the primary of the calls that are over, but for those of parts that are away. It takes each once.

        Args:
            returning: a part that seems to be back; the calls of its accounts are among those that are told.

        Raises:
            LimiterUnavailableError: that part is away (again), or what single accounts need is; what has not been
                confirmed is kept.
        """
        while ready := [
            key for key in self._unsaid if self._primary.part_of(key[0]) == returning or not self._is_away(key[0])
        ]:
            for first in range(0, len(ready), BATCH):
                await self._hand_over_some(ready[first : first + BATCH], returning)

    async def _hand_over_some(self, keys: Sequence[Key], returning: str | None) -> None:
        batch = [(key, self._unsaid[key]) for key in keys if key in self._unsaid]
        results = await asyncio.gather(
            *(self._primary.record(*key, *taken) for key, taken in batch), return_exceptions=True
        )
        failure: LimiterUnavailableError | None = None
        for (key, taken), result in zip(batch, results, strict=True):
            if isinstance(result, LimiterUnavailableError):
                self._go_alone(key[0], result)
                if isinstance(result, AccountUnavailableError):
                    failure = failure or result
                elif self._primary.part_of(key[0]) == returning:
                    failure = result
                continue
            if isinstance(result, BaseException):
                _log.error("a call cannot be handed over, and is left to the ledger", exc_info=result)
            if self._unsaid.get(key) is taken:
                del self._unsaid[key]
                self.handed_over += 1
        if failure is not None:
            raise failure


def _named(part: str) -> str:
    return f" at {part}" if part else ""
