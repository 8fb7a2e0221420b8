"""What the lines of a batch have used, and how long its results are wanted.

Batches that are there already keep NULL: what their lines have used was not counted from the first one on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the columns."""
    for name in ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "output_expires_after_s"):
        op.add_column("batches", sa.Column(name, _BIG, nullable=True))
