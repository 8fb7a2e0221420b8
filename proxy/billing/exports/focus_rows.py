"""Which rows a FOCUS file has: an account's month, from the ledger and from issued documents.

What belongs here: rows as values, pure. What does not: columns (focus_columns.py), reading and writing (focus.py).

1. Usage of the month, by day and item, from the ledger: what each invoice of the month covers, and what none does yet.
2. Lines of documents that are not usage of the month: what came late, credit drawn and bought, what a credit note takes
   back.
3. What rounding each line has added or taken, and VAT.

The rows of a document add up to what it asks for (``payable_cents``), those of a line to its amount, to the last digit.
Where the ledger no longer says what a document says, there is no file.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from msgspec.structs import replace

from proxy.billing.exports.focus_columns import ChargeCategory, FocusRow, Period, meter
from proxy.core.calendar import day_bounds_ms, month_bounds_ms
from proxy.core.invoicing.document import DocumentKind, Invoice, Line, LineKind, UsageItem
from proxy.core.invoicing.vat import tax_cents
from proxy.core.money import PICO_PER_CENT
from proxy.core.parties import Seller
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.errors import DamagedError
from proxy.ledger.issued import ItemOfDay, MonthOfAccount, Sums
from proxy.ledger.month_sums import used

_Item = tuple[str, str, str, str]
"""Model, usage type, tariff class, price version."""

_TYPES: Final = {usage_type.value: place for place, usage_type in enumerate(UsageType)}


def payable_cents(document: Invoice) -> int:
    """Return what a document asks for, or gives back (less than 0): what the BilledCost of its rows adds up to.

    That is what is due, after credit that pays for some of it. A deposit invoice is whole: it has been paid with money.
    """
    if document.kind is DocumentKind.DEPOSIT:
        return document.gross_cents
    return -document.due_cents if document.kind is DocumentKind.CREDIT_NOTE else document.due_cents


def rows_of(month: str, happened: MonthOfAccount, seller: Seller) -> Iterator[FocusRow]:
    """Yield the rows of an account's month.

    Args:
        month: ``YYYY-MM``: the billing period.
        happened: what happened in it.
        seller: of what has no document yet.

    Raises:
        DamagedError: a document says something else than the ledger, or a cost is no quantity times a price.
    """
    zone = happened.account.timezone
    for document in happened.documents:
        yield from _Rows(month, document, zone).all(happened.invoiced.get(document.number, {}))
    base = FocusRow(
        ChargeCategory.USAGE,
        happened.account.id,
        happened.account.name,
        month_bounds_ms(month, zone),
        (0, 0),
        "",
        0,
        0,
        seller.name,
    )
    for (day, model, usage_type, tariff_class, version), quantity, cost_pico in _ordered(happened.open):
        of = used(model, UsageType(usage_type), TariffClass(tariff_class), version, day, quantity, cost_pico)
        yield _used(base, _period(day, day, zone), of.item, quantity, cost_pico)


class _Rows:
    """The rows of one document."""

    def __init__(self, month: str, document: Invoice, zone: str) -> None:
        self._document = document
        self._zone = zone
        self._takes_back = document.kind is DocumentKind.CREDIT_NOTE
        self._sign = -1 if self._takes_back else 1
        self._month = month
        self._base = FocusRow(
            ChargeCategory.TAX,
            document.account_id,
            document.account_name,
            month_bounds_ms(month, zone),
            _period(document.first_day, document.last_day, zone),
            "",
            0,
            0,
            document.seller.name,
            correction=self._takes_back and document.first_day[:7] < month,
            invoice_id=document.number,
        )

    def all(self, found: Sums) -> Iterator[FocusRow]:
        """Yield every row, given what the ledger says of its own month."""
        of_month = self._matched(found)
        for line in self._document.lines:
            base = self._of_line(line)
            if line.number in of_month:
                for (day, *_), quantity, cost_pico in _ordered(of_month[line.number]):
                    assert line.usage is not None
                    yield _used(base, _period(day, day, self._zone), line.usage, quantity, cost_pico)
            elif line.usage is not None:
                yield _used(base, base.charge, line.usage, self._sign * line.quantity, self._sign * line.exact_pico)
            else:
                yield self._credit(base, line)
            if rounding_pico := self._sign * (line.net_cents * PICO_PER_CENT - line.exact_pico):
                yield _charge(
                    base, ChargeCategory.ADJUSTMENT, f"Rounding of line {line.number} to cents", rounding_pico
                )
        yield from self._taxes()
        yield from self._paid_with_credit()

    def _matched(self, found: Sums) -> dict[int, Sums]:
        """Return usage of the month by number of the line that it is on.

        Raises:
            DamagedError: they do not say the same.
        """
        if self._document.kind is not DocumentKind.INVOICE:
            return {}
        lines = {
            _key_of(line.usage): line for line in self._document.lines if line.kind is LineKind.USAGE and line.usage
        }
        days: defaultdict[int, Sums] = defaultdict(dict)
        for key, amounts in found.items():
            line = lines.get(key[1:])
            days[line.number if line else 0][key] = amounts
        for line in lines.values():
            sums = days[line.number].values()
            if (sum(q for q, _ in sums), sum(cost for _, cost in sums)) != (line.quantity, line.exact_pico):
                days[0] = {}
        if 0 in days:
            raise DamagedError(
                f"{self._document.number} is not what the ledger says was used in {self._document.month}: "
                "one of them was changed (tollgate verify tells more)"
            )
        return dict(days)

    def _of_line(self, line: Line) -> FocusRow:
        """Return what the rows of a line have in common."""
        return replace(
            self._base,
            charge=_period(line.first_day, line.last_day, self._zone),
            correction=(self._takes_back or line.kind is LineKind.LATE) and line.first_day[:7] < self._month,
            line=line.number,
        )

    def _credit(self, base: FocusRow, line: Line) -> FocusRow:
        """Return the row of credit that was bought, or used: neither is a cost beside that of what it pays for."""
        amount_pico = self._sign * line.exact_pico
        if line.kind is LineKind.CREDIT:
            return _charge(base, ChargeCategory.PURCHASE, f"Prepaid credit {line.reference}", amount_pico, 0)
        return _charge(base, ChargeCategory.CREDIT, f"Prepaid credit used: {line.reference}", amount_pico, 0)

    def _taxes(self) -> Iterator[FocusRow]:
        """Yield VAT: what is billed of it, and what is due on what was used, however that is paid."""
        vat = self._document.vat
        of_usage = [line.net_cents for line in self._document.lines if line.usage is not None]
        if len(of_usage) == len(self._document.lines):
            effective_cents = vat.vat_cents
        else:
            effective_cents = tax_cents(sum(of_usage), vat.rate_bp)
        if vat.vat_cents or effective_cents:
            rate = f"{vat.rate_bp // 100}.{vat.rate_bp % 100:02d}"
            yield _charge(self._base, ChargeCategory.TAX, f"VAT {rate} %", *self._cents(vat.vat_cents, effective_cents))

    def _paid_with_credit(self) -> Iterator[FocusRow]:
        """Yield the credit that counts as paid, and the VAT that its deposit bore, where lines do not show it."""
        document = self._document
        if document.kind is DocumentKind.DEPOSIT or any(line.kind is LineKind.DRAWN for line in document.lines):
            return
        for lot_id, cents in document.drawn_cents.items():
            yield _charge(self._base, ChargeCategory.CREDIT, f"Prepaid credit used: {lot_id}", *self._cents(-cents, 0))
        if tax := document.paid_cents - sum(document.drawn_cents.values()):
            yield _charge(self._base, ChargeCategory.TAX, "VAT of prepaid credit used", *self._cents(-tax, 0))

    def _cents(self, billed: int, effective: int) -> tuple[int, int]:
        return self._sign * billed * PICO_PER_CENT, self._sign * effective * PICO_PER_CENT


def _used(base: FocusRow, charge: Period, item: UsageItem, quantity: int, cost_pico: int) -> FocusRow:
    description = f"{item.model}, {meter(item.usage_type).lower()}, {item.tariff_class.value}"
    return replace(
        base,
        category=ChargeCategory.USAGE,
        charge=charge,
        description=description,
        billed_pico=cost_pico,
        effective_pico=cost_pico,
        item=item,
        quantity=quantity,
    )


def _charge(
    base: FocusRow, category: ChargeCategory, description: str, billed_pico: int, effective_pico: int | None = None
) -> FocusRow:
    return replace(
        base,
        category=category,
        description=description,
        billed_pico=billed_pico,
        effective_pico=billed_pico if effective_pico is None else effective_pico,
    )


def _ordered(sums: Sums) -> Iterable[tuple[ItemOfDay, int, int]]:
    """Return sums by day, then item."""
    order = sorted(sums, key=lambda key: (key[0], key[1], _TYPES[key[2]], key[3], key[4]))
    return ((key, *sums[key]) for key in order)


def _key_of(item: UsageItem) -> _Item:
    return item.model, item.usage_type.value, item.tariff_class.value, item.price_version


@lru_cache(maxsize=1024)
def _period(first_day: str, last_day: str, zone: str) -> Period:
    """Return the instants at which a day begins, and another ends, where the account is."""
    return day_bounds_ms(first_day, zone)[0], day_bounds_ms(last_day, zone)[1]
