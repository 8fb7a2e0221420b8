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
        made_ms: when it is made, Unix milliseconds: told only by formats that are for people.
        advanced: called now and then with how many rows are done, and how many there are.
    """

    database: Database
    month: str
    account_id: str | None
    tiers: Mapping[str, Tier]
    seller: Seller | None
    invoicing: InvoicingTerms
    made_ms: int = 0
    advanced: Callable[[int, int], None] = lambda _done, _all: None


class Written(msgspec.Struct, frozen=True):
    """What an export holds: how many rows, and the exact sum of their euros in pico-euros."""

    rows: int
    total_pico: int


class ExportRefusedError(Exception):
    """An export that cannot be made, in words for an operator: no invoices yet, or no seller."""


class Format(msgspec.Struct, frozen=True):
    """A format.

    Args:
        name: as ``--format`` names it.
        suffix: of its files, ``.csv``.
        media_type: of a download.
        write: writes it, from the first byte to the last and never back, and says what it holds (None: it does not
            say). It blocks: it runs in a process of its own. Raises ``ExportRefusedError`` before the first byte, or
            ``LedgerUnavailableError``.
        title: one line for the help.
    """

    name: str
    suffix: str
    media_type: str
    write: Callable[[ExportRequest, BinaryIO], Awaitable[Written | None]]
    title: str
