"""``tollgate invoice``: what customers are asked to pay, from a draft to a credit note.

What belongs here: the commands. What does not: what they print (invoice_text.py), and issuing (billing/invoices/).

What makes documents is heavy, and loaded by the commands that make one.
"""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import click
import msgspec
from rich.console import Console

from proxy.cli import invoice_text
from proxy.cli.ledger_session import config_option, json_option, on_database, operator, read_settings, with_ledger
from proxy.cli.progress import progress
from proxy.core.calendar import is_month
from proxy.core.invoicing.crediting import Part
from proxy.core.invoicing.document import DocumentKind, Invoice
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.invoices import DocumentInfo, Invoices, StoredDocument
from proxy.ledger.location import Location, locate
from proxy.ledger.migrations import migrate
from proxy.settings.types import Settings

if TYPE_CHECKING:
    from proxy.billing.invoices.office import Office
    from proxy.billing.invoices.outcomes import Outcome
    from proxy.billing.invoices.press import Press

T = TypeVar("T")
STATEMENT_S: Final = 600.0
"""For one statement: what came late to a large month is summed entry by entry."""
_PART: Final = re.compile(r"([1-9][0-9]{0,5})(?::([1-9][0-9]{0,17}))?")


class Month(click.ParamType[str]):
    """A billing month."""

    name = "YYYY-MM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Check it; a bad one ends the command with exit code 2."""
        if not is_month(str(value)):
            self.fail(f"not a month (YYYY-MM): {value!r}", param, ctx)
        return str(value)


class PartOfDocument(click.ParamType[Part]):
    """A line of a document, or a part of its quantity: ``3``, ``3:1000000``."""

    name = "N[:QUANTITY]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Part:  # noqa: ANN401
        """Parse it; a bad one ends the command with exit code 2."""
        match = _PART.fullmatch(str(value))
        if match is None:
            self.fail(f"not the number of a line, with or without :QUANTITY: {value!r}", param, ctx)
        return Part(int(match[1]), int(match[2]) if match[2] else None)


MONTH: Final = Month()
PART: Final = PartOfDocument()
_month_option: Final = click.option("--month", type=MONTH, required=True, help="YYYY-MM, each account's own.")
_pdf_option: Final = click.option("--pdf", type=click.File("wb"), help="Write the PDF to this file; - for output.")
_xml_option: Final = click.option("--xml", type=click.File("wb"), help="Write the XML to this file; - for output.")


@click.group()
def invoice() -> None:
    """Draft, issue, show and correct invoices."""


@invoice.command()
@_month_option
@click.option("--account", required=True, help="Name or id.")
@_pdf_option
@_xml_option
@json_option
@config_option
def draft(
    *, month: str, account: str, pdf: BinaryIO | None, xml: BinaryIO | None, as_json: bool, config_dir: Path
) -> None:
    """Show the invoice of a month as it would be today; nothing is stored, no number is taken."""
    from proxy.billing.invoices.craft import make_files  # noqa: PLC0415 - see above
    from proxy.billing.invoices.months import Months  # noqa: PLC0415

    async def work(office: "Office", press: "Press") -> Invoice:
        return await Months(office, press).draft(account, month)

    settings = read_settings(config_dir)
    document = _in_office(settings, work)
    if pdf is not None or xml is not None:
        files = make_files(document, settings.invoicing)
        _write(pdf, files.pdf)
        _write(xml, files.xml)
    if as_json:
        click.echo(msgspec.json.encode(document))
    elif not _is_output(pdf, xml):
        invoice_text.print_document(Console(), document)


@invoice.command()
@_month_option
@click.option("--account", help="Of this account only: name or id.")
@click.option(
    "--late-ok", is_flag=True, help="Also where entries of the month wait in outboxes, or its batches have not ended."
)
@json_option
@config_option
def issue(*, month: str, account: str | None, late_ok: bool, as_json: bool, config_dir: Path) -> None:
    """Issue the invoices of a month that do not stand yet; issuing again does nothing.

    The exit code is 1 when an account was refused.
    """
    from proxy.billing.invoices.months import Months  # noqa: PLC0415 - see above
    from proxy.billing.invoices.outcomes import Result  # noqa: PLC0415

    async def work(office: "Office", press: "Press") -> list["Outcome"]:
        with progress(f"invoices of {month}", shown=not as_json) as advanced:
            months = Months(office, press)
            return await months.issue(month, account, despite_waiting=late_ok, advanced=advanced)

    outcomes = _in_office(read_settings(config_dir), work)
    if as_json:
        click.echo(msgspec.json.encode(invoice_text.outcomes_document(month, outcomes)))
    else:
        invoice_text.print_outcomes(Console(), month, outcomes)
    if any(outcome.result is Result.REFUSED for outcome in outcomes):
        raise SystemExit(1)


@invoice.command()
@click.argument("number")
@_pdf_option
@_xml_option
@json_option
@config_option
def show(*, number: str, pdf: BinaryIO | None, xml: BinaryIO | None, as_json: bool, config_dir: Path) -> None:
    """Show the document NUMBER as it was issued, or write its files, byte for byte."""

    async def work(database: Database, _: Location) -> tuple[StoredDocument, list[DocumentInfo]]:
        stored = await Invoices(database).read(number)
        return stored, await Invoices(database).find(corrects=number)

    stored, notes = with_ledger(read_settings(config_dir), work)
    _write(pdf, stored.pdf)
    _write(xml, stored.xml)
    if as_json:
        click.echo(msgspec.json.encode(invoice_text.stored_document(stored, notes)))
    elif not _is_output(pdf, xml):
        invoice_text.print_document(Console(), stored.document, stored, notes)


@invoice.command("list")
@click.option("--month", type=MONTH, help="YYYY-MM; deposit invoices have none.")
@click.option("--account", help="Name or id.")
@click.option("--kind", type=click.Choice([each.value for each in DocumentKind]), help="Of this kind only.")
@json_option
@config_option
def list_(*, month: str | None, account: str | None, kind: str | None, as_json: bool, config_dir: Path) -> None:
    """List documents in the order in which they were issued."""

    async def work(database: Database, _: Location) -> list[DocumentInfo]:
        account_id = (await Accounts(database).named(account)).id if account is not None else None
        wanted = DocumentKind(kind) if kind is not None else None
        return await Invoices(database).find(account_id=account_id, month=month, kind=wanted)

    found = with_ledger(read_settings(config_dir), work)
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        invoice_text.print_list(Console(), found)


@invoice.command("credit-note")
@click.argument("number")
@click.option(
    "--line",
    "parts",
    type=PART,
    multiple=True,
    help="A line, or so many units of it (of a deposit: cents); all, by default.",
)
@click.option("--reason", required=True, help="Why, as printed.")
@json_option
@config_option
def credit_note(*, number: str, parts: tuple[Part, ...], reason: str, as_json: bool, config_dir: Path) -> None:
    """Take back the document NUMBER, or lines of it. What was cancelled can be invoiced anew."""
    from proxy.billing.invoices.credit_notes import CreditNotes  # noqa: PLC0415 - see above

    async def work(office: "Office", press: "Press") -> Invoice:
        return await CreditNotes(office, press).issue(number, parts or None, reason)

    document = _in_office(read_settings(config_dir), work)
    if as_json:
        click.echo(msgspec.json.encode(document))
        return
    amount = invoice_text.cents_text(document.gross_cents)
    what = "cancels" if document.cancels else "takes back a part of"
    click.echo(f"Issued {document.number} over {amount} €: it {what} {number}.")


@invoice.command()
@click.argument("account")
@click.argument("reference")
@json_option
@config_option
def deposit(*, account: str, reference: str, as_json: bool, config_dir: Path) -> None:
    """Issue the invoice for the credit that ACCOUNT has bought under REFERENCE, once."""
    from proxy.billing.invoices.deposits import Deposits  # noqa: PLC0415 - see above

    async def work(office: "Office", press: "Press") -> tuple[str, Invoice | None]:
        return await Deposits(office, press).issue(account, reference)

    number, document = _in_office(read_settings(config_dir), work)
    if as_json:
        click.echo(msgspec.json.encode({"number": number, "new": document is not None, "document": document}))
    elif document is None:
        click.echo(f"{number} was issued for it before; nothing changed.")
    else:
        click.echo(f"Issued {number} over {invoice_text.cents_text(document.gross_cents)} € for {reference}.")


def _in_office(settings: Settings, work: Callable[["Office", "Press"], Awaitable[T]]) -> T:
    """Run work on what issues documents. Raises ``click.ClickException`` with why it cannot."""
    from proxy.billing.invoices.craft import OFFICIAL  # noqa: PLC0415 - see above
    from proxy.billing.invoices.office import Office, need_seller  # noqa: PLC0415
    from proxy.billing.invoices.outcomes import IssueError  # noqa: PLC0415
    from proxy.billing.invoices.press import Press  # noqa: PLC0415
    from proxy.billing.invoices.workshop import Workshop  # noqa: PLC0415

    location, terms = locate(settings.proxy), settings.invoicing

    async def run(database: Database) -> T:
        await migrate(location.database_url)
        seller, outboxes = need_seller(settings.seller), tuple(location.outboxes())
        office = Office(database, seller, terms, settings.tiers, outboxes, operator())
        async with Workshop(OFFICIAL, terms) as workshop:
            return await work(office, Press(Invoices(database), workshop, terms, office.by))

    try:
        return on_database(location.database_url, run, command_timeout_s=STATEMENT_S)
    except IssueError as exc:
        raise click.ClickException(str(exc)) from exc


def _write(file: BinaryIO | None, content: bytes) -> None:
    if file is not None:
        file.write(content)


def _is_output(*files: BinaryIO | None) -> bool:
    """Whether a file goes where text would go."""
    return any(file is not None and file.name == "<stdout>" for file in files)
