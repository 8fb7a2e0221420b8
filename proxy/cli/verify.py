"""``tollgate verify``: whether the ledger's entries are those that were sealed, and documents print the chain's heads.

What belongs here: the command and what it prints. What does not: reading chains (ledger/chain_reading.py) and comparing
(core/chain_audit.py).
"""

from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from proxy.cli.ledger_reading import with_ledger_untouched
from proxy.cli.ledger_session import config_option, json_option, read_settings
from proxy.cli.progress import progress
from proxy.core.calendar import is_month
from proxy.core.chain_audit import Finding, MonthReport, Wrong
from proxy.ledger.chain import Month
from proxy.ledger.chain_reading import Chained, ChainReading
from proxy.ledger.database import Database

_SAID: Final = {
    Wrong.CHANGED: "entry {call} is not as link {link} sealed it",
    Wrong.MISSING: "entry {call} is not there any more; link {link} sealed it",
    Wrong.INSERTED: "entry {call} says that link {link} seals it, and it does not{more}",
    Wrong.UNSEALED: "entry {call} is sealed by no link",
    Wrong.LINK_MISSING: "{links} not there any more{left}",
    Wrong.LINK_ALTERED: "link {link} was altered: it does not say of its entries what it sealed",
    Wrong.HEAD_BROKEN: "the head of link {link} does not follow from its entries and the link before: one was altered",
    Wrong.LAST_HEAD: "the next commit would go on from link {link}, with a head that is not the last link's",
    Wrong.PRINTED_HEAD: "document {document} has printed another head of link {link}",
    Wrong.UNREADABLE: "what document {document} says cannot be read",
}


class Verified(msgspec.Struct, frozen=True):
    """What was gone through, and what was found of each month."""

    chained: Chained
    reports: dict[Month, MonthReport]

    def name(self, key: Month) -> str:
        """Return an account's name; its id where it has none."""
        return self.chained.names.get(key[0], key[0])

    @property
    def wrong(self) -> int:
        """How much is wrong."""
        return sum(len(report.findings) + report.unnamed for report in self.reports.values())


@click.command()
@click.option("--month", help="YYYY-MM, each account's own; every month, by default.")
@click.option("--account", help="Of this account only, by name or id.")
@click.option("--rows", type=click.IntRange(0), default=50, show_default=True, help="Lines of a list; 0: all.")
@click.option("--no-progress", is_flag=True, help="Show no progress, however long it takes.")
@json_option
@config_option
def verify(
    *, month: str | None, account: str | None, rows: int, no_progress: bool, as_json: bool, config_dir: Path
) -> None:
    """Check that no entry was changed, removed or added since it was sealed.

    Names what is wrong, and ends with exit code 1 if anything is. Nothing is written.
    """
    if month is not None and not is_month(month):
        raise click.BadParameter(f"not a month (YYYY-MM): {month!r}", param_hint="--month")

    async def work(database: Database) -> Verified:
        reading = ChainReading(database)
        chained = await reading.chained(month, account)
        reports: dict[Month, MonthReport] = {}
        done = 0
        with progress("entries", shown=not no_progress) as told:

            def read(entries: int) -> None:
                nonlocal done
                done += entries
                told(done, max(done, chained.calls))

            for key in chained.months:
                reports[key] = await reading.audit(key, chained.printed.get(key, ()), read)
        return Verified(chained, reports)

    verified = with_ledger_untouched(read_settings(config_dir).proxy, work)
    if as_json:
        click.echo(msgspec.json.encode(verified_document(verified)))
    else:
        _print(Console(), verified, rows)
    if verified.wrong:
        raise click.exceptions.Exit(1)


def verified_document(verified: Verified) -> dict[str, object]:
    """Return the documented JSON document."""
    months, findings = [], []
    for key, report in verified.reports.items():
        whose = {"account": verified.name(key), "account_id": key[0], "month": key[1]}
        wrong = len(report.findings) + report.unnamed
        months.append(whose | {"links": report.links, "entries": report.entries, "head": report.head, "wrong": wrong})
        findings += [whose | msgspec.to_builtins(finding) for finding in report.findings]
    return {"sound": not verified.wrong, "months": months, "findings": findings}


def _print(console: Console, verified: Verified, rows: int) -> None:
    right = [Column(name, justify="right", no_wrap=True) for name in ("links", "entries", "wrong")]
    table = Table("account", "month", *right, Column("head", overflow="fold"))
    for key, report in list(verified.reports.items())[: rows or None]:
        wrong = len(report.findings) + report.unnamed
        counts = (f"{report.links:,}", f"{report.entries:,}")
        table.add_row(
            Text(verified.name(key)), key[1], *counts, Text(f"{wrong:,}", "red" if wrong else ""), report.head
        )
    console.print(table)
    _print_more(console, len(verified.reports), rows, "months")
    lines = [
        f"{verified.name(key)} {key[1]}: {told(finding)}"
        for key, report in verified.reports.items()
        for finding in report.findings
    ]
    for line in lines[: rows or None]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    _print_more(console, len(lines), rows, "findings")
    unnamed = sum(report.unnamed for report in verified.reports.values())
    if unnamed:
        console.print(f"and {unnamed:,} more that are not named")
    entries = sum(report.entries for report in verified.reports.values())
    verdict = f"{verified.wrong:,} things are wrong. See docs/audit.md." if verified.wrong else "Nothing is wrong."
    console.print(f"{entries:,} entries in {len(verified.reports):,} months. {verdict}", highlight=False)


def _print_more(console: Console, count: int, rows: int, what: str) -> None:
    if rows and count > rows:
        console.print(f"and {count - rows:,} more {what} (--rows 0 shows all)", highlight=False)


def told(finding: Finding) -> str:
    """Return what is wrong, in words for an operator."""
    first, last, entries = finding.link, finding.last_link, finding.entries
    return _SAID[finding.wrong].format(
        call=finding.call_id,
        link=first,
        links=f"link {first} is" if first == last else f"links {first} to {last} are",
        more=f", and {entries - 1:,} more say so" if entries > 1 else "",
        left=f"; of their entries {entries:,} are left" if entries else "",
        document=finding.document,
    )
