"""A progress bar for what takes long.

What belongs here: when it is shown, and where. What does not: what is counted.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PATIENCE_S: Final = 1.0
"""Only what takes longer shows its progress."""


@contextmanager
def progress(what: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yield what is told of progress (how many of how many): a bar on standard error, where a terminal is."""
    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        yield lambda _done, _total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(what, total=None)
    began_s = time.monotonic()

    def told(done: int, total: int) -> None:
        if time.monotonic() - began_s >= PATIENCE_S:
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield told
    finally:
        bar.stop()
