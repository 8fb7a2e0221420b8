"""How long it takes to invoice a month of ten million calls: a thousand invoices with their PDFs.

Run: ``python -m bench.invoices``, on SQLite and on a PostgreSQL of its own; ``--database-url`` names an empty database
instead. The exit code is 1 when a month of a thousand accounts takes a minute or more, by the clock.

A month is invoiced from its rollups and the heads of its chains, so those are what is made here; every document is then
drafted, checked, written, held to the official rules and stored as ``tollgate invoice issue`` does it.
"""

import argparse
import asyncio
import contextlib
import os
import random
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Table

from proxy.billing.invoices.craft import OFFICIAL
from proxy.billing.invoices.months import Months
from proxy.billing.invoices.office import Office, need_seller
from proxy.billing.invoices.outcomes import Outcome, Result
from proxy.billing.invoices.press import Press
from proxy.billing.invoices.workshop import Craft, Workshop
from proxy.core.calendar import month_bounds_ms
from proxy.core.parties import Address, Buyer, Language, VatTreatment
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.accounts import Accounts, new_id
from proxy.ledger.buyers import Buyers
from proxy.ledger.credit import Credit
from proxy.ledger.database import Database
from proxy.ledger.invoice_schema import chain_heads
from proxy.ledger.invoices import Invoices
from proxy.ledger.migrations import migrate
from proxy.ledger.schema import accounts, rollups_daily, rollups_monthly
from proxy.settings.loader import load_settings
from tests.support.services import create_database, postgres_server

MONTH = "2026-10"
DAYS = 31
MODELS = ("gpt-oss:120b", "qwen3:8b", "mistral-small:24b", "bge-m3")
PRICES = {UsageType.INPUT: 1_800_000, UsageType.CACHED_INPUT: 900_000, UsageType.OUTPUT: 8_000_000}
ROWS = 5_000
MAIL = "pay@acme.example"
PREPAID_EVERY = 10
"""One account in so many pays with credit, and gets a deposit invoice first."""


CEILING_S = 60
"""In which a thousand accounts must be invoiced, two cores doing nothing else."""
JUDGED_ACCOUNTS = 1_000


@dataclass(frozen=True)
class MonthResult:
    """How long a month took.

    Args:
        engine: as the report calls it.
        accounts: that were invoiced.
        took_s: by the clock.
        used_s: of processors, all processes.
    """

    engine: str
    accounts: int
    took_s: float
    used_s: float

    def problem(self) -> str | None:
        """Say what is not good enough. Of fewer accounts nothing is said: a worker's first document takes a second."""
        if self.took_s < CEILING_S or self.accounts < JUDGED_ACCOUNTS:
            return None
        cores = len(os.sched_getaffinity(0))
        return (
            f"invoices: {self.engine}, {self.accounts:,} accounts: {self.took_s:.1f} s are not under {CEILING_S} s "
            f"({self.used_s / cores:.1f} s if {cores} cores had done nothing else)"
        )


def main() -> int:
    """Measure, report, judge."""
    parser = argparse.ArgumentParser(prog="python -m bench.invoices", description=__doc__)
    parser.add_argument("--accounts", type=int, default=1_000)
    parser.add_argument("--calls", type=int, default=10_000_000, help="of the month, all accounts together")
    parser.add_argument("--lines", type=int, default=12, help="of an invoice, 24 at most")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes that make files")
    parser.add_argument("--without-rules", action="store_true", help="the official rules are not run: what they cost")
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    parser.add_argument("--database-url", help="an empty database")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {}
        if options.database_url:
            urls["given"] = options.database_url
        else:
            if options.only != "postgresql":
                urls["sqlite"] = f"sqlite:///{state / 'ledger.db'}"
            if options.only != "sqlite":
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tollgate-postgres-"))
                server = stack.enter_context(postgres_server(Path(folder)))
                create_database(server, "bench")
                urls["postgresql"] = server.rsplit("/", 1)[0] + "/bench"
        results = [asyncio.run(measure(name, url, options)) for name, url in urls.items()]
    problems = [problem for result in results if (problem := result.problem())]
    for problem in problems:
        print(f"not good enough: {problem}")
    return 1 if problems else 0


async def measure(name: str, url: str, options: argparse.Namespace) -> MonthResult:
    """Make a month, invoice it, and print what that took."""
    await migrate(url)
    database = Database.open(url, command_timeout_s=600)
    try:
        await fill(database, options.accounts, options.calls, options.lines)
        settings = load_settings(Path("config"), {})
        spent: defaultdict[str, float] = defaultdict(float)
        craft = OFFICIAL if not options.without_rules else Craft(OFFICIAL.make, no_rules)
        office = Office(database, need_seller(settings.seller), settings.invoicing, settings.tiers, by="bench")
        began_s, cpu_began_s = time.perf_counter(), cpu_s()
        async with Workshop(craft, office.terms, options.workers) as workshop:
            invoices = Invoices(database)
            invoices.store = timed(invoices.store, spent, "storing")  # type: ignore[method-assign]
            workshop.make = timed(workshop.make, spent, "making files and running rules")  # type: ignore[method-assign]
            months = Months(office, Press(invoices, workshop, office.terms))
            reader = months._reader  # noqa: SLF001 - to see where the time goes
            reader.read = timed(reader.read, spent, "reading")  # type: ignore[method-assign]
            outcomes = await months.issue(MONTH)
        took_s, used_s = time.perf_counter() - began_s, cpu_s() - cpu_began_s
        await report(name, outcomes, invoices, took_s, spent)
        print(f"{'of a processor, all processes':>40} {used_s:8.1f} s")
        began_s = time.perf_counter()
        again = await Months(office, Press(invoices, workshop, office.terms)).issue(MONTH)
        assert all(outcome.result is Result.ALREADY for outcome in again)
        print(f"{'issuing again, which does nothing':>40} {time.perf_counter() - began_s:8.1f} s")
        return MonthResult(name, options.accounts, took_s, used_s)
    finally:
        await database.close()


async def report(
    name: str, outcomes: Sequence[Outcome], invoices: Invoices, took_s: float, spent: dict[str, float]
) -> None:
    refused = [outcome for outcome in outcomes if outcome.result is not Result.ISSUED]
    assert not refused, refused[:3]
    numbers = [info.number for info in await invoices.find()]
    sample = await invoices.read(numbers[-1])
    each = len(numbers) / took_s
    print(f"{name}: {len(outcomes):,} invoices and {len(numbers) - len(outcomes):,} deposit invoices")
    print(f"{'in all':>40} {took_s:8.1f} s, {each:.1f} documents a second")
    for what, seconds in (*spent.items(), ("drafting, checking and the rest", took_s - sum(spent.values()))):
        print(f"{what:>40} {seconds:8.1f} s")
    print(f"{'the last of them':>40} {len(sample.document.lines)} lines, PDF of {len(sample.pdf) / 1000:.0f} kB")


def cpu_s() -> float:
    """Return the processor time of this process and of those that it has waited for."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def timed(work: Callable[..., Awaitable[Any]], spent: dict[str, float], what: str) -> Callable[..., Awaitable[Any]]:
    async def measured(*arguments: Any, **options: Any) -> Any:
        began_s = time.perf_counter()
        try:
            return await work(*arguments, **options)
        finally:
            spent[what] += time.perf_counter() - began_s

    return measured


def no_rules(_xml: bytes) -> list[str]:
    return []


async def fill(database: Database, count: int, calls: int, lines: int) -> None:
    """Make accounts with buyers, and the sums of a month's calls."""
    rng = random.Random(1)
    starts_ms, _ = month_bounds_ms(MONTH, "Europe/Paris")
    ids = [new_id("acc") for _ in range(count)]
    rows: list[dict[str, Any]] = [
        {
            "id": id_,
            "name": f"account-{place:05d}",
            "tier": "tier2",
            "timezone": "Europe/Paris",
            "created_ms": starts_ms,
        }
        for place, id_ in enumerate(ids)
    ]
    await insert(database, accounts, rows)
    kinds = [buyer(vat, language) for vat in VatTreatment for language in Language]
    for place, id_ in enumerate(ids):
        await Buyers(database).set(id_, kinds[place % len(kinds)])
        if place % PREPAID_EVERY == 0:
            known = await Accounts(database).named(id_)
            await Credit(database, lambda: starts_ms).add(known.id, 10**14, "top-up")
    each = calls // count
    items = [(model, kind, cls) for cls in TariffClass for model in MODELS for kind in PRICES][:lines]
    monthly, daily = [], []
    for id_ in ids:
        for model, kind, cls in items:
            key = {"account_id": id_, "model": model, "usage_type": kind.value, "tariff_class": cls.value}
            days = [rng.randint(1, 1_000) * each // (DAYS * len(items)) + 1 for _ in range(DAYS)]
            for day, quantity in enumerate(days, 1):
                daily.append(key | sums(quantity, kind) | {"day": f"{MONTH}-{day:02d}"})
            monthly.append(key | sums(sum(days), kind) | {"month": MONTH})
    await insert(database, rollups_monthly, monthly)
    await insert(database, rollups_daily, daily)
    links = max(1, each // 20)
    heads = [{"account_id": id_, "month": MONTH, "link": links, "head": f"{rng.getrandbits(256):064x}"} for id_ in ids]
    await insert(database, chain_heads, heads)


def sums(quantity: int, kind: UsageType) -> dict[str, Any]:
    return {
        "price_version": "2026-01",
        "quantity": quantity,
        "cost_pico": quantity * PRICES[kind],
        "calls": quantity // 500 + 1,
    }


def buyer(vat: VatTreatment, language: Language) -> Buyer:
    if vat is VatTreatment.FRENCH:
        address = Address(("3 rue des Lilas",), "69003", "Lyon", "FR")
        return Buyer("Acme SAS", address, language=language, siren="732829320", vat_number="FR44732829320")
    if vat is VatTreatment.REVERSE_CHARGE:
        address = Address(("Hauptstr. 1",), "10115", "Berlin", "DE")
        return Buyer("Acme GmbH", address, vat, 0, language, vat_number="DE136695976", email=MAIL)
    return Buyer("Acme Inc.", Address(("1 Main St",), "", "Springfield", "US"), vat, 0, language, email=MAIL)


async def insert(database: Database, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    for some in slices(rows):
        async with database.write() as connection:
            await connection.execute(table.insert(), list(some))


def slices(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    for start in range(0, len(rows), ROWS):
        yield rows[start : start + ROWS]


if __name__ == "__main__":
    sys.exit(main())
