"""The FOCUS file of a month: cost and usage as FinOps tools import them.

What belongs here: reading and writing. What does not: which rows there are (focus_rows.py), and their columns
(focus_columns.py).

Everything is read in one snapshot, some accounts at a time. The file is made elsewhere and copied when it is whole:
what is refused has no first byte, and a slow reader holds no transaction.
"""

import csv
import io
import shutil
import tempfile
from typing import BinaryIO, Final

from proxy.billing.exports.focus_columns import COLUMNS, cells
from proxy.billing.exports.focus_rows import rows_of
from proxy.billing.exports.request import ExportRefusedError, ExportRequest, Written
from proxy.ledger.issued import months_of_accounts

COPIED_BYTES: Final = 1 << 20
"""How much is copied at a time."""


async def write_focus(request: ExportRequest, out: BinaryIO) -> Written:
    """Write the month in the columns of FOCUS 1.2, as CSV (RFC 4180, UTF-8).

    Raises:
        ExportRefusedError: nobody sells, or a document says something else than the ledger.
        LedgerUnavailableError: the database does not answer.
    """
    if request.seller is None:
        raise ExportRefusedError("a FOCUS file names who sells: there is no seller.yaml")
    with tempfile.TemporaryFile() as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        rows = total_pico = done = 0
        postgresql = request.database.is_postgresql
        async with request.database.read() as connection:
            async for happened, accounts in months_of_accounts(
                connection, request.month, request.account_id, request.invoicing.timezone, postgresql=postgresql
            ):
                for row in rows_of(request.month, happened, request.seller):
                    writer.writerow(cells(row))
                    rows += 1
                    total_pico += row.billed_pico
                done += 1
                request.advanced(done, accounts)
        text.flush()
        file.seek(0)
        shutil.copyfileobj(file, out, COPIED_BYTES)
        text.detach()
    return Written(rows, total_pico)
