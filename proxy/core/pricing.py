"""Pricing: usage times prices, exactly.

What belongs here: the price book and the one function that makes a charge. What does not: reading
``prices.yaml`` (proxy.settings) and rounding (money.py).
"""

from typing import Final

import msgspec

from proxy.core.entries import Charge, ChargeLine
from proxy.core.usage import TariffClass, Usage, UsageType

STANDARD_IN_BATCH: Final = frozenset({UsageType.RERANK})
"""What costs in a batch as much as everywhere, unless a version gives it a batch price: none is published for it."""


class PriceVersion(msgspec.Struct, frozen=True):
    """The prices from one instant on.

    Args:
        id: name that entries carry; unique and never used again.
        effective_from_ms: Unix milliseconds from which on it holds.
        unit_prices_pico: pico-euros per unit (= micro-euros per million units) by (usage type, tariff class).
        model_prices_pico: the same for single models: by (model id, usage type, tariff class); it wins.
    """

    id: str
    effective_from_ms: int
    unit_prices_pico: dict[tuple[UsageType, TariffClass], int]
    model_prices_pico: dict[tuple[str, UsageType, TariffClass], int] = {}

    def unit_price_pico(self, model: str, usage_type: UsageType, tariff_class: TariffClass) -> int:
        """Return pico-euros per unit.

        Raises:
            UnpricedError: neither the model nor the general list has a price.
        """
        if not self.model_prices_pico:  # the usual case, six times a call
            price = self.unit_prices_pico.get((usage_type, tariff_class))
        else:
            price = self._written_pico(model, usage_type, tariff_class)
        if price is None and tariff_class is TariffClass.BATCH and usage_type in STANDARD_IN_BATCH:
            price = self._written_pico(model, usage_type, TariffClass.STANDARD)
        if price is None:
            raise UnpricedError(f"no {tariff_class} price for {usage_type} of {model} in version {self.id}")
        return price

    def _written_pico(self, model: str, usage_type: UsageType, tariff_class: TariffClass) -> int | None:
        price = self.model_prices_pico.get((model, usage_type, tariff_class))
        return self.unit_prices_pico.get((usage_type, tariff_class)) if price is None else price

    def rate(self, model: str, usage: Usage, tariff_class: TariffClass) -> Charge:
        """Price a call's usage: one line per quantity, exact integers throughout."""
        total = 0
        lines = []
        for quantity in usage.quantities:
            unit = self.unit_price_pico(model, quantity.type, tariff_class)
            cost = unit * quantity.amount
            total += cost
            lines.append(ChargeLine(quantity.type, quantity.amount, quantity.source, unit, cost))
        return Charge(tuple(lines), total, self.id)


class UnpricedError(LookupError):
    """A usage type has no price: a fault of the configuration, which start-up refuses."""


class PriceBook(msgspec.Struct, frozen=True):
    """Every price version, oldest first."""

    versions: tuple[PriceVersion, ...]

    def version_at(self, now_ms: int) -> PriceVersion:
        """Return the version in force.

        Raises:
            UnpricedError: the time lies before the first version.
        """
        for version in reversed(self.versions):
            if version.effective_from_ms <= now_ms:
                return version
        raise UnpricedError("no price version is in force yet")
