"""Retention: files that are over lose their bytes, then their rows; bytes that no row names are removed.

What belongs here: the loop, the lease and the order. What does not: when a file is over (ledger/batches/files.py), and
segments of batches that end as they should (finishing.py).

Any replica may do it, and one at a time does: whoever holds the lease in the ledger. Two that both believe to hold it
do no harm: everything here may be done twice. Bytes go before their row does: who dies in between leaves a row that is
still deleted, and its bytes are deleted again.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from proxy.files.contract import FileStore, FileStoreError, Stored
from proxy.ledger.batches.files import BatchFiles
from proxy.ledger.errors import LedgerError

_log = structlog.get_logger(__name__)

TICK_S: Final = 60.0
LEASE_MS: Final = 300_000
SWEEP_MS: Final = 3_600_000
"""Between two looks at everything that the store has."""
ORPHAN_MS: Final = 86_400_000
"""Age from which on bytes without a row are nobody's: until then somebody may still be making the row."""
AT_ONCE: Final = 200

_OF_FILES: Final = "files"
_OF_RESULTS: Final = "results"
_OF_SEGMENTS: Final = "segments"


class Retention:
    """Removes what is over whenever it holds the lease.

    Args:
        files: of every account.
        store: has their bytes.
        holder: this process's name in the lease: unique.
        clock_ms: Unix milliseconds.
        on_error: told of what should not have happened.
        tick_s: seconds between two turns.

    Attributes:
        removed: files whose bytes and rows this process has removed.
        orphans: names in the store that it has removed because no row named them.
    """

    def __init__(
        self,
        files: BatchFiles,
        store: FileStore,
        holder: str,
        clock_ms: Callable[[], int],
        on_error: Callable[[str, BaseException], None],
        *,
        tick_s: float = TICK_S,
    ) -> None:
        self._files = files
        self._store = store
        self._holder = holder
        self._clock_ms = clock_ms
        self._on_error = on_error
        self._tick_s = tick_s
        self._swept_ms: int | None = None
        self._is_away = False
        self.removed = 0
        self.orphans = 0

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                await self.turn()
                self._is_away = False
            except (LedgerError, FileStoreError) as exc:
                if not self._is_away:  # said once, not at every turn
                    self._is_away = True
                    _log.warning("retention_waits", error=str(exc))
            except Exception as exc:  # noqa: BLE001 - the next turn may go well
                self._on_error("retention", exc)
            await asyncio.sleep(self._tick_s)

    async def turn(self) -> bool:
        """Remove what is over, if the lease can be had; return whether it could.

        Raises:
            LedgerError, FileStoreError: a store does not answer; what has been removed is removed.
        """
        if not await self._has_lease():
            return False
        await self._files.end(self._clock_ms())
        while over := await self._files.over(AT_ONCE):
            for file in over:
                await self._store.delete(file.stored_as)
            await self._files.forget([file.id for file in over])
            self.removed += len(over)
            if not await self._has_lease():
                return False
        now_ms = self._clock_ms()
        if self._swept_ms is None or not 0 <= now_ms - self._swept_ms < SWEEP_MS:
            self._swept_ms = now_ms
            await self._store.tidy(now_ms - ORPHAN_MS)
            await self._sweep(now_ms - ORPHAN_MS)
        return True

    async def close(self) -> None:
        """Let another replica have the lease. ``run`` has been cancelled before."""
        with contextlib.suppress(LedgerError):  # it ends by itself
            await self._files.lease.drop(self._holder)

    async def _has_lease(self) -> bool:
        now_ms = self._clock_ms()
        return await self._files.lease.take(self._holder, now_ms, now_ms + LEASE_MS)

    async def _sweep(self, before_ms: int) -> None:
        """Remove what was written before and belongs to nothing."""
        some: list[Stored] = []
        async for each in self._store.stored(""):
            if each.written_ms < before_ms:
                some.append(each)
            if len(some) >= AT_ONCE:
                await self._remove_orphans(some)
                some = []
                if not await self._has_lease():
                    return
        await self._remove_orphans(some)

    async def _remove_orphans(self, old: Sequence[Stored]) -> None:
        parts = {each.name: each.name.split("/") for each in old}
        of_batches = {name: part[1] for name, part in parts.items() if part[0] in (_OF_RESULTS, _OF_SEGMENTS)}
        known = await self._files.kept(parts)
        unfinished = await self._files.unfinished(set(of_batches.values()))
        for name, (room, *_) in parts.items():
            is_ours = room in (_OF_FILES, _OF_RESULTS, _OF_SEGMENTS)
            if is_ours and name not in known and of_batches.get(name) not in unfinished:
                await self._store.delete(name)
                self.orphans += 1
