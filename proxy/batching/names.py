"""Names of what batches keep in the file store.

What belongs here: those names. What does not: where they are kept (files/), and input files (views/files.py).
"""

import uuid

from proxy.core.batches.objects import Block


def segment_name(block: Block) -> str:
    """Return a new name for a segment: results of lines of one block, written by whoever runs it."""
    return f"{segments_of(block.batch_id)}{block.number:06d}-{uuid.uuid4().hex}"


def segments_of(batch_id: str) -> str:
    """Return what the names of all segments of a batch begin with."""
    return f"segments/{batch_id}/"


def output_name(batch_id: str) -> str:
    """Return the name of the output file of a batch: the same however often it is made."""
    return f"results/{batch_id}/output"


def error_name(batch_id: str) -> str:
    """Return the name of its error file."""
    return f"results/{batch_id}/error"
