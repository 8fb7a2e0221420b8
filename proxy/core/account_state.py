"""One account's limits, and the verbs on them.

What belongs here: what the embedded limiter keeps of an account, which is also the reference that the Redis functions
are held to, answer for answer. Pure: every verb takes the time. What does not: where the state lives and who is
waiting for it (limiter/). Comments refer by number to the rules of ``limits.py``.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

from proxy.core.limits import NEVER_MS, Admission, Growth, Limit, LimitKind, LimitState, Stamp
from proxy.core.windows import (
    AMOUNT_MAX,
    BUDGET_KEPT_MS,
    Bucket,
    BudgetSum,
    Gone,
    GoneCalls,
    Held,
    Hold,
    Key,
    WindowLog,
    key_of,
)

Log = WindowLog | BudgetSum


def check_amounts(amounts: Sequence[int]) -> None:
    """Refuse amounts that are not whole numbers from 0 to ``AMOUNT_MAX``: a bug of the caller.

    Raises:
        ValueError: an amount is out of range.
    """
    if amounts and (min(amounts) < 0 or max(amounts) > AMOUNT_MAX):
        raise ValueError(f"amounts must lie between 0 and 2**53 - 1: {list(amounts)}")


def coalesce(limit: Limit, amounts: Sequence[tuple[int, int]], now_ms: int) -> tuple[Bucket, ...]:
    """Turn (stamp in Unix ms, amount) pairs into the buckets that still count of them."""
    log = WindowLog(limit.window_s * 1000, limit.bucket_s * 1000)
    for stamp_ms, amount in sorted(amounts):
        if stamp_ms > now_ms - log.window_ms:
            log.add(min(stamp_ms, now_ms), amount)
    return log.buckets


class AccountState:
    """What is known of one account. A limit is known once it has been seeded; verbs may name known limits only.

    Args:
        now_ms: the first reading of the clock.
        hold_ttl_ms: how long a hold lives without a heartbeat.
    """

    def __init__(self, now_ms: int, hold_ttl_ms: int) -> None:
        self.now_ms = now_ms
        self._hold_ttl_ms = hold_ttl_ms
        self._logs: dict[Key, Log] = {}
        self._holds: OrderedDict[str, Hold] = OrderedDict()  # one life for all: the order of expiry is that of renewal
        self._gone = GoneCalls(now_ms)

    # --- knowing -----------------------------------------------------------------------------------------------------

    def lacks(self, limits: Sequence[Limit]) -> bool:
        """Whether one of the limits is not known yet."""
        return any(key_of(limit) not in self._logs for limit in limits)

    def seed(
        self,
        limits: Sequence[Limit],
        spent: Mapping[tuple[str, str], int],
        windows: Mapping[str, Sequence[Bucket]],
        now_ms: int,
    ) -> None:
        """Begin the limits that are not known with what has been used of them; forget budgets long over."""
        now_ms = self._advance(now_ms)
        for key, kept in list(self._logs.items()):
            if isinstance(kept, BudgetSum) and 0 < kept.ends_ms < now_ms - BUDGET_KEPT_MS and not kept.held:
                del self._logs[key]
        for limit in limits:
            key = key_of(limit)
            if key in self._logs:
                continue
            if limit.kind is LimitKind.BUDGET:
                self._logs[key] = BudgetSum(limit.ends_ms, spent.get((limit.stored_name, limit.period), 0))
                continue
            log = self._logs[key] = WindowLog(limit.window_s * 1000, limit.bucket_s * 1000)
            for bucket in windows.get(limit.stored_name, ()):
                log.add_bucket(bucket)

    def seed_calls(self, call_ids: Sequence[str]) -> None:
        """Note calls that the seed has counted, so that no settlement counts them again."""
        for call_id in call_ids:
            self._gone.remember(call_id, Gone(self.now_ms, {}), self.now_ms)

    def is_idle(self, now_ms: int) -> bool:
        """Whether nothing is in flight and every window is whole: only budgets would be forgotten with this state."""
        self._advance(now_ms)
        for log in self._logs.values():
            log.age(self.now_ms)
        return not self._holds and not any(log.used for log in self._logs.values() if isinstance(log, WindowLog))

    @property
    def is_blank(self) -> bool:
        """Whether nothing would be forgotten with this state, as of the last verb."""
        return not self._holds and not any(log.used for log in self._logs.values())

    @property
    def has_holds(self) -> bool:
        """Whether a call is in flight, as of the last verb."""
        return bool(self._holds)

    # --- the verbs ---------------------------------------------------------------------------------------------------

    def admit(self, call_id: str, limits: Sequence[Limit], needs: Sequence[int], now_ms: int) -> Admission:
        """Take every limit's need, or none (rules 1 to 5)."""
        now_ms = self._advance(now_ms)
        if (hold := self._holds.get(call_id)) is not None:
            return hold.admission
        logs = self._aged(limits, now_ms)
        waits = self._waits(limits, logs, needs, now_ms)
        if waits:
            wait_ms, bound = max(waits, key=lambda wait: wait[0])  # of equal ones the first
            states = self._states(limits, logs, now_ms)
            return Admission(admitted=False, now_ms=now_ms, states=states, bound=bound, retry_after_ms=wait_ms)
        parts: dict[Key, tuple[int, int]] = {}
        for limit, log, need in zip(limits, logs, needs, strict=True):
            if limit.stamp is Stamp.ADMISSION and limit.kind is LimitKind.WINDOW:
                log.add(now_ms, need)
                parts[key_of(limit)] = (0, 0)
            else:
                log.held += need
                parts[key_of(limit)] = (need, 0)
        admission = Admission(admitted=True, now_ms=now_ms, states=self._states(limits, logs, now_ms))
        self._holds[call_id] = Hold(now_ms + self._hold_ttl_ms, parts, admission)
        return admission

    def settle(self, call_id: str, limits: Sequence[Limit], amounts: Sequence[int], now_ms: int) -> bool:
        """Replace the hold by the truth, or correct what an expired hold was charged, once. False: nothing changed."""
        now_ms = self._advance(now_ms)
        truth = _settled_amounts(limits, amounts)
        hold = self._holds.pop(call_id, None)
        if hold is not None:
            for key, (held, known) in hold.parts.items():
                log = self._logs[key]
                log.held -= held
                log.age(now_ms)
                log.add(now_ms, truth.get(key, known))
            return True
        gone = self._gone.find(call_id, now_ms)
        if gone is None or not gone.charged:
            return False
        for key, charged in gone.charged.items():
            if (late_log := self._logs.get(key)) is not None:
                late_log.age(now_ms)
                late_log.correct(gone.at_ms, truth.get(key, charged) - charged, now_ms)
        self._gone.remember(call_id, Gone(gone.at_ms, {}), now_ms)
        return True

    def record(self, call_id: str, limits: Sequence[Limit], amounts: Sequence[int], now_ms: int) -> bool:
        """Count a call that was admitted elsewhere, once: all its amounts, those stamped at admission too.

        A call that is known here after all is settled instead.
        """
        now_ms = self._advance(now_ms)
        if call_id not in self._holds and self._gone.find(call_id, now_ms) is not None:
            return self.settle(call_id, limits, amounts, now_ms)
        if not self.settle(call_id, limits, amounts, now_ms):
            for log, amount in zip(self._aged(limits, now_ms), amounts, strict=True):
                log.add(now_ms, amount)
        self._gone.remember(call_id, Gone(now_ms, {}), now_ms)
        return True

    def extend(self, call_id: str, limits: Sequence[Limit], known: Sequence[int], now_ms: int) -> bool:
        """Renew the hold and note what is known: that is never taken back, and held where it exceeds the hold."""
        now_ms = self._advance(now_ms)
        hold = self._holds.get(call_id)
        if hold is None:
            return False
        for key, amount in _settled_amounts(limits, known).items():
            if key in hold.parts:
                held, before = hold.parts[key]
                hold.parts[key] = (max(held, amount), max(before, amount))
                self._logs[key].held += max(held, amount) - held
        hold.expires_ms = now_ms + self._hold_ttl_ms
        self._holds.move_to_end(call_id)
        return True

    def grow(self, call_id: str, limits: Sequence[Limit], wants: Sequence[int], now_ms: int) -> Growth:
        """Raise the holds to what is wanted and renew them, or do nothing (rule 9)."""
        now_ms = self._advance(now_ms)
        hold = self._holds.get(call_id)
        if hold is None:
            return Growth.GONE
        steps: list[tuple[Key, Log, int, int]] = []
        for limit, log, want in zip(limits, self._aged(limits, now_ms), wants, strict=True):
            if limit.kind is LimitKind.WINDOW and limit.stamp is Stamp.ADMISSION:
                continue
            held, _ = hold.parts.get(key_of(limit), (want, 0))
            if want > held:
                if log.used + log.held + want - held > limit.capacity:
                    return Growth.REFUSED
                steps.append((key_of(limit), log, want, held))
        for key, log, want, held in steps:
            log.held += want - held
            hold.parts[key] = (want, hold.parts[key][1])
        hold.expires_ms = now_ms + self._hold_ttl_ms
        self._holds.move_to_end(call_id)
        return Growth.GRANTED

    def release(self, call_id: str, now_ms: int) -> bool:
        """Give the hold back; what was stamped at admission stays used (rule 2)."""
        self._advance(now_ms)
        hold = self._holds.pop(call_id, None)
        if hold is None:
            return False
        for key, (held, _) in hold.parts.items():
            self._logs[key].held -= held
        return True

    def peek(self, limits: Sequence[Limit], now_ms: int) -> Admission:
        """Return the states."""
        now_ms = self._advance(now_ms)
        return Admission(admitted=True, now_ms=now_ms, states=self._states(limits, self._aged(limits, now_ms), now_ms))

    def dump(self) -> dict[str, object]:
        """Return everything as plain values, for comparing."""
        return {
            "now": self.now_ms,
            "logs": {
                key: (log.used, log.held, log.buckets if isinstance(log, WindowLog) else ())
                for key, log in self._logs.items()
            },
            "holds": {call_id: (hold.expires_ms, dict(hold.parts)) for call_id, hold in self._holds.items()},
            "gone": self._gone.dump(),
        }

    # --- their parts -------------------------------------------------------------------------------------------------

    def _advance(self, now_ms: int) -> int:
        """Guard the clock (rule 7), and let holds expire that are due (rule 6). Every verb begins with it."""
        self.now_ms = now_ms = max(self.now_ms, now_ms)
        while self._holds:
            call_id = next(iter(self._holds))
            hold = self._holds[call_id]
            if hold.expires_ms > now_ms:
                break
            del self._holds[call_id]
            for key, (held, known) in hold.parts.items():
                log = self._logs[key]
                log.held -= held
                log.age(hold.expires_ms)
                log.add(hold.expires_ms, known)
            charged = {key: known for key, (_, known) in hold.parts.items()}
            self._gone.remember(call_id, Gone(hold.expires_ms, charged), now_ms)
        return now_ms

    def _aged(self, limits: Sequence[Limit], now_ms: int) -> list[Log]:
        logs = [self._logs[key_of(limit)] for limit in limits]
        for log in logs:
            log.age(now_ms)
        return logs

    def _waits(
        self, limits: Sequence[Limit], logs: Sequence[Log], needs: Sequence[int], now_ms: int
    ) -> list[tuple[int, str]]:
        """Return (wait in ms, name) of every limit that has no room (rule 8)."""
        waits = []
        for limit, log, need in zip(limits, logs, needs, strict=True):
            excess = log.used + log.held + need - limit.capacity
            if need > limit.capacity:
                waits.append((NEVER_MS, limit.name))
            elif excess > 0:
                frees_at_ms = log.frees_at(excess, self._held_of(key_of(limit)), now_ms)
                waits.append((NEVER_MS if frees_at_ms == NEVER_MS else frees_at_ms - now_ms, limit.name))
        return waits

    def _held_of(self, key: Key) -> Iterator[Held]:
        for hold in self._holds.values():
            held, known = hold.parts.get(key, (0, 0))
            if held:
                yield Held(hold.expires_ms, held, known)

    @staticmethod
    def _states(limits: Sequence[Limit], logs: Sequence[Log], now_ms: int) -> tuple[LimitState, ...]:
        return tuple(
            LimitState(limit.name, limit.capacity, log.used, log.held, log.reset_ms(now_ms))
            for limit, log in zip(limits, logs, strict=True)
        )


def _settled_amounts(limits: Sequence[Limit], amounts: Sequence[int]) -> dict[Key, int]:
    """Return the amounts that a settlement brings, by limit: those stamped at admission are in already (rule 2)."""
    return {
        key_of(limit): amount
        for limit, amount in zip(limits, amounts, strict=True)
        if limit.kind is LimitKind.BUDGET or limit.stamp is Stamp.SETTLEMENT
    }
