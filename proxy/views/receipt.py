"""The receipt of one call (GET /v1/usage/calls/{id}).

What belongs here: its shape. What does not: finding the entry (ledger/reading.py). Amounts of money are exact decimal
strings, and whoever reads a line can make its amount from the rest: ``quantity * unit_price / unit_price_per``.
"""

from typing import Final

import msgspec

from proxy.core.entries import ChargeLine, Entry, Outcome
from proxy.core.errors import ApiError
from proxy.core.money import euros_text
from proxy.core.pricing import PriceBook, UnpricedError
from proxy.core.usage import Source, UsageType
from proxy.settings.types import Settings
from proxy.views.instants import text_of_ms

MILLION: Final = 1_000_000
CURRENCY: Final = "EUR"


class ShownTier(msgspec.Struct, frozen=True):
    """A tier; without a title when it is sold no more."""

    id: str
    title: str | None


class ReceiptLine(msgspec.Struct, frozen=True):
    """One usage type of a call. ``unit_price`` is null where nothing tells it any more."""

    type: str
    quantity: int
    unit: str
    source: str
    unit_price: str | None
    unit_price_per: int
    amount: str


class Receipt(msgspec.Struct, frozen=True):
    """What a call used and what it costs."""

    object: str
    id: str
    created: int
    admitted_at: str
    settled_at: str
    day: str
    month: str
    endpoint: str
    model: str
    tier: ShownTier
    key_id: str
    tariff_class: str = msgspec.field(name="class")
    streamed: bool
    outcome: str
    disconnected: bool
    estimated: bool
    price_version: str
    currency: str
    lines: tuple[ReceiptLine, ...]
    total: str


def call_not_found() -> ApiError:
    """Return the 404 for a call that has no receipt, whoever made it and whatever the reason."""
    message = "No settled call of yours has this id. A call gets its receipt when it has been answered"
    return ApiError(404, message, "invalid_request_error", "id", "call_not_found")


def unit_of(usage_type: UsageType) -> tuple[str, int]:
    """Return the unit of a usage type, and for how many of them prices are given."""
    return ("started_minute", 1) if usage_type is UsageType.AUDIO_MINUTES else ("token", MILLION)


def tier_shown(tier_id: str, settings: Settings) -> ShownTier:
    """Return a tier with its present title."""
    tier = settings.tiers.get(tier_id)
    return ShownTier(tier_id, tier.title if tier is not None else None)


def receipt_of(entry: Entry, settings: Settings) -> Receipt:
    """Return the receipt of an entry; the settings know titles and prices."""
    charge = entry.charge
    return Receipt(
        object="usage.receipt",
        id=entry.call_id,
        created=entry.admitted_ms // 1000,
        admitted_at=text_of_ms(entry.admitted_ms),
        settled_at=text_of_ms(entry.settled_ms),
        day=entry.day,
        month=entry.month,
        endpoint=entry.endpoint,
        model=entry.model,
        tier=tier_shown(entry.tier, settings),
        key_id=entry.key_id,
        tariff_class=entry.tariff_class.value,
        streamed=entry.streamed,
        outcome=entry.outcome.value,
        disconnected=entry.outcome is Outcome.DISCONNECTED,
        estimated=any(line.source is Source.ESTIMATED for line in charge.lines),
        price_version=charge.price_version,
        currency=CURRENCY,
        lines=tuple(_line(line, entry, settings.prices) for line in charge.lines),
        total=euros_text(charge.total_pico),
    )


def _line(line: ChargeLine, entry: Entry, book: PriceBook) -> ReceiptLine:
    unit, per = unit_of(line.usage_type)
    price_pico = _unit_price_pico(line, entry, book)
    return ReceiptLine(
        line.usage_type.value,
        line.amount,
        unit,
        line.source.value,
        None if price_pico is None else euros_text(price_pico * per),
        per,
        euros_text(line.cost_pico),
    )


def _unit_price_pico(line: ChargeLine, entry: Entry, book: PriceBook) -> int | None:
    """Return the price that a line was rated with; of a line of nothing the ledger has not kept it."""
    if line.amount:
        return line.unit_price_pico
    for version in book.versions:
        if version.id == entry.charge.price_version:
            try:
                return version.unit_price_pico(entry.model, line.usage_type, entry.tariff_class)
            except UnpricedError:
                return None
    return None
