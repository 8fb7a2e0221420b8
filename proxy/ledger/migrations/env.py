"""What Alembic runs: the steps, on the connection and inside the transaction that ``migrate`` hands over.

For ``alembic revision`` and the like pass a connection in ``config.attributes``; there is no alembic.ini.
"""

from alembic import context

from proxy.ledger import batch_schema, invoice_schema  # noqa: F401 - their tables join the others
from proxy.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
