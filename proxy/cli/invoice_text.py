"""What ``tollgate invoice`` prints.

What belongs here: documents and lists for people and for programs. What does not: the commands (invoice.py), and the
documents' own files (billing/documents/).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from proxy.cli.ledger_session import time_text
from proxy.core.invoicing.document import DocumentKind, Invoice, Line, LineKind
from proxy.core.money import PICO_PER_CENT, euros_text
from proxy.ledger.invoices import DocumentInfo, StoredDocument

if TYPE_CHECKING:
    from proxy.billing.invoices.outcomes import Outcome

_KINDS: Final = {
    DocumentKind.INVOICE: "Invoice",
    DocumentKind.DEPOSIT: "Deposit invoice",
    DocumentKind.CREDIT_NOTE: "Credit note",
}


def cents_text(cents: int) -> str:
    """Return cents as euros with two decimals."""
    return euros_text(cents * PICO_PER_CENT)


def print_document(
    console: Console, document: Invoice, stored: StoredDocument | None = None, notes: Sequence[DocumentInfo] = ()
) -> None:
    """Print a document: head, lines, totals, what it covers, and what became of it."""
    seller, buyer = document.seller, document.buyer
    console.print(f"{_KINDS[document.kind]} {document.number or '(draft)'} of {document.issue_date}", style="bold")
    console.print(f"{seller.name} to {buyer.name}, account {document.account_name}, {document.tier}")
    console.print(f"for {document.first_day} to {document.last_day}, due on {document.due_date}")
    if document.corrects is not None:
        what = "cancels" if document.cancels else "corrects"
        console.print(f"{what} {document.corrects.number} of {document.corrects.issue_date}: {document.reason}")
    console.print(_lines(document.lines))
    console.print(_totals(document))
    for mark in document.chain:
        if mark.link:
            console.print(f"covers {mark.month}, links {mark.after_link + 1} to {mark.link}, sealed {mark.head}")
    if stored is not None:
        issued = time_text(stored.info.issued_ms)
        console.print(f"issued {issued} by {stored.info.issued_by or 'nobody known'}")
        console.print(f"SHA-256 of the PDF {stored.pdf_sha256}\nSHA-256 of the XML {stored.xml_sha256}", soft_wrap=True)
    for note in notes:
        what = "cancelled" if note.cancels else "corrected"
        console.print(f"{what} by {note.number} of {note.issue_date}, {cents_text(note.gross_cents)} €")


def _lines(lines: Iterable[Line]) -> Table:
    table = narrow_table("", "what", "day", "quantity", "€/million", "net €", "prices", right=(0, 3, 4, 5), folds=(1,))
    for line in lines:
        if line.usage is None:
            what = f"credit {line.reference}" if line.kind is LineKind.CREDIT else f"credit drawn: {line.reference}"
            deposit = line.deposit.number if line.deposit is not None else ""
            table.add_row(str(line.number), what, "", "", "", cents_text(line.net_cents), deposit)
            continue
        item, day = line.usage, line.first_day if line.kind is LineKind.LATE else ""
        price = euros_text(item.unit_price_pico * 10**6)
        table.add_row(
            str(line.number),
            f"{item.model}\n{item.usage_type.value}, {item.tariff_class.value}",
            day,
            f"{line.quantity:,}",
            price,
            cents_text(line.net_cents),
            item.price_version,
        )
    return table


def narrow_table(*names: str, right: Iterable[int], folds: Iterable[int]) -> Table:
    """Return a table for 80 columns: only some of its own may be folded, so that no number is ever cut short."""
    table = Table(*names, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.no_wrap = True
    for place in right:
        table.columns[place].justify = "right"
    for place in folds:
        table.columns[place].no_wrap, table.columns[place].overflow = False, "fold"
    return table


def _totals(document: Invoice) -> Table:
    vat = document.vat
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("net", f"{cents_text(document.net_cents)} €")
    table.add_row(
        f"VAT {vat.rate_bp // 100}.{vat.rate_bp % 100:02d} % ({vat.category})", f"{cents_text(vat.vat_cents)} €"
    )
    table.add_row("gross", f"{cents_text(document.gross_cents)} €")
    if document.paid_cents:
        table.add_row("paid", f"{cents_text(document.paid_cents)} €")
    table.add_row("due", f"{cents_text(document.due_cents)} €", style="bold")
    table.add_row("exact", f"{euros_text(document.exact_pico)} €")
    table.add_row("rounding", f"{euros_text(document.rounding_pico)} €")
    return table


def print_list(console: Console, found: Iterable[DocumentInfo]) -> None:
    """Print documents, one a line."""
    table = narrow_table("number", "date", "month", "account", "what", "net €", "due €", right=(5, 6), folds=(3, 4))
    for info in found:
        what = info.kind.value.replace("_", " ")
        if info.corrects:
            what += f", {'cancels' if info.cancels else 'corrects'} {info.corrects}"
        elif not info.stands:
            what += ", cancelled"
        amounts = map(cents_text, (info.net_cents, info.due_cents))
        table.add_row(info.number, info.issue_date, info.month, info.account, what, *amounts)
    console.print(table)


def print_outcomes(console: Console, month: str, outcomes: Sequence["Outcome"]) -> None:
    """Print what became of each account's month."""
    table = narrow_table("account", "", "number", "net €", "VAT €", "due €", right=(3, 4, 5), folds=(0,))
    for outcome in outcomes:
        if outcome.result.value == "nothing":
            continue
        if outcome.document is None:
            table.add_row(outcome.account, outcome.result.value, outcome.number)
            continue
        for deposit in outcome.deposits:
            amounts = (deposit.net_cents, deposit.vat.vat_cents, deposit.due_cents)
            table.add_row(outcome.account, "deposit", deposit.number, *map(cents_text, amounts))
        document = outcome.document
        amounts = (document.net_cents, document.vat.vat_cents, document.due_cents)
        table.add_row(outcome.account, outcome.result.value, document.number, *map(cents_text, amounts))
    if table.rows:
        console.print(table)
    for outcome in outcomes:
        if outcome.why:
            console.print(f"{outcome.account}: {outcome.why}", soft_wrap=True, highlight=False, markup=False)
    counted = Counter(each.result.value for each in outcomes)
    # Without --account those who never used anything are not looked at: "0 used nothing" would say that there is none.
    nothing = f"{counted['nothing']} used nothing, " if counted["nothing"] else ""
    net = cents_text(sum(each.document.net_cents for each in outcomes if each.document is not None))
    console.print(
        f"{month}: {counted['issued']} issued, {net} € net; {counted['already']} stood already, "
        f"{nothing}{counted['refused']} refused."
    )


def outcomes_document(month: str, outcomes: Iterable["Outcome"]) -> dict[str, Any]:
    """Return what became of each account's month, for programs."""
    return {
        "month": month,
        "accounts": [
            {
                "account": each.account,
                "result": each.result.value,
                "number": each.number or None,
                "why": each.why or None,
                "document": each.document,
                "deposits": each.deposits,
            }
            for each in outcomes
        ],
    }


def stored_document(stored: StoredDocument, notes: Sequence[DocumentInfo]) -> dict[str, Any]:
    """Return a document as it was issued, for programs, without its files."""
    return {
        "info": stored.info,
        "document": stored.document,
        "pdf_sha256": stored.pdf_sha256,
        "xml_sha256": stored.xml_sha256,
        "corrected_by": notes,
    }
