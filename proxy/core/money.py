"""Money as integers.

What belongs here: the units of money and every conversion between them. What does not: prices (pricing.py).

- *pico-euro* (1e-12 euro): charges, entries, rollups. A price in micro-euros per million units is, number for
  number, pico-euros per unit, so ``units * price`` is exact.
- *nano-euro* (1e-9 euro): the budget inside the limiter, whose store has exact integers only up to 2**53.
  Converted upwards, so that a budget is never overrun by rounding.
- *cent*: invoice lines only; the one place where money is rounded (half up).

No float may enter any function of this module.
"""

import re
from decimal import Decimal
from typing import Final

PICO_PER_EURO: Final = 10**12
NANO_PER_EURO: Final = 10**9
PICO_PER_NANO: Final = 10**3
PICO_PER_CENT: Final = 10**10

_PICO_DECIMALS: Final = 12
_MICRO_DECIMALS: Final = 6
_DIGITS_MAX: Final = 40
_AMOUNT: Final = re.compile(r"([+-]?)([0-9]{1,15})(?:\.([0-9]{1,40}))?")


def nano_from_pico_up(amount_pico: int) -> int:
    """Return the smallest whole number of nano-euros that is not less than ``amount_pico`` pico-euros."""
    return -(-amount_pico // PICO_PER_NANO)


def cents_half_up(amount_pico: int) -> int:
    """Round pico-euros to whole cents, halves away from zero (commercial rounding, as on an invoice line)."""
    sign = -1 if amount_pico < 0 else 1
    return sign * ((abs(amount_pico) * 2 + PICO_PER_CENT) // (2 * PICO_PER_CENT))


def euros_text(amount_pico: int) -> str:
    """Return the exact amount in euros as a decimal string, with at least two and at most twelve decimals.

    >>> euros_text(363_000_000)
    '0.000363'
    >>> euros_text(-1_500_000_000_000)
    '-1.50'
    """
    sign = "-" if amount_pico < 0 else ""
    whole, fraction = divmod(abs(amount_pico), PICO_PER_EURO)
    decimals = f"{fraction:012d}".rstrip("0")
    return f"{sign}{whole}.{decimals if len(decimals) > 1 else decimals.ljust(2, '0')}"


def pico_from_euros(text: str | int | Decimal) -> int:
    """Parse a decimal amount of euros exactly.

    A text is digits, a sign and a point: no exponent, no separators. Every amount stays below 10**15 euros.

    Raises: ValueError: it is no such decimal number, is too large, or is finer than a pico-euro. TypeError:
        it is a float (or anything else that the signature excludes): its digits are not what was written.
    """
    return _scaled(text, _PICO_DECIMALS)


def unit_price_pico_from_euros_per_million(text: str | int | Decimal) -> int:
    """Parse a price in euros per million units; return pico-euros per unit (= micro-euros per million units).

    >>> unit_price_pico_from_euros_per_million("1.8")
    1800000

    Raises:
        ValueError: as ``pico_from_euros``, or it is finer than a micro-euro per million units.
        TypeError: as ``pico_from_euros``.
    """
    return _scaled(text, _MICRO_DECIMALS)


def _scaled(text: str | int | Decimal, decimals: int) -> int:
    """Return ``text * 10**decimals`` as the whole number that it must be."""
    if isinstance(text, bool) or not isinstance(text, str | int | Decimal):
        raise TypeError(f"an amount of money is never a {type(text).__name__}")
    is_short = isinstance(text, Decimal) and abs(text.adjusted()) < _DIGITS_MAX
    written = format(text, "f") if is_short else str(text)
    match = _AMOUNT.fullmatch(written)
    if match is None:
        raise ValueError(f"not an amount of euros: {written[:40]!r}")
    sign, whole, fraction = match.group(1, 2, 3)
    fraction = (fraction or "").rstrip("0")
    if len(fraction) > decimals:
        raise ValueError(f"finer than 1e-{decimals} euro: {written[:40]!r}")
    amount = int(whole + fraction.ljust(decimals, "0"))
    return -amount if sign == "-" else amount
