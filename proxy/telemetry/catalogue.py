"""The catalogue of metrics: name, labels and meaning of everything that ``/metrics`` shows.

What belongs here: words, histogram buckets, and how two workers' values become one. What does not: values
(metrics.py). docs/operations.md repeats this list; a test holds the two together.
"""

from enum import StrEnum
from typing import Final

import msgspec


class Kind(StrEnum):
    """Metric type of the exposition format."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(StrEnum):
    """What the values of several workers are as one value."""

    SUM = "sum"
    LARGEST = "largest"
    SMALLEST = "smallest"


class Described(msgspec.Struct, frozen=True):
    """One metric family.

    Args:
        name: full name; a counter's ends in ``_total``.
        kind: counter, gauge or histogram.
        labels: label names.
        help: one sentence, with the unit.
        merge: how workers are merged.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    merge: Merge = Merge.SUM


DURATION_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
"""From an embedding to a long reasoning answer."""
FIRST_TOKEN_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 80)
"""Fine around the half second in which a reader begins to wait, and long enough for a queue."""
QUEUE_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 7.5, 10, 15, 20, 30, 60)
"""Up to the ten seconds that a call may wait, and beyond for who allows more."""
OVERHEAD_BUCKETS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1,
)  # fmt: skip
"""The proxy's own milliseconds: one Redis round trip and one fsync lie between 0.5 and 10 ms."""

_CALL = ("endpoint", "model", "tier")
_USED = ("type", "class", "model", "tier")

CALLS: Final = Described(
    "tollgate_calls_total",
    Kind.COUNTER,
    (*_CALL, "status", "outcome"),
    "Calls that ended, by the status they were answered with.",
)
IN_FLIGHT: Final = Described("tollgate_calls_in_flight", Kind.GAUGE, (), "Calls that have begun and not ended.")
DURATION: Final = Described(
    "tollgate_call_duration_seconds",
    Kind.HISTOGRAM,
    ("endpoint", "model"),
    "Seconds from the head of a call to the end of its answer.",
)
FIRST_TOKEN: Final = Described(
    "tollgate_time_to_first_token_seconds",
    Kind.HISTOGRAM,
    ("model", "tier"),
    "Seconds from the head of a streamed call to the first piece of its answer.",
)
OVERHEAD: Final = Described(
    "tollgate_proxy_overhead_seconds",
    Kind.HISTOGRAM,
    ("endpoint",),
    "Seconds of a call that the proxy itself took: before the upstream was asked, and for the commit.",
)
CHARGED_CALLS: Final = Described(
    "tollgate_charged_calls_total",
    Kind.COUNTER,
    (*_CALL, "class"),
    "Calls that were charged: one ledger entry each.",
)
TOKENS: Final = Described(
    "tollgate_tokens_total", Kind.COUNTER, _USED, "Tokens charged, by usage type and price class."
)
EUROS: Final = Described("tollgate_euros_total", Kind.COUNTER, _USED, "Euros charged, by usage type and price class.")
AUDIO_MINUTES: Final = Described(
    "tollgate_audio_minutes_total",
    Kind.COUNTER,
    ("class", "model", "tier"),
    "Started minutes of audio charged.",
)
ESTIMATED_TOKENS: Final = Described(
    "tollgate_estimated_tokens_total",
    Kind.COUNTER,
    _USED,
    "Those of the tokens charged that are an estimate.",
)
ESTIMATED_AUDIO_MINUTES: Final = Described(
    "tollgate_estimated_audio_minutes_total",
    Kind.COUNTER,
    ("class", "model", "tier"),
    "Those of the audio minutes charged that are an estimate.",
)
ACCOUNT_EUROS: Final = Described(
    "tollgate_account_euros_total",
    Kind.COUNTER,
    ("account",),
    "Euros charged, of the accounts that the operator lists, else of those that spent most.",
)
REFUSALS: Final = Described(
    "tollgate_refusals_total", Kind.COUNTER, ("limit", "tier"), "Calls answered 429, by the limit that bound."
)
SHADOW_REFUSALS: Final = Described(
    "tollgate_limit_shadow_refusals_total",
    Kind.COUNTER,
    ("limit", "tier"),
    "Calls that a limit in shadow would have refused.",
)
ERRORS: Final = Described(
    "tollgate_errors_total",
    Kind.COUNTER,
    ("status", "type"),
    "Documented errors answered, by status and error type.",
)
VIEWS: Final = Described(
    "tollgate_views_total",
    Kind.COUNTER,
    ("view", "status"),
    "Views answered (models, a model, usage, a receipt), by status: no calls.",
)
UPSTREAM_FAILURES: Final = Described(
    "tollgate_upstream_failures_total",
    Kind.COUNTER,
    ("upstream", "kind"),
    "Attempts that an upstream failed, by kind of failure.",
)
QUEUE_WAIT: Final = Described(
    "tollgate_queue_wait_seconds",
    Kind.HISTOGRAM,
    ("tier",),
    "Seconds that a call waited for a place at an upstream, of those that had to and got one.",
)
QUEUE_REFUSALS: Final = Described(
    "tollgate_queue_refusals_total",
    Kind.COUNTER,
    ("tier", "reason"),
    "Calls that found every upstream full and got no place, by reason.",
)
BUILD_INFO: Final = Described(
    "tollgate_build_info",
    Kind.GAUGE,
    ("version", "python"),
    "Always 1; the labels say what runs.",
    Merge.LARGEST,
)
COUNTING_SINCE: Final = Described(
    "tollgate_counting_since_seconds",
    Kind.GAUGE,
    (),
    "When the counters began, Unix seconds: what was settled earlier is in none of them.",
    Merge.SMALLEST,
)
LOOP_LAG: Final = Described(
    "tollgate_event_loop_lag_seconds",
    Kind.GAUGE,
    (),
    "Longest delay of the event loop in the last 30 seconds.",
    Merge.LARGEST,
)
WATCH_FAILURES: Final = Described(
    "tollgate_watch_failures_total",
    Kind.COUNTER,
    (),
    "Readings of a watched value that failed; the value is then left out.",
)

COUNTED: Final = (
    CALLS, IN_FLIGHT, DURATION, FIRST_TOKEN, OVERHEAD, CHARGED_CALLS, TOKENS, EUROS, AUDIO_MINUTES,
    ESTIMATED_TOKENS, ESTIMATED_AUDIO_MINUTES, ACCOUNT_EUROS, REFUSALS, SHADOW_REFUSALS, ERRORS, VIEWS,
    UPSTREAM_FAILURES, QUEUE_WAIT, QUEUE_REFUSALS, BUILD_INFO, COUNTING_SINCE, LOOP_LAG, WATCH_FAILURES,
)  # fmt: skip
"""What ``Metrics`` shows by itself."""

WATCHED: Final = (
    Described("tollgate_ready", Kind.GAUGE, (), "1 when every check of /readyz passes.", Merge.SMALLEST),
    Described("tollgate_ready_check", Kind.GAUGE, ("check",), "1 when this check of /readyz passes.", Merge.SMALLEST),
    Described("tollgate_outbox_entries", Kind.GAUGE, (), "Entries in the outbox that the ledger does not have yet."),
    Described(
        "tollgate_outbox_oldest_age_seconds",
        Kind.GAUGE,
        (),
        "Age of the oldest of them; 0: there is none.",
        Merge.LARGEST,
    ),
    Described(
        "tollgate_ledger_shipped_entries_total", Kind.COUNTER, (), "Entries that the shipper has handed to the ledger."
    ),
    Described(
        "tollgate_ledger_refused_entries_total",
        Kind.COUNTER,
        (),
        "Entries that the ledger would not take; they are kept.",
    ),
    Described("tollgate_holds", Kind.GAUGE, (), "Calls whose hold is not settled yet, lines of batches too."),
    Described(
        "tollgate_hold_wishes_total",
        Kind.COUNTER,
        ("result",),
        "Times that streams asked to hold more output tokens, by the limiter's answer.",
    ),
    Described(
        "tollgate_streams_cut_total",
        Kind.COUNTER,
        ("tier",),
        "Streams that a strict limit ended for want of room.",
    ),
    Described(
        "tollgate_limiter_degraded",
        Kind.GAUGE,
        (),
        "1 while limits are kept from memory because Redis is away.",
        Merge.LARGEST,
    ),
    Described(
        "tollgate_directory_age_seconds", Kind.GAUGE, (), "Time since accounts and keys were last read.", Merge.LARGEST
    ),
    Described(
        "tollgate_settings_reloads_total",
        Kind.COUNTER,
        ("result",),
        "Reloads of the settings, by result: taken or refused.",
    ),
    Described(
        "tollgate_events_total",
        Kind.COUNTER,
        ("kind",),
        "Events of accounts recorded: budget.reached, credit.reached, credit.expiring, tier.activated.",
    ),
    Described(
        "tollgate_webhook_deliveries_total",
        Kind.COUNTER,
        ("result",),
        "Attempts to send an event that were acknowledged, refused or unreachable; and events given_up.",
    ),
    Described("tollgate_worker_restarts_total", Kind.COUNTER, (), "Workers that died and were started again."),
    Described("tollgate_queued_calls", Kind.GAUGE, ("priority",), "Calls that wait for a place at an upstream."),
    Described(
        "tollgate_upstream_in_flight_calls",
        Kind.GAUGE,
        ("upstream",),
        "Calls that an upstream is answering, lines of batches too.",
    ),
    Described(
        "tollgate_upstream_suspect",
        Kind.GAUGE,
        ("upstream",),
        "1 while an upstream has failed and not been seen well since.",
        Merge.LARGEST,
    ),
    Described(
        "tollgate_unfinished_batches",
        Kind.GAUGE,
        ("status",),
        "Batches of all processes that have not ended, by status.",
        Merge.LARGEST,
    ),
    Described(
        "tollgate_batch_waiting_lines",
        Kind.GAUGE,
        ("model",),
        "Lines of batches in progress that have not ended, of all processes, by model.",
        Merge.LARGEST,
    ),
    Described(
        "tollgate_batch_oldest_age_seconds",
        Kind.GAUGE,
        (),
        "Age of the oldest batch that waits to be validated or is in progress; 0: there is none.",
        Merge.LARGEST,
    ),
    Described("tollgate_batch_in_flight_lines", Kind.GAUGE, (), "Lines of batches that run."),
    Described(
        "tollgate_batch_lines_total", Kind.COUNTER, ("status",), "Lines of batches that ended, completed or failed."
    ),
    Described(
        "tollgate_batch_displaced_lines_total",
        Kind.COUNTER,
        (),
        "Times that a call took the place of a line, which then began again.",
    ),
    Described(
        "tollgate_batch_files",
        Kind.GAUGE,
        ("purpose",),
        "Files that are kept, of all processes, by purpose; those deleted too, until their bytes are gone.",
        Merge.LARGEST,
    ),
    Described(
        "tollgate_batch_files_bytes", Kind.GAUGE, ("purpose",), "Bytes of these files, by purpose.", Merge.LARGEST
    ),
    Described(
        "tollgate_batch_files_removed_total", Kind.COUNTER, (), "Files whose bytes were removed: deleted, or over."
    ),
    Described(
        "tollgate_batch_orphans_removed_total",
        Kind.COUNTER,
        (),
        "Names in the file store that were removed because no file and no unfinished batch had them.",
    ),
    Described("tollgate_spool_bytes", Kind.GAUGE, (), "Bytes of uploads that wait on disk for their upstream."),
    Described(
        "tollgate_call_log_dropped_lines_total",
        Kind.COUNTER,
        (),
        "Lines of the call log dropped because its sink was blocked.",
    ),
)
"""What the other rooms let ``Metrics.watch`` read on scrape."""

_PROCESS = (
    Described("process_virtual_memory_bytes", Kind.GAUGE, (), "Virtual memory size."),
    Described("process_resident_memory_bytes", Kind.GAUGE, (), "Resident memory size."),
    Described("process_start_time_seconds", Kind.GAUGE, (), "Start of the process, Unix seconds.", Merge.SMALLEST),
    Described("process_cpu_seconds_total", Kind.COUNTER, (), "User and system CPU time."),
    Described("process_max_fds", Kind.GAUGE, (), "Largest number of open file descriptors."),
    Described("process_open_fds", Kind.GAUGE, (), "Open file descriptors."),
    Described(
        "python_info",
        Kind.GAUGE,
        ("implementation", "major", "minor", "patchlevel", "version"),
        "Always 1; the labels name the interpreter.",
        Merge.LARGEST,
    ),
    Described(
        "python_gc_objects_collected_total",
        Kind.COUNTER,
        ("generation",),
        "Objects that the garbage collector freed.",
    ),
    Described(
        "python_gc_objects_uncollectable_total",
        Kind.COUNTER,
        ("generation",),
        "Objects that it could not free.",
    ),
    Described("python_gc_collections_total", Kind.COUNTER, ("generation",), "Runs of the garbage collector."),
)

CATALOGUE: Final = {described.name: described for described in (*COUNTED, *WATCHED, *_PROCESS)}
"""Every metric by its name."""


def kind_of(name: str) -> Kind:
    """Return the kind of a watched value: what ends in ``_total`` is a counter, anything else a gauge."""
    return Kind.COUNTER if name.endswith("_total") else Kind.GAUGE


def merge_of(name: str) -> Merge:
    """Return how the workers' values of a metric become one; by its unit when it is not in the catalogue."""
    described = CATALOGUE.get(name)
    if described is not None:
        return described.merge
    return Merge.LARGEST if name.endswith(("_age_seconds", "_lag_seconds", "_info")) else Merge.SUM
