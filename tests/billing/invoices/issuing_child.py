"""Issues a month in a process of its own: ``python -m tests.billing.invoices.issuing_child URL MONTH``.

It says so when it begins, so that all who do it begin together, and takes its time for each document.
"""

import asyncio
import sys
import time

from proxy.billing.documents import Files
from proxy.billing.invoices.months import Months
from proxy.billing.invoices.workshop import Craft
from proxy.core.invoicing.document import Invoice
from proxy.core.invoicing.terms import InvoicingTerms
from proxy.ledger.database import Database
from tests.billing.invoices.support import Desk, no_rules, plain_files


def slow_files(invoice: Invoice, terms: InvoicingTerms) -> Files:
    time.sleep(0.002)
    return plain_files(invoice, terms)


async def issue(url: str, month: str) -> None:
    database = Database.open(url)
    desk = Desk(database, craft=Craft(slow_files, no_rules))
    print("ready", flush=True)
    sys.stdin.readline()
    await Months(desk.office, desk.press, batch=4).issue(month)
    await database.close()


if __name__ == "__main__":
    asyncio.run(issue(sys.argv[1], sys.argv[2]))
