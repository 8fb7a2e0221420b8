"""Rerank shapes: what each engine is sent, and the one documented answer that is made of all of theirs.

What belongs here: the differences between engines, and building the answer. What does not: checking requests
(calls/rerank.py), reading answers and their tokens (meters/rerank.py).

| engine | route | what differs |
|---|---|---|
| vLLM | as called | documents are strings (or ``content`` objects); it always sends them back |
| Infinity | ``/v1/rerank`` | documents are strings |
| SGLang | ``/v1/rerank`` | answers a bare list; it is asked for all results, as each tells its own tokens |
| llama.cpp | ``/v1/rerank`` | older ones neither sort nor cut |
| TEI | ``/rerank`` | ``texts`` for ``documents``, no ``top_n``; answers a bare list |
| Cohere | as called | v1 takes objects and ``rank_fields`` itself |

The answer is made anew: the documents are the customer's own, byte for byte, and scores keep the digits that the
engine wrote. ``search_units`` is the number of documents that were ranked, whatever ``top_n``, as the API documentation
shows; nothing is priced by it. ``usage`` and ``meta.tokens`` say the tokens that are billed.
"""

from collections.abc import Iterator
from typing import Final

from proxy.core.calls.contract import PreparedCall, Sent, Shown
from proxy.core.calls.rerank import RerankCall
from proxy.core.catalogue import Engine
from proxy.core.meters.rerank import Ranking, ranking_of, tokens_of
from proxy.core.patching import patch_object

_V1: Final = "/v1/rerank"
_V1_ONLY: Final = frozenset({Engine.INFINITY, Engine.SGLANG, Engine.LLAMA_CPP})
_CAN_LEAVE_DOCUMENTS_OUT: Final = frozenset({Engine.INFINITY, Engine.SGLANG})


def send_rerank(call: PreparedCall, engine: Engine) -> Sent:
    """Return what an engine is sent: the customer's body with as little changed as the engine needs."""
    assert isinstance(call, RerankCall)
    if engine is Engine.TEI:
        return Sent("/rerank", b'{"query":%b,"texts":[%b]}' % (call.query, b",".join(call.texts)))
    route = _V1 if engine in _V1_ONLY else call.upstream_route
    changes = dict(call.changes)
    takes_objects = engine is Engine.COHERE and route == _V1
    if call.texts is not call.documents and not takes_objects:
        changes["documents"] = b"[%b]" % b",".join(call.texts)
    if takes_objects or engine in _CAN_LEAVE_DOCUMENTS_OUT:
        changes["return_documents"] = b"false"  # we have them
    if engine is Engine.SGLANG:
        changes["top_n"] = b"null"
    return Sent(route, patch_object(call.body, changes) if changes else call.body)


def show_rerank(engine: Engine, body: bytes, call: PreparedCall, call_id: str) -> Shown:
    """Return the documented answer, in Cohere's shape of v1 and v2; ``body`` has been read as complete."""
    assert isinstance(call, RerankCall)
    ranking = ranking_of(engine, body, call)
    assert ranking is not None
    tokens = tokens_of(ranking, call).amount
    units = len(call.documents)
    end = (
        b'],"usage":{"billed_units":{"search_units":%d},"prompt_tokens":%d,"total_tokens":%d},'
        b'"meta":{"api_version":{"version":"%b"},"billed_units":{"search_units":%d},"tokens":{"input_tokens":%d}}}'
    ) % (units, tokens, tokens, b"1" if call.upstream_route == _V1 else b"2", units, tokens)
    return Shown(b"".join((b'{"id":"rerank-%b","results":[' % call_id.encode(), *_results(ranking, call), end)))


def _results(ranking: Ranking, call: RerankCall) -> Iterator[bytes]:
    """Yield the results in pieces, so that megabytes of documents are copied once, when all is joined."""
    opening = b'{"index":%d,"relevance_score":%b'
    for index, score in ranking.results:
        yield opening % (index, score)
        if call.returns_documents:
            document = call.documents[index]
            is_object = document[:1] == b"{"
            yield b',"document":' if is_object else b',"document":{"text":'
            yield document
            yield b"}" if is_object else b"}}"
        else:
            yield b"}"
        opening = b',{"index":%d,"relevance_score":%b'
