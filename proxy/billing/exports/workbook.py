"""What the sheets of a workbook share: how cells look, and how money is put into them.

What belongs here: formats of cells, texts, tables with a header. What does not: which sheets there are (xlsx.py).

A cell's number is a float by nature, so money is rounded to what the cell shows (half up, from the exact integer) and
the exact amount stands beside it as text. A total is a formula over the cells above it, with the value that they add up
to, so whoever recalculates gets what was shown.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from xlsxwriter import Workbook
from xlsxwriter.utility import xl_range
from xlsxwriter.worksheet import Worksheet

from proxy.billing.exports.formulas import is_formula
from proxy.core.money import PICO_PER_EURO

ROWS_MAX: Final = 1_048_576
"""Of a sheet (Excel's specifications and limits)."""

COUNT: Final = "#,##0"
CENTS: Final = "#,##0.00"
MICROS: Final = "#,##0.000000"
PRICE: Final = "#,##0.00##########"
SHARE: Final = "0.0%"

_A4: Final = 9
_HEADER: Final = {"bold": True, "bg_color": "#DDE5EE", "bottom": 1, "text_wrap": True, "valign": "vcenter"}
_TOTAL: Final = {"bold": True, "top": 1}


class Column(msgspec.Struct, frozen=True):
    """A column of a table.

    Args:
        title: its header.
        width: in characters.
        form: of its numbers; empty: it holds texts.
        right: whether its texts stand to the right.
    """

    title: str
    width: float
    form: str = ""
    right: bool = False


def half_up(amount_pico: int, decimals: int) -> int:
    """Round pico-euros to so many decimals of a euro, halves away from zero; return how many of the last one.

    >>> half_up(5_000_000_000, 2), half_up(4_999_999_999, 2), half_up(-5_000_000_000, 2)
    (1, 0, -1)
    """
    unit_pico: int = PICO_PER_EURO // 10**decimals
    sign = -1 if amount_pico < 0 else 1
    return sign * ((abs(amount_pico) * 2 + unit_pico) // (2 * unit_pico))


class Table:
    """A table that is written row by row, from its header to its total.

    Args:
        book: holds it.
        sheet: written from top to bottom: what is above has left memory.
        columns: from the first on.
        row: of the header.
    """

    def __init__(self, book: Workbook, sheet: Worksheet, columns: Sequence[Column], row: int) -> None:
        self.sheet: Final = sheet
        self.row = row + 1
        self._first: Final = row + 1
        self._last_column: Final = len(columns) - 1
        self._plain = [book.add_format(_shape(column)) for column in columns]
        self._quoted = [book.add_format({**_shape(column), "quote_prefix": True}) for column in columns]
        self._total = [book.add_format({**_shape(column), **_TOTAL}) for column in columns]
        for place, column in enumerate(columns):
            sheet.set_column(place, place, column.width)
            sheet.write_string(row, place, column.title, book.add_format({**_HEADER, **_side(column)}))
        sheet.freeze_panes(row + 1, 1)
        sheet.repeat_rows(row)
        sheet.set_landscape()
        sheet.set_paper(_A4)
        sheet.fit_to_pages(1, 0)
        sheet.set_footer("&L&A&RPage &P / &N")

    def add(self, values: Sequence[str | float | None]) -> None:
        """Write a row: texts are never run, whatever they begin with; None leaves a cell empty."""
        for place, value in enumerate(values):
            if isinstance(value, str):
                form = self._quoted[place] if is_formula(value) else self._plain[place]
                self.sheet.write_string(self.row, place, value, form)
            elif value is not None:
                self.sheet.write_number(self.row, place, value, self._plain[place])
        self.row += 1

    def end(self, total: Sequence[str | float | None] = (), of: Callable[[int], str] | None = None) -> None:
        """Let the rows be filtered, and write what they add up to.

        Args:
            total: a value a column: a number becomes a sum with that value.
            of: the cells that it is the sum of, for a column; None: those above.
        """
        last = self.row - 1
        self.sheet.autofilter(self._first - 1, 0, max(last, self._first - 1), self._last_column)
        for place, value in enumerate(total):
            form = self._total[place]
            if value is None:
                self.sheet.write_blank(self.row, place, None, form)
            elif isinstance(value, str):
                self.sheet.write_string(self.row, place, value, form)
            elif last < self._first:
                self.sheet.write_number(self.row, place, value, form)
            else:
                cells = self.cells(place) if of is None else of(place)
                self.sheet.write_formula(self.row, place, f"=SUM({cells})", form, value)

    def cells(self, place: int) -> str:
        """Return the cells of a column, without header and total, as a formula names them from any sheet."""
        return f"'{self.sheet.name}'!{xl_range(self._first, place, self.row - 1, place)}"


def _shape(column: Column) -> dict[str, Any]:
    return {**({"num_format": column.form} if column.form else {}), **_side(column)}


def _side(column: Column) -> dict[str, Any]:
    return {"align": "right"} if column.form or column.right else {}
