"""A serving process to be killed: it commits some calls, ships them in a process of its own, and prints its id."""

import asyncio
import sys
from pathlib import Path

from proxy.core.pricing import PriceBook
from proxy.ledger.location import Location
from proxy.ledger.outbox import Outbox
from proxy.ledger.shipping_process import ShippingProcess
from tests.ledger.support import entry


async def main(folder: Path, url: str) -> None:
    outbox = Outbox(folder / "outbox-0.db")
    shipping = ShippingProcess(outbox, Location(url, folder), PriceBook(()))
    shipping.start()
    await asyncio.gather(*(outbox.commit(entry(f"call-{number}")) for number in range(100)))
    while shipping.pid is None:
        await asyncio.sleep(0.01)
    print(shipping.pid, flush=True)
    await asyncio.sleep(3600)


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
