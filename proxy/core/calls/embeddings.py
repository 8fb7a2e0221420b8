"""Embedding calls: ``/v1/embeddings``.

What belongs here: the shapes of an input, what bounds its tokens, and what becomes of token ids. What does not: how ids
are decoded (token_ids.py), and all else in a request (``encoding_format``, ``dimensions``, …), which passes unseen.

An input is never made Python objects of its text: it is looked at in place, which takes 1 to 2 ms a megabyte, 5 where
every third word is escaped. Token ids are at most ``IDS_MAX`` numbers, decoded once.
"""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from proxy.core import estimate
from proxy.core.calls.checking import Checker, find_model, json_of
from proxy.core.calls.contract import Form, PreparedCall, Terms
from proxy.core.calls.token_ids import UnknownTokenError, text_of
from proxy.core.catalogue import Model, TokenIds
from proxy.core.errors import ApiError, invalid_parameter
from proxy.core.patching import patch_object

INPUTS_MAX: Final = 2048
"""Most inputs of a call (OpenAI's API reference, Create embeddings)."""

IDS_MAX: Final = 1 << 19
"""Most token ids of a call, over all its inputs. OpenAI takes 300,000; decoding as many as this takes some 60 ms."""

EXTRA_TOKENS: Final = 16
"""What an engine may add to an input beyond one token a byte: special tokens, a short instruction."""

_INPUT: Final = "must be a text or a list of texts"
_EMPTY: Final = "must not be empty"
_TOO_MANY: Final = f"must hold at most {INPUTS_MAX} inputs"
_TOO_MANY_IDS: Final = f"must hold at most {IDS_MAX} token ids"
_NO_IDS: Final = "must be a text or a list of texts: this model takes no token ids"
_OTHER_IDS: Final = "holds token ids that are not of cl100k_base: send the text instead"

_SURE_QUOTES: Final = 100_000
"""As many quotes are not looked into: that is at most 50,000 short texts."""

_MORE_TEXTS: Final = re.compile(rb'\[\s*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"\s*+,\s*+){%d}' % INPUTS_MAX, re.DOTALL)
_SECOND: Final = re.compile(rb"\[\s*+(.)", re.DOTALL)


class _EmbeddingsRequest(msgspec.Struct):
    """The members that are documented."""

    model: str
    input: Raw


_Id = Annotated[int, Meta(ge=0, lt=1 << 31)]
_checked: Final = Checker(_EmbeddingsRequest, {"model": "must be a string that names a model", "input": _INPUT})
_texts: Final = msgspec.json.Decoder(list[Raw]).decode
_ids: Final = msgspec.json.Decoder(list[_Id]).decode
_lists_of_ids: Final = msgspec.json.Decoder(list[list[_Id]]).decode


class EmbeddingsCall(PreparedCall, frozen=True):
    """A call of ``/v1/embeddings``.

    Args:
        estimated_tokens: its input by the rule of ``proxy.core.estimate``, or the number of its ids, if it has ids; of
            no input more than the model reads.
        counted_tokens: its input as the model's own tokenizer counts it; None: it has not been counted.
    """

    estimated_tokens: int = 1
    counted_tokens: int | None = None


class _Input(msgspec.Struct, frozen=True):
    """An input, measured.

    Args:
        tokens_max: most tokens that it can be, over all its parts.
        estimated_tokens: see ``EmbeddingsCall``.
        text: what takes its place in the request, as JSON; None: it stays.
    """

    tokens_max: int
    estimated_tokens: int
    text: bytes | None = None


def prepare_embeddings(received: bytes | Form, route: str, terms: Terms) -> EmbeddingsCall:
    """Check a request for embeddings and make it ready for its model's engine.

    Raises:
        ApiError: 400 with the parameter's name, or 404 for an unknown model.
    """
    body = json_of(received)
    request = _checked.decoded(body)
    model = find_model(request.model, route, terms)
    measured = _measured(bytes(request.input), model, terms)
    changes: dict[str, bytes] = {}
    if measured.text is not None:
        changes["input"] = measured.text
    if model.upstream_model != request.model:
        changes["model"] = msgspec.json.encode(model.upstream_model)
    return EmbeddingsCall(
        model=model,
        upstream_route=route,
        body=patch_object(body, changes) if changes else body,
        input_tokens_max=measured.tokens_max,
        prompt_bytes=len(body),
        estimated_tokens=measured.estimated_tokens,
    )


def _measured(given: bytes, model: Model, terms: Terms) -> _Input:
    """Measure an input by what it begins with. Raises ApiError (400)."""
    if given[:1] == b'"':
        return _of_texts([given], model)
    second = _SECOND.match(given)
    if second is None:
        raise _invalid(_INPUT)
    if second[1] == b"]":
        raise _invalid(_EMPTY)
    if second[1] == b'"':
        if _are_too_many(given):
            raise _invalid(_TOO_MANY)
        return _of_texts([bytes(text) for text in _texts(given)], model)
    return _of_ids(given, second[1] == b"[", model, terms)


def _are_too_many(given: bytes) -> bool:
    """Whether a list of texts is too long; sure only where finding out later would cost much."""
    quotes = given.count(b'"')
    if quotes <= _SURE_QUOTES:
        return False
    # A quote after a backslash is within a text, unless the text ends with that backslash.
    quotes += given.count(b'\\\\"') - given.count(b'\\"')
    return quotes > _SURE_QUOTES and _MORE_TEXTS.match(given) is not None


def _of_texts(texts: list[bytes], model: Model) -> _Input:
    """Measure texts, each as the JSON that it came as: escaped, a text is never shorter than in UTF-8."""
    if len(texts) > INPUTS_MAX:
        raise _invalid(_TOO_MANY)
    tokens_max = estimated = 0
    for text in texts:
        if text[:1] != b'"':
            raise _invalid(_INPUT)
        text_bytes = len(text) - 2
        if not text_bytes:
            raise _invalid(_EMPTY)
        tokens_max += min(model.max_model_len, text_bytes + EXTRA_TOKENS)
        # \uXXXX stands for 2 or 3 bytes, or for half of 4: counted as 2.
        estimated += min(model.max_model_len, estimate.input_tokens(text_bytes - 4 * text.count(b"\\u")))
    return _Input(tokens_max, estimated)


def _of_ids(given: bytes, is_nested: bool, model: Model, terms: Terms) -> _Input:  # noqa: FBT001
    """Measure token ids, and make them text if they are not the model's own."""
    if given.count(b",") >= IDS_MAX:  # no comma is more than an id, or an empty list
        raise _invalid(_TOO_MANY_IDS)
    try:
        lists = _lists_of_ids(given) if is_nested else [_ids(given)]
    except (ValueError, RecursionError):
        raise _invalid(_INPUT) from None
    if model.token_ids is TokenIds.REFUSE or (model.token_ids is TokenIds.CL100K_BASE and terms.cl100k_base is None):
        raise _invalid(_NO_IDS)
    if len(lists) > INPUTS_MAX:
        raise _invalid(_TOO_MANY)
    if not all(lists):
        raise _invalid(_EMPTY)
    count = sum(min(model.max_model_len, len(ids)) for ids in lists)
    if model.token_ids is TokenIds.UPSTREAM:
        return _Input(sum(min(model.max_model_len, len(ids) + EXTRA_TOKENS) for ids in lists), count)
    assert terms.cl100k_base is not None
    vocabulary = terms.cl100k_base()
    try:
        texts = [text_of(ids, vocabulary) for ids in lists]
    except UnknownTokenError:
        raise _invalid(_OTHER_IDS) from None
    encoded = [msgspec.json.encode(text) for text in texts]
    tokens_max = _of_texts(encoded, model).tokens_max
    return _Input(tokens_max, count, b"[%b]" % b",".join(encoded) if is_nested else encoded[0])


def _invalid(problem: str) -> ApiError:
    return invalid_parameter("input", problem)
