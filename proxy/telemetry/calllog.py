"""The call log: one JSON line for each call, with nothing of its content.

What belongs here: the line, and getting it written without a call waiting for it. What does not: what a call costs
(the ledger) and the log of the process itself (logs.py).

The event loop renders a line (a microsecond) and appends it to a queue. A thread writes whatever has gathered; when
the sink is blocked the queue fills up to its bound, and what comes then is dropped and counted.
"""

import contextlib
import io
import os
import re
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import BinaryIO, Final, cast

import msgspec

from proxy.telemetry.redaction import redact_text

FLUSH_INTERVAL_S: Final = 0.1
BATCH_LINES: Final = 256
QUEUE_LINES_MAX: Final = 16_384
CLOSE_TIMEOUT_S: Final = 5.0
CLIENT_ID_CHARS_MAX: Final = 128
_PLAIN_ID: Final = re.compile(r"(?:(?!tg-|[a-z]{2,5}[-_][0-9A-Za-z_-]{12})[0-9A-Za-z_.:-])*")
"""An id that needs no sanitising: no spaces, and nothing that begins as a key does."""
_PIPE_ATOMIC_BYTES: Final = 4096
"""PIPE_BUF on Linux: a larger write to a pipe that workers share may be torn apart by another's."""


class CallLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the log says of a call; fields at their default are left out, and ``ts`` is put before them.

    Args:
        call_id: the id that the client was shown.
        endpoint: documented route.
        status: HTTP status of the answer.
        outcome: how it ended.
        duration_ms: from its head to the end of the answer.
        account: name of the account; None: not authenticated.
        key_id: id of the key, never the key.
        model: canonical model id.
        tier: tier id.
        streamed: whether the answer was a stream.
        tokens: amounts by usage type (tokens, or started minutes of audio).
        estimated: whether any of them is an estimate.
        cost_eur: exact, as a decimal string; None: nothing was charged.
        ttft_ms: time to the first token of a stream.
        overhead_ms: the proxy's own part.
        queued_ms: how long it waited for an upstream that was full; None: it did not have to.
        upstream: name of the upstream that answered.
        bound: name of the limit that refused it.
        shadowed: names of the limits in shadow that would have refused it.
        fit_max_tokens: what its ``max_tokens`` was lowered to, because its client would rather have less than nothing.
        client_request_id: what the client sent as its own id; sanitised before it is written.
    """

    call_id: str
    endpoint: str
    status: int
    outcome: str
    duration_ms: float
    account: str | None = None
    key_id: str | None = None
    model: str = ""
    tier: str = ""
    streamed: bool = False
    tokens: dict[str, int] = {}
    estimated: bool = False
    cost_eur: str | None = None
    ttft_ms: float | None = None
    overhead_ms: float | None = None
    queued_ms: float | None = None
    upstream: str = ""
    bound: str | None = None
    shadowed: tuple[str, ...] = ()
    fit_max_tokens: int | None = None
    client_request_id: str | None = None


def sanitised(client_text: str) -> str:
    """Return a client's text as it may be logged: printable ASCII, no key, at most ``CLIENT_ID_CHARS_MAX``."""
    if len(client_text) <= CLIENT_ID_CHARS_MAX and _PLAIN_ID.fullmatch(client_text):
        return client_text
    cut = client_text[: 2 * CLIENT_ID_CHARS_MAX]
    printable = "".join(char if " " <= char <= "~" else "?" for char in cut)
    return redact_text(printable)[:CLIENT_ID_CHARS_MAX]


class _Stamp:
    """Unix seconds as RFC 3339 text with milliseconds; the part down to the second is made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def of(self, unix_s: float) -> bytes:
        second = int(unix_s)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).isoformat()[:-6]
        return f'{{"ts":"{self._text}.{int((unix_s - second) * 1000):03d}Z",'.encode()


class CallLog:
    """Writes call lines to a sink, off the event loop.

    Args:
        sink: an unbuffered or buffered binary file; stays open after ``close``. None: standard output.
        queue_lines_max: lines that may wait.
        clock: Unix seconds.

    Attributes:
        dropped: lines dropped since the start, for a metric.
        failures: batches that the sink refused with an error.
    """

    def __init__(
        self,
        sink: BinaryIO | None = None,
        queue_lines_max: int = QUEUE_LINES_MAX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        sink = sys.stdout.buffer if sink is None else sink
        if isinstance(sink, io.BufferedWriter):  # it would join pieces that must stay apart
            sink.flush()
            sink = cast("BinaryIO", sink.raw)
        self.dropped = 0
        self.failures = 0
        self._sink = sink
        self._clock = clock
        self._queue: deque[bytes] = deque()
        self._queue_lines_max = queue_lines_max
        self._encode = msgspec.json.Encoder().encode
        self._stamp = _Stamp()
        self._piece_bytes_max = _PIPE_ATOMIC_BYTES if _is_pipe(sink) else None
        self._wake = threading.Event()
        self._closing = False
        self._writer = threading.Thread(target=self._run, name="call-log", daemon=True)
        self._writer.start()

    def write(self, line: CallLine) -> None:
        """Take a line; never blocks. It is written within ``FLUSH_INTERVAL_S`` when the sink keeps up."""
        waiting = len(self._queue)
        if waiting >= self._queue_lines_max:
            self.dropped += 1
            return
        client_id = line.client_request_id
        if client_id and (clean := sanitised(client_id)) != client_id:
            line = msgspec.structs.replace(line, client_request_id=clean)
        self._queue.append(b"%b%b\n" % (self._stamp.of(self._clock()), self._encode(line)[1:]))
        if waiting == BATCH_LINES:
            self._wake.set()

    def close(self) -> None:
        """Write what waits and end the thread; a sink that stays blocked loses the rest, which is counted."""
        self._closing = True
        self._wake.set()
        self._writer.join(CLOSE_TIMEOUT_S)
        self.dropped += len(self._queue)
        self._queue.clear()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(FLUSH_INTERVAL_S)
            self._wake.clear()
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        while batch := self._take():
            try:
                for piece in _pieces(b"".join(batch), self._piece_bytes_max):
                    self._write(piece)
                self._sink.flush()
            except (OSError, ValueError):  # the reader is gone, the disk is full, the file is closed
                self.failures += 1
                self.dropped += len(batch)

    def _take(self) -> list[bytes]:
        batch: list[bytes] = []
        with contextlib.suppress(IndexError):
            while len(batch) < BATCH_LINES:
                batch.append(self._queue.popleft())
        return batch

    def _write(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            written: int | None = self._sink.write(rest)
            if written is None:  # a raw file that is not blocking
                raise BlockingIOError
            rest = rest[written:]


def _is_pipe(sink: BinaryIO) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return stat.S_ISFIFO(os.fstat(sink.fileno()).st_mode)
    return False


def _pieces(text: bytes, bytes_max: int | None) -> list[bytes]:
    """Cut whole lines into pieces of at most ``bytes_max``; a line that is longer is a piece by itself."""
    if bytes_max is None or len(text) <= bytes_max:
        return [text]
    pieces: list[bytes] = []
    piece = b""
    for line in text.splitlines(keepends=True):
        if piece and len(piece) + len(line) > bytes_max:
            pieces.append(piece)
            piece = b""
        piece += line
    pieces.append(piece)
    return pieces
