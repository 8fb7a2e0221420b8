"""How fast the meters are: events a second on one core, for the pieces that a relay hands over.

Run: ``.venv/bin/python bench/meters.py``. Each number is the best of several rounds; nothing is sent anywhere.
"""

import json
import time
from collections.abc import Callable

from proxy.core.catalogue import Engine
from proxy.core.meters import StreamMeter, read_body, stream_meter

PIECE_BYTES = 64 * 1024
ROUNDS = 30

CHUNK = (
    b'data: {"id":"chatcmpl-81a1ae4b932c2863","object":"chat.completion.chunk","created":1795531167,'
    b'"model":"llama-70b","choices":[{"index":0,"delta":{"content":" measure"},"logprobs":null,'
    b'"finish_reason":null}]%b}\n\n'
)
PLAIN = CHUNK % b""
COUNTED = CHUNK % (
    b',"usage":{"prompt_tokens":1603,"total_tokens":1790,"completion_tokens":187,'
    b'"completion_tokens_details":{"reasoning_tokens":0}}'
)
ODD = CHUNK % b', "usage": {"completion_tokens": 187, "prompt_tokens": 1603, "total_tokens": 1790}'
TOTALS = (
    b'data: {"id":"c","object":"chat.completion.chunk","choices":[],'
    b'"usage":{"prompt_tokens":1603,"total_tokens":1790,"completion_tokens":187}}\n\ndata: [DONE]\n\n'
)


def new_meter(*, forward: bool = False, strip: bool = True, choices: int = 1) -> StreamMeter:
    return stream_meter(Engine.VLLM, forward_usage=forward, strip_continuous=strip, choices=choices, prompt_bytes=1000)


def best_s(run: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def report(name: str, events: int, seconds: float) -> None:
    print(f"{name:<58}{events / seconds / 1e6:>8.2f} M/s {seconds / events * 1e9:>8.0f} ns each")


def bursts(name: str, event: bytes, **how: object) -> None:
    count = PIECE_BYTES // len(event)
    piece = event * count
    meter = new_meter(**how)  # type: ignore[arg-type]
    meter.feed(event)
    report(f"{name}, {len(event)} B", count * 16, best_s(lambda: [meter.feed(piece) for _ in range(16)]))


def paced(name: str, event: bytes, **how: object) -> None:
    meter = new_meter(**how)  # type: ignore[arg-type]
    meter.feed(event)
    report(f"{name}, {len(event)} B", 1000, best_s(lambda: [meter.feed(event) for _ in range(1000)]))


def calls(name: str, event: bytes) -> None:
    """A whole call of 300 events in two pieces, from the meter's making to its reading."""
    pieces = [event * 200, event * 100 + TOTALS]

    def call() -> None:
        meter = new_meter()
        for piece in pieces:
            meter.feed(piece)
        meter.tail()
        meter.finish()

    report(name, 300, best_s(call))


def bodies(name: str, body: bytes) -> None:
    report(
        name,
        100,
        best_s(lambda: [read_body(Engine.VLLM, body, choices=1, prompt_bytes=1000) for _ in range(100)]),
    )


def a_body(usage: object) -> bytes:
    message = {"role": "assistant", "content": "word " * 400}
    answer = {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": message}], "usage": usage}
    return json.dumps(answer).encode()


def main() -> None:
    print(f"streams, pieces of {PIECE_BYTES // 1024} KiB; an event is")
    bursts("  a plain chunk", PLAIN)
    bursts("  with usage, to be cut out", COUNTED)
    bursts("  with usage, passed on", COUNTED, forward=True, strip=False)
    bursts("  with usage in another order, to be cut out", ODD)
    bursts("  a plain chunk, two choices", PLAIN, choices=2)
    print("streams, one event a piece; an event is")
    paced("  a plain chunk", PLAIN)
    paced("  with usage, to be cut out", COUNTED)
    print("calls of 300 events in two pieces, from meter to reading; an event is")
    calls("  a plain chunk", PLAIN)
    calls("  with usage, to be cut out", COUNTED)
    print("whole answers of 2 KB")
    bodies("  with usage", a_body({"prompt_tokens": 1603, "completion_tokens": 187, "total_tokens": 1790}))
    bodies("  without", a_body(None))


if __name__ == "__main__":
    main()
