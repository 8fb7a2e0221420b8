"""Which file store it is.

What belongs here: the choice. What does not: the stores.
"""

from pathlib import Path
from typing import Final

from proxy.core.batches.storage import ObjectStore
from proxy.files.contract import FileStore
from proxy.files.folder import FolderStore

FOLDER: Final = "files"
"""Of the state folder."""


async def open_store(state_dir: Path, place: ObjectStore | None) -> FileStore:
    """Return the store: a folder of the state folder, or an object store."""
    if place is None:
        return FolderStore(state_dir / FOLDER)
    # Loaded where it is used: it brings the whole description of S3's API with it.
    from proxy.files.s3 import S3Store  # noqa: PLC0415

    return await S3Store.open(place)
