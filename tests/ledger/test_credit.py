"""Credit is bought once, known wherever the account is known, and drawn by what the ledger says."""

import asyncio
import sqlite3

import pytest
from sqlalchemy import text

from proxy.billing.statement import is_active, statement_of
from proxy.core.calendar import day_bounds_ms
from proxy.core.catalogue import Tier
from proxy.core.limits import Limit, LimitKind, Measure
from proxy.core.usage import UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.credit import Credit
from proxy.ledger.database import Database
from proxy.ledger.directory import Directory
from proxy.ledger.errors import CreditConflictError, RefusedChangeError, UnknownAccountError
from proxy.ledger.migrations import migrate
from proxy.ledger.store import Ledger
from tests.ledger.support import NOON_MS, PRICES, entry

EURO = 10**12


@pytest.fixture
def credit(database, clock):
    return Credit(database, clock)


@pytest.fixture
async def account(database, clock):
    return await Accounts(database, clock).create("acme", "tier1")


async def test_credit_is_bought_once_for_each_reference_of_an_account(credit, account, database, clock):
    await Accounts(database, clock).create("other", "tier1")
    lot, is_new = await credit.add("acme", 50 * EURO, "invoice 7", "2027-12-31", note="by transfer", by="root")
    assert (is_new, lot.note, lot.added_by, lot.bought_ms) == (True, "by transfer", "root", NOON_MS)
    assert lot.expires_ms == day_bounds_ms("2027-12-31", "Europe/Paris")[1]
    clock.now_ms += 1000
    assert await credit.add("acme", 50 * EURO, "invoice 7", "2027-12-31", note="again") == (lot, False)
    assert (await credit.add("other", 50 * EURO, "invoice 7"))[1]
    assert [kept.reference for kept in await credit.lots(account.id)] == ["invoice 7"]
    assert len(await credit.lots()) == 2


async def test_the_sum_of_what_was_bought_stands_with_the_account_and_reaches_every_replica(credit, account, database):
    directory = Directory(database)
    await directory.refresh()
    for _ in range(2):
        await credit.add("acme", 2 * EURO, "a")
    await credit.add("acme", 3 * EURO + 1, "b")
    assert await directory.refresh()
    assert directory.accounts[account.id].credit_paid_pico == 5 * EURO + 1
    assert (await Accounts(database).named("acme")).credit_paid_pico == 5 * EURO + 1
    assert not await directory.refresh()
    await credit.add("acme", 2 * EURO, "a")
    assert not await directory.refresh()


async def test_two_at_once_buy_once(credit, account, database):
    bought = await asyncio.gather(*(credit.add("acme", EURO, "r") for _ in range(4)))
    assert sorted(is_new for _, is_new in bought) == [False, False, False, True]
    assert len({lot.id for lot, _ in bought}) == 1
    assert (await Accounts(database).named("acme")).credit_paid_pico == EURO


async def test_a_reference_is_not_reused_for_something_else(credit, account, database):
    await credit.add("acme", EURO, "r", "2027-01-31")
    for amount, last_day in ((2 * EURO, "2027-01-31"), (EURO, "2027-02-28"), (EURO, None)):
        with pytest.raises(CreditConflictError):
            await credit.add("acme", amount, "r", last_day)
    assert (await Accounts(database).named("acme")).credit_paid_pico == EURO


@pytest.mark.parametrize(
    ("amount", "reference", "last_day", "note"),
    [
        (0, "r", None, ""),
        (-1, "r", None, ""),
        (2**63, "r", None, ""),
        (1, " ", None, ""),
        (1, "a\x00", None, ""),
        (1, "r", "2026-11-23", ""),
        (1, "r", None, "x" * 1001),
    ],
)
async def test_credit_is_a_positive_amount_with_a_reference_and_a_day_to_come(
    credit, account, database, amount, reference, last_day, note
):
    with pytest.raises(RefusedChangeError):
        await credit.add("acme", amount, reference, last_day, note=note)
    assert await credit.lots() == []
    assert (await Accounts(database).named("acme")).credit_paid_pico == 0


async def test_an_accounts_sum_stays_within_what_the_database_can_count(credit, account):
    await credit.add("acme", 2**63 - 1, "all there is")
    with pytest.raises(RefusedChangeError, match="in all"):
        await credit.add("acme", 1, "one more")
    assert len(await credit.lots()) == 1


async def test_nobody_has_no_credit(credit):
    with pytest.raises(UnknownAccountError):
        await credit.add("nobody", EURO, "r")


async def test_the_first_credit_comes_with_the_account(database, clock):
    account = await Accounts(database, clock).create("acme", "tier1", credit_pico=200 * EURO, by="root")
    (lot,) = await Credit(database).lots(account.id)
    assert (lot.amount_pico, lot.added_by, account.credit_paid_pico) == (200 * EURO, "root", 200 * EURO)
    assert await Accounts(database).named("acme") == account


async def test_an_account_may_be_held_to_its_credit_and_let_go(database, clock, account):
    accounts, directory = Accounts(database, clock), Directory(database)
    await directory.refresh()
    assert not directory.accounts[account.id].prepaid_only
    assert (await accounts.set_prepaid_only("acme", prepaid_only=True)).prepaid_only
    assert await directory.refresh()
    assert directory.accounts[account.id].prepaid_only
    await accounts.set_prepaid_only("acme", prepaid_only=True)
    assert not await directory.refresh()
    assert not (await accounts.set_prepaid_only("acme", prepaid_only=False)).prepaid_only
    assert (await accounts.create("other", "tier1", prepaid_only=True)).prepaid_only
    assert (await accounts.named("other")).prepaid_only


async def test_a_tier_is_active_once_all_that_was_ever_bought_reaches_its_purchase_credit(account):
    def tier(purchase):
        return Tier("t", "T", purchase, None, None, None)

    def paid(amount):
        return type(account)(account.id, "acme", "t", credit_paid_pico=amount)

    assert is_active(tier(None), paid(0))
    assert is_active(tier(0), paid(0))
    assert not is_active(tier(200 * EURO), paid(200 * EURO - 1))
    assert is_active(tier(200 * EURO), paid(200 * EURO))


async def test_the_balance_follows_from_the_entries_and_can_be_made_again(credit, account, ledger, clock):
    await credit.add("acme", 1_000_000_000, "short", "2026-11-25")
    await credit.add("acme", 5_000_000_000, "long", "2027-12-31")
    days = {"2026-11-24": 40, "2026-11-25": 50, "2026-11-26": 60}
    calls = [
        entry(account_id=account.id, day=day, used=[(UsageType.OUTPUT, amount)])
        for day, amount in days.items()
        for _ in range(2)
    ]
    await ledger.insert([*calls, entry(account_id="acc_other")])
    each = {day: 2 * amount * PRICES[UsageType.OUTPUT] for day, amount in days.items()}
    facts = await credit.facts(account.id)
    assert facts.used_by_day == each
    clock.now_ms += 2 * 86_400_000
    statement = statement_of(account, facts, clock())
    assert statement.today == "2026-11-26"
    drawn_by_short = min(1_000_000_000, each["2026-11-24"] + each["2026-11-25"])
    drawn_by_long = sum(each.values()) - drawn_by_short
    assert statement.drawdown.left == (1_000_000_000 - drawn_by_short, 5_000_000_000 - drawn_by_long)
    assert statement.balance_pico == 5_000_000_000 - drawn_by_long
    assert statement.drawdown.uncovered == {}


async def test_what_waits_in_an_outbox_counts_and_once_only_when_it_arrives(credit, account, ledger, clock):
    waiting = [entry(account_id=account.id), entry(account_id=account.id), entry(account_id="acc_other")]
    cost = waiting[0].charge.total_pico
    assert (await credit.facts(account.id, waiting)).used_by_day == {"2026-11-24": 2 * cost}
    await ledger.insert(waiting)
    assert (await credit.facts(account.id, waiting)).used_by_day == {"2026-11-24": 2 * cost}
    assert (await credit.facts(account.id)).used_by_day == {"2026-11-24": 2 * cost}


async def test_a_ledger_from_before_keeps_its_lots_and_learns_their_sums(database_url, monkeypatch):
    monkeypatch.setattr("proxy.ledger.migrations.HEAD", "0001")
    await migrate(database_url)
    database = Database.open(database_url)
    async with database.write() as connection:
        for name in ("a", "b"):
            await connection.execute(
                text("INSERT INTO accounts (id, name, tier, timezone, created_ms) VALUES (:i, :i, 't', 'UTC', 1)"),
                {"i": name},
            )
        for lot, name, amount in (("l1", "a", 2**62), ("l2", "a", 5), ("l3", "b", 7)):
            await connection.execute(
                text(
                    "INSERT INTO credit_lots (id, account_id, reference, amount_pico, bought_ms, expires_ms) "
                    "VALUES (:l, :a, :l, :p, 1, NULL)"
                ),
                {"l": lot, "a": name, "p": amount},
            )
    monkeypatch.undo()
    await migrate(database_url)
    assert {each.id: each.credit_paid_pico for each in await Accounts(database).all()} == {"a": 2**62 + 5, "b": 7}
    assert [(lot.id, lot.reference, lot.note) for lot in await Credit(database).lots("a")] == [
        ("l1", "l1", ""),
        ("l2", "l2", ""),
    ]
    await database.close()
    if database_url.startswith("sqlite"):
        with sqlite3.connect(database_url.removeprefix("sqlite:///")) as connection:
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.close()


async def test_a_limiter_that_knows_nothing_learns_what_was_ever_used(account, database, clock, outbox):
    ledger = Ledger(database, outbox, clock_ms=clock)
    calls = [
        entry(account_id=account.id, month=month, day=f"{month}-05") for month in ("2025-12", "2026-10", "2026-11")
    ]
    await ledger.insert([*calls[:2], entry(account_id="acc_other")])
    await outbox.commit(calls[2])
    credit = Limit("credit", LimitKind.BUDGET, 1000, counts=Measure.EUROS)
    month = Limit("budget_month", LimitKind.BUDGET, 1000, period="2026-11", ends_ms=1, counts=Measure.EUROS)
    seed = await ledger.seed(account.id, (credit, month))
    cost = calls[0].charge.total_pico
    assert seed.spent == {("credit", ""): -(-3 * cost // 1000), ("budget_month", "2026-11"): -(-cost // 1000)}
