"""Outboxes that no worker opens any more: after a restart with fewer workers, they must be shipped, too.

What belongs here: finding them and shipping what they hold. What does not: the outboxes of workers that run.
"""

import structlog

from proxy.ledger.errors import OutboxLockedError
from proxy.ledger.location import Location
from proxy.ledger.outbox import Outbox
from proxy.ledger.shipper import Shipper, Taker

_log = structlog.get_logger(__name__)


async def ship_leftovers(location: Location, workers: int, ledger: Taker, timeout_s: float = 60.0) -> int:
    """Ship what lies in the outboxes beyond those of ``workers`` workers; return how many entries were new.

    For one process of a start, beside its calls. What the ledger does not take in time stays for the next
    start, and an outbox that another process holds is left alone.

    Raises:
        OutboxError: one of them cannot be opened.
    """
    in_use = {location.outbox(worker) for worker in range(workers)}
    shipped = 0
    for path in location.outboxes():
        if path in in_use:
            continue
        try:
            outbox = Outbox(path)
        except OutboxLockedError:
            continue
        try:
            shipper = Shipper(outbox, ledger, linger_s=0)
            shipper.start()
            is_empty = await shipper.drain(timeout_s)
        finally:
            await outbox.close()
        shipped += shipper.shipped
        _log.warning("outbox_left_behind", path=str(path), shipped=shipper.shipped, is_empty=is_empty)
    return shipped
