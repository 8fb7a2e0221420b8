"""Files are made beside, in order, and nobody is left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from msgspec.structs import replace

from proxy.billing.documents import Files
from proxy.billing.invoices.workshop import Craft, Workshop
from proxy.core.invoicing.document import Invoice
from proxy.core.invoicing.terms import InvoicingTerms
from tests.billing.documents.samples import TERMS, buyer, invoice
from tests.billing.invoices.support import no_rules

ROOT = Path(__file__).parents[3]


def files_with_process(document: Invoice, _terms: InvoicingTerms) -> Files:
    return Files(document.number.encode(), str(os.getpid()).encode())


def dislikes_even_numbers(xml: bytes) -> list[str]:
    return [] if int(xml) % 2 else [f"{int(xml)} is even"]


def documents(count: int) -> list[Invoice]:
    sample = invoice(buyer())
    return [replace(sample, number=str(number)) for number in range(count)]


async def test_many_are_made_in_other_processes_and_come_back_in_order():
    async with Workshop(Craft(files_with_process, dislikes_even_numbers), TERMS, workers=2) as workshop:
        few = await workshop.make(documents(2))
        assert {each.pdf for each in few} == {str(os.getpid()).encode()}
        many = await workshop.make(documents(9))
        assert [each.xml for each in many] == [str(number).encode() for number in range(9)]
        assert [bool(each.mistakes) for each in many] == [number % 2 == 0 for number in range(9)]
        makers = {int(each.pdf) for each in many}
    assert os.getpid() not in makers
    assert len(makers) <= 2


def test_workers_end_when_their_parent_is_killed():
    command = [sys.executable, "-m", "tests.billing.invoices.test_workshop"]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(number) for number in parent.stdout.readline().split()]
    assert workers
    assert all(is_alive(worker) for worker in workers)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    while any(is_alive(worker) for worker in workers):
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def _make_and_wait() -> None:
    async with Workshop(Craft(files_with_process, no_rules), TERMS, workers=2) as workshop:
        made = await workshop.make(documents(20))
        print(*{int(each.pdf) for each in made}, flush=True)
        await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(_make_and_wait())
