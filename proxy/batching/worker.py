"""The worker: what of all batches this process does, and when.

What belongs here: claiming, renewing and giving back, and ending when the process ends. What does not: the work itself
(validating.py, block.py, finishing.py), and whose turn it is (core/batches/turns.py).

A worker looks for work every so often, and at once when a batch was created or cancelled here, or a block has ended.
What it has leased it renews three times in the life of a lease; so it learns that a batch has been cancelled, stopped
or is past its time, and begins no more of its lines. Lines on which an upstream works then may come to their end,
``STOPPING_S`` at most. A process that drains does the same in the time that it has; what is left is run elsewhere.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from proxy.batching.block import TRANSIENT, BlockRun, Tools
from proxy.batching.finishing import Finishing
from proxy.batching.validating import Validating
from proxy.core.batches.objects import Batch, BatchStatus
from proxy.core.batches.results import INSUFFICIENT_BUDGET
from proxy.core.batches.turns import Bounds, Under
from proxy.ledger.batches.ends import LeaseLostError
from proxy.ledger.batches.leasing import BlockId, Claimed, Leases
from proxy.ledger.errors import LedgerError

_log = structlog.get_logger(__name__)

STOPPING_S: Final = 600.0
"""How long lines of a batch that is cancelled or past its time may still take (as OpenAI's cancelling may)."""
RENEWALS: Final = 3
"""In the life of a lease."""
BLOCKS_AT_ONCE: Final = 8
"""Most blocks that are claimed in one look: their lines are in memory."""
CLEAR_EVERY: Final = 30
"""So many looks go by between two for batches whose segments are left over from a process that died."""
KEEPING_S: Final = 5.0
"""How long a process that drains may take to keep the last results."""
UNKEPT_MAX: Final = 8
"""No block is taken while so many times the lines that run at once have begun and not ended: results are in memory."""
AFTER_FAILURE_S: Final = 10.0
"""How long a block is kept that could not be run to its end: who takes it next may have the same trouble."""


class BatchWorker:
    """Works on batches.

    Args:
        holder: this process's name in leases: unique.
        leases: of all workers.
        tools: with what blocks are run.
        validating: checks files.
        finishing: makes files.
        bounds: returns how many lines may run at once.
        is_degraded: whether limits are kept without the store that replicas share: then nothing is begun.
        on_error: told of what should not have happened.
        stopping_s: see ``STOPPING_S``.

    Attributes:
        blocks: those in hand.
    """

    def __init__(
        self,
        holder: str,
        leases: Leases,
        tools: Tools,
        validating: Validating,
        finishing: Finishing,
        bounds: Callable[[], Bounds],
        is_degraded: Callable[[], bool],
        on_error: Callable[[str, BaseException], None],
        stopping_s: float = STOPPING_S,
    ) -> None:
        self._holder = holder
        self._leases = leases
        self._tools = tools
        self._validating = validating
        self._finishing = finishing
        self._bounds = bounds
        self._is_degraded = is_degraded
        self._on_error = on_error
        self._stopping_s = stopping_s
        self._wakes = asyncio.Event()
        self._runs: dict[asyncio.Task[None], BlockRun] = {}
        self._whole: dict[asyncio.Task[None], str] = {}  # batches that are validated, finished or cleared
        self._last_validated = ""  # of which account
        self._looks = 0
        self._looked_s = -1e9  # when all kinds of work were looked for, monotonic
        self._is_told = False
        self._is_away = False
        self._is_closing = False
        self.blocks: dict[BlockId, BlockRun] = {}

    @property
    def in_flight(self) -> int:
        """How many lines run here."""
        return self._tools.permits.taken

    def wake(self) -> None:
        """Look at everything now: a batch has been created or cancelled."""
        self._is_told = True
        self._wakes.set()

    async def run(self) -> None:
        """Work until cancelled."""
        renewing = self._tools.tasks.watch(self._renew(), "batch leases")
        try:
            while True:
                await self._turn()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._tools.settings().poll_s):
                        await self._wakes.wait()
                self._wakes.clear()
        finally:
            renewing.cancel()

    async def _turn(self) -> None:
        try:
            await self.look()
            self._is_away = False
        except LedgerError as exc:
            if not self._is_away:  # said once, not at every look
                self._is_away = True
                _log.warning("batches_wait", error=str(exc))
        except Exception as exc:  # noqa: BLE001 - the next look may go well
            self._on_error("batches", exc)

    async def look(self) -> None:
        """Look for work once, and begin it.

        Raises:
            LedgerUnavailableError: the database does not answer.
        """
        if self._is_closing:
            return
        if self._is_told:
            self._is_told = False
            self._looked_s = -1e9
            await self.renew()
        # Most of the time there is no batch at all: then nothing is locked.
        is_idle = await self._leases.is_idle()
        if self._tools.clock() - self._looked_s >= self._tools.settings().poll_s:
            self._looked_s = self._tools.clock()
            await self._look_for_whole_batches(is_idle=is_idle)
        if not is_idle:
            await self._look_for_blocks()

    async def _look_for_whole_batches(self, *, is_idle: bool) -> None:
        if not is_idle:
            await self._look_for("validate", self._claim_to_validate, self._validate)
            await self._look_for("finish", self._leases.claim_to_finish, self._finish)
        if self._looks % CLEAR_EVERY == 0:
            await self._look_for("clear", self._leases.claim_to_clear, self._finishing.clear)
        self._looks += 1

    async def _look_for_blocks(self) -> None:
        bounds = self._bounds()
        begun = sum(run.remaining - run.to_begin for run in self._runs.values())
        if self._is_degraded() or begun >= bounds.total * UNKEPT_MAX:
            return
        running = [
            Under(run.claimed.batch.account_id, run.claimed.batch.model, run.to_begin) for run in self._runs.values()
        ]
        now_ms = self._tools.clock_ms()
        claimed = await self._leases.claim_blocks(
            self._holder, running, bounds, BLOCKS_AT_ONCE, now_ms, now_ms + self._lease_ms
        )
        if self._is_closing:  # it has begun to, meanwhile, and stops only what it knew of
            await self._give_back(*(each.id for each in claimed))
            return
        for each in claimed:
            self._begin(each)
        if len(claimed) == BLOCKS_AT_ONCE:
            self._wakes.set()

    @property
    def _lease_ms(self) -> int:
        return self._tools.settings().lease_s * 1000

    # Blocks

    def _begin(self, claimed: Claimed) -> None:
        run = self.blocks[claimed.id] = BlockRun(self._holder, claimed, self._tools, self._wakes.set)
        task = self._tools.tasks.watch(self._run_block(run), "batch block")
        self._runs[task] = run
        task.add_done_callback(self._block_over)

    def _block_over(self, task: "asyncio.Task[None]") -> None:
        run = self._runs.pop(task)
        if self.blocks.get(run.claimed.id) is run:
            del self.blocks[run.claimed.id]
        if run.was_last or not any(each.to_begin for each in self._runs.values()):
            self._wakes.set()  # else there is enough to do until a block has begun all its lines, which wakes too

    async def _run_block(self, run: BlockRun) -> None:
        claimed = run.claimed
        try:
            if await run.run():
                if run.was_last:
                    self._looked_s = -1e9  # its batch is to be finished
                return
            if run.budget_is_over:
                await self._stop_batch(claimed.batch)
                self._looked_s = -1e9
            elif not run.is_stopped:
                await asyncio.sleep(AFTER_FAILURE_S)
        except LeaseLostError:
            _log.info("batch_block_lost", batch=claimed.batch.id, block=claimed.block.number)
            return
        except Exception as exc:  # noqa: BLE001 - other blocks go on
            self._on_error("batch block", exc)
            await asyncio.sleep(AFTER_FAILURE_S)
        await self._give_back(claimed.id)

    async def _stop_batch(self, batch: Batch) -> None:
        """Begin no more lines of a batch that the budget has no room for."""
        for run in self.blocks.values():
            if run.claimed.batch.id == batch.id:
                run.stop()
        with contextlib.suppress(LedgerError):  # else whoever takes the block finds the budget as it is
            if await self._tools.ends.stop(batch.id, INSUFFICIENT_BUDGET, self._tools.clock_ms()):
                _log.info("batch_stopped", batch=batch.id, reason=INSUFFICIENT_BUDGET.code)

    async def _give_back(self, *blocks: BlockId) -> None:
        with contextlib.suppress(LedgerError):  # else the leases end by themselves
            await self._leases.give_back(self._holder, blocks)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease_ms / 1000 / RENEWALS)
            try:
                await self.renew()
            except LedgerError:  # what is lost is told by whoever ends a line
                continue
            except Exception as exc:  # noqa: BLE001 - the next time may go well
                self._on_error("batch leases", exc)

    async def renew(self) -> None:
        """Renew all leases of blocks, and stop those of batches that are not in progress any more.

        Raises:
            LedgerUnavailableError: the database does not answer.
        """
        held = dict(self.blocks)
        now_ms = self._tools.clock_ms()
        renewed = await self._leases.renew_blocks(self._holder, held, now_ms + self._lease_ms)
        for block, run in held.items():
            batch = renewed.get(block)
            if batch is None:
                run.abort()  # it is another's, or has just been done
            elif batch.status is not BatchStatus.IN_PROGRESS or batch.expires_ms <= now_ms:
                self._stop(run)

    def _stop(self, run: BlockRun) -> None:
        if not run.is_stopped:
            run.stop()
            asyncio.get_running_loop().call_later(self._stopping_s, run.abort)

    # Whole batches

    async def _look_for(
        self,
        kind: str,
        claim: Callable[[str, int, int], Awaitable[Batch | None]],
        work: Callable[[str, Batch], Awaitable[None]],
    ) -> None:
        """Claim a batch and work on it beside everything else: one of each kind at a time."""
        if kind in self._whole.values():
            return
        now_ms = self._tools.clock_ms()
        batch = await claim(self._holder, now_ms, now_ms + self._lease_ms)
        if batch is not None and not self._is_closing:  # else it is anybody's when the lease is over
            task = self._tools.tasks.watch(self._work_on(kind, batch, work), f"batch {kind}")
            self._whole[task] = kind
            task.add_done_callback(self._whole_over)

    def _whole_over(self, task: "asyncio.Task[None]") -> None:
        del self._whole[task]
        self._looked_s = -1e9
        self._wakes.set()

    async def _work_on(self, kind: str, batch: Batch, work: Callable[[str, Batch], Awaitable[None]]) -> None:
        renewing = self._tools.tasks.watch(self._keep(batch), "batch lease")
        try:
            await work(self._holder, batch)
        except LeaseLostError:
            _log.info("batch_lost", batch=batch.id, work=kind)
        except TRANSIENT as exc:  # whoever has it after the lease tries again
            _log.warning("batch_waits", batch=batch.id, work=kind, error=str(exc))
        except Exception as exc:  # noqa: BLE001 - others go on
            self._on_error(f"batch {kind}", exc)
        finally:
            renewing.cancel()

    async def _keep(self, batch: Batch) -> None:
        """Renew the lease of a whole batch, as long as it is this one's: whose it is, is asked at the end again."""
        is_held = True
        while is_held:
            await asyncio.sleep(self._lease_ms / 1000 / RENEWALS)
            with contextlib.suppress(LedgerError):
                until_ms = self._tools.clock_ms() + self._lease_ms
                is_held = await self._leases.renew_batch(self._holder, batch.id, until_ms)

    async def _claim_to_validate(self, holder: str, now_ms: int, until_ms: int) -> Batch | None:
        batch = await self._leases.claim_to_validate(holder, now_ms, until_ms, self._last_validated)
        if batch is not None:
            self._last_validated = batch.account_id
        return batch

    async def _validate(self, holder: str, batch: Batch) -> None:
        await self._validating.validate(holder, batch)
        await self._leases.give_back_batch(holder, batch.id)  # it was cancelled meanwhile, and is to be finished

    async def _finish(self, holder: str, batch: Batch) -> None:
        await self._finishing.finish(holder, batch)
        await self._finishing.clear(holder, batch)

    # The end

    async def close(self, timeout_s: float) -> None:
        """Begin nothing more; let lines come to their end in this time, keep what has, and give the rest back."""
        self._is_closing = True
        for run in self.blocks.values():
            run.stop()
        tasks = {*self._runs, *self._whole}
        if self._runs:
            await asyncio.wait(set(self._runs), timeout=timeout_s)
        for run in self._runs.values():
            run.abort()
        if self._runs:  # what has a result is kept
            await asyncio.wait(set(self._runs), timeout=KEEPING_S)
        left = [run.claimed.id for run in self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._give_back(*left)
