"""``xlsx``: a workbook for people: a row for each account, and what it follows from day by day.

What belongs here: which sheets there are and what they say, from the ledger's rollups. What does not: how a table is
written (workbook.py), and single calls, of which a month has more than a sheet has rows.

Sheets are written from top to bottom and leave memory row by row.
"""

import contextlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from xlsxwriter import Workbook

from proxy.billing.exports.output import writing
from proxy.billing.exports.request import ExportRequest, Written
from proxy.billing.exports.workbook import CENTS, COUNT, MICROS, PRICE, ROWS_MAX, SHARE, Column, Table, half_up
from proxy.core.calendar import month_bounds_ms
from proxy.core.levels import Overridable
from proxy.core.money import PICO_PER_EURO, cents_half_up, euros_text
from proxy.core.usage import UsageType
from proxy.ledger.months_entries import Holder, MonthsEntries
from proxy.ledger.streaming import Block, MonthStream, month_stream

MILLION: Final = 1_000_000
_TYPES: Final = tuple(UsageType)
_SUMMARY: Final = (
    Column("Account", 30),
    Column("Account id", 18),
    Column("Tier", 18),
    Column("Calls", 12, COUNT),
    *(
        Column(
            kind.value.replace("_", " ").capitalize() + ("" if kind is UsageType.AUDIO_MINUTES else " tokens"),
            15,
            COUNT,
        )
        for kind in _TYPES
    ),
    Column("Euros", 14, CENTS),
    Column("Euros, exact", 20, right=True),
    Column("Monthly cap, euros", 14, CENTS),
    Column("Share of cap", 10, SHARE),
)
_DETAILS: Final = (
    Column("Account", 30),
    Column("Day", 12),
    Column("Model", 28),
    Column("Usage type", 15),
    Column("Class", 10),
    Column("Price version", 14),
    Column("Quantity", 16, COUNT),
    Column("Price of", 18),
    Column("Price, euros", 14, PRICE),
    Column("Euros", 18, MICROS),
    Column("Euros, exact", 22, right=True),
)
_EUROS: Final = 9
"""Column of the details."""
_ROUNDED: Final = (
    "Euros are rounded half up in each row, here to the cent; the exact amount stands beside it as text. "
    "The total adds up the rounded rows."
)


async def write_xlsx(request: ExportRequest, out: BinaryIO) -> Written:
    """Write the workbook; its rows are those of the details."""
    with tempfile.TemporaryDirectory(prefix="tollgate-xlsx-") as folder:
        path = Path(folder) / "export.xlsx"
        options = {"constant_memory": True, "tmpdir": folder, "strings_to_formulas": False, "strings_to_urls": False}
        with Workbook(path, options) as book:
            made = datetime.fromtimestamp(request.made_ms / 1000, UTC)
            book.set_properties({"title": f"Usage, {request.month}", "created": made.replace(tzinfo=None)})
            book.use_zip64()
            holders = await MonthsEntries(request.database).holders(request.month, request.account_id)
            async with month_stream(request.database, request.month, request.account_id) as month:
                used = await _used(month.monthly())
                with writing():
                    _summary(book, request, month, used, {holder.account.id: holder for holder in holders})
                written = await _details(book, request, month)
        with path.open("rb") as whole:
            shutil.copyfileobj(whole, out)
    return written


class _Used(msgspec.Struct):
    """What an account has used so far."""

    quantities: list[int]
    cost_pico: int = 0


def _summary(
    book: Workbook,
    request: ExportRequest,
    month: MonthStream,
    used: Mapping[str, _Used],
    holders: Mapping[str, Holder],
) -> None:
    sheet = book.add_worksheet("Summary")
    made = datetime.fromtimestamp(request.made_ms / 1000, UTC)
    sheet.write_string(0, 0, f"Usage, {request.month}", book.add_format({"bold": True, "font_size": 14}))
    sold_by = f"{request.seller.name}. " if request.seller is not None else ""
    sheet.write_string(1, 0, f"{sold_by}Made {made:%Y-%m-%d %H:%M} UTC. The month is each account's own.")
    sheet.write_string(2, 0, _ROUNDED)
    table = Table(book, sheet, _SUMMARY, 4)
    calls, quantities, cents, exact_pico = 0, [0] * len(_TYPES), 0, 0
    for account_id, name in sorted(month.accounts.items(), key=lambda item: (item[1], item[0])):
        account = used.get(account_id) or _Used([0] * len(_TYPES))
        account_cents = cents_half_up(account.cost_pico)
        tier, cap_pico = _terms(request, holders.get(account_id))
        table.add(
            (
                name,
                account_id,
                tier,
                month.calls.get(account_id, 0),
                *account.quantities,
                account_cents / 100,
                euros_text(account.cost_pico),
                "none" if cap_pico is None else cents_half_up(cap_pico) / 100,
                account.cost_pico / cap_pico if cap_pico else None,
            )
        )
        calls += month.calls.get(account_id, 0)
        quantities = [one + more for one, more in zip(quantities, account.quantities, strict=True)]
        cents += account_cents
        exact_pico += account.cost_pico
    table.end(("Total", None, None, calls, *quantities, cents / 100, euros_text(exact_pico), None, None))


async def _used(blocks: AsyncGenerator[Block, None]) -> dict[str, _Used]:
    """Add up what each account used, over models, classes and price versions."""
    places = {kind.value: place for place, kind in enumerate(_TYPES)}
    used: dict[str, _Used] = {}
    async with contextlib.aclosing(blocks):
        async for block in blocks:
            columns = (block[name] for name in ("account_id", "usage_type", "quantity", "cost_pico"))
            for account_id, usage_type, quantity, cost_pico in zip(*columns, strict=True):
                account = used.setdefault(account_id, _Used([0] * len(_TYPES)))
                account.quantities[places[usage_type]] += quantity
                account.cost_pico += cost_pico
    return used


def _terms(request: ExportRequest, holder: Holder | None) -> tuple[str, int | None]:
    """Return the titles of the tiers that an account held in the month, and its cap at the month's end (or now)."""
    if holder is None or not holder.tiers:
        return "", None
    tiers = [request.tiers.get(id_) for id_ in holder.tiers]
    titles = [id_ if tier is None else tier.title for id_, tier in zip(holder.tiers, tiers, strict=True)]
    cap_pico = tiers[-1].monthly_limit_pico if tiers[-1] is not None else None
    _, ends_ms = month_bounds_ms(request.month, holder.account.timezone)
    at_ms = min(request.made_ms, ends_ms - 1)
    for span in holder.overrides:
        if span.override.limit is Overridable.MONTHLY_LIMIT and span.since_ms <= at_ms < span.override.ends_ms:
            cap_pico = span.override.amount
    return ", ".join(titles), cap_pico


async def _details(book: Workbook, request: ExportRequest, month: MonthStream) -> Written:
    sheets = _Sheets(book)
    rows, micros, exact_pico = 0, 0, 0
    async with contextlib.aclosing(month.daily()) as blocks:
        async for block in blocks:
            with writing():
                for line in _lines(block):
                    sheets.add(line.cells)
                    micros += line.micros
            rows += len(block["day"])
            exact_pico += sum(block["cost_pico"])
            request.advanced(rows, rows)
    sheets.end(micros, exact_pico)
    return Written(rows, exact_pico)


class _Line(msgspec.Struct, frozen=True):
    cells: tuple[str | float | None, ...]
    micros: int


def _lines(block: Block) -> Iterator[_Line]:
    names = ("account", "day", "model", "usage_type", "tariff_class", "price_version", "quantity", "cost_pico")
    for *texts, quantity, cost_pico in zip(*(block[name] for name in names), strict=True):
        micros = half_up(cost_pico, 6)
        price = _price(UsageType(texts[3]), quantity, cost_pico)
        yield _Line((*texts, quantity, *price, micros / MILLION, euros_text(cost_pico)), micros)


def _price(kind: UsageType, quantity: int, cost_pico: int) -> tuple[str, float | None]:
    """Return what a price is of, and the price in euros; a quantity of 0 does not tell it."""
    unit_pico = cost_pico // quantity if quantity else None
    if kind is UsageType.AUDIO_MINUTES:
        return "minute", None if unit_pico is None else unit_pico / PICO_PER_EURO
    return "1,000,000 tokens", None if unit_pico is None else unit_pico / MILLION


class _Sheets:
    """The details, on as many sheets as they need."""

    def __init__(self, book: Workbook) -> None:
        self._book = book
        self._tables: list[Table] = []
        self._next()

    def _next(self) -> None:
        number = len(self._tables) + 1
        sheet = self._book.add_worksheet("Details" if number == 1 else f"Details {number}")
        self._tables.append(Table(self._book, sheet, _DETAILS, 0))

    def add(self, cells: Sequence[str | float | None]) -> None:
        if self._tables[-1].row >= ROWS_MAX - 1:  # the last row is the total's
            self._tables[-1].end()
            self._next()
        self._tables[-1].add(cells)

    def end(self, micros: int, exact_pico: int) -> None:
        """Write the total of all sheets below the last."""
        total: list[str | float | None] = [None] * len(_DETAILS)
        total[0], total[_EUROS], total[_EUROS + 1] = "Total", micros / MILLION, euros_text(exact_pico)
        self._tables[-1].end(total, lambda place: ",".join(table.cells(place) for table in self._tables))
