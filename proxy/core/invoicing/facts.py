"""What a month's invoice follows from, read in one snapshot of the ledger.

What belongs here: frozen values between ledger/ and drafting.py.
"""

import msgspec

from proxy.core.credit import Lot
from proxy.core.invoicing.document import ChainMark, DayOfUse, DocumentRef, UsageItem


class Used(msgspec.Struct, frozen=True):
    """A sum of entries.

    Args:
        item: what was used.
        day: ``YYYY-MM-DD``; empty: the whole month of the invoice.
        quantity: units.
        cost_pico: exactly ``quantity`` times the item's unit price.
    """

    item: UsageItem
    day: str
    quantity: int
    cost_pico: int


class LotFact(msgspec.Struct, frozen=True):
    """A lot of credit, and what invoices have used of it.

    Args:
        lot: as it may be drawn.
        reference: the operator's name for the purchase.
        drawn_cents: what documents that stand have used of it, credit notes taken off.
        deposit: its deposit invoice; None: it has none.
    """

    lot: Lot
    reference: str
    drawn_cents: int
    deposit: DocumentRef | None = None


class DepositFacts(msgspec.Struct, frozen=True):
    """A lot of credit that has no deposit invoice yet.

    Args:
        account_id: whose.
        account_name: as operators know it.
        tier: title of the tier held now.
        lot: as it may be drawn.
        reference: the operator's name for the purchase.
        bought_day: when it was bought, ``YYYY-MM-DD`` where the account is.
    """

    account_id: str
    account_name: str
    tier: str
    lot: Lot
    reference: str
    bought_day: str


class MonthFacts(msgspec.Struct, frozen=True):
    """An account's month, as far as it has not been invoiced.

    Args:
        account_id: whose.
        account_name: as operators know it.
        tier: title of the tier held at the end of the month.
        month: ``YYYY-MM``.
        used: the month, by item.
        late: earlier months, by item and day: what came after their invoices.
        lots: all of them, in the order in which they were bought; later ones too: they pay for nothing of before.
        used_by_day: pico-euros by day, of everything that is invoiced by now or by this one: what lots are drawn by.
        days: ``used``, by day of the month, each day of it.
        chain: what it covers: its own month first.
    """

    account_id: str
    account_name: str
    tier: str
    month: str
    used: tuple[Used, ...]
    late: tuple[Used, ...]
    lots: tuple[LotFact, ...]
    used_by_day: dict[str, int]
    days: tuple[DayOfUse, ...]
    chain: tuple[ChainMark, ...]
