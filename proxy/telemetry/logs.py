"""Logs: one chain of processors for every line that the process writes about itself, ours and the libraries'.

What belongs here: how an event becomes a line. What does not: what may not be in it (redaction.py), the line a call
leaves (calllog.py).

Rooms log with ``structlog.get_logger(__name__)``; libraries with ``logging``. Both pass the same handler, which drops
what repeats too fast, renders the exception, redacts, and writes JSON, or plain lines for a person at a terminal.
"""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Final, TextIO

import msgspec
import structlog
from structlog.processors import ExceptionRenderer, StackInfoRenderer, TimeStamper
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from proxy.telemetry.calllog import CallLine, CallLog
from proxy.telemetry.redaction import redact_field

__all__ = ["CallLine", "CallLog", "RepeatFilter", "configure", "log_failure"]

REPEATS_MAX: Final = 20
"""Lines of one event in ``REPEATS_PERIOD_S``; a fault in every call must not cost a traceback for every call."""
REPEATS_PERIOD_S: Final = 10.0
_EVENTS_KEPT_MAX: Final = 512

_OWN_FIELDS: Final = frozenset({"event", "level", "logger", "ts"})


def configure(
    level: str = "info",
    json: bool | None = None,  # noqa: FBT001
    stream: TextIO | None = None,
) -> None:
    """Set up logging for the process; calling it again replaces what it did before.

    Args:
        level: ``debug`` … ``critical``.
        json: JSON lines; False: lines for people; None: JSON unless the stream is a terminal.
        stream: standard error unless said otherwise.

    Raises:
        ValueError: no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"no log level is called {level!r}")
    stream = stream or sys.stderr
    as_json = not stream.isatty() if json is None else json
    handler = logging.StreamHandler(stream)
    handler.addFilter(RepeatFilter())
    handler.setFormatter(ProcessorFormatter(processors=_chain(as_json=as_json)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    # What the call log says already, or says too much.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(max(number, logging.INFO))
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def log_failure(where: str, failure: BaseException) -> None:
    """Log, with its traceback, a failure that should not have happened; ``where`` is a word of the code."""
    structlog.get_logger("proxy").error("failed", where=where, exc_info=failure)


def _chain(*, as_json: bool) -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        _name_and_level,
        TimeStamper(fmt="iso", utc=True, key="ts"),
        StackInfoRenderer(),
        ExceptionRenderer(),
        ProcessorFormatter.remove_processors_meta,
        _redact,
        _render_json if as_json else _render_for_people,
    ]


def _name_and_level(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    event["level"] = record.levelname.lower()
    event["logger"] = record.name
    if getattr(record, "suppressed", 0):
        event["suppressed"] = record.suppressed  # type: ignore[attr-defined]
    return event


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: redact_field(name, value) for name, value in event.items()}


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    ordered = {name: event.pop(name) for name in ("ts", "level", "logger", "event") if name in event}
    return msgspec.json.encode({**ordered, **event}).decode()


def _render_for_people(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    exception = event.pop("exception", None)
    fields = " ".join(f"{name}={value}" for name, value in event.items() if name not in _OWN_FIELDS)
    line = f"{event['ts']} {event['level']:<8} {event['event']}  {fields}".rstrip()
    return f"{line}\n{exception}" if exception else line


class RepeatFilter(logging.Filter):
    """Lets through the first lines of an event in each period, and says with the next how many it kept back.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, str], list[float]] = {}  # period's start, lines let through, lines kept back

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide about one record; an event is told by its logger and its text before anything is filled in."""
        message: Any = record.msg
        text = str(message.get("event", "")) if isinstance(message, dict) else str(message)
        key, now_s = (record.name, text[:200]), self._clock()
        seen = self._seen.get(key)
        if seen is None:
            if len(self._seen) >= _EVENTS_KEPT_MAX:
                self._seen.clear()
            seen = self._seen[key] = [now_s, 0, 0]
        elif now_s - seen[0] >= REPEATS_PERIOD_S:
            record.suppressed = int(seen[2])
            seen[:] = [now_s, 0, 0]
        if seen[1] < REPEATS_MAX:
            seen[1] += 1
            return True
        seen[2] += 1
        return False
