"""Rerank calls: ``/v1/rerank`` and ``/v2/rerank``, which take the same request.

What belongs here: the documented parameters and those of Cohere's v1 and v2, the text that is ranked of each document,
and what bounds the tokens. What does not: what an engine is sent and what it answers (``proxy.core.rerank_shapes``).

A document is a string, or an object with the text to rank: its ``text``, or the members that ``rank_fields`` names, in
that order, a line each. vLLM also takes an object with ``content`` parts, for models that see. Texts stay the JSON
strings that came: they are neither decoded nor written anew, so ten megabytes of them cost milliseconds.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from proxy.core.calls.checking import Checker, find_model, json_of
from proxy.core.calls.contract import Form, PreparedCall, Terms
from proxy.core.catalogue import Engine, Model
from proxy.core.errors import ApiError, invalid_parameter, invalid_request

DOCUMENTS_MAX: Final = 10_000
"""Most documents of a call, as with Cohere."""

TEMPLATE_TOKENS: Final = 128
"""What a model may put around one query and document: special tokens, or the instruction of a generative reranker."""

_POSITIVE = Annotated[int, Meta(ge=1)] | None
_TEXT: Final = "text"
_QUOTE: Final = ord('"')


class RerankCall(PreparedCall, frozen=True):
    """A rerank call that may be admitted.

    Args:
        changes: top-level members that every engine's copy of the body needs, as JSON.
        query: the query, a JSON string.
        documents: as they came, JSON.
        texts: beside each document what is ranked of it: a JSON string, or the object itself when it has ``content``.
        top_n: most results to answer with.
        returns_documents: whether results carry their documents.
        document_tokens_max: most tokens of a document that are looked at (``max_tokens_per_doc``); None: all.
        tokens_counted: tokens of queries and documents as the model's tokenizer counts them; None: not counted.
    """

    changes: Mapping[str, bytes] = {}
    query: bytes = b'""'
    documents: tuple[bytes, ...] = ()
    texts: tuple[bytes, ...] = ()
    top_n: int = DOCUMENTS_MAX
    returns_documents: bool = True
    document_tokens_max: int | None = None
    tokens_counted: int | None = None

    @property
    def is_text(self) -> bool:
        """Whether all that is ranked is text."""
        return all(text[0] == _QUOTE for text in self.texts)


class _RerankRequest(msgspec.Struct):
    """The members that are documented, or that Cohere's clients send; the rest passes unseen."""

    model: str
    query: Raw
    documents: list[Raw]
    top_n: _POSITIVE | UnsetType = UNSET
    return_documents: bool | None = None
    rank_fields: Annotated[list[str], Meta(min_length=1)] | None = None
    max_chunks_per_doc: _POSITIVE = None
    max_tokens_per_doc: _POSITIVE = None


_PROBLEMS: Final = {
    "model": "must be a string that names a model",
    "query": "must be a string",
    "documents": f"must be an array of 1 to {DOCUMENTS_MAX} strings, or objects with the text to rank",
    "top_n": "must be an integer of at least 1",
    "return_documents": "must be a boolean",
    "rank_fields": "must be an array of strings",
    "max_chunks_per_doc": "must be an integer of at least 1",
    "max_tokens_per_doc": "must be an integer of at least 1",
}

_checked: Final = Checker(_RerankRequest, _PROBLEMS)
_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text: Final = msgspec.json.Decoder(str).decode


def prepare_rerank(received: bytes | Form, route: str, terms: Terms) -> RerankCall:
    """Check a rerank request and make it ready.

    Raises:
        ApiError: 400 with the parameter's name, or 404 for an unknown model.
    """
    body = _text_of_body(json_of(received))
    request = _checked.decoded(body)
    model = find_model(request.model, route, terms)
    query = bytes(request.query)
    if query[0] != _QUOTE:
        raise _wrong("query")
    documents = tuple([bytes(document) for document in request.documents])
    if not 1 <= len(documents) <= DOCUMENTS_MAX:
        raise _wrong("documents")
    texts = _texts(documents, request.rank_fields, model)
    changes: dict[str, bytes] = {}
    if model.upstream_model != request.model:
        changes["model"] = msgspec.json.encode(model.upstream_model)
    top_n = request.top_n or len(documents)
    if request.top_n is not UNSET and request.top_n != min(top_n, len(documents)):
        changes["top_n"] = b"%d" % len(documents)  # not every engine takes null, or more than there are
    return RerankCall(
        model=model,
        upstream_route=route,
        body=body,
        prompt_bytes=len(body),
        rerank_tokens_max=tokens_bound(query, texts, model),
        changes=changes,
        query=query,
        documents=documents,
        texts=texts,
        top_n=top_n,
        returns_documents=request.return_documents is not False,
        document_tokens_max=request.max_tokens_per_doc,
    )


def _text_of_body(body: bytes) -> bytes:
    """Return the body if it is UTF-8: its documents are sent back as they are. Raises ApiError (400)."""
    try:
        body.isascii() or body.decode()
    except UnicodeDecodeError:
        raise invalid_request("The request body is not valid JSON") from None
    return body


def tokens_bound(query: bytes, texts: Sequence[bytes], model: Model) -> int:
    """Return the most tokens that a call can be charged for.

    Each document is read with the query, as far as the context goes, and no tokenizer makes more than one token of a
    byte of text (JSON strings are no shorter than their texts). What is not text may fill the context.
    """
    most = model.max_model_len
    around = len(query) + TEMPLATE_TOKENS
    return sum(min(most, around + len(text)) if text[0] == _QUOTE else most for text in texts)


def _texts(documents: tuple[bytes, ...], rank_fields: list[str] | None, model: Model) -> tuple[bytes, ...]:
    """Return what is ranked of each document. Raises ApiError (400)."""
    if all(document[0] == _QUOTE for document in documents):
        return documents
    takes_content = all(upstream.engine is Engine.VLLM for upstream in model.upstreams)
    try:
        return tuple(
            document if document[0] == _QUOTE else _text_of(document, rank_fields, takes_content=takes_content)
            for document in documents
        )
    except (ValueError, RecursionError):  # msgspec's errors and those of UTF-8 are ValueErrors
        raise _wrong("documents") from None


def _text_of(document: bytes, rank_fields: list[str] | None, *, takes_content: bool) -> bytes:
    """Return what is ranked of an object, as JSON. Raises ValueError where there is nothing."""
    members = _decode_members(document)
    if rank_fields is None and takes_content and _TEXT not in members and _begins(members.get("content"), b"["):
        return document
    values = [members[name] for name in rank_fields or (_TEXT,) if name in members]
    if len(values) == 1 and _begins(values[0], b'"'):
        return bytes(values[0])
    if rank_fields is None or not values:
        raise ValueError("no text to rank")
    return msgspec.json.encode("\n".join(_plain(value) for value in values))


def _plain(value: Raw) -> str:
    return _decode_text(value) if _begins(value, b'"') else bytes(value).decode()


def _begins(value: Raw | None, mark: bytes) -> bool:
    return value is not None and bytes(memoryview(value)[:1]) == mark


def _wrong(param: str) -> ApiError:
    return invalid_parameter(param, _PROBLEMS[param])
