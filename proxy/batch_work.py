"""What a serving process has for async batches, put together.

What belongs here: which store and which parts, their start and their end, and what metrics are told. What does not: how
anything is done (batching/, views/), and the process itself (app.py).
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self

import msgspec

from proxy.answering import Answering
from proxy.batching.block import Tools
from proxy.batching.budgets import Budgets
from proxy.batching.finishing import Finishing
from proxy.batching.kept import KeptWatch
from proxy.batching.permits import Permits
from proxy.batching.queue import QueueWatch
from proxy.batching.retention import Retention
from proxy.batching.running import LineResult, Running
from proxy.batching.turnstile import Turnstile
from proxy.batching.validating import Validating
from proxy.batching.worker import BatchWorker
from proxy.billing.room import CreditRoom
from proxy.clock import unix_ms
from proxy.core.batches.objects import LineStatus
from proxy.core.batches.turns import Bounds
from proxy.counting import Counting
from proxy.files.contract import FileStore
from proxy.files.opening import open_store
from proxy.ledger.accounts import new_id
from proxy.ledger.batches.batches import Batches
from proxy.ledger.batches.ends import Ends
from proxy.ledger.batches.files import BatchFiles
from proxy.ledger.batches.leasing import Leases
from proxy.ledger.batches.overview import Overview
from proxy.ledger.database import Database
from proxy.ledger.directory import Directory
from proxy.ledger.location import Location
from proxy.ledger.store import Ledger
from proxy.limiter import Limiter
from proxy.observer import Observer
from proxy.settings.types import Settings
from proxy.settlement import Settlement
from proxy.tasks import Tasks
from proxy.telemetry.metrics import Metrics
from proxy.upstream.pool import UpstreamPools
from proxy.views.batches import BatchDesk
from proxy.views.contract import POST, Asked, Caller, Content, Desk, View
from proxy.views.files import FileDesk

POOL_SIZE: Final = 4
"""Connections of their own: however much is recorded, keys are read and limits are seeded."""


class Serving(msgspec.Struct, frozen=True):
    """What of its process the work on batches needs.

    Args:
        settings: returns the settings in force.
        place: where the ledger and the state folder are.
        directory: knows accounts and keys.
        ledger: takes entries.
        limiter: knows what has room.
        pools: connections to the upstreams.
        settlement: keeps holds alive.
        counting: where tokens are counted.
        credit_room: knows what is left of prepaid credit.
        observer: is told of usage and failures.
        tasks: where work runs.
        is_degraded: whether limits are kept without the store that replicas share.
        clock: monotonic seconds.
    """

    settings: Callable[[], Settings]
    place: Location
    directory: Directory
    ledger: Ledger
    limiter: Limiter
    pools: UpstreamPools
    settlement: Settlement
    counting: Counting
    credit_room: CreditRoom
    observer: Observer
    tasks: Tasks
    is_degraded: Callable[[], bool]
    clock: Callable[[], float]


class BatchWork:
    """The batches of a process.

    Args:
        serving: the process.
        store: has the files; it is closed with this.

    Attributes:
        worker: works on batches.
        running: runs their lines.
        retention: removes files that are over.
        budgets: knows what they are paid from.
        queue: how much there is to do, for all processes.
        kept: which files there are, for all processes.
        ended: lines that have ended here, by model and status.
    """

    def __init__(self, serving: Serving, store: FileStore) -> None:
        self._serving = serving
        self._settings = serving.settings
        self._database = Database.open(serving.place.database_url, pool_size=POOL_SIZE)
        self.store = store
        self.ended: Counter[tuple[str, str]] = Counter()
        batches = Batches(self._database)
        self.queue = QueueWatch(Overview(self._database), unix_ms, serving.observer.failed)
        self.budgets = budgets = Budgets(serving.settings, serving.directory, serving.credit_room)
        self.running = self._new_running(budgets)
        tools = Tools(
            lambda: self._settings().proxy.batch,
            store,
            batches,
            Ends(self._database, serving.ledger),
            self.running,
            Permits(self._bounds),
            Turnstile(lambda: serving.observer.calls_in_flight),
            serving.settlement,
            serving.tasks,
            unix_ms,
            serving.clock,
            self._ended,
        )
        self.worker = BatchWorker(
            new_id("work"),
            Leases(self._database),
            tools,
            Validating(serving.settings, store, batches, budgets, serving.limiter, unix_ms),
            Finishing(tools, lambda: self._settings().proxy.sizes.body_bytes_max),
            self._bounds,
            serving.is_degraded,
            serving.observer.failed,
        )
        files = BatchFiles(self._database)
        self.kept = KeptWatch(files, serving.observer.failed)
        self.retention = Retention(files, store, new_id("work"), unix_ms, serving.observer.failed)

    @classmethod
    async def open(cls, serving: Serving) -> Self:
        """Open the file store.

        Raises:
            FileStoreError: it cannot be used.
        """
        return cls(serving, await open_store(serving.place.state_dir, serving.settings().object_store))

    def desks(self, database: Database) -> Mapping[View, Desk]:
        """Return who answers the views of batches and of files.

        Args:
            database: with connections for views.
        """
        batches: Desk = _Telling(BatchDesk(Batches(database)), self.worker.wake)
        serving = self._serving
        files: Desk = FileDesk(BatchFiles(database), self.store, serving.tasks, serving.observer.failed, unix_ms)
        return {
            **dict.fromkeys((View.BATCHES, View.BATCH, View.BATCH_CANCEL), batches),
            **dict.fromkeys((View.FILES, View.FILE, View.FILE_CONTENT), files),
        }

    async def run(self) -> None:
        """Work until cancelled."""
        watch = self._serving.tasks.watch
        beside = (
            watch(self.queue.run(), "batch queue"),
            watch(self.kept.run(), "kept files"),
            watch(self.retention.run(), "retention"),
        )
        try:
            await self.worker.run()
        finally:
            for task in beside:
                task.cancel()
            # Their statements are rolled back before the database is closed, which would wait for ever after it.
            await asyncio.gather(*beside, return_exceptions=True)

    def show(self, metrics: Metrics) -> None:
        """Let the metrics read what is known of batches."""
        metrics.watch_each("tollgate_unfinished_batches", "", "status", self.queue.batches)
        metrics.watch_each(
            "tollgate_batch_waiting_lines",
            "",
            "model",
            lambda: self.queue.lines({model.id for model in self._settings().models.values()}),
        )
        metrics.watch("tollgate_batch_oldest_age_seconds", "", self.queue.oldest_age_s)
        metrics.watch("tollgate_batch_in_flight_lines", "", lambda: self.worker.in_flight)
        metrics.watch_each("tollgate_batch_lines_total", "", "status", self._ended_by_status)
        metrics.watch("tollgate_batch_displaced_lines_total", "", lambda: self.running.displaced)
        metrics.watch_each("tollgate_batch_files", "", "purpose", self.kept.files)
        metrics.watch_each("tollgate_batch_files_bytes", "", "purpose", self.kept.size_bytes)
        metrics.watch("tollgate_batch_files_removed_total", "", lambda: self.retention.removed)
        metrics.watch("tollgate_batch_orphans_removed_total", "", lambda: self.retention.orphans)

    def _ended_by_status(self) -> dict[str, int]:
        sums = {status.value: 0 for status in LineStatus}
        for (_, status), count in self.ended.items():
            sums[status] += count
        return sums

    async def drain(self, timeout_s: float) -> None:
        """Begin nothing more; keep what comes to its end in this time, and leave the rest to others."""
        await self.worker.close(timeout_s)

    async def close(self) -> None:
        """Let go of store and database, after ``run`` has been cancelled."""
        await self.retention.close()
        await asyncio.gather(self.store.close(), self._database.close())

    def _new_running(self, budgets: Budgets) -> Running:
        serving = self._serving
        return Running(
            serving.settings,
            serving.pools,
            serving.limiter,
            serving.settlement,
            Answering(serving.counting, serving.observer.failed),
            budgets,
            serving.observer.upstream_failed,
            serving.observer.failed,
            serving.is_degraded,
            unix_ms,
            serving.clock,
        )

    def _bounds(self) -> Bounds:
        batch = self._settings().proxy.batch
        return Bounds(batch.lines_in_flight_max, batch.account_lines_in_flight_max, batch.model_lines_in_flight_max)

    def _ended(self, model: str, results: Sequence[LineResult]) -> None:
        for result in results:
            self.ended[model, result.status.value] += 1
            if result.entry is not None and result.flight is not None:
                self._serving.observer.line_charged(result.entry, result.flight.principal.account.name)


class _Telling:
    """A desk that tells the worker of what was changed."""

    def __init__(self, desk: Desk, tell: Callable[[], None]) -> None:
        self._desk = desk
        self._tell = tell

    async def answer(self, asked: Asked, caller: Caller, body: bytes) -> bytes | Content:
        """See the contract."""
        answer = await self._desk.answer(asked, caller, body)
        if asked.method == POST:
            self._tell()
        return answer
