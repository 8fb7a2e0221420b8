"""Every sample's files, made once."""

import pytest

from proxy.billing.documents import Files, files_of
from proxy.core.invoicing.document import Invoice
from tests.billing.documents.samples import TERMS, every


@pytest.fixture(scope="session")
def samples() -> dict[str, tuple[Invoice, Files]]:
    return {name: (invoice, files_of(invoice, TERMS)) for name, invoice in every().items()}
