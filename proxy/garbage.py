"""The garbage collector of a process that works for long: one that serves, or ships.

What belongs here: when it looks, and at what.
"""

import gc


def settle_garbage() -> None:
    """Everything made so far lives as long as the process: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
