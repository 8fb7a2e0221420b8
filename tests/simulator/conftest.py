"""A simulated cluster without pace, so that no test waits."""

from collections.abc import AsyncIterator

import pytest

from proxy.simulator import Options, SimulatedCluster


@pytest.fixture
async def cluster() -> AsyncIterator[SimulatedCluster]:
    async with SimulatedCluster(Options(tokens_per_second=0)) as started:
        yield started
