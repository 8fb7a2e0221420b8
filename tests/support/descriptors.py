"""What a process has open: files of a spool that should be gone."""

import asyncio
import contextlib
from pathlib import Path


def spooled_open() -> list[str]:
    """Return the files of any spool that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found.append(str(descriptor.readlink()))
    return [name for name in found if "/spool/" in name]


async def no_spooled_open(seconds: float = 5.0) -> None:
    """Wait until there is none: large ones are closed in a thread."""
    async with asyncio.timeout(seconds):
        while spooled_open():
            await asyncio.sleep(0.005)
