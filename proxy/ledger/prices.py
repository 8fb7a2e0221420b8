"""The copy of every price version that entries were rated with.

What belongs here: keeping a version, once and for all, and noticing that a configuration changes one. What
does not: prices themselves (core/pricing.py) and their files (settings/).
"""

from collections.abc import Collection

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.core.pricing import PriceBook, PriceVersion
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.database import Database
from proxy.ledger.errors import PriceVersionConflictError
from proxy.ledger.schema import price_versions


class _Document(msgspec.Struct, frozen=True):
    unit_prices_pico: list[tuple[str, str, int]]
    model_prices_pico: list[tuple[str, str, str, int]]


def document_of(version: PriceVersion) -> str:
    """Return the prices of a version as JSON: the same text for the same prices."""
    units = sorted((kind.value, cls.value, price) for (kind, cls), price in version.unit_prices_pico.items())
    models = sorted(
        (model, kind.value, cls.value, price) for (model, kind, cls), price in version.model_prices_pico.items()
    )
    return msgspec.json.encode(_Document(units, models)).decode()


def version_of(version_id: str, effective_from_ms: int, document: str) -> PriceVersion:
    """Return the version that ``document_of`` has made a document of.

    Raises:
        msgspec.ValidationError: the text is none.
    """
    kept = msgspec.json.decode(document, type=_Document)
    return PriceVersion(
        version_id,
        effective_from_ms,
        {(UsageType(kind), TariffClass(cls)): price for kind, cls, price in kept.unit_prices_pico},
        {(model, UsageType(kind), TariffClass(cls)): price for model, kind, cls, price in kept.model_prices_pico},
    )


async def keep(
    database: Database, connection: AsyncConnection, book: PriceBook, ids: Collection[str], now_ms: int
) -> None:
    """Keep the versions of these ids, as far as the book has them and they are not kept yet."""
    rows = [
        {
            "id": version.id,
            "effective_from_ms": version.effective_from_ms,
            "prices": document_of(version),
            "recorded_ms": now_ms,
        }
        for version in sorted(book.versions, key=lambda version: version.id)
        if version.id in ids
    ]
    if rows:
        await connection.execute(database.insert(price_versions), rows)


async def check(connection: AsyncConnection, book: PriceBook) -> None:
    """Compare a book with what is kept.

    Raises:
        PriceVersionConflictError: a version that is kept has other prices, or another beginning, in the book.
    """
    table = price_versions.c
    ids = [version.id for version in book.versions]
    rows = await connection.execute(select(table.id, table.effective_from_ms, table.prices).where(table.id.in_(ids)))
    kept = {row.id: (row.effective_from_ms, row.prices) for row in rows}
    for version in book.versions:
        if kept.get(version.id, mine := (version.effective_from_ms, document_of(version))) != mine:
            raise PriceVersionConflictError(
                f"price version {version.id} was used with other prices: give changed prices a new id"
            )
