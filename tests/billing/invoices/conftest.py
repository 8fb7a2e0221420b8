"""An office for each test, once per engine."""

import pytest

from tests.billing.invoices.support import Desk


@pytest.fixture
def desk(database) -> Desk:
    return Desk(database)
