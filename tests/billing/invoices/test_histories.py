"""Whatever happens in whatever order, each entry is on exactly one invoice that stands, and credit adds up."""

import random
from collections import Counter

import pytest
from sqlalchemy import event, select

from proxy.billing.invoices.outcomes import IssueError
from proxy.core.invoicing.checking import mistakes_against, mistakes_of
from proxy.core.invoicing.document import DocumentKind
from proxy.ledger.month_facts import MonthFactsReader
from proxy.ledger.schema import entries
from tests.billing.invoices.support import Desk, random_entries

MONTHS = ("2026-09", "2026-10", "2026-11")


@pytest.mark.parametrize("seed", range(4))
async def test_each_entry_is_on_one_invoice_that_stands(desk, seed):
    rng = random.Random(seed)
    desk.today("2026-09-02")
    account = await desk.account("acme")
    await desk.buy(account, rng.choice((1, 250, 100_000)), "first")
    desk.today("2026-12-05")
    for _ in range(14):
        step = rng.random()
        if step < 0.5:
            await desk.ledger.insert(random_entries(rng, account, rng.choice(MONTHS), rng.randint(1, 3)))
        elif step < 0.75:
            await desk.issue(rng.choice(MONTHS))
        else:
            await cancel_one(desk, rng)
        await check(desk)
    for month in (*MONTHS, "2026-12", "2027-01", "2027-02"):
        desk.today(f"2027-{int(month[5:]) % 12 + 2:02d}-05" if month > "2026-11" else "2026-12-06")
        await desk.issue(month)
    await check(desk)
    covered = await covered_entries(desk)
    async with desk.database.read() as connection:
        everything = {row.call_id for row in await connection.execute(select(entries.c.call_id))}
    assert covered == Counter(everything)


async def cancel_one(desk: Desk, rng: random.Random) -> None:
    infos = [info for info in await desk.invoices.find(kind=DocumentKind.INVOICE) if info.stands]
    if infos:
        try:
            await desk.notes.issue(rng.choice(infos).number, None, "x")
        except IssueError as exc:
            raise AssertionError(str(exc)) from exc


async def check(desk: Desk) -> None:
    """Hold every invoice against the very entries of the ledger, and lots against what was bought."""
    assert max(Counter(await covered_entries(desk)).values(), default=0) <= 1
    lots: Counter[str] = Counter()
    bought = {lot.id: lot.amount_pico // 10**10 for lot in await desk.credit.lots()}
    for info in await desk.invoices.find(kind=DocumentKind.INVOICE):
        document = await desk.document(info.number)
        assert mistakes_of(document, desk.office.terms) == []
        assert mistakes_against(document, await desk.covered_entries(document)) == []
        if info.stands:
            lots.update(document.drawn_cents)
    assert all(cents <= bought[lot_id] for lot_id, cents in lots.items())


async def covered_entries(desk: Desk) -> Counter[str]:
    found: Counter[str] = Counter()
    for info in await desk.invoices.find(kind=DocumentKind.INVOICE):
        if info.stands:
            found.update(each.call_id for each in await desk.covered_entries(await desk.document(info.number)))
    return found


async def test_a_month_of_many_accounts_takes_as_many_statements_as_one(desk):
    rng, ids = random.Random(1), []
    for number in range(6):
        ids.append(await desk.account(f"account-{number}"))
        await desk.buy(ids[-1], 100, "lot")
        await desk.ledger.insert(random_entries(rng, ids[-1], "2026-10", 2))
    await desk.issue("2026-10")
    for id_ in ids:
        await desk.ledger.insert(random_entries(rng, id_, "2026-10", 2) + random_entries(rng, id_, "2026-11", 2))
    counted: list[int] = []
    statements: list[str] = []
    engine = desk.database._engine.sync_engine

    def note(*arguments):
        statements.append(arguments[2])

    event.listen(engine, "before_cursor_execute", note)
    reader = MonthFactsReader(desk.database, {})
    for some in (ids[:1], ids):
        statements.clear()
        states = await reader.read("2026-11", some)
        assert all(state.facts.late and state.facts.used and state.facts.lots for state in states)
        counted.append(len(statements))
    event.remove(engine, "before_cursor_execute", note)
    assert counted[0] == counted[1]
