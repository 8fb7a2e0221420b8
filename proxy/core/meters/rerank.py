"""Rerank answers: the ranking, and the tokens that it took, off a whole answer of any engine.

What belongs here: reading answers, believing or counting their tokens. What does not: building the documented answer
(``proxy.core.rerank_shapes``), and the tokenizer's file (``proxy.tokenizers``).

Tokens are, in this order of trust: ``usage.total_tokens``, ``usage.prompt_tokens``, ``meta.tokens.input_tokens``, the
sum of the results' ``meta_info.prompt_tokens`` (SGLang) where every document has one; what the model's tokenizer
counts; an estimate. Search units are no tokens, and Infinity's usage counts characters: neither is ever believed. A
number is believed when it is a whole JSON integer of at least 1 and no more than one context for each document.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from proxy.core import estimate
from proxy.core.calls.contract import PreparedCall
from proxy.core.calls.rerank import RerankCall
from proxy.core.catalogue import Engine
from proxy.core.meters.contract import Reading
from proxy.core.usage import NOTHING, Quantity, Source, Usage, UsageType

SLICE_TEXTS: Final = 256
"""Texts that are tokenized at once: it bounds the memory, not the speed."""


class Ranking(msgspec.Struct, frozen=True):
    """What an engine answered.

    Args:
        results: (index of the document, score as it was written), best first, at most ``top_n``.
        tokens: the tokens that it told and that can be believed; None: none.
    """

    results: Sequence[tuple[int, bytes]]
    tokens: int | None


class _Result(msgspec.Struct):
    index: int
    relevance_score: Raw = Raw(b"")
    score: Raw = Raw(b"")
    meta_info: Any = None


class _Answer(msgspec.Struct):
    results: list[_Result]
    usage: Any = None
    meta: Any = None
    error: Any = None


_decode_object: Final = msgspec.json.Decoder(_Answer).decode
_decode_list: Final = msgspec.json.Decoder(list[_Result]).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_any: Final = msgspec.json.Decoder(dict[str, Any]).decode


def read_rerank(engine: Engine, body: bytes, call: PreparedCall) -> Reading:
    """Read a whole answer. What is no ranking of the call's documents is not complete, and used nothing."""
    assert isinstance(call, RerankCall)
    ranking = ranking_of(engine, body, call)
    if ranking is None:
        return Reading(NOTHING, complete=False, failed=_is_error(body))
    return Reading(Usage((tokens_of(ranking, call),)), complete=True)


def ranking_of(engine: Engine, body: bytes, call: RerankCall) -> Ranking | None:
    """Return the ranking in an answer; None: there is none, or not of these documents."""
    try:
        answer = _Answer(_decode_list(body)) if body.lstrip()[:1] == b"[" else _decode_object(body)
        scored = [
            (float(score := bytes(result.relevance_score) or bytes(result.score)), result.index, score)
            for result in answer.results
        ]
    except (ValueError, RecursionError):  # msgspec's errors and those of UTF-8 are ValueErrors
        return None
    indexes = {index for _, index, _ in scored}
    documents = len(call.documents)
    if answer.error or not scored or len(indexes) < len(scored) or min(indexes) < 0 or max(indexes) >= documents:
        return None
    scored.sort(key=_first, reverse=True)  # stable: equal scores stay in the engine's order
    return Ranking([(index, score) for _, index, score in scored[: call.top_n]], _told(engine, answer, call))


def tokens_of(ranking: Ranking, call: RerankCall) -> Quantity:
    """Return the tokens that are billed for a ranking."""
    if ranking.tokens is not None:
        return Quantity(UsageType.RERANK, ranking.tokens)
    if call.tokens_counted is not None:
        return Quantity(UsageType.RERANK, call.tokens_counted, Source.MEASURED)
    return Quantity(UsageType.RERANK, _estimated(call), Source.ESTIMATED)


def count_rerank(call: PreparedCall) -> PreparedCall:
    """Return the call with its tokens counted by its model's tokenizer, if it has one and all that is ranked is text.

    Every document is read with the query, so the query counts once for each. It takes a second or more for megabytes:
    to be called in a thread.

    Raises:
        TokenizerError: the tokenizer gave up.
    """
    assert isinstance(call, RerankCall)
    tokenizer = call.model.tokenizer
    if tokenizer is None or not call.is_text:
        return call
    around = tokenizer.count([_text(call.query)])[0] + tokenizer.pair_tokens
    documents = [count for texts in _slices(call.texts) for count in tokenizer.count(texts)]
    return msgspec.structs.replace(call, tokens_counted=max(1, _bounded(call, around, documents)))


def _estimated(call: RerankCall) -> int:
    """Return a quarter of the bytes of query and text of each document, each rounded up, and at least 1.

    An object with ``content`` counts with all that it holds.
    """
    around = estimate.text_tokens(_utf8_bytes(call.query))
    documents = [estimate.text_tokens(_utf8_bytes(text)) for text in call.texts]
    return max(1, _bounded(call, around, documents))


def _bounded(call: RerankCall, around: int, documents: Sequence[int]) -> int:
    """Return the sum over documents, none longer than was asked for, and none longer than the context."""
    context = call.model.max_model_len
    longest = min(context, call.document_tokens_max or context)
    return sum(min(context, around + min(longest, count)) for count in documents)


def _told(engine: Engine, answer: _Answer, call: RerankCall) -> int | None:
    """Return the first number of tokens that can be believed."""
    if engine is Engine.INFINITY:
        return None
    most = len(call.documents) * call.model.max_model_len
    numbers = (
        _member(answer.usage, "total_tokens"),
        _member(answer.usage, "prompt_tokens"),
        _member(_member(answer.meta, "tokens"), "input_tokens"),
        _summed(answer.results) if len(answer.results) == len(call.documents) else None,
    )
    return next((number for number in numbers if type(number) is int and 1 <= number <= most), None)


def _summed(results: list[_Result]) -> int | None:
    """Return the tokens that results tell of themselves, if all of them do."""
    total = 0
    for result in results:
        tokens = _member(result.meta_info, "prompt_tokens")
        if type(tokens) is not int or tokens < 1:
            return None
        total += tokens
    return total


def _member(found: object, name: str) -> object:
    return found.get(name) if isinstance(found, dict) else None


def _first(scored: tuple[float, int, bytes]) -> float:
    return scored[0]


def _is_error(body: bytes) -> bool:
    try:
        return bool(_decode_any(body).get("error"))
    except (ValueError, RecursionError):
        return False


def _slices(texts: Sequence[bytes]) -> Iterator[list[str]]:
    for first in range(0, len(texts), SLICE_TEXTS):
        yield [_text(text) for text in texts[first : first + SLICE_TEXTS]]


def _text(text: bytes) -> str:
    return _decode_text(text)


def _utf8_bytes(text: bytes) -> int:
    """Return the length of what a JSON string stands for; of anything else, its own."""
    if text[:1] != b'"':
        return len(text)
    if b"\\" not in text:
        return len(text) - 2
    try:
        return len(_decode_text(text).encode())
    except ValueError:
        return len(text) - 2
