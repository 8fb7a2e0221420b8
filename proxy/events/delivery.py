"""Delivery: sending recorded events to the operator's receiver until it acknowledges them.

What belongs here: attempts, one after another, and what each result means. What does not: signatures and pauses
(core/webhooks.py), and who delivers (work.py).

Each attempt is claimed in the ledger before it is made, so no two replicas make the same one, and a process that dies
in the middle leaves the event to be tried again: a receiver sees each event at least once, always under the same
``webhook-id``. A request goes to the URL that the operator configured and nowhere else: redirections are not followed,
and no proxy is taken from the environment.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import aiohttp

from proxy.core.webhooks import Webhook, pause_ms, signed_headers
from proxy.ledger.events import Events, KeptEvent

AT_ONCE_MAX: Final = 50
"""Events that are read at once."""
GONE: Final = 410
"""A receiver that says so wants nothing more of it (Standard Webhooks, "410 Gone")."""


class Result(StrEnum):
    """What became of an attempt, and of an event for which nothing more is tried."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    """An answer other than 2xx."""
    UNREACHABLE = "unreachable"
    """No answer, or not in time."""
    GIVEN_UP = "given_up"
    """Beside the last attempt: the event is too old, or the receiver is gone."""


class Delivery:
    """Sends.

    Args:
        events: those to be sent.
        clock_ms: Unix milliseconds.

    Attributes:
        results: how often each result has been, ever.
    """

    def __init__(self, events: Events, clock_ms: Callable[[], int]) -> None:
        self._events = events
        self._clock_ms = clock_ms
        self._session: aiohttp.ClientSession | None = None
        self.results: Counter[Result] = Counter()

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()

    async def round(self, webhook: Webhook, time_max_s: float) -> None:
        """Send what is due; stop at a receiver that does not answer, and when the time is over.

        Raises:
            LedgerUnavailableError: the database does not answer.
        """
        ends_s = time.monotonic() + time_max_s
        while due := await self._events.due(self._clock_ms(), AT_ONCE_MAX):
            for event in due:
                if await self._attempt(webhook, event) is Result.UNREACHABLE or time.monotonic() >= ends_s:
                    return

    async def _attempt(self, webhook: Webhook, event: KeptEvent) -> Result | None:
        now_ms = self._clock_ms()
        attempts = event.attempts + 1
        timeout_ms = int(webhook.timeout_s * 1000)
        if not await self._events.claim(event, now_ms + timeout_ms + pause_ms(attempts)):
            return None
        status = await self._send(webhook, event, now_ms)
        if status is not None and 200 <= status < 300:  # noqa: PLR2004
            await self._events.acknowledge(event.id, self._clock_ms())
            return self._count(Result.ACKNOWLEDGED)
        if status == GONE or now_ms - event.recorded_ms >= webhook.give_up_after_ms:
            await self._events.give_up(event.id)
            self._count(Result.GIVEN_UP)
        return self._count(Result.UNREACHABLE if status is None else Result.REFUSED)

    async def _send(self, webhook: Webhook, event: KeptEvent, now_ms: int) -> int | None:
        """Return the status of the answer; None: there was none."""
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar())
        body = event.body.encode()
        try:
            async with (
                asyncio.timeout(webhook.timeout_s),
                self._session.post(
                    webhook.url,
                    data=body,
                    headers=signed_headers(webhook.secret, event.id, now_ms // 1000, body),
                    allow_redirects=False,
                ) as answer,
            ):
                return answer.status
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError):
            return None

    def _count(self, result: Result) -> Result:
        self.results[result] += 1
        return result
