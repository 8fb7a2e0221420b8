"""Entries: one settled call, as the outbox and the ledger keep it.

What belongs here: the value. It is immutable; a correction is a new entry.
"""

from enum import StrEnum

import msgspec

from proxy.core.usage import Source, TariffClass, UsageType


class Outcome(StrEnum):
    """How a call ended, seen from the client."""

    FINISHED = "finished"
    """The whole answer was made."""
    DISCONNECTED = "disconnected"
    """The client left mid-stream: billed for what was produced."""
    UPSTREAM_FAILED = "upstream_failed"
    """The upstream broke off mid-stream."""
    INTERRUPTED = "interrupted"
    """The proxy died mid-stream: billed to the last checkpoint."""
    CUT = "cut"
    """A strict limit had no room for more: the stream was ended, and is billed for what was delivered."""


class ChargeLine(msgspec.Struct, frozen=True):
    """One usage type of a call, rated.

    Args:
        usage_type: what was counted.
        amount: how much (tokens or started minutes).
        source: where the amount comes from.
        unit_price_pico: pico-euros per unit.
        cost_pico: ``amount * unit_price_pico``, exactly.
    """

    usage_type: UsageType
    amount: int
    source: Source
    unit_price_pico: int
    cost_pico: int


class Charge(msgspec.Struct, frozen=True):
    """What a call costs: its lines, their sum, and the price version that was used."""

    lines: tuple[ChargeLine, ...]
    total_pico: int
    price_version: str


class Entry(msgspec.Struct, frozen=True):
    """One settled call.

    Args:
        call_id: UUIDv7 (hex with dashes), the idempotency key and the request id that the client sees.
        account_id: who pays.
        month: billing month ``YYYY-MM`` in the account's time zone, fixed at admission.
        day: day ``YYYY-MM-DD`` of admission in the account's time zone.
        key_id: which key called.
        tier: the tier that the account held.
        endpoint: documented route, for example ``/v1/chat/completions``.
        model: canonical model id.
        tariff_class: standard or batch.
        outcome: how it ended.
        admitted_ms: Unix milliseconds of admission.
        settled_ms: Unix milliseconds of settlement (the stamp in the windows).
        charge: what it costs.
        upstream: name of the upstream that served it.
        streamed: whether it was streamed.
    """

    call_id: str
    account_id: str
    month: str
    day: str
    key_id: str
    tier: str
    endpoint: str
    model: str
    tariff_class: TariffClass
    outcome: Outcome
    admitted_ms: int
    settled_ms: int
    charge: Charge
    upstream: str = ""
    streamed: bool = False
