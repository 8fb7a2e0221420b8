"""A running proxy for every test of the gateway."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, running


def pytest_asyncio_loop_factories(item):
    """A module may name the event loops that its tests run on."""
    return getattr(item.module, "LOOPS", {"asyncio": asyncio.new_event_loop})


@pytest.fixture(params=["embedded", "redis and postgresql"])
def stores(request: pytest.FixtureRequest) -> dict[str, str]:
    """Environment of a proxy, once for each kind of stores."""
    if request.param == "embedded":
        return {}
    return {
        "TOLLGATE_REDIS_URL": request.getfixturevalue("redis_url"),
        "TOLLGATE_DATABASE_URL": request.getfixturevalue("postgres_database"),
    }


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> dict[str, str]:
    """Environment of a proxy, once for each of the limiter's stores."""
    return {"TOLLGATE_REDIS_URL": request.getfixturevalue("redis_url")} if request.param == "redis" else {}


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A proxy with embedded stores in front of a simulated cluster that answers at once."""
    async with running(tmp_path) as stack:
        yield stack
