"""What Redis could not be told: settlements and releases that are repeated until they are done.

What belongs here: keeping them, bounded in number and age, and repeating them. What does not: how they are told
(redis.py).
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from proxy.core.limits import Limit
from proxy.core.windows import GONE_MS
from proxy.limiter import LimiterUnavailableError

DEBTS_MAX = 100_000
BATCH = 256
PAUSE_S = 0.25

_log = logging.getLogger(__name__)


class Debt(msgspec.Struct, frozen=True):
    """A settlement that is owed, or with ``amounts`` None a release. ``epoch`` as in limiter.lua."""

    account_id: str
    call_id: str
    limits: tuple[Limit, ...]
    amounts: tuple[int, ...] | None
    epoch: int = 0


Key = tuple[str, str]  # account id, call id


class Entry(NamedTuple):
    """A debt, since when, and to which part of Redis."""

    debt: Debt
    since_s: float
    part: str


class Debts:
    """Keeps what is owed, by call, and pays when it can.

    Args:
        pay: tells Redis; raises ``LimiterUnavailableError`` while it cannot.
        hold_ttl_s: after this a release is pointless, for the hold has expired. A settlement then still corrects what
            the expired call was charged, and is kept for as long as such calls are remembered.
        part_of: names the part of Redis that has an account: one that is away holds up no debts to another.
    """

    def __init__(
        self, pay: Callable[[Debt], Awaitable[None]], hold_ttl_s: float, part_of: Callable[[str], str]
    ) -> None:
        self._pay = pay
        self._hold_ttl_s = hold_ttl_s
        self._part_of = part_of
        self._owed: dict[Key, Entry] = {}
        self._parts: dict[str, dict[Key, None]] = {}  # what is owed to each, as it was when it came to be owed
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._owed)

    def owe(self, debt: Debt) -> None:
        """Keep a debt; a settlement takes the place of a release, and never the other way round.

        Raises:
            LimiterUnavailableError: too much is owed.
        """
        key = (debt.account_id, debt.call_id)
        before = self._owed.get(key)
        if len(self._owed) >= DEBTS_MAX and before is None:
            self.dropped += 1
            if debt.amounts is None:
                return
            raise LimiterUnavailableError(f"{DEBTS_MAX} settlements are owed to Redis already")
        if before is None or before.debt.amounts is None:
            part = self._part_of(debt.account_id) if before is None else before.part
            self._owed[key] = Entry(debt, time.monotonic(), part)
            self._parts.setdefault(part, {})[key] = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._keep_paying(), name="limiter-debts")

    async def settle_up(self, seconds: float) -> None:
        """Pay once more, for at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._owed and await self._pay_some():
                    pass

    def close(self) -> None:
        """Stop paying."""
        if self._task is not None:
            self._task.cancel()

    async def _keep_paying(self) -> None:
        while self._owed:
            if not await self._pay_some():
                await asyncio.sleep(PAUSE_S)

    async def _pay_some(self) -> bool:
        """Pay the oldest debts to each part together; say whether any could be paid."""
        now_s = time.monotonic()
        for key, entry in list(self._owed.items()):
            if now_s - entry.since_s > (self._hold_ttl_s if entry.debt.amounts is None else GONE_MS / 1000):
                self._forget(key, entry)
                self.dropped += entry.debt.amounts is not None
        batch = [(key, self._owed[key]) for part in self._parts.values() for key in itertools.islice(part, BATCH)]
        results = await asyncio.gather(*(self._pay(entry.debt) for _, entry in batch), return_exceptions=True)
        paid = not batch
        for (key, entry), result in zip(batch, results, strict=True):
            if isinstance(result, LimiterUnavailableError):
                continue
            paid = True
            if isinstance(result, BaseException):
                self.dropped += 1
                _log.error("a settlement cannot be told to Redis, and is left to the ledger", exc_info=result)
            if self._owed.get(key) is entry:
                self._forget(key, entry)
        return paid

    def _forget(self, key: Key, entry: Entry) -> None:
        del self._owed[key]
        part = self._parts[entry.part]
        del part[key]
        if not part:
            del self._parts[entry.part]
