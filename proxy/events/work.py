"""The work on events: who looks and delivers, and when.

What belongs here: the loop, the lease, and what is counted. What does not: looking (watcher.py) and sending
(delivery.py).

Any replica may do the work, and one at a time does: whoever holds the lease in the ledger. When it dies, another one
takes over after the lease. Two that both believe to hold it, because their clocks differ, do no harm: events are
recorded once by their key, and attempts are claimed one by one.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from proxy.core.events import EventKind
from proxy.core.webhooks import Webhook
from proxy.events.delivery import Delivery
from proxy.events.watcher import Watcher
from proxy.ledger.errors import LedgerError
from proxy.ledger.events import Events

_log = structlog.get_logger(__name__)

TICK_S: Final = 5.0
LOOK_MS: Final = 15_000
LEASE_MS: Final = 60_000
ROUND_S: Final = 30.0
"""After so long a round of deliveries ends; with one more attempt it is still shorter than the lease."""


class EventWork:
    """Works on events whenever it holds the lease.

    Args:
        events: the store.
        watcher: finds.
        delivery: sends.
        webhook: returns where to; None: events are recorded and counted only.
        holder: this process's name in the lease: unique.
        clock_ms: Unix milliseconds.
        on_error: told of what should not have happened.
        tick_s: seconds between two turns.

    Attributes:
        recorded: how many events of each kind this process was the first to record.
    """

    def __init__(
        self,
        events: Events,
        watcher: Watcher,
        delivery: Delivery,
        webhook: Callable[[], Webhook | None],
        holder: str,
        clock_ms: Callable[[], int],
        on_error: Callable[[str, BaseException], None],
        *,
        tick_s: float = TICK_S,
    ) -> None:
        self._events = events
        self._watcher = watcher
        self._delivery = delivery
        self._webhook = webhook
        self._holder = holder
        self._clock_ms = clock_ms
        self._on_error = on_error
        self._tick_s = tick_s
        self._looked_ms: int | None = None
        self._is_away = False
        self.recorded: Counter[EventKind] = Counter()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await asyncio.sleep(self._tick_s)
            try:
                await self.turn()
                self._is_away = False
            except LedgerError as exc:
                if not self._is_away:  # said once, not at every turn
                    self._is_away = True
                    _log.warning("events_wait", error=str(exc))
            except Exception as exc:  # noqa: BLE001 - the next turn may go well
                self._on_error("events", exc)

    async def turn(self) -> bool:
        """Look and deliver, if the lease can be had; return whether it could.

        Raises:
            LedgerError: the database does not answer.
        """
        now_ms = self._clock_ms()
        if not await self._events.lease.take(self._holder, now_ms, now_ms + LEASE_MS):
            self._looked_ms = None
            return False
        if self._looked_ms is None or not 0 <= now_ms - self._looked_ms < LOOK_MS:
            self._looked_ms = now_ms
            for event in await self._watcher.look():
                self.recorded[event.kind] += 1
                _log.info("event", kind=event.kind.value, account=event.data["account"], subject=event.subject)
        webhook = self._webhook()
        if webhook is not None:
            await self._delivery.round(webhook, ROUND_S)
        return True

    async def close(self) -> None:
        """Let another replica have the lease, and close connections. ``run`` has been cancelled before."""
        await self._delivery.close()
        with contextlib.suppress(LedgerError):  # it ends by itself
            await self._events.lease.drop(self._holder)
