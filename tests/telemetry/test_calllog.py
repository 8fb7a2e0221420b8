"""One line a call: complete, exact, without content, and never waited for."""

import io
import json
import os
import threading
import time
from pathlib import Path

import pytest

from proxy.core.accounts import format_key
from proxy.telemetry import calllog
from proxy.telemetry.calllog import CallLine, CallLog, sanitised

KEY = format_key(bytes(range(32)))


def line(call_id: str = "c1", **fields: object) -> CallLine:
    return CallLine(
        call_id=call_id, endpoint="/v1/chat/completions", status=200, outcome="finished", duration_ms=12.5, **fields
    )


class BlockedSink(io.RawIOBase):
    """A reader that has stopped reading, until it is let go."""

    def __init__(self) -> None:
        self.reached, self.free = threading.Event(), threading.Event()
        self.written = b""

    def write(self, data) -> int:
        self.reached.set()
        assert self.free.wait(10)
        self.written += bytes(data)
        return len(data)


class TrickleSink(io.RawIOBase):
    """Takes a few bytes at a time, as a pipe may."""

    written = b""

    def write(self, data) -> int:
        self.written += bytes(data[:7])
        return len(data[:7])


def written(*lines: CallLine) -> list[dict[str, object]]:
    sink = io.BytesIO()
    log = CallLog(sink, clock=lambda: 1_782_997_496.5)
    for each in lines:
        log.write(each)
    log.close()
    return [json.loads(text) for text in sink.getvalue().splitlines()]


def test_a_call_is_one_line_with_everything_that_was_known():
    (found,) = written(
        line(
            account="acme", key_id="key_1", model="gpt-oss:120b", tier="tier1", streamed=True,
            tokens={"input": 15, "output": 42}, cost_eur="0.000363", ttft_ms=310.25, overhead_ms=1.875,
            upstream="vllm-a", client_request_id="order-17",
        )
    )  # fmt: skip

    assert found == {
        "ts": "2026-07-02T13:04:56.500Z", "call_id": "c1", "endpoint": "/v1/chat/completions", "status": 200,
        "outcome": "finished", "duration_ms": 12.5, "account": "acme", "key_id": "key_1", "model": "gpt-oss:120b",
        "tier": "tier1", "streamed": True, "tokens": {"input": 15, "output": 42}, "cost_eur": "0.000363",
        "ttft_ms": 310.25, "overhead_ms": 1.875, "upstream": "vllm-a", "client_request_id": "order-17",
    }  # fmt: skip


def test_what_was_never_known_is_left_out():
    (found,) = written(line())

    assert list(found) == ["ts", "call_id", "endpoint", "status", "outcome", "duration_ms"]


@pytest.mark.parametrize(
    ("sent", "logged"),
    [
        ("0190f5d2-7b6e-7c3e-9d3a-aaaaaaaaaaaa", "0190f5d2-7b6e-7c3e-9d3a-aaaaaaaaaaaa"),
        ("with space", "with space"),
        ("new\nline\x00\x1b[31mred\N{SNOWMAN}", "new?line??[31mred?"),
        ("a" * 1_000, "a" * 128),
        (f"x{KEY}", "xtg-[redacted]"),
        (f"x-{KEY}", "x-tg-[redacted]"),
        (KEY, "tg-[redacted]"),
        ("Bearer abcdef", "Bearer [redacted]"),
        ("sk-proj-0123456789abcdef", "sk-[redacted]"),
    ],
)
def test_the_client_s_own_id_is_sanitised(sent, logged):
    assert sanitised(sent) == logged
    assert written(line(client_request_id=sent))[0]["client_request_id"] == logged


def test_lines_are_written_soon_without_being_asked_for():
    sink = io.BytesIO()
    log = CallLog(sink)
    log.write(line())
    deadline = time.monotonic() + 5
    while not sink.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)

    assert sink.getvalue().endswith(b"}\n")
    log.close()


def test_every_line_is_written_in_order_by_the_time_it_is_closed():
    found = written(*(line(f"c{number}") for number in range(5_000)))

    assert [each["call_id"] for each in found] == [f"c{number}" for number in range(5_000)]


def test_a_blocked_sink_costs_lines_and_is_never_waited_for():
    sink = BlockedSink()
    log = CallLog(sink, queue_lines_max=100)
    log.write(line("first"))
    assert sink.reached.wait(5)

    began = time.monotonic()
    for number in range(1_000):
        log.write(line(f"c{number}"))
    assert time.monotonic() - began < 1
    assert log.dropped == 900

    sink.free.set()
    log.close()
    assert sink.written.count(b"\n") == 101
    assert log.dropped == 900


def test_closing_gives_up_on_a_sink_that_stays_blocked_and_counts_what_is_lost(monkeypatch):
    monkeypatch.setattr(calllog, "CLOSE_TIMEOUT_S", 0.2)
    sink = BlockedSink()
    log = CallLog(sink)
    log.write(line("first"))
    assert sink.reached.wait(5)
    log.write(line("second"))
    log.close()

    assert log.dropped == 1
    sink.free.set()


def test_a_sink_that_takes_little_at_a_time_gets_everything():
    sink = TrickleSink()
    log = CallLog(sink)
    log.write(line())
    log.close()

    assert json.loads(sink.written)["call_id"] == "c1"


def test_a_sink_that_is_gone_is_counted_and_harms_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as sink:
        log = CallLog(sink)
        log.write(line())
        log.close()

    assert (log.failures, log.dropped) == (1, 1)


def test_workers_that_share_a_pipe_do_not_tear_each_other_s_lines():
    reader, writer = os.pipe()
    read: list[bytes] = []

    def drain() -> None:
        while piece := os.read(reader, 65_536):
            read.append(piece)

    draining = threading.Thread(target=drain)
    draining.start()
    with os.fdopen(writer, "wb") as sink:  # buffered, as standard output is
        logs = [CallLog(sink) for _ in range(3)]
        for number in range(2_000):
            for log in logs:
                log.write(line(f"c{number}", model="m" * (number % 300)))
        for log in logs:
            log.close()
    draining.join(10)
    os.close(reader)

    lines = b"".join(read).splitlines()
    assert len(lines) == 6_000
    assert all(json.loads(text)["endpoint"] == "/v1/chat/completions" for text in lines)


def test_a_file_is_appended_to(tmp_path: Path):
    path = tmp_path / "calls.jsonl"
    for name in ("a", "b"):
        with path.open("ab", buffering=0) as sink:
            log = CallLog(sink)
            log.write(line(name))
            log.close()

    assert [json.loads(text)["call_id"] for text in path.read_text().splitlines()] == ["a", "b"]
