"""What Alembic runs: the steps, on the connection and inside the transaction that ``migrate`` hands over.

For ``alembic revision`` and the like pass a connection in ``config.attributes``; there is no alembic.ini.
"""

from alembic import context

from proxy.ledger.invoice_schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
