"""Batches: made, looked at and cancelled by their owner (POST and GET /v1/batches).

What belongs here: which statement answers which request. What does not: parameters (core/batches/), running a batch
(batching/).
"""

import secrets
from typing import Final

from proxy.billing.statement import is_active
from proxy.core.batches.creating import (
    batch_not_found,
    no_input_file,
    no_such_cursor,
    no_tokens,
    other_purpose,
    too_late,
    too_many_batches,
    wanted_batch,
)
from proxy.core.batches.ids import may_be_id
from proxy.core.batches.objects import Batch, BatchStatus
from proxy.core.batches.pages import page_of
from proxy.core.batches.shown import WINDOW_MS, batch_shown, batches_shown
from proxy.core.errors import ApiError, rate_limited
from proxy.core.limit_names import PURCHASE_CREDIT
from proxy.core.refusals import unpaid_lines
from proxy.ledger.batches.batches import Batches, Created
from proxy.views.contract import POST, Asked, Caller, RefusedError, View
from proxy.views.queries import parameters_of

UNFINISHED_MAX: Final = 100
"""Unfinished batches of an account: each file that waits is read once, and others wait behind it."""
ENQUEUED: Final = "batch_enqueued_tokens"
"""What ``X-RateLimit-Bound`` says when nothing is left of the allowance."""
UNFINISHED: Final = "batches"
_RANDOM_BYTES: Final = 16
_CANCELLED: Final = frozenset({BatchStatus.CANCELLING, BatchStatus.CANCELLED})


class BatchDesk:
    """Answers views of batches (``proxy.views.contract.Desk``).

    Args:
        batches: of every account.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    async def answer(self, asked: Asked, caller: Caller, body: bytes) -> bytes:
        """Answer; see the contract."""
        if asked.view is not View.BATCHES and not may_be_id(asked.name):
            raise batch_not_found()
        if asked.view is View.BATCH:
            return await self._one(caller, asked.name)
        if asked.view is View.BATCH_CANCEL:
            return await self._cancel(caller, asked.name)
        if asked.method == POST:
            return await self._create(caller, body)
        return await self._page(caller, asked.query)

    async def _create(self, caller: Caller, body: bytes) -> bytes:
        wanted = wanted_batch(body)
        if caller.tier.purchase_required and not is_active(caller.tier, caller.account):
            raise RefusedError(rate_limited(), unpaid_lines(PURCHASE_CREDIT, None))
        batch = Batch(
            id=f"batch_{secrets.token_hex(_RANDOM_BYTES)}",
            account_id=caller.account.id,
            key_id=caller.principal.key.id,
            endpoint=wanted.endpoint,
            model="",
            tier=caller.tier.id,
            month=caller.month.name,
            day=caller.month.day,
            input_file_id=wanted.input_file_id,
            status=BatchStatus.VALIDATING,
            created_ms=caller.now_ms,
            expires_ms=caller.now_ms + WINDOW_MS,
            metadata=wanted.metadata,
            output_expires_after_s=wanted.output_expires_after_s,
        )
        enqueued_max = caller.tier.batch_enqueued_tokens
        created = await self._batches.create(batch, enqueued_max, UNFINISHED_MAX)
        if created is Created.NO_FILE:
            raise no_input_file()
        if created is Created.OTHER_PURPOSE:
            raise other_purpose()
        if created is Created.NO_ROOM:
            assert enqueued_max is not None
            raise _full(no_tokens(enqueued_max), ENQUEUED)
        if created is Created.TOO_MANY:
            raise _full(too_many_batches(UNFINISHED_MAX), UNFINISHED)
        return batch_shown(batch)

    async def _page(self, caller: Caller, query: bytes) -> bytes:
        found = await self._batches.page(caller.account.id, page_of(parameters_of(query)))
        if found is None:
            raise no_such_cursor()
        items, has_more = found
        return batches_shown(items, has_more=has_more)

    async def _one(self, caller: Caller, batch_id: str) -> bytes:
        batch = await self._batches.get(caller.account.id, batch_id)
        if batch is None:
            raise batch_not_found()
        return batch_shown(batch)

    async def _cancel(self, caller: Caller, batch_id: str) -> bytes:
        batch = await self._batches.cancel(caller.account.id, batch_id, caller.now_ms)
        if batch is None:
            raise batch_not_found()
        if batch.status not in _CANCELLED:
            raise too_late(batch)
        return batch_shown(batch)


def _full(error: ApiError, bound: str) -> RefusedError:
    """Return a refusal that only other batches' ends put right: an SDK need not try again by itself."""
    return RefusedError(error, unpaid_lines(bound, None))
