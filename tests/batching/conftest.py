"""Fixtures of the tests of batches that run."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, running


@pytest.fixture
async def stack(tmp_path: Path, database_url: str) -> AsyncIterator[Stack]:
    """A proxy in front of a simulated cluster, once per engine of the ledger."""
    async with running(tmp_path, environ={"TOLLGATE_DATABASE_URL": database_url}) as stack:
        yield stack
