"""The FOCUS file of a month: cost and usage as FinOps tools import them.

What belongs here: reading and writing. What does not: which rows there are (focus_rows.py), and their columns
(focus_columns.py).

Everything is read in one snapshot, some accounts at a time. The file is made elsewhere and copied when it is whole:
what is refused has no first byte, and a slow reader holds no transaction.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import BinaryIO

from proxy.billing.exports.focus_columns import COLUMNS, cells
from proxy.billing.exports.focus_rows import rows_of
from proxy.billing.exports.request import ExportRefusedError, ExportRequest, Written
from proxy.billing.exports.spooling import spooled
from proxy.ledger.issued import months_of_accounts


async def write_focus(request: ExportRequest, out: BinaryIO) -> Written:
    """Write the month in the columns of FOCUS 1.2, as CSV (RFC 4180, UTF-8); the sum is that of BilledCost.

    Raises:
        ExportRefusedError: nobody sells.
        DamagedError: a document is not what was issued, or says something else than the ledger.
        LedgerUnavailableError: the database does not answer.
    """
    if request.seller is None:
        raise ExportRefusedError("a FOCUS file names who sells: there is no seller.yaml")
    rows = total_pico = done = 0
    with spooled(out) as file:
        file.write(_lines([COLUMNS]))
        async with request.database.read() as connection:
            async for happened, accounts in months_of_accounts(
                connection,
                request.month,
                request.account_id,
                request.invoicing.timezone,
                postgresql=request.database.is_postgresql,
            ):
                found = list(rows_of(request.month, happened, request.seller))
                file.write(_lines(map(cells, found)))
                rows += len(found)
                total_pico += sum(row.billed_pico for row in found)
                done += 1
                request.advanced(done, accounts)
    return Written(rows, total_pico)


def _lines(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
