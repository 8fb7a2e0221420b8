"""``tollgate accounts buyer``: who an account's invoices are made out to.

What belongs here: the commands and what they print. What does not: the rules (ledger/buyer_checks.py).
"""

import re
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from proxy.cli.ledger_session import config_option, json_option, operator, read_settings, time_text, with_ledger
from proxy.core.accounts import Account
from proxy.core.parties import Address, Buyer, Language, VatTreatment
from proxy.ledger.accounts import Accounts
from proxy.ledger.buyers import BuyerChange, Buyers
from proxy.ledger.database import Database
from proxy.ledger.location import Location

_RATE: Final = re.compile(r"([0-9]{1,2})(?:\.([0-9]{1,2}))?")
_STANDARD_RATE_BP: Final = 2000


class Percent(click.ParamType[int]):
    """A rate in percent with at most two decimals; becomes hundredths of a percent."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Parse it; a bad one ends the command with exit code 2."""
        if isinstance(value, int):
            return value
        match = _RATE.fullmatch(str(value))
        if match is None:
            self.fail(f"not a rate in percent, such as 20 or 5.5: {value!r}", param, ctx)
        return int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))


@click.group()
def buyer() -> None:
    """Set and show who an account's invoices are made out to."""


@buyer.command("set")
@click.argument("account")
@click.option("--name", required=True, help="Of the company.")
@click.option("--address", "lines", multiple=True, required=True, help="A line of its address; up to three times.")
@click.option("--postcode", default="", help="As its post writes it.")
@click.option("--city", required=True)
@click.option("--country", required=True, help="Two capitals: FR, DE, US (ISO 3166-1).")
@click.option("--vat", type=click.Choice([each.value for each in VatTreatment]), default="french", show_default=True)
@click.option("--vat-rate", type=Percent(), help="Percent, where VAT is French; 20 by default.")
@click.option("--siren", default="", help="Nine digits; every company in France has one.")
@click.option("--siret", default="", help="Fourteen digits, where an establishment is to be named.")
@click.option("--vat-number", default="", help="Its VAT number.")
@click.option("--email", default="", help="Where invoices go.")
@click.option("--language", type=click.Choice([each.value for each in Language]), default="fr", show_default=True)
@click.option("--purchase-order", default="", help="Its order, as it wants it named.")
@click.option("--reference", default="", help="Its own reference, such as a service of a public body.")
@click.option("--payment-days", type=int, help="When it pays, in days from issue; as everybody, by default.")
@json_option
@config_option
def set_(
    *,
    account: str,
    lines: tuple[str, ...],
    postcode: str,
    city: str,
    country: str,
    vat: str,
    vat_rate: int | None,
    language: str,
    as_json: bool,
    config_dir: Path,
    **texts: Any,  # noqa: ANN401 - what Buyer has under the same name
) -> None:
    """Make the invoices of ACCOUNT out to a buyer, from now on."""
    treatment = VatTreatment(vat)
    if vat_rate is None:
        vat_rate = _STANDARD_RATE_BP if treatment is VatTreatment.FRENCH else 0
    wanted = Buyer(
        address=Address(lines, postcode, city, country),
        vat=treatment,
        vat_rate_bp=vat_rate,
        language=Language(language),
        **texts,
    )

    async def work(database: Database, _: Location) -> tuple[Account, Buyer, bool]:
        known = await Accounts(database).named(account)
        return known, *await Buyers(database).set(known.id, wanted, by=operator())

    known, made, is_new = with_ledger(read_settings(config_dir), work)
    if as_json:
        click.echo(msgspec.json.encode({"account": known.name, "buyer": made, "new": is_new}))
    elif is_new:
        click.echo(f"Invoices of {known.name} are made out to {made.name} from now on.")
    else:
        click.echo(f"Invoices of {known.name} are made out to {made.name} already; nothing changed.")


@buyer.command()
@click.argument("account")
@json_option
@config_option
def show(account: str, as_json: bool, config_dir: Path) -> None:
    """Show who the invoices of ACCOUNT are made out to, and were before."""

    async def work(database: Database, _: Location) -> tuple[Account, list[BuyerChange]]:
        known = await Accounts(database).named(account)
        return known, await Buyers(database).history(known.id)

    known, history = with_ledger(read_settings(config_dir), work)
    if as_json:
        current = history[-1].buyer if history else None
        click.echo(msgspec.json.encode({"account": known.name, "buyer": current, "history": history}))
        return
    if not history:
        click.echo(f"{known.name} has no buyer yet: no invoice can be made out.")
        return
    for line in _lines(history[-1].buyer):
        click.echo(line)
    for change in history:
        by = f", by {change.set_by}" if change.set_by else ""
        click.echo(f"  {change.buyer.name} since {time_text(change.set_ms, known.timezone)}{by}")


def _lines(who: Buyer) -> list[str]:
    """Return a buyer as people read it, without what it does not have."""
    place = " ".join(filter(None, (who.address.postcode, who.address.city, who.address.country)))
    numbers = {"SIREN": who.siren, "SIRET": who.siret, "VAT number": who.vat_number}
    says = {"order": who.purchase_order, "reference": who.reference, "mail": who.email}
    days = None if who.payment_days is None else f"{who.payment_days} days"
    vat = who.vat.value.replace("_", " ")
    if who.vat is VatTreatment.FRENCH:
        vat += f" {who.vat_rate_bp // 100}.{who.vat_rate_bp % 100:02d} %"
    told = {**numbers, "VAT": vat, "language": who.language.value, **says, "pays within": days}
    return [who.name, *who.address.lines, place, *(f"{name}: {text}" for name, text in told.items() if text)]
