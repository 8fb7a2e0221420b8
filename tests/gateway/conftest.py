"""A running proxy for every test of the gateway."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, running


def pytest_asyncio_loop_factories(item):
    """A module may name the event loops that its tests run on."""
    return getattr(item.module, "LOOPS", {"asyncio": asyncio.new_event_loop})


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A proxy with embedded stores in front of a simulated cluster that answers at once."""
    async with running(tmp_path) as stack:
        yield stack
