"""The formats of ``tollgate export``: one row each.

What belongs here: their names, suffixes and media types, and what their files are called. What does not: how one is
written: each module is loaded when something is written in its format, so that whoever only looks at the table loads no
library.
"""

import importlib
import re
from collections.abc import Awaitable, Callable
from typing import BinaryIO, Final

from proxy.billing.exports.request import ExportRequest, Format, Written
from proxy.core.invoicing.lines import month_days
from proxy.core.parties import Seller


def _written_by(module: str, function: str) -> Callable[[ExportRequest, BinaryIO], Awaitable[Written | None]]:
    async def write(request: ExportRequest, out: BinaryIO) -> Written | None:
        writer = getattr(importlib.import_module(f"proxy.billing.exports.{module}"), function)
        written: Written | None = await writer(request, out)
        return written

    return write


_ALL: Final = (
    Format(
        "csv", ".csv", "text/csv; charset=utf-8", _written_by("delimited", "write_csv"), "a row for each call; RFC 4180"
    ),
    Format(
        "csv-fr",
        ".fr.csv",
        "text/csv; charset=utf-8",
        _written_by("delimited", "write_csv_fr"),
        "the same for a French Excel: semicolons and decimal commas",
    ),
    Format("jsonl", ".jsonl", "application/x-ndjson", _written_by("jsonl", "write_jsonl"), "a JSON object a call"),
    Format(
        "parquet",
        ".parquet",
        "application/vnd.apache.parquet",
        _written_by("parquet", "write_parquet"),
        "a row for each call, typed columns",
    ),
    Format(
        "xlsx",
        ".xlsx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        _written_by("xlsx", "write_xlsx"),
        "a workbook: a row for each account, and details by day",
    ),
    Format(
        "focus",
        ".focus.csv",
        "text/csv; charset=utf-8",
        _written_by("focus", "write_focus"),
        "cost and usage in the FinOps Foundation's FOCUS columns",
    ),
    Format(
        "fec",
        ".fec.txt",
        "text/tab-separated-values; charset=utf-8",
        _written_by("fec", "write_fec"),
        "journal entries of issued documents, as French tax law wants them",
    ),
)

FORMATS: Final = {format_.name: format_ for format_ in _ALL}
"""By the name that ``--format`` takes."""


def file_name(form: Format, month: str, account: str | None, seller: Seller | None = None) -> str:
    """Return what a file is called: ``tollgate-2026-11.csv``, or with what it can hold of an account's name.

    Of the journal it is what article A47 A-1 prescribes: SIREN, ``FEC``, and the last day that it is about.
    """
    if form.name == "fec" and seller is not None:
        return f"{seller.siren}FEC{month_days(month)[1].replace('-', '')}.txt"
    whose = "" if account is None else "-" + re.sub(r"[^\w.]+", "-", account).strip("-.")
    return f"tollgate-{month}{whose}{form.suffix}"
