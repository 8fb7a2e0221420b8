"""Integers as decimal strings: exact for machines, typeset for people.

What belongs here: quantities, prices, amounts, rates and dates as they are written in a document. What does not: the
words around them (labels.py). No float enters: every string is made of the digits of an integer.
"""

from typing import Final

from proxy.core.parties import Language

NARROW: Final = "\u202f"
"""A narrow no-break space: between groups of three digits."""
NO_BREAK: Final = "\u00a0"
MINUS: Final = "\u2212"

_MONTHS: Final = {
    Language.FRENCH: (
        *("janvier", "février", "mars", "avril", "mai", "juin"),
        *("juillet", "août", "septembre", "octobre", "novembre", "décembre"),
    ),
    Language.ENGLISH: (
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
}
_SHORT_MONTHS: Final = {
    Language.FRENCH: (
        *("janv.", "févr.", "mars", "avr.", "mai", "juin"),
        *("juil.", "août", "sept.", "oct.", "nov.", "déc."),
    ),
    Language.ENGLISH: ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
}


def decimal_text(amount: int, decimals: int, *, decimals_min: int = 0) -> str:
    """Write ``amount / 10**decimals`` exactly, with a point, zeros at the end left out down to ``decimals_min``.

    >>> decimal_text(-1234, 2, decimals_min=2)
    '-12.34'
    >>> decimal_text(1_800_000, 6)
    '1.8'
    """
    whole, fraction = divmod(abs(amount), 10**decimals)
    digits = f"{fraction:0{decimals}d}".rstrip("0").ljust(decimals_min, "0") if decimals else ""
    return f"{'-' if amount < 0 else ''}{whole}{'.' if digits else ''}{digits}"


def cents_text(cents: int) -> str:
    """Write cents as euros with two decimals: ``-0.05``."""
    return decimal_text(cents, 2, decimals_min=2)


def rate_text(rate_bp: int) -> str:
    """Write hundredths of a percent as a percentage: ``20``, ``8.5``."""
    return decimal_text(rate_bp, 2)


def compact_date(day: str) -> str:
    """Return ``YYYY-MM-DD`` as ``YYYYMMDD`` (UNTDID 2379: 102)."""
    return day.replace("-", "")


def grouped(number: str, language: Language) -> str:
    """Typeset a decimal string: groups of three digits, the language's decimal sign, a real minus.

    >>> grouped("-1234567.5", Language.FRENCH).replace(NARROW, "_")
    '−1_234_567,5'
    """
    whole, _, fraction = number.removeprefix("-").partition(".")
    head = len(whole) % 3
    groups = [whole[:head]] if head else []
    groups += [whole[at : at + 3] for at in range(head, len(whole), 3)]
    sign = MINUS if number.startswith("-") else ""
    comma = ("," if language is Language.FRENCH else ".") if fraction else ""
    return f"{sign}{NARROW.join(groups)}{comma}{fraction}"


def euros(number: str, language: Language) -> str:
    """Typeset a decimal string of euros: ``1 234,50 €`` in French, ``€1 234.50`` in English."""
    text = grouped(number, language)
    if language is Language.FRENCH:
        return f"{text}{NO_BREAK}€"
    return f"{MINUS}€{text[1:]}" if text.startswith(MINUS) else f"€{text}"


def cents_typeset(cents: int, language: Language) -> str:
    """Typeset cents as euros."""
    return euros(cents_text(cents), language)


def pico_typeset(amount_pico: int, language: Language) -> str:
    """Typeset pico-euros exactly: two to twelve decimals."""
    return euros(decimal_text(amount_pico, 12, decimals_min=2), language)


def per_million_typeset(unit_price_pico: int, language: Language) -> str:
    """Typeset the price of a million units: pico-euros per unit are micro-euros per million."""
    return euros(decimal_text(unit_price_pico, 6, decimals_min=2), language)


def rate_typeset(rate_bp: int, language: Language) -> str:
    """Typeset a rate: ``20 %`` in French, ``20%`` in English."""
    text = grouped(rate_text(rate_bp), language)
    return f"{text}{NARROW}%" if language is Language.FRENCH else f"{text}%"


def day_typeset(day: str, language: Language, *, short: bool = False) -> str:
    """Typeset ``YYYY-MM-DD``: ``3 août 2026``, ``3 August 2026``; the first of a French month is ``1er``."""
    year, month, number = (int(part) for part in day.split("-"))
    name = (_SHORT_MONTHS if short else _MONTHS)[language][month - 1]
    ordinal = "er" if language is Language.FRENCH and number == 1 and not short else ""
    return f"{number}{ordinal}{NO_BREAK}{name}{NO_BREAK}{year}"


def month_typeset(month: str, language: Language) -> str:
    """Typeset ``YYYY-MM``: ``août 2026``."""
    year, number = (int(part) for part in month.split("-"))
    return f"{_MONTHS[language][number - 1]}{NO_BREAK}{year}"


def period_typeset(first_day: str, last_day: str, language: Language) -> str:
    """Typeset a period, shortly: ``1–31 août 2026``; a day of its own as that day."""
    if first_day == last_day:
        return day_typeset(first_day, language, short=True)
    last = day_typeset(last_day, language, short=True)
    if first_day[:7] == last_day[:7]:
        return f"{int(first_day[8:])}–{last}"
    return f"{day_typeset(first_day, language, short=True)} – {last}"


def siren_typeset(number: str) -> str:
    """Typeset a SIREN, or a SIRET, which begins with one: ``123 456 782 00010``."""
    groups = (number[:3], number[3:6], number[6:9], number[9:])
    return NARROW.join(group for group in groups if group)
