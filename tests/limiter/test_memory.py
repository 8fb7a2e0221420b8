"""What only the limiter in memory has to see to: forgetting accounts, and only those that it may forget."""

from proxy.core.limits import Limit
from proxy.limiter import Seed
from proxy.limiter.memory import MemoryLimiter
from tests.limiter.support import Clock, budget, requests, window

TOKENS = window("tokens", 100, 60, 5)
MONTH = budget(1000)


class Ledger:
    """Says that every account has spent 7, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, account_id: str, limits: object) -> Seed:
        self.asked.append(account_id)
        return Seed(spent={("cost_month", "2026-11"): 7})


async def used(limiter: MemoryLimiter, account: str, limit: Limit) -> int:
    return (await limiter.peek(account, (limit,))).states[0].used


async def test_an_account_that_has_been_idle_is_forgotten_and_learned_again(clock: Clock) -> None:
    ledger = Ledger()
    limiter = MemoryLimiter(clock, seed_loader=ledger)
    await limiter.record("idle", "a", (MONTH, TOKENS), (1, 1))
    clock.pass_s(3600)
    assert await used(limiter, "new", MONTH) == 7
    assert limiter.dump("idle") is None
    assert await used(limiter, "idle", MONTH) == 7
    assert ledger.asked == ["idle", "new", "idle"]


async def test_an_account_with_a_window_that_is_not_whole_is_kept(clock: Clock) -> None:
    limiter = MemoryLimiter(clock, seed_loader=Ledger())
    day = window("day", 100, 86_400, 300)
    await limiter.record("busy", "a", (day,), (5,))
    clock.pass_s(7200)
    await limiter.peek("new", (TOKENS,))
    assert limiter.dump("busy") is not None


async def test_no_more_accounts_are_kept_than_allowed_but_for_those_with_calls_in_flight(clock: Clock) -> None:
    limiter = MemoryLimiter(clock, seed_loader=Ledger(), accounts_max=3)
    await limiter.admit("in flight", "a", (TOKENS,), (5,))
    for number in range(10):
        await limiter.record(f"acc{number}", "a", (TOKENS,), (5,))
    assert limiter.dump("in flight") is not None
    assert sum(limiter.dump(f"acc{number}") is not None for number in range(10)) == 2


async def test_without_a_ledger_what_was_spent_is_never_forgotten(clock: Clock) -> None:
    limiter = MemoryLimiter(clock, accounts_max=1)
    await limiter.record("spender", "a", (MONTH,), (5,))
    await limiter.record("caller", "a", (requests(10),), (1,))
    clock.pass_s(7200)
    for number in range(5):
        await limiter.peek(f"acc{number}", (TOKENS,))
    assert await used(limiter, "spender", MONTH) == 5
    assert limiter.dump("caller") is None


async def test_a_settlement_for_an_account_that_is_forgotten_is_left_to_the_ledger(clock: Clock) -> None:
    limiter = MemoryLimiter(clock, seed_loader=Ledger())
    await limiter.settle("gone", "a", (TOKENS,), (5,))
    await limiter.release("gone", "a", (TOKENS,))
    assert await limiter.extend("gone", "a", (TOKENS,), (5,)) is False
    assert limiter.dump("gone") is None
