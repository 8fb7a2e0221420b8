"""Validating: a batch's file is read once, and the batch is in progress or has failed.

What belongs here: reading in small steps, and whether the account has room for the worst case. What does not: what a
file is refused for (core/batches/checking.py), and leases (worker.py).

The worst case must fit what is left of the budgets of the month of creation, and of the account's allowance of enqueued
tokens. The first is a look: nothing is held, each line is admitted by itself when it is run. The second is taken in the
transaction that puts the batch in progress, and given back when it ends.

The loop serves calls meanwhile: after ``STEP_S`` of work it has ``PAUSE_S`` for them. A line is never divided; one that
would take longer than a step is checked in a thread, and the loop waits no longer than for one decoding of it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from proxy.batching.budgets import Budgets
from proxy.batching.splitting import lines_of
from proxy.core.batches.checking import Bounds, Checked, FileCheck
from proxy.core.batches.lines import BATCH_ENDPOINTS
from proxy.core.batches.objects import Batch, LineMistake
from proxy.core.money import PICO_PER_NANO, euros_text, nano_from_pico_up
from proxy.files.contract import FileMissingError, FileStore
from proxy.ledger.batches.batches import Admitted, Batches
from proxy.limiter import Limiter
from proxy.settings.types import Settings

STEP_S: Final = 0.001
PAUSE_S: Final = 0.001
LARGE_BYTES: Final = 131_072
"""Size from which on a line is checked in a thread: as many bytes take less than a step."""

NO_FILE: Final = "file_not_found"
NO_TOKENS: Final = "token_limit_exceeded"
NO_BUDGET: Final = "insufficient_budget"
NO_ENDPOINT: Final = "invalid_endpoint"


class Validating:
    """Validates the files of batches.

    Args:
        settings: returns the settings in force.
        store: has the files.
        batches: is told what came of it.
        budgets: knows what a batch is paid from.
        limiter: knows what is left of that.
        clock_ms: Unix milliseconds.
        clock: monotonic seconds.

    Attributes:
        longest_step_s: how long the loop has waited at most, since the start.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        store: FileStore,
        batches: Batches,
        budgets: Budgets,
        limiter: Limiter,
        clock_ms: Callable[[], int],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._settings = settings
        self._store = store
        self._batches = batches
        self._budgets = budgets
        self._limiter = limiter
        self._clock_ms = clock_ms
        self._clock = clock
        self.longest_step_s = 0.0

    async def validate(self, holder: str, batch: Batch) -> None:
        """Put a batch in progress, or let it fail; one that was cancelled meanwhile is left as it is.

        Args:
            holder: who has leased it, and keeps the lease until this returns.
            batch: which.

        Raises:
            FileStoreError, LedgerUnavailableError, LimiterUnavailableError, PayerUnknownError, ApiError: it cannot be
                said now: nothing was done.
        """
        found = await self._check(batch)
        if isinstance(found, Checked):
            mistake = await self._admit(holder, batch, found)
            found = () if mistake is None else (mistake,)
        if found:
            await self._batches.refuse(holder, batch.id, found, self._clock_ms())

    async def _check(self, batch: Batch) -> Checked | tuple[LineMistake, ...]:
        file = await self._batches.input_file(batch)
        endpoint = BATCH_ENDPOINTS.get(batch.endpoint)
        if endpoint is None:  # another release took it
            return (LineMistake(NO_ENDPOINT, f"There are no batches of '{batch.endpoint}'.", param="endpoint"),)
        if file is None:
            return (_no_file(batch),)
        settings = self._settings()
        limits = settings.proxy.batch
        line_bytes_max = settings.proxy.sizes.body_bytes_max
        bounds = Bounds(limits.lines_max, line_bytes_max, limits.block_lines_max, limits.block_bytes_max)
        check = FileCheck(batch.id, endpoint, settings.terms, settings.prices.version_at(batch.created_ms), bounds)
        try:
            await self._read(file.stored_as, check, line_bytes_max)
        except FileMissingError:  # deleted while it was read
            return (_no_file(batch),)
        return check.finish()

    async def _read(self, name: str, check: FileCheck, line_bytes_max: int) -> None:
        step_s = 0.0
        async with contextlib.aclosing(lines_of(self._store.read(name), line_bytes_max)) as lines:
            async for line in lines:
                began_s = self._clock()
                if isinstance(line, int):
                    check.too_long(line)
                elif len(line) < LARGE_BYTES:
                    check.line(line)
                else:
                    await asyncio.to_thread(check.line, line)
                    began_s = self._clock()
                step_s += self._clock() - began_s
                if check.is_over:
                    return
                if step_s >= STEP_S:
                    self.longest_step_s = max(self.longest_step_s, step_s)
                    step_s = 0.0
                    await asyncio.sleep(PAUSE_S)

    async def _admit(self, holder: str, batch: Batch, checked: Checked) -> LineMistake | None:
        """Put it in progress if its worst case fits; return what stands against it."""
        now_ms = self._clock_ms()
        budgets = await self._budgets.of(batch, now_ms)
        looked = await self._limiter.peek(batch.account_id, budgets)
        left_nano = min(state.remaining for state in looked.states)
        if nano_from_pico_up(checked.cost_max_pico) > left_nano:
            cost, left = euros_text(checked.cost_max_pico), euros_text(left_nano * PICO_PER_NANO)
            message = (
                f"The requests of this batch can cost up to {cost} euros; {left} euros are left for {batch.month}."
            )
            return LineMistake(NO_BUDGET, message)
        enqueued_max = self._budgets.payer(batch, now_ms).tier.batch_enqueued_tokens
        admitted = await self._batches.admit(holder, batch.id, checked, enqueued_max, now_ms)
        if admitted is not Admitted.NO_ROOM:
            return None
        message = (
            f"The requests of this batch can use up to {checked.tokens_max} tokens. With those of unfinished batches "
            f"that is more than the limit of {enqueued_max} enqueued tokens: split the file, or wait for the others."
        )
        return LineMistake(NO_TOKENS, message)


def _no_file(batch: Batch) -> LineMistake:
    return LineMistake(NO_FILE, f"The input file '{batch.input_file_id}' has been deleted.", param="input_file_id")
