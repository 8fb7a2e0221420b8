"""The shipping process, from within: a shipper beside somebody else's outbox.

What belongs here: following the parent's outbox, shipping, and what is said to and heard from the parent. What
does not: the process around it (proxy/shipping.py) and the parent's side (shipping_process.py).

The parent is the only writer of its outbox. This side reports what the ledger has, and goes on when the parent
says that it is removed: at most one report is under way, and nothing reported is sent again. When the pipe from the
parent ends without a farewell, the parent is dead: there is nobody left to report to, and its successor ships
what is left.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import structlog

from proxy.core.entries import Entry
from proxy.core.pricing import PriceBook
from proxy.ledger import prices
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerError, OutboxError
from proxy.ledger.followed_outbox import FollowedOutbox
from proxy.ledger.leftovers import ship_leftovers
from proxy.ledger.location import Location
from proxy.ledger.shipper import Shipper
from proxy.ledger.shipping_messages import (
    LINE_BYTES_MAX,
    Begin,
    Drain,
    FromChild,
    KeptVersion,
    Prices,
    Progress,
    Remove,
    Removed,
    ToChild,
    decode_to_child,
    line_of,
)
from proxy.ledger.store import Ledger
from proxy.tasks import Tasks

_log = structlog.get_logger(__name__)

BATCH_MAX: Final = 4000
LINGER_S: Final = 0.5
_CONNECTIONS: Final = 2
"""One for the parent's outbox, one for those that were left behind."""


class Parent:
    """What is said to the parent, and what of its answers somebody waits for.

    Args:
        pipe: to it; written to in place, which waits while the parent is busy.
    """

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._removed: asyncio.Future[Removed] | None = None

    def tell(self, message: FromChild) -> None:
        """Say something."""
        self._pipe.write(line_of(message))
        self._pipe.flush()

    async def remove(self, seqs: Sequence[int], refused: Sequence[tuple[Entry, str]]) -> None:
        """Report groups, and return once they are removed. Raises ``OutboxError``: they are not."""
        self._removed = asyncio.get_running_loop().create_future()
        self.tell(Remove(tuple(seqs), tuple(refused)))
        if error := (await self._removed).error:
            raise OutboxError(error)

    def hear(self, answer: Removed) -> None:
        """Take its answer to the last report."""
        if self._removed is not None and not self._removed.done():
            self._removed.set_result(answer)


class Shipping:
    """All that runs in the process.

    Args:
        begin: what the parent has ordered.
        parent: whom to report to.

    Raises:
        OutboxError: the outbox cannot be opened.
    """

    def __init__(self, begin: Begin, parent: Parent) -> None:
        self._parent = parent
        self._begin = begin
        self._database = Database.open(begin.database_url, pool_size=_CONNECTIONS)
        self._ledger = Ledger(self._database, book=book_of(begin.versions))
        self._outbox = FollowedOutbox(Path(begin.outbox), parent.remove)
        self._shipper = Shipper(
            self._outbox, self._ledger, batch_max=BATCH_MAX, linger_s=LINGER_S, tried=self._tell_progress
        )
        self._farewell: asyncio.Future[Drain] = asyncio.get_running_loop().create_future()

    async def run(self, lines: asyncio.StreamReader) -> None:
        """Ship until the parent says that it is enough; end the process when there is no parent any more."""
        tasks = Tasks(self._give_up)
        self._tell_progress()
        self._shipper.start()
        hearing = tasks.watch(self._hear(lines), "hearing")
        leftovers = tasks.watch(self._ship_leftovers(), "leftovers")
        farewell = await self._farewell
        leftovers.cancel()
        await self._shipper.drain(farewell.timeout_s)
        hearing.cancel()
        await asyncio.gather(hearing, leftovers, return_exceptions=True)
        self._outbox.close()
        await self._database.close()

    async def _hear(self, lines: asyncio.StreamReader) -> None:
        while True:
            match await next_message(lines):
                case Removed() as answer:
                    self._parent.hear(answer)
                case Prices(versions):
                    self._ledger.use_prices(book_of(versions))
                case Drain() as farewell if not self._farewell.done():
                    self._farewell.set_result(farewell)

    async def _ship_leftovers(self) -> None:
        begin = self._begin
        if begin.workers is None:
            return
        try:
            await ship_leftovers(Location(begin.database_url, Path(begin.state_dir)), begin.workers, self._ledger)
        except (LedgerError, OSError) as exc:
            _log.error("leftovers_failed", error=str(exc))

    def _tell_progress(self) -> None:
        shipper = self._shipper
        self._parent.tell(Progress(shipper.shipped, shipper.refused, shipper.is_failing))

    def _give_up(self, where: str, failure: BaseException) -> None:
        _log.error("failed", where=where, exc_info=failure)
        if not self._farewell.done():
            self._farewell.set_exception(failure)


async def ship(stdin: int, stdout: BinaryIO, prepare: Callable[[Begin], None]) -> None:
    """Run until the parent says that it is enough; end the process when there is no parent any more.

    Args:
        stdin: descriptor of the pipe from the parent.
        stdout: the pipe to it.
        prepare: called with the order, before anything is done.

    Raises:
        OutboxError: the outbox cannot be opened.
        msgspec.MsgspecError: the parent speaks another language.
    """
    lines = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    pipe = os.fdopen(stdin, "rb", closefd=False)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), pipe)
    begin = await next_message(lines)
    if not isinstance(begin, Begin):
        raise msgspec.ValidationError("the first message is no order")
    prepare(begin)
    await Shipping(begin, Parent(stdout)).run(lines)


async def next_message(lines: asyncio.StreamReader) -> ToChild:
    """Return what the parent says next; without a parent, end the process."""
    line = await lines.readline()
    if not line.endswith(b"\n"):
        # Not by an exception: a thread that waits for a locked ledger would hold the process up for seconds. An
        # open transaction is rolled back by the database, and what is in the outbox stays there.
        os._exit(0)
    message: ToChild = decode_to_child(line)
    return message


def book_of(versions: Sequence[KeptVersion]) -> PriceBook:
    """Return the price book that was sent as these versions."""
    return PriceBook(tuple(prices.version_of(kept.id, kept.effective_from_ms, kept.prices) for kept in versions))
