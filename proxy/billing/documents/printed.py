"""What the pages say: a document as ready strings, for page.typ.

What belongs here: which texts stand on the page, typeset in the document's language. What does not: where they stand
(page.typ), and the words (labels.py, mentions.py). Every string goes through ``drawable``: whatever a customer is
called, the page can be drawn.
"""

from typing import Any

from proxy.billing.documents.amounts import (
    cents_typeset,
    day_typeset,
    grouped,
    per_million_typeset,
    period_typeset,
    pico_typeset,
    rate_typeset,
    siren_typeset,
)
from proxy.billing.documents.cii import expects_payment
from proxy.billing.documents.glyphs import drawable
from proxy.billing.documents.labels import country, label, title, usage_text, words
from proxy.billing.documents.mentions import (
    exemption_text,
    late_interest,
    legal_text_of_seller,
    line_note,
    line_title,
    proofs,
    references,
    registered_text,
)
from proxy.core.invoicing.document import DocumentKind, Invoice, Line
from proxy.core.invoicing.terms import InvoicingTerms
from proxy.core.money import cents_half_up
from proxy.core.parties import Address, Language
from proxy.core.usage import UsageType

Printed = dict[str, Any]
"""Strings, and lists and dicts of them: what JSON holds."""

_MILLION = 1_000_000
_SHARES = 1000


def printed(invoice: Invoice, terms: InvoicingTerms) -> Printed:
    """Return everything that the pages say."""
    language = invoice.buyer.language
    labels = words(language).labels
    named = " ".join(part for part in (title(invoice), invoice.number) if part)
    year, month, day = (int(part) for part in invoice.issue_date.split("-"))
    said = {
        "language": language.value,
        "file": {"title": named, "author": invoice.seller.name, "subject": invoice.buyer.name},
        "title": title(invoice),
        "number": invoice.number,
        "marks": _marks(invoice),
        "running": f"{invoice.seller.name} – {named}",
        "continued": labels["continued"],
        "page": labels["page"],
        "seller": _seller(invoice),
        "buyer": _buyer(invoice),
        "meta": _meta(invoice),
        "notices": references(invoice),
        "due": _due(invoice),
        "columns": ["", *(labels[key] for key in ("line", "period", "quantity", "price", "net"))],
        "rows": [_row(line, language) for line in invoice.lines],
        "vat": _vat(invoice),
        "totals": _totals(invoice),
        "payment-title": labels["payment"],
        "payment": _payment(invoice),
        "chart": _chart(invoice),
        "mentions": [
            labels["operations"],
            late_interest(invoice, terms),
            labels["recovery"],
            labels["discount"],
            labels["xml"],
        ],
        "proofs": proofs(invoice),
        "legal": _legal(invoice),
    }
    clean: Printed = _drawable(said)
    clean["file"] |= {"year": year, "month": month, "day": day}
    return clean


def _drawable(value: Any) -> Any:  # noqa: ANN401  # whatever JSON holds
    """Return a value with every string in it drawable."""
    if isinstance(value, str):
        return drawable(value)
    if isinstance(value, dict):
        return {key: _drawable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_drawable(inner) for inner in value]
    return value


def _marks(invoice: Invoice) -> list[str]:
    """What is written across the page of what is no real invoice."""
    labels = words(invoice.buyer.language).labels
    return [
        labels[key]
        for key, applies in (("draft", not invoice.number), ("specimen", invoice.seller.demonstration))
        if applies
    ]


def _address(address: Address, home: str, language: Language) -> list[str]:
    """An address, as it is written on an envelope: the country where it is not the seller's."""
    place = " ".join(part for part in (address.postcode, address.city) if part)
    return [*address.lines, place, *([country(address.country, language)] if address.country != home else [])]


def _seller(invoice: Invoice) -> Printed:
    """The letterhead."""
    seller = invoice.seller
    language = invoice.buyer.language
    contact = " · ".join(part for part in (seller.email, seller.phone, seller.website) if part)
    return {"name": seller.name, "lines": [", ".join(_address(seller.address, "", language)), contact]}


def _buyer(invoice: Invoice) -> Printed:
    """Who pays."""
    buyer = invoice.buyer
    labels = words(buyer.language).labels
    identifiers = []
    if buyer.siren:
        identifiers.append(f"SIREN {siren_typeset(buyer.siren)}")
    if buyer.siret:
        identifiers.append(f"SIRET {siren_typeset(buyer.siret)}")
    if buyer.vat_number:
        identifiers.append(f"{labels['vat_number']} {buyer.vat_number}")
    return {
        "label": labels["to"],
        "name": buyer.name,
        "lines": _address(buyer.address, invoice.seller.address.country, buyer.language),
        "identifiers": identifiers,
    }


def _meta(invoice: Invoice) -> list[list[str]]:
    """Dates and references, as pairs."""
    language = invoice.buyer.language
    labels = words(language).labels
    a_day = invoice.first_day == invoice.last_day
    supplied = (
        day_typeset(invoice.first_day, language)
        if a_day
        else period_typeset(invoice.first_day, invoice.last_day, language)
    )
    pairs = [
        ("issued", day_typeset(invoice.issue_date, language)),
        ("supply_day" if a_day else "supplied", supplied),
        ("account", invoice.account_name),
        ("tier", invoice.tier),
        ("order", invoice.buyer.purchase_order),
        ("reference", invoice.buyer.reference),
    ]
    return [[labels[key], text] for key, text in pairs if text]


def _due(invoice: Invoice) -> Printed:
    """What it comes to: to be paid, or given back."""
    language = invoice.buyer.language
    labels = words(language).labels
    date = day_typeset(invoice.due_date, language)
    if invoice.kind is DocumentKind.CREDIT_NOTE:
        said = {"label": labels["credited_amount"], "note": labels["given_back"], "date-label": "", "date": ""}
    elif expects_payment(invoice):
        note = label(language, "pay_before", date=date)
        said = {"label": labels["due_amount"], "note": note, "date-label": labels["due"], "date": date}
    else:
        note = labels["paid_in_full" if invoice.paid_cents else "nothing_due"]
        said = {"label": labels["due_amount"], "note": note, "date-label": "", "date": note}
    return said | {"amount": cents_typeset(invoice.due_cents, language)}


def _row(line: Line, language: Language) -> Printed:
    """A line."""
    labels = words(language).labels
    row = {
        "number": str(line.number),
        "title": line_title(line, language),
        "what": "",
        "tariff": "",
        "note": line_note(line, language),
        "period": period_typeset(line.first_day, line.last_day, language),
        "quantity": grouped(str(line.quantity), language),
        "price": cents_typeset(abs(line.net_cents), language),
        "per": "",
        "net": cents_typeset(line.net_cents, language),
        "emphasis": line.usage is None,
    }
    if line.usage is not None:
        row["what"] = usage_text(line, language)
        row["tariff"] = f"{labels['tariff']} {line.usage.price_version}"
        row["price"], row["per"] = _price(line, language)
    return row


def _price(line: Line, language: Language) -> tuple[str, str]:
    """A unit price, and for how much of it."""
    labels = words(language).labels
    assert line.usage is not None
    price_pico = line.usage.unit_price_pico
    if line.usage.usage_type is UsageType.AUDIO_MINUTES:
        return pico_typeset(price_pico, language), labels["per_minute"]
    return per_million_typeset(price_pico, language), labels["per_million"]


def _vat(invoice: Invoice) -> Printed:
    """The VAT."""
    language = invoice.buyer.language
    labels = words(language).labels
    vat = invoice.vat
    return {
        "columns": [labels[key] for key in ("vat_rate", "vat_base", "vat_amount")],
        "cells": [
            rate_typeset(vat.rate_bp, language),
            cents_typeset(vat.base_cents, language),
            cents_typeset(vat.vat_cents, language),
        ],
        "exemption": exemption_text(invoice),
    }


def _totals(invoice: Invoice) -> list[list[str]]:
    """The totals, up to what is due."""
    language = invoice.buyer.language
    labels = words(language).labels
    rate = label(language, "total_vat", rate=rate_typeset(invoice.vat.rate_bp, language))
    rows = [
        [labels["total_net"], cents_typeset(invoice.net_cents, language)],
        [rate, cents_typeset(invoice.vat.vat_cents, language)],
        [labels["total_gross"], cents_typeset(invoice.gross_cents, language)],
    ]
    if invoice.paid_cents:
        rows.append([labels["paid"], cents_typeset(-invoice.paid_cents, language)])
    return rows


def _payment(invoice: Invoice) -> list[list[str]]:
    """Where to pay to, as pairs; empty: nothing is to be paid."""
    if not expects_payment(invoice):
        return []
    labels = words(invoice.buyer.language).labels
    bank = invoice.seller.bank
    iban = " ".join(bank.iban[at : at + 4] for at in range(0, len(bank.iban), 4))
    pairs = [["IBAN", iban], ["BIC", bank.bic], [labels["holder"], bank.holder], [labels["remittance"], invoice.number]]
    return [pair for pair in pairs if pair[1]]


def _chart(invoice: Invoice) -> Printed | None:
    """The bars of the month: thousandths of the highest; None: nothing was used."""
    highest = max((day.cost_pico for day in invoice.days), default=0)
    if highest <= 0:
        return None
    language = invoice.buyer.language
    return {
        "title": words(language).labels["chart"],
        "highest": label(language, "highest", amount=cents_typeset(cents_half_up(highest), language)),
        "bars": [{"share": day.cost_pico * _SHARES // highest, "tick": str(int(day.day[8:]))} for day in invoice.days],
    }


def _legal(invoice: Invoice) -> list[str]:
    """What stands at the foot of every page."""
    seller = invoice.seller
    labels = words(invoice.buyer.language).labels
    return [
        f"{legal_text_of_seller(invoice)} · {registered_text(invoice)}",
        f"SIRET {siren_typeset(seller.siret)} · {labels['vat_number']} {seller.vat_number}",
    ]
