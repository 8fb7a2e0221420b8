"""Rating: what settled calls would cost at other prices. Pure.

What belongs here: quantities times prices, as ``core.pricing`` has them, for very many calls. What does not: what was
charged (it is in the entries).
"""

from operator import mul
from typing import Final

from proxy.core.pricing import PriceBook, PriceVersion, UnpricedError
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.months_entries import SettledCall

_TYPES: Final = tuple(UsageType)
_Units = tuple[tuple[int, ...], tuple[int, ...]]
"""Pico-euros per unit beside each usage type, and the places of the types that have no price (0 stands there)."""


class Rating:
    """Rates calls: each with the version that is in force when it is admitted, or all with one version.

    Args:
        book: the prices.
        version: id of the version for every call, whenever it begins; None: the one in force.

    Raises:
        UnpricedError: there is no such version.
    """

    def __init__(self, book: PriceBook, version: str | None = None) -> None:
        self._book = book
        self._version: PriceVersion | None = None
        self._units: dict[tuple[str, str, str], _Units] = {}
        if version is not None:
            self._version = next((each for each in book.versions if each.id == version), None)
            if self._version is None:
                known = ", ".join(each.id for each in book.versions)
                raise UnpricedError(f"there is no price version {version!r}; there are: {known}")

    @property
    def versions(self) -> tuple[str, ...]:
        """Ids of the versions that calls were rated with, in the order of the book."""
        used = {version for version, _, _ in self._units}
        return tuple(version.id for version in self._book.versions if version.id in used)

    def cost_pico(self, call: SettledCall, at_ms: int) -> int:
        """Return what a call costs that is admitted at an instant (Unix milliseconds), in pico-euros, exactly.

        Raises:
            UnpricedError: no version is in force then, or something that it used has no price.
        """
        version = self._version or self._book.version_at(at_ms)
        key = (version.id, call.model, call.tariff_class)
        units, unpriced = self._units.get(key) or self._units.setdefault(key, _units_of(version, *key[1:]))
        for place in unpriced:
            if call.quantities[place]:
                what = f"{call.tariff_class} price for {_TYPES[place].value} of {call.model}"
                raise UnpricedError(f"version {version.id} has no {what}, which call {call.call_id} used")
        return sum(map(mul, call.quantities, units))

    def output_unit_pico(self, call: SettledCall, at_ms: int) -> int:
        """Return the higher of the prices of an output and a reasoning token of this call, in pico-euros."""
        version = self._version or self._book.version_at(at_ms)
        tariff_class = TariffClass(call.tariff_class)
        prices = (version.unit_price_pico(call.model, kind, tariff_class) for kind in _GENERATED)
        return max(prices)


_GENERATED: Final = (UsageType.OUTPUT, UsageType.REASONING)


def _units_of(version: PriceVersion, model: str, tariff_class: str) -> _Units:
    units, unpriced = [], []
    for place, usage_type in enumerate(_TYPES):
        try:
            units.append(version.unit_price_pico(model, usage_type, TariffClass(tariff_class)))
        except UnpricedError:
            units.append(0)
            unpriced.append(place)
    return tuple(units), tuple(unpriced)
