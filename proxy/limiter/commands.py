"""The bytes of the limiter's commands to Redis, and the meaning of its answers.

What belongs here: packing calls of the functions of limiter.lua (their KEYS and ARGV are described there), fast:
whatever does not change from call to call is packed once. What does not: connections (wire.py), decisions about
answers (redis.py).
"""

import re
import struct
from collections.abc import Callable, Sequence

from proxy.core.limits import Admission, Limit, LimitKind, LimitState, Stamp
from proxy.core.windows import AMOUNT_MAX, Bucket
from proxy.limiter import library

VERBS = ("admit", "settle", "extend", "grow", "release", "peek", "correct")
CACHE_MAX = 65_536
"""How many accounts' keys, and how many plans, are remembered; beyond it the memory begins again."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_PERIOD = re.compile(r"[A-Za-z0-9_.:-]*")
_ACCOUNT = re.compile(r"[!-z|~]+")  # printable ASCII without the braces that mark the hash tag
_BUCKET = struct.Struct("<qqq")


def bulk(text: str) -> str:
    """Return ASCII text as a RESP bulk string."""
    return f"${len(text)}\r\n{text}\r\n"


_NUMBERS_END = 4096
_NUMBERS = tuple(bulk(str(number)) for number in range(_NUMBERS_END))


def pack(*parts: str | bytes) -> bytes:
    """Return a command as RESP bytes: for commands that need not be fast."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in encoded)


class Plan:
    """An account's limits as the functions take them, and the shape of their answers.

    Raises:
        ValueError: a limit cannot be written as the functions read it.
    """

    __slots__ = ("_answer", "heads", "limits", "packed", "text")

    def __init__(self, limits: tuple[Limit, ...]) -> None:
        self.limits = limits
        self.text = "|".join(_limit_text(limit) for limit in limits)
        self.packed = bulk(self.text)
        amounts = len(limits)
        counts = dict.fromkeys(VERBS, 11 + amounts) | {"release": 10, "peek": 10, "correct": 10 + amounts}
        self.heads = {
            verb: f"*{counts[verb]}\r\n{bulk('FCALL')}{bulk(f'{library.NAME}_{verb}')}{bulk('4')}" for verb in VERBS
        }
        self._answer = struct.Struct(f"<{5 + 3 * amounts}q")

    def read(self, answer: bytes) -> tuple[Admission, int]:
        """Return the admission that ``admit`` or ``peek`` answered with, and the account's epoch."""
        status, now_ms, bound, wait_ms, epoch, *sums = self._answer.unpack(answer)
        states = []
        at = 0
        for limit in self.limits:
            states.append(LimitState(limit.name, limit.capacity, sums[at], sums[at + 1], sums[at + 2]))
            at += 3
        if status:
            return Admission(admitted=True, now_ms=now_ms, states=tuple(states)), epoch
        name = self.limits[bound - 1].name
        return Admission(admitted=False, now_ms=now_ms, states=tuple(states), bound=name, retry_after_ms=wait_ms), epoch


def _limit_text(limit: Limit) -> str:
    if not _NAME.fullmatch(limit.stored_name) or not _PERIOD.fullmatch(limit.period):
        raise ValueError(f"a limit's name and period are letters, digits, '_', '.' and '-': {limit!r}")
    if not 0 <= limit.capacity <= AMOUNT_MAX:
        raise ValueError(f"a limit's capacity lies between 0 and 2**53 - 1: {limit!r}")
    if limit.kind is LimitKind.BUDGET:
        return f"b {limit.stored_name} {limit.period} {limit.ends_ms} - {limit.capacity}"
    if not 0 < limit.bucket_s <= limit.window_s:
        raise ValueError(f"a bucket is at least 1 s and at most the window: {limit!r}")
    stamp = "a" if limit.stamp is Stamp.ADMISSION else "s"
    return f"w {limit.stored_name} {limit.window_s * 1000} {limit.bucket_s * 1000} {stamp} {limit.capacity}"


class Commands:
    """Packs the verbs.

    Args:
        hold_ttl_ms: how long a hold lives without a heartbeat.
        now_ms: what to tell the functions that the time is; None: they ask the server.
    """

    def __init__(self, hold_ttl_ms: int, now_ms: Callable[[], int] | None) -> None:
        self._ttl = bulk(str(hold_ttl_ms))
        self._now_ms = now_ms
        self._generation = ""
        self._keys: dict[str, str] = {}
        self._plans_seen: dict[int, Plan] = {}
        self._plans: dict[tuple[Limit, ...], Plan] = {}

    def plan(self, limits: Sequence[Limit]) -> Plan:
        """Return the plan of some limits: at once when the caller passes the very sequence it passed before."""
        plan = self._plans_seen.get(id(limits))
        if plan is not None and plan.limits is limits:
            return plan
        key = tuple(limits)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= CACHE_MAX:
                self._plans.clear()
                self._plans_seen.clear()
            plan = self._plans[key] = Plan(key)
            if key is limits:  # the plan keeps it alive, so its identity stays its own
                self._plans_seen[id(key)] = plan
        return plan

    def use_generation(self, generation: int | None) -> None:
        """Name the keys of this generation of states from now on; None: states have no generations."""
        self._generation = "" if generation is None else f"{generation}:"
        self._keys.clear()

    def admit(self, account_id: str, call_id: str, plan: Plan, needs: Sequence[int]) -> bytes:
        """Pack ``admit``."""
        return self._verb("admit", account_id, call_id, plan, self._ttl, needs)

    def settle(self, account_id: str, call_id: str, plan: Plan, epoch: int, amounts: Sequence[int]) -> bytes:
        """Pack ``settle``. The epoch is that of the admission, 0 when it is not known, -1 to record."""
        return self._verb("settle", account_id, call_id, plan, bulk(str(epoch)), amounts)

    def extend(self, account_id: str, call_id: str, plan: Plan, known: Sequence[int]) -> bytes:
        """Pack ``extend``."""
        return self._verb("extend", account_id, call_id, plan, self._ttl, known)

    def grow(self, account_id: str, call_id: str, plan: Plan, wants: Sequence[int]) -> bytes:
        """Pack ``grow``."""
        return self._verb("grow", account_id, call_id, plan, self._ttl, wants)

    def release(self, account_id: str, call_id: str, plan: Plan) -> bytes:
        """Pack ``release``."""
        return self._verb("release", account_id, call_id, plan, "", ())

    def peek(self, account_id: str, plan: Plan) -> bytes:
        """Pack ``peek``."""
        return self._verb("peek", account_id, "", plan, "", ())

    def correct(self, account_id: str, plan: Plan, differences: Sequence[int]) -> bytes:
        """Pack ``correct``: the limits are budgets."""
        return self._verb("correct", account_id, "", plan, "", differences)

    def seed(
        self,
        account_id: str,
        plan: Plan,
        epoch: int,
        kept_ms: int,
        values: Sequence[int | Sequence[Bucket]],
        call_ids: Sequence[str],
    ) -> bytes:
        """Pack ``seed``: a budget's value is what is spent, a window's its buckets."""
        now = "" if self._now_ms is None else str(self._now_ms())
        packed = [
            str(value) if isinstance(value, int) else b"".join(_BUCKET.pack(*bucket) for bucket in value)
            for value in values
        ]
        fixed = (now, str(epoch), plan.text, str(kept_ms))
        return pack("FCALL", f"{library.NAME}_seed", "4", *self._key_names(account_id), *fixed, *packed, *call_ids)

    def _verb(self, verb: str, account_id: str, call_id: str, plan: Plan, fourth: str, amounts: Sequence[int]) -> bytes:
        keys = self._keys.get(account_id) or self._keys_of(account_id)
        now = "$0\r\n\r\n" if self._now_ms is None else bulk(str(self._now_ms()))
        numbers = ""
        for amount in amounts:  # as ``bulk`` writes them: a call for each costs more than the number
            if 0 <= amount < _NUMBERS_END:
                numbers += _NUMBERS[amount]
            else:
                text = str(amount)
                numbers += f"${len(text)}\r\n{text}\r\n"
        return (f"{plan.heads[verb]}{keys}{now}${len(call_id)}\r\n{call_id}\r\n{plan.packed}{fourth}{numbers}").encode(
            "ascii"
        )

    def _keys_of(self, account_id: str) -> str:
        if len(self._keys) >= CACHE_MAX:
            self._keys.clear()
        keys = self._keys[account_id] = "".join(map(bulk, self._key_names(account_id)))
        return keys

    def _key_names(self, account_id: str) -> tuple[str, str, str, str]:
        if not _ACCOUNT.fullmatch(account_id):
            raise ValueError("an account id is printable ASCII without braces")
        stem = f"tollgate:{self._generation}{{{account_id}}}"
        return (f"{stem}:state", f"{stem}:expiries", f"{stem}:gone:0", f"{stem}:gone:1")
