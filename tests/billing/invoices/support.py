"""An office of one's own: accounts with buyers, entries, and a clock."""

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

from proxy.billing.documents import Files
from proxy.billing.invoices.credit_notes import CreditNotes
from proxy.billing.invoices.deposits import Deposits
from proxy.billing.invoices.months import Months
from proxy.billing.invoices.office import Office
from proxy.billing.invoices.press import Press
from proxy.billing.invoices.workshop import Craft, Workshop
from proxy.core.calendar import day_bounds_ms
from proxy.core.entries import Entry
from proxy.core.invoicing.document import Invoice
from proxy.core.invoicing.terms import InvoicingTerms
from proxy.core.parties import Address, Buyer
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.buyers import Buyers
from proxy.ledger.credit import Credit
from proxy.ledger.database import Database
from proxy.ledger.invoices import Invoices
from proxy.ledger.store import Ledger
from tests.billing.documents.samples import SELLER
from tests.ledger.support import Clock, entry

ZONE = "Europe/Paris"
TERMS = InvoicingTerms()


def buyer(**changes: object) -> Buyer:
    """Return a buyer that can be invoiced."""
    address = Address(("3 rue des Lilas",), "69003", "Lyon", "FR")
    made = Buyer("Acme SAS", address, siren="732829320", vat_number="FR44732829320", email="pay@acme.example")
    return msgspec.structs.replace(made, **changes)


def plain_files(invoice: Invoice, _terms: InvoicingTerms) -> Files:
    """Stand in for files whose making takes its time: what they say, and no more."""
    said = msgspec.json.encode(invoice)
    return Files(xml=b"<xml>" + said, pdf=b"%PDF" + said)


def no_rules(_xml: bytes) -> list[str]:
    return []


PLAIN = Craft(plain_files, no_rules)


def noon_ms(day: str) -> int:
    return day_bounds_ms(day, ZONE)[0] + 12 * 3_600_000


class Desk:
    """Everything that a test of issuing talks to."""

    def __init__(self, database: Database, terms: InvoicingTerms = TERMS, craft: Craft = PLAIN) -> None:
        self.database = database
        self.clock = Clock(noon_ms("2026-12-03"))
        self.ledger = Ledger(database)
        self.accounts = Accounts(database, self.clock)
        self.invoices = Invoices(database, self.clock)
        self.credit = Credit(database, self.clock)
        self.office = Office(database, SELLER, terms, {}, (), "tester", self.clock)
        self.craft = craft

    @property
    def press(self) -> Press:
        workshop = Workshop(self.craft, self.office.terms)
        return Press(self.invoices, workshop, self.office.terms, self.office.by, self.clock)

    @property
    def months(self) -> Months:
        return Months(self.office, self.press)

    @property
    def notes(self) -> CreditNotes:
        return CreditNotes(self.office, self.press)

    @property
    def deposits(self) -> Deposits:
        return Deposits(self.office, self.press)

    def today(self, day: str) -> None:
        self.clock.now_ms = noon_ms(day)

    def waiting_in(self, *outboxes: Path) -> None:
        self.office = msgspec.structs.replace(self.office, outboxes=outboxes)

    async def account(self, name: str, who: Buyer | None = None, *, has_buyer: bool = True) -> str:
        account = await self.accounts.create(name, "tier1", ZONE)
        if has_buyer:
            await Buyers(self.database, self.clock).set(account.id, who or buyer())
        return account.id

    async def use(self, account_id: str, day: str, *used: tuple[UsageType, int], **changes: object) -> list[Entry]:
        """Let an account make a call; it reaches the ledger at once."""
        used = used or ((UsageType.INPUT, 1_000_003), (UsageType.OUTPUT, 250_001))
        made = [entry(account_id=account_id, day=day, month=day[:7], used=used, **changes)]
        await self.ledger.insert(made)
        return made

    async def buy(self, account_id: str, cents: int, reference: str, last_day: str | None = None) -> None:
        await self.credit.add(account_id, cents * 10**10, reference, last_day)

    async def issue(self, month: str, account: str | None = None, **options: object) -> dict[str, tuple[str, str]]:
        """Issue a month; return what became of each account: in a word, and the number or why not."""
        outcomes = await self.months.issue(month, account, **options)
        return {each.account: (each.result.value, each.number or each.why) for each in outcomes}

    async def numbers(self) -> list[str]:
        return [info.number for info in await self.invoices.find()]

    async def document(self, number: str) -> Invoice:
        return (await self.invoices.read(number)).document

    async def covered_entries(self, invoice: Invoice) -> list[Entry]:
        """Return the ledger's own entries of the links that an invoice covers."""
        from sqlalchemy import select

        from proxy.ledger.rows import entry_of
        from proxy.ledger.schema import entries

        found: list[Entry] = []
        async with self.database.read() as connection:
            for mark in invoice.chain:
                query = select(entries).where(
                    entries.c.account_id == invoice.account_id,
                    entries.c.month == mark.month,
                    entries.c.link > mark.after_link,
                    entries.c.link <= mark.link,
                )
                found += [entry_of(dict(row)) for row in (await connection.execute(query)).mappings()]
        return found


def random_entries(
    rng: random.Random, account_id: str, month: str, count: int, models: Sequence[str] = ("gpt-oss:120b", "qwen3:8b")
) -> list[Entry]:
    """Return calls of a month, spread over days, models, classes and price versions."""
    return [
        entry(
            account_id=account_id,
            month=month,
            day=f"{month}-{rng.randint(1, 28):02d}",
            used=[(kind, rng.choice((1, 7, 999, 123_457))) for kind in rng.sample(list(UsageType), rng.randint(1, 3))],
            version=rng.choice(("2026-01", "2026-02")),
            model=rng.choice(models),
            tariff_class=rng.choice(list(TariffClass)),
        )
        for _ in range(count)
    ]
