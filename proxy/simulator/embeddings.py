"""Embeddings as vLLM 0.32 answers them: what it takes, what it refuses, and vectors made as they are sent.

What belongs here: reading the calls, the vectors, vLLM's shape. What does not: other engines' shapes (dialects.py).
A vector depends on nothing but its input, has length 1, and is made while the answer is sent, so that an answer of any
size needs no memory.
"""

import base64
import hashlib
import math
import secrets
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from proxy.simulator.answers import Whole
from proxy.simulator.options import Options, Switches
from proxy.simulator.requests import (
    check_model,
    refuse,
    refuse_field,
    refuse_long,
    switches_of,
    text_tokens,
)
from proxy.simulator.shapes import Json

DIMENSIONS: Final = 384
_TOKEN_CHARACTERS_MAX: Final = 18
"""Longest token of the recorded model's vocabulary: a longer text than so many a token is refused uncounted."""
_FILLER: Final = b"0.015625,"
_FILLER_BYTES: Final = 7200

Encoder = Callable[[int, str], Json]
"""Makes one item of the list: (index, a mark that the vector will replace) -> item."""
Input = str | list[int]
"""A text or token ids."""

_MARK: Final = "\ufdd0"


class Embedding(msgspec.Struct, frozen=True):
    """A call, checked.

    Args:
        model: as named.
        inputs: texts, or lists of token ids.
        tokens: read, of all inputs together.
        dimensions: of each vector.
        is_base64: whether vectors are packed instead of written out.
        switches: how it shall go wrong.
    """

    model: str
    inputs: tuple[Input, ...]
    tokens: int
    dimensions: int
    is_base64: bool
    switches: Switches

    @property
    def reported(self) -> int:
        """The tokens to report."""
        return self.tokens if self.switches.prompt_tokens is None else self.switches.prompt_tokens


def inputs_of(given: object) -> tuple[Input, ...]:
    """Return the inputs of a call: a text, a list of texts, token ids, or a list of those."""
    if isinstance(given, list) and not (given and isinstance(given[0], int)):
        return tuple(given)
    assert isinstance(given, str | list)
    return (given,)


def read_embedding(body: Json, options: Options, header: str = "", *, model: str | None = None) -> Embedding:
    """Return a call whose input has been checked for its type."""
    inputs = inputs_of(body["input"])
    text = "\n".join(one for one in inputs if isinstance(one, str))
    return Embedding(
        model=model or str(body.get("model") or check_model(None, options)),
        inputs=inputs,
        tokens=sum(tokens_of(one) for one in inputs),
        dimensions=body.get("dimensions") or DIMENSIONS,
        is_base64=body.get("encoding_format") == "base64",
        switches=switches_of(text, header),
    )


def tokens_of(one: Input) -> int:
    """Return how many tokens an input counts: with two around a text."""
    return 2 + text_tokens(one) if isinstance(one, str) else len(one)


def embed(body: Json, options: Options, header: str = "") -> Whole:
    """Answer vLLM's ``POST /v1/embeddings``."""
    if "input" not in body:
        _refuse_without_input(body)
    if not isinstance(body["input"], str | list):
        refuse_field(body, "input", "string_type", "Input should be a valid string")
    model = check_model(body.get("model"), options, with_aliases=False)
    call = read_embedding(body, options, header, model=model)
    if not call.inputs:
        refuse("You must pass at least one prompt")
    _check_lengths(call.inputs, options.max_model_len)
    dimensions = body.get("dimensions")
    if dimensions is not None and not options.shortens_vectors:
        refuse(
            f"Model '{model}' does not support Matryoshka embeddings; dimensions must be unset"
            f" (received dimensions={dimensions})."
        )
    head = {"id": f"embd-{secrets.token_hex(8)}", "object": "list", "created": int(time.time()), "model": model}
    usage: Json = {"prompt_tokens": call.reported, "total_tokens": call.reported, "completion_tokens": 0}
    usage |= {"prompt_tokens_details": None, "completion_tokens_details": None}
    tail = {} if call.switches.no_usage else {"usage": usage}
    return embedded(call, head, lambda index, mark: {"index": index, "object": "embedding", "embedding": mark}, tail)


def embedded(call: Embedding, head: Json, encode: Encoder, tail: Json) -> Whole:
    """Return the answer: the members of ``head``, then ``data`` with an item for each input, then those of ``tail``."""

    def pieces() -> Iterable[bytes]:
        before = msgspec.json.encode(head)[:-1] + (b"," if head else b"") + b'"data":['
        after = b"]" + (b"," if tail else b"") + msgspec.json.encode(tail)[1:]
        yield before
        room = call.switches.answer_bytes
        for index, one in enumerate(call.inputs):
            opening, closing = msgspec.json.encode(encode(index, _MARK)).split(f'"{_MARK}"'.encode())
            yield (b"," if index else b"") + opening
            if room is not None and index == 0:
                others = sum(_item_size(call, encode, i) for i in range(1, len(call.inputs)))
                yield from _filled(call, room - len(before + opening + closing + after) - others)
            else:
                yield _vector_text(call, one)
            yield closing
        yield after

    return Whole(call.model, pieces, call.tokens, switches=call.switches)


def _item_size(call: Embedding, encode: Encoder, index: int) -> int:
    item = msgspec.json.encode(encode(index, ""))
    return 1 + len(item) - 2 + len(_vector_text(call, call.inputs[index]))


def _filled(call: Embedding, size: int) -> Iterator[bytes]:
    """Yield a vector of exactly so many bytes, though not of length 1."""
    if call.is_base64:
        yield b'"'
        for start in range(0, size - 2, _FILLER_BYTES):
            yield b"A" * min(_FILLER_BYTES, size - 2 - start)
        yield b'"'
        return
    yield b"["
    numbers, rest = divmod(size - 2 - len(b"0.5"), len(_FILLER))
    block = _FILLER * (_FILLER_BYTES // len(_FILLER))
    for start in range(0, numbers, _FILLER_BYTES // len(_FILLER)):
        yield block[: (numbers - start) * len(_FILLER)]
    yield b"0.5" + b"0" * rest + b"]"


def _vector_text(call: Embedding, one: Input) -> bytes:
    vector = vector_of(one, call.dimensions)
    if call.is_base64:
        return b'"' + base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)) + b'"'
    return msgspec.json.encode(vector)


def vector_of(one: Input, dimensions: int) -> tuple[float, ...]:
    """Return a vector of length 1 that depends on nothing but the input."""
    raw = hashlib.shake_128(repr(one).encode("utf-8", "surrogatepass")).digest(2 * dimensions)
    numbers = [value / 32768.0 for value in struct.unpack(f"<{dimensions}h", raw)]
    norm = math.sqrt(sum(value * value for value in numbers)) or 1.0
    return tuple(value / norm for value in numbers)


def _check_lengths(inputs: tuple[Input, ...], max_model_len: int) -> None:
    for one in inputs:
        bound = max_model_len * _TOKEN_CHARACTERS_MAX
        if isinstance(one, str) and len(one) > bound:
            refuse(
                f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains"
                f" {len(one)} characters (more than {bound} characters, which is the upper bound for"
                f" {max_model_len} input tokens). Please reduce the length of the input prompt."
                f" (parameter=input_text, value={len(one)})",
                "input_text",
            )
        if tokens_of(one) > max_model_len:
            refuse_long(max_model_len)


def _refuse_without_input(body: Json) -> None:
    """Refuse as the union of request schemas does: each of its members misses its own field."""
    missing = ["input", "messages", "messages", "messages", "input", "messages", "input"]
    rest = f"'msg': 'Field required', 'input': '<dict of {len(body)} items>'}}"
    lines = [f"  {{'type': 'missing', 'loc': 'body.{field}', {rest}" for field in missing]
    refuse("\n".join([f"{len(lines)} validation errors:", *lines]), "body.input", "Bad Request")
