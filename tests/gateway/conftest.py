"""A running proxy for every test of the gateway."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, running


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A proxy with embedded stores in front of a simulated cluster that answers at once."""
    async with running(tmp_path) as stack:
        yield stack
