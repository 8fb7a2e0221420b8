"""What ``tollgate batch`` prints, for people and for programs.

What belongs here: tables, documents, the progress bar, rates. What does not: the commands (batch.py).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from proxy.cli.ledger_session import time_text
from proxy.core.batches.objects import ENDED, Batch, BatchStatus
from proxy.core.money import euros_text
from proxy.ledger.batches.overview import NamedBatch

_SPAN_S: Final = 1000
_WIDE_CHARS: Final = 150
"""From so many characters a line on, all columns have room."""
_NARROW_COLUMNS: Final = 4
_NUMBERS: Final = frozenset({"lines", "done", "failed", "lines/s", "left"})
MISTAKES_SHOWN: Final = 20


class Pace:
    """How fast the lines of a batch end, on average since they began.

    Attributes:
        lines_per_1000_s: how many end in a thousand seconds; None: none has ended, or no time has passed.
        left_s: seconds until the last one at this pace, rounded up; None: that is not known, or it has ended.
    """

    def __init__(self, batch: Batch, now_ms: int) -> None:
        done = batch.completed + batch.failed
        began_ms = batch.stamps.get(BatchStatus.IN_PROGRESS)
        over_ms = min((batch.stamps[each] for each in _OVER if each in batch.stamps), default=now_ms)
        took_ms = 0 if began_ms is None else over_ms - began_ms
        self.lines_per_1000_s = done * 1000 * _SPAN_S // took_ms if done and took_ms > 0 else None
        self.left_s: int | None = None
        if done and took_ms > 0 and batch.status is BatchStatus.IN_PROGRESS:
            self.left_s = -(-(batch.total - done) * took_ms // (done * 1000))

    @property
    def text(self) -> str:
        """Lines a second with one digit, empty where it is not known."""
        if self.lines_per_1000_s is None:
            return ""
        tenths = self.lines_per_1000_s * 10 // _SPAN_S
        return f"{tenths // 10:,}.{tenths % 10}"


_OVER: Final = (BatchStatus.FINALIZING, BatchStatus.CANCELLING, BatchStatus.EXPIRED)
"""From then on no line ends: the first of these stamps counts."""


def document_of(named: NamedBatch, cost_pico: int | None, now_ms: int) -> dict[str, object]:
    """Return the documented JSON document; instants are Unix milliseconds, euros exact decimal strings."""
    batch, pace = named.batch, Pace(named.batch, now_ms)
    document: dict[str, object] = {
        "id": batch.id,
        "account": named.account,
        "key_id": batch.key_id,
        "status": batch.status.value,
        "endpoint": batch.endpoint,
        "model": batch.model,
        "tier": batch.tier,
        "month": batch.month,
        "total": batch.total,
        "completed": batch.completed,
        "failed": batch.failed,
        "enqueued_tokens": batch.enqueued_tokens,
        "created_ms": batch.created_ms,
        "expires_ms": batch.expires_ms,
        "stamps_ms": {status.value: at_ms for status, at_ms in batch.stamps.items()},
        "lines_per_1000_s": pace.lines_per_1000_s,
        "left_s": pace.left_s,
        "input_file_id": batch.input_file_id,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "usage": batch.usage,
        "errors": list(batch.errors),
    }
    return document if cost_pico is None else document | {"cost_eur": euros_text(cost_pico)}


def table_of(found: Sequence[NamedBatch], now_ms: int, width: int) -> Table:
    """Return batches as a table that is no wider than so many characters; ids are never cut short."""
    names = ["batch", "account", "status", "done", "failed", "model", "lines", "lines/s", "left", "created"]
    shown = names if width >= _WIDE_CHARS else names[:_NARROW_COLUMNS]
    table = Table(*shown)
    for column in table.columns:
        column.no_wrap = column.header in ("batch", "status")
        column.justify = "right" if column.header in _NUMBERS else "left"
        column.overflow = "fold"
    for named in found:
        batch, pace = named.batch, Pace(named.batch, now_ms)
        row = (
            batch.id,
            escape(named.account),
            batch.status.value,
            _percent(batch),
            f"{batch.failed:,}",
            escape(batch.model),
            f"{batch.total:,}",
            pace.text,
            _span(pace.left_s),
            time_text(batch.created_ms),
        )
        table.add_row(*row[: len(shown)])
    return table


def print_one(named: NamedBatch, cost_pico: int, now_ms: int) -> None:
    """Print a batch, a line for each of its sides."""
    batch, pace = named.batch, Pace(named.batch, now_ms)
    rows = [
        ("batch", batch.id),
        ("account", named.account),
        ("status", batch.status.value),
        ("endpoint", f"{batch.endpoint} {batch.model}".rstrip()),
        ("lines", f"{batch.completed + batch.failed:,} of {batch.total:,} ({_percent(batch)})"),
        ("failed", f"{batch.failed:,}"),
        ("lines/s", pace.text),
        ("left", _span(pace.left_s)),
        ("tokens", _tokens(batch)),
        ("euros", euros_text(cost_pico)),
        ("tier, month", f"{batch.tier}, {batch.month}"),
        ("created", time_text(batch.created_ms)),
        *((status.value, time_text(at_ms)) for status, at_ms in sorted(batch.stamps.items(), key=lambda each: each[1])),
        ("files", ", ".join(filter(None, (batch.input_file_id, batch.output_file_id, batch.error_file_id)))),
    ]
    if batch.status not in ENDED:
        rows.append(("given up at", time_text(batch.expires_ms)))
    for mistake in batch.errors[:MISTAKES_SHOWN]:
        where = "" if mistake.line is None else f"line {mistake.line}: "
        rows.append(("error", f"{where}{mistake.message} ({mistake.code})"))
    if len(batch.errors) > MISTAKES_SHOWN:
        rows.append(("", f"and {len(batch.errors) - MISTAKES_SHOWN} more"))
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        if value:
            grid.add_row(name, escape(value))
    Console().print(grid)


def _tokens(batch: Batch) -> str:
    """What was read and made so far; empty: that is not known."""
    usage = batch.usage
    return "" if usage is None else f"{usage.input_tokens:,} of input, {usage.output_tokens:,} of output"


class _Speed(ProgressColumn):
    """Lines a second, of late."""

    def render(self, task: Task) -> Text:
        """Return what stands in the column."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} lines/s")


@contextmanager
def bar(named: NamedBatch) -> Iterator[Callable[[Batch], None]]:
    """Yield what is told of a batch as it gets on: a bar with rate and ETA on standard error, where a terminal is."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(named.batch.status.value, total=named.batch.total or None)

        def told(batch: Batch) -> None:
            done = batch.completed + batch.failed
            shown.update(task, description=batch.status.value, total=batch.total or None, completed=done)

        told(named.batch)
        yield told


def _percent(batch: Batch) -> str:
    if not batch.total:
        return ""
    return f"{(batch.completed + batch.failed) * 100 // batch.total} %"


def _span(seconds: int | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
