"""Driving a meter: a stream goes in in pieces; what comes out, and what was read, come back."""

from collections.abc import Iterable
from typing import NamedTuple

from proxy.core.catalogue import Engine
from proxy.core.meters import Reading, StreamMeter, stream_meter
from proxy.core.usage import Source, Usage


class Driven(NamedTuple):
    passed: bytes
    tail: bytes
    reading: Reading

    @property
    def out(self) -> bytes:
        return self.passed + self.tail


def meter_for(
    engine: Engine = Engine.VLLM,
    *,
    forward_usage: bool = False,
    strip_continuous: bool = False,
    choices: int = 1,
    prompt_bytes: int = 100,
) -> StreamMeter:
    return stream_meter(
        engine,
        forward_usage=forward_usage,
        strip_continuous=strip_continuous,
        choices=choices,
        prompt_bytes=prompt_bytes,
    )


def drive(meter: StreamMeter, pieces: Iterable[bytes]) -> Driven:
    passed = b"".join([meter.feed(piece) for piece in pieces])
    return Driven(passed, meter.tail(), meter.finish())


def amounts(usage: Usage) -> dict[str, int]:
    return {quantity.type.value: quantity.amount for quantity in usage.quantities}


def sources(usage: Usage) -> set[Source]:
    return {quantity.source for quantity in usage.quantities}


def chunk(delta: str = "", finish: str | None = None, usage: str = "", index: int = 0, mark: str = "") -> bytes:
    """A content chunk; ``delta`` and ``usage`` are JSON texts, ``mark`` goes before the choices."""
    reason = f'"{finish}"' if finish else "null"
    choice = f'{{"index":{index},"delta":{{{delta}}},"finish_reason":{reason}}}'
    after = f',"usage":{usage}' if usage else ""
    return f'data: {{"id":"c","object":"chat.completion.chunk",{mark}"choices":[{choice}]{after}}}\n\n'.encode()


def content(text: str, **more: object) -> bytes:
    return chunk(f'"content":"{text}"', **more)  # type: ignore[arg-type]


ROLE = chunk('"role":"assistant","content":""')
STOP = chunk(finish="stop")
DONE = b"data: [DONE]\n\n"


def totals(usage: str) -> bytes:
    return f'data: {{"id":"c","object":"chat.completion.chunk","choices":[],"usage":{usage}}}\n\n'.encode()
