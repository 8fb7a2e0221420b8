"""Whose blocks are run next: accounts take turns. Pure.

What belongs here: the order between batches that wait, and how much one worker runs. What does not: leases
(ledger/batches/leasing.py).
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

NEAR: Final = 128
"""So many batches, and so many again, are looked into by a worker that wants blocks."""
NEWCOMERS: Final = 8
"""So many times the lines that run at once may wait to begin, in memory, where many accounts have some."""


class InTurn(msgspec.Struct, frozen=True):
    """A batch with blocks to be run.

    Args:
        batch_id: which.
        account_id: whose.
        model: of its lines.
        leased: how many of its blocks somebody runs.
        free: how many nobody runs; 0: none, or they have not been counted.
        block_lines: most lines of one of its blocks.
    """

    batch_id: str
    account_id: str
    model: str
    leased: int
    free: int = 0
    block_lines: int = 0


class Under(msgspec.Struct, frozen=True):
    """Lines that a worker has still to begin: whose they are, with which model, and how many."""

    account_id: str
    model: str
    lines: int


class Bounds(msgspec.Struct, frozen=True):
    """How many lines one worker may run at once: of all, of one account, with one model."""

    total: int
    of_account: int
    of_model: int


def nearest(waiting: Sequence[InTurn], most: int) -> list[str]:
    """Return the batches whose free blocks are worth counting: a worker takes its next ones from no other.

    A batch in progress of which nobody runs a block has a free one. So of these, of one account and model, as many as
    blocks are taken are enough; those of which somebody runs some may have none left, and come in addition.

    Args:
        waiting: in the order of their creation, not counted.
        most: blocks that the worker takes.

    Returns:
        Ids, ``NEAR`` of either kind at most, of those accounts that have the fewest blocks under way.
    """
    under_way: Counter[str] = Counter()
    for batch in waiting:
        under_way[batch.account_id] += batch.leased
    places: Counter[tuple[str, str]] = Counter()
    whole: list[tuple[int, int, int, str]] = []
    begun: list[tuple[int, int, str]] = []
    for at, batch in enumerate(waiting):
        if batch.leased:
            begun.append((under_way[batch.account_id], at, batch.batch_id))
            continue
        kind = (batch.account_id, batch.model)
        places[kind] += 1
        if places[kind] <= most:
            whole.append((under_way[batch.account_id] + places[kind], places[kind], at, batch.batch_id))
    return [batch_id for *_, batch_id in heapq.nsmallest(NEAR, whole) + heapq.nsmallest(NEAR, begun)]


def share_out(waiting: Sequence[InTurn], running: Sequence[Under], bounds: Bounds, most: int) -> dict[str, int]:
    """Return how many blocks of which batch a worker takes, so that as many lines wait there as it may run at once.

    The account with the fewest blocks under way, at whatever worker, is next; of one account the first batch. One that
    has nothing to begin there is held up neither by what others have, of all and of its model, nor by how long their
    lines take: it gets a block, while not more than ``NEWCOMERS`` times as many lines wait.

    Args:
        waiting: in the order of their creation.
        running: what this worker runs.
        bounds: of this worker: a block is taken while fewer lines wait.
        most: blocks.
    """
    under_way: Counter[str] = Counter()
    for batch in waiting:
        under_way[batch.account_id] += batch.leased
    lines, of_account, of_model = 0, Counter[str](), Counter[str]()

    def count(account_id: str, model: str, more: int) -> None:
        nonlocal lines
        at_once = min(more, bounds.total, bounds.of_account, bounds.of_model)  # of a large block the rest waits
        lines += at_once
        of_account[account_id] += at_once
        of_model[model] += at_once

    for each in running:
        count(each.account_id, each.model, each.lines)
    waiting = [batch for batch in waiting if batch.free]
    left = {batch.batch_id: batch.free for batch in waiting}
    taken: Counter[str] = Counter()

    def may_have(batch: InTurn) -> bool:
        if not of_account[batch.account_id]:
            return lines < bounds.total * NEWCOMERS
        return (
            lines < bounds.total
            and of_account[batch.account_id] < bounds.of_account
            and of_model[batch.model] < bounds.of_model
        )

    while taken.total() < most:
        ready = [batch for batch in waiting if left[batch.batch_id] and may_have(batch)]
        if not ready:
            break
        batch = min(ready, key=lambda each: under_way[each.account_id])  # of equals the first: the oldest batch
        left[batch.batch_id] -= 1
        taken[batch.batch_id] += 1
        under_way[batch.account_id] += 1
        count(batch.account_id, batch.model, batch.block_lines)
    return dict(taken)
