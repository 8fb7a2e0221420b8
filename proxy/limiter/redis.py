"""The limiter in Redis, shared by every worker and replica.

What belongs here: asking, seeding what Redis does not know, and owing Redis what it could not be told. What does not:
the rules (limiter.lua), the bytes (commands.py), which connection leads to an account (router.py), going on without
Redis (degraded.py).

Nothing is retried blindly. A verb is repeated when the answer says that it was not done, and settlements and releases
are repeated by call id until they are done: the functions change nothing the second time.
"""

import asyncio
import contextlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from itertools import islice

import hiredis

from proxy.core.account_state import check_amounts
from proxy.core.limits import Admission, Growth, Limit, LimitKind, LimitState
from proxy.limiter import AccountUnavailableError, LimiterUnavailableError, SeedLoader
from proxy.limiter.commands import Commands, Plan, pack
from proxy.limiter.debts import Debt, Debts
from proxy.limiter.loading import ensure_library, generation_of, load_library, renew_states
from proxy.limiter.router import Router
from proxy.limiter.seeding import Seeding, seed_buckets
from proxy.limiter.targets import parse_targets
from proxy.limiter.told import Told, is_done
from proxy.limiter.wire import Answer, Link, UnansweredError

EPOCHS_MAX = 200_000
"""How many calls in flight are remembered; a forgotten one looks like a replay once Redis has lost its data."""

KEPT_MS = 3 * 86_400_000
"""How long Redis keeps what it knows of a silent account: longer than any window, and the ledger knows the rest."""

KEPT_ALONE_MS = 40 * 86_400_000
"""The same without a ledger: then what Redis forgets is lost, and it is kept for longer than a month."""

SEED_ROUNDS_MAX = 4
REPEATS_MAX = 64
"""How often a command is repeated that was answered with where to ask, or to ask again; all within one timeout."""

PING_LIMITS = (Limit("ping", LimitKind.WINDOW, 1, window_s=1, bucket_s=1),)
TOGETHER = 64
"""How many calls are recorded with one write: Redis takes a millisecond for them, which others wait."""

RECORDED = -1  # in place of an epoch: a call that was admitted elsewhere

_GROWTHS = {1: Growth.GRANTED, 2: Growth.REFUSED}

Command = Callable[[], bytes]
"""Packs a command once there is a connection: what keys are called depends on what Redis is found there."""


class RedisLimiter:
    """Keeps the contract of ``proxy.limiter.RecordingLimiter``: by one connection, in a cluster one to each primary.

    ``settle`` and ``release`` return when they are done, or when Redis is away and they are owed: then they are
    repeated until they are done. They raise ``LimiterUnavailableError`` only when more is owed than can be kept.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; of a cluster, one node or several.
        hold_ttl_ms: how long a hold lives without a heartbeat.
        timeout_ms: for one answer, and for connecting.
        seed_loader: asks the ledger about accounts that Redis does not know; None: they have used nothing.
        now_ms: what to tell the functions that the time is: for tests, and for a Redis that refuses TIME. None: they
            use the clock of Redis, which all replicas share.
    """

    def __init__(
        self,
        url: str,
        hold_ttl_ms: int = 60_000,
        timeout_ms: int = 1000,
        seed_loader: SeedLoader | None = None,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self._timeout_s = timeout_ms / 1000
        self._now_ms = now_ms
        self._commands = Commands(hold_ttl_ms, now_ms)
        self._seeding = Seeding(seed_loader)
        self._debts = Debts(self._pay, hold_ttl_ms / 1000, self.part_of)
        # Of calls in flight: which life of the state admitted them. A dict's first key takes long to find where many
        # before it have been deleted.
        self._epochs: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._router = Router(parse_targets(url), self._timeout_s, self._prepare)
        self._sent = 0  # settlements that Redis has not answered yet

    @property
    def owed(self) -> int:
        """How many settlements and releases Redis has not been told of."""
        return len(self._debts)

    @property
    def dropped(self) -> int:
        """How many of them were given up: too many, or too old. The ledger has them all the same."""
        return self._debts.dropped

    # --- the verbs ---------------------------------------------------------------------------------------------------

    async def admit(self, account_id: str, call_id: str, limits: Sequence[Limit], needs: Sequence[int]) -> Admission:
        """See ``proxy.limiter.Limiter``."""
        check_amounts(needs)
        plan = self._commands.plan(limits)
        link = self._router.only or self._router.link(account_id)
        try:
            # the usual way, without a detour: connected, and Redis knows the account
            answer = None if link is None else await link.send(self._commands.admit(account_id, call_id, plan, needs))
            if type(answer) is not bytes:
                answer = await self._known(
                    account_id, plan, lambda: self._commands.admit(account_id, call_id, plan, needs)
                )
        except (UnansweredError, asyncio.CancelledError):
            # it may have been taken all the same, and nobody will settle it
            self._debts.owe(Debt(account_id, call_id, plan.limits, None))
            raise
        admission, epoch = plan.read(answer)
        if admission.admitted:
            if len(self._epochs) >= EPOCHS_MAX:
                self._epochs.popitem(last=False)
            self._epochs[account_id, call_id] = epoch
        return admission

    async def settle(self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]) -> None:
        """See ``proxy.limiter.Limiter``."""
        check_amounts(amounts)
        plan = self._commands.plan(limits)
        epoch = self._epochs.pop((account_id, call_id), 0)
        try:
            await self._known(
                account_id, plan, lambda: self._commands.settle(account_id, call_id, plan, epoch, amounts)
            )
        except LimiterUnavailableError:
            self._debts.owe(Debt(account_id, call_id, plan.limits, tuple(amounts), epoch))
        except asyncio.CancelledError:
            self._debts.owe(Debt(account_id, call_id, plan.limits, tuple(amounts), epoch))
            raise

    def settle_soon(
        self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]
    ) -> Coroutine[None, None, None] | None:
        """See ``proxy.limiter.Limiter``: the command is written now; whatever else is answered than "done" is owed."""
        link = self._router.only or self._router.link(account_id)
        if link is None:
            return self.settle(account_id, call_id, limits, amounts)
        check_amounts(amounts)
        plan = self._commands.plan(limits)
        epoch = self._epochs.pop((account_id, call_id), 0)
        told = Told(self, account_id, call_id, plan.limits, amounts, epoch)
        try:
            link.tell(self._commands.settle(account_id, call_id, plan, epoch, amounts), told)
        except LimiterUnavailableError:
            told.owe()
        else:
            self._sent += 1
        return None

    def told(self, told: Told, *, done: bool) -> None:
        """A settlement that was written has been answered, or never will be."""
        self._sent -= 1
        if not done:
            with contextlib.suppress(LimiterUnavailableError):  # more is owed than can be kept: it is counted
                told.owe()

    def owe(self, debt: Debt) -> None:
        """Keep what Redis has to be told. Raises LimiterUnavailableError when more is owed than can be kept."""
        self._debts.owe(debt)

    async def record(self, account_id: str, call_id: str, limits: Sequence[Limit], amounts: Sequence[int]) -> None:
        """See ``proxy.limiter.Limiter``. Raises when Redis is away: it is the caller who owes."""
        check_amounts(amounts)
        plan = self._commands.plan(limits)
        self._epochs.pop((account_id, call_id), None)
        await self._known(account_id, plan, lambda: self._commands.settle(account_id, call_id, plan, RECORDED, amounts))

    async def record_all(self, account_id: str, limits: Sequence[Limit], amounts: Mapping[str, Sequence[int]]) -> None:
        """See ``proxy.limiter.Limiter``. So many at once that nobody's admission waits long behind them."""
        plan, settle = self._commands.plan(limits), self._commands.settle
        calls = iter(amounts.items())
        while group := list(islice(calls, TOGETHER)):
            link = self._router.only or await self._router.connected(account_id)
            sent = []
            for call_id, each in group:
                check_amounts(each)
                self._epochs.pop((account_id, call_id), None)
                sent.append(link.send(settle(account_id, call_id, plan, RECORDED, each)))
            for (call_id, each), answer in zip(group, sent, strict=True):
                if not is_done(await answer):  # the account is not known, or elsewhere: by itself, with all detours
                    await self.record(account_id, call_id, limits, each)

    async def extend(self, account_id: str, call_id: str, limits: Sequence[Limit], known: Sequence[int]) -> bool:
        """See ``proxy.limiter.Limiter``."""
        check_amounts(known)
        plan = self._commands.plan(limits)
        answer: int = await self._ask(account_id, lambda: self._commands.extend(account_id, call_id, plan, known))
        return answer == 1

    async def grow(self, account_id: str, call_id: str, limits: Sequence[Limit], wants: Sequence[int]) -> Growth:
        """See ``proxy.limiter.Limiter``."""
        check_amounts(wants)
        plan = self._commands.plan(limits)
        answer: int = await self._ask(account_id, lambda: self._commands.grow(account_id, call_id, plan, wants))
        return _GROWTHS.get(answer, Growth.GONE)

    async def release(self, account_id: str, call_id: str, limits: Sequence[Limit]) -> None:
        """See ``proxy.limiter.Limiter``."""
        plan = self._commands.plan(limits)
        self._epochs.pop((account_id, call_id), None)
        try:
            await self._ask(account_id, lambda: self._commands.release(account_id, call_id, plan))
        except LimiterUnavailableError:
            self._debts.owe(Debt(account_id, call_id, plan.limits, None))
        except asyncio.CancelledError:
            self._debts.owe(Debt(account_id, call_id, plan.limits, None))
            raise

    async def peek(self, account_id: str, limits: Sequence[Limit]) -> Admission:
        """See ``proxy.limiter.Limiter``."""
        plan = self._commands.plan(limits)
        answer = await self._known(account_id, plan, lambda: self._commands.peek(account_id, plan))
        return plan.read(answer)[0]

    async def look(self, account_id: str, limits: Sequence[Limit]) -> tuple[LimitState | None, ...]:
        """Return what Redis knows of limits, each by itself; None: nothing. It learns nothing, as by ``peek`` it would.

        Raises:
            LimiterUnavailableError: Redis is away.
        """
        plans = [self._commands.plan((limit,)) for limit in limits]
        asked = [self._ask(account_id, partial(self._commands.peek, account_id, plan)) for plan in plans]
        answers = await asyncio.gather(*asked)
        return tuple(
            None if answer == -1 else plan.read(answer)[0].states[0]
            for plan, answer in zip(plans, answers, strict=True)
        )

    async def correct(self, account_id: str, budget: Limit, difference: int) -> bool:
        """Add nano-euros to what is spent of a budget, or take them from it; what calls in flight hold stays held.

        Returns:
            Whether Redis knows the budget.

        Raises:
            LimiterUnavailableError: Redis is away; nothing is known about what it did.
        """
        assert budget.kind is LimitKind.BUDGET
        plan = self._commands.plan((budget,))
        answer: int = await self._ask(account_id, lambda: self._commands.correct(account_id, plan, (difference,)))
        return answer == 1

    def part_of(self, account_id: str) -> str:
        """See ``proxy.limiter.RecordingLimiter``: the parts are the primaries of a cluster."""
        return self._router.part_of(account_id)

    def parts(self) -> frozenset[str]:
        """See ``proxy.limiter.RecordingLimiter``."""
        return self._router.parts()

    async def ping(self, part: str = "") -> None:
        """See ``proxy.limiter.RecordingLimiter``. It calls a function that may write: a Redis that cannot refuses."""
        plan = self._commands.plan(PING_LIMITS)
        names = await self._router.probes(part)
        asked = [self._ask(name, partial(self._commands.peek, name, plan)) for name in names]
        for result in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def close(self) -> None:
        """Pay what is owed if Redis is there to take it, and disconnect."""
        links = list(self._router.links())
        if self._sent:
            # answers come in order: after this one no settlement is on its way
            last = [link.send(pack("PING")) for link in links]
            await asyncio.gather(*last, return_exceptions=True)
        if links:
            await self._debts.settle_up(self._timeout_s)
        self._debts.close()
        await self._seeding.close()
        await self._router.close()

    # --- asking ------------------------------------------------------------------------------------------------------

    async def _known(self, account_id: str, plan: Plan, command: Command) -> Answer:
        """Ask; when Redis does not know the account, seed it and ask again."""
        answer = await self._ask(account_id, command)
        rounds = 0
        while answer == -1:
            if rounds == SEED_ROUNDS_MAX:
                raise LimiterUnavailableError("Redis forgets accounts as soon as they are seeded")
            rounds += 1
            await self._seeding.once(account_id, lambda: self._seed(account_id, plan))
            answer = await self._ask(account_id, command)
        return answer

    async def _ask(self, account_id: str, command: Command) -> Answer:
        link = self._router.only or await self._router.connected(account_id)
        answer = await link.send(command())
        if type(answer) is hiredis.ReplyError:
            return await self._asked_in_vain(account_id, link, command, str(answer))
        return answer

    async def _asked_in_vain(self, account_id: str, link: Link, command: Command, error: str) -> Answer:
        """Ask again where the answer says, or once it has got its functions; all else means that the store is away."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._timeout_s
        is_loaded = False
        for _ in range(REPEATS_MAX):
            if error.startswith("ERR Function not found") and not is_loaded:
                await load_library(link)
                is_loaded = True
            else:
                link = await self._router.follow(account_id, link, error)
            answer = await link.send(command())
            if not isinstance(answer, hiredis.ReplyError):
                return answer
            error = str(answer)
            if loop.time() > until_s:
                break
        raise AccountUnavailableError(f"the account is on the move: {error}")

    async def _seed(self, account_id: str, plan: Plan) -> None:
        seed = await self._seeding.load(account_id, plan.limits)
        if self._now_ms is None:
            seconds, micros = await self._ask(account_id, lambda: pack("TIME"))
            now_ms = int(seconds) * 1000 + int(micros) // 1000
        else:
            now_ms = self._now_ms()
        buckets = seed_buckets(plan.limits, seed, now_ms)
        values = [
            buckets[limit.stored_name]
            if limit.kind is LimitKind.WINDOW
            else seed.spent.get((limit.stored_name, limit.period), 0)
            for limit in plan.limits
        ]
        epoch = secrets.randbits(52) + 1
        kept_ms = KEPT_MS if self._seeding.has_ledger else KEPT_ALONE_MS
        await self._ask(account_id, lambda: self._commands.seed(account_id, plan, epoch, kept_ms, values, seed.calls))

    async def _pay(self, debt: Debt) -> None:
        plan = self._commands.plan(debt.limits)
        if debt.amounts is None:
            await self._ask(debt.account_id, lambda: self._commands.release(debt.account_id, debt.call_id, plan))
            return
        amounts = debt.amounts
        await self._known(
            debt.account_id,
            plan,
            lambda: self._commands.settle(debt.account_id, debt.call_id, plan, debt.epoch, amounts),
        )

    async def _prepare(self, link: Link) -> None:
        """Give a new connection what it needs before the first verb."""
        await ensure_library(link)
        if not self._seeding.has_ledger:
            return  # what is found there is all that is known
        if self._router.is_clustered:
            await renew_states(link)
        else:
            self._commands.use_generation(await generation_of(link))
