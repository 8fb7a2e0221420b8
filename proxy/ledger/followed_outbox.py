"""An outbox that another process writes, as a shipper in this one sees it.

What belongs here: noticing entries, reading them, and asking the owner to remove them. What does not: how the
owner is asked (shipping_child.py).

Everything blocks for some milliseconds: the process has nothing else to do.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from proxy.core.entries import Entry
from proxy.ledger.outbox_file import Group, open_to_read, read_oldest

_POLL_S: Final = 0.25
_GROUPS_LOOKED_AT: Final = 4096

Ask = Callable[[Sequence[int], Sequence[tuple[Entry, str]]], Awaitable[None]]
"""Asks the owner to remove groups and to set entries aside; raises ``OutboxError`` when nothing was removed."""


class FollowedOutbox:
    """Reads an outbox beside its one writer.

    Args:
        path: the SQLite file, which its owner has open.
        ask: asks the owner to remove.
        poll_s: between two looks for entries.

    Raises:
        OutboxError: the file cannot be opened.
    """

    def __init__(self, path: Path, ask: Ask, *, poll_s: float = _POLL_S) -> None:
        self.path: Final = path
        self._reader = open_to_read(path)
        self._ask = ask
        self._poll_s = poll_s

    @property
    def depth(self) -> int:
        """Entries that wait, as far as a bounded look sees; 1 when nothing can be read: ``oldest`` then says why."""
        try:
            (count,) = self._reader.execute(
                "SELECT coalesce(sum(entries), 0) FROM (SELECT entries FROM groups ORDER BY seq LIMIT ?)",
                (_GROUPS_LOOKED_AT,),
            ).fetchone()
        except sqlite3.Error:
            return 1
        return int(count)

    async def filled(self) -> None:
        """Wait until there is an entry."""
        while not self.depth:  # noqa: ASYNC110 - the writer is another process, and does not say
            await asyncio.sleep(self._poll_s)

    async def oldest(self, entries_max: int) -> list[Group]:
        """Return the oldest groups that together hold at most ``entries_max`` entries; one, if it holds more.

        Raises:
            OutboxError: the file cannot be read.
        """
        return read_oldest(self.path, self._reader, entries_max)

    async def remove(self, groups: Iterable[Group], refused: Sequence[tuple[Entry, str]] = ()) -> None:
        """Let the owner remove groups, and return once they are gone.

        Raises:
            OutboxError: nothing was removed.
        """
        await self._ask([group.seq for group in groups], refused)

    def close(self) -> None:
        """Let go of the file."""
        with contextlib.suppress(sqlite3.Error):
            self._reader.close()
