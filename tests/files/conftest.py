"""Every store, for one suite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.files.contract import FileStore
from proxy.files.folder import FolderStore


@pytest.fixture(params=["folder"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FileStore]:
    """A store of one's own, empty, once per kind."""
    opened: FileStore = FolderStore(tmp_path / "files")
    yield opened
    await opened.close()
