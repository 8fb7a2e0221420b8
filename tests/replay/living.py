"""Months that were lived: calls admitted, held, settled and rated by the proxy's own parts, on a clock that jumps.

What belongs here: making calls at random and keeping what the ledger would. What does not: replaying it.
"""

import heapq
import random
from collections.abc import Callable, Sequence

import msgspec

from proxy.allowances import Allowances
from proxy.core.accounts import Account, Key, Principal
from proxy.core.catalogue import Engine, Model, OwnLimits, Tier, Upstream
from proxy.core.entries import Entry, Outcome
from proxy.core.levels import Override
from proxy.core.limit_names import scope_of_model
from proxy.core.pricing import PriceBook, PriceVersion
from proxy.core.quotas import Allowance
from proxy.core.usage import Quantity, TariffClass, Usage, UsageType
from proxy.limiter.memory import MemoryLimiter
from proxy.months import Months

EURO = 10**12
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
OCTOBER_MS = 1_790_805_600_000  # 2026-10-01 00:00 in Paris
PRICES = {
    (UsageType.INPUT, TariffClass.STANDARD): 1_800_000,
    (UsageType.CACHED_INPUT, TariffClass.STANDARD): 1_800_000,
    (UsageType.OUTPUT, TariffClass.STANDARD): 8_000_000,
    (UsageType.REASONING, TariffClass.STANDARD): 8_000_000,
    (UsageType.RERANK, TariffClass.STANDARD): 4_000_000,
    (UsageType.AUDIO_MINUTES, TariffClass.STANDARD): 10_000_000_000,
}
OLD = PriceVersion("old", 0, PRICES)
DEAR = PriceVersion("dear", OCTOBER_MS + DAY_MS, {**PRICES, (UsageType.OUTPUT, TariffClass.STANDARD): 9_000_001})
BOOK = PriceBook((OLD, DEAR))
SMALL = Tier("small", "Small", None, 2 * EURO, 6_000, 60_000, requests=12, requests_window_s=60, calls_in_flight=6)
LARGE = Tier("large", "Large", None, None, None, None, requests=1000)
UPSTREAM = Upstream("u", "http://127.0.0.1:1", Engine.VLLM)


def model(model_id: str, limits: OwnLimits | None = None) -> Model:
    return Model(model_id, ("/v1/chat/completions",), 8192, (UPSTREAM,), model_id, limits=limits)


CHAT = model("chat")
SCARCE = model("scarce:1", OwnLimits(scope_of_model("scarce:1"), output_tokens_hour=3_000, calls_in_flight=3))
MODELS = {"chat": CHAT, "scarce:1": SCARCE}


class Life:
    """One account's calls as they happen.

    Args:
        account: whose.
        tier: that it holds.
        keys: which call, in turn or at random.
        seed: of what is random.
        overrides: in force at an instant.
    """

    def __init__(
        self,
        account: Account,
        tier: Tier,
        keys: Sequence[Key],
        seed: int,
        overrides: Callable[[int], tuple[Override, ...]] = lambda _: (),
    ) -> None:
        self.account, self.tier, self.keys = account, tier, keys
        self.entries: list[Entry] = []
        self.refused = 0
        self._random = random.Random(seed)
        self._overrides = overrides
        self._now_ms = 0
        self._limiter = MemoryLimiter(lambda: self._now_ms, hold_ttl_ms=10**9)
        self._months = Months()
        self._allowances = Allowances()
        self._flights: list[tuple[int, str, Allowance, Entry]] = []

    async def live(self, from_ms: int, until_ms: int, mean_ms: int) -> None:
        """Make calls from one instant to another, at random distances, now and then several at once."""
        now_ms = from_ms
        while (now_ms := now_ms + self._pause_ms(mean_ms)) < until_ms:
            await self._settle_until(now_ms)
            await self.call(now_ms)
        await self._settle_until(until_ms + HOUR_MS)

    def _pause_ms(self, mean_ms: int) -> int:
        chosen = self._random.random()
        if chosen < 0.4:
            return self._random.choice((0, 0, 1, 700, 999, 1000))
        return round(self._random.expovariate(1 / mean_ms))

    async def call(self, now_ms: int) -> None:
        """Make one call: it may be refused, and then nothing of it is kept."""
        pick, self._now_ms = self._random, now_ms
        key, asked = pick.choice(self.keys), MODELS[pick.choice(("chat", "chat", "scarce:1"))]
        principal = Principal(self.account, key, self._overrides(now_ms))
        month = self._months.at(now_ms, self.account.timezone)
        allowance = self._allowances.of(principal, asked, self.tier, month, now_ms)
        prices = BOOK.version_at(now_ms)
        cap, prompt = pick.randint(1, 900), pick.randint(1, 2_000)
        kinds = {UsageType.INPUT: prompt, UsageType.OUTPUT: pick.choice((cap, pick.randint(0, cap)))}
        if kinds[UsageType.OUTPUT] < cap and pick.random() < 0.5:
            kinds[UsageType.REASONING] = pick.randint(0, cap - kinds[UsageType.OUTPUT])
        usage = Usage(tuple(Quantity(kind, amount) for kind, amount in kinds.items() if amount))
        bound_pico = cap * 9_000_001 + 2_000 * 1_800_000
        call_id = f"{now_ms:012x}-{pick.getrandbits(64):016x}"
        needs = allowance.needs(cap, bound_pico)
        answer = await self._limiter.admit(self.account.id, call_id, allowance.limits, needs)
        if not answer.admitted:
            self.refused += 1
            return
        ends_ms = now_ms + round(pick.lognormvariate(8.5, 1.3))
        charge = prices.rate(asked.id, usage, TariffClass.STANDARD)
        entry = Entry(
            call_id,
            self.account.id,
            month.name,
            month.day,
            key.id,
            self.tier.id,
            "/v1/chat/completions",
            asked.id,
            TariffClass.STANDARD,
            Outcome.FINISHED,
            now_ms,
            ends_ms,
            charge,
        )
        heapq.heappush(self._flights, (ends_ms, call_id, allowance, entry))

    async def _settle_until(self, now_ms: int) -> None:
        while self._flights and self._flights[0][0] < now_ms:
            self._now_ms, call_id, allowance, entry = heapq.heappop(self._flights)
            tokens = sum(line.amount for line in entry.charge.lines if line.usage_type is not UsageType.INPUT)
            used = allowance.amounts(tokens, entry.charge.total_pico)
            await self._limiter.settle(self.account.id, call_id, allowance.limits, used)
            self.entries.append(entry)


def stricter(tier: Tier, **changes: object) -> Tier:
    """Return a tier with other numbers."""
    return msgspec.structs.replace(tier, **changes)
