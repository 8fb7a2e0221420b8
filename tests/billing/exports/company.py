"""A company that sells: accounts, usage, credit and issued documents in a real ledger, by a clock of its own."""

import io
import itertools
from collections.abc import Sequence

from proxy.billing.exports.request import ExportRequest
from proxy.billing.invoices.credit_notes import CreditNotes
from proxy.billing.invoices.deposits import Deposits
from proxy.billing.invoices.months import Months
from proxy.billing.invoices.office import Office
from proxy.billing.invoices.outcomes import Outcome
from proxy.billing.invoices.press import Press
from proxy.billing.invoices.workshop import Craft, Workshop
from proxy.core.accounts import Account
from proxy.core.calendar import day_bounds_ms
from proxy.core.invoicing.crediting import Part
from proxy.core.invoicing.document import Invoice
from proxy.core.invoicing.terms import DrawnCredit, InvoicingTerms
from proxy.core.money import PICO_PER_CENT
from proxy.core.parties import Address, Bank, Buyer, Seller, VatTreatment
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.buyers import Buyers
from proxy.ledger.credit import Credit
from proxy.ledger.database import Database
from proxy.ledger.invoice_schema import invoices
from proxy.ledger.invoices import Invoices
from proxy.ledger.store import Ledger
from tests.ledger.support import Clock, charge, entry, rows_of

SELLER = Seller(
    name="Tollgate Démonstration",
    legal_form="SAS",
    capital="10 000 EUR",
    siren="123456782",
    siret="12345678200010",
    rcs="Paris",
    vat_number="FR11123456782",
    address=Address(lines=("1 rue de l’Exemple",), postcode="75000", city="Paris", country="FR"),
    email="facturation@imaginaire.example",
    bank=Bank(iban="FR7699999000011234567890152", bic="TESTFRPPXXX", holder="Tollgate Démonstration"),
)
BUYER = Buyer(
    name="Ateliers « Œuvre », fils & Cie",
    address=Address(("12 quai des Brumes",), "69002", "Lyon", "FR"),
    siren="987654324",
    vat_number="FR14987654324",
)
GERMAN = Buyer(
    name="Müller & Söhne GmbH",
    address=Address(("Königstraße 5",), "10115", "Berlin", "DE"),
    vat=VatTreatment.REVERSE_CHARGE,
    vat_rate_bp=0,
    vat_number="DE136695976",
    email="rechnungen@mueller.example",
)
HOUR_MS = 3_600_000


class _NoFiles:
    xml = b"<invoice/>"
    pdf = b"%PDF"


def _make(_document: Invoice, _terms: InvoicingTerms) -> _NoFiles:
    return _NoFiles()


def _no_mistakes(_xml: bytes) -> Sequence[str]:
    return ()


class Company:
    """Sells, buys and issues as the commands do; only the files of documents are left out."""

    def __init__(
        self, database: Database, drawn_credit: DrawnCredit = DrawnCredit.DEPOSIT_LINE, seller: Seller = SELLER
    ) -> None:
        self.seller = seller
        self.database = database
        self.terms = InvoicingTerms(drawn_credit=drawn_credit)
        self.clock = Clock()
        self.invoices = Invoices(database, self.clock)
        self._ledger = Ledger(database, clock_ms=self.clock)
        office = Office(database, seller, self.terms, {}, clock_ms=self.clock)
        workshop = Workshop(Craft(_make, _no_mistakes), self.terms, 1)
        press = Press(self.invoices, workshop, self.terms, "test", self.clock)
        self._months = Months(office, press)
        self._deposits = Deposits(office, press)
        self._notes = CreditNotes(office, press)
        self._calls = itertools.count(1)

    def it_is(self, day: str) -> None:
        """Let it be noon of a day in Paris."""
        self.clock.now_ms = day_bounds_ms(day, "Europe/Paris")[0] + 12 * HOUR_MS

    async def account(self, name: str, buyer: Buyer = BUYER, timezone: str = "Europe/Paris") -> Account:
        account = await Accounts(self.database, self.clock).create(name, "tier1", timezone)
        await Buyers(self.database, self.clock).set(name, buyer)
        return account

    async def uses(
        self,
        account: Account,
        day: str,
        *used: tuple[UsageType, int],
        model: str = "gpt-oss:120b",
        tariff_class: TariffClass = TariffClass.STANDARD,
        version: str = "2026-01",
    ) -> None:
        """Bring the ledger one call of a day."""
        at_ms = day_bounds_ms(day, account.timezone)[0] + 12 * HOUR_MS
        call = entry(
            f"019ab000-0000-7000-8000-{next(self._calls):012x}",
            account_id=account.id,
            month=day[:7],
            day=day,
            admitted_ms=at_ms,
            settled_ms=at_ms + 1000,
            model=model,
            tariff_class=tariff_class,
            charge=charge(*used, version=version),
        )
        assert await self._ledger.insert([call]) == 1

    async def buys(self, account: Account, cents: int, reference: str) -> None:
        await Credit(self.database, self.clock).add(account.name, cents * PICO_PER_CENT, reference)

    async def deposit(self, account: Account, reference: str) -> Invoice:
        _, document = await self._deposits.issue(account.name, reference)
        assert document is not None
        return document

    async def invoice(self, account: Account, month: str) -> Invoice | None:
        """Issue a month's invoice; None: there is nothing to invoice."""
        outcome = await self.try_to_invoice(account, month)
        assert not outcome.why, outcome.why
        return outcome.document

    async def try_to_invoice(self, account: Account, month: str) -> Outcome:
        """Issue a month's invoice, or hear why there is none."""
        (outcome,) = await self._months.issue(month, account.name)
        return outcome

    async def credit_note(self, number: str, *parts: Part, reason: str = "an error") -> Invoice:
        """Take back some lines, or everything where none is named."""
        return await self._notes.issue(number, parts or None, reason)

    async def documents(self) -> list[Invoice]:
        """Return every document, as it is read back."""
        numbers = [row["number"] for row in await rows_of(self.database, invoices)]
        return [(await self.invoices.read(number)).document for number in numbers]

    def request(self, month: str, account: Account | None = None) -> ExportRequest:
        account_id = None if account is None else account.id
        return ExportRequest(self.database, month, account_id, {}, self.seller, self.terms)

    async def export(self, write, month: str, account: Account | None = None) -> bytes:
        out = io.BytesIO()
        await write(self.request(month, account), out)
        return out.getvalue()
