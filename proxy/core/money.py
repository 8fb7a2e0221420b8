"""Money as integers.

What belongs here: the units of money and every conversion between them. What does not: prices (pricing.py).

- *pico-euro* (1e-12 euro): charges, entries, rollups. A price in micro-euros per million units is, number for number,
  pico-euros per unit, so ``units * price`` is exact.
- *nano-euro* (1e-9 euro): the budget inside the limiter, whose store has exact integers only up to 2**53. Converted
  upwards, so that a budget is never overrun by rounding.
- *cent*: invoice lines only; the one place where money is rounded (half up).

No float may enter any function of this module.
"""

from decimal import Decimal
from typing import Final

PICO_PER_EURO: Final = 10**12
NANO_PER_EURO: Final = 10**9
PICO_PER_NANO: Final = 10**3
PICO_PER_CENT: Final = 10**10


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
    decimals = f"{fraction:012d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{decimals}"


def pico_from_euros(text: str | int | Decimal) -> int:
    """Parse a decimal amount of euros exactly.

    Raises:
        ValueError: the text is no finite decimal number, or is finer than a pico-euro.
    """
    try:
        amount = Decimal(text)
    except ArithmeticError as exc:
        raise ValueError(f"not an amount of euros: {text!r}") from exc
    if not amount.is_finite():
        raise ValueError(f"not an amount of euros: {text!r}")
    scaled = amount.as_tuple()
    exponent = int(scaled.exponent) + 12
    digits = int("".join(map(str, scaled.digits)) or "0")
    if exponent < 0:
        digits, rest = divmod(digits, 10**-exponent)
        if rest:
            raise ValueError(f"finer than a pico-euro: {text!r}")
    else:
        digits *= 10**exponent
    return -digits if scaled.sign else digits
