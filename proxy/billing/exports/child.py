"""``python -m proxy.billing.exports.child``: the process that makes an export for somebody who downloads it.

What belongs here: what it is asked, what it answers, and the two pipes. What does not: who asks (web/downloads.py) and
formats. An export keeps a core busy: in a process of its own it holds neither the event loop nor the interpreter lock
of the process that serves calls, its memory goes with it, and it can be ended at any moment.

The order is one JSON document on standard input: it may hold the database's password, and other users can read
arguments. The answer on standard output is a line of JSON, and after ``Begun`` the file; it is whole if the process
ends with 0.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO, Final, cast

import msgspec
import structlog

from proxy.billing.exports.formats import FORMATS
from proxy.billing.exports.output import Output, OutputError
from proxy.billing.exports.request import ExportRefusedError, ExportRequest
from proxy.core.catalogue import Tier
from proxy.core.invoicing.terms import InvoicingTerms
from proxy.core.parties import Seller
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.errors import DamagedError, LedgerError, OutboxError, UnknownAccountError
from proxy.ledger.location import Location
from proxy.ledger.migrations import is_migrated
from proxy.ledger.streaming import not_shipped
from proxy.telemetry.logs import configure

_log = structlog.get_logger(__name__)

STATEMENT_S: Final = 3600.0
"""For one statement: a large month takes its time."""


class Order(msgspec.Struct, frozen=True):
    """What is asked for.

    Args:
        format: its name.
        month: ``YYYY-MM``.
        account: name or id; None: all.
        made_ms: now, Unix milliseconds.
        database_url: of the ledger; may hold a password.
        state_dir: folder of the outboxes.
        tiers, seller, invoicing: as in ``ExportRequest``.
    """

    format: str
    month: str
    account: str | None
    made_ms: int
    database_url: str
    state_dir: str
    tiers: dict[str, Tier]
    seller: Seller | None
    invoicing: InvoicingTerms

    def __repr__(self) -> str:
        """Leave the URL out: it may hold a password, and a repr ends up in logs."""
        return f"Order({self.format!r}, {self.month!r}, {self.account!r})"


class Begun(msgspec.Struct, frozen=True, tag=True):
    """The file follows; so many entries of the month wait in outboxes and are not in it (None: cannot be told)."""

    waiting: int | None


class Refused(msgspec.Struct, frozen=True, tag=True):
    """There is no file, and why; ``status`` is the answer's (RFC 9110, section 15)."""

    status: int
    why: str


decode_answer: Final = msgspec.json.Decoder(Begun | Refused).decode
_line_of: Final = msgspec.json.Encoder().encode


class _Answer:
    """The pipe back: the first line goes before the first byte, so that what fails before can still be told."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self.waiting: int | None = None
        self.has_begun = False

    def write(self, data: bytes) -> int:
        self.begin()
        return self._pipe.write(data)

    def begin(self) -> None:
        if not self.has_begun:
            self.has_begun = True
            self._pipe.write(_line_of(Begun(self.waiting)) + b"\n")

    def refuse(self, status: int, why: str) -> None:
        self._pipe.write(_line_of(Refused(status, why)) + b"\n")


async def answer(order: Order, pipe: BinaryIO) -> int:
    """Write the answer; return the exit code: 0 where all of it was written."""
    said = _Answer(pipe)
    database = Database.open(order.database_url, pool_size=1, command_timeout_s=STATEMENT_S)
    try:
        if await is_migrated(database):
            await _export(order, database, said)
            said.begin()
        else:
            said.refuse(503, "the ledger is not of this version of tollgate")
    except (ExportRefusedError, LedgerError) as exc:
        if said.has_begun:
            _log.error("export_broke_off", order=repr(order), error=str(exc))
            return 1
        said.refuse(_status_of(exc), str(exc))
    except OutputError:  # nobody reads it any more
        return 1
    finally:
        await database.close()
    return 0


async def _export(order: Order, database: Database, said: _Answer) -> None:
    account_id = None if order.account is None else (await Accounts(database).named(order.account)).id
    try:
        outboxes = Location(order.database_url, Path(order.state_dir)).outboxes()
        said.waiting = await not_shipped(database, outboxes, order.month, account_id)
    except OutboxError:
        said.waiting = None
    request = ExportRequest(
        database, order.month, account_id, order.tiers, order.seller, order.invoicing, made_ms=order.made_ms
    )
    await FORMATS[order.format].write(request, cast("BinaryIO", Output(cast("BinaryIO", said))))


def _status_of(error: Exception) -> int:
    if isinstance(error, UnknownAccountError):
        return 404
    return 409 if isinstance(error, ExportRefusedError | DamagedError) else 503


def main() -> None:
    """Read the order, write the answer."""
    # Ctrl+C, and whoever ends a group of processes, means the parent, which ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    # The pipe is for the answer alone: whatever else is printed goes where logs go.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as pipe:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        configure()
        code = asyncio.run(answer(order, pipe))
    sys.exit(code)


if __name__ == "__main__":
    main()
