"""Fixtures of the tests of batches that run."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.batching.support import AT_ONCE
from tests.support.stack import Stack, running, write_config


@pytest.fixture
async def stack(tmp_path: Path, database_url: str) -> AsyncIterator[Stack]:
    """A proxy in front of a simulated cluster, once per engine of the ledger."""
    async with running(tmp_path, environ={"TOLLGATE_DATABASE_URL": database_url}) as stack:
        yield stack


@pytest.fixture
async def few_at_once(tmp_path: Path, database_url: str) -> AsyncIterator[Stack]:
    """A proxy that runs four lines at once, and records each soon; once per engine of the ledger."""
    settings = f"lease_s: 5\n  commit_interval_ms: 50\n  lines_in_flight_max: {AT_ONCE}"
    config = write_config(tmp_path, proxy=("lines_in_flight_max: 256", settings))
    async with running(tmp_path, config=config, environ={"TOLLGATE_DATABASE_URL": database_url}) as stack:
        yield stack
