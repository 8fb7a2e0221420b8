"""Lines of batches that have been billed, and that the limiter may not have been told of.

What belongs here: which they are. What does not: telling it (batching/block.py).

They are those of the segment that a block notes as unsettled. Whoever takes the block tells the limiter of each,
whether it knows it or not.
"""

from typing import Final

from sqlalchemy import and_, select

from proxy.ledger.batch_schema import batch_blocks, batch_lines, batches

UNTOLD: Final = (
    select(batches.c.account_id, batches.c.month, batch_lines.c.call_id)
    .join(batch_lines, batch_lines.c.batch_id == batches.c.id)
    .join(
        batch_blocks,
        and_(batch_blocks.c.batch_id == batches.c.id, batch_blocks.c.unsettled == batch_lines.c.segment),
    )
)
"""Account, month and call id of each of them."""
