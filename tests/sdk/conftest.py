"""Fixtures of the tests with customers' clients: one proxy, one browser, one web site for all of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.support.clients import Browser, Site, write_vocabulary
from tests.support.clients import browser as running_browser
from tests.support.service import Service
from tests.support.service import service as running_service
from tests.support.stack import write_config

_NOT_A_CUSTOMERS = ("OPENAI_", "COHERE_", "CO_API", "LANGSMITH_", "LANGCHAIN_")


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """Clients in this process see neither an HTTP proxy nor a setting of whoever runs the tests."""
    patch = pytest.MonkeyPatch()
    for name in list(os.environ):
        if name.startswith(_NOT_A_CUSTOMERS) or name.lower().endswith("_proxy"):
            patch.delenv(name)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The proxy that customers call."""
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder, write_config(folder)) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    """OpenAI's client as a customer makes it; what it would retry is an error of the test."""
    with OpenAI(api_key=service.key, base_url=service.base_url, max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser."""
    with running_browser() as running:
        yield running


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A customer's web site."""
    running = Site()
    yield running
    running.close()


@pytest.fixture(scope="session")
def other_site() -> Iterator[Site]:
    """The web site of a stranger."""
    running = Site()
    yield running
    running.close()


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What tiktoken would have downloaded is where it looks first."""
    folder = tmp_path_factory.mktemp("vocabulary")
    write_vocabulary(folder)
    patch = pytest.MonkeyPatch()
    patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
    yield folder
    patch.undo()
