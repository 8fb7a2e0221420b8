"""All comparisons, one after the other, and repairs between two of them.

What belongs here: which comparisons can be made of what was asked, and with what. What does not: how each is made.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from functools import partial
from typing import Final

import msgspec
from aiohttp import ClientSession

from proxy.clock import unix_ms
from proxy.core.accounts import Account
from proxy.core.calendar import month_of
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.kept_documents import KeptDocuments
from proxy.ledger.keys import Keys
from proxy.ledger.location import Location
from proxy.ledger.rebuild import Rebuilding
from proxy.ledger.recount import Recount
from proxy.ledger.totals import Totals
from proxy.limiter import LimiterUnavailableError
from proxy.reconciling import limits, rollups
from proxy.reconciling.asking import BehindError, Entries, Patience, until_agreed
from proxy.reconciling.engines import (
    EngineCounts,
    Server,
    all_servers,
    compare_engine,
    is_counting,
    read_engine,
    servers_of,
)
from proxy.reconciling.findings import Finding, Source, Status, Threshold, not_compared
from proxy.reconciling.invoices import compare_invoices
from proxy.reconciling.metrics import Process, compare_metrics, read_process
from proxy.reconciling.repairing import Repaired, repair_limits, repair_rollups
from proxy.reconciling.scraping import UnreachableError, scrape
from proxy.settings.types import Settings

ENGINE_TOLERANCE_PERCENT: Final = 1


class Asked(msgspec.Struct, frozen=True):
    """What is to be compared.

    Args:
        sources: which comparisons.
        month: of this one only, ``YYYY-MM``; None: of all.
        account: of the one with this name or id only; None: of all.
        metrics: where the serving processes are asked, as URLs of /metrics.
        metrics_are_all: whether these are all processes that serve.
        threshold: up to which difference nothing is said.
        engine_tolerance_percent: how much more servers may have counted than was charged.
        patience: how often what differs is looked at.
    """

    sources: frozenset[Source] = frozenset(Source)
    month: str | None = None
    account: str | None = None
    metrics: tuple[str, ...] = ()
    metrics_are_all: bool = False
    threshold: Threshold = Threshold()
    engine_tolerance_percent: int = ENGINE_TOLERANCE_PERCENT
    patience: Patience = Patience()


class Reconciler:
    """Makes the comparisons.

    Args:
        settings: which tiers, models and servers there are.
        database: the ledger's, as it is.
        location: where the outboxes are.
        store: where the limiter's budgets are; None: nowhere that can be asked.
        session: asks processes and servers.
        told: is told how many entries of how many have been counted.
        clock_ms: Unix milliseconds.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        location: Location,
        store: limits.Store | None,
        session: ClientSession,
        told: rollups.Told = lambda _done, _total: None,
        clock_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._session = session
        self._told = told
        self._clock_ms = clock_ms
        self._entries = Entries(Totals(database), location)

    async def compare(self, asked: Asked) -> list[Finding]:
        """Make every comparison that was asked for, in the order of ``Source``.

        Raises:
            UnknownAccountError: there is no such account.
            LedgerUnavailableError, OutboxError: the truth cannot be read.
        """
        accounts = await self._accounts(asked)
        ways = {
            Source.ROLLUPS: self._rollups,
            Source.LIMITER: self._limiter,
            Source.METRICS: self._metrics,
            Source.INVOICES: self._invoices,
            Source.ENGINES: self._engines,
        }
        return [await ways[source](asked, accounts) for source in Source if source in asked.sources]

    async def repair(self, asked: Asked) -> AsyncGenerator[Repaired, None]:
        """Put right whatever differs at all in what was asked for; yield each change once it is made.

        A limiter that cannot be compared is left alone: the next comparison says why.

        Raises:
            UnknownAccountError: there is no such account.
            LedgerUnavailableError, OutboxError: the truth cannot be read; what was changed before stays.
        """
        asked = msgspec.structs.replace(asked, threshold=Threshold())
        accounts = await self._accounts(asked)
        if Source.ROLLUPS in asked.sources:
            names = {account.id: account.name for account in accounts}
            compared = await self._compare_rollups(asked, accounts)
            async for each in repair_rollups(Rebuilding(self._database), compared.drifted, names):
                yield each
        if Source.LIMITER in asked.sources and self._store is not None and self._is_present(asked, accounts):
            with contextlib.suppress(LimiterUnavailableError, BehindError):
                _, drifted = await self._compare_limits(asked, accounts, self._store)
                async for each in repair_limits(self._store, drifted):
                    yield each

    async def _accounts(self, asked: Asked) -> list[Account]:
        accounts = Accounts(self._database)
        return await accounts.all() if asked.account is None else [await accounts.named(asked.account)]

    def _is_present(self, asked: Asked, accounts: Collection[Account]) -> bool:
        """Whether what is asked for is going on: what only knows the present can then be compared."""
        now_ms = self._clock_ms()
        return asked.month is None or any(month_of(now_ms, each.timezone) == asked.month for each in accounts)

    # Each source

    async def _rollups(self, asked: Asked, accounts: Sequence[Account]) -> Finding:
        return (await self._compare_rollups(asked, accounts)).finding

    async def _compare_rollups(self, asked: Asked, accounts: Sequence[Account]) -> rollups.Compared:
        only = None if asked.account is None else accounts[0].id
        names = {account.id: account.name for account in accounts}
        recount = Recount(self._database)
        total = await recount.entries_expected(only, asked.month)
        months = recount.account_months(only, asked.month)
        return await rollups.compare_rollups(months, names, asked.threshold, lambda done: self._told(done, total))

    async def _limiter(self, asked: Asked, accounts: Sequence[Account]) -> Finding:
        if self._store is None:
            why = "not reachable: without redis_url each serving process keeps limits in its own memory"
            return not_compared(Source.LIMITER, why)
        if not self._is_present(asked, accounts):
            return not_compared(Source.LIMITER, "the limiter counts the present month only")
        try:
            finding, _ = await self._compare_limits(asked, accounts, self._store)
        except LimiterUnavailableError as exc:
            return not_compared(Source.LIMITER, f"not reachable: {exc}")
        except BehindError as exc:
            return not_compared(Source.LIMITER, str(exc))
        return finding

    async def _compare_limits(
        self, asked: Asked, accounts: Sequence[Account], store: limits.Store
    ) -> tuple[Finding, list[limits.Drifted]]:
        keys = [info.key for info in await Keys(self._database).all(asked.account)]
        now_ms = self._clock_ms()
        present = [each for each in accounts if asked.month in (None, month_of(now_ms, each.timezone))]
        budgets, missing = limits.budgets_of(present, keys, self._settings.tiers, now_ms)
        last: list[limits.Compared] = []

        async def attempt() -> Finding:
            last[:] = [await limits.compare_limits(store, budgets, self._entries.spent, asked.threshold)]
            return last[0].finding

        finding = await until_agreed(attempt, asked.patience)
        notes = [f"not compared: accounts with the unknown tier {tier!r}" for tier in missing]
        if self._entries.set_aside:
            notes.append(
                f"{self._entries.set_aside:,} entries were set aside, which the ledger can never take: counted"
            )
        return msgspec.structs.replace(finding, notes=(*finding.notes, *notes)), list(last[0].drifted)

    async def _metrics(self, asked: Asked, accounts: Sequence[Account]) -> Finding:
        if why := self._only_whole(asked, accounts):
            return not_compared(Source.METRICS, why)
        if not asked.metrics:
            return not_compared(Source.METRICS, "no process was named (--metrics)")

        async def look() -> list[Process]:
            return [read_process(url, await scrape(self._session, url)) for url in asked.metrics]

        attempt = partial(
            compare_metrics, look, self._entries.served_since, asked.threshold, all_given=asked.metrics_are_all
        )
        try:
            return await until_agreed(attempt, asked.patience)
        except (UnreachableError, BehindError) as exc:
            return not_compared(Source.METRICS, str(exc))

    async def _invoices(self, asked: Asked, accounts: Sequence[Account]) -> Finding:
        only = None if asked.account is None else accounts[0].id
        kept = KeptDocuments(self._database).accounts(only, asked.month)
        by_id = {account.id: account for account in accounts}
        return await compare_invoices(kept, by_id, asked.threshold, self._clock_ms(), asked.month)

    async def _engines(self, asked: Asked, accounts: Sequence[Account]) -> Finding:
        if why := self._only_whole(asked, accounts):
            return not_compared(Source.ENGINES, why)
        servers = servers_of(self._settings.upstreams.values(), self._settings.models.values())
        findings = [await self._engine(asked, server) for server in servers if is_counting(server)]
        return all_servers(findings, [server for server in servers if not is_counting(server)])

    async def _engine(self, asked: Asked, server: Server) -> Finding:
        async def ask() -> EngineCounts:
            url = f"{server.url.rstrip('/')}/metrics"
            return read_engine(server.url, server.engine, await scrape(self._session, url))

        attempt = partial(
            compare_engine, server, ask, self._entries.served_since, asked.threshold, asked.engine_tolerance_percent
        )
        try:
            return await until_agreed(attempt, asked.patience)
        except BehindError as exc:
            return not_compared(Source.ENGINES, str(exc))

    def _only_whole(self, asked: Asked, accounts: Collection[Account]) -> str:
        """Return why what was asked for cannot be compared with counters of everything; empty: it can."""
        if asked.account is not None:
            return "counters do not tell accounts apart"
        return "" if self._is_present(asked, accounts) else "counters do not tell months apart"


def is_sound(findings: Collection[Finding], named: Collection[Source]) -> bool:
    """Whether nothing has drifted, and whatever was asked for by name could be compared."""
    return not any(
        finding.status is Status.DRIFTS or (finding.status is Status.NOT_COMPARED and finding.source in named)
        for finding in findings
    )
