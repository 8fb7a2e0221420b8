"""Whether a buyer can be invoiced as it says: its numbers, and whether they belong to each other.

What belongs here: rules that need no database. What does not: keeping buyers (buyers.py), and the seller
(settings/checks.py).

Sources: Code général des impôts, articles 259-1° and 283-2 (reverse charge of services), 262 ter and 289; Code de
commerce, article L441-10 (terms of payment).
"""

from collections.abc import Callable
from typing import Final

import msgspec

from proxy.core.parties import Address, Buyer, VatTreatment
from proxy.settings import identifiers

PAYMENT_DAYS_MAX: Final = 60
"""From the date of issue (Code de commerce, article L441-10)."""
RATE_BP_MAX: Final = 3000
TEXT_CHARS_MAX: Final = 200
ADDRESS_LINES_MAX: Final = 3

_FRANCE: Final = "FR"
_LIKE_FRANCE: Final = frozenset({"FR", "MC", "GP", "MQ", "RE"})
"""Monaco is French territory for VAT, and so are the overseas departments that have it."""
_STATES: Final = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"
MEMBER_STATES: Final = frozenset(_STATES.split())
"""The EU's, by the codes of ISO 3166-1; VAT numbers write Greece EL."""


def checked(buyer: Buyer) -> tuple[Buyer, list[str]]:
    """Return a buyer with its numbers as they are written officially, and what is wrong with it, all at once."""
    mistakes: list[str] = []
    address = _address(buyer.address, mistakes)
    tidy = msgspec.structs.replace(
        buyer,
        name=_text("name", buyer.name, mistakes, needed=True),
        address=address,
        siren=_number("siren", buyer.siren, identifiers.siren, mistakes),
        siret=_number("siret", buyer.siret, identifiers.siret, mistakes),
        vat_number=_number("vat-number", buyer.vat_number, _vat_number(buyer.address.country), mistakes),
        email=_number("email", buyer.email, identifiers.email, mistakes),
        purchase_order=_text("purchase-order", buyer.purchase_order, mistakes),
        reference=_text("reference", buyer.reference, mistakes),
    )
    if buyer.payment_days is not None and not 0 <= buyer.payment_days <= PAYMENT_DAYS_MAX:
        mistakes.append(f"payment-days: at most {PAYMENT_DAYS_MAX} days from the date of issue, by French law")
    if not mistakes:
        mistakes += _contradictions(tidy)
    return tidy, mistakes


def _contradictions(buyer: Buyer) -> list[str]:
    """Return what does not go together in a buyer each of whose parts is right."""
    country, found = buyer.address.country, []
    if country == _FRANCE and not buyer.siren:
        found.append("siren: a company in France has one")
    if country != _FRANCE and (buyer.siren or buyer.siret):
        found.append("siren, siret: only companies in France have one")
    if not buyer.siren and not buyer.email and country != _FRANCE:
        # BR-FR-12: BT-49, by its SIREN or by its address of mail.
        found.append("email: who has no siren needs one: an electronic invoice says where it goes")
    if buyer.siret and not buyer.siret.startswith(buyer.siren):
        found.append("siret: it begins with the siren, and this one does not")
    if buyer.siren and buyer.vat_number.startswith(_FRANCE) and buyer.vat_number[4:] != buyer.siren:
        found.append("vat-number: it ends with the siren, and this one does not")
    return found + _vat_contradictions(buyer)


def _vat_contradictions(buyer: Buyer) -> list[str]:
    country, found = buyer.address.country, []
    if buyer.vat is VatTreatment.FRENCH:
        if not 0 < buyer.vat_rate_bp <= RATE_BP_MAX:
            found.append(f"vat-rate: French VAT has a rate above 0 and at most {RATE_BP_MAX // 100} %")
        return found
    if buyer.vat_rate_bp:
        found.append(f"vat-rate: none where VAT is {buyer.vat.value}")
    if buyer.vat is VatTreatment.REVERSE_CHARGE:
        if country not in MEMBER_STATES or country == _FRANCE:
            found.append(f"country: reverse charge is for buyers in another member state of the EU, not in {country}")
        if not buyer.vat_number or buyer.vat_number.startswith(_FRANCE):
            found.append("vat-number: reverse charge needs the number that another member state gave the buyer")
    elif country in MEMBER_STATES | _LIKE_FRANCE:
        found.append(f"country: export is for buyers outside the EU, not in {country}")
    return found


def _address(address: Address, mistakes: list[str]) -> Address:
    if not 1 <= len(address.lines) <= ADDRESS_LINES_MAX:
        mistakes.append(f"address: one to {ADDRESS_LINES_MAX} lines, each given by its own --address")
    return Address(
        tuple(_text("address", line, mistakes, needed=True) for line in address.lines),
        _text("postcode", address.postcode, mistakes, needed=address.country in MEMBER_STATES),
        _text("city", address.city, mistakes, needed=True),
        _number("country", address.country, identifiers.country, mistakes) or address.country,
    )


def _text(name: str, text: str, mistakes: list[str], *, needed: bool = False) -> str:
    text = text.strip()
    if needed and not text:
        mistakes.append(f"{name}: missing")
    elif not text.isprintable() or len(text) > TEXT_CHARS_MAX:
        mistakes.append(f"{name}: one line of at most {TEXT_CHARS_MAX} printable characters")
    return text


def _number(name: str, text: str, parse: Callable[[str], str], mistakes: list[str]) -> str:
    """Return an official number as its parser writes it; empty stays empty."""
    if not text.strip():
        return ""
    try:
        return parse(text.strip())
    except ValueError as exc:
        mistakes.append(f"{name}: expected {exc}")
        return text


def _vat_number(country: str) -> Callable[[str], str]:
    """Return a parser of VAT numbers: strict for those of the EU; others are taken as they are."""

    def parse(text: str) -> str:
        from stdnum.eu import vat  # noqa: PLC0415 - loaded only where a number is read
        from stdnum.exceptions import ValidationError  # noqa: PLC0415

        states = {"EL" if state == "GR" else state for state in MEMBER_STATES}
        is_european = text[:2].upper() in states
        if not is_european and country not in MEMBER_STATES:
            if not text.isprintable() or len(text) > TEXT_CHARS_MAX:
                raise ValueError("one line")
            return text
        try:
            return vat.validate(text)
        except ValidationError as exc:
            raise ValueError("a VAT number of a member state, with its prefix, such as DE136695976") from exc

    return parse
