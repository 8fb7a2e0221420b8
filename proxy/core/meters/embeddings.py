"""Embeddings: what ``/v1/embeddings`` used, off its answer.

What belongs here: which number of an answer is the input, and when it is believed. What does not: finding it in
megabytes of vectors (large.py), and the tokenizer's file (``proxy.tokenizers``).

vLLM, SGLang, llama.cpp, Ollama, TEI and OpenAI report ``prompt_tokens`` and ``total_tokens``, which are the same: an
embedding has no output (vLLM says so: ``completion_tokens`` 0). Infinity reports both, but counts characters: its
numbers are not believed. A number is believed when it is a whole one, above 0 and not beyond what the input can be.
Without one, the input is what the model's tokenizer counts, or else an estimate.
"""

from typing import Any, Final

import msgspec

from proxy.core.calls import PreparedCall
from proxy.core.calls.embeddings import EmbeddingsCall
from proxy.core.catalogue import Engine
from proxy.core.meters.contract import Reading
from proxy.core.meters.large import BodyMeter, UsageRule, answers_with, read_large
from proxy.core.usage import Quantity, Source, Usage, UsageType

COUNTS_CHARACTERS: Final = frozenset({Engine.INFINITY})
"""Engines whose usage is no count of tokens."""

SLICE_TEXTS: Final = 256
"""Texts that are tokenized at once: it bounds the memory, not the speed."""

_EMBEDDINGS: Final = answers_with("data")


class _Request(msgspec.Struct):
    input: Any


_decode: Final = msgspec.json.Decoder(_Request).decode


def read_embeddings(engine: Engine, body: bytes, call: PreparedCall) -> Reading:
    """Read a whole answer that has been collected."""
    return read_large(body, _EMBEDDINGS, _rule(engine, call))


def embeddings_meter(engine: Engine, call: PreparedCall) -> BodyMeter:
    """Return the meter of an answer that is relayed as it comes."""
    return BodyMeter(_EMBEDDINGS, _rule(engine, call))


def count_embeddings(call: PreparedCall) -> PreparedCall:
    """Return the call with its input counted by its model's tokenizer, if it has one and the input is text.

    Special tokens are left out, as the customer did not send them. It takes a second or more for megabytes: to be
    called in a thread.

    Raises:
        TokenizerError: the tokenizer gave up.
    """
    assert isinstance(call, EmbeddingsCall)
    tokenizer = call.model.tokenizer
    given = _decode(call.body).input
    texts = [given] if isinstance(given, str) else given
    if tokenizer is None or not isinstance(texts[0], str):
        return call
    slices = [texts[first : first + SLICE_TEXTS] for first in range(0, len(texts), SLICE_TEXTS)]
    counted = [count for some in slices for count in tokenizer.count(some)]
    tokens = sum(min(call.model.max_model_len, count) for count in counted)
    return msgspec.structs.replace(call, counted_tokens=max(1, tokens))


def _rule(engine: Engine, call: PreparedCall) -> UsageRule:
    assert isinstance(call, EmbeddingsCall)
    own = Quantity(UsageType.INPUT, call.estimated_tokens, Source.ESTIMATED)
    if call.counted_tokens is not None:
        own = Quantity(UsageType.INPUT, call.counted_tokens, Source.MEASURED)

    def rule(usage: object, _answer_bytes: int) -> Usage:
        if engine in COUNTS_CHARACTERS or not isinstance(usage, dict):
            return Usage((own,))
        for name in ("prompt_tokens", "total_tokens"):
            tokens = usage.get(name)
            if type(tokens) is int and 0 < tokens <= call.input_tokens_max:
                return Usage((Quantity(UsageType.INPUT, tokens),))
        return Usage((own,))

    return rule
