"""Each switch makes the answer go wrong in its own way, and the counters stay true."""

import asyncio
import json
from collections.abc import Callable

import pytest

from proxy.simulator import Options, SimulatedCluster, start
from tests.simulator.exchange import CHAT, WITH_USAGE, chat, chunks, events, exchange


async def _until(condition: Callable[[], bool]) -> None:
    """Let the cluster run until a condition of its counters holds."""
    async with asyncio.timeout(5):
        while not condition():  # counters tell nobody when they change
            await asyncio.sleep(0.005)


async def _open(cluster: SimulatedCluster, body: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(cluster.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    payload = json.dumps(body).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: s\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    writer.write(head.encode() + payload)
    return reader, writer


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_status_is_answered_with_an_error_body(cluster: SimulatedCluster, streamed: bool) -> None:
    status, _, raw = await exchange(cluster, CHAT, chat("SIM:status=503", stream=streamed))
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert json.loads(raw)["error"]["code"] == 503
    assert cluster.generation_tokens == 0


async def test_the_header_is_a_switch_too_and_wins(cluster: SimulatedCluster) -> None:
    *_, raw = await exchange(cluster, CHAT, chat("SIM:tokens=9"), headers=("X-Sim: tokens=4",))
    assert json.loads(raw)["usage"]["completion_tokens"] == 4


async def test_a_dropped_stream_ends_without_its_terminator(cluster: SimulatedCluster) -> None:
    status, _, raw = await exchange(cluster, CHAT, chat("SIM:drop-after=5 SIM:tokens=50", **WITH_USAGE))
    assert status == "HTTP/1.1 200 OK"
    assert raw.count(b"data: ") > 1
    assert b"[DONE]" not in raw
    assert not raw.endswith(b"0\r\n\r\n")
    assert 5 <= cluster.generation_tokens <= 8  # a character may hold four tokens


async def test_a_dropped_answer_is_shorter_than_it_promised(cluster: SimulatedCluster) -> None:
    _, headers, raw = await exchange(cluster, CHAT, chat("SIM:drop-after=0"))
    assert 0 < len(raw) < int(headers["content-length"])


async def test_a_connection_that_is_dropped_early_carries_nothing(cluster: SimulatedCluster) -> None:
    assert await exchange(cluster, CHAT, chat("SIM:drop")) == ("", {}, b"")


async def test_what_is_no_http_is_no_http(cluster: SimulatedCluster) -> None:
    status, *_ = await exchange(cluster, CHAT, chat("SIM:not-http"))
    assert status.startswith("SSH-2.0")


async def test_an_engine_that_fails_midway_sends_an_error_event(cluster: SimulatedCluster) -> None:
    *_, raw = await exchange(cluster, CHAT, chat("SIM:error-after=3 SIM:tokens=50", **WITH_USAGE))
    assert events(raw)[-1]["error"]["type"] == "InternalServerError"
    assert not any("usage" in event for event in events(raw))


async def test_an_engine_that_fails_before_a_whole_answer_sends_a_500(cluster: SimulatedCluster) -> None:
    status, *_ = await exchange(cluster, CHAT, chat("SIM:error-after=3 SIM:tokens=50"))
    assert status == "HTTP/1.1 500 Internal Server Error"


async def test_garbage_stands_between_good_events(cluster: SimulatedCluster) -> None:
    *_, raw = await exchange(cluster, CHAT, chat("SIM:garbage SIM:tokens=5", **WITH_USAGE))
    pieces = chunks(raw)
    assert sum(b"\xff\xfe" in piece for piece in pieces) == 1
    assert b"data: null\n\n" in pieces
    assert json.loads(pieces[-2].removeprefix(b"data: "))["usage"]["completion_tokens"] == 5
    *_, raw = await exchange(cluster, CHAT, chat("SIM:garbage"))
    with pytest.raises(UnicodeDecodeError):
        json.loads(raw)


@pytest.mark.parametrize("asked", [{}, WITH_USAGE])
async def test_usage_can_be_left_out(cluster: SimulatedCluster, asked: dict[str, object]) -> None:
    *_, raw = await exchange(cluster, CHAT, chat("SIM:no-usage SIM:tokens=5", **asked))
    assert b'"usage"' not in raw
    assert cluster.generation_tokens == 5


async def test_split_cuts_events_and_characters_but_not_their_sum(cluster: SimulatedCluster) -> None:
    *_, raw = await exchange(cluster, CHAT, chat("SIM:split SIM:tokens=120", **WITH_USAGE))
    assert max(map(len, chunks(raw))) == 7
    assert events(raw)[-1]["usage"]["completion_tokens"] == 120


async def test_cached_tokens_are_reported_as_told(cluster: SimulatedCluster) -> None:
    *_, raw = await exchange(cluster, CHAT, chat("SIM:cached=8"))
    usage = json.loads(raw)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 8
    assert usage["prompt_tokens"] > 8


@pytest.mark.parametrize("switch", ["stall", "stall-after=3"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_stalled_call_ends_when_its_client_leaves(
    cluster: SimulatedCluster, switch: str, streamed: bool
) -> None:
    reader, writer = await _open(cluster, chat(f"SIM:{switch} SIM:tokens=50", stream=streamed))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(-1), 0.1)
    assert cluster.generation_tokens <= 6
    writer.close()
    await _until(lambda: cluster.running == 0)


@pytest.mark.parametrize("streamed", [False, True])
async def test_generation_stops_within_a_few_tokens_of_a_clients_leaving(streamed: bool) -> None:
    async with SimulatedCluster(Options(tokens_per_second=200)) as cluster:
        _, writer = await _open(cluster, chat("SIM:tokens=5000", stream=streamed))
        await _until(lambda: cluster.generation_tokens >= 10)
        writer.close()
        left_at = cluster.generation_tokens
        await _until(lambda: cluster.running == 0)
        assert cluster.generation_tokens - left_at < 20
        assert cluster.counters.finished == {("m", "abort"): 1}


async def test_a_burst_stops_too_when_nobody_reads(cluster: SimulatedCluster) -> None:
    reader, writer = await _open(cluster, chat("SIM:tokens=100000", stream=True))
    await reader.read(1000)
    writer.close()
    await _until(lambda: cluster.running == 0)
    assert cluster.generation_tokens < 50_000


async def test_tokens_are_paced() -> None:
    async with SimulatedCluster(Options(tokens_per_second=100)) as cluster:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await exchange(cluster, CHAT, chat("SIM:tokens=20", **WITH_USAGE))
        paced = loop.time() - started
        await exchange(cluster, CHAT, chat("SIM:tokens=20 SIM:rate=0", **WITH_USAGE))
        burst = loop.time() - started - paced
    assert paced > 0.15
    assert burst < paced


async def test_metrics_tell_the_truth_by_model(cluster: SimulatedCluster) -> None:
    *_, raw = await exchange(cluster, CHAT, chat("SIM:tokens=7") | {"model": 'a"b'})
    *_, metrics = await exchange(cluster, "/metrics", b"", method="GET")
    prompt_tokens = json.loads(raw)["usage"]["prompt_tokens"]
    assert f'vllm:prompt_tokens_total{{engine="0",model_name="a\\"b"}} {prompt_tokens}.0\n'.encode() in metrics
    assert b'vllm:generation_tokens_total{engine="0",model_name="a\\"b"} 7.0\n' in metrics
    assert b'vllm:num_requests_running{engine="0",model_name="a\\"b"} 0.0\n' in metrics


async def test_names_that_clients_invent_do_not_fill_the_memory(cluster: SimulatedCluster) -> None:
    for number in range(120):
        assert cluster.counters.label(f"m{number}") == (f"m{number}" if number < 100 else "other")
    assert len(cluster.counters.prompt_tokens) == 101


async def test_a_cluster_that_is_down_answers_503_and_remembers_what_it_saw(cluster: SimulatedCluster) -> None:
    await exchange(cluster, CHAT, chat("SIM:tokens=3"), headers=("X-Trace: 7",))
    cluster.down = True
    status, *_ = await exchange(cluster, CHAT, chat("SIM:tokens=3"))
    assert status == "HTTP/1.1 503 Service Unavailable"
    [seen] = cluster.seen
    assert (seen.path, seen.headers["x-trace"]) == (CHAT, "7")


async def test_a_cluster_can_be_started_in_process_and_again() -> None:
    runner, port = await start("127.0.0.1", 0)
    await runner.cleanup()
    runner, again = await start("127.0.0.1", port)
    assert again == port
    await runner.cleanup()
