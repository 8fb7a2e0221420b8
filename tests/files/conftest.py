"""Every store, for one suite."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.core.batches.storage import ObjectStore
from proxy.files.contract import FileStore
from proxy.files.opening import open_store
from tests.support.services import S3_KEY_ID, S3_SECRET


def place_at(url: str) -> ObjectStore:
    """Return a place of one's own in a bucket, which is made by the first who writes to it."""
    return ObjectStore("tollgate", f"tests/{uuid.uuid4().hex}", url, "us-east-1", S3_KEY_ID, S3_SECRET)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest) -> ObjectStore | None:
    """Where files are kept, once per kind; None: in a folder."""
    return None if request.param == "folder" else place_at(request.getfixturevalue("s3_url"))


@pytest.fixture
async def store(place: ObjectStore | None, tmp_path: Path) -> AsyncIterator[FileStore]:
    """A store of one's own, once per kind."""
    opened = await open_store(tmp_path, place)
    await opened.write("first/made", nothing())  # what is not there at all is no empty store
    await opened.delete("first/made")
    yield opened
    await opened.close()


async def nothing() -> AsyncIterator[bytes]:
    """Yield the chunks of an empty file."""
    return
    yield b""
