"""The composition root: the only file that knows concrete classes.

It starts a process and ends it without losing anything. What belongs here: which store is used, the order of starting
and of draining, signals. What does not: how anything is done.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from proxy.batch_work import BatchWork, Serving
from proxy.billing.room import CreditRoom
from proxy.clock import unix_ms
from proxy.core.endpoints import ENDPOINTS
from proxy.core.events import EventKind
from proxy.core.limit_names import LIMIT_NAMES
from proxy.counting import Counting
from proxy.events.delivery import Delivery, Result
from proxy.events.watcher import Watcher
from proxy.events.work import EventWork
from proxy.garbage import settle_garbage
from proxy.gateway import Gateway
from proxy.growth import Holds
from proxy.ledger.accounts import new_id
from proxy.ledger.credit import Credit
from proxy.ledger.database import Database
from proxy.ledger.directory import Directory
from proxy.ledger.events import Events
from proxy.ledger.leftovers import ship_leftovers
from proxy.ledger.location import Location, locate
from proxy.ledger.migrations import migrate
from proxy.ledger.outbox import Outbox
from proxy.ledger.reading import Reader
from proxy.ledger.shipper import Shipper
from proxy.ledger.shipping_process import ShippingProcess
from proxy.ledger.store import Ledger
from proxy.limiter import Limiter
from proxy.limiter.degraded import DegradedLimiter
from proxy.limiter.memory import MemoryLimiter
from proxy.limiter.redis import RedisLimiter
from proxy.observer import Observer
from proxy.settings.holder import SettingsHolder
from proxy.settlement import Settlement
from proxy.tasks import Tasks
from proxy.telemetry.logs import CallLog, log_failure
from proxy.telemetry.metrics import Metrics, sample_loop_lag
from proxy.upstream.failures import FailureKind
from proxy.upstream.pool import UpstreamPools
from proxy.views.contract import View
from proxy.views.desk import READ_S, Views
from proxy.web.admin import AdminServer
from proxy.web.finance import finance_routes
from proxy.web.public import PublicListener, stream_head
from proxy.web.tls import tls_context

_log = structlog.get_logger(__name__)

DIRECTORY_STALE_S: Final = 30.0
"""Age of the key directory from which on a process is not ready: revocations may be missing."""
SHIP_AT_END_S: Final = 10.0


class App:
    """One serving process.

    Args:
        holder: the settings.
        worker: number of this process among those that share a listener: each has an outbox of its own.
        workers: how many share it; the first of them ships what others before them have left behind.
        admin_listen: where its admin listener is; None: where the settings say.
        ship_in_process: bring entries to the ledger from here, not from a process beside this one: it starts faster,
            and serves slower.
    """

    def __init__(
        self,
        holder: SettingsHolder,
        *,
        worker: int = 0,
        workers: int = 1,
        admin_listen: str | None = None,
        ship_in_process: bool = False,
    ) -> None:
        self._holder = holder
        self._worker = worker
        self._workers = workers
        self._admin_listen = admin_listen
        self._ship_in_process = ship_in_process
        self._watchers: list[asyncio.Task[Any]] = []
        self.draining = False
        self.port = 0

    async def start(self) -> None:
        """Open the stores, then the listeners.

        Raises:
            OSError: an address is taken.
            LedgerUnavailableError, LedgerSchemaError, OutboxError: a store cannot be used.
        """
        settings = self._holder.current
        proxy = settings.proxy
        place = locate(proxy)
        await migrate(place.database_url)
        self.tasks = Tasks(log_failure)
        self.database = Database.open(place.database_url)
        self.outbox = Outbox(place.outbox(self._worker))
        self.ledger = Ledger(self.database, self.outbox, settings.prices)
        await self.ledger.check_prices(settings.prices)
        self.directory = Directory(self.database)
        await self.directory.start()
        self.shipper = self._new_shipper(place)
        self.shipper.start()
        self.limiter = self._new_limiter()
        clock = time.monotonic  # uvloop's own clock knows milliseconds only
        self.pools = UpstreamPools(
            self._holder.reader("proxy.timeouts"),
            clock,
            self._holder.reader("proxy.queue"),
            self._holder.reader("proxy.batch.places_kept_percent"),
        )
        self.call_log = CallLog()
        self.metrics = self._new_metrics()
        observer = Observer(self.metrics, self.call_log)
        self.settlement = Settlement(self.outbox, self.limiter, self.tasks, proxy.limiter.heartbeat_s, log_failure)
        self.holds = Holds(self.limiter, proxy.limiter, self.tasks, clock)
        self.counting = Counting()
        credit_room = CreditRoom(Credit(self.database), self.tasks, unix_ms)
        self.gateway = self._new_gateway(observer, credit_room, clock)
        self.batch_work = await self._open_batch_work(place, observer, credit_room, clock)
        self.views = self._new_views(place, observer, clock)
        self.public = PublicListener(self.gateway, self.views, self._holder.reader("proxy"), clock)
        self.events = self._new_events()
        self._watch_state()
        self.admin = AdminServer(
            self._admin_listen or proxy.admin_listen,
            self.metrics,
            self._ready,
            draining=lambda: self.draining,
            routes=finance_routes(place, self.views_database, lambda: self._holder.current, self._worker),
        )
        self._watch(self.pools.watch(), "pools")
        self._watch(self.settlement.beat(), "heartbeat")
        self._watch(self.events.run(), "events")
        self._watch(self.batch_work.run(), "batches")
        self._watch(sample_loop_lag(self.metrics.loop_lag), "loop-lag")
        await self.admin.start()
        host, _, port = proxy.listen.rpartition(":")
        self.port = await self.public.start(
            host.strip("[]"),
            int(port),
            tls_context(proxy.tls_certificate, proxy.tls_key),
            reuse_port=self._workers > 1,
        )
        settle_garbage()
        _log.info("listening", address=f"{host}:{self.port}", admin=self._admin_listen or proxy.admin_listen)

    async def close(self) -> None:
        """Drain: no new calls, those in flight to their end (bounded), every entry to outbox and ledger."""
        self.draining = self.gateway.draining = True
        self.pools.queue.drain()
        timeouts = self._holder.current.proxy.timeouts
        await asyncio.gather(self.public.close(timeouts.drain_s), self.batch_work.drain(timeouts.drain_s))
        late = await self.tasks.drain(timeouts.drain_s)
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        self.counting.close()
        self.pools.close()
        await self.limiter.close()
        shipped = await self.shipper.drain(SHIP_AT_END_S)
        await self.events.close()
        await self.directory.close()
        await self.outbox.close()
        await self.batch_work.close()
        await self.views_database.close()
        await self.database.close()
        await self.admin.close()
        await asyncio.to_thread(self.call_log.close)
        _log.info("stopped", cut=late, everything_shipped=shipped)

    def reload(self) -> None:
        """Read the settings again; keep the old ones when the new ones are wrong, and say so."""
        mistakes = self._holder.reload()
        for mistake in mistakes:
            _log.error("settings_mistake", mistake=str(mistake))
        if mistakes:
            _log.error("settings_kept", mistakes=len(mistakes))
            return
        settings = self._holder.current
        self.metrics.learn_models(model.id for model in settings.models.values())
        self.ledger.use_prices(settings.prices)
        if isinstance(self.shipper, ShippingProcess):
            self.shipper.use_prices(settings.prices)
        self.pools.retain({upstream for model in settings.models.values() for upstream in model.upstreams})
        _log.info("settings_reloaded", restart_needed=list(self._holder.restart_needed))

    # Choices

    def _new_shipper(self, place: Location) -> Shipper | ShippingProcess:
        is_first = self._worker == 0
        if not self._ship_in_process:
            workers = self._workers if is_first else None
            return ShippingProcess(self.outbox, place, self._holder.current.prices, workers=workers)
        if is_first:
            self.tasks.spawn(ship_leftovers(place, self._workers, self.ledger), "leftovers")
        return Shipper(self.outbox, self.ledger)

    def _new_limiter(self) -> Limiter:
        proxy = self._holder.current.proxy
        hold_ttl_ms = proxy.limiter.hold_ttl_s * 1000
        if proxy.redis_url is None:
            return MemoryLimiter(unix_ms, hold_ttl_ms, self.ledger.seed)
        return DegradedLimiter(
            RedisLimiter(proxy.redis_url, hold_ttl_ms, proxy.limiter.redis_timeout_ms, self.ledger.seed),
            proxy.limiter.degraded_share_percent,
            proxy.limiter.degraded_max_s,
            hold_ttl_ms=hold_ttl_ms,
        )

    def _new_gateway(self, observer: Observer, credit_room: CreditRoom, clock: Callable[[], float]) -> Gateway:
        return Gateway(
            self._holder.reader(),
            self.directory,
            self.limiter,
            self.pools,
            self.settlement,
            self.holds,
            observer,
            self.tasks,
            self.counting,
            credit_room,
            clock,
            stream_head,
            self._is_degraded,
        )

    def _new_views(self, place: Location, observer: Observer, clock: Callable[[], float]) -> Views:
        # Connections of their own: however much customers look, keys are read and limits are seeded.
        self.views_database = Database.open(place.database_url, pool_size=2, command_timeout_s=READ_S)
        return Views(
            self._holder.reader(),
            self.directory,
            self.limiter,
            Reader(self.views_database, place, self._worker),
            observer,
            self.tasks,
            clock,
            self._is_degraded,
            desks=self.batch_work.desks(self.views_database),
        )

    async def _open_batch_work(
        self, place: Location, observer: Observer, credit_room: CreditRoom, clock: Callable[[], float]
    ) -> BatchWork:
        return await BatchWork.open(
            Serving(
                self._holder.reader(),
                place,
                self.directory,
                self.ledger,
                self.limiter,
                self.pools,
                self.settlement,
                self.counting,
                credit_room,
                observer,
                self.tasks,
                self._is_degraded,
                clock,
            )
        )

    def _new_events(self) -> EventWork:
        # Whoever comes first works for all workers and replicas.
        events = Events(self.database)
        self.delivery = Delivery(events, unix_ms)
        watcher = Watcher(self.database, lambda: self.directory.accounts, lambda: self._holder.current.tiers, unix_ms)
        holder = new_id("work")
        return EventWork(
            events, watcher, self.delivery, lambda: self._holder.current.webhook, holder, unix_ms, log_failure
        )

    def _new_metrics(self) -> Metrics:
        settings = self._holder.current
        return Metrics(
            {model.id for model in settings.models.values()},
            ENDPOINTS,
            upstreams=settings.upstreams,
            failure_kinds=[kind.value for kind in FailureKind],
            limits=LIMIT_NAMES,
            tiers=settings.tiers,
            views=[view.value for view in View],
        )

    def _watch_state(self) -> None:
        """Let the metrics read what others know."""
        watch = self.metrics.watch
        watch("tollgate_outbox_entries", "", lambda: self.outbox.depth)
        watch("tollgate_outbox_oldest_age_seconds", "", self._outbox_age_s)
        watch("tollgate_ledger_shipped_entries_total", "", lambda: self.shipper.shipped)
        watch("tollgate_ledger_refused_entries_total", "", lambda: self.shipper.refused)
        watch("tollgate_directory_age_seconds", "", lambda: self.directory.age_s)
        watch("tollgate_limiter_degraded", "", lambda: int(self._is_degraded()))
        watch("tollgate_holds", "", lambda: len(self.settlement.in_flight))
        watch("tollgate_hold_wishes_total", "", lambda: self.holds.granted, {"result": "granted"})
        watch("tollgate_hold_wishes_total", "", lambda: self.holds.refused, {"result": "refused"})
        self.metrics.watch_each(
            "tollgate_streams_cut_total",
            "",
            "tier",
            lambda: {tier: self.holds.cut.get(tier, 0) for tier in self._holder.current.tiers},
        )
        watch("tollgate_settings_reloads_total", "", lambda: self._holder.reloads, {"result": "taken"})
        watch("tollgate_settings_reloads_total", "", lambda: self._holder.failed_reloads, {"result": "refused"})
        watch("tollgate_spool_bytes", "", lambda: self.public.spool.bytes_on_disk)
        watch("tollgate_call_log_dropped_lines_total", "", lambda: self.call_log.dropped)
        self.metrics.watch_each(
            "tollgate_upstream_in_flight_calls",
            "",
            "upstream",
            lambda: {pool.upstream.name: pool.in_flight for pool in self.pools.all()},
        )
        self.metrics.watch_each("tollgate_queued_calls", "", "priority", self._queued)
        self.metrics.watch_each(
            "tollgate_upstream_suspect",
            "",
            "upstream",
            lambda: {pool.upstream.name: pool.is_suspect for pool in self.pools.all()},
        )
        self.batch_work.show(self.metrics)
        kinds, results = list(EventKind), list(Result)
        self.metrics.watch_each(
            "tollgate_events_total",
            "",
            "kind",
            lambda: {kind.value: self.events.recorded[kind] for kind in kinds},
        )
        self.metrics.watch_each(
            "tollgate_webhook_deliveries_total",
            "",
            "result",
            lambda: {result.value: self.delivery.results[result] for result in results},
        )

    def _queued(self) -> dict[str, int]:
        waiting = self.pools.queue.waiting()
        known = {tier.priority for tier in self._holder.current.tiers.values()}
        return {str(priority): waiting.get(priority, 0) for priority in sorted(known | waiting.keys())}

    def _outbox_age_s(self) -> float:
        oldest_ms = self.outbox.oldest_ms
        return max(0, unix_ms() - oldest_ms) / 1000 if oldest_ms is not None else 0.0

    def _is_degraded(self) -> bool:
        return isinstance(self.limiter, DegradedLimiter) and self.limiter.is_degraded

    def _is_alone(self) -> bool:
        """Whether no part of the store that replicas share answers: while one does, its accounts can be served."""
        return isinstance(self.limiter, DegradedLimiter) and self.limiter.is_alone

    def _ready(self) -> dict[str, bool]:
        pools = self.pools.all()
        return {
            "directory": self.directory.age_s < DIRECTORY_STALE_S,
            "limiter": not self._is_alone() or self._holder.current.proxy.limiter.degraded_share_percent > 0,
            "outbox": not self.outbox.is_failing,
            "upstream": not pools or not all(pool.is_suspect for pool in pools),
        }

    def _watch(self, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        self._watchers.append(self.tasks.watch(coroutine, name))


async def serve(
    holder: SettingsHolder,
    *,
    worker: int = 0,
    workers: int = 1,
    admin_listen: str | None = None,
    started: Callable[[App], None] | None = None,
) -> None:
    """Run one process until SIGTERM or SIGINT; SIGHUP reloads the settings."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    app = App(holder, worker=worker, workers=workers, admin_listen=admin_listen)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await app.start()
    loop.add_signal_handler(signal.SIGHUP, app.reload)
    if started is not None:
        started(app)
    try:
        await stop.wait()
    finally:
        await app.close()
