"""What is durable in outboxes and not in the ledger yet, read beside the processes that own them.

What belongs here: every entry that waits, those that were set aside, and what calls in flight have noted. What does
not: the file (outbox_file.py), and bringing entries home (shipper.py).
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from proxy.core.entries import Entry
from proxy.ledger.outbox_file import read_waiting

WAITING_MAX: Final = 100_000
"""Entries of which sums can still be made beside the ledger's; beyond it the ledger is minutes behind."""


class Waiting(msgspec.Struct, frozen=True):
    """What the outboxes of a state folder hold.

    Args:
        entries: settled calls that the ledger may not have yet; a call may appear twice.
        set_aside: settled calls that it can never take.
        noted: what calls in flight have used so far, or had when their process died.
        is_whole: whether these are all; False: there were more than ``WAITING_MAX``.
    """

    entries: tuple[Entry, ...] = ()
    set_aside: tuple[Entry, ...] = ()
    noted: tuple[Entry, ...] = ()
    is_whole: bool = True

    @property
    def settled(self) -> tuple[Entry, ...]:
        """Every settled call."""
        return (*self.entries, *self.set_aside)


async def read_outboxes(paths: Iterable[Path]) -> Waiting:
    """Return what outboxes hold. Raises ``OutboxError`` when one cannot be read."""
    return await asyncio.to_thread(_read, list(paths))


def _read(paths: Iterable[Path]) -> Waiting:
    entries: list[Entry] = []
    set_aside: list[Entry] = []
    noted: list[Entry] = []
    for path in paths:
        waiting, refused, checkpoints = read_waiting(path, WAITING_MAX)
        entries += waiting
        set_aside += refused
        noted += checkpoints
    is_whole = len(entries) <= WAITING_MAX
    return Waiting(tuple(entries), tuple(set_aside), tuple(noted), is_whole)
