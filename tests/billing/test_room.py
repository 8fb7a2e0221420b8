"""A prepaid account spends what it has, all of it, and not a pico-euro more: whatever the ledger knows, and when."""

import asyncio
import random

import pytest

from proxy.billing.room import CreditRoom
from proxy.core.accounts import Account
from proxy.core.calendar import day_bounds_ms, day_of
from proxy.core.catalogue import Tier
from proxy.core.credit import draw_down
from proxy.core.errors import ApiError
from proxy.core.limits import LimitKind, Measure
from proxy.core.money import nano_from_pico_up
from proxy.core.quotas import Allowance, limits_of
from proxy.ledger.credit import CreditFacts
from proxy.ledger.errors import LedgerUnavailableError
from proxy.ledger.lots import CreditLot
from proxy.limiter import Seed
from proxy.limiter.degraded import DegradedLimiter
from proxy.limiter.memory import MemoryLimiter
from proxy.limiter.redis import RedisLimiter
from proxy.tasks import Tasks
from tests.ledger.support import NOON_MS, Clock

ZONE = "Europe/Paris"
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
MILLI = 10**9
TIER = Tier("t", "T", None, None, None, None, requests=1_000_000)
BASE = Allowance.of(limits_of(TIER, "2026-11", NOON_MS + 30 * DAY_MS))


class Ledger:
    """What a ledger knows: entries come late, lots at once. It can be away."""

    def __init__(self, clock):
        self.clock = clock
        self.lots = []
        self.settled = []  # (day, pico-euros): the truth
        self.known = 0  # how many of them have arrived
        self.is_away = False
        self.looks = 0

    def buy(self, amount_pico, expires_ms=None):
        number = len(self.lots)
        self.lots.append(CreditLot(f"lot_{number}", "acc_a", f"r{number}", amount_pico, self.clock(), expires_ms))

    @property
    def account(self):
        return Account("acc_a", "a", "t", ZONE, True, sum(lot.amount_pico for lot in self.lots))

    async def facts(self, account_id):
        self.looks += 1
        if self.is_away:
            raise LedgerUnavailableError("away")
        facts = CreditFacts(self.account.credit_paid_pico, tuple(self.lots), self.used(self.known))
        await asyncio.sleep(0)
        return facts

    def used(self, count=None):
        used = {}
        for day, amount in self.settled[:count]:
            used[day] = used.get(day, 0) + amount
        return used

    async def seed(self, _account_id, limits):
        spent = nano_from_pico_up(sum(amount for _, amount in self.settled))
        return Seed({(limit.stored_name, limit.period): spent for limit in limits if limit.counts is Measure.EUROS})

    def truth(self):
        return draw_down([lot.drawable(ZONE) for lot in self.lots], self.used())


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(clock):
    return Ledger(clock)


@pytest.fixture
async def tasks():
    def fail(name, failure):
        raise AssertionError(name) from failure

    made = Tasks(fail)
    yield made
    await made.drain(5)


@pytest.fixture
def room(ledger, tasks, clock):
    return CreditRoom(ledger, tasks, clock)


async def limit(room, ledger):
    allowance = await room.within(BASE, ledger.account, ledger.clock())
    assert allowance.limits[:-1] == BASE.limits
    return allowance.limits[-1]


async def test_the_limit_is_a_budget_that_never_ends(room, ledger):
    ledger.buy(2_000_999)
    made = await limit(room, ledger)
    assert (made.name, made.kind, made.capacity, made.period, made.ends_ms) == ("credit", LimitKind.BUDGET, 2000, "", 0)


async def test_the_ledger_is_asked_once_and_again_with_a_purchase(room, ledger):
    ledger.buy(MILLI)
    first = await asyncio.gather(*(room.within(BASE, ledger.account, ledger.clock()) for _ in range(5)))
    assert all(each is first[0] for each in first)
    assert ledger.looks == 1
    ledger.buy(MILLI)
    assert (await limit(room, ledger)).capacity == 2_000_000
    assert ledger.looks == 2


async def test_what_was_used_before_is_not_granted_without_the_store(room, ledger):
    ledger.buy(10 * MILLI)
    ledger.settled, ledger.known = [("2026-11-24", 4 * MILLI)], 1
    made = await limit(room, ledger)
    assert (made.capacity, made.base) == (10_000_000, 4_000_000)


async def test_what_was_invoiced_before_is_no_debt(room, ledger):
    ledger.settled, ledger.known = [("2026-10-31", 7 * MILLI)], 1
    ledger.buy(2 * MILLI)
    made = await limit(room, ledger)
    assert (made.capacity, made.base) == (9_000_000, 7_000_000)


async def test_a_lot_ends_at_its_instant_and_what_was_used_of_it_comes_back_when_it_is_known(
    room, ledger, clock, tasks
):
    ends_ms = day_bounds_ms("2026-11-24", ZONE)[1]
    ledger.buy(5 * MILLI, ends_ms)
    ledger.buy(3 * MILLI)
    clock.now_ms = ends_ms - 1
    assert (await limit(room, ledger)).capacity == 8_000_000
    ledger.settled = [("2026-11-24", 4 * MILLI)]
    clock.now_ms = ends_ms
    assert (await limit(room, ledger)).capacity == 3_000_000
    ledger.known = 1
    clock.now_ms += 15_000
    await limit(room, ledger)
    await tasks.drain(1)
    assert (await limit(room, ledger)).capacity == 7_000_000


async def test_while_the_ledger_is_away_what_was_known_serves_and_nothing_else_does(room, ledger):
    ledger.is_away = True
    ledger.buy(MILLI)
    with pytest.raises(ApiError) as refused:
        await limit(room, ledger)
    assert refused.value.status == 503
    ledger.is_away = False
    assert (await limit(room, ledger)).capacity == 1_000_000
    ledger.is_away = True
    ledger.buy(MILLI)
    assert (await limit(room, ledger)).capacity == 1_000_000
    ledger.is_away = False
    assert (await limit(room, ledger)).capacity == 2_000_000


class Life:
    """Months of a prepaid account, by chance: purchases, calls at once, a ledger that lags, stores that are lost."""

    def __init__(self, seed, ledger, tasks):
        self.chance = random.Random(seed)
        self.ledger, self.clock = ledger, ledger.clock
        self.rooms = [CreditRoom(ledger, tasks, self.clock) for _ in range(2)]
        self.limiter = self.new_limiter()
        self.flights = {}
        self.number = self.refused = 0

    def new_limiter(self):
        return MemoryLimiter(self.clock, 10 * DAY_MS, self.ledger.seed)

    async def step(self):
        await self.chance.choices(
            [self.admit, self.settle, self.ship, self.wait, self.buy, self.lose], [40, 36, 12, 8, 1, 1]
        )[0]()

    async def admit(self):
        now_ms = self.clock()
        allowance = await self.chance.choice(self.rooms).within(BASE, self.ledger.account, now_ms)
        bound = self.chance.randint(1, MILLI)
        self.number += 1
        call = f"call_{self.number}"
        answer = await self.limiter.admit("acc_a", call, allowance.limits, allowance.needs(0, bound))
        if answer.admitted:
            self.flights[call] = (allowance, bound, day_of(now_ms, ZONE))
        else:
            assert answer.bound == "credit"
            self.refused += 1

    async def settle(self):
        if self.flights:
            call = self.chance.choice(list(self.flights))
            allowance, bound, day = self.flights.pop(call)
            used = self.chance.choice([0, bound, self.chance.randint(0, bound)])
            self.ledger.settled.append((day, used))
            await self.limiter.settle("acc_a", call, allowance.limits, allowance.amounts(0, used))

    async def ship(self):
        self.ledger.known = self.chance.randint(self.ledger.known, len(self.ledger.settled))

    async def wait(self):
        midnight_ms = day_bounds_ms(day_of(self.clock(), ZONE), ZONE)[1]
        to_midnight_ms = midnight_ms - self.clock()
        self.clock.now_ms += self.chance.choice([60_000, HOUR_MS, to_midnight_ms - 1, to_midnight_ms, to_midnight_ms])

    async def buy(self):
        ends = None
        if self.chance.random() < 0.7:
            day = day_of(self.clock() + self.chance.randint(0, 5) * DAY_MS, ZONE)
            ends = day_bounds_ms(day, ZONE)[1]
        self.ledger.buy(self.chance.randint(1, 8 * MILLI), ends)

    async def lose(self):
        if not self.flights:  # a call in flight that no store knows of is the matter of other tests
            self.limiter = self.new_limiter()


@pytest.mark.parametrize("seed", range(60))
async def test_a_prepaid_account_is_never_overdrawn(seed, ledger, tasks):
    life = Life(seed, ledger, tasks)
    await life.buy()
    for _ in range(600):
        await life.step()
        held = sum(bound for _, bound, _ in life.flights.values())
        truth = ledger.truth()
        assert truth.uncovered == {}
        assert held <= truth.balance_pico("0000")  # what lapsed too: calls of before may still draw it
    while life.flights:
        await life.settle()
    assert ledger.truth().uncovered == {}
    assert life.refused


async def test_everything_that_was_bought_can_be_spent_to_the_last_nano_euro(room, ledger, clock):
    limiter = MemoryLimiter(clock, 60_000, ledger.seed)
    ledger.buy(5 * MILLI + 700)
    for number in range(6):
        allowance = await room.within(BASE, ledger.account, clock())
        call = f"call_{number}"
        answer = await limiter.admit("acc_a", call, allowance.limits, allowance.needs(0, MILLI))
        assert answer.admitted is (number < 5)
        if answer.admitted:
            await limiter.settle("acc_a", call, allowance.limits, allowance.amounts(0, MILLI))
            ledger.settled.append(("2026-11-24", MILLI))
    assert ledger.truth().balance_pico("2026-11-24") == 700


async def test_while_redis_is_away_a_share_of_what_was_left_is_granted_and_not_of_what_was_ever_bought(
    room, ledger, clock
):
    ledger.buy(1000 * MILLI)
    ledger.settled, ledger.known = [("2026-11-24", 996 * MILLI)], 1
    limiter = DegradedLimiter(RedisLimiter("redis://127.0.0.1:1/0"), 50, 600, clock)
    granted = 0
    for number in range(6):
        allowance = await room.within(BASE, ledger.account, clock())
        answer = await limiter.admit("acc_a", f"call_{number}", allowance.limits, allowance.needs(0, MILLI))
        granted += answer.admitted
    assert granted == 2
    await limiter.close()
