"""Fixtures that more than one folder of tests uses: real stores."""

import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.ledger.database import Database
from proxy.ledger.migrations import migrate
from tests.support.services import (
    RedisCluster,
    create_database,
    postgres_server,
    redis_cluster,
    redis_server,
    s3_server,
)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Redis that the whole run shares: use account ids of your own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def three_primaries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A Redis Cluster of three primaries that the whole run shares: use account ids of your own, and leave it whole."""
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real S3-compatible object store that the whole run shares: use a bucket of your own."""
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a real PostgreSQL server's first database."""
    # Not below pytest's own folder: another run of pytest keeps that one to its user, and PostgreSQL runs as another.
    with tempfile.TemporaryDirectory(prefix="tollgate-postgres-") as folder, postgres_server(Path(folder)) as url:
        yield url


@pytest.fixture
def postgres_database(postgres_url: str) -> str:
    """URL of an empty database of one's own."""
    name = f"t_{uuid.uuid4().hex}"
    create_database(postgres_url, name)
    return postgres_url.rsplit("/", 1)[0] + f"/{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty ledger database, once per engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    url: str = request.getfixturevalue("postgres_database")
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated ledger of one's own, once per engine."""
    await migrate(database_url)
    opened = Database.open(database_url)
    yield opened
    await opened.close()
