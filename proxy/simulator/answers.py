"""Whole answers on their way: sent in pieces, with or without a length, and going wrong on request.

What belongs here: what any answer that is not generated token by token has in common, and the faults that strike before
a first byte, which all calls share. What does not: what is answered (embeddings.py, ranking.py, audio.py, dialects.py).
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final, NoReturn

import msgspec
from aiohttp import ClientConnectionResetError, web

from proxy.simulator.options import Switches
from proxy.simulator.requests import RefusedError, error_body

JSON_HEADERS: Final = {"Content-Type": "application/json", "Vary": "Origin", "Server": "uvicorn"}
STREAM_HEADERS: Final = {"Content-Type": "text/event-stream; charset=utf-8", "Vary": "Origin", "Server": "uvicorn"}
GARBAGE_BODY: Final = b"\xff\xfe<html>this is no JSON"
ENGINE_ERROR: Final = error_body(
    500,
    "EngineCore encountered an issue. See stack trace (above) for the root cause.",
    "InternalServerError",
)

_STALL_SECONDS_MAX: Final = 3600.0
_SPLIT_BYTES: Final = 7
_PIECE_BYTES_MAX: Final = 64 * 1024


class ConnectionCutError(Exception):
    """The connection was cut: there is nothing more to send."""


class Whole(msgspec.Struct, frozen=True):
    """An answer that is not a stream of events.

    Args:
        model: under which it is counted.
        pieces: return its body in pieces, each time from the beginning.
        prompt_tokens: to count.
        generated_tokens: to count.
        switches: how it shall go wrong.
        content_type: of the body.
    """

    model: str
    pieces: Callable[[], Iterable[bytes]]
    prompt_tokens: int = 0
    generated_tokens: int = 0
    switches: Switches = Switches()
    content_type: str = JSON_HEADERS["Content-Type"]


class Events(msgspec.Struct, frozen=True):
    """An answer that is a stream of events, all known beforehand.

    Args:
        model: under which it is counted.
        events: at the cluster's pace.
        ends: what follows at once, also after an error.
        generated_tokens: one is counted before each event, until there are none left.
        switches: how it shall go wrong.
    """

    model: str
    events: tuple[bytes, ...]
    ends: tuple[bytes, ...] = ()
    generated_tokens: int = 0
    switches: Switches = Switches()


def of_json(body: object) -> Callable[[], Iterable[bytes]]:
    """Return the pieces of a small body."""
    encoded = msgspec.json.encode(body)
    return lambda: (encoded,)


async def fail_early(request: web.Request, switches: Switches) -> None:
    """Act on the switches that leave no answer at all.

    Raises:
        RefusedError: for ``status``.
        ConnectionCutError: for the others, once the connection is cut.
    """
    if switches.stall:
        await stall(request)
    if switches.not_http and request.transport is not None:
        request.transport.write(b"SSH-2.0-this is no HTTP\r\n")
        cut(request)
    if switches.drop:
        cut(request)
    status = switches.status
    if status is not None:
        kind = "InternalServerError" if status >= 500 else "BadRequestError"  # noqa: PLR2004
        raise RefusedError(status, error_body(status, f"Simulated error {status}", kind))


async def stall(request: web.Request) -> None:
    """Do nothing until the client leaves, then cut."""
    await asyncio.sleep(_STALL_SECONDS_MAX)
    cut(request)


def cut(request: web.Request) -> NoReturn:
    """Close the connection at once, whatever is still owed."""
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionCutError


def split(piece: bytes) -> Iterator[bytes]:
    """Cut a piece into small ones, in the middle of characters and of fields."""
    for start in range(0, len(piece), _SPLIT_BYTES):
        yield piece[start : start + _SPLIT_BYTES]


async def send_whole(request: web.Request, answer: Whole) -> web.StreamResponse:
    """Send an answer, however long, without ever having it in memory.

    The length is known only when the pieces have been made once; they are made again to be sent, unless they are few.

    Raises:
        ConnectionCutError: the connection was cut on request, or the client left.
    """
    switches = answer.switches
    pieces, size = _measured(answer)
    response = web.StreamResponse(headers=JSON_HEADERS | {"Content-Type": answer.content_type})
    if switches.chunked:
        response.enable_chunked_encoding()
    else:
        response.content_length = size
    sent = 0
    try:
        await response.prepare(request)
        for piece in pieces:
            for part in split(piece) if switches.split else (piece,):
                if switches.drop_after is not None and sent + len(part) > size // 2:
                    await response.write(part[: max(size // 2 - sent, 0)])
                    cut(request)
                await response.write(part)
                sent += len(part)
    except ClientConnectionResetError as exc:  # the client left while we wrote
        raise ConnectionCutError from exc
    return response


async def send_events(
    request: web.Request, answer: Events, tokens_per_second: float, count: Callable[[], None]
) -> web.StreamResponse:
    """Send a stream; ``count`` is called for each token.

    Raises:
        ConnectionCutError: the connection was cut on request, or the client left.
    """
    switches = answer.switches
    rate = tokens_per_second if switches.rate is None else switches.rate
    response = web.StreamResponse(headers=STREAM_HEADERS)
    response.enable_chunked_encoding()
    try:
        await response.prepare(request)
        for number, event in enumerate(answer.events):
            await asyncio.sleep(1 / rate if rate else 0)
            if switches.stall_after == number:
                await stall(request)
            if switches.drop_after == number:
                cut(request)
            if switches.error_after == number:
                await response.write(b"data: " + msgspec.json.encode(ENGINE_ERROR) + b"\n\n")
                break
            if number < answer.generated_tokens:
                count()
            for part in split(event) if switches.split else (event,):
                await response.write(part)
        for event in answer.ends:
            await response.write(event)
    except ClientConnectionResetError as exc:  # the client left while we wrote
        raise ConnectionCutError from exc
    return response


def _measured(answer: Whole) -> tuple[Iterable[bytes], int]:
    """Return the body's pieces and their size together."""
    if answer.switches.garbage:
        return (GARBAGE_BODY,), len(GARBAGE_BODY)
    kept: list[bytes] = []
    made = iter(answer.pieces())
    size = 0
    for piece in made:
        kept.append(piece)
        size += len(piece)
        if size > _PIECE_BYTES_MAX:
            break
    else:
        return (b"".join(kept),), size
    if answer.switches.chunked and answer.switches.drop_after is None:
        return chain(kept, made), 0  # nobody asks for the size
    return answer.pieces(), size + sum(map(len, made))
