"""What is asked of an export, and what a format is.

What belongs here: the values between the command, the admin listener and the formats.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import BinaryIO

import msgspec

from proxy.core.catalogue import Tier
from proxy.core.invoicing.terms import InvoicingTerms
from proxy.core.parties import Seller
from proxy.ledger.database import Database


class ExportRequest(msgspec.Struct, frozen=True):
    """A month of one account, or of all.

    Args:
        database: migrated.
        month: ``YYYY-MM``, in each account's time zone.
        account_id: whose; None: everybody's.
        tiers: by id, for what is told of an account's tier.
        seller: who sells; None: seller.yaml is missing.
        invoicing: the seller's terms.
        advanced: called now and then with how many rows are done, and how many there are.
    """

    database: Database
    month: str
    account_id: str | None
    tiers: Mapping[str, Tier]
    seller: Seller | None
    invoicing: InvoicingTerms
    advanced: Callable[[int, int], None] = lambda _done, _all: None


class ExportRefusedError(Exception):
    """An export that cannot be made, in words for an operator: no invoices yet, or no seller."""


class Format(msgspec.Struct, frozen=True):
    """A format.

    Args:
        name: as ``--format`` names it.
        suffix: of its files, ``.csv``.
        media_type: of a download.
        write: writes it; raises ``ExportRefusedError`` before the first byte, or ``LedgerUnavailableError``.
        title: one line for the help.
    """

    name: str
    suffix: str
    media_type: str
    write: Callable[[ExportRequest, BinaryIO], Awaitable[None]]
    title: str
