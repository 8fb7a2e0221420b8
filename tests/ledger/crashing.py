"""A process to be killed: it commits calls in a loop and prints each id that was acknowledged."""

import asyncio
import sys
from pathlib import Path

from proxy.core.entries import Outcome
from proxy.ledger.outbox import Outbox
from tests.ledger.support import entry


async def main(path: Path, name: str) -> None:
    outbox = Outbox(path)
    outbox.checkpoint(entry(f"{name}-stream", outcome=Outcome.INTERRUPTED))

    async def calls(worker: int) -> None:
        number = 0
        while True:
            call_id = f"{name}-{worker}-{number}"
            outbox.checkpoint(entry(call_id, outcome=Outcome.INTERRUPTED))
            await outbox.commit(entry(call_id))
            print(call_id, flush=True)
            number += 1

    await asyncio.gather(*(calls(worker) for worker in range(20)))


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
