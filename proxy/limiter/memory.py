"""The limiter in this process's memory: for a proxy that stands alone, and while Redis is away.

What belongs here: which accounts are kept, their seeding and their forgetting. What does not: the rules
(``proxy.core.account_state``).
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from proxy.core.account_state import AccountState, check_amounts
from proxy.core.limits import Admission, Growth, Limit
from proxy.limiter import SeedLoader
from proxy.limiter.seeding import Seeding, seed_buckets

IDLE_MS = 3_600_000
"""An account of which nothing has been heard for so long, and whose windows are whole, is forgotten."""


class MemoryLimiter:
    """Keeps the contract of ``proxy.limiter.Limiter``. Nothing is awaited but the ledger, so each verb is atomic.

    Args:
        clock_ms: Unix time in whole milliseconds; it may jump, but never moves an account back.
        hold_ttl_ms: how long a hold lives without a heartbeat.
        seed_loader: asks the ledger about accounts that are not known here; None: they have used nothing. Then nothing
            can be forgotten that has spent from a budget, and ``accounts_max`` bounds the others only.
        accounts_max: how many accounts are kept.
    """

    def __init__(
        self,
        clock_ms: Callable[[], int],
        hold_ttl_ms: int = 60_000,
        seed_loader: SeedLoader | None = None,
        accounts_max: int = 100_000,
    ) -> None:
        self._clock_ms = clock_ms
        self._hold_ttl_ms = hold_ttl_ms
        self._seeding = Seeding(seed_loader)
        self._accounts_max = accounts_max
        self._accounts: OrderedDict[str, AccountState] = OrderedDict()  # the longest unused first

    async def admit(self, account_id: str, call_id: str, limits: Sequence[Limit], needs: Sequence[int]) -> Admission:
        """See ``proxy.limiter.Limiter``."""
        check_amounts(needs)
        state = self._known(account_id, limits) or await self._seeded(account_id, limits)
        return state.admit(call_id, limits, needs, self._clock_ms())

    async def settle(self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]) -> None:
        """See ``proxy.limiter.Limiter``. Of an account that has been forgotten, the ledger knows."""
        self.settle_soon(account_id, call_id, limits, amounts)

    def settle_soon(self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]) -> None:
        """See ``proxy.limiter.Limiter``."""
        check_amounts(amounts)
        if (state := self._accounts.get(account_id)) is not None:
            state.settle(call_id, limits, amounts, self._clock_ms())

    async def record(self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]) -> None:
        """See ``proxy.limiter.Limiter``."""
        check_amounts(amounts)
        state = self._known(account_id, limits) or await self._seeded(account_id, limits)
        state.record(call_id, limits, amounts, self._clock_ms())

    async def record_all(self, account_id: str, limits: Sequence[Limit], amounts: Mapping[str, Sequence[int]]) -> None:
        """See ``proxy.limiter.Limiter``."""
        for call_id, each in amounts.items():
            await self.record(account_id, call_id, limits, each)

    async def extend(self, account_id: str, call_id: str, limits: Sequence[Limit], known: Sequence[int]) -> bool:
        """See ``proxy.limiter.Limiter``."""
        check_amounts(known)
        state = self._accounts.get(account_id)
        return state is not None and state.extend(call_id, limits, known, self._clock_ms())

    async def grow(self, account_id: str, call_id: str, limits: Sequence[Limit], wants: Sequence[int]) -> Growth:
        """See ``proxy.limiter.Limiter``."""
        check_amounts(wants)
        state = self._known(account_id, limits)
        return Growth.GONE if state is None else state.grow(call_id, limits, wants, self._clock_ms())

    async def release(self, account_id: str, call_id: str, limits: Sequence[Limit]) -> None:  # noqa: ARG002
        """See ``proxy.limiter.Limiter``."""
        if (state := self._accounts.get(account_id)) is not None:
            state.release(call_id, self._clock_ms())

    async def peek(self, account_id: str, limits: Sequence[Limit]) -> Admission:
        """See ``proxy.limiter.Limiter``."""
        state = self._known(account_id, limits) or await self._seeded(account_id, limits)
        return state.peek(limits, self._clock_ms())

    def part_of(self, account_id: str) -> str:  # noqa: ARG002
        """See ``proxy.limiter.RecordingLimiter``."""
        return ""

    def parts(self) -> frozenset[str]:
        """See ``proxy.limiter.RecordingLimiter``."""
        return frozenset({""})

    async def ping(self, part: str = "") -> None:
        """See ``proxy.limiter.RecordingLimiter``."""

    async def close(self) -> None:
        """See ``proxy.limiter.Limiter``."""
        await self._seeding.close()

    def dump(self, account_id: str) -> dict[str, object] | None:
        """Return what is kept of an account as plain values, for comparing; None: nothing."""
        state = self._accounts.get(account_id)
        return None if state is None else state.dump()

    def _known(self, account_id: str, limits: Sequence[Limit]) -> AccountState | None:
        state = self._accounts.get(account_id)
        if state is None or state.lacks(limits):
            return None
        self._accounts.move_to_end(account_id)
        return state

    async def _seeded(self, account_id: str, limits: Sequence[Limit]) -> AccountState:
        async def fill() -> None:
            seed = await self._seeding.load(account_id, limits)
            now_ms = self._clock_ms()
            state = self._accounts.get(account_id)
            if state is None:
                self._forget_idle(now_ms)
                state = self._accounts[account_id] = AccountState(now_ms, self._hold_ttl_ms)
                state.seed_calls(seed.calls)
            now_ms = max(now_ms, state.now_ms)
            state.seed(limits, seed.spent, seed_buckets(limits, seed, now_ms), now_ms)

        while (state := self._known(account_id, limits)) is None:
            await self._seeding.once(account_id, fill)
        return state

    def _forget_idle(self, now_ms: int) -> None:
        """Make room for one account: drop idle ones among those unused for longest, and one more when it is full.

        A few are looked at each time: the cost of a new account is bounded, and idle ones go faster than new ones come.
        """
        is_full = len(self._accounts) >= self._accounts_max
        for account_id in [key for key, _ in zip(self._accounts, range(4), strict=False)]:
            state = self._accounts[account_id]
            is_unused = now_ms - state.now_ms >= IDLE_MS and state.is_idle(now_ms)
            if not (is_unused or (is_full and not state.has_holds)):
                continue
            if self._seeding.has_ledger or state.is_blank:
                del self._accounts[account_id]
                is_full = len(self._accounts) >= self._accounts_max
