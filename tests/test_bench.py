"""The bench's own tools: they compile without a warning, and nothing counts that is not whole."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
import uvloop

from bench import batch, memory
from bench.batch import BatchResult, BatchRun
from bench.ingest import FLOOR, IngestResult, Speed, measure_ingest, some_entries
from bench.invoices import CEILING_S, JUDGED_ACCOUNTS, MonthResult
from bench.limiter import GROWTH_MAX, STATE_BYTES_MAX, Cost, LimiterResult, Load, _measure
from bench.memory import CEILING_MB, LOADS, MEBIBYTE, MemoryResult, Peak
from bench.scenarios import SCENARIOS, Result
from tests.support.ports import free_port
from tests.support.services import stop, wait_for_port

LOAD = Path(__file__).parent.parent / "bench" / "load"


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("load")
    for name in ("upstream", "client"):
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", folder / name, LOAD / f"{name}.c"]
        subprocess.run(command, check=True)
    return folder


@contextmanager
def _upstream(tools: Path) -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen([tools / "upstream", str(port)])
    try:
        wait_for_port(port, process)
        yield port
    finally:
        stop(process)


def _arguments(tools: Path, port: int, deltas: int, interval_us: int) -> list[str]:
    return [str(tools / "client"), "127.0.0.1", str(port), "key", "4", "0.4", "0.1", str(deltas), str(interval_us)]


@pytest.mark.parametrize(("deltas", "interval_us"), [(0, 0), (200, 0), (3, 10_000)])
def test_client_and_upstream_understand_each_other(tools: Path, deltas: int, interval_us: int) -> None:
    with _upstream(tools) as port:
        done = subprocess.run(_arguments(tools, port, deltas, interval_us), capture_output=True, check=True)
    run = json.loads(done.stdout)
    assert run["calls"] > 0
    assert (run["errors"], run["not_200"]) == (0, 0)
    assert (run["chunks"] > 0) == (deltas > 0)


_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_DELTA = b'data: {"content":"@%020d"}\n\n' % 1


def _chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


_DONE = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        (_HEAD + _chunk(_DELTA) + _chunk(_DELTA) + _DONE, "calls"),
        (_HEAD + _chunk(_DELTA[:20]) + _chunk(_DELTA[20:] + _DELTA) + _DONE, "calls"),
        (_HEAD + _chunk(_DELTA) + _DONE, "errors"),
        (_HEAD + _chunk(_DELTA) + _chunk(_DELTA) + b"0\r\n\r\n", "errors"),
        (_HEAD + _chunk(_DELTA) + _chunk(_DELTA), "errors"),
        (b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}", "not_200"),
    ],
    ids=["whole", "stamp cut by a chunk", "one delta short", "no [DONE]", "cut off", "refused"],
)
async def test_only_a_whole_stream_counts_as_a_call(tools: Path, answer: bytes, counted: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b'"stream":true}')
        writer.write(answer)
        await writer.drain()
        if answer.endswith((b"0\r\n\r\n", b"{}")):
            await reader.read(1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = await asyncio.create_subprocess_exec(
            *_arguments(tools, port, 2, 0)[:4], "1", "0.2", "0", "2", "0", stdout=subprocess.PIPE
        )
        out, _ = await client.communicate()
        run: dict[str, Any] = json.loads(out)
    assert run[counted] > 0
    assert {name for name in ("calls", "errors", "not_200") if run[name]} <= {counted, "errors"}


def _run(figure: float, **more: float) -> dict[str, Any]:
    return {
        "calls_per_s": figure,
        "chunks_per_s": figure,
        "chunk_ms": {"p50": figure},
        "errors": 0,
        "not_200": 0,
    } | more


@pytest.mark.parametrize(
    ("scenario", "baseline", "tollgate", "problem"),
    [
        (0, [_run(100), _run(100), _run(10)], [_run(130), _run(119), _run(13)], None),
        (0, [_run(100)], [_run(119)], "plain: 1.19x is under 1.2x"),
        (0, [_run(100)], [_run(200, not_200=3)], "plain: 3 answers were broken or refused"),
        (3, [_run(9)], [_run(1.9)], None),
        (3, [_run(9)], [_run(2.0)], "paced: 2.00 ms is not under 2.0 ms"),
    ],
)
def test_a_floor_is_held_by_the_median_of_the_rounds(
    scenario: int, baseline: list[Any], tollgate: list[Any], problem: str | None
) -> None:
    assert Result(SCENARIOS[scenario], baseline, tollgate).problem() == problem


# Large bodies


@pytest.fixture
def giant(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(memory, "BODY_BYTES", 2 * MEBIBYTE)
    port = free_port()
    words = [sys.executable, LOAD.parent / "giant.py", "--port", str(port), "--answer-bytes", str(3 * MEBIBYTE)]
    process = subprocess.Popen(words)
    try:
        wait_for_port(port, process)
        yield port
    finally:
        stop(process)


def test_the_large_loads_and_their_upstream_understand_each_other(giant: int) -> None:
    upload, answer, _ = LOADS
    assert 0 < upload.run(giant, "key") < 1000
    assert 2.5 * MEBIBYTE < answer.run(giant, "key") <= 3 * MEBIBYTE


def test_a_large_answer_is_what_an_engine_would_say(giant: int) -> None:
    with memory._asked(giant, "key", "/v1/embeddings", "Connection: close\r\n", 0) as sock:
        sock.shutdown(socket.SHUT_WR)
        raw = b"".join(iter(lambda: sock.recv(65_536), b""))
    answer = json.loads(raw.partition(b"\r\n\r\n")[2])
    assert answer["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    assert len(answer["data"]) > 1000


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\n{}", "not an answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", "ended after 2"),
    ],
)
def test_a_large_answer_counts_only_when_it_is_whole(answer: bytes, says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as sock:
                sock.recv(65_536)
                sock.sendall(answer)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65_536):  # what is closed unread is reset, and the answer with it
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(SystemExit, match=says):
            LOADS[1].run(server.getsockname()[1], "key")
        thread.join()


def test_a_peak_is_seen_although_the_memory_was_given_back() -> None:
    peak = Peak(os.getpid())
    assert peak.grown_mb() < 8
    taken = bytearray(64 * MEBIBYTE)
    del taken
    assert peak.grown_mb() > 55


@pytest.mark.parametrize(
    ("grown_mb", "problem"),
    [
        ([1.0, CEILING_MB - 0.1], None),
        ([1.0, CEILING_MB], "memory-upload: 8.0 MB of memory is not under 8 MB"),
    ],
)
def test_a_ceiling_is_held_by_the_worst_round(grown_mb: list[float], problem: str | None) -> None:
    result = MemoryResult(LOADS[0], grown_mb, [0.5] * len(grown_mb))
    assert result.problem() == problem
    assert result.rows()[0][3] == f"+{max(grown_mb):,.1f}"


# Batches


@pytest.mark.parametrize(
    ("seconds", "grown_mb", "not_200", "beside_ms", "problems"),
    [
        ([62.5, 62.5, 100.0], [1.0, batch.CEILING_MB - 0.1, 1.0], 0, 2.0, []),
        ([62.5, 63.0, 63.0], [1.0] * 3, 0, 1.0, ["batch: 0.79x the rate of calls is under 0.8x"]),
        ([50.0] * 3, [1.0, batch.CEILING_MB, 1.0], 0, 1.0, ["batch: 48.0 MB of memory is not under 48 MB"]),
        ([50.0] * 3, [1.0] * 3, 1, 1.0, ["batch: 3 calls were broken or refused"]),
        ([50.0] * 3, [1.0] * 3, 0, 2.01, ["batch: a call beside it takes 2.01x its time, over 2.0x"]),
    ],
)
def test_a_batch_is_judged_by_the_medians_of_the_ratios_and_by_the_worst_memory(
    seconds: list[float], grown_mb: list[float], not_200: int, beside_ms: float, problems: list[str]
) -> None:
    calls = {"calls_per_s": 1000, "errors": 0, "not_200": not_200, "cpu_us": 160, "call_ms": {"p50": 1, "p99": 2}}
    few = calls | {"not_200": 0}
    runs = [BatchRun(50_000, took_s, took_s - 1, 150, mb) for took_s, mb in zip(seconds, grown_mb, strict=True)]
    beside = few | {"call_ms": {"p50": beside_ms, "p99": 9}}
    result = BatchResult([calls] * 3, runs, [few] * 3, [beside] * 3)
    assert result.problems() == problems
    assert f" | {result.ratio():.2f}x | >= 0.8x |" in result.markdown()


# The limiter


def _limiter_load(name: str, group: str, function_us: list[float], ceiling: float | None = GROWTH_MAX) -> Load:
    costs = [Cost(2 * cost_us, cost_us, 9.0, 7.0) for cost_us in function_us]
    return Load(name, group, AsyncMock(), Mock(), ceiling=ceiling, costs=costs)


@pytest.mark.parametrize(
    ("loads", "state_bytes", "problems"),
    [
        ([("one", "accounts", [40, 30]), ("many", "accounts", [90, 41])], 16_384, []),
        ([("one", "accounts", [30]), ("many", "accounts", [43])], 9, ["limiter: many: 1.43x is over 1.4x"]),
        ([("one", "accounts", [30]), ("fresh", "history", [60])], 9, []),
        ([("admission", "refusals", [20]), ("refusal", "refusals", [300], None)], 9, []),
        ([], 16_385, ["limiter: a full account takes 16385 bytes, more than 16384"]),
    ],
)
def test_the_limiters_loads_are_judged_by_the_best_round_beside_the_first_of_their_group(
    loads: list[Any], state_bytes: int, problems: list[str]
) -> None:
    result = LimiterResult([_limiter_load(*load) for load in loads], state_bytes)
    assert result.problems() == problems
    assert result.markdown().count("\n") == len(loads) + 3


def test_the_limiters_loads_run_on_a_redis_and_on_a_cluster() -> None:
    bench = uvloop.run(_measure(calls=200, rounds=1))
    assert len(bench.loads) == 13
    assert 8_000 < bench.state_bytes <= STATE_BYTES_MAX
    assert all(load.best().commands >= 2 for load in bench.loads)


# The ledger


@pytest.mark.parametrize(
    ("sealed_per_s", "is_judged", "problems"),
    [
        ([9_000.0, FLOOR, 20_000.0], True, []),
        ([9_000.0, 9_999.0, 20_000.0], True, ["ingest: SQLite, 500 a transaction: 9,999 entries/s are under 10,000"]),
        ([9_000.0, 9_999.0, 20_000.0], False, []),
    ],
)
def test_what_the_ledger_takes_is_judged_by_the_median_of_the_rounds(
    sealed_per_s: list[float], is_judged: bool, problems: list[str]
) -> None:
    result = IngestResult([Speed("SQLite", 500, is_judged, [20_000.0, 40_000.0, 20_000.0], sealed_per_s, [9.0] * 3)])
    assert result.problems() == problems
    assert " | 0.45x | " in result.markdown()


@pytest.mark.parametrize(
    ("accounts", "took_s", "says"),
    [
        (JUDGED_ACCOUNTS, CEILING_S - 0.1, None),
        (JUDGED_ACCOUNTS, CEILING_S, "invoices: sqlite, 1,000 accounts: 60.0 s are not under 60 s"),
        (40, 600, None),
    ],
)
def test_a_month_of_a_thousand_accounts_must_be_invoiced_in_a_minute(
    accounts: int, took_s: float, says: str | None
) -> None:
    problem = MonthResult("sqlite", accounts, took_s, 91).problem()
    assert problem == says or (says is not None and problem is not None and problem.startswith(says))


def test_both_ledgers_are_filled() -> None:
    result = measure_ingest(1, 400, (150,))
    assert [(speed.engine, len(speed.sealed_per_s)) for speed in result.speeds] == [("SQLite", 1), ("PostgreSQL", 1)]
    assert all(speed.sealed_per_s[0] > 0 and speed.cpu_us[0] > 0 for speed in result.speeds)


def test_entries_are_of_few_large_accounts_and_of_many_small_ones() -> None:
    calls = [entry.account_id for entry in some_entries(5000)]
    most = max(map(calls.count, set(calls)))
    assert 0.05 < most / len(calls) < 0.3
    assert len(set(calls)) > 500
    assert len({entry.call_id for entry in some_entries(5000)}) == 5000
