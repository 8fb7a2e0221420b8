"""What every part of issuing needs: who sells, on which terms, and where things are kept.

What belongs here: the values that are passed around. What does not: steps.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from proxy.billing.invoices.outcomes import IssueError
from proxy.clock import unix_ms
from proxy.core.catalogue import Tier
from proxy.core.invoicing.terms import InvoicingTerms
from proxy.core.parties import Seller
from proxy.ledger.database import Database


class Office(msgspec.Struct, frozen=True):
    """Where documents are issued.

    Args:
        database: migrated.
        seller: who sells.
        terms: the seller's.
        tiers: by id, for their titles.
        outboxes: files in which entries may wait for the ledger.
        by: who issues.
        clock_ms: Unix milliseconds.
    """

    database: Database
    seller: Seller
    terms: InvoicingTerms
    tiers: Mapping[str, Tier]
    outboxes: tuple[Path, ...] = ()
    by: str = ""
    clock_ms: Callable[[], int] = unix_ms

    def title(self, tier: str) -> str:
        """Return the title of a tier; of one that is not known any more, its id."""
        return self.tiers[tier].title if tier in self.tiers else tier


def need_seller(seller: Seller | None) -> Seller:
    """Return the seller. Raises ``IssueError`` where there is none."""
    if seller is None:
        raise IssueError("there is no seller: describe the company that issues invoices in seller.yaml")
    return seller
