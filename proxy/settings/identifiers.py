"""Forms that name companies, banks and countries: each with the check digits or the list that it has.

What belongs here: pure functions like those of forms.py. What does not: whether two of them belong to each other
(checks.py). python-stdnum knows the rules; it is loaded when the first such value is read, so that a configuration
without a seller does not pay for it.

Every parser raises ValueError with a message that completes "expected …" and holds no part of the text.
"""

import re
from collections.abc import Callable
from functools import cache
from importlib import import_module, resources
from typing import Final

from proxy.core.calendar import zone

_EMAIL: Final = re.compile(r"[A-Za-z0-9._%+-]{1,64}@([A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}")
_EMAIL_CHARS_MAX: Final = 254  # RFC 5321, section 4.5.3.1.3, without the angle brackets


def siren(text: str) -> str:
    """Return the nine digits of a French company, without blanks."""
    return _standard("stdnum.fr.siren", text, "a SIREN: nine digits, the last of which is a check digit")


def siret(text: str) -> str:
    """Return the fourteen digits of a French establishment, without blanks."""
    return _standard("stdnum.fr.siret", text, "a SIRET: a SIREN and five digits, the last of which is a check digit")


def french_vat_number(text: str) -> str:
    """Return a French VAT identifier with its ``FR``, without blanks."""
    expected = "a French VAT number: FR, a key of two characters, and the SIREN"
    if not text.strip().upper().startswith("FR"):
        raise ValueError(expected)
    return "FR" + _standard("stdnum.fr.tva", text, expected)


def iban(text: str) -> str:
    """Return an IBAN without blanks."""
    return _standard(
        "stdnum.iban", text, "an IBAN: country, two check digits, and the account as that country writes it"
    )


def bic(text: str) -> str:
    """Return a BIC of eight or eleven characters (ISO 9362)."""
    return _standard("stdnum.bic", text, "a BIC: eight or eleven characters, such as AGRIFRPP")


def country(text: str) -> str:
    """Check a country's code (ISO 3166-1 alpha-2, in capitals)."""
    if text not in countries():
        raise ValueError("a country's code of two capitals, such as FR")
    return text


@cache
def countries() -> frozenset[str]:
    """Return the codes of all countries, as the time zone database lists them: it is kept up to date."""
    table = resources.files("tzdata").joinpath("zoneinfo", "iso3166.tab").read_text(encoding="utf-8")
    return frozenset(line[:2] for line in table.splitlines() if not line.startswith("#"))


def email(text: str) -> str:
    """Check an address of mail, of the kind that every receiver takes."""
    if len(text) > _EMAIL_CHARS_MAX or _EMAIL.fullmatch(text) is None:
        raise ValueError("an e-mail address such as billing@company.example")
    return text


def timezone(text: str) -> str:
    """Check the name of a time zone."""
    try:
        zone(text)
    except ValueError as exc:
        raise ValueError("the name of a time zone such as Europe/Paris") from exc
    return text


def _standard(rule: str, text: str, expected: str) -> str:
    """Return the text as a module of stdnum validates it, in its shortest form."""
    validate: Callable[[str], str] = import_module(rule).validate
    try:
        return validate(text)
    except ValueError as exc:  # which stdnum's ValidationError is
        raise ValueError(expected) from exc
