"""What a serving process and its shipping process say to each other: JSON lines over two pipes.

What belongs here: the messages and their coding. What does not: what either side does about them
(shipping_process.py, shipping_child.py).

The database's URL may hold a password. It travels over the pipe: other users can read arguments.
"""

from typing import Final

import msgspec

from proxy.core.entries import Entry

LINE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Beyond any line that is sent: a batch in which every entry is refused has some megabytes."""


class KeptVersion(msgspec.Struct, frozen=True):
    """A price version as the ledger keeps it; ``prices`` is JSON."""

    id: str
    effective_from_ms: int
    prices: str


class Begin(msgspec.Struct, frozen=True, tag=True):
    """The first line to the child.

    Args:
        outbox: whose entries to ship.
        database_url: where to; may hold a password.
        versions: the price book.
        state_dir: folder of the outboxes.
        workers: ship the outboxes beyond those of this many workers, too; None: leave them alone.
        log_level: a name that ``logging`` knows.
    """

    outbox: str
    database_url: str
    versions: tuple[KeptVersion, ...]
    state_dir: str
    workers: int | None
    log_level: str

    def __repr__(self) -> str:
        """Leave the URL out: it may hold a password, and a repr ends up in logs."""
        return f"Begin(outbox={self.outbox!r})"


class Prices(msgspec.Struct, frozen=True, tag=True):
    """To the child: another price book, from now on."""

    versions: tuple[KeptVersion, ...]


class Drain(msgspec.Struct, frozen=True, tag=True):
    """To the child: ship what is there, within ``timeout_s``, and end."""

    timeout_s: float


class Removed(msgspec.Struct, frozen=True, tag=True):
    """To the child: its last ``Remove`` is done; or it failed, and nothing was removed."""

    error: str = ""


class Remove(msgspec.Struct, frozen=True, tag=True):
    """From the child: the ledger has these groups, but for the entries that it can never take. One at a time."""

    seqs: tuple[int, ...]
    refused: tuple[tuple[Entry, str], ...] = ()


class Progress(msgspec.Struct, frozen=True, tag=True):
    """From the child, at its start and after each attempt: its sums since its start, and whether the attempt failed."""

    shipped: int
    refused: int
    is_failing: bool


ToChild = Begin | Prices | Drain | Removed
FromChild = Remove | Progress

decode_to_child: Final = msgspec.json.Decoder(ToChild).decode
decode_from_child: Final = msgspec.json.Decoder(FromChild).decode


def line_of(message: ToChild | FromChild) -> bytes:
    """Return a message as a line."""
    return msgspec.json.encode(message) + b"\n"
