"""Whose blocks are run next: accounts take turns. Pure.

What belongs here: the order between batches that wait. What does not: leases (ledger/batches/leasing.py).
"""

from collections import Counter
from collections.abc import Sequence

import msgspec


class InTurn(msgspec.Struct, frozen=True):
    """A batch with blocks to be run.

    Args:
        batch_id: which.
        account_id: whose.
        model: of its lines.
        leased: how many of its blocks somebody runs.
        free: how many nobody runs.
    """

    batch_id: str
    account_id: str
    model: str
    leased: int
    free: int


class Bounds(msgspec.Struct, frozen=True):
    """How many blocks one worker may run at once: of all, of one account, with one model."""

    blocks: int
    account_blocks: int
    model_blocks: int


def share_out(waiting: Sequence[InTurn], running: Sequence[tuple[str, str]], bounds: Bounds) -> dict[str, int]:
    """Return how many blocks of which batch a worker takes.

    The account with the fewest blocks under way, at whatever worker, is next; of one account the first batch.

    Args:
        waiting: in the order of their creation.
        running: (account, model) of each block that this worker runs.
        bounds: of this worker.
    """
    under_way: Counter[str] = Counter()
    for batch in waiting:
        under_way[batch.account_id] += batch.leased
    of_account = Counter(account for account, _ in running)
    of_model = Counter(model for _, model in running)
    left = {batch.batch_id: batch.free for batch in waiting}
    taken: Counter[str] = Counter()

    def can_run(batch: InTurn) -> bool:
        return (
            left[batch.batch_id] > 0
            and of_account[batch.account_id] < bounds.account_blocks
            and of_model[batch.model] < bounds.model_blocks
        )

    for _ in range(bounds.blocks - len(running)):
        # Of equals min takes the first: the oldest batch.
        ready = [batch for batch in waiting if can_run(batch)]
        if not ready:
            break
        batch = min(ready, key=lambda each: under_way[each.account_id])
        left[batch.batch_id] -= 1
        taken[batch.batch_id] += 1
        under_way[batch.account_id] += 1
        of_account[batch.account_id] += 1
        of_model[batch.model] += 1
    return dict(taken)
